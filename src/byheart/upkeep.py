"""The upkeep of a store: which of its files are damaged, and two stores made one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from byheart import storage
from byheart.records import SUFFIX, NewerFormatError, Record, Records, header_in, not_whole, read
from byheart.storage import Place

_RUN = re.compile(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}")
_SIGNS = (b'"header_digest"', b'"arrays_digest"')
Check = Callable[[Place, Record], None]
"""Raises a ValueError that says why a record cannot be what its header says that it is."""


@dataclass(frozen=True)
class Damage:
    """A file that is no whole result of this version under its own name, and why in one line.

    Attributes:
        path: The file.
        reason: What is wrong with it.
        removed: Whether it was removed.
        newer: Whether it is of a newer format, which this version cannot check: nothing says that it is damaged.
    """

    path: Place
    reason: str
    removed: bool = False
    newer: bool = False


@dataclass(frozen=True)
class Merged:
    """What became of the results of a store that was merged into another one, by key.

    Attributes:
        copied: Results that the other store lacked.
        same: Results that it had already, with the same arrays.
        differing: Results that it had with other arrays; it keeps its own.
        left: Files that are damaged, or of a newer format, and stay where they are.
    """

    copied: tuple[str, ...]
    same: tuple[str, ...]
    differing: tuple[str, ...]
    left: tuple[Damage, ...]


def check_store(directory: str | Path, check: Check, *, remove_damaged: bool = False) -> tuple[int, list[Damage]]:
    """Read every result of a store, and return how many are whole, and what is not or cannot be checked.

    Args:
        directory: A directory, without those in it, or the URL of an object store.
        check: What else a record must be; one that is whole but not that, as under another name, is not removed.
        remove_damaged: Whether to remove damaged files of which the name or the content says that byheart wrote them.

    Raises:
        ValueError: If there is no such directory.
        OSError: If the store cannot be listed, or a file not be removed.
    """
    records = _there(directory)
    n_whole, found = 0, []
    keys = records.keys()
    for key in keys:
        path, record = records.path(key), None
        try:
            record = read(path)
            check(path, record)
            n_whole += 1
        except ValueError as error:
            newer = isinstance(error, NewerFormatError)
            removed = remove_damaged and record is None and not newer and _is_own(path)
            if removed:
                storage.remove(path)
            found.append(Damage(path, str(error), removed, newer))
    return n_whole, found


def merge_stores(into: str | Path, other: str | Path, check: Check) -> Merged:
    """Copy the results that a store lacks from another one, byte by byte; nothing is replaced or removed.

    Args:
        into: Store that gets them, made if missing.
        other: Store that has them.
        check: What else a record must be to be copied.

    Raises:
        ValueError: If there is no such other store, or a file in the way in ``into`` is damaged.
        OSError: If one cannot be read or written.
    """
    source, target = _there(other), Records(storage.prepare_directory(into))
    copied, same, differing, left = [], [], [], []
    keys = source.keys()
    for key in keys:
        path = source.path(key)
        try:
            content = storage.read_bytes(path)
            header = header_in(content, len(content), path, "file")
            check(path, read(path))
        except OSError as error:
            left.append(Damage(path, str(not_whole(path, error.strerror or str(error), "file"))))
            continue
        except ValueError as error:
            left.append(Damage(path, str(error), newer=isinstance(error, NewerFormatError)))
            continue
        if key not in target:
            storage.write_atomically(target.path(key), content)
            copied.append(key)
        elif target.read(key).header["arrays_digest"] == header["arrays_digest"]:
            same.append(key)
        else:
            differing.append(key)
    return Merged(tuple(copied), tuple(same), tuple(differing), tuple(left))


def _there(directory: str | Path) -> Records:
    records = Records(directory)
    if isinstance(records.directory, Path) and not records.directory.is_dir():
        raise ValueError(f"store: received {directory}, accepted: a directory, or the URL of an object store")
    return records


def _is_own(path: Place) -> bool:
    """Whether a damaged file is byheart's: it has the name of a run, or the texts that only byheart writes."""
    try:
        start, _ = storage.read_start(path, 1_000_000)
    except OSError:  # no file, or none that can be read
        return False
    return bool(_RUN.fullmatch(storage.name_of(path))) or any(sign in start for sign in _SIGNS)
