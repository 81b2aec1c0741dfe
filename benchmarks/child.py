"""One contender in a process of its own: reads one JSON command per line, answers in one line.

Commands: ``build`` a problem, ``answer`` the check, ``start`` the timed training, ``advance`` some steps, ``ceilings``,
``memory``. It ends when its input does, so that it never outlives the benchmark.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import queue
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from benchmarks import ceilings
from benchmarks.agreement import ask
from benchmarks.contenders import CONTENDERS, Problem
from byheart.toy.kernels import AdamW


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
