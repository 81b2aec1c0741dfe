"""The benchmark's side of its child processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Nothing from mmap, which is given back at every free, and nothing given back from the end of the heap.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**46)}
_LOG_LINES = 3


class ChildError(RuntimeError):
    """A child process ended, or answered nonsense; the message holds the last it said."""


class Process:
    """A child process (see ``child.py``); leaving its context kills it with all it has started."""

    def __init__(self, name: str, n_threads: int, keeps_memory: bool, directory: Path) -> None:
        self.log = directory / f"{name or 'ceilings'}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child", name, str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
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
