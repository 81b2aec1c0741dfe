"""Work is cut into pieces by how long they take, here by clocks that are made up; where it is cut changes nothing."""

from __future__ import annotations

import itertools

import pytest

from byheart.toy import pace
from byheart.toy.pace import Pace


class Machine:
    """A clock, and work that takes a fixed time per unit on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_per_unit: float) -> None:
        self.now, self.seconds_per_unit = 0.0, seconds_per_unit
        monkeypatch.setattr(pace, "perf_counter", lambda: self.now)

    def work(self, pace: Pace, first: int, last: int, multiple: int = 1) -> list[int]:
        """Do this work; return the sizes of its pieces, which follow each other without a gap."""
        pieces = []
        for piece in pace.cut(first, last, multiple):
            pieces.append(piece)
            self.now += self.seconds_per_unit * (piece[1] - piece[0])
        edges = [first, *(stop for _, stop in pieces)]
        assert pieces == list(itertools.pairwise(edges))
        assert edges[-1] == last
        return [stop - start for start, stop in pieces]


@pytest.mark.parametrize(
    ("seconds_per_unit", "usual"), [(10.0, 1), (0.2, 1), (0.1, 1), (0.04, 3), (1e-3, 150), (1e-5, 15_000)]
)
def test_pieces_take_as_long_as_they_should_whatever_the_machine(monkeypatch, seconds_per_unit, usual):
    machine, tried = Machine(monkeypatch, seconds_per_unit), Pace()
    sizes = machine.work(tried, 5, 5 + 20 * usual)
    assert max(sizes) == pytest.approx(usual, abs=1)
    assert all(b <= 4 * a for a, b in itertools.pairwise(sizes))
    assert machine.work(tried, 0, usual)[0] == pytest.approx(usual, abs=1)  # it is remembered


def test_a_machine_that_becomes_busy_gets_smaller_pieces_at_once(monkeypatch):
    machine, tried = Machine(monkeypatch, 2**-10), Pace(seconds=150 * 2**-10)
    machine.work(tried, 0, 10_000)
    machine.seconds_per_unit *= 10
    assert machine.work(tried, 0, 200)[:2] == [150, 15]


@pytest.mark.parametrize("seconds_per_unit", [0.0, 1e-3, 1.0])
def test_pieces_are_multiples_and_not_above_the_largest(monkeypatch, seconds_per_unit):
    machine = Machine(monkeypatch, seconds_per_unit)
    *sizes, _ = machine.work(Pace(), 0, 5003, multiple=6)
    assert all(size % 6 == 0 for size in sizes)
    assert max(machine.work(Pace(most=7), 0, 1000)) <= 7
    assert machine.work(Pace(), 3, 3) == []


def test_a_single_unit_that_takes_too_long_shows(monkeypatch):
    machine, tried = Machine(monkeypatch, 0.6), Pace()
    machine.work(tried, 0, 1)
    assert tried.size == pytest.approx(0.25)
