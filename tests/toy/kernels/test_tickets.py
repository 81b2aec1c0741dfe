"""Threads that share compiled work: every unit is done once, after what it needs, whatever happens to a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from byheart.toy.kernels import tickets
from byheart.toy.kernels.compile import serial
from byheart.toy.kernels.tickets import Team, finish, side_by_side, stop, stopped, take, wait


@serial
def _rounds(numbers, end, per_round, order, counts):
    """Units in rounds, each of which needs all before it; each writes down what it finds."""
    while True:
        unit = take(numbers)
        if unit >= end or not wait(numbers, unit // per_round * per_round):
            return
        counts[unit] += 1
        order[unit] = counts[: unit // per_round * per_round].sum()
        finish(numbers)


@serial
def _stops(numbers, end, at):
    while True:
        unit = take(numbers)
        if unit >= end or not wait(numbers, unit):
            return
        if unit == at:
            stop(numbers, unit)
            return
        finish(numbers)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize(("first", "end", "per_round"), [(0, 1000, 1), (0, 999, 7), (300, 300, 3), (21, 2000, 21)])
def test_every_unit_is_done_once_after_those_that_it_needs(n_threads, first, end, per_round):
    counts, order = np.zeros(end, np.int64), np.full(end, -1)
    counts[:first] = 1
    numbers = tickets.tickets(first)
    side_by_side(n_threads, _rounds, numbers, end, per_round, order, counts)
    assert counts.tolist() == [1] * end
    assert order[first:].tolist() == [unit // per_round * per_round for unit in range(first, end)]
    assert stopped(numbers) == -1


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_nobody_waits_for_a_unit_that_stopped(n_threads):
    numbers = tickets.tickets()
    side_by_side(n_threads, _stops, numbers, 100, 40)
    assert stopped(numbers) == 40


@pytest.mark.parametrize("fails_in_main", [True, False])
def test_an_error_in_one_thread_ends_the_others_and_is_raised(fails_in_main):
    began = threading.Event()

    def fails(numbers, end):
        if (threading.current_thread() is threading.main_thread()) == fails_in_main:
            take(numbers)
            began.set()
            raise MemoryError("no room")
        began.wait()
        assert not wait(numbers, end)  # for a unit that is never finished

    with pytest.raises(MemoryError, match="no room"):
        side_by_side(2, fails, tickets.tickets(), 1)


def test_a_thread_that_comes_too_late_does_nothing(monkeypatch):
    late, calls = [], []
    monkeypatch.setattr(tickets._thread, "start_new_thread", lambda function, args: late.append(function))
    side_by_side(3, calls.append, tickets.tickets())
    for function in late:
        function()
    assert len(late) == 2
    assert len(calls) == 1


class Machine:
    """A clock, and a team that does steps of two units on it, a dear one and a cheap one.

    Args:
        seconds: What a step takes, by its number and that of threads.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float]) -> None:
        self.seconds, self.team, self.now = seconds, Team(8), 0.0
        self.n_units, self.took = {1: 0, 2: 0}, {1: 0.0, 2: 0.0}
        monkeypatch.setattr(tickets, "perf_counter", lambda: self.now)
        monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)

    def work(self, n_steps: int, units_per_call: int = 10) -> None:
        """Do so many steps; every unit is done once, in order."""
        for begin in range(0, 2 * n_steps, units_per_call):
            end = min(begin + units_per_call, 2 * n_steps)
            for first, last, size in self.team.pieces(begin, end, 2):
                assert begin == first < last <= end
                for _ in range(first, last):
                    step, is_cheap = divmod(sum(self.n_units.values()), 2)
                    seconds = self.seconds(step, size) * (0.01 if is_cheap else 0.99)
                    self.now += seconds
                    self.took[size] += seconds
                    self.n_units[size] += 1
                begin = last
            assert begin == end

    def share(self, size: int) -> float:
        """Of all units, those done by so many threads."""
        return self.n_units[size] / sum(self.n_units.values())


@pytest.mark.parametrize("faster", [1, 2])
@pytest.mark.parametrize("seconds", [1e-4, 0.004, 2.0])
@pytest.mark.parametrize("units_per_call", [1, 7, 2000])
def test_a_second_thread_works_where_it_pays_and_the_other_number_is_tried_now_and_then(
    faster, seconds, units_per_call, monkeypatch
):
    machine = Machine(monkeypatch, lambda step, size: seconds if size == faster else 1.7 * seconds)
    machine.work(20_000 if seconds < 1e-3 else 1_000, units_per_call)
    assert 0 < machine.share(3 - faster) < 0.06


def test_a_bad_time_decides_nothing(monkeypatch):
    machine = Machine(monkeypatch, lambda step, size: 1.0 if step % 300 == 150 else {1: 0.017, 2: 0.01}[size])
    machine.work(30_000)
    assert machine.share(1) < 0.06


def test_a_second_thread_that_other_work_keeps_waiting_costs_little(monkeypatch):
    machine = Machine(monkeypatch, lambda step, size: {1: 4e-5, 2: 4e-3}[size])
    machine.work(250_000, 5_000)
    assert machine.took[2] < 0.06 * machine.took[1]


@pytest.mark.parametrize("pays", [False, True])
def test_where_it_changes_whether_a_second_thread_pays_the_number_does(pays, monkeypatch):
    machine = Machine(monkeypatch, lambda step, size: 0.01 if (size == 2) is (pays is (step >= 1_000)) else 0.02)
    better, worse = (2, 1) if pays else (1, 2)
    machine.work(1_000)
    assert machine.share(worse) > 0.94
    machine.work(1_000)
    assert machine.n_units[better] > 0.9 * 2_000


def test_one_unit_at_a_time_is_for_one_thread(monkeypatch):
    monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)
    team = Team(1)
    assert team.size() == 1
    assert list(team.pieces(0, 100, 10)) == [(0, 100, 1)]
