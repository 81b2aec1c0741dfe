"""One result = one file: arrays, a header of texts, and digests of both, in the safetensors format.

A file appears whole or not at all: it is written under a temporary name, flushed to disk and renamed. The digests show
a damaged or edited file. What a header holds is for its owner to decide; most of its texts are JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

SUFFIX = ".safetensors"
Identity = Mapping[str, Any]
"""What a result depends on beyond its key, by name, as JSON values."""


@dataclass(frozen=True, eq=False)
class Record:
    """A result: arrays by name, and texts by name."""

    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, str]


class Records:
    """The results that a directory holds, each a file named after its key."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def path(self, key: str) -> Path:
        """Return the file of a result, whether it is there or not."""
        return self.directory / f"{key}{SUFFIX}"

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    def keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self.directory.glob(f"*{SUFFIX}"))

    def check(self, key: str, identity: Identity = MappingProxyType({})) -> None:
        """Check that the header of a result which is there is whole, and that it is the result that is asked for.

        Args:
            key: Name of the result.
            identity: What else the result depends on, by name, as JSON values.

        Raises:
            ValueError: If the file is damaged or was edited, or it was made from something else.
        """
        kept, asked = (
            json.loads(read_header(self.path(key)).get("identity", "{}")),
            json.loads(json.dumps(dict(identity))),
        )
        if differing := [name for name in {**asked, **kept} if asked.get(name) != kept.get(name)]:
            raise ValueError(
                f"store: received {self.path(key)} of other {', '.join(differing)}, accepted: an empty directory, or"
                " one of the same call"
            )

    def write(self, key: str, record: Record, identity: Identity = MappingProxyType({})) -> Path:
        """Keep a result, and return its file.

        Raises:
            OSError: If it cannot be written or the disk is full; nothing is left behind.
        """
        header = {**record.header, **({"identity": json.dumps(dict(identity))} if identity else {})}
        return write(self.path(key), Record(record.arrays, header))

    def read(self, key: str) -> Record:
        """Return a result.

        Raises:
            ValueError: If the file is missing, damaged or was edited.
        """
        return read(self.path(key))

    def read_or_compute(
        self, key: str, compute: Callable[[], Record], identity: Identity = MappingProxyType({})
    ) -> Record:
        """Return a result that is there, or compute and keep it.

        Raises:
            ValueError: If the result that is there is damaged, or was made from something else.
            OSError: If the result cannot be written.
        """
        if key not in self:
            self.write(key, compute(), identity)
        self.check(key, identity)
        return self.read(key)


def prepare_directory(directory: str | Path) -> Path:
    """Make a directory and check that results can be written to it, before any time is spent on them.

    Raises:
        OSError: If it cannot be made or written to.
    """
    directory = Path(directory)
    probe = directory / f".probe-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(probe, bytes(65_536))
    except OSError as error:
        raise OSError(f"out: received {directory} ({error.strerror}), accepted: a writable directory") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return directory


def write(path: str | Path, record: Record, what: str = "file") -> Path:
    """Write a record to a file whose directory is made if missing, and return its path.

    Raises:
        OSError: If it cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    header = {**record.header, "arrays_digest": _digest_arrays(record.arrays)}
    header["header_digest"] = _digest_header(header)
    contiguous = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save(contiguous, metadata=header)
    try:
        return write_atomically(path, content)
    except OSError as error:
        raise OSError(
            f"{what}: received {path} ({error.strerror}), accepted: a writable place with room for {len(content)} bytes"
        ) from error


def read_header(path: str | Path, what: str = "file") -> dict[str, str]:
    """Return the texts of a record without reading its arrays.

    Args:
        path: File of the record.
        what: What the file is called in messages.

    Raises:
        ValueError: If the file is missing or no record, is truncated, or its header was edited.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise not_whole(path, str(error), what) from error
    if header.get("header_digest") != _digest_header(header):
        raise not_whole(path, "its header does not match its digest", what)
    return header


def read(path: str | Path, what: str = "file") -> Record:
    """Return a record.

    Raises:
        ValueError: If the file is missing or no record, is truncated, or was edited.
    """
    path = Path(path)
    header = read_header(path, what)
    arrays = load_file(path)
    if _digest_arrays(arrays) != header["arrays_digest"]:
        raise not_whole(path, "its arrays do not match their digest", what)
    return Record(arrays, header)


def not_whole(path: Path, why: str, what: str) -> ValueError:
    """Return the error for a file that is not what it should be."""
    return ValueError(f"{what}: received {path} ({why}), accepted: a whole {what} as byheart wrote it")


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the arrays' shapes, types and contents."""
    result = hashlib.sha256()
    for array in arrays:
        result.update(f"{array.shape}{array.dtype.str}".encode())
        result.update(np.ascontiguousarray(array).data)
    return result.hexdigest()


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file that appears whole or not at all, and return its path.

    Raises:
        OSError: If it cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def _digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    names = sorted(arrays)
    return hashlib.sha256((" ".join(names) + digest(*(arrays[name] for name in names))).encode()).hexdigest()


def _digest_header(header: Mapping[str, str]) -> str:
    return hashlib.sha256(
        json.dumps({k: v for k, v in header.items() if k != "header_digest"}, sort_keys=True).encode()
    ).hexdigest()
