"""Jobs on a Dask scheduler with two workers, real processes on the loopback interface, and what kills do to them."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from clusters import cluster

from byheart.cluster import connected
from byheart.jobs import Job, StoreError, run
from byheart.records import Record, Records
from byheart.toy.runs import open_runs

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # Dask's own
]


def job(key: str, directory: Path, *, cost: float = 1.0, until: str = "") -> Job:
    """A job that notes the process in which it began, and waits for a file if it is to."""

    def compute(*, n_threads, report):
        with (directory / "begun").open("a") as file:
            file.write(f"{key} {os.getpid()}\n")
        while until and not (directory / until).exists():
            time.sleep(0.02)
        return Record({"x": np.arange(3.0)}, {"threads": str(n_threads)})

    return Job(key, compute, cost=cost)


def begun(directory: Path) -> dict[str, list[int]]:
    """In which processes each job began."""
    path, found = directory / "begun", dict[str, list[int]]()
    for line in path.read_text().splitlines() if path.exists() else ():
        key, process = line.split()
        found.setdefault(key, []).append(int(process))
    return found


def test_the_longest_jobs_come_first_and_a_killed_worker_s_job_goes_to_another(tmp_path):
    records = Records(tmp_path / "records")
    with cluster(tmp_path) as processes:
        with connected(processes.address) as executor:
            jobs = [job(f"{cost:02}", tmp_path, cost=float(cost)) for cost in range(12)]
            assert run(jobs, records, executor=executor) == []
        order = [int(key) for key in begun(tmp_path)]
        assert sum(abs(a - b) for a, b in zip(order, sorted(order, reverse=True), strict=True)) <= 12
        keys = records.keys()
        assert {records.read(key).header["threads"] for key in keys} == {"1"}

        def kill_one(progress) -> None:
            if "waits" in begun(tmp_path) and not (tmp_path / "go").exists():
                os.kill(begun(tmp_path)["waits"][0], signal.SIGKILL)
                (tmp_path / "go").touch()

        with connected(processes.address) as executor:
            jobs = [job("waits", tmp_path, until="go", cost=2.0), job("other", tmp_path)]
            assert run(jobs, records, executor=executor, on_progress=kill_one) == []
        assert {"waits", "other"} <= set(records.keys())
        assert len(set(begun(tmp_path)["waits"])) == 2


def test_a_killed_scheduler_is_named_and_what_is_finished_is_kept(tmp_path):
    records = Records(tmp_path / "records")
    with cluster(tmp_path, 1) as processes:

        def kill(progress) -> None:
            if "b" in begun(tmp_path):
                processes.scheduler.kill()

        with connected(processes.address) as executor:
            jobs = [job("a", tmp_path, cost=9.0), job("b", tmp_path, cost=5.0, until="never"), job("c", tmp_path)]
            failures = run(jobs, records, executor=executor, on_progress=kill)
    assert {failure.job.key: failure.reason for failure in failures} == dict.fromkeys(
        "bc", "its executor broke: the scheduler is gone"
    )
    assert records.keys() == ["a"]
    assert run(jobs[::2], records, n_workers=1) == []


def test_what_dask_logs_of_a_scheduler_that_is_gone_is_not_shown(tmp_path):
    with cluster(tmp_path, 1) as processes, connected(processes.address):
        assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR)
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append
    for module, is_shown in (("distributed.cfexecutor", False), ("mine", True)):
        for name in ("tornado.application", "asyncio"):  # which log what callbacks raise
            seen.clear()
            logging.getLogger(name).addHandler(handler)
            try:
                exec("1 / 0", {"__name__": module})
            except ZeroDivisionError:
                logging.getLogger(name).exception("Exception in callback")
            logging.getLogger(name).removeHandler(handler)
            assert bool(seen) == is_shown


def test_workers_that_write_elsewhere_or_share_a_process_are_refused(tmp_path, monkeypatch):
    with (
        cluster(tmp_path, 1, n_threads=2) as processes,
        pytest.raises(ValueError, match="accepted: of one"),
        connected(processes.address),
    ):
        pass

    class Elsewhere(Records):
        """A directory that is another one on every machine, as /tmp."""

        def __init__(self, directory):
            super().__init__(directory)
            self.process = os.getpid()

        def writing(self, key, record, identity):
            return lambda: self.path(key)

    with cluster(tmp_path, 1) as processes, connected(processes.address) as executor:
        monkeypatch.setattr("byheart.jobs.Records", Elsewhere)
        with pytest.raises(StoreError, match="accepted: workers with the same directory"):
            run([job("a", tmp_path)], Records(tmp_path / "records"), executor=executor)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("byheart.cluster._SECONDS_TO_ANSWER", 0.5)
    with (
        pytest.raises(OSError, match=r"cluster: received tcp://127\.0\.0\.1:1 .*accepted"),
        connected("tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "address", ["", "nonsense", "http://x:1", "tcp://127.0.0.1", "tcp://x:8786/", "inproc://x/1", "tls://127.0.0.1:1"]
)
def test_what_is_no_address_is_refused_at_once_and_leaves_nothing_that_waits(address):
    with pytest.raises(OSError, match=f"cluster: received {address} .*, accepted: the address"), connected(address):
        pass
    gc.collect()  # a finalizer that waits would warn


def test_another_server_is_no_scheduler():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        answered = pool.submit(lambda: server.accept()[0].sendall(b"SSH-2.0-OpenSSH_9\r\n"))
        with pytest.raises(OSError, match=f"cluster: received {address} .*, accepted: the address"), connected(address):
            pass
        assert answered.result() is None


TEXT = "\n\n".join(f"The {k}th of many sheep jumps over the gate, and all that follow it sleep." for k in range(40))


def test_counterfactual_models_on_a_cluster_have_the_bits_of_those_here(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    small = ["--models", "16", "--n-epochs", "1", "--width", "16", "--vocabulary", "270", "--canaries", "0"]
    command = [sys.executable, "-m", "byheart", "counterfactual", "text.txt", *small]
    with cluster(tmp_path) as processes:
        on_cluster = [*command, "--cluster", processes.address, "--out", "there"]
        done = subprocess.run(on_cluster, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    subprocess.run([*command, "--n-workers", "1", "--out", "here"], cwd=tmp_path, check=True, capture_output=True)
    assert arrays(tmp_path / "there" / "models") == arrays(tmp_path / "here" / "models")
    assert (tmp_path / "there" / "spans.csv").read_bytes() == (tmp_path / "here" / "spans.csv").read_bytes()


def test_a_study_on_a_cluster_has_the_bits_of_one_here(tmp_path):
    command = [sys.executable, "-m", "byheart", "reproduce", "double-descent", "--max-examples", "3"]
    with cluster(tmp_path) as processes:
        on_cluster = [*command, "--cluster", processes.address, "--out", "there"]
        done = subprocess.run(on_cluster, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    subprocess.run([*command, "--n-workers", "1", "--out", "here"], cwd=tmp_path, check=True, capture_output=True)
    assert arrays(tmp_path / "there" / "runs") == arrays(tmp_path / "here" / "runs")


def arrays(store: Path) -> dict[str, dict[str, bytes]]:
    """The arrays of every result in a store, of which there are some."""
    records = Records(store)
    keys = records.keys()
    assert keys
    return {key: {name: array.tobytes() for name, array in records.read(key).arrays.items()} for key in keys}


def test_a_sweep_on_a_cluster_has_the_bits_of_one_here(tmp_path):
    sizes = ["--n-examples", "3", "5", "--n-features", "200", "--sparsity", "0.9", "--n-steps", "40", "--n-seeds", "2"]
    sweep = [sys.executable, "-m", "byheart", "sweep", *sizes]
    subprocess.run([*sweep, "--n-workers", "1", "--out", "here"], cwd=tmp_path, check=True, capture_output=True)
    with cluster(tmp_path) as processes:
        on_cluster = [*sweep, "--cluster", processes.address, "--out", "there"]
        done = subprocess.run(on_cluster, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        assert "4 runs in there" in done.stdout
    here, there = open_runs(tmp_path / "here"), open_runs(tmp_path / "there")
    assert len(here) == 4
    for one, other in zip(here, there, strict=True):
        assert one.metrics == other.metrics
        np.testing.assert_array_equal(one.W, other.W)


MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@pytest.mark.skipif(MPIEXEC is None or find_spec("mpi4py") is None, reason="needs mpiexec and mpi4py")
def test_the_example_of_mpi_runs_under_mpiexec(tmp_path):
    page = Path(__file__).parents[1] / "docs" / "cluster.md"
    _, _, below = page.read_text(encoding="utf-8").partition("### MPI")
    script = below.split("```python\n")[1].split("```")[0]
    (tmp_path / "script.py").write_text(script + "        print(len(runs), executor.num_workers)\n")
    command = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "2 2\n"
    assert len(open_runs(tmp_path / "by-mpi")) == 2
