"""A command of byheart, what a fault did to it and to its store, and the undisturbed store to compare with."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.forks import Forked, Forks, of_session
from benchmarks.kills import MARK, contents, kill, processes
from benchmarks.servers import wait_for
from byheart.records import Records

N_RESULTS = 12
_SIZES = ("--n-features", "200", "--sparsity", "0.9", "--n-test", "10")
# The kernel is the one that takes least time to load: this is about processes and files.
_SWEEP = ("sweep", "--n-examples", "3", "5", "8", *_SIZES, "--n-seeds", "4", "--kernel", "reference")
_N_STEPS, _N_STEPS_OF_FORKS = 2_000, 300  # a run of forks takes less time, as their starts do
TWO_WORKERS = ("--n-workers", "2")
_MOST_SECONDS_ALIVE = 5.0  # of a process whose command is gone
_MOST_SECONDS = 300.0  # until a command that should end counts as hanging
_RUN = re.compile(r"[0-9a-f]{16}")

WARM = """
import cloudpickle
import byheart.__main__, byheart.cli.toy, byheart.cluster, byheart.toy.sweep
from byheart.toy.config import TrainConfig
from byheart.toy.train import train

train(TrainConfig(n_examples=3, n_features=200, sparsity=0.9, n_test=10, n_steps=1), kernel="reference")
"""
"""What the process does of which commands are forks."""
_BYHEART = """
import os, sys

os.chdir(sys.argv.pop(1))
os.dup2(1, 2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
from byheart.__main__ import main

main()
"""

Contents = dict[str, tuple[str, tuple[tuple[str, str], ...]]]


@dataclass
class Found:
    """What one kind of fault did, over several tries."""

    fault: str
    tried: str
    n_tried: int = 0
    n_lost: int = 0
    """Finished results that the fault, or the next start, took away or changed."""
    n_different: int = 0
    """Results that are in the end not bit for bit those of the undisturbed store, or are not there."""
    n_stray_files: int = 0
    """In the store in the end."""
    n_old_processes: int = 0
    """That lived for five seconds after their command had ended."""
    n_other_answers: int = 0
    """Commands with another status or other words than promised, or that hung."""
    skipped: str = ""
    """Why the fault could not be made on the machine."""
    git_revision: str = ""
    """Of byheart."""

    def count(self, answer: Answer, is_as_promised: bool) -> None:
        """Count how a command ended, and show it if that is not as promised."""
        if not is_as_promised:
            self.n_other_answers += 1
            print(f"{self.fault}, {self.tried}: status {answer.status}\n{answer.words}", flush=True)

    @property
    def is_well(self) -> bool:
        """Whether everything held, as far as it was tried."""
        left = (self.n_lost, self.n_different, self.n_stray_files, self.n_old_processes, self.n_other_answers)
        return not any(left)


@dataclass
class Answer:
    """How a command ended."""

    status: int | None
    """None if it hung, and was killed."""
    words: str
    """What it wrote to stderr."""

    def is_one_line(self, status: int, words: str) -> bool:
        """Whether it is this status, and one line in which the pattern is found."""
        return self.status == status and len(self.words.splitlines()) == 1 and bool(re.search(words, self.words))

    @property
    def names_a_run(self) -> bool:
        """Whether it is status 1, and one line that names a run."""
        return self.is_one_line(1, _RUN.pattern)

    @property
    def is_done(self) -> bool:
        """Whether all is well."""
        return self.status == 0 and not self.words


class Command:
    """A command of byheart that runs: a process of its own, or a fork of one that has imported everything."""

    def __init__(self, *arguments: object, directory: Path, forks: Forks | None) -> None:
        self.mark, self._said, self._is_forked = uuid.uuid4().hex, directory / f"said-{uuid.uuid4().hex}", bool(forks)
        words = [*map(str, arguments)]
        self.process: subprocess.Popen[bytes] | Forked
        if forks is not None:
            self.process = forks.start(_BYHEART, [str(directory), *words], self._said)
            return
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "byheart", *words],
                cwd=directory,
                env=os.environ | {MARK: self.mark, "TMPDIR": str(directory)},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def _processes(self) -> list[int]:
        return of_session(self.process.pid) if self._is_forked else processes(self.mark)

    def workers(self) -> list[int]:
        """All other processes that it has started."""
        return [pid for pid in self._processes() if pid != self.process.pid]

    def answer(self) -> Answer:
        """Wait until it ends, and return how it did."""
        status = self.process.wait() if wait_for(lambda: self.process.poll() is not None, _MOST_SECONDS) else None
        if status is None:
            self.process.kill()
            self.process.wait()
        return Answer(status, self._said.read_text(errors="replace"))

    def count_old_processes(self) -> int:
        """How many of its processes live on for five seconds; they are killed."""
        wait_for(lambda: not self._processes(), _MOST_SECONDS_ALIVE)
        left = self._processes()
        for pid in left:
            kill(pid)
        return len(left)


class Scene:
    """A directory for stores, and what ``byheart sweep`` makes where nothing disturbs it."""

    def __init__(self, directory: Path, seed: int, forks: Forks | None = None) -> None:
        self.directory, self.random, self._forks = directory, random.Random(seed), forks
        store = directory / "undisturbed"
        assert self.sweep(store).answer().is_done, "a sweep that nothing disturbs fails"
        self.expected = contents(store)
        assert len(self.expected) == N_RESULTS

    def place(self) -> Path:
        """A new name for a store."""
        return self.directory / uuid.uuid4().hex

    def sweep(self, store: Path | str, *options: str) -> Command:
        """Start the sweep, on two cores or with these options."""
        n_steps = _N_STEPS if self._forks is None else _N_STEPS_OF_FORKS
        return self.start(*_SWEEP, "--n-steps", n_steps, *(options or TWO_WORKERS), "--out", store)

    def start(self, *arguments: object) -> Command:
        """Start a command of byheart."""
        return Command(*arguments, directory=self.directory, forks=self._forks)

    def until_some_are_there(self, store: Path | str, command: Command) -> None:
        """Wait until a random number of results is there, at least one and not all of them."""
        n, records = self.random.randint(1, N_RESULTS - 3), Records(store)
        wait_for(lambda: len(records.keys()) >= n or command.process.poll() is not None)

    @contextmanager
    def compared(self, found: Found, store: Path | str, *options: str) -> Iterator[Callable[[], None]]:
        """Count a fault that the block makes, run the sweep again, and compare.

        What is yielded notes the results that are there, none of which may be lost from then on.
        """
        before: Contents = {}
        found.n_tried += 1
        yield lambda: before.update(contents(store))
        answer = self.sweep(store, *options).answer()
        found.count(answer, answer.is_done)
        after = contents(store)
        found.n_lost += len(before.items() - after.items())
        found.n_different += sum(after.get(key) != self.expected[key] for key in self.expected)
        found.n_stray_files += _n_others(store, self.expected)


def _n_others(store: Path | str, expected: Contents) -> int:
    """How many files of a store are none of the results."""
    if isinstance(store, Path):
        names: Sequence[str] = os.listdir(store)  # noqa: PTH208
    else:
        import fsspec

        names = [path.rpartition("/")[2] for path in fsspec.filesystem("s3", skip_instance_cache=True).find(store)]
    return sum(name.removesuffix(".safetensors") not in expected for name in names)
