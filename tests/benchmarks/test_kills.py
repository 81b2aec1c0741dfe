"""Kills at random moments, of sweeps and of counterfactual models: nothing is lost, changed or left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.slow  # a hundred kills take minutes, too long for a loop
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize(("command", "n"), [("sweep", 5), ("sweep-by-reference", 45), ("counterfactual", 50)])
def test_nothing_is_lost_or_left(command, n, tmp_path):
    trial = kills.Trial(kills.Found(command), 0, tmp_path)
    while trial.found.n_kills < n:
        trial.add_store()
    found = trial.found
    assert found.n_kills == found.n_starting + found.n_in_flight + found.n_ending
    assert found.n_in_flight > 0
    assert found.n_results == 12 * found.n_stores
    assert dataclasses.replace(found, n_shared_memory=0).is_well, found  # which other tests use at the same time


def test_what_is_lost_is_seen():
    assert kills.Found("sweep", n_kills=3, n_stores=1, n_results=12).is_well
    for name in ("n_lost", "n_different", "n_stray_files", "n_stray_processes", "n_shared_memory", "n_temporary"):
        assert not kills.Found("sweep", **{name: 1}).is_well


def test_a_table_is_gone_on_from_at_the_same_revision(tmp_path, monkeypatch):
    class Quick:
        """A trial whose stores cost nothing."""

        def __init__(self, found, seed, directory):
            self.found = found

        def add_store(self):
            self.found.n_kills += 3
            self.found.n_stores += 1

    revision = "one"
    monkeypatch.setattr(kills, "Trial", Quick)
    monkeypatch.setattr(kills, "provenance", lambda: {"git_revision": revision})
    out = tmp_path / "kills.csv"
    assert kills.main(["--n", "4", "--out", str(out)]) == 0
    assert kills.main(["--n", "7", "--commands", "counterfactual", "--out", str(out)]) == 0
    assert {name: (row.n_kills, row.n_stores) for name, row in kills._read(out).items()} == {
        ("sweep", "one"): (6, 2),
        ("sweep-by-reference", "one"): (6, 2),
        ("counterfactual", "one"): (9, 3),
    }
    revision = "two"
    assert kills.main(["--n", "1", "--commands", "sweep", "--out", str(out)]) == 0
    rows = kills._read(out)
    assert [rows["sweep", revision].n_kills for revision in ("one", "two")] == [6, 3]
    assert kills.main(["--commands", "swep", "--out", str(out)]) == 2
