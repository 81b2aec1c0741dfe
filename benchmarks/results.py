"""What a benchmark measures, as kept in ``results-KIND.json``: raw numbers only; tables and verdicts follow from them.

There is a file per kind of machine, named after its instruction set, so that tables of several stand side by side.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byheart.own import write_json
from byheart.toy.kernels.compile import instructions

KINDS = {"avx512": "AVX-512", "avx2": "AVX2", "other": "other instructions"}
"""Kinds of machines, by the widest instructions that numba compiles for, and what they are called in tables."""
_FEATURES = {"avx512f": "avx512", "avx2": "avx2"}


def kind_here() -> str:
    """Return the kind of this machine, or of what NUMBA_CPU_FEATURES leaves of it."""
    there = instructions()
    return next((kind for feature, kind in _FEATURES.items() if feature in there), "other")


def file_of(directory: Path, kind: str) -> Path:
    """Return where the results of a kind of machine are kept."""
    return directory / f"results-{kind}.json"


@dataclass(frozen=True)
class Size:
    """A problem that contenders are timed on."""

    n_hidden: int
    """Hidden width m."""
    n_examples: int
    """Training examples T."""
    n_features: int
    """Features per example n."""
    sparsity: float
    """Probability S that a feature of an example is 0."""
    trained_steps: int = 0
    """Steps that the weights were trained for; 0 is the initial weights."""
    run_steps: int = 0
    """Length of the run that they were trained in: its learning rate depends on it; 0 for the initial weights."""

    @property
    def start(self) -> Size:
        """The same data with the initial weights."""
        return dataclasses.replace(self, trained_steps=0, run_steps=0)

    @property
    def pairs(self) -> float:
        """(Example, feature) pairs per step."""
        return float(self.n_examples) * self.n_features

    @property
    def product_flop(self) -> float:
        """Floating-point operations that the three products of a step need, two per multiply-add.

        Per pair m multiply-adds each for z = W_f . h, for the gradient of h and for that of W_f. Not counted: a maximum
        and an addition per pair (the gradient of b_f), what the nonzero targets change, and AdamW.
        """
        return 6.0 * self.n_hidden * self.pairs


@dataclass(frozen=True)
class Measurement:
    """One contender at one size."""

    size: Size
    contender: str
    """Its name in ``CONTENDERS``."""
    seconds: tuple[float, ...] = ()
    """Time per step, AdamW included, in each round; empty if it was not timed."""
    steps_per_round: int = 0
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    """Largest error of each checked quantity, as a multiple of what is tolerated."""
    peak_bytes: int = 0
    """Largest resident memory of its process, interpreter and libraries included."""
    base_bytes: int = 0
    """Resident memory of its process before the problem was loaded."""
    idle_cpu_seconds: float = 0.0
    """Processor time its process used in the rounds while others had their turn."""
    problem: str = ""
    """Why it was not timed; empty if it was."""

    @property
    def median(self) -> float | None:
        """Median time per step in seconds; None if it was not timed."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most, on the threads the contenders have."""

    fma: float
    """Fused multiply-adds of float32, two floating-point operations each, in FLOP/s."""
    sgemm: float
    """NumPy's product of float32 matrices, in FLOP/s."""
    copy: float
    """Copying memory, reading and writing counted, in bytes/s."""


@dataclass(frozen=True)
class SweepTiming:
    """Many small runs as ``byheart sweep`` trains them, against what their steps alone cost."""

    n_runs: int
    n_steps: int
    n_examples: tuple[int, ...]
    """Training examples of the runs."""
    n_workers: int
    wall_seconds: float
    """From the call to the last file."""
    kernel_seconds: float
    """Sum over the runs of steps times the time per step of the same problem, alone on one thread."""

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that went into steps."""
        return self.kernel_seconds / self.n_workers / self.wall_seconds


@dataclass(frozen=True)
class Wait:
    """What a person waits for."""

    wall_seconds: float
    cpu_seconds: float
    """User and system, of all threads and processes."""


@dataclass(frozen=True)
class TrainedRun:
    """A whole run as ``bh.train`` does it, from initial weights, whose weights the contenders are timed at."""

    size: Size
    """With the weights at its end."""
    points: tuple[int, ...]
    """Steps at whose weights contenders are timed, beside those of the start; the last is the end."""
    wall_seconds: float
    """From the call to the last byte of its file: steps, looks at the loss, measures."""
    active: float
    """Share of outputs that are not zero at its end, over the first examples."""


@dataclass(frozen=True)
class Results:
    """Everything that was measured on one kind of machine."""

    machine: dict[str, Any]
    """Instruction set, versions, git revision, device, threads, date, number of calls."""
    measurements: tuple[Measurement, ...] = ()
    ceilings: tuple[Ceilings, ...] = ()
    """Measured anew before every size."""
    sweep: SweepTiming | None = None
    waits: dict[str, Wait] = dataclasses.field(default_factory=dict)
    """By their names in ``waits.WORDS``."""
    runs: tuple[TrainedRun, ...] = ()

    def best_ceilings(self) -> Ceilings:
        """Return the highest value of each ceiling, the one it is hardest to come close to; 0 if none was measured."""
        highest = (max((getattr(c, f.name) for c in self.ceilings), default=0) for f in dataclasses.fields(Ceilings))
        return Ceilings(*highest)

    def at(self, contender: str, size: Size) -> Measurement | None:
        """Return what was measured of a contender at exactly this size, if anything."""
        return next((m for m in self.measurements if (m.contender, m.size) == (contender, size)), None)

    def find(self, contender: str, n_hidden: int, n_examples: int, trained: bool = False) -> Measurement | None:
        """Return what was measured of a contender with so many units and examples, at the weights trained longest."""
        sizes = [s for s in self.sizes(trained) if (s.n_hidden, s.n_examples) == (n_hidden, n_examples)]
        return self.at(contender, sizes[-1]) if sizes else None

    def sizes(self, trained: bool = False) -> list[Size]:
        """Return the sizes measured, at initial or at trained weights, in the order of m, T and steps."""
        sizes = {m.size for m in self.measurements if (m.size.trained_steps > 0) == trained}
        return sorted(sizes, key=lambda s: (s.n_hidden, s.n_examples, s.run_steps, s.trained_steps))

    def contenders(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that took part, in their order."""
        present = {m.contender for m in self.measurements}
        return [name for name in names if name in present]

    def save(self, path: Path) -> None:
        """Write the results as JSON, in place of others."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what ``save`` wrote.

        Raises:
            ValueError: If there is no such file, or it is not the results of a benchmark.
        """
        if not path.is_file():
            raise ValueError(f"results: received {path}, accepted: what python -m benchmarks wrote")
        try:
            fields = json.loads(path.read_text())
            sweep = fields["sweep"]
            return cls(
                machine=fields["machine"],
                measurements=tuple(
                    Measurement(**{**m, "size": Size(**m["size"]), "seconds": tuple(m["seconds"])})
                    for m in fields["measurements"]
                ),
                ceilings=tuple(Ceilings(**c) for c in fields["ceilings"]),
                sweep=None if sweep is None else SweepTiming(**{**sweep, "n_examples": tuple(sweep["n_examples"])}),
                waits={name: Wait(**wait) for name, wait in fields["waits"].items()},
                runs=tuple(
                    TrainedRun(**{**run, "size": Size(**run["size"]), "points": tuple(run["points"])})
                    for run in fields["runs"]
                ),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"results: received {path} ({error}), accepted: what python -m benchmarks wrote"
            ) from error
