"""Files that appear whole or not at all, in a directory of this machine or an object store that fsspec knows.

A place is a path, or a URL such as ``s3://bucket/runs``. On this machine a file is written under a temporary name,
flushed to disk and renamed; in an object store it is put in one request. There are no lock files: who writes the same
name twice replaces one whole file by another.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError as error:  # locks, process groups and pipes are those of POSIX, here and in ``workers``
    raise ModuleNotFoundError("system: received Windows, accepted: Linux, macOS, or WSL on Windows") from error

Place = Path | str
"""A path of this machine, or the URL of an object."""

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory")
"""Stores in which an object is put whole or not at all, as fsspec names them."""

_TEMPORARY = re.compile(r"\.byheart-[0-9a-f]{32}\.tmp")
_TRIES = 3  # of a file whose temporary name someone cleaned away before it could be locked


def place(where: str | Path) -> Place:
    """Return a path, or a URL without a slash at its end.

    Raises:
        ValueError: If it is nothing, or a URL without a bucket, of a store in which a file may be seen half written, or
            with one slash, as pathlib leaves it.
        ModuleNotFoundError: If the package of that store is missing; the message is the command that installs it.
    """
    protocol, colon, rest = str(where).partition(":")
    is_known = bool(colon) and protocol in PROTOCOLS
    if isinstance(where, Path) or not rest.startswith("//"):
        is_url = is_known or (isinstance(where, Path) and where.parts[:1] == (f"{protocol}:",))  # as pathlib leaves it
        if is_url or not str(where) or "\0" in str(where):
            accepted = f"{protocol}://BUCKET/DIRECTORY, as a text" if is_known else "a directory, or a URL as a text"
            raise ValueError(f"store: received {str(where)!r}, accepted: {accepted}")
        return Path(where)
    if protocol in ("file", "local"):
        return Path(rest[2:])
    if not is_known:
        raise ValueError(f"store: received {where}, accepted: a directory, or {'://, '.join(PROTOCOLS)}://")
    if not rest.strip("/"):
        raise ValueError(f"store: received {where}, accepted: {protocol}://BUCKET/DIRECTORY")
    _file_system(where)
    return where.rstrip("/")


def join(directory: Place, name: str) -> Place:
    """Return the place of a file in a directory."""
    return directory / name if isinstance(directory, Path) else f"{directory}/{name}"


def name_of(where: Place) -> str:
    """Return the last part of a place."""
    return where.name if isinstance(where, Path) else where.rpartition("/")[2]


def exists(where: Place) -> bool:
    """Whether something has this name, a file or not."""
    if isinstance(where, Path):
        return os.path.lexists(where)
    return bool(_call(where, "exists"))


def names(directory: Place, suffix: str) -> list[str]:
    """Return the sorted names in a directory that end so, hidden ones left out; none if there is no such directory."""
    if isinstance(directory, Path):
        try:
            found = os.listdir(directory)  # noqa: PTH208 - a path for each of 10,000 names takes its time
        except (FileNotFoundError, NotADirectoryError):
            return []
    else:
        found = [name_of(each["name"]) for each in _listed(directory)]
    return sorted(name for name in found if name.endswith(suffix) and not name.startswith("."))


def read_start(where: Place, n_bytes: int) -> tuple[bytes, int]:
    """Return the first bytes of a file, and how many it has; a pipe or device is never opened such that it waits.

    Raises:
        OSError: If it cannot be read or is no regular file.
    """
    if isinstance(where, Path):
        with _opened(where) as descriptor:
            return _read(descriptor, n_bytes), os.fstat(descriptor).st_size
    size = int(_call(where, "info")["size"] or 0)
    return _call(where, "cat_file", start=0, end=min(n_bytes, size)) if size else b"", size


def read_starts(directory: Place, found: list[str], n_bytes: int) -> list[tuple[bytes, int] | OSError]:
    """Return what ``read_start`` does of many files of a directory, of an object store in few round trips."""
    starts: list[tuple[bytes, int] | OSError] = []
    if isinstance(directory, Path):
        for name in found:
            try:
                starts.append(read_start(directory / name, n_bytes))
            except OSError as error:
                starts.append(error)
        return starts
    sizes = {name_of(each["name"]): int(each["size"] or 0) for each in _listed(directory)}
    filled = [name for name in found if sizes.get(name)]
    places, stops = [f"{directory}/{name}" for name in filled], [min(n_bytes, sizes[name]) for name in filled]
    contents = _call(places, "cat_ranges", [0] * len(filled), stops, on_error="return") if filled else []
    by_name = dict(zip(filled, contents, strict=True))
    for name in found:
        content = by_name.get(name, b"")
        is_read = isinstance(content, bytes)
        starts.append((content, sizes.get(name, 0)) if is_read else OSError(f"{type(content).__name__}: {content}"))
    return starts


def read_bytes(where: Place) -> bytes:
    """Return the contents of a file.

    Raises:
        OSError: If it cannot be read or is no regular file.
    """
    if isinstance(where, Path):
        with _opened(where) as descriptor:
            return _read(descriptor, os.fstat(descriptor).st_size)
    content: bytes = _call(where, "cat_file")
    return content


def remove(where: Place) -> None:
    """Remove a file."""
    if isinstance(where, Path):
        where.unlink()
    else:
        _call(where, "rm_file")


def prepare_directory(directory: str | Path) -> Place:
    """Make a directory and check that results can be written to it, before any time is spent on them.

    What killed writers left half written is removed.

    Raises:
        ValueError: If it is the URL of no object store.
        OSError: If it cannot be made or written to.
    """
    where = place(directory)
    probe = join(where, _temporary_name())
    try:
        if isinstance(where, Path):
            where.mkdir(parents=True, exist_ok=True)
            _remove_stale(where)
        _write_flushed(probe, bytes(65_536))
    except OSError as error:
        raise OSError(
            f"out: received {directory} ({error.strerror or error}), accepted: a writable directory"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            remove(probe)
    return where


class UnwritableError(OSError):
    """A file could not be written; ``strerror`` says why, and ``filename`` is the file's, not a temporary one's."""

    def __str__(self) -> str:
        """Return what was received and what is accepted."""
        return f"out: received {self.filename} ({self.strerror}), accepted: a writable place"


def write_atomically(where: str | Path, content: bytes) -> Place:
    """Write a file that appears whole or not at all, and return its place; its directory must be there.

    Raises:
        OSError: If it cannot be written or the disk is full; nothing is left behind.
    """
    target = place(where)
    if not isinstance(target, Path):
        _write_flushed(target, content)
        return target
    try:
        _write_and_rename(target, content)
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(target)) from error
    return target


def _write_and_rename(target: Path, content: bytes) -> None:
    for tries_left in reversed(range(_TRIES)):
        temporary = target.with_name(_temporary_name())
        try:
            _write_flushed(temporary, content)
            temporary.replace(target)
            break
        except FileNotFoundError:
            if not tries_left or not target.parent.is_dir():
                raise
        finally:
            temporary.unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _temporary_name() -> str:
    """A name that no other thread, process, container or machine takes."""
    return f".byheart-{uuid.uuid4().hex}.tmp"


def _write_flushed(where: Place, content: bytes) -> None:
    if not isinstance(where, Path):
        _call(where, "pipe_file", content)
        return
    with where.open("xb") as file:
        with contextlib.suppress(OSError):  # file systems without locks: nobody takes this file for left behind then
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove_stale(directory: Path) -> None:
    """Remove temporary files that nobody holds locked: their writers were killed."""
    for name in os.listdir(directory):  # noqa: PTH208
        if not _TEMPORARY.fullmatch(name):
            continue
        with contextlib.suppress(OSError), _opened(directory / name, os.O_RDWR) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (directory / name).unlink()


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a regular file; a pipe does not make one wait."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, n_bytes: int) -> bytes:
    """Read so many bytes, or all if there are fewer."""
    parts = []
    while n_bytes > 0 and (part := os.read(descriptor, min(n_bytes, 2**30))):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _listed(directory: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = _call(directory, "ls", detail=True)
    except FileNotFoundError:
        return []
    return found


@functools.lru_cache(maxsize=64)
def _of_protocol(protocol: str, process: int) -> Any:
    """The file system of a protocol in this process, which keeps no listings: others write too."""
    import fsspec

    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=protocol != "memory")
    except ImportError as error:
        words = f'{protocol}:// needs another package ({error}): pip install "byheart[cluster]", which has that of s3'
        raise ModuleNotFoundError(words) from error


def _file_system(url: str) -> Any:
    return _of_protocol(url.partition("://")[0], os.getpid())


def _call(where: str | list[str], method: str, *args: Any, **options: Any) -> Any:
    """Call a method of the file system of a URL, or of several.

    Raises:
        OSError: Whatever the store's own library raised.
    """
    first = where if isinstance(where, str) else where[0]
    try:
        return getattr(_file_system(first), method)(where, *args, **options)
    except OSError:
        raise
    except Exception as error:  # each store's library has errors of its own
        raise OSError(" ".join(f"{type(error).__name__}: {error}".split())) from error
