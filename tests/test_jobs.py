"""The engine: every job is computed once, whatever is killed, and what fails is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import running, wait_until

from byheart.jobs import Failure, Job, JobsError, Progress, StoreError, _batches, run
from byheart.records import Record, Records

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="watches processes through /proc")


def jobs_of(function, n: int = 4, **options) -> list[Job]:
    """Jobs named a, b, c, ... whose record holds what the function returns for 0, 1, 2, ..."""

    def compute(k, *, n_threads, report):
        report(0.5, 1.0)
        return Record({"x": np.array([float(function(k))])}, {"threads": str(n_threads)})

    return [Job(chr(ord("a") + k), compute, (k,), **options) for k in range(n)]


def found(records: Records) -> dict[str, float]:
    keys = records.keys()
    return {key: float(records.read(key).arrays["x"][0]) for key in keys}


def test_every_job_is_computed_once_and_kept(tmp_path):
    def note(k):
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{k} ")
        return k * k

    records = Records(tmp_path / "records")
    jobs = jobs_of(note)
    assert run([*jobs[:2], jobs[0]], records, n_workers=2) == []
    assert found(records) == {"a": 0, "b": 1}
    assert run(jobs, records, n_workers=2) == []
    assert found(records) == {"a": 0, "b": 1, "c": 4, "d": 9}
    assert sorted((tmp_path / "calls").read_text().split()) == ["0", "1", "2", "3"]


def test_a_job_may_start_processes_of_its_own(tmp_path):
    """As a DataLoader with workers does, in a training that a job calls."""

    def with_a_process(k):
        process = multiprocessing.Process(target=(tmp_path / f"{k}").touch)
        process.start()
        process.join()
        return process.exitcode

    records = Records(tmp_path / "records")
    assert run(jobs_of(with_a_process, 1), records, n_workers=1) == []
    assert found(records) == {"a": 0}
    assert (tmp_path / "0").exists()


@pytest.mark.slow
def test_a_worker_that_grows_is_no_leak(tmp_path):
    """Libraries and results of jobs are large: where psutil is there, the pool would restart the worker, and warn."""
    pytest.importorskip("psutil")

    def grow(k):
        sys.kept = [*getattr(sys, "kept", []), np.ones(50_000_000)]  # 400 MB more with every job
        time.sleep(1.2)  # memory is looked at every second
        return os.getpid()

    records = Records(tmp_path)
    assert run(jobs_of(grow, n=3), records, n_workers=1) == []
    assert len(set(found(records).values())) == 1


def test_jobs_that_keep_all_cores_busy_get_them(tmp_path):
    records = Records(tmp_path)
    first, *others = jobs_of(float, all_cores=True)
    run([first, *(Job(job.key, job.compute, job.args) for job in others)], records, n_workers=3)
    assert [records.read(key).header["threads"] for key in "abcd"] == ["3", "1", "1", "1"]


@linux
def test_the_job_of_a_killed_worker_is_tried_again(tmp_path):
    def die_once(k):
        if k == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    records = Records(tmp_path / "records")
    assert run(jobs_of(die_once), records, n_workers=2) == []
    assert found(records) == {"a": 0, "b": 1, "c": 2, "d": 3}


@pytest.mark.slow
@linux
def test_a_job_that_kills_its_worker_again_is_named_and_all_others_finish(tmp_path):
    def die(k):
        if k == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    records = Records(tmp_path)
    (failure,) = run(jobs_of(die, 6), records, n_workers=2)
    assert failure.job.key == "c"
    assert failure.reason == "its process was killed by signal 9 (out of memory?), twice"
    assert records.keys() == ["a", "b", "d", "e", "f"]


@pytest.mark.slow
@linux
@pytest.mark.parametrize("n_workers", [1, 2])
def test_jobs_that_had_not_begun_when_a_worker_died_are_not_blamed(tmp_path, n_workers):
    def die_late(k):
        time.sleep(0.3)
        if k == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    records = Records(tmp_path)
    failures = run(jobs_of(die_late, 7), records, n_workers=n_workers)
    assert [failure.job.key for failure in failures] == ["a"]
    assert records.keys() == list("bcdefg")


class NeedsTwo(Exception):
    """An error that cannot be rebuilt from its message, as pickle tries."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def test_whatever_a_job_raises_is_reported_and_the_others_finish(tmp_path):
    def fail(k):
        if k == 0:
            raise NeedsTwo("two", "words")
        if k == 1:
            raise SystemExit(3)
        if k == 2:
            raise FileNotFoundError(2, "No such file", "data.csv")
        return k

    records = Records(tmp_path)
    failures = {failure.job.key: failure for failure in run(jobs_of(fail), records, n_workers=1)}
    assert failures["a"].reason.endswith("two words")
    assert failures["b"].reason == "SystemExit: 3"
    assert isinstance(failures["c"].error, FileNotFoundError)
    assert found(records) == {"d": 3}


def test_a_store_that_cannot_be_written_any_more_ends_all(tmp_path):
    def vanish(k):
        if k == 0:
            for path in (tmp_path / "records").iterdir():
                path.unlink()
            (tmp_path / "records").rmdir()
            (tmp_path / "records").write_text("a file in its place")
        return k

    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="records"):
        run(jobs_of(vanish), Records(tmp_path / "records"), executor=pool)


def test_the_memory_of_this_process_is_no_place_for_what_others_compute():
    records = Records("memory://of-jobs")
    with pytest.raises(ValueError, match="store: received memory://of-jobs, accepted: a directory, or a store"):
        run(jobs_of(float), records, n_workers=1)
    with ThreadPoolExecutor(1) as pool:
        assert run(jobs_of(float), records, executor=pool) == []
    assert run(jobs_of(float), records, n_workers=1) == []  # all are there


def test_a_directory_that_is_moved_away_ends_all_and_is_not_made_again(tmp_path):
    def move(k):
        if k == 1:
            wait_until((tmp_path / "records" / "a.safetensors").exists)
            (tmp_path / "records").rename(tmp_path / "elsewhere")
        return k

    with pytest.raises(StoreError, match="b.safetensors .*No such file"):
        run(jobs_of(move), Records(tmp_path / "records"), n_workers=1)
    assert not (tmp_path / "records").exists()
    assert found(Records(tmp_path / "elsewhere")) == {"a": 0}


def test_records_that_vanish_although_the_directory_stays_are_missed(tmp_path):
    """As of a disk that is taken away, and leaves an empty directory to write to."""

    def empty(k):
        if k == 2:
            wait_until((tmp_path / "b.safetensors").exists)
            for path in tmp_path.glob("[ab].safetensors"):
                path.unlink()
        return k

    with pytest.raises(StoreError, match=r"a\.safetensors was finished and is there no more"):
        run(jobs_of(empty), Records(tmp_path), n_workers=1)
    assert found(Records(tmp_path)) == {"c": 2, "d": 3}


class SlowRecords(Records):
    """The first record, a, is not on the disk before a file is there."""

    def __init__(self, directory: Path, until: Path) -> None:
        super().__init__(directory)
        self.until = until

    def writing(self, key, record, identity):
        write = super().writing(key, record, identity)

        def write_late():
            if key == "a":
                wait_until(self.until.exists)
            return write()

        return write_late


def test_the_next_job_is_computed_while_a_record_is_kept(tmp_path, monkeypatch):
    records = SlowRecords(tmp_path / "records", tmp_path / "begun")
    memory = np.zeros(1)  # of all results, as a function of the user's may have it

    def compute(k, *, n_threads, report):
        memory[0] = k
        if k == 1:
            (tmp_path / "begun").touch()
        return Record({"x": memory}, {})

    jobs = [Job(key, compute, (k,)) for k, key in enumerate("abc")]
    assert run(jobs, records, n_workers=1) == []
    assert found(records) == {"a": 0, "b": 1, "c": 2}
    (tmp_path / "begun").unlink()
    there = SlowRecords(tmp_path / "there", tmp_path / "begun")
    monkeypatch.setattr("byheart.jobs.Records", lambda directory: there)
    monkeypatch.setattr("byheart.jobs._batches", lambda jobs, n_workers: [jobs])
    with ThreadPoolExecutor(1) as pool:
        assert run(jobs, there, executor=pool) == []
    assert found(there) == {"a": 0, "b": 1, "c": 2}


@linux
def test_a_record_that_was_being_kept_when_its_worker_died_is_made_again(tmp_path):
    def die_once(k):
        if k == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    records = SlowRecords(tmp_path / "records", tmp_path / "died")
    assert run(jobs_of(die_once), records, n_workers=1) == []
    assert found(records) == {"a": 0, "b": 1, "c": 2, "d": 3}


class Broken(Executor):
    """An executor whose processes are gone."""

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        future.set_exception(BrokenExecutor("a process died"))
        return future


def test_an_executor_of_the_user_is_used_and_left_running(tmp_path):
    records = Records(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        assert run(jobs_of(float), records, executor=pool) == []
        assert pool.submit(int, "3").result() == 3
    assert len(records.keys()) == 4
    assert records.read("a").header["threads"] == "None"
    failures = run(jobs_of(float, 6), records, executor=Broken())
    reasons = {failure.job.key: failure.reason for failure in failures}
    assert reasons == dict.fromkeys("ef", "its executor broke: a process died")


def test_progress_rises_to_everything(tmp_path):
    seen: list[Progress] = []
    run(jobs_of(float)[:1], Records(tmp_path), n_workers=1)
    run(jobs_of(float), Records(tmp_path), n_workers=1, on_progress=seen.append)
    assert seen[0] == Progress(4, 1, 0.0, 3.0, None)
    assert seen[-1] == Progress(4, 4, 3.0, 3.0, None)
    finished = [progress.n_finished for progress in seen]
    assert finished == sorted(finished)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=300), st.integers(1, 8))
def test_batches_hold_every_job_in_order_and_are_small_shares(costs, n_workers):
    jobs = [Job(str(k), lambda: None, cost=cost) for k, cost in enumerate(sorted(costs, reverse=True))]
    batches = _batches(jobs, n_workers)
    assert [job for batch in batches for job in batch] == jobs
    share = sum(costs) / (32 * n_workers)
    assert all(len(batch) == 1 or sum(job.cost for job in batch) <= share * (1 + 1e-9) for batch in batches)
    if len(jobs) < 32 * n_workers:
        assert len(batches) == len(jobs), "few jobs travel alone, so that no core waits at the end"


ORPHANS = """
import sys, time
from byheart.jobs import Job, run
from byheart.records import Records

def compute(*, n_threads, report):
    open(sys.argv[1] + "/started", "w").close()
    time.sleep(600)

run([Job("a", compute)], Records(sys.argv[1] + "/records"), n_workers=1)
"""


@pytest.mark.slow
@linux
def test_workers_end_when_their_parent_is_killed(tmp_path):
    def workers() -> list[int]:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if "byheart.workers" in command(int(pid))]

    with running(sys.executable, "-c", ORPHANS, tmp_path) as process:
        wait_until((tmp_path / "started").exists)
        pids = workers()
        assert pids
        process.kill()
    wait_until(lambda: not any("byheart.workers" in command(pid) for pid in pids))
    assert Records(tmp_path / "records").keys() == []


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_failures_are_one_error_that_names_the_first():
    failures = [Failure(job, ValueError("out\nof luck")) for job in jobs_of(float, 2)]
    error = JobsError(failures)
    assert str(error) == "2 job(s) failed; the first, a: out of luck"
    assert error.failures == failures
