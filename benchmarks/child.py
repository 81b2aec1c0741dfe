"""One contender in a process of its own, both ends of it: per line a JSON command goes in, and its answer comes out.

Commands: ``build`` a problem, ``answer`` the check, ``start`` the timed training, ``advance`` some steps, ``ceilings``,
``memory``. A child ends when its input does, so that it never outlives the benchmark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from benchmarks import ceilings
from benchmarks.agreement import ask
from benchmarks.contenders import CONTENDERS
from benchmarks.problem import Problem
from byheart.toy.kernels import AdamW

_ROOT = Path(__file__).parents[1]
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Nothing from mmap, which is given back at every free, and nothing given back from the end of the heap.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**46)}
_LOG_LINES = 3


class ChildError(RuntimeError):
    """A child process ended; the message holds the last lines of what it printed."""


class Process:
    """A child process; leaving its context kills it with all it has started."""

    def __init__(self, name: str, n_threads: int, keeps_memory: bool, directory: Path) -> None:
        self.log = directory / f"{name or 'ceilings'}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child", name, str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                text=True,
                env={**os.environ, **dict.fromkeys(_THREAD_LIMITS, str(n_threads))}
                | (_KEEP_MEMORY if keeps_memory else {}),
                start_new_session=True,  # Ctrl-C is the parent's to answer
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a command that was never read
                pipe.close()

    def send(self, do: str, **values: Any) -> None:
        """Ask for something without waiting for it."""
        assert self.process.stdin is not None
        try:
            print(json.dumps({"do": do, **values}), file=self.process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ChildError(self._last_words()) from error

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to what was sent."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Ask for something, and wait for it."""
        self.send(do, **values)
        return self.receive()

    def _last_words(self) -> str:
        status = self.process.wait()
        if status < 0:
            return f"killed by {signal.Signals(-status).name} (out of memory?)"
        lines = [line.strip() for line in self.log.read_text().splitlines() if line.strip()]
        return " ".join(lines[-_LOG_LINES:]) or f"ended with status {status}"


class Child:
    """The contender, and what it is asked; the name "" is for the machine's ceilings."""

    def __init__(self, name: str, n_threads: int) -> None:
        self.n_threads = n_threads
        self.make = CONTENDERS[name].load() if name else None
        self.cpu_seconds = 0.0

    def build(self, problem: str) -> dict[str, Any]:
        """Load the problem, and make the contender."""
        assert self.make is not None
        base = _resident("VmRSS")
        self.problem = Problem.load(Path(problem))
        self.contender = self.make(self.problem)
        return {"base_bytes": base}

    def answer(self, optimizer: dict[str, Any], n_steps: int, path: str) -> dict[str, Any]:
        """Compute what is checked, and write it to a file."""
        ask(self.contender, self.problem, AdamW(**optimizer), n_steps).save(Path(path))
        return {}

    def start(self, learning_rate: float) -> dict[str, Any]:
        """Begin the training that is timed."""
        self.contender.restart(AdamW(), learning_rate)
        self.contender.advance(1)  # whatever is compiled or allocated once
        gc.disable()  # not in the midst of a round
        return {}

    def advance(self, n_steps: int) -> dict[str, Any]:
        """Time some steps; also return what this process used of the processors since its last turn."""
        idle = time.process_time() - self.cpu_seconds if self.cpu_seconds else 0.0
        began = time.perf_counter()
        self.contender.advance(n_steps)
        seconds = time.perf_counter() - began
        self.cpu_seconds = time.process_time()
        return {"seconds": seconds, "idle_cpu_seconds": idle}

    def ceilings(self) -> dict[str, Any]:
        """Measure the machine."""
        return dataclasses.asdict(ceilings.measure(self.n_threads))

    def memory(self) -> dict[str, Any]:
        """Return the most memory this process ever had, in bytes."""
        return {"peak_bytes": _resident("VmHWM")}


def main(name: str, n_threads: int) -> None:
    """Serve until the input ends."""
    if hasattr(os, "sched_setaffinity"):  # XLA takes all the processors it may run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, commands), daemon=True).start()
    child = Child(name, n_threads)
    while True:
        command = commands.get()
        answer = getattr(child, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


def _read(lines: TextIO, commands: queue.Queue[dict[str, Any]]) -> None:
    for line in lines:
        commands.put(json.loads(line))
    os._exit(0)  # even in the midst of a step


def _resident(key: str) -> int:
    """Resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its highest; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
