"""Dask clusters that tests start on the loopback interface, and end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, Popen

from processes import running, wait_until


@dataclass
class Processes:
    """A scheduler and its workers."""

    directory: Path
    address: str
    scheduler: Popen[str]
    workers: list[Popen[str]] = field(default_factory=list)


def _dask(what: str, *options: object) -> tuple[object, ...]:
    return sys.executable, "-m", "distributed.cli.dask_" + what, "--no-dashboard", *options


@contextlib.contextmanager
def cluster(directory: Path, n_workers: int = 2, n_threads: int = 1) -> Iterator[Processes]:
    """Start a scheduler and workers, each in a directory of its own."""
    found = directory / f"scheduler-of-{n_threads}.json"
    quiet = {"stdout": DEVNULL, "stderr": DEVNULL, "cwd": directory}
    with contextlib.ExitStack() as stack:
        interface = ("--host", "127.0.0.1", "--port", "0")
        scheduler = stack.enter_context(running(*_dask("scheduler", "--scheduler-file", found, *interface), **quiet))
        wait_until(lambda: found.exists() and '"address"' in found.read_text())
        address = found.read_text().split('"address": "')[1].split('"')[0]
        processes = Processes(directory, address, scheduler)
        for _ in range(n_workers):
            options = ("--nthreads", n_threads, "--no-nanny", "--local-directory", directory)
            processes.workers.append(stack.enter_context(running(*_dask("worker", address, *options), **quiet)))
        import distributed

        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=100)
        yield processes
