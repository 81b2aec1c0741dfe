"""Processes that compute for this one, one call at a time each, and end with it, whatever ends it.

What is left to do of a call when it has been computed, as to wait for a disk, is done while the next one is computed.

Each is a fresh interpreter at the other end of a pair of sockets. There are no semaphores, no files and no process that
keeps watch, so that a kill leaves nothing behind: a worker that finds its socket closed kills its process group, with
all processes that a call has started.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, Self, TypeVar

T = TypeVar("T")
Tell = Callable[[Any], None]
"""Sends anything that can be pickled to the process that waits for a call's end."""

# Whether the parent is there is looked at from the very first: imports take seconds on a busy machine.
_PROGRAM = """
import os, signal, sys, threading, time
parent = int(sys.argv[2])

def end_with_parent():
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_parent, daemon=True).start()
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:], sys.argv = connection.recv()
from byheart.workers import work
work(connection)
"""


@dataclass(frozen=True)
class Event(Generic[T]):
    """What happened to a call."""

    call: T
    """What the call was named when it was started."""
    kind: Literal["told", "ended", "died"]
    value: Any
    """What was told; what the call returned, or the error that it raised; in which way the process ended."""


class Workers(Generic[T]):
    """Worker processes, each started when there is a call for it; after a ``with`` block all of them are gone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._workers: list[_Worker[T]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()

    @property
    def is_busy(self) -> bool:
        """Whether a call has not ended yet."""
        return any(worker.calls for worker in self._workers)

    @property
    def is_free(self) -> bool:
        """Whether another call can be started now."""
        return sum(worker.is_computing for worker in self._workers) < self.size

    def start(self, call: T, function: Callable[..., Any], *args: Any) -> None:
        """Let a free worker call ``function(tell, *args)``, and what that returns; the value of this is the call's.

        Raises:
            Exception: Whatever the arguments raise if they cannot be pickled.
        """
        import cloudpickle

        content = cloudpickle.dumps((function, args))
        worker = next((worker for worker in self._workers if not worker.is_computing), None)
        if worker is None:
            self._workers.append(worker := _Worker[T]())
        worker.calls.append(call)
        worker.is_computing = True
        with suppress(OSError):  # it died meanwhile, which ``wait`` finds
            worker.connection.send_bytes(content)

    def wait(self, seconds: float) -> list[Event[T]]:
        """Return what has happened since; nothing, if nothing does in so many seconds or a worker became free."""
        events: list[Event[T]] = []
        busy = {worker.connection: worker for worker in self._workers if worker.calls}
        for connection in wait(list(busy), seconds):
            assert isinstance(connection, Connection)
            worker = busy[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                how = worker.kill()
                self._workers.remove(worker)
                events += [Event(call, "died", how) for call in worker.calls]
                continue
            if kind == "computed":
                worker.is_computing = False
            elif kind == "told":
                events.append(Event(worker.calls[-1], kind, value))
            else:
                events.append(Event(worker.calls.popleft(), kind, value))
        return events


class _Worker(Generic[T]):
    def __init__(self) -> None:
        self.calls = deque[T]()  # that have not ended: the last is being computed, or has been
        self.is_computing = False
        self.connection, theirs = Pipe()
        with theirs:
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        with suppress(OSError):
            self.connection.send((sys.path, sys.argv))

    def kill(self) -> str:
        """End the process and all that it has started, and say how it ended."""
        with suppress(OSError):  # on some systems a group of processes that have ended is not there
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        status = self.process.wait()
        if status < 0:
            return f"was killed by signal {-status}{' (out of memory?)' if -status == signal.SIGKILL else ''}"
        return f"ended with status {status}"


def work(connection: Connection) -> NoReturn:
    """Make one call after the other for the parent, in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock, suppress(OSError):  # the parent is gone
            connection.send((kind, value))

    with ThreadPoolExecutor(1) as aside:
        before: Future[Any] = aside.submit(int)
        while True:
            content = calls.get()
            try:
                function, args = pickle.loads(content)
                rest = function(functools.partial(send, "told"), *args)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a call raises is its result
                rest = functools.partial(_value, portable(error))
            before.result()  # of at most one call something is left to do
            send("computed", None)  # before it ends: of a worker without calls nothing is expected
            before = aside.submit(_finish, send, rest)


def _finish(send: Callable[[str, Any], None], rest: Callable[[], Any]) -> None:
    """Do what is left of a call, and send its value."""
    try:
        value = rest()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        value = portable(error)
    send("ended", value)


def _value(value: T) -> T:
    return value


def _listen(connection: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Take in calls; once the parent is gone, end this process and all that it has started."""
    with suppress(EOFError, OSError):
        while True:
            calls.put(connection.recv_bytes())
    os.killpg(0, signal.SIGKILL)


def portable(error: BaseException) -> Exception:
    """Return the error itself if it can travel between processes, else one that says the same."""
    saying_the_same = RuntimeError(f"{type(error).__name__}: {error}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class of the user's may fail in any way when it is rebuilt
        return saying_the_same
    return error if isinstance(error, Exception) else saying_the_same


def n_cores() -> int:
    """Return the number of cores that this process may use, as a cluster or a container limits them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (
        ("/sys/fs/cgroup/cpu.max", ""),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        with suppress(OSError, ValueError):  # no such limit, or "max"
            words = Path(quota).read_text().split() + (Path(period).read_text().split() if period else [])
            if int(words[0]) > 0:
                found = min(found, math.ceil(int(words[0]) / int(words[1])))
    return max(found, 1)


def throttled(tell: Tell, seconds: float) -> Tell:
    """Return what tells at most once in so many seconds."""
    last = -math.inf

    def tell_now_and_then(told: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            tell(told)

    return tell_now_and_then
