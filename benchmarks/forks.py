"""Commands that are forks of one process which has imported everything, so that hundreds of them cost little.

A fork is a process of its own, and so are its workers: they are killed by real signals and write real files. What it
lacks is the start of Python and the imports, which ``benchmarks.kills`` tries with whole processes. Workers run the
same text as ever; only the ``Popen`` of ``byheart.workers`` is replaced, in the forks, by one that forks in place of
starting Python.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn, Self

from byheart import workers

_ONE_THREAD = {  # in a process that is forked; the last is of Arrow, which pandas loads
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class Forks:
    """The process that commands are forks of; it is killed after a ``with`` block.

    Args:
        warm: Python that imports and loads what the commands need, and leaves no thread behind.
        environment: Variables of the commands beside this process's own.
    """

    def __init__(self, warm: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.forks"],
            cwd=Path(__file__).parents[1],
            env=os.environ | _ONE_THREAD | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if why := self._ask(warm):
            with self:
                raise RuntimeError(why)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()

    def start(self, program: str, arguments: Sequence[str], said: Path) -> Forked:
        """Fork a command in a session of its own: Python, its arguments, and the file that it prints to."""
        said.write_bytes(b"")
        return Forked(self, self._ask(["start", program, *arguments, str(said)]))

    def status(self, pid: int, is_waited_for: bool) -> int | None:
        """How a command ended, as Popen's returncode; None: not yet."""
        status: int | None = self._ask(["wait" if is_waited_for else "poll", pid])
        return status

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Forked:
    """A command that is a fork, with what is needed of a Popen."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.pid, self._forks = pid, forks
        self._status: int | None = None

    def poll(self) -> int | None:
        """How it ended; None: not yet."""
        return self._get(is_waited_for=False)

    def wait(self) -> int:
        """Wait until it has ended, and return how."""
        status = self._get(is_waited_for=True)
        assert status is not None
        return status

    def kill(self) -> None:
        """Kill it, if it has not ended; as long as nobody asked how it ended, no other process has its number."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _get(self, is_waited_for: bool) -> int | None:
        if self._status is None:
            self._status = self._forks.status(self.pid, is_waited_for)
        return self._status


def of_session(number: int) -> list[int]:
    """All processes of a session that have not ended: a command that began it, and what it has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
            if int(session) == number and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def serve() -> None:
    """Fork commands as they are asked for, one line of JSON each."""
    exec(json.loads(sys.stdin.readline()), {})
    if numba_threads := sys.modules.get("numba.np.ufunc.parallel"):
        # Its semaphore would be one of all forks: one that is killed while it holds it would lock out the others.
        numba_threads._backend_init_process_lock = contextlib.nullcontext()  # type: ignore[attr-defined]
    is_alone = len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    gc.collect()
    gc.freeze()  # so that the collector does not touch, and thereby copy, what all forks share
    _answer("" if is_alone else "a process with threads is not forked")
    for line in sys.stdin:
        match json.loads(line):
            case ["start", program, *arguments, said]:
                if not (pid := os.fork()):
                    _become(program, arguments, said)
                _answer(pid)
            case [how, pid]:
                ended, status = os.waitpid(pid, 0 if how == "wait" else os.WNOHANG)
                _answer(os.waitstatus_to_exitcode(status) if ended else None)


def _answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def _become(program: str, arguments: list[str], said: str) -> NoReturn:
    """Be a command, in a fork, until it ends."""
    os.setsid()
    for descriptor, path in enumerate((os.devnull, said, os.devnull)):
        os.dup2(os.open(path, os.O_RDWR), descriptor)
    _leave_open()
    tempfile.tempdir = None
    workers.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": _Fork})  # type: ignore[assignment,attr-defined]
    _run(program, arguments)


def _leave_open(*descriptors: int) -> None:
    """Close all files but these and those of input, output and errors."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in (0, 1, 2, *descriptors):
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def _run(program: str, arguments: list[str]) -> NoReturn:
    """Run a program, and end this process whatever comes of it."""
    sys.argv, status = ["-c", *arguments], 1
    try:
        exec(program, {"__name__": "__main__"})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - below lies what the fork is a fork of, which must not go on in it
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


class _Fork:
    """What a process that starts a worker gets for ``subprocess.Popen([python, "-c", program, ...], ...)``."""

    def __init__(self, command: list[str], *, stdin: int, pass_fds: Sequence[int], process_group: int) -> None:
        _, program, *arguments = command[command.index("-c") :]
        self.pid = os.fork()
        with contextlib.suppress(OSError):  # both do it, so that it is done for either
            os.setpgid(self.pid, process_group)
        if not self.pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _leave_open(*pass_fds)
            _run(program, arguments)

    def wait(self) -> int:
        """Wait until it has ended, and return how."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


if __name__ == "__main__":
    serve()
