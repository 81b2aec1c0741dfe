"""How much to do before the next look at Ctrl-C: compiled code cannot be interrupted, so it is left every so often.

How long work takes depends on the machine and on what else it is doing, so every piece of work is timed, and the next
one is sized by that time.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

_SECONDS = 0.15
_MAX_GROWTH = 4  # from one piece to the next: a short time may have been luck


class Pace:
    """Cuts work into pieces that take about as long as they should, and at least one unit each.

    Args:
        size: Number of units of the first piece.
        seconds: Time that a piece should take.
        most: Largest number of units of a piece.

    Attributes:
        size: Number of units that take that long, by the last piece; below 1 if a single one takes longer.
    """

    def __init__(self, size: float = 1, *, seconds: float = _SECONDS, most: float = float("inf")) -> None:
        self.size, self.seconds, self.most = float(size), seconds, most

    def cut(self, first: int, last: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Yield the first and (exclusive) last unit of piece after piece; what is done until the next one is timed.

        Args:
            first: First unit of all.
            last: Last unit of all, exclusive.
            multiple: Number of units that are done side by side; a piece is a multiple of it, but for the last one.
        """
        while first < last:
            n_units = max(1, int(min(self.size, self.most)) // multiple) * multiple
            stop = min(first + n_units, last)
            began = perf_counter()
            yield first, stop
            seconds = max(perf_counter() - began, 1e-6)
            self.size = min(_MAX_GROWTH * max(self.size, multiple), (stop - first) * self.seconds / seconds)
            first = stop
