"""Kills at random moments, of a sweep and of counterfactual models: nothing is lost, changed or left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("command", ["sweep", "counterfactual"])
def test_nothing_is_lost_or_left(command, tmp_path):
    trial = kills.Trial(kills.Found(command), 0, tmp_path)
    trial.add_store()
    found = trial.found
    assert 3 <= found.n_kills == found.n_starting + found.n_in_flight + found.n_ending
    assert found.n_results == 12 * found.n_stores
    assert found.is_well, found


def test_what_is_lost_is_seen():
    assert kills.Found("sweep", n_kills=3, n_stores=1, n_results=12).is_well
    for name in ("n_lost", "n_different", "n_stray_files", "n_stray_processes", "n_shared_memory", "n_temporary"):
        assert not kills.Found("sweep", **{name: 1}).is_well
