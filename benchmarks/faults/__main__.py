"""The command ``python -m benchmarks.faults``: what a fault of every kind does to a command and to its store.

Each fault is made for real, several times, at random moments: processes are killed, stopped or interrupted, disks
filled or made read-only, directories moved away, servers cut off. Then the same command is run again, undisturbed, and
its store is compared bit for bit with one that nobody disturbed. The table is written after every row; rows that were
not asked for stay.

Exit status: 0 everything held; 1 something did not; 2 bad input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.faults.interrupts import Verbs, interrupted
from benchmarks.faults.processes import PROCESSES
from benchmarks.faults.scene import WARM, Found, Scene
from benchmarks.faults.stores import NEEDS_A_DISK, STORES
from benchmarks.forks import Forks
from benchmarks.servers import why_no_disk
from byheart.cli.console import complain
from byheart.cli.options import parse
from byheart.own import write_table
from byheart.provenance import provenance

_OFTEN = {"Dask scheduler killed": 4}  # as often as the others: it is a race of several threads
_TIMES = {"Ctrl-C once": 1, "Ctrl-C twice": 2}


@dataclass
class FaultsCommand:
    """Make faults of every kind, and write a table of what they did."""

    only: tuple[str, ...] = ()
    """Faults whose names begin so; default all."""
    n: int = 5
    """How often each is made, at least 1; the kill of a scheduler, a race of several threads, four times as often."""
    forked: bool = False
    """Commands and workers are forks of a process that has imported everything, which costs a fraction; faults that
    need servers and Ctrl-C, which may fall into the imports, are left out. Such rows are apart."""
    seed: int = 0
    """Of the moments."""
    out: Path = Path("results/reliability/faults.csv")
    """Table of what was found."""

    def run(self) -> bool:
        """Make the faults, and return whether everything held."""
        if self.n < 1:
            raise ValueError(f"n: received {self.n}, accepted: an integer >= 1")
        kept = pd.read_csv(self.out, keep_default_na=False).to_dict("records") if self.out.exists() else []
        rows = {(row["fault"], row["tried"]): {str(name): value for name, value in row.items()} for row in kept}
        revision = str(provenance()["git_revision"])
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # in the background it may be ignored, also by commands
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            forks = stack.enter_context(Forks(WARM, {"TMPDIR": folder})) if self.forked else None
            scene = Scene(Path(folder), self.seed, forks)
            for found, why_not, make in _forked(scene, self.only) if forks else _faults(scene, self.only):
                found.skipped, found.git_revision = why_not, revision
                for _ in range(0 if why_not else self.n * _OFTEN.get(found.fault, 1)):
                    make(found)
                rows[found.fault, found.tried] = dataclasses.asdict(found)
                write_table(self.out, pd.DataFrame(list(rows.values())))
                print(found, flush=True)
        return all(
            Found(**{name: row[name] for name in row if name != "git_revision"}).is_well for row in rows.values()
        )


_Fault = tuple[Found, str, Callable[[Found], None]]
"""What a fault is called, why it cannot be made here, if so, and what makes it once."""


def _faults(scene: Scene, only: tuple[str, ...]) -> Iterator[_Fault]:
    yield from _of_processes_and_stores(scene, only)
    verbs = Verbs(scene)
    for fault, times in _TIMES.items():
        for verb in verbs.arguments if not only or fault.startswith(only) else ():
            start = functools.partial(verbs.start, verb)
            make = functools.partial(interrupted, scene, start=start, times=times)
            yield Found(fault, f"byheart {verb}"), verbs.missing(verb), make


def _forked(scene: Scene, only: tuple[str, ...]) -> Iterator[_Fault]:
    for found, why_not, make in _of_processes_and_stores(scene, only):
        if not any(server in f"{found.fault} {found.tried}" for server in ("Dask", "S3")):
            found.tried += ", of forks"
            yield found, why_not, make


def _of_processes_and_stores(scene: Scene, only: tuple[str, ...]) -> Iterator[_Fault]:
    no_disk = why_no_disk()
    for (fault, tried), make in (PROCESSES | STORES).items():
        if not only or fault.startswith(only):
            yield Found(fault, tried), no_disk if fault in NEEDS_A_DISK else "", functools.partial(make, scene)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        command = parse(FaultsCommand, sys.argv[1:] if arguments is None else arguments, "python -m benchmarks.faults")
        return 0 if command.run() else 1
    except ValueError as error:
        complain(f"faults: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
