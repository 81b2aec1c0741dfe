"""How the CPU kernels are compiled.

Reassociation is allowed so that loops can be vectorised. NaN and infinity are honoured, but for ``np.isfinite``, which
the compiler may fold to True as x - x == 0: write ``abs(x) < np.inf``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np


def _can_be_kept() -> bool:
    """Whether compiled kernels can be written: beside this file, to the user's cache, or where NUMBA_CACHE_DIR says."""
    try:
        numba.njit(cache=True)(_can_be_kept)
    except RuntimeError:
        warnings.warn(
            "compiled kernels cannot be kept, so that each process compiles them anew: neither the directory of byheart"
            " nor one of the user's can be written; NUMBA_CACHE_DIR names another",
            stacklevel=2,
        )
        return False
    return True


_OPTIONS = {"nogil": True, "cache": _can_be_kept(), "error_model": "numpy", "no_cfunc_wrapper": True}
serial = numba.njit(**_OPTIONS, fastmath={"reassoc", "contract", "nsz"})
# Called by compiled code alone: what Python would call is left out, which compiles sooner.
inner = numba.njit(**_OPTIONS, fastmath={"reassoc", "contract", "nsz"}, no_cpython_wrapper=True)
# Becomes part of its only caller before anything is compiled: whatever is nested is optimised once per level.
inlined = numba.njit(**_OPTIONS, fastmath={"reassoc", "contract", "nsz"}, no_cpython_wrapper=True, inline="always")
# For loops over nonzeros: vectorised sums would gather, which is slower than one entry after the other.
in_order = numba.njit(**_OPTIONS, fastmath={"contract", "nsz"})

_ZERO = np.float32(0)
_CACHE_LINE = 64  # bytes


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
