"""The command ``python -m benchmarks.kills``: kill sweeps and counterfactual models at random, start them again.

Every store, once complete, is compared bit for bit with one that nobody disturbed; what a kill may leave behind is
counted: changed or lost results, other files, and processes that live on after five seconds. As most of the life of a
short command is imports, three of four kills wait until a result is being computed; the table says what each hit.

The table is written after every store, and the same command goes on from it, at the same revision of byheart.

Exit status: 0 nothing was lost or left; 1 something was; 2 bad input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd

from benchmarks.forks import Forked, Forks, of_session
from byheart.cli.console import complain
from byheart.cli.options import parse
from byheart.own import write_table
from byheart.provenance import provenance
from byheart.records import Records, digest

_MOST_SECONDS = 5.0  # that a process may live on
MARK = "BYHEART_KILLS"  # a variable that all processes of a command inherit
_WHAT_VARIES = ("provenance", "header_digest")  # of a header: time and date
_N_RESULTS = 12  # of a command
_SECONDS_PER_LOOK = 0.005
_SHARE_IN_FLIGHT = 0.75  # of kills that wait until a result is being computed


@dataclass(frozen=True)
class Command:
    """What is killed."""

    program: str
    """Python, whose arguments are a store and a number of workers; prints something once a result is computed."""
    warm: str = ""
    """What the process does of which it is a fork; empty: it is a process of its own, and so are its workers."""


_SWEEP = """
import sys
from byheart.toy.config import TrainConfig
from byheart.toy.sweep import grid, sweep

base = TrainConfig(n_examples=5, n_features=200, sparsity=0.9, n_test=10, n_steps={n_steps})
configs = grid(base, {{"n_examples": [3, 5, 8]}}, range(4))
begun = lambda progress: print("begun", flush=True) if progress.work_done else None
sweep(configs, sys.argv[1], n_workers=int(sys.argv[2]), kernel={kernel!r}, on_progress=begun)
"""
_COUNTERFACTUAL = """
import sys
import time
import numpy as np
from byheart.network.counterfactual import counterfactual

inputs = np.random.default_rng(0).normal(size=(40, 5))
labels = np.arange(40) % 2

def fit(indices, seed):
    print("begun", flush=True)
    time.sleep({seconds})
    means = np.stack([inputs[indices][labels[indices] == k].mean(0) for k in (0, 1)])
    return ((inputs @ (means[1] - means[0])) * (2 * labels - 1)).astype(float) + seed

counterfactual(fit, (inputs, labels), 12, store=sys.argv[1], groups=False, n_workers=int(sys.argv[2]))
"""
_WARM_COUNTERFACTUAL = """
import cloudpickle
import torch
import byheart.network.counterfactual
from byheart.provenance import provenance

provenance()  # which asks git once
"""
_WARM_SWEEP = """
import byheart.toy.sweep
from byheart.toy.config import TrainConfig
from byheart.toy.train import train

train(TrainConfig(n_examples=5, n_features=200, sparsity=0.9, n_test=10, n_steps=1), kernel="cpu", n_threads=1)
"""
# To load the compiled kernel takes most of the life of a sweep; the reference kernel, in NumPy, needs no loading, so
# that many more of its kills can be afforded. Forks have imported and loaded everything before they begin.
_COMMANDS = {
    "sweep": Command(_SWEEP.format(n_steps=6_000, kernel="cpu")),
    "sweep-by-reference": Command(_SWEEP.format(n_steps=1_000, kernel="reference")),
    "counterfactual": Command(_COUNTERFACTUAL.format(seconds=0.15)),
    "forked-sweep": Command(_SWEEP.format(n_steps=600, kernel="cpu"), _WARM_SWEEP),
    "forked-counterfactual": Command(_COUNTERFACTUAL.format(seconds=0.02), _WARM_COUNTERFACTUAL),
}


@dataclass
class KillsCommand:
    """Kill commands that run jobs at random moments, start them again, and compare their stores."""

    commands: tuple[str, ...] = tuple(_COMMANDS)
    """Which commands: sweep, sweep-by-reference, counterfactual; forked-sweep and forked-counterfactual are forks of a
    process that has imported everything, and cost a fiftieth. The table keeps its rows of others and of other
    revisions."""
    n: int = 500
    """Kills of each command, at least 1; those that the table has of the same revision count."""
    seed: int = 0
    """Of the moments, and of what is killed: the command, its workers one by one, or all at once."""
    out: Path = Path("results/reliability/kills.csv")
    """Table of what was found."""

    def run(self) -> bool:
        """Kill, write the table after every store, and return whether all went well."""
        if self.n < 1:
            raise ValueError(f"n: received {self.n}, accepted: an integer >= 1")
        if unknown := set(self.commands) - set(_COMMANDS):
            raise ValueError(f"commands: received {', '.join(sorted(unknown))}, accepted: {', '.join(_COMMANDS)}")
        revision = str(provenance()["git_revision"])
        rows = _read(self.out)
        for name in self.commands:
            rows.setdefault((name, revision), Found(name, git_revision=revision))
        self._write(rows)  # so that what is in the way is found before any time is spent
        with contextlib.ExitStack() as stack:
            trials = [
                stack.enter_context(
                    Trial(rows[name, revision], self.seed, Path(stack.enter_context(tempfile.TemporaryDirectory())))
                )
                for name in self.commands
            ]
            while (trial := min(trials, key=lambda trial: trial.found.n_kills)).found.n_kills < self.n:
                trial.add_store()
                self._write(rows)
        print(self.out.read_text(), end="")
        return all(found.is_well for found in rows.values())

    def _write(self, rows: dict[tuple[str, str], Found]) -> None:
        write_table(self.out, pd.DataFrame([dataclasses.asdict(found) for found in rows.values()]))


@dataclass
class Found:
    """What came of the kills of one command."""

    command: str
    n_kills: int = 0
    """Of which each hit one process of a running command, or all of them."""
    n_starting: int = 0
    """Kills before any result was being computed: imports, and the start of workers."""
    n_in_flight: int = 0
    """Kills while results were being computed."""
    n_ending: int = 0
    """Kills after the last result was there, before the command had ended."""
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
    """Semaphores and the like, more than before; those of other programs that came meanwhile count too."""
    n_temporary: int = 0
    """Temporary files and folders outside the stores, in the end."""
    git_revision: str = ""
    """Of byheart."""

    @property
    def is_well(self) -> bool:
        """Whether nothing was lost or left."""
        own = (self.n_lost, self.n_different, self.n_stray_files, self.n_stray_processes)
        return not any((*own, self.n_shared_memory, self.n_temporary))


def _read(table: Path) -> dict[tuple[str, str], Found]:
    """What a table has, by command and revision."""
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    found = [Found(**{str(name): value for name, value in row.items()}) for row in rows]
    return {(each.command, each.git_revision): each for each in found}


class Trial:
    """The kills of one command; what comes of them is added to ``found``."""

    def __init__(self, found: Found, seed: int, directory: Path) -> None:
        self.found, self.seed, self.directory = found, seed, directory
        self.temporary, self.said = directory / "temporary", directory / "said"
        self.temporary.mkdir()
        self.command = _COMMANDS[found.command]

    def __enter__(self) -> Self:
        """Run the command undisturbed."""
        with contextlib.ExitStack() as stack:
            if self.command.warm:
                self._forks = stack.enter_context(Forks(self.command.warm, {"TMPDIR": str(self.temporary)}))
            self._measure()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _measure(self) -> None:
        """Note what a store holds that nobody disturbed, and how long it takes."""
        self._finish(self.directory / "first")  # compiles what is to be compiled
        began = time.monotonic()
        process = self._start(self.directory / "whole")
        while not self._is_begun and process.poll() is None:
            time.sleep(_SECONDS_PER_LOOK)
        self.seconds_to_begin = time.monotonic() - began
        if status := process.wait():
            raise RuntimeError(f"{self.found.command}: ended with status {status} though nothing was killed")
        self.seconds_per_result = (time.monotonic() - began - self.seconds_to_begin) / _N_RESULTS
        self.expected, self.n_shared = contents(self.directory / "whole"), _n_shared_memory()
        assert len(self.expected) == _N_RESULTS

    def add_store(self) -> None:
        """Kill the command several times on a new store, let it finish, and count what was lost or left."""
        found, store = self.found, self.directory / f"store-{self.found.n_stores}"
        rng = random.Random(f"{found.command} {self.seed} {found.n_stores}")
        for _ in range(rng.randint(3, 8)):
            if len(files(store)) < _N_RESULTS:  # one that is complete leaves no time for a kill
                self._start_and_kill(store, rng)
        before = files(store)
        self._finish(store)
        found.n_lost += len(before.items() - files(store).items())
        there = contents(store)
        found.n_stores += 1
        found.n_results += len(there)
        found.n_different += sum(there.get(key) != self.expected[key] for key in self.expected)
        found.n_stray_files += sum(
            path.name.removesuffix(".safetensors") not in self.expected for path in store.iterdir()
        )
        found.n_shared_memory = max(found.n_shared_memory, _n_shared_memory() - self.n_shared)
        found.n_temporary = len(list(self.temporary.iterdir()))

    def _start_and_kill(self, store: Path, rng: random.Random) -> None:
        """Start the command and kill it, some of its workers first, or all its processes at once."""
        before, process = files(store), self._start(store, rng.choice([1, 2]))
        if rng.random() < _SHARE_IN_FLIGHT:
            while not self._is_begun and process.poll() is None:
                time.sleep(_SECONDS_PER_LOOK)
            time.sleep(rng.uniform(0, self.seconds_per_result * (_N_RESULTS - len(before))))
        else:
            time.sleep(rng.uniform(0, self.seconds_to_begin))
        what = rng.choice(["command", "worker and command", "workers and command", "workers and command", "all"])
        there = self._processes(store, process)
        workers = [pid for pid in there if pid != process.pid]
        n_workers = {"worker and command": 1, "workers and command": 2}.get(what, 0)
        for worker in rng.sample(workers, min(n_workers, len(workers))):
            if process.poll() is None:
                self._count(store)
            kill(worker)
            time.sleep(rng.uniform(0, 2 * self.seconds_per_result))
        if process.poll() is None:
            self._count(store)
        for pid in there if what == "all" else ():
            kill(pid)
        process.kill()
        process.wait()
        end = time.monotonic() + _MOST_SECONDS
        while (left := self._processes(store, process)) and time.monotonic() < end:
            time.sleep(0.05)
        self.found.n_stray_processes += len(left)
        for pid in left:
            kill(pid)
        self.found.n_lost += len(before.items() - files(store).items())

    def _count(self, store: Path) -> None:
        """Count a kill that is about to come, and what it hits."""
        self.found.n_kills += 1
        if not self._is_begun:
            self.found.n_starting += 1
        elif len(files(store)) < _N_RESULTS:
            self.found.n_in_flight += 1
        else:
            self.found.n_ending += 1

    @property
    def _is_begun(self) -> bool:
        """Whether the command that was started last computes a result, or has."""
        return self.said.stat().st_size > 0

    def _start(self, store: Path, n_workers: int = 2) -> subprocess.Popen[bytes] | Forked:
        arguments = [str(store), str(n_workers)]
        if self.command.warm:
            return self._forks.start(self.command.program, arguments, self.said)
        with self.said.open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-c", self.command.program, *arguments],
                env=os.environ | {MARK: str(store), "TMPDIR": str(self.temporary)},
                stdout=said,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _processes(self, store: Path, process: subprocess.Popen[bytes] | Forked) -> list[int]:
        """All processes that a command has started, itself included."""
        return of_session(process.pid) if self.command.warm else processes(store)

    def _finish(self, store: Path) -> None:
        if status := self._start(store).wait():
            raise RuntimeError(f"{self.found.command}: ended with status {status} though nothing was killed")


def kill(pid: int) -> None:
    """Kill a process, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def processes(store: Path | str) -> list[int]:
    """All processes that a command with this mark has started, itself included."""
    mark, found = f"{MARK}={store}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def files(store: Path) -> dict[str, bytes]:
    """The bytes of every result in a directory."""
    return {path.name: path.read_bytes() for path in store.glob("*.safetensors")}


def contents(store: Path | str) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Digest of the arrays, and the header, of every result in a store; a damaged one is an error."""
    records, found = Records(store), {}
    keys = records.keys()
    for key in keys:
        record = records.read(key)
        header = tuple(sorted((name, text) for name, text in record.header.items() if name not in _WHAT_VARIES))
        found[key] = digest(*(record.arrays[name] for name in sorted(record.arrays))), header
    return found


def _n_shared_memory() -> int:
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
