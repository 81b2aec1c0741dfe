"""Processes that tests start: whatever happens, none is left behind, and no pipe stays open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
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
