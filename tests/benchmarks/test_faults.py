"""Faults made for real, each once: what the benchmark makes several times at random moments."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as command
from benchmarks.faults.interrupts import Verbs, interrupted
from benchmarks.faults.processes import command_killed, worker_killed
from benchmarks.faults.scene import WARM, Answer, Found, Scene
from benchmarks.faults.stores import directory_moved, disk_full, disk_full_of_one_run, read_only_in_mid_run
from benchmarks.forks import Forks
from benchmarks.servers import why_no_disk

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("scene"), seed=0)


def made(make, *arguments, **options) -> Found:
    found = Found("a fault", "once")
    make(*arguments, found, **options)
    return found


@linux
def test_faults_of_forks(tmp_path):
    """What the slow tests do with whole processes, without the starts of Python."""
    with Forks(WARM, {"TMPDIR": str(tmp_path)}) as forks:
        scene = Scene(tmp_path, seed=0, forks=forks)
        on_disk = functools.partial(disk_full, on_cluster=False)
        for make in (command_killed, worker_killed, directory_moved, *([] if why_no_disk() else [on_disk])):
            found = made(make, scene)
            assert found.n_tried == 1
            assert found.is_well, (make, found)


@pytest.mark.slow
@linux
def test_what_a_sweep_has_finished_outlives_kills_and_a_directory_that_is_moved(scene):
    for make in (command_killed, worker_killed, directory_moved):
        found = made(make, scene)
        assert found.n_tried == 1
        assert found.is_well, (make.__name__, found)


@pytest.mark.slow
@linux
def test_a_disk_that_is_full_or_read_only_is_one_line_and_the_command_goes_on_later(scene):
    if why := why_no_disk():
        pytest.skip(why)
    for make in (functools.partial(disk_full, on_cluster=False), disk_full_of_one_run, read_only_in_mid_run):
        found = made(make, scene)
        assert found.is_well, (make, found)


@pytest.mark.slow
@linux
def test_an_interrupt_is_one_line(scene):
    verbs = Verbs(scene)
    found = made(interrupted, scene, start=functools.partial(verbs.start, "report"), times=2)
    assert found.n_tried == 1
    assert found.is_well, found


def test_what_is_lost_or_answered_otherwise_is_seen(capsys):
    assert Found("fault", "tried", n_tried=3, skipped="no disk").is_well
    for name in ("n_lost", "n_different", "n_stray_files", "n_old_processes", "n_other_answers"):
        assert not Found("fault", "tried", **{name: 1}).is_well
    line = "byheart: file: received x/0123456789abcdef.safetensors (No space left on device), accepted: room\n"
    assert Answer(1, line).names_a_run
    for status, words in ((2, line), (None, line), (1, line + line), (1, "Traceback"), (1, "")):
        assert not Answer(status, words).names_a_run
    found = Found("fault", "tried")
    found.count(Answer(1, "Traceback"), False)
    assert found.n_other_answers == 1
    assert "Traceback" in capsys.readouterr().out


def test_rows_that_were_not_asked_for_stay(tmp_path, monkeypatch):
    out, lost = tmp_path / "faults.csv", 0

    def faults(scene, only):
        for fault in only:
            yield Found(fault, "tried", n_lost=lost), "", lambda found: None

    monkeypatch.setattr(command, "Scene", lambda directory, seed, forks: None)
    monkeypatch.setattr(command, "_faults", faults)
    assert command.main(["--only", "one", "two", "--out", str(out)]) == 0
    lost = 1
    assert command.main(["--only", "two", "--out", str(out)]) == 1
    names = [line.split(",")[::3][:2] for line in out.read_text().splitlines()]
    assert names == [["fault", "n_lost"], ["one", "0"], ["two", "1"]]
    assert command.main(["--n", "0", "--out", str(out)]) == 2
