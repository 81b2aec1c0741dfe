"""What a benchmark covers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, get_args

import numba

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.results import Size
from byheart.toy.data import check_sampling
from byheart.toy.kernels.neighbours import BEGIN_EVERY

Part = Literal["waits", "sweep", "trained", "steps", "large"]
PARTS: tuple[Part, ...] = get_args(Part)
FIRST_STEPS = 8
"""Steps before turns at trained weights, after which pairs are listed, if they are."""
TURN_STEPS = BEGIN_EVERY
"""Least number of steps of such a turn: lists are made anew every so many, so that each turn includes that once."""
TURN_SECONDS = 20.0
"""Seconds that so many steps may take, at most."""


@dataclass(frozen=True)
class BenchConfig:
    """Which sizes and contenders are measured.

    Raises:
        ValueError: If a field is outside its range.
    """

    only: tuple[Part, ...] = PARTS
    """Parts that are measured: what a person waits for, a sweep of small runs, whole runs and steps at the weights they
    end with, steps at random weights, and byheart alone with many examples."""
    n_hidden: tuple[int, ...] = (2, 32, 128, 512)
    """Hidden widths m of the grid of random weights, each at least 1."""
    n_examples: tuple[int, ...] = (10, 100, 1_000, 10_000)
    """Numbers of training examples T of this grid, each at least 1."""
    n_features: int = 10_000
    """Number of features n of an example, at least 1."""
    sparsity: float = 0.999
    """Probability S in [0, 1) that a feature of an example is 0."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Contenders that are timed; PyTorch with dense X at the smallest width only."""
    n_rounds: int = 3
    """Number of turns of each contender at a size, at least 1."""
    seconds_per_round: float = 0.25
    """Length of a turn, above 0; a step that takes longer is a turn by itself. At trained weights byheart takes longer
    ones: ``TURN_STEPS``."""
    n_threads: int = numba.config.NUMBA_NUM_THREADS
    """Threads of every contender, at least 1; all cores by default."""
    large_examples: tuple[int, ...] = (1_000_000,)
    """Numbers of training examples at which byheart alone is timed at m = 2, for its memory and the growth of its
    cost."""
    trained: tuple[str, ...] = (
        "2:10000:50000",
        "2:10000:2000",
        "8:10000:1000",
        "32:10000:300",
        "128:10000:100",
        "512:10000:40",
        "64:2000:2000:1000",
        "2:1000:50000",
    )
    """Whole runs, as m:T:steps or m:T:steps:n, at whose weights contenders are timed; with another n, as many features
    of an example are active."""
    points: tuple[int, ...] = (100, 500, 1_000, 5_000, 10_000, 25_000)
    """Steps of the first of these runs at which contenders are timed too, beside its start and its end."""
    sweep_runs: int = 200
    """Number of small runs in the timed sweep, of 3, 10, 30 and 100 examples in turn, at least 1."""
    sweep_steps: int = 2_000
    """Number of steps of each of these runs, at least 1."""

    def __post_init__(self) -> None:
        for name in ("n_rounds", "n_threads", "sweep_runs", "sweep_steps"):
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        for name in ("n_hidden", "n_examples", "large_examples"):
            values = getattr(self, name)
            self._require(name, values and all(value >= 1 for value in values), "integers >= 1, at least one")
        self._require("points", all(value >= 1 for value in self.points), "integers >= 1")
        for name in ("only", "contenders", "trained"):
            self._require(name, getattr(self, name), "at least one")
        self._require("seconds_per_round", 0 < self.seconds_per_round < float("inf"), "a finite number > 0")
        check_sampling(1, self.n_features, self.sparsity)
        self.run_sizes()
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise ValueError(f"contenders: received {', '.join(unknown)}, accepted: {', '.join(CONTENDERS)}")
        if len(set(self.contenders)) < len(self.contenders):
            raise ValueError(f"contenders: received {', '.join(self.contenders)}, accepted: each contender once")
        if set(self.only) == {"large"} and not set(self.contenders) & set(OURS):
            raise ValueError(f"contenders: received {', '.join(self.contenders)}, accepted: one of {', '.join(OURS)}")

    def run_sizes(self) -> list[Size]:
        """Return the sizes of the whole runs, with the weights at their ends."""
        return [self._run_size(words) for words in self.trained]

    def check_installed(self) -> None:
        """Check that the contenders can be timed here.

        Raises:
            ValueError: If a contender's library is not installed.
        """
        for name in self.contenders:
            library = CONTENDERS[name].library
            if library and importlib.util.find_spec(library) is None:
                raise ValueError(
                    f"contenders: received {name} without {library} installed,"
                    f" accepted: after pip install 'byheart[bench]', or --contenders {' '.join(OURS)}"
                )

    def _run_size(self, words: str) -> Size:
        parts = words.split(":")
        numbers = [int(part) if part.isdecimal() else 0 for part in parts]
        if len(numbers) not in (3, 4) or min(numbers) < 1:
            raise ValueError(f"trained: received {words}, accepted: m:T:steps or m:T:steps:n, integers >= 1")
        m, T, n_steps = numbers[:3]
        n_features = numbers[3] if len(numbers) == 4 else self.n_features
        sparsity = round(1 - (1 - self.sparsity) * self.n_features / n_features, 12)
        if not 0 <= sparsity < 1:
            raise ValueError(f"trained: received {words}, accepted: n above the number of active features")
        return Size(m, T, n_features, sparsity, n_steps, n_steps)

    def _require(self, name: str, holds: object, accepted: str) -> None:
        if not holds:
            raise ValueError(f"{name}: received {getattr(self, name)!r}, accepted: {accepted}")
