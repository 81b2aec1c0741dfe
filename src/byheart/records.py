"""One result = one file: arrays, a header of texts, and digests of both, in the safetensors format.

A file appears whole or not at all (``byheart.storage``). The digests show a damaged or edited file. What a header holds
is for its owner to decide; most of its texts are JSON. Nothing in a file is ever executed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from byheart import storage
from byheart.storage import Place

SUFFIX = ".safetensors"
FORMAT = "1"
"""Of the files; those without a number are of format 1 too."""
_HEADER_BYTES = 16_384  # enough for most headers
_TRIES = 3  # of an object, whose size and contents are two requests: others may replace it in between
_LARGEST_HEADER = 100_000_000  # bytes, as in safetensors
Identity = Mapping[str, Any]
"""What a result depends on beyond its key, by name, as JSON values."""


@dataclass(frozen=True, eq=False)
class Record:
    """A result: arrays by name, and texts by name."""

    arrays: Mapping[str, np.ndarray]
    header: Mapping[str, str]


class NewerFormatError(ValueError):
    """A file is of a format that a newer byheart made: it may well be whole, and is left as it is."""


class Records:
    """The results that a directory or an object store holds, each a file named after its key.

    Args:
        directory: A directory, or a URL such as "s3://bucket/runs".

    Raises:
        ValueError: If it is a URL of no object store.
        ModuleNotFoundError: If the package of the object store is missing; the message says how to install it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = storage.place(directory)

    def path(self, key: str) -> Place:
        """Return the file of a result, whether it is there or not."""
        return storage.join(self.directory, f"{key}{SUFFIX}")

    def __contains__(self, key: str) -> bool:
        return storage.exists(self.path(key))

    def keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        return [name.removesuffix(SUFFIX) for name in storage.names(self.directory, SUFFIX)]

    def check(self, key: str, identity: Identity = MappingProxyType({})) -> None:
        """Check that the header of a result which is there is whole, and that it is the result that is asked for.

        Args:
            key: Name of the result.
            identity: What else the result depends on, by name, as JSON values.

        Raises:
            ValueError: If the file is damaged or was edited, or it was made from something else.

        Warns:
            UserWarning: If another version of byheart made it; it counts as the result all the same.
        """
        header = read_header(self.path(key))
        warn_of_version(made_by(header), self.directory)
        kept, asked = json.loads(header.get("identity", "{}")), json.loads(json.dumps(dict(identity)))
        if differing := [name for name in {**asked, **kept} if asked.get(name) != kept.get(name)]:
            raise ValueError(
                f"store: received {self.path(key)} of other {', '.join(differing)}, accepted: an empty directory, or"
                " one of the same call"
            )

    def write(self, key: str, record: Record, identity: Identity = MappingProxyType({})) -> Place:
        """Keep a result, and return its file; the directory must be there.

        Raises:
            OSError: If it cannot be written, the disk is full or the directory is gone; nothing is left behind.
        """
        return self.writing(key, record, identity)()

    def writing(self, key: str, record: Record, identity: Identity = MappingProxyType({})) -> Callable[[], Place]:
        """Return what keeps a result, as ``write`` does; the arrays may change meanwhile, as they have been read."""
        header = {**record.header, **({"identity": json.dumps(dict(identity))} if identity else {})}
        return _writing(self.path(key), Record(record.arrays, header), "file")

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
            OSError: If the result cannot be written, or the directory is not there.
        """
        if key not in self:
            self.write(key, compute(), identity)
        self.check(key, identity)
        return self.read(key)


def write(path: str | Path, record: Record, what: str = "file") -> Place:
    """Write a record to a file whose directory is made if missing, and return its place.

    Raises:
        ValueError: If there is something that is no record of this kind; it stays as it is.
        OSError: If it cannot be written or the disk is full; nothing is left behind.
    """
    target = storage.place(path)
    try:
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error, what) from error
    return _writing(target, record, what)()


def _writing(target: Place, record: Record, what: str) -> Callable[[], Place]:
    """Return what writes a record, whose bytes are made at once."""
    header = {**record.header, "format": FORMAT, "arrays_digest": _digest_arrays(record.arrays)}
    header["header_digest"] = _digest_header(header)
    contiguous = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    content = save(contiguous, metadata=header)
    return functools.partial(_write, target, header, content, what)


def _write(target: Place, header: Mapping[str, str], content: bytes, what: str) -> Place:
    try:
        if storage.exists(target):
            _check_same_kind(target, header, what)
        return storage.write_atomically(target, content)
    except OSError as error:
        raise _unwritable(target, error, what, f" with room for {len(content)} bytes") from error


def _unwritable(target: Place, error: OSError, what: str, room: str = "") -> OSError:
    return OSError(f"{what}: received {target} ({error.strerror or error}), accepted: a writable place{room}")


def read_header(path: str | Path, what: str = "file") -> dict[str, str]:
    """Return the texts of a record without reading its arrays.

    Args:
        path: File of the record, or URL of an object.
        what: What the file is called in messages.

    Raises:
        ValueError: If the file is missing or no record, is truncated, its header was edited, or its format is newer.
    """
    path = storage.place(path)
    tries = 1 if isinstance(path, Path) else _TRIES
    for tries_left in reversed(range(tries)):
        try:
            return header_in(*storage.read_start(path, _HEADER_BYTES), path, what)
        except OSError as error:
            raise not_whole(path, error.strerror or str(error), what) from error
        except ValueError:
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def read_headers(directory: str | Path, what: str = "file") -> Iterator[tuple[Place, dict[str, str] | ValueError]]:
    """Yield the place of every record in a directory or object store with its texts, or with why it cannot be used.

    Raises:
        OSError: If an object store cannot be listed.
    """
    where = storage.place(directory)
    found = storage.names(where, SUFFIX)
    for name, start in zip(found, storage.read_starts(where, found, _HEADER_BYTES), strict=True):
        path = storage.join(where, name)
        if isinstance(start, OSError):
            yield path, not_whole(path, start.strerror or str(start), what)
            continue
        try:
            yield path, header_in(*start, path, what)
        except ValueError as error:
            yield path, error if isinstance(path, Path) else _header_or_error(path, what)


def _header_or_error(path: Place, what: str) -> dict[str, str] | ValueError:
    try:
        return read_header(path, what)
    except ValueError as error:
        return error


def header_in(start: bytes, size: int, path: Place, what: str) -> dict[str, str]:
    """Return the texts of a record.

    Args:
        start: First bytes of the file, all of it or enough for most headers; the rest is read if they are not.
        size: Bytes of the file.
        path: The file.
        what: What it is called in messages.

    Raises:
        ValueError: If it is no whole record.
    """
    stop = 8 + int.from_bytes(start[:8], "little")
    if len(start) < 8 or stop > min(size, _LARGEST_HEADER):
        raise not_whole(path, f"{size} bytes, too few for its header", what)
    try:
        if len(start) < stop:
            start, size = storage.read_start(path, stop)
        content = json.loads(start[8:stop])
        header = content.pop("__metadata__", {})
        length = stop + max((array["data_offsets"][1] for array in content.values()), default=0)
        if header.get("header_digest") != _digest_header(header):
            raise not_whole(path, "its header does not match its digest", what)
    except OSError as error:
        raise not_whole(path, error.strerror or str(error), what) from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        if str(path) in str(error):
            raise
        raise not_whole(path, "its header cannot be read", what) from error
    if length != size:
        raise not_whole(path, f"{size} bytes, its header says {length}", what)
    if header.get("format", FORMAT) != FORMAT:
        accepted = f"format {FORMAT}; a newer byheart reads it"
        raise NewerFormatError(f"{what}: received {path} of format {header['format']}, accepted: {accepted}")
    return dict(header)


def read(path: str | Path, what: str = "file") -> Record:
    """Return a record.

    Raises:
        ValueError: If the file is missing or no record, is truncated, or was edited.
    """
    path = storage.place(path)
    try:
        content = storage.read_bytes(path)
    except OSError as error:
        raise not_whole(path, error.strerror or str(error), what) from error
    header = header_in(content, len(content), path, what)
    try:
        arrays = load(content)
        digest_of_arrays = _digest_arrays(arrays)
    except (SafetensorError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise not_whole(path, " ".join(str(error).split()), what) from error
    if digest_of_arrays != header.get("arrays_digest"):
        raise not_whole(path, "its arrays do not match their digest", what)
    return Record(arrays, header)


def made_by(header: Mapping[str, str]) -> dict[str, Any]:
    """Return what made a record, by name, as far as its header says; nothing if it does not."""
    try:
        found = json.loads(header.get("provenance", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def warn_of_version(made_by: Mapping[str, Any], directory: Place) -> None:
    """Warn, once for each version, of results that another version of byheart made; they are taken as they are."""
    now, then = _version(), made_by.get("byheart", "")
    if then and then != now:
        warnings.warn(
            f"{directory}: has results of byheart {then}, which are taken as they are; this is {now}", stacklevel=1
        )


@functools.cache
def _version() -> str:
    return metadata.version("byheart")


def not_whole(path: Place, why: str, what: str) -> ValueError:
    """Return the error for a file that is not what it should be."""
    return ValueError(f"{what}: received {path} ({why}), accepted: a whole {what} as byheart wrote it")


def _check_same_kind(path: Place, header: Mapping[str, str], what: str) -> None:
    """Refuse to replace what is no record with the same texts, such as another kind of result or a foreign file."""
    own = {*header} - {"format", "identity"}
    try:
        known = {*read_header(path, what)} - {"format", "identity"} == own
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            f"{what}: received {path}, which is there and no whole {what} as byheart writes it, accepted: a free name,"
            " or that of one; byheart store check finds damaged ones"
        )


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the arrays' shapes, types and contents."""
    result = hashlib.sha256()
    for array in arrays:
        result.update(f"{array.shape}{array.dtype.str}".encode())
        result.update(np.ascontiguousarray(array).data)
    return result.hexdigest()


def _digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    names = sorted(arrays)
    return hashlib.sha256((" ".join(names) + digest(*(arrays[name] for name in names))).encode()).hexdigest()


def _digest_header(header: Mapping[str, str]) -> str:
    return hashlib.sha256(
        json.dumps({k: v for k, v in header.items() if k != "header_digest"}, sort_keys=True).encode()
    ).hexdigest()
