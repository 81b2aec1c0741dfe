"""The command ``python -m benchmarks.kills``: kill sweeps and counterfactual models at random, start them again.

Every store, once complete, is compared bit for bit with one that nobody disturbed; what a kill may leave behind is
counted: changed or lost results, other files, and processes that live on after five seconds.

Exit status: 0 nothing was lost or left; 1 something was; 2 bad input.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

from byheart.cli.console import complain
from byheart.cli.options import parse
from byheart.records import Records, digest

_MOST_SECONDS = 5.0  # that a process may live on
_MARK = "BYHEART_KILLS"  # a variable that all processes of a command inherit
_WHAT_VARIES = ("provenance", "header_digest")  # of a header: time and date
_COMMANDS = {
    "sweep": """
import sys
from byheart.toy.config import TrainConfig
from byheart.toy.sweep import grid, sweep

base = TrainConfig(n_examples=5, n_features=200, sparsity=0.9, n_test=10, n_steps=1_000)
sweep(grid(base, {"n_examples": [3, 5, 8]}, range(4)), sys.argv[1], n_workers=2)
""",
    "counterfactual": """
import sys
import time
import numpy as np
from byheart.network.counterfactual import counterfactual

inputs = np.random.default_rng(0).normal(size=(40, 5))
labels = np.arange(40) % 2

def fit(indices, seed):
    time.sleep(0.05)
    means = np.stack([inputs[indices][labels[indices] == k].mean(0) for k in (0, 1)])
    return ((inputs @ (means[1] - means[0])) * (2 * labels - 1)).astype(float) + seed

counterfactual(fit, (inputs, labels), 12, store=sys.argv[1], groups=False, n_workers=2)
""",
}


@dataclass
class KillsCommand:
    """Kill commands that run jobs at random moments, start them again, and compare their stores."""

    n: int = 100
    """Kills of each command, at least 1."""
    seed: int = 0
    """Of the moments, and of what is killed: the command, one of its workers, or all at once."""
    out: Path = Path("results/reliability/kills.csv")
    """Table of what was found."""

    def run(self) -> bool:
        """Kill, write the table, and return whether all went well."""
        if self.n < 1:
            raise ValueError(f"n: received {self.n}, accepted: an integer >= 1")
        found = [killed(name, self.n, self.seed) for name in _COMMANDS]
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(field.name for field in fields(Found))
            table.writerows([getattr(row, field.name) for field in fields(Found)] for row in found)
        print(self.out.read_text(), end="")
        return all(row.is_well for row in found)


@dataclass
class Found:
    """What came of the kills of one command."""

    command: str
    n_kills: int = 0
    n_stores: int = 0
    """Complete ones that were compared."""
    n_results: int = 0
    """In these."""
    n_lost: int = 0
    """Finished results that a kill or the start after it took away or changed."""
    n_different: int = 0
    """Results that are not bit for bit those of the undisturbed store, or are not there."""
    n_stray_files: int = 0
    """In complete stores."""
    n_stray_processes: int = 0
    """That lived for five seconds after their command was killed."""
    n_shared_memory: int = 0
    """Semaphores and the like, more than before."""
    n_temporary: int = 0
    """Temporary files and folders outside the store, in the end."""

    @property
    def is_well(self) -> bool:
        """Whether nothing was lost or left."""
        own = (self.n_lost, self.n_different, self.n_stray_files, self.n_stray_processes)
        return not any((*own, self.n_shared_memory, self.n_temporary))


def killed(name: str, n_kills: int, seed: int) -> Found:
    """Kill a command so often, and count what was lost or left."""
    rng, found = random.Random(seed), Found(name)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        temporary = directory / "temporary"
        temporary.mkdir()
        _finish(name, directory / "first", temporary)  # compiles what is to be compiled
        began = time.monotonic()
        _finish(name, directory / "whole", temporary)
        seconds = time.monotonic() - began
        expected, shared = _contents(directory / "whole"), _shared_memory()
        while found.n_kills < n_kills or found.n_stores == 0:
            store = directory / f"store-{found.n_stores}"
            for _ in range(rng.randint(3, 8)):
                _kill_once(name, store, temporary, rng, seconds, found)
            before = _files(store)
            _finish(name, store, temporary)
            found.n_lost += len(before.items() - _files(store).items())
            contents = _contents(store)
            found.n_stores += 1
            found.n_results += len(contents)
            found.n_different += sum(contents.get(key) != expected[key] for key in expected)
            found.n_stray_files += sum(
                path.name.removesuffix(".safetensors") not in expected for path in store.iterdir()
            )
        found.n_shared_memory = max(0, _shared_memory() - shared)
        found.n_temporary = len(list(temporary.iterdir()))
    return found


def _start(name: str, store: Path, temporary: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {_MARK: str(store), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", _COMMANDS[name], str(store)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def _finish(name: str, store: Path, temporary: Path) -> None:
    if status := _start(name, store, temporary).wait():
        raise RuntimeError(f"{name}: ended with status {status} though nothing was killed")


def _kill_once(name: str, store: Path, temporary: Path, rng: random.Random, seconds: float, found: Found) -> None:
    """Start a command and kill it, one of its workers first, or all its processes at once."""
    before, process = _files(store), _start(name, store, temporary)
    time.sleep(rng.uniform(0, seconds))
    what = rng.choice(["command", "worker and command", "all"])
    there = _processes(store)
    workers = [pid for pid in there if pid != process.pid]
    if what == "worker and command" and workers:
        _kill(rng.choice(workers))
        found.n_kills += 1
        time.sleep(rng.uniform(0, 0.3))
    for pid in there if what == "all" else ():
        _kill(pid)
    process.kill()
    found.n_kills += 1
    process.wait()
    end = time.monotonic() + _MOST_SECONDS
    while (left := _processes(store)) and time.monotonic() < end:
        time.sleep(0.05)
    found.n_stray_processes += len(left)
    for pid in left:
        _kill(pid)
    found.n_lost += len(before.items() - _files(store).items())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _processes(store: Path) -> list[int]:
    """All processes that a command on this store has started, itself included."""
    mark, found = f"{_MARK}={store}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def _files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("*.safetensors")}


def _contents(store: Path) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Digest of the arrays, and the header, of every result in a store; a damaged one is an error."""
    records, found = Records(store), {}
    keys = records.keys()
    for key in keys:
        record = records.read(key)
        header = tuple(sorted((name, text) for name, text in record.header.items() if name not in _WHAT_VARIES))
        found[key] = digest(*(record.arrays[name] for name in sorted(record.arrays))), header
    return found


def _shared_memory() -> int:
    directory = Path("/dev/shm")
    return len(list(directory.iterdir())) if directory.exists() else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        command = parse(KillsCommand, sys.argv[1:] if arguments is None else arguments, "python -m benchmarks.kills")
        return 0 if command.run() else 1
    except ValueError as error:
        complain(f"kills: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
