"""How the CPU kernels are compiled.

Reassociation is allowed so that loops can be vectorised. NaN and infinity are honoured, but for ``np.isfinite``, which
the compiler may fold to True as x - x == 0: write ``abs(x) < np.inf``.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numba.core.event
import numpy as np
from numba.core.codegen import get_host_cpu_features

_PROBE = bytes(65_536)  # a full disk takes empty files


def _can_be_kept() -> bool:
    """Whether numba can write kernels: beside this file, to the user's cache, or where NUMBA_CACHE_DIR says."""
    try:
        path = numba.njit(cache=True)(_can_be_kept)._cache.cache_path
        with tempfile.TemporaryFile(dir=path, buffering=0) as file:
            return file.write(_PROBE) == len(_PROBE)
    except (RuntimeError, OSError):
        return False


def _are_kept() -> bool:
    """Whether compiled kernels are kept; where numba finds no place, in one of this user's among temporary files.

    That place has the same name in all processes of a user, so that workers do not compile anew. Code is read from it:
    one that belongs to somebody else, or that others may write to, is not taken.
    """
    if _can_be_kept():
        return True
    before = numba.config.CACHE_DIR
    try:
        place = Path(tempfile.gettempdir()) / f"byheart-kernels-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            numba.config.CACHE_DIR = str(place)
            if _can_be_kept():
                return True
    except OSError:  # no temporary files either
        pass
    numba.config.CACHE_DIR = before
    warnings.warn(
        "compiled kernels cannot be kept, so that each process compiles them anew: neither the directory of byheart"
        " nor one of the user's nor one for temporary files can be written; NUMBA_CACHE_DIR names another",
        stacklevel=2,
    )
    return False


# Whatever is called becomes part of its caller: of two copies, one of them compiled alone and rounding otherwise, the
# process that compiles would run another one than those that load what it kept.
_OPTIONS = {"forceinline": True, "nogil": True, "cache": _are_kept(), "error_model": "numpy", "no_cfunc_wrapper": True}
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).digest()


def _compiler(fastmath: set[str], **options: bool | str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles, and keeps the code for as long as no file of the kernels changes.

    numba looks at the file of the function alone, so that one that calls a function of another file would run its old
    code after that file was edited.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**_OPTIONS, fastmath=fastmath, **options)(function)
        if _OPTIONS["cache"]:
            kept = dispatcher._cache._cache_file
            assert hasattr(kept, "_source_stamp")  # else this version of numba would go on with old code
            kept._source_stamp = _SOURCES
        return dispatcher

    return compiled


_REASSOCIATED = {"reassoc", "contract", "nsz"}
serial = _compiler(_REASSOCIATED)
# Called by compiled code alone: what Python would call is left out, which compiles sooner.
inner = _compiler(_REASSOCIATED, no_cpython_wrapper=True)
# Becomes part of its only caller before anything is compiled: whatever is nested is optimised once per level.
inlined = _compiler(_REASSOCIATED, no_cpython_wrapper=True, inline="always")
# For loops over nonzeros: vectorised sums would gather, which is slower than one entry after the other.
in_order = _compiler({"contract", "nsz"})

_ZERO = np.float32(0)
_CACHE_LINE = 64  # bytes


def instructions() -> set[str]:
    """Return the names of the instruction sets compiled for: this machine's, or those in NUMBA_CPU_FEATURES."""
    named = numba.config.CPU_FEATURES
    features = get_host_cpu_features() if named is None else named
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}


@serial
def relu(z):
    """Return max(z, 0), and NaN for NaN."""
    return _ZERO if _ZERO > z else z  # noqa: SIM300 - this way round a NaN passes through


def empty(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Return scratch memory that begins on a cache line, as vectors that straddle two lines are read twice."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Use at most this many threads; None: as many as numba is given."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads or before, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def told(say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` whenever the compiler begins: what is kept from before is not compiled."""

    class Listener(numba.core.event.Listener):  # type: ignore[misc]  # numba has no types here
        def on_start(self, event: numba.core.event.Event) -> None:
            say()

        def on_end(self, event: numba.core.event.Event) -> None:
            pass

    with numba.core.event.install_listener("numba:compile", Listener()):
        yield
