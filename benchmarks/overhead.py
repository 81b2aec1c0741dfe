"""The command ``python -m benchmarks.overhead``: what the engine adds to thousands of jobs of 50 ms, here and on Dask.

A job sleeps, so that other work on the machine matters little, and keeps a record of a few bytes, flushed to the disk.
What is added is what it takes longer than two processes that do the same in a loop; ``benchmarks.reliability`` says too
what it takes longer than the sleep alone.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.servers import dask
from byheart.cli.console import complain
from byheart.cli.options import parse
from byheart.cluster import connected
from byheart.jobs import Job, Report, run
from byheart.records import Record, Records

SECONDS = 0.05  # of a job
_N_WORKERS = 2


@dataclass
class OverheadCommand:
    """Measure what the engine adds to many tiny jobs."""

    n: int = 2_000
    """Jobs, at least 1."""
    out: Path = Path("results/reliability/overhead.csv")
    """Table of what was measured."""

    def run(self) -> None:
        """Measure, and write and print the table."""
        if self.n < 1:
            raise ValueError(f"n: received {self.n}, accepted: an integer >= 1")
        rows = []
        plain = in_loops(self.n)
        with dask(_N_WORKERS) as servers, connected(servers.address) as cluster:
            for name, executor in (("local", None), ("dask", cluster)):
                seconds = measured(self.n, executor)
                rows.append((name, self.n, _N_WORKERS, f"{plain:.4g}", f"{seconds:.4g}", f"{seconds / plain - 1:.3f}"))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("where", "n_jobs", "n_workers", "seconds_in_loops", "seconds", "overhead"))
            table.writerows(rows)
        print(self.out.read_text(), end="")


def _sleep(*, n_threads: int | None, report: Report) -> Record:
    time.sleep(SECONDS)
    return Record({"x": np.zeros(3)}, {})


def in_loops(n: int) -> float:
    """Seconds that so many jobs take in two processes without an engine, after these have started."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(_N_WORKERS) as pool:
        shares = [range(k, n, _N_WORKERS) for k in range(_N_WORKERS)]
        list(pool.map(_loop, [folder] * _N_WORKERS, [range(0)] * _N_WORKERS))
        began = time.monotonic()
        list(pool.map(_loop, [folder] * _N_WORKERS, shares))
        return time.monotonic() - began


def _loop(folder: str, numbers: range) -> None:
    for k in numbers:
        Records(folder).write(f"{k:05}", _sleep(n_threads=1, report=lambda fraction, value: None))


def measured(n: int, executor: Executor | None) -> float:
    """Seconds that so many jobs take, the start of workers included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        failures = run(
            [Job(f"{k:05}", _sleep) for k in range(n)], Records(folder), n_workers=_N_WORKERS, executor=executor
        )
        assert not failures, failures[0].reason
        return time.monotonic() - began


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        parse(OverheadCommand, sys.argv[1:] if arguments is None else arguments, "python -m benchmarks.overhead").run()
    except ValueError as error:
        complain(f"overhead: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
