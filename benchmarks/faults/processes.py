"""Faults of processes: of a command, its workers, a Dask cluster; and several commands on one store."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.scene import Found, Scene
from benchmarks.kills import kill
from benchmarks.servers import dask, s3

_SECONDS_CUT_OFF = 8.0
_TIME_TO_LIVE = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}  # after which a scheduler gives up a silent worker


def command_killed(scene: Scene, found: Found) -> None:
    """Kill a sweep, but none of its workers."""
    store = scene.place()
    with scene.compared(found, store) as note:
        command = scene.sweep(store)
        scene.until_some_are_there(store, command)
        command.process.kill()
        command.answer()
        note()
        found.n_old_processes += command.count_old_processes()


def worker_killed(scene: Scene, found: Found) -> None:
    """Kill a worker of a sweep, which has to finish all the same."""
    store = scene.place()
    with scene.compared(found, store) as note:
        command = scene.sweep(store)
        scene.until_some_are_there(store, command)
        if workers := command.workers():
            kill(scene.random.choice(workers))
        note()
        answer = command.answer()
        found.count(answer, answer.is_done)
        found.n_old_processes += command.count_old_processes()


def dask_worker_killed(scene: Scene, found: Found) -> None:
    """Kill one of two workers of a cluster; the sweep has to finish all the same."""
    store = scene.place()
    with dask() as servers, scene.compared(found, store) as note:
        command = scene.sweep(store, "--cluster", servers.address)
        scene.until_some_are_there(store, command)
        scene.random.choice(servers.workers).kill()
        note()
        answer = command.answer()
        found.count(answer, answer.is_done)


def dask_worker_cut_off(scene: Scene, found: Found) -> None:
    """Stop one of two workers for longer than the scheduler waits for its heartbeat, then let it go on."""
    store = scene.place()
    with dask(environment=_TIME_TO_LIVE) as servers, scene.compared(found, store) as note:
        command = scene.sweep(store, "--cluster", servers.address)
        scene.until_some_are_there(store, command)
        worker = scene.random.choice(servers.workers)
        worker.send_signal(signal.SIGSTOP)
        note()
        time.sleep(_SECONDS_CUT_OFF)
        worker.send_signal(signal.SIGCONT)
        answer = command.answer()
        found.count(answer, answer.is_done)


def scheduler_killed(scene: Scene, found: Found) -> None:
    """Kill the scheduler of a cluster: the sweep ends with status 1 and says why, and goes on without it."""
    store = scene.place()
    with dask() as servers, scene.compared(found, store) as note:
        command = scene.sweep(store, "--cluster", servers.address)
        scene.until_some_are_there(store, command)
        servers.scheduler.kill()
        answer = command.answer()
        note()
        is_said = "scheduler is gone" in answer.words and "Traceback" not in answer.words
        found.count(answer, answer.status == 1 and is_said)
        found.n_old_processes += command.count_old_processes()


def at_once(scene: Scene, found: Found, n_commands: int, in_bucket: bool) -> None:
    """Start the same sweep several times at once on one store."""
    with s3() if in_bucket else contextlib.nullcontext(("", None)) as (bucket, _):
        place = scene.place()
        _at_once(scene, found, n_commands, f"{bucket}/{place.name}" if in_bucket else place)


def _at_once(scene: Scene, found: Found, n_commands: int, store: Path | str) -> None:
    with scene.compared(found, store) as note:
        commands = [scene.sweep(store) for _ in range(n_commands)]
        scene.until_some_are_there(store, commands[0])
        note()
        for answer in [command.answer() for command in commands]:
            found.count(answer, answer.is_done)
        found.n_old_processes += sum(command.count_old_processes() for command in commands)


PROCESSES: dict[tuple[str, str], Callable[[Scene, Found], None]] = {
    ("command killed", "kill -9 of byheart sweep alone, its workers left"): command_killed,
    ("worker killed", "kill -9 of one of two workers of byheart sweep"): worker_killed,
    ("Dask worker killed", "kill -9 of one of two workers, byheart sweep --cluster"): dask_worker_killed,
    ("Dask worker cut off", "stopped for 8 s, given up after 3 s, then let go on"): dask_worker_cut_off,
    ("Dask scheduler killed", "kill -9 of it, byheart sweep --cluster"): scheduler_killed,
    ("two sweeps at once", "on one directory"): functools.partial(at_once, n_commands=2, in_bucket=False),
    ("two sweeps at once, S3", "on one bucket"): functools.partial(at_once, n_commands=2, in_bucket=True),
    ("four sweeps at once", "on one directory"): functools.partial(at_once, n_commands=4, in_bucket=False),
    ("four sweeps at once, S3", "on one bucket"): functools.partial(at_once, n_commands=4, in_bucket=True),
}
"""What is done by each name of a fault and words about it."""
