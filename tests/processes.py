"""Processes that tests start: whatever happens, none is left behind, and no pipe stays open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 180.0  # seconds until a process that should have ended counts as hanging, on however busy a machine


@contextlib.contextmanager
def running(*command: object, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process group of its own, which is killed in the end; settings are those of Popen."""
    with subprocess.Popen([*map(str, command)], text=True, start_new_session=True, **settings) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(happens: Callable[[], bool]) -> None:
    """Wait for something that is sure to happen."""
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.05)
