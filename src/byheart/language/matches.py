"""The longest matches of one string in another, by bisection of its suffix array: a compiled loop."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_END = 255  # ends a text; no match goes across


@numba.njit  # type: ignore[untyped-decorator]
def longest_matches(text: Any, array: Any, pattern: Any, at: Any, left: int, right: int) -> Any:  # pragma: no cover
    """Longest match, in bytes, of what begins at each place and ends before the last, outside left to right."""
    n, stop = len(array), at[-1]
    found = np.zeros(len(at) - 1, dtype=np.int64)
    for i in range(len(at) - 1):
        begin, low, high = at[i], -1, n
        of_low, of_high = 0, 0  # bytes that the suffixes at the bounds share with the pattern
        while high - low > 1:
            middle = (low + high) // 2
            k, start = min(of_low, of_high), array[middle]
            while begin + k < stop and start + k < n and pattern[begin + k] == text[start + k] != _END:
                k += 1
            if begin + k < stop and (start + k == n or text[start + k] < pattern[begin + k]):
                low, of_low = middle, k
            else:
                high, of_high = middle, k
        best = 0
        for step in (-1, 1):
            rank = low if step == -1 else high
            while 0 <= rank < n and left - 1 < array[rank] < right:
                rank += step
            if 0 <= rank < n:
                k, start = 0, array[rank]
                limit = n if start >= right else left
                while begin + k < stop and start + k < limit and pattern[begin + k] == text[start + k] != _END:
                    k += 1
                best = max(best, k)
        found[i] = best
    return found
