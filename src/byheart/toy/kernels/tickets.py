"""Threads that share compiled work: each takes the next ticket, a number of a unit of work, until there are none left.

A unit that needs others waits until as many units are done as come before it. No thread waits for another one to wake
up or to arrive, so one that the machine keeps busy elsewhere holds nobody up, unless it stopped within a unit. Who does
a unit changes no bit of the result.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable, Generator, Iterator
from time import perf_counter
from typing import Any

import numba
import numpy as np
from jaxtyping import Int64
from numba import types
from numba.extending import intrinsic

from byheart.toy.kernels.compile import empty, serial

_APART = 16  # numbers: two cache lines, as processors fetch pairs of them
_NEXT, _DONE, _STOPPED = 0, _APART, 2 * _APART
_LOOKS = 1000  # at what others have done, some microseconds, before the processor is offered to others
_SECONDS_THAT_TELL = 0.005  # what is shorter may have been luck
_GAIN = 1.1  # of several threads, below which one works: where others do not get to help, they are as fast by luck
_REST = 32  # times as long as the number of threads that does not pay was tried, until it is tried again
_offer_processor = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


def _atomic(operation: str) -> Any:
    """Change a number, and return what it was: in one step, whatever other threads do."""

    @intrinsic
    def change(typing_context, numbers, place, value):
        def code(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.atomic_rmw(operation, builder.gep(array.data, [args[1]]), args[2], "seq_cst")

        return types.int64(numbers, types.int64, types.int64), code

    return change


_add, _swap = _atomic("add"), _atomic("xchg")


@intrinsic
def _read(typing_context, numbers, place):
    """Return a number; all that was written before it was is seen from here on."""

    def code(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load_atomic(builder.gep(array.data, [args[1]]), "acquire", 8)

    return types.int64(numbers, types.int64), code


@serial
def take(tickets):
    """Return the number of a unit that nobody else does."""
    return _add(tickets, _NEXT, 1)


@serial
def finish(tickets):
    """Count a unit as done."""
    _add(tickets, _DONE, 1)


@serial
def stop(tickets, reason):
    """End all waiting, for a reason >= 0."""
    _swap(tickets, _STOPPED, reason)


@serial
def wait(tickets, n_units):
    """Wait until units 0, ..., n_units - 1 are done; return False if they never will be, as a thread stopped."""
    looks = 0
    while _read(tickets, _DONE) < n_units:
        if _read(tickets, _STOPPED) >= 0:
            return False
        looks += 1
        if looks > _LOOKS:
            _offer_processor()
    return True


def tickets(first: int = 0) -> Int64[np.ndarray, " 3_of_them"]:
    """Return tickets from unit ``first`` on; all units before it are done."""
    numbers = empty((3 * _APART,), np.int64)
    numbers[[_NEXT, _DONE, _STOPPED]] = first, first, -1
    return numbers


def stopped(tickets: Int64[np.ndarray, " 3_of_them"]) -> int:
    """Return the reason for which a thread stopped, or -1."""
    return int(tickets[_STOPPED])


class _Helper:
    """A call in a thread of its own, which begins as soon as the machine lets it, if ever."""

    def __init__(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.function, self.args = function, args
        self.error: BaseException | None = None
        self.turn, self.over = _thread.allocate_lock(), _thread.allocate_lock()
        self.over.acquire()
        _thread.start_new_thread(self._run, ())  # other than a Thread's start, this does not wait

    def _run(self) -> None:
        if self.turn.acquire(blocking=False):
            try:
                self.function(*self.args)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                self.error = error
                self.args[0][_STOPPED] = 0  # or the others would wait for its unit
            finally:
                self.over.release()

    def end(self) -> None:
        if not self.turn.acquire(blocking=False):  # it has begun
            self.over.acquire()
        if self.error is not None:
            raise self.error


def side_by_side(n_threads: int, function: Callable[..., None], *args: Any) -> None:
    """Call a compiled function in so many threads, with tickets first; one that comes too late to help does nothing."""
    helpers = [_Helper(function, args) for _ in range(n_threads - 1)]
    try:
        function(*args)
    except BaseException:
        args[0][_STOPPED] = 0
        raise
    finally:
        for helper in helpers:
            helper.end()


class Team:
    """How many threads do a long work: all that may be used where that pays, as is timed while it runs, or one.

    Units of a step are unlike, so whole steps are timed: some by all threads, then some by one. The number changes
    when two such comparisons in a row are for it, so that one bad time decides nothing.

    Args:
        most: Number of units that can be done side by side.
    """

    def __init__(self, most: int) -> None:
        self.most, self.course = most, _course()
        self.by_all, self.n_steps = next(self.course)
        self.n_units, self.seconds = 0, 0.0  # of these steps, so far

    def size(self) -> int:
        """Return how many threads do the next piece."""
        return min(self.most, numba.get_num_threads()) if self.by_all else 1

    def pieces(self, first: int, last: int, per_step: int) -> Iterator[tuple[int, int, int]]:
        """Yield the first and (exclusive) last unit of piece after piece, and how many threads are to do it; time them.

        ``per_step`` is the number of units of a step.
        """
        if min(self.most, numba.get_num_threads()) == 1:  # nothing to compare
            yield first, last, 1
            return
        while first < last:
            left = max(self.n_steps * per_step - self.n_units, 1)
            stop, began = min(first + left, last), perf_counter()
            yield first, stop, self.size()
            self.seconds += perf_counter() - began
            self.n_units += stop - first
            first = stop
            if self.n_units >= self.n_steps * per_step:
                self.by_all, self.n_steps = self.course.send(self.seconds)
                self.n_units, self.seconds = 0, 0.0


def _course() -> Generator[tuple[bool, int], float, None]:
    """Yield whether all threads take the next steps, or one, and how many; be sent the seconds that they took."""
    pays, doubts, order = True, 0, (True, False)
    yield True, 1  # the first step also waits for its memory
    while True:
        turns = {}
        for by_all in order:
            turns[by_all] = yield from _turn(by_all)
        order = order[::-1]  # steps that become shorter and shorter are for no number
        per_step = {by_all: seconds / n_steps for by_all, (seconds, n_steps) in turns.items()}
        found = _GAIN * per_step[True] < per_step[False]
        doubts = doubts + 1 if found is not pays else 0
        if doubts == 1:
            continue
        if doubts == 2:
            pays, doubts = found, 0
        rest, n_steps = _REST * turns[not pays][0], 2 * turns[pays][1]
        limit = n_steps * (per_step[False] if pays else _GAIN * per_step[True])
        while rest > 0:  # in pieces about as short as turns, so that other work that begins is soon noticed
            seconds = yield pays, n_steps
            rest = rest - seconds if seconds < limit else 0.0  # at once where the other number was faster


def _turn(by_all: bool) -> Generator[tuple[bool, int], float, tuple[float, int]]:
    """Yield more and more steps, as ``_course`` does, until their time tells something; return it, and their number."""
    n_steps = 1
    while (seconds := (yield by_all, n_steps)) < _SECONDS_THAT_TELL:
        n_steps *= 2
    return seconds, n_steps
