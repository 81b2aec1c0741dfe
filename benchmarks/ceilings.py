"""The machine's own ceilings, measured in the same run: multiply-adds, matrix products and copies.

The multiply-add kernel keeps its numbers in registers: each of a few thousand float32 numbers goes through a chain of
eight or sixteen dependent multiply-adds, and enough chains are in flight to fill the pipes. On one Zen 4 core it
reaches 117 GFLOP/s, which is 32 per cycle at 3.66 GHz: all that the core has.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numba
import numpy as np
from jaxtyping import Float32

from benchmarks.results import Ceilings

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
_compiled_parallel = numba.njit(parallel=True, nogil=True, cache=True, error_model="numpy", fastmath={"contract"})

_MULTIPLY_ADDS = 1_000_000_000  # per thread and try: some 20 ms
_COPIED_BYTES = 256 * 2**20
_TRIES = 3
_PRODUCTS = ((2048, 2048, 2048), (4096, 512, 10_000))  # a square one, and one of the shape of m = 512


def measure(n_threads: int) -> Ceilings:
    """Measure the ceilings on the threads that numba and BLAS are set to use.

    Args:
        n_threads: Number of these threads, at least 1.
    """
    return Ceilings(fma=_fma(n_threads), sgemm=_sgemm(), copy=_copy(n_threads))


def _fma(n_threads: int) -> float:
    best = 0.0
    for chains, length, width in ((_chains_of_8, 8, 2048), (_chains_of_16, 16, 1024)):
        numbers = np.ones((n_threads, width), np.float32)
        rounds = _MULTIPLY_ADDS // (length * width)
        seconds = _fastest(lambda c=chains, x=numbers, r=rounds: c(x, r, np.float32(0.999), np.float32(0.001)))  # type: ignore[misc]
        best = max(best, 2 * n_threads * rounds * length * width / seconds)
    return best


def _sgemm() -> float:
    best = 0.0
    for n_rows, n_inner, n_columns in _PRODUCTS:
        a, b = np.ones((n_rows, n_inner), np.float32), np.ones((n_inner, n_columns), np.float32)
        out = np.empty((n_rows, n_columns), np.float32)
        seconds = _fastest(lambda a=a, b=b, out=out: np.dot(a, b, out))  # type: ignore[misc]
        best = max(best, 2 * n_rows * n_inner * n_columns / seconds)
    return best


def _copy(n_threads: int) -> float:
    source = np.ones((16 * n_threads, _COPIED_BYTES // (64 * n_threads)), np.float32)
    target = np.zeros_like(source)
    return 2 * source.nbytes / _fastest(lambda: _copy_rows(source, target))


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few tries, after one that is not counted."""
    work()
    seconds = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@_compiled
def _eight(v: Float32[np.ndarray, ""], c: np.float32, d: np.float32) -> Float32[np.ndarray, ""]:
    v = v * c + d
    v = v * c + d
    v = v * c + d
    v = v * c + d
    v = v * c + d
    v = v * c + d
    v = v * c + d
    return v * c + d


@_compiled_parallel
def _chains_of_8(numbers: Float32[np.ndarray, "n_threads width"], rounds: int, c: np.float32, d: np.float32) -> None:
    for thread in numba.prange(numbers.shape[0]):
        row = numbers[thread]
        for _ in range(rounds):
            for j in range(row.shape[0]):
                row[j] = _eight(row[j], c, d)


@_compiled_parallel
def _chains_of_16(numbers: Float32[np.ndarray, "n_threads width"], rounds: int, c: np.float32, d: np.float32) -> None:
    for thread in numba.prange(numbers.shape[0]):
        row = numbers[thread]
        for _ in range(rounds):
            for j in range(row.shape[0]):
                row[j] = _eight(_eight(row[j], c, d), c, d)


@_compiled_parallel
def _copy_rows(source: Float32[np.ndarray, "n_rows width"], target: Float32[np.ndarray, "n_rows width"]) -> None:
    for i in numba.prange(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]
