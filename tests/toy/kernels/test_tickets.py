"""Threads that share compiled work: every unit is done once, after what it needs, whatever happens to a thread."""

from __future__ import annotations

import threading

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


def speeds(monkeypatch: pytest.MonkeyPatch, units_per_second: dict[int, float], n_pieces: int) -> list[int]:
    """How many threads do each piece, if they are so fast."""
    now = [0.0]
    monkeypatch.setattr(tickets, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)
    team, sizes = Team(8), []
    for _ in range(n_pieces):
        for first, last, size in team.pieces(0, 100):
            now[0] += (last - first) / units_per_second[size]
            sizes.append(size)
    return sizes


@pytest.mark.parametrize("faster", [1, 2])
def test_a_second_thread_works_where_it_pays_and_is_tried_again_where_it_does_not(faster, monkeypatch):
    other = 3 - faster
    sizes = speeds(monkeypatch, {faster: 100.0, other: 60.0}, 200)
    assert sizes[:3] == [2, 2, 1]
    assert 5 <= sizes[3:].count(other) <= 20


def test_a_second_thread_that_other_work_keeps_waiting_costs_little(monkeypatch):
    now, took = [0.0], {1: 0.0, 2: 0.0}
    monkeypatch.setattr(tickets, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)
    team, done = Team(8), []
    for _ in range(1_000):
        for first, last, size in team.pieces(0, 5_000):
            seconds = (last - first) / {1: 250_000, 2: 2_500}[size]
            now[0] += seconds
            took[size] += seconds
            done.append(last - first)
    assert sum(done) == 5_000_000
    assert took[2] < 4 + 0.1 * took[1]  # two pieces to learn of it, then short ones


def test_a_second_thread_that_pays_again_is_found_by_tries_that_grow(monkeypatch):
    now, speed = [0.0], {1: 250_000, 2: 2_500}
    monkeypatch.setattr(tickets, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)
    team, sizes = Team(8), []
    for number in range(200):
        if number == 100:
            speed[2] = 500_000  # the other work has ended
        for first, last, size in team.pieces(0, 5_000):
            now[0] += (last - first) / speed[size]
            sizes.append((number, size, last - first))
    assert [size for number, size, n_units in sizes if number < 100 and n_units == 5_000].count(2) == 2
    assert [size for number, size, n_units in sizes if number > 120 and n_units == 5_000].count(2) > 60


def test_times_too_short_to_tell_decide_nothing(monkeypatch):
    assert speeds(monkeypatch, {1: 1e9, 2: 1e6}, 50) == [2] * 50


def test_one_unit_at_a_time_is_for_one_thread(monkeypatch):
    monkeypatch.setattr(tickets.numba, "get_num_threads", lambda: 2)
    assert Team(1).size() == 1
