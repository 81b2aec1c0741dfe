"""What a benchmark covers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numba

from benchmarks.contenders import CONTENDERS, OURS
from byheart.toy.data import check_sampling


@dataclass(frozen=True)
class BenchConfig:
    """Which sizes and contenders are measured. A list without values leaves its part out.

    Raises:
        ValueError: If a field is outside its range.
    """

    n_hidden: tuple[int, ...] = (2, 4, 8, 32, 128, 512)
    """Hidden widths m of the grid, each at least 1."""
    n_examples: tuple[int, ...] = (10, 100, 1_000, 10_000)
    """Numbers of training examples T of the grid, each at least 1."""
    n_features: int = 10_000
    """Number of features n of an example, at least 1."""
    sparsity: float = 0.999
    """Probability S in [0, 1) that a feature of an example is 0."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Contenders that are timed."""
    n_rounds: int = 5
    """Number of turns of each contender at a size, at least 1."""
    seconds_per_round: float = 0.25
    """Length of a turn, above 0; a step that takes longer is a turn by itself."""
    n_threads: int = numba.config.NUMBA_NUM_THREADS
    """Threads of every contender, at least 1; all cores by default."""
    large_examples: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Numbers of training examples at which byheart alone is timed at m = 2, for its memory and the growth of its
    cost."""
    trained_examples: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of training examples at which skipping is timed at trained weights, m = 2."""
    trained_hidden: tuple[int, ...] = (3, 4, 8)
    """Further widths at which skipping is timed at trained weights, with the most examples of the grid."""
    trained_steps: int = 10_000
    """Number of steps for which weights are trained, at least 1; the paper's is 50,000."""
    sweep_runs: int = 100
    """Number of small runs in the timed sweep, of 3, 10, 30 and 100 examples in turn, at least 0."""
    sweep_steps: int = 10_000
    """Number of steps of each of these runs, at least 1."""
    runs: Path = Path("runs/benchmark")
    """Directory of the trained runs: found there, or trained and kept there."""

    def __post_init__(self) -> None:
        for name in ("n_rounds", "n_threads", "trained_steps", "sweep_steps"):
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        for name in ("n_hidden", "n_examples", "large_examples", "trained_examples", "trained_hidden"):
            self._require(name, all(value >= 1 for value in getattr(self, name)), "integers >= 1")
        self._require("sweep_runs", self.sweep_runs >= 0, "an integer >= 0")
        self._require("seconds_per_round", 0 < self.seconds_per_round < float("inf"), "a finite number > 0")
        alone = self.large_examples or self.trained_examples or (self.trained_hidden and self.n_examples)
        grid = self.contenders and self.n_hidden and self.n_examples
        self._require(
            "sweep_runs",
            self.sweep_runs or grid or (alone and set(OURS) & set(self.contenders)),
            ">= 1, or a size to measure for a contender",
        )
        check_sampling(1, self.n_features, self.sparsity)
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise ValueError(f"contenders: received {', '.join(unknown)}, accepted: {', '.join(CONTENDERS)}")
        if len(set(self.contenders)) < len(self.contenders):
            raise ValueError(f"contenders: received {', '.join(self.contenders)}, accepted: each contender once")

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

    def _require(self, name: str, holds: object, accepted: str) -> None:
        if not holds:
            raise ValueError(f"{name}: received {getattr(self, name)!r}, accepted: {accepted}")
