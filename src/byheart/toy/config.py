"""Everything that defines a training run, its learning-rate schedule, and the id made from it."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64

from byheart.toy.data import check_sampling
from byheart.toy.model import BUILT, BiasInitialization, Initialization, Loss, Reduction, Variant


@dataclass(frozen=True)
class TrainConfig:
    """A model, its training set and how it is trained. The defaults are the paper's.

    Raises:
        ValueError: If a field is outside its range.

    References:
        Henighan et al. 2023, section "Experiment setup".
    """

    n_examples: int | Literal["inf"]
    """Distinct training examples T, at least 1; "inf" draws fresh examples at every step."""
    n_features: int = 10_000
    """Features per example n, at least 1."""
    sparsity: float = 0.999
    """Probability S in [0, 1) that a feature of an example is 0."""
    n_hidden: int = 2
    """Hidden width m, at least 1."""
    n_steps: int = 50_000
    """Full-batch steps, at least 1."""
    learning_rate: float = 1e-3
    """Peak learning rate, above 0."""
    warmup_steps: int | None = None
    """Steps of linear warm-up, 0 to n_steps; default 5 % of n_steps (2,500 of 50,000), as in the paper."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of AdamW, at least 0."""
    decay_bias: bool = True
    """Whether the bias decays too, as in torch when all parameters share one group."""
    beta1: float = 0.9
    """Decay rate of AdamW's first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay rate of AdamW's second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to AdamW's denominator, above 0."""
    reduction: Reduction = "sum"
    """Squared errors are summed over features ("sum", the paper) or averaged ("mean", several reproductions)."""
    weight_decay_in_gradient: bool = False
    """Whether weight decay is added to the gradient (Adam with an L2 penalty) instead of being decoupled from it."""
    loss: Loss = "squared"
    """Of an output: "squared" error (the paper), "absolute" error, or its "fourth_power"."""
    hidden_relu: bool = False
    """Whether a ReLU follows the hidden layer."""
    tied: bool = True
    """Whether the decoder is the encoder transposed; if not, both are drawn and trained."""
    unit_norm: bool = True
    """Whether every example is scaled to unit norm."""
    keep_empty: bool = False
    """Whether examples without any active feature stay, as zeros, instead of being drawn again."""
    initialization: Initialization = "xavier_normal"
    """Initial W: drawn ("xavier_normal", "xavier_uniform"), or W and b built as a solution, at n_hidden = 2: the
    training examples on a regular "polygon", or five features on a "pentagon"."""
    bias_initialization: BiasInitialization = "zeros"
    """Initial b where W is drawn: "zeros", or "uniform" on +-1/sqrt(n_hidden), as torch.nn.Linear draws it."""
    n_inits: int = 1
    """Initialisations per dataset, at least 1; the one of lowest final train loss is kept."""
    repeats: tuple[int, ...] = ()
    """How often the first len(repeats) examples occur in the training set, each at least 1; the others occur once."""
    batch_size: int = 2_048
    """Fresh examples per step where n_examples is "inf", at least 1; not used otherwise."""
    n_test: int = 10_000
    """Fresh examples for the test loss, at least 2."""
    snapshot_steps: tuple[int, ...] = ()
    """Steps, 0 to n_steps, before which weights and hidden vectors are kept in the run; n_steps is the end."""
    seed: int = 0
    """Seed, at least 0, of the dataset, the test set and the initial weights (three independent streams)."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if isinstance(value := getattr(self, name), np.generic):
                object.__setattr__(self, name, value.item())
        for name in ("n_features", "n_hidden", "n_steps", "n_inits", "batch_size"):
            self._require(name, _is_int(getattr(self, name)) and getattr(self, name) >= 1, "an integer >= 1")
        for name in ("sparsity", "learning_rate", "weight_decay", "beta1", "beta2", "eps"):
            self._require(name, isinstance(getattr(self, name), numbers.Real), "a number")
            object.__setattr__(self, name, self._as_float(name))
        for name in ("repeats", "snapshot_steps"):
            self._require(name, isinstance(getattr(self, name), (tuple, list)), "a tuple of integers")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("decay_bias", "weight_decay_in_gradient", "hidden_relu", "tied", "unit_norm", "keep_empty"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        if self.warmup_steps is None:
            few = self.n_steps < 2**53  # beyond, floats do not count steps, and end
            object.__setattr__(self, "warmup_steps", round(0.05 * self.n_steps) if few else self.n_steps // 20)
        self._require(
            "n_examples",
            self.n_examples == "inf" or (_is_int(self.n_examples) and self.n_examples >= 1),
            'an integer >= 1, or "inf"',
        )
        check_sampling(1, self.n_features, self.sparsity)
        for name in ("learning_rate", "eps"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a finite number > 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "0 <= value < 1")
        self._require(
            "warmup_steps",
            _is_int(self.warmup_steps) and 0 <= (self.warmup_steps or 0) <= self.n_steps,
            f"0 to n_steps = {self.n_steps}",
        )
        for name, accepted in (
            ("reduction", get_args(Reduction)),
            ("loss", get_args(Loss)),
            ("initialization", get_args(Initialization)),
            ("bias_initialization", get_args(BiasInitialization)),
        ):
            self._require(name, getattr(self, name) in accepted, " or ".join(accepted))
        built = self.initialization in BUILT
        self._require(
            "initialization",
            not built or (self.n_hidden == 2 and self.tied and self.n_features >= 5),
            "a drawn one, unless n_hidden = 2, n_features >= 5 and weights are tied",
        )
        for name in ("n_inits", "bias_initialization"):
            usual = type(self).__dataclass_fields__[name].default
            self._require(name, not built or getattr(self, name) == usual, f"{usual}, as initial weights are built")
        self._require(
            "initialization",
            self.initialization != "polygon" or (self.n_examples != "inf" and self.n_examples >= 3),
            "a polygon only of n_examples >= 3",
        )
        at_most = self.batch_size if self.n_examples == "inf" else self.n_examples
        self._require(
            "repeats",
            (not self.repeats or self.n_examples != "inf")
            and len(self.repeats) <= at_most
            and all(_is_int(count) and count >= 1 for count in self.repeats),
            f"at most n_examples = {self.n_examples} counts >= 1",
        )
        self._require("n_test", _is_int(self.n_test) and self.n_test >= 2, "an integer >= 2")
        self._require(
            "snapshot_steps",
            all(_is_int(step) and 0 <= step <= self.n_steps for step in self.snapshot_steps)
            and list(self.snapshot_steps) == sorted(set(self.snapshot_steps)),
            f"increasing integers from 0 to n_steps = {self.n_steps}",
        )
        self._require("seed", _is_int(self.seed) and self.seed >= 0, "an integer >= 0")

    def _require(self, name: str, holds: bool, accepted: str) -> None:
        if not holds:
            raise ValueError(f"{name}: received {getattr(self, name)!r}, accepted: {accepted}")

    def _as_float(self, name: str) -> float:
        """A number such that those which are equal make the same run: 1 is 1.0, and -0.0 is 0.0."""
        value = getattr(self, name)
        try:
            found = float(value) + 0.0
        except OverflowError:
            found = math.inf
        lost = (found == 0 and value != 0) or (math.isinf(found) and value != found)
        self._require(name, not lost, "a number that a float64 can hold")
        return found

    @property
    def variant(self) -> Variant:
        """What of the model differs from the paper's; only the kernel "torch" can train what does."""
        return Variant(self.loss, self.hidden_relu, self.tied)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # thousands are listed: no deep copies

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainConfig:
        """Rebuild a config from ``to_dict`` after a round trip through JSON.

        Raises:
            ValueError: If a field is unknown, missing or outside its range.
        """
        known = cls.__dataclass_fields__.keys()
        if unknown := set(fields) - known:
            raise ValueError(f"config: received unknown fields {sorted(unknown)}, accepted: {sorted(known)}")
        if "n_examples" not in fields:
            raise ValueError("config: received no n_examples, accepted: every config names it")
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
        return cls(**values)

    def run_id(self, data_digest: str = "") -> str:
        """Return the 16-digit id of the run: a hash of the config and of the user's own data or weights, if any.

        Fields at their default are left out of it, so that a field added later does not change the ids of old runs.
        """
        fields = self.__dataclass_fields__
        chosen = {name: value for name, value in self.to_dict().items() if value != fields[name].default}
        text = json.dumps(chosen, sort_keys=True) + data_digest
        return hashlib.sha256(text.encode()).hexdigest()[:16]


PAPER_SETUP: Mapping[str, Any] = {
    "n_features": 10_000,
    "sparsity": 0.999,
    "n_hidden": 2,
    "n_steps": 50_000,
    "repeats": (),
    "unit_norm": True,
    "loss": "squared",
    "hidden_relu": False,
    "tied": True,
}
"""The fields of a config that make its runs comparable with the paper's main figure. Not the reduction of the loss:
which of the two the figure has is a question of its own."""


def is_paper_setup(fields: Mapping[str, Any]) -> bool:
    """Whether the paper's values may stand beside a run, from its config as a dict or its row of a table of runs."""
    return all(fields[name] == value for name, value in PAPER_SETUP.items())


def learning_rates(config: TrainConfig) -> Float64[np.ndarray, " n_steps"]:
    """Return the learning rate of every step: linear warm-up to the peak, then a cosine to 0."""
    assert config.warmup_steps is not None
    s = np.arange(config.n_steps, dtype=np.float64)
    warmup = config.learning_rate * (s + 1) / max(config.warmup_steps, 1)
    progress = (s - config.warmup_steps) / max(config.n_steps - config.warmup_steps, 1)
    return np.where(s < config.warmup_steps, warmup, config.learning_rate * (1 + np.cos(np.pi * progress)) / 2)


def log_spaced_steps(n_steps: int, count: int) -> tuple[int, ...]:
    """Return up to ``count`` snapshot steps, 0 and ``n_steps`` among them, evenly spaced on a log scale.

    Raises:
        ValueError: If ``n_steps`` or ``count`` is below 1.
    """
    if n_steps < 1 or count < 1:
        raise ValueError(f"log_spaced_steps: received {n_steps} steps and count {count}, accepted: both >= 1")
    return tuple(sorted({0, n_steps, *np.geomspace(1, n_steps, max(count - 1, 1)).round().astype(int).tolist()}))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def brief(config: TrainConfig) -> str:
    """Return the fields of a config that differ from the defaults, in one line."""
    default = TrainConfig(n_examples=config.n_examples, n_steps=config.n_steps)
    named = {"n_examples", "seed"} | {n for n, v in config.to_dict().items() if v != getattr(default, n)}
    return ", ".join(f"{name}={value}" for name, value in config.to_dict().items() if name in named)
