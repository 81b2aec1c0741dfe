"""What a benchmark covers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import CONTENDERS, OURS, check_contenders
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
    """Training examples T of the grid, each at least 1."""
    n_features: int = 10_000
    """Features per example n, at least 1."""
    sparsity: float = 0.999
    """Probability S in [0, 1) that a feature of an example is 0."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who is timed."""
    n_rounds: int = 5
    """Times that each contender has its turn at a size, at least 1."""
    seconds_per_round: float = 0.25
    """Length of a turn, above 0; a step that takes longer is a turn by itself."""
    n_threads: int | None = None
    """Threads of every contender, at least 1; default all cores."""
    large_examples: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Training examples at which byheart alone is timed at m = 2, for its memory and the growth of its cost."""
    trained_examples: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Training examples at which skipping is timed at trained weights, m = 2."""
    trained_hidden: tuple[int, ...] = (3, 4, 8)
    """Further widths at which skipping is timed at trained weights, with trained_hidden_examples each."""
    trained_hidden_examples: int = 10_000
    """Training examples where trained_hidden says so, at least 1."""
    trained_steps: int = 10_000
    """Steps for which weights are trained where no run of as many is found, at least 1; the paper's are 50,000."""
    sweep_runs: int = 100
    """Small runs of the timed sweep, at least 0."""
    sweep_examples: tuple[int, ...] = (3, 10, 30, 100)
    """Training examples of these runs, in turn, each at least 1."""
    sweep_steps: int = 10_000
    """Steps of each of these runs, at least 1."""
    runs: Path = Path("runs/benchmark")
    """Directory of the trained runs: found there, or trained and kept there."""

    def __post_init__(self) -> None:
        for name in ("n_rounds", "trained_steps", "trained_hidden_examples", "sweep_steps"):
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        lists = ("n_hidden", "n_examples", "large_examples", "trained_examples", "trained_hidden", "sweep_examples")
        for name in lists:
            self._require(name, all(value >= 1 for value in getattr(self, name)), "integers >= 1")
        self._require("sweep_runs", self.sweep_runs >= 0, "an integer >= 0")
        self._require("sweep_examples", self.sweep_examples or not self.sweep_runs, "at least one, with sweep_runs > 0")
        self._require("seconds_per_round", 0 < self.seconds_per_round < float("inf"), "a finite number > 0")
        self._require("n_threads", self.n_threads is None or self.n_threads >= 1, "an integer >= 1")
        alone = set(OURS) & set(self.contenders) and self.large_examples + self.trained_examples + self.trained_hidden
        grid = self.contenders and self.n_hidden and self.n_examples
        self._require("sweep_runs", self.sweep_runs or grid or alone, ">= 1, or a size to measure for a contender")
        check_sampling(1, self.n_features, self.sparsity)
        check_contenders(self.contenders)

    def _require(self, name: str, holds: object, accepted: str) -> None:
        if not holds:
            raise ValueError(f"{name}: received {getattr(self, name)!r}, accepted: {accepted}")
