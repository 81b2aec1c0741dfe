"""Ctrl-C for real, at any moment of a command: one line, status 130, no traceback, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import running, wait_until

from byheart.records import Records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").exists(), reason="watches processes through /proc"),
]

_SIZES = ["--n-examples", "3", "4", "5", "--n-features", "50", "--sparsity", "0.8"]
_ENDLESS = 100_000_000
_STARTS = {  # what may not be interrupted before Python itself has started
    "train": ["train", "--n-examples", "3", "--n-features", "50", "--sparsity", "0.8", "--n-steps", str(_ENDLESS)],
    "sweep": ["sweep", *_SIZES, "--n-steps", str(_ENDLESS)],
    "reproduce": ["reproduce", "double-descent", "--scale", "medium"],
    "counterfactual": ["counterfactual", "kjv"],
    "leaderboard": ["leaderboard"],
    "audit": ["audit", "digits"],
    "recite": ["recite", "nothing", "here.txt"],
    "copied": ["copied", "nothing.txt", "--from", "here.txt"],
    "forgotten": ["forgotten", "nothing", "here", "--spans", "spans.json"],
}


def interrupted(directory: Path, arguments: list[str], when, times: int = 1) -> tuple[int, str]:
    """Interrupt a command when something is true of its process, and return its status and what it wrote to stderr."""
    command = [sys.executable, "-m", "byheart", *arguments]
    settings = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with running(*command, **settings) as process:
        wait_until(lambda: when(process.pid) or process.poll() is not None)
        for number in range(times):
            time.sleep(0.1 * number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        _, words = process.communicate(timeout=100)
        return process.returncode, words


def _is_importing(library: str):
    """Whether a process has loaded a library, early in its imports."""
    return lambda pid: library in _text(f"/proc/{pid}/maps")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("verb", _STARTS)
def test_during_imports(tmp_path, verb):
    status, words = interrupted(tmp_path, _STARTS[verb], _is_importing("_multiarray_umath"))
    assert (status, words) == (130, "interrupted\n")


def test_once_stops_starting_and_says_what_is_kept(tmp_path):
    quick = ["sweep", *_SIZES, "--n-steps", "20", "--out", "runs"]
    subprocess.run([sys.executable, "-m", "byheart", *quick], cwd=tmp_path, check=True, capture_output=True)
    arguments = ["sweep", *_SIZES, "--n-steps", "20", str(_ENDLESS), "--n-workers", "1", "--out", "runs"]
    status, words = interrupted(tmp_path, arguments, lambda pid: _children(pid))
    assert status == 130
    assert len(Records(tmp_path / "runs").keys()) == 3
    assert words == "interrupted; 3 finished runs are kept, and the same command goes on from there\n"
    assert not [path for path in (tmp_path / "runs").iterdir() if path.suffix != ".safetensors"]


def test_twice_leaves_at_once(tmp_path):
    arguments = ["sweep", *_SIZES, "--n-steps", str(_ENDLESS), "--n-workers", "2", "--out", "runs"]
    workers: list[int] = []

    def is_training(pid: int) -> bool:
        workers[:] = _children(pid)
        return len(workers) == 2

    status, words = interrupted(tmp_path, arguments, is_training, times=2)
    assert (status, words) == (130, "interrupted\n")
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() and _text(f"/proc/{pid}/cmdline") for pid in workers))


LATE = """
import atexit, os, subprocess, sys
from byheart import interrupts

often = f"for _ in $(seq 2000); do kill -INT {os.getpid()} || exit; done"
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
atexit.register(subprocess.Popen, ["sh", "-c", often], **quiet)  # when all is done: what is registered first comes last
interrupts.answer()
import numpy  # there is something to take apart
sys.exit(3)
"""


def test_while_python_takes_itself_apart_the_status_stays_that_of_the_command():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


def _children(pid: int) -> list[int]:
    return [int(child) for child in _text(f"/proc/{pid}/task/{pid}/children").split()]
