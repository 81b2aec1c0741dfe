"""What makes a result here and now: versions, git revision, device, and when."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance(*packages: str, **more: Any) -> dict[str, Any]:
    """Return what a result should say of where it comes from, as JSON values.

    Args:
        packages: Names of installed packages whose versions matter to the result.
        more: What else is to be recorded, such as the number of threads; ``device`` is this machine's processor unless
            given.
    """
    return {
        "byheart": metadata.version("byheart"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        **more,
        "device": more.get("device") or processor(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@functools.cache
def _git_revision() -> str | None:
    """The revision of the source tree, with "+" if it has uncommitted changes; None if installed without git."""
    source = Path(__file__).parent
    if not (source.parents[1] / ".git").exists() or shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--match", ""],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
