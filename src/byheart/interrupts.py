"""Ctrl-C in the command line: once to stop, twice to stop at once; one line, and never a traceback.

Imports are left at once: an interrupt that is raised within one may come out as another error, or be swallowed.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

STATUS = 130
_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar has hidden
_is_answered = _is_said = False


def answer() -> None:
    """Answer Ctrl-C from now on: with a KeyboardInterrupt, or where none can be relied on, by leaving."""
    global _is_answered
    if _is_answered or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a command in the background
        return
    _is_answered = True
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    threading.Thread(target=_leave_at_the_second, args=(ours, theirs), daemon=True).start()
    signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable
    # While Python takes itself apart, the signal would kill it, in place of a status that is the command's own.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def say(words: str) -> None:
    """Print the line of an interrupted command to stderr, if none was printed yet."""
    global _is_said
    if not _is_said:
        _is_said = True
        sys.stderr.flush()
        os.write(2, f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}{words}\n".encode())


def leave() -> NoReturn:
    """End the process; its workers end with it."""
    say("interrupted")
    os._exit(STATUS)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__") in ("importlib._bootstrap", "_frozen_importlib"):
            leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave_at_the_second(ours: socket.socket, theirs: socket.socket) -> None:
    """Leave although the main thread computes something that lets no handler run."""
    n_interrupts = 0
    while received := theirs.recv(1):
        n_interrupts += received[0] == signal.SIGINT
        if n_interrupts == 2:
            leave()


def _unraisable(found: Any) -> None:
    """Leave if the interrupt fell where errors are dropped, as in a callback of the collector of garbage."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        leave()
    sys.__unraisablehook__(found)
