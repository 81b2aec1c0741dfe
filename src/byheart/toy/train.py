"""Train one model on one finite dataset and measure it."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse
from jaxtyping import Float, Float64, Int64

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.toy.config import TrainConfig, learning_rates
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW, DivergedError, Kernel, Training, choose
from byheart.toy.model import Variant, encoder, hidden_vectors, initial_weights, loss_scale
from byheart.toy.pace import Pace
from byheart.toy.runs import SUFFIX, Run, digest, load_run, prepare_directory
from byheart.toy.solutions import pentagon, polygon

# Independent random streams of a seed.
_DATA, _TEST, _INIT, _FRESH = range(4)
_LOGS_PER_RUN = 100

OnProgress = Callable[[int, float], None]


def train(
    config: TrainConfig,
    examples: Any = None,
    initial: tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]] | None = None,
    *,
    test_examples: Any = None,
    kernel: str = "cpu",
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Train the ReLU-output model as the config says, and measure it.

    Args:
        config: What to train.
        examples: Own training examples, one per row (scipy.sparse or array, used as they are), instead of drawn ones.
            Their shape must be (config.n_examples, config.n_features).
        initial: Own initial (W, b) instead of drawn ones.
        test_examples: Own test examples; without them, own training examples have no test loss.
        kernel: "cpu" (fast, float32), "gpu" (the same on a CUDA device) or "reference" (NumPy, float64, dense).
        out: Directory in which the run is kept; if it is there already, from whatever kernel, it is loaded and not
            trained again.
        on_progress: Called several times a second with the steps done so far (of n_steps * n_inits) and the last
            train loss measured.

    Raises:
        ValueError: If the config and the arrays do not fit each other, or an array is not finite.
        DivergedError: If the loss becomes NaN or infinite.
        OSError: If the run cannot be written to ``out``.
    """
    kernel = kernel_of(config, kernel)
    chosen = choose(kernel, config.variant)
    own = None if examples is None else _own_examples(examples, config, "examples")
    own_test = None if test_examples is None else _own_examples(test_examples, config, "test_examples").expanded()
    if initial is not None:
        initial = _own_weights(initial, config)
    if own is not None and config.n_examples == "inf":
        raise ValueError('n_examples: received "inf" with own examples, accepted: their number')
    data_digest = _data_digest(own, own_test, initial)
    if out is not None:
        path = prepare_directory(out) / (config.run_id(data_digest) + SUFFIX)
        if path.exists():
            return load_run(path)

    made_by, started = provenance(kernel), time.time()
    drawn = own or draw_examples(config)
    n_inits = 1 if initial is not None else config.n_inits
    best: _Trained | None = None
    for init in range(n_inits):
        start = initial or _initial_weights(config, drawn, init)
        trained = _Trained(config, chosen, kernel, start, drawn, init, on_progress)
        if best is None or trained.train_loss < best.train_loss:
            best = trained
    assert best is not None
    test = own_test if own_test is not None else None if own is not None else draw_test_examples(config)
    run = Run(
        config=config,
        W=best.W,
        b=best.b,
        hidden=best.hidden,
        repeats=best.viewed.repeats,
        history=best.history,
        snapshots=best.snapshots,
        metrics=_measure(config, chosen, best, drawn, test),
        provenance=made_by | {"wall_seconds": time.time() - started},
        data_digest=data_digest,
    )
    if out is not None:
        run.save(out)
    return run


def draw_examples(config: TrainConfig) -> SparseExamples:
    """Draw the training set of a config; where T is infinite, the batch of the first step."""
    if config.n_examples == "inf":
        return _fresh_batch(config, 0)
    return _sample(config, config.n_examples, _stream(config.seed, _DATA), config.repeats)


def draw_test_examples(config: TrainConfig) -> SparseExamples:
    """Draw the fresh test set of a config, from its own random stream."""
    return _sample(config, config.n_test, _stream(config.seed, _TEST))


class _Trained:
    """One model trained from one initialisation, with its history."""

    def __init__(
        self,
        config: TrainConfig,
        kernel: Kernel,
        kernel_name: str,
        start: tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]],
        examples: SparseExamples,
        init: int,
        on_progress: OnProgress | None,
    ) -> None:
        self.config, self.kernel, self.examples, self.init = config, kernel, examples, init
        dtype = np.float64 if kernel_name == "reference" else np.float32
        optimizer = AdamW(
            config.beta1,
            config.beta2,
            config.eps,
            config.weight_decay,
            config.decay_bias,
            config.weight_decay_in_gradient,
        )
        W, b = start
        self.training = kernel.start(W.astype(dtype), b.astype(dtype), examples, optimizer, config.reduction)
        self.viewed = draw_test_examples(config) if config.n_examples == "inf" else examples
        self._history: dict[str, list[float]] = {"step": [], "train_loss": [], "W_norm": [], "b_norm": []}
        self._snapshots: dict[str, list[Any]] = {"step": [], "W": [], "b": [], "hidden": []}
        self._run(on_progress)
        self.W, self.b = self.training.W, self.training.b
        self.hidden = hidden_vectors(self.W, self.viewed, config.variant)
        self.train_loss = self._history["train_loss"][-1]
        self.history = {name: np.array(values) for name, values in self._history.items()}
        self.snapshots = {name: np.array(values) for name, values in self._snapshots.items() if values}

    def _run(self, on_progress: OnProgress | None) -> None:
        config, training = self.config, self.training
        rates = learning_rates(config)
        logged = np.linspace(0, config.n_steps, min(_LOGS_PER_RUN, config.n_steps) + 1).astype(int).tolist()
        stops = sorted({*logged, *config.snapshot_steps})
        pace = Pace(most=1) if config.n_examples == "inf" else Pace()
        for stop in stops:
            for first, last in pace.cut(training.step, stop):
                if config.n_examples == "inf":
                    self.examples = _fresh_batch(config, first)
                    training.set_examples(self.examples)
                training.advance(rates[first:last])
                if on_progress is not None and self._history["step"]:
                    on_progress(self.init * config.n_steps + training.step, self._history["train_loss"][-1])
            self._log(training)

    def _log(self, training: Training) -> None:
        step = training.step
        losses = self.kernel.example_losses(training.W, training.b, self.examples)
        loss = loss_scale(len(training.b), self.config.reduction) * float(
            np.average(losses, weights=self.examples.repeats)
        )
        if not np.isfinite(loss):
            raise DivergedError(step)
        norms = (float(np.linalg.norm(training.W)), float(np.linalg.norm(training.b)))
        for name, value in zip(self._history, (step, loss, *norms), strict=True):
            self._history[name].append(value)
        if step in self.config.snapshot_steps:
            snapshot = (
                step,
                training.W.copy(),
                training.b.copy(),
                hidden_vectors(training.W, self.viewed, self.config.variant),
            )
            for name, array in zip(self._snapshots, snapshot, strict=True):
                self._snapshots[name].append(array)


def _measure(
    config: TrainConfig, kernel: Kernel, trained: _Trained, examples: SparseExamples, test: SparseExamples | None
) -> dict[str, float | None]:
    W, b = trained.W, trained.b
    scale = loss_scale(config.n_features, config.reduction)
    test_losses = None if test is None else scale * kernel.example_losses(W, b, test)
    repeats = trained.viewed.repeats
    example_dims = example_dimensionality(trained.hidden, repeats)
    return {
        "train_loss": trained.train_loss,
        "test_loss": None if test_losses is None else float(test_losses.mean()),
        "test_loss_se": None
        if test_losses is None or len(test_losses) < 2
        else float(test_losses.std(ddof=1) / np.sqrt(len(test_losses))),
        "W_norm": float(np.linalg.norm(W)),
        "b_norm": float(np.linalg.norm(b)),
        "n_features_represented": float(len(represented_features(W, b, kernel))),
        "feature_dimensionality_max": float(feature_dimensionality(encoder(W, config.variant)).max()),
        "example_dimensionality_max": float(example_dims.max()),
        "example_dimensionality_mean": float(np.average(example_dims, weights=repeats)),
        "init_index": float(trained.init),
    }


def example_losses(run: Run, examples: Any) -> Float64[np.ndarray, " n_examples"]:
    """Return a run's error on each example, summed over features: squared, unless the config has another loss.

    Args:
        run: A trained model.
        examples: Any examples, one per row: a scipy.sparse matrix, an array or ``SparseExamples``.

    Raises:
        ValueError: If their width is not the model's, or a value is not finite.
    """
    rows = examples if isinstance(examples, SparseExamples) else SparseExamples.from_matrix(examples)
    if rows.n_features != run.W.shape[1]:
        raise ValueError(f"examples: received {rows.n_features} features, accepted: {run.W.shape[1]} as in the run")
    return choose(kernel_of(run.config, "cpu"), run.config.variant).example_losses(run.W, run.b, rows)


def represented_features(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], kernel: Kernel | None = None
) -> Int64[np.ndarray, " n_represented"]:
    """Return the features the model represents: shown one alone (x = e_i), its squared error is below 3/4.

    Answering 0 has an error of 1. At the paper's setup and T = 10,000 and more, five features have 0.4 to 0.7 and all
    others at least 0.86. Where examples are memorised, a few features that dominate one of them may count too.
    """
    one_each = SparseExamples.from_matrix(scipy.sparse.eye_array(W.shape[1], format="csr"))
    return np.flatnonzero((kernel or choose("cpu")).example_losses(W, b, one_each) < 0.75)


def _fresh_batch(config: TrainConfig, step: int) -> SparseExamples:
    return _sample(config, config.batch_size, _stream(config.seed, _FRESH, step))


def _sample(
    config: TrainConfig, n_examples: int, rng: np.random.Generator, repeats: tuple[int, ...] = ()
) -> SparseExamples:
    return sample_examples(
        n_examples,
        config.n_features,
        config.sparsity,
        rng,
        repeats,
        unit_norm=config.unit_norm,
        keep_empty=config.keep_empty,
    )


def _initial_weights(
    config: TrainConfig, examples: SparseExamples, init: int
) -> tuple[Float[np.ndarray, "n_rows n_features"], Float[np.ndarray, " n_features"]]:
    if config.initialization == "polygon":
        return polygon(examples)
    if config.initialization == "pentagon":
        return pentagon(examples)
    rng = _stream(config.seed, _INIT, init)
    sizes = config.n_hidden, config.n_features
    W, b = initial_weights(*sizes, config.initialization, rng, config.bias_initialization)
    if config.tied:
        return W, b
    decoder, _ = initial_weights(*sizes, config.initialization, rng)
    return np.vstack([W, decoder]), b


def kernel_of(config: TrainConfig, kernel: str) -> str:
    """Return the kernel that trains a config where ``kernel`` is asked for: variants of the model need "torch".

    Raises:
        ValueError: If a variant is to be trained by the reference or on a GPU.
    """
    if config.variant == Variant():
        return kernel
    if kernel not in ("cpu", "torch"):
        raise ValueError(f"kernel: received {kernel!r} for {config.variant}, accepted: torch")
    return "torch"


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _own_examples(examples: Any, config: TrainConfig, name: str) -> SparseExamples:
    training = name == "examples"
    repeats = config.repeats if training else ()
    result = examples if isinstance(examples, SparseExamples) else SparseExamples.from_matrix(examples, repeats)
    if training and config.repeats and tuple(result.repeats[: len(repeats)]) != repeats:
        raise ValueError("repeats: received other counts in examples than in the config, accepted: in one of the two")
    rows_fit = not training or config.n_examples in ("inf", result.n_examples)
    if not rows_fit or result.n_features != config.n_features:
        accepted = f"(n_examples, n_features) = ({config.n_examples}, {config.n_features}) as in the config"
        raise ValueError(
            f"{name}: received shape {(result.n_examples, result.n_features)},"
            f" accepted: {accepted if training else f'rows of n_features = {config.n_features} as in the config'}"
        )
    return result


def _own_weights(
    initial: tuple[Any, Any], config: TrainConfig
) -> tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]:
    if len(initial) != 2:
        raise ValueError(f"initial: received {len(initial)} arrays, accepted: the two arrays (W, b)")
    W, b = (np.asarray(array, dtype=np.float64) for array in initial)
    n_rows = config.n_hidden * (1 if config.tied else 2)  # untied: the encoder, then the decoder
    accepted = (n_rows, config.n_features), (config.n_features,)
    if (W.shape, b.shape) != accepted:
        raise ValueError(
            f"initial: received W {W.shape} and b {b.shape}, accepted: W {accepted[0]} and b {accepted[1]}"
        )
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError("initial: received NaN or infinite weights, accepted: finite values only")
    return W, b


def _data_digest(
    examples: SparseExamples | None, test: SparseExamples | None, initial: tuple[np.ndarray, np.ndarray] | None
) -> str:
    parts = {name: (x.indptr, x.indices, x.values, x.repeats) for name, x in (("X", examples), ("test", test)) if x}
    named = {**parts, "initial": initial} if initial is not None else parts
    return " ".join(f"{name} {digest(*arrays)}" for name, arrays in named.items())


def provenance(kernel: str) -> dict[str, Any]:
    """Return what makes a result here and now: versions, git revision, kernel, device, threads, and when."""
    return {
        "byheart": version("byheart"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "kernel": kernel,
        "device": _device(kernel),
        "n_threads": numba.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _device(kernel: str) -> str:
    if kernel == "gpu":
        from byheart.toy.kernels.gpu import device_name

        return device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@functools.cache
def _git_revision() -> str | None:
    """The revision of the source tree, with "+" if it has uncommitted changes; None if installed without git."""
    source = Path(__file__).parent
    if not (source.parents[2] / ".git").exists() or shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--match", ""],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
