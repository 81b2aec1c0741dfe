"""Faults of stores: full, read-only, gone, cut off, each in mid-run, and mended before the command is run again."""

from __future__ import annotations

import errno
import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.scene import Answer, Command, Found, Scene
from benchmarks.servers import dask, remount, s3, small_disk, wait_for

_BYTES = 2**20


def _fill(directory: Path) -> Path:
    """Fill the disk of a directory with one file."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return filler


def disk_full(scene: Scene, found: Found, on_cluster: bool) -> None:
    """Fill the disk of a store in mid-run, then make room."""
    if on_cluster:
        with dask() as servers:
            _disk_full(scene, found, "--cluster", servers.address)
    else:
        _disk_full(scene, found)


def _disk_full(scene: Scene, found: Found, *options: str) -> None:
    store = scene.place()
    with small_disk(store, _BYTES), scene.compared(found, store) as note:
        command = scene.sweep(store, *options)
        scene.until_some_are_there(store, command)
        filler = _fill(store)
        _count(found, command, answer := command.answer(), answer.names_a_run)
        note()
        filler.unlink()


def disk_full_of_one_run(scene: Scene, found: Found) -> None:
    """Fill the disk while one model is trained; nothing is kept then, and the same command trains it again."""
    store = scene.place()
    words = ("train", "--n-examples", "3", "--n-features", "200", "--sparsity", "0.9", "--out", store)
    with small_disk(store, _BYTES):
        found.n_tried += 1
        made = store.stat().st_mtime_ns
        command = scene.start(*words, "--n-steps", "100000")
        wait_for(lambda: store.stat().st_mtime_ns > made or command.process.poll() is not None)  # it has tried to write
        filler = _fill(store)
        _count(found, command, answer := command.answer(), answer.names_a_run)
        found.n_stray_files += len(list(store.iterdir())) - 1
        filler.unlink()
        answer = scene.start(*words, "--n-steps", "1000").answer()
        found.count(answer, answer.is_done)


def read_only_at_the_start(scene: Scene, found: Found) -> None:
    """Start a sweep on a directory that cannot be written to."""
    store = scene.place()
    with small_disk(store, _BYTES), scene.compared(found, store):
        remount(store, "ro")
        command = scene.sweep(store)
        _count(found, command, answer := command.answer(), answer.is_one_line(2, "accepted: a writable directory"))
        remount(store, "rw")


def read_only_in_mid_run(scene: Scene, found: Found) -> None:
    """Make the disk of a store read-only in mid-run, as after an error of its hardware."""
    store = scene.place()
    with small_disk(store, _BYTES), scene.compared(found, store) as note:
        command = scene.sweep(store)
        scene.until_some_are_there(store, command)
        wait_for(lambda: _is_made(functools.partial(remount, store, "ro")))  # not while a file is open for writing
        answer = command.answer()
        note()
        _count(found, command, answer, answer.names_a_run)
        remount(store, "rw")


def _is_made(change: Callable[[], None]) -> bool:
    try:
        change()
    except subprocess.CalledProcessError:
        return False
    return True


def directory_moved(scene: Scene, found: Found) -> None:
    """Move the directory of a store away in mid-run, then back."""
    store, elsewhere = scene.place(), scene.place()
    with scene.compared(found, store) as note:
        command = scene.sweep(store)
        scene.until_some_are_there(store, command)
        note()
        store.rename(elsewhere)
        answer = command.answer()
        if store.exists():  # it must not be made again
            found.n_stray_files += len(list(store.iterdir()))
            shutil.rmtree(store)
        elsewhere.rename(store)
        _count(found, command, answer, answer.names_a_run)


def bucket_cut_off(scene: Scene, found: Found) -> None:
    """Refuse all connections to a store that speaks S3 in mid-run, then let them through."""
    with s3() as (bucket, proxy):
        store = f"{bucket}/{scene.place().name}"
        with scene.compared(found, store) as note:
            command = scene.sweep(store)
            scene.until_some_are_there(store, command)
            proxy.cut()
            answer = command.answer()
            proxy.mend()
            note()
            _count(found, command, answer, answer.names_a_run)


def _count(found: Found, command: Command, answer: Answer, is_as_promised: bool) -> None:
    found.count(answer, is_as_promised)
    found.n_old_processes += command.count_old_processes()


STORES: dict[tuple[str, str], Callable[[Scene, Found], None]] = {
    ("disk full", "in mid-run of byheart sweep"): functools.partial(disk_full, on_cluster=False),
    ("disk full, Dask", "in mid-run of byheart sweep --cluster"): functools.partial(disk_full, on_cluster=True),
    ("disk full, one run", "in mid-run of byheart train"): disk_full_of_one_run,
    ("read-only at the start", "disk of byheart sweep"): read_only_at_the_start,
    ("read-only", "disk, in mid-run of byheart sweep"): read_only_in_mid_run,
    ("directory gone", "moved away in mid-run of byheart sweep, then back"): directory_moved,
    ("bucket gone", "connections to S3 refused in mid-run of byheart sweep"): bucket_cut_off,
}
"""What is done by each name of a fault and words about it."""
NEEDS_A_DISK = ("disk full", "disk full, Dask", "disk full, one run", "read-only at the start", "read-only")
