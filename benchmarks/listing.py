"""How long it takes to open a store of many runs as a table: ``python -m benchmarks.listing --n 10000``.

The table is results/reliability/listing.csv: seconds of CPU and of the clock, the fastest of five times.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.mutations import small_run
from byheart.own import write_table
from byheart.progress import bar
from byheart.provenance import provenance
from byheart.storage import prepare_directory
from byheart.toy.runs import open_runs

_TIMES = 5


def measure(n: int, directory: Path) -> dict[str, object]:
    """Write so many runs of different seeds, open them several times, and return the row of the table."""
    run = small_run()
    with bar("runs") as advance:
        for seed in range(n):
            dataclasses.replace(run, config=dataclasses.replace(run.config, seed=seed)).save(directory)
            advance(seed, n, "")
    times = []
    for _ in range(_TIMES):
        started, cpu = time.perf_counter(), time.process_time()
        assert len(open_runs(directory).table) == n
        times.append((time.process_time() - cpu, time.perf_counter() - started))
    made_by = provenance()
    cpu, wall = (min(column) for column in zip(*times, strict=True))
    load = os.getloadavg()[0]
    return {"n_runs": n, "cpu_seconds": cpu, "seconds": wall, "load": load} | {
        name: made_by[name] for name in ("device", "python", "git_revision", "started")
    }


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="number of runs (default: 10,000)")
    parser.add_argument("--out", type=Path, default=Path("results/reliability"), help="directory of listing.csv")
    given = parser.parse_args()
    prepare_directory(given.out)
    with tempfile.TemporaryDirectory() as directory:
        table = pd.DataFrame([measure(given.n, Path(directory))])
    write_table(given.out / "listing.csv", table, float_format="%.4g")
    print(table.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
