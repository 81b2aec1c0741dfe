"""Kills at random moments, of sweeps and of counterfactual models: nothing is lost, changed or left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from processes import wait_until

from benchmarks import kills
from benchmarks.forks import Forks, of_session

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")


def found_of(command: str, n: int, directory: Path) -> kills.Found:
    with kills.Trial(kills.Found(command), 0, directory) as trial:
        while trial.found.n_kills < n:
            trial.add_store()
        return trial.found


@linux
@pytest.mark.parametrize("command", ["forked-sweep", "forked-counterfactual"])
def test_a_hundred_kills_lose_and_leave_nothing(command, tmp_path):
    check(found_of(command, 50, tmp_path))


@pytest.mark.slow  # each takes seconds, nearly all of them imports
@linux
@pytest.mark.parametrize(("command", "n"), [("sweep", 5), ("sweep-by-reference", 10), ("counterfactual", 10)])
def test_nor_do_kills_of_whole_processes(command, n, tmp_path):
    check(found_of(command, n, tmp_path))


def check(found: kills.Found) -> None:
    assert found.n_kills == found.n_starting + found.n_in_flight + found.n_ending
    assert found.n_in_flight > 0
    assert found.n_results == 12 * found.n_stores
    assert dataclasses.replace(found, n_shared_memory=0).is_well, found  # which other tests use at the same time


STARTS_A_WORKER = """
import sys, time
from pathlib import Path
from byheart.workers import Workers

def stay(tell):
    Path(sys.argv[1]).touch()
    time.sleep(600)

with Workers(1) as workers:
    workers.start("a call", stay)
    while True:
        for event in workers.wait(1.0):
            raise SystemExit(event.value)
"""


@linux
def test_forks_are_processes_of_their_own_that_can_be_killed(tmp_path):
    begun = tmp_path / "begun"
    with Forks("import cloudpickle", {}) as forks:
        command = forks.start(STARTS_A_WORKER, [str(begun)], tmp_path / "said")
        wait_until(begun.exists)
        there = of_session(command.pid)
        assert command.poll() is None
        assert len(there) == 2
        assert [os.getpgid(pid) for pid in sorted(there)] == sorted(there)
        command.kill()
        assert command.wait() == -signal.SIGKILL
        wait_until(lambda: not of_session(command.pid))
        failing = forks.start("raise SystemExit(3)", [], tmp_path / "said")
        assert failing.wait() == 3
    with pytest.raises(RuntimeError, match="a process with threads is not forked"):
        Forks("import threading; threading.Thread(target=threading.Event().wait).start()", {})


def test_what_is_lost_is_seen():
    assert kills.Found("sweep", n_kills=3, n_stores=1, n_results=12).is_well
    for name in ("n_lost", "n_different", "n_stray_files", "n_stray_processes", "n_shared_memory", "n_temporary"):
        assert not kills.Found("sweep", **{name: 1}).is_well


def test_a_table_is_gone_on_from_at_the_same_revision(tmp_path, monkeypatch):
    class Quick:
        """A trial whose stores cost nothing."""

        def __init__(self, found, seed, directory):
            self.found = found

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

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
        ("forked-sweep", "one"): (6, 2),
        ("forked-counterfactual", "one"): (6, 2),
        ("counterfactual", "one"): (9, 3),
    }
    revision = "two"
    assert kills.main(["--n", "1", "--commands", "sweep", "--out", str(out)]) == 0
    rows = kills._read(out)
    assert [rows["sweep", revision].n_kills for revision in ("one", "two")] == [6, 3]
    assert kills.main(["--commands", "swep", "--out", str(out)]) == 2
