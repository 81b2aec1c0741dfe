"""Sweeps on a real server that speaks the protocol of S3, on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from clusters import cluster

from byheart.cli import main
from byheart.records import Records
from byheart.storage import write_atomically
from byheart.toy.config import TrainConfig
from byheart.toy.runs import open_runs
from byheart.toy.sweep import grid, sweep

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
_CONFIGS = grid(TrainConfig(n_examples=3, n_features=40, sparsity=0.9, n_test=10, n_steps=30), {}, range(6))


@pytest.fixture(scope="module")
def bucket():
    """The URL of a bucket on a server that this test starts and ends."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            boto3.client("s3").create_bucket(Bucket="runs")
            yield "s3://runs"
    finally:
        server.stop()


def numbers(where):
    return {run.id: run.W.tobytes() for run in open_runs(where)}


def test_a_sweep_into_a_bucket_equals_one_into_a_directory_and_is_taken_up_again(bucket, tmp_path):
    sweep(_CONFIGS[:3], f"{bucket}/one", n_workers=2)
    assert len(open_runs(f"{bucket}/one")) == 3
    sweep(_CONFIGS, f"{bucket}/one", n_workers=2)
    runs = sweep(_CONFIGS, f"{bucket}/one", n_workers=2, on_progress=lambda p: None)
    assert len(runs.table) == 6
    sweep(_CONFIGS, tmp_path / "one", n_workers=1)
    assert numbers(f"{bucket}/one") == numbers(tmp_path / "one")
    assert Records(f"{bucket}/one").keys() == sorted(numbers(tmp_path / "one"))


def test_workers_of_a_cluster_write_to_the_bucket(bucket, tmp_path):
    sizes = ["--n-examples", "3", "5", "--n-features", "40", "--sparsity", "0.9", "--n-steps", "30"]
    store = f"{bucket}/by-cluster"
    command = [sys.executable, "-m", "byheart", "sweep", *sizes, "--out", store]
    with cluster(tmp_path) as processes:
        done = subprocess.run([*command, "--cluster", processes.address], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert f"2 runs in {store}" in done.stdout
    assert main(["sweep", *sizes, "--n-workers", "1", "--out", str(tmp_path / "here")]) == 0
    assert numbers(store) == numbers(tmp_path / "here")


def test_two_sweeps_at_once_harm_nothing(bucket, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(sweep, _CONFIGS, f"{bucket}/two", executor=ThreadPoolExecutor(1)) for _ in range(2)]
        assert all(len(each.result()) == 6 for each in both)
    sweep(_CONFIGS, tmp_path, n_workers=1)
    assert numbers(f"{bucket}/two") == numbers(tmp_path)
    assert len(Records(f"{bucket}/two").keys()) == 6


def test_whoever_reads_while_others_write_sees_a_whole_object(bucket):
    target, stop, seen = f"{bucket}/three/one", threading.Event(), set()
    contents = [bytes([number]) * 300_000 for number in range(4)]
    write_atomically(target, contents[0])

    def look():
        from byheart.storage import read_bytes

        while not stop.is_set():
            seen.add(read_bytes(target))

    reader = threading.Thread(target=look)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda content: [write_atomically(target, content) for _ in range(3)], contents))
    stop.set()
    reader.join()
    assert seen
    assert seen <= set(contents)


def test_commands_take_urls_and_name_what_is_damaged(bucket, tmp_path, capsys):
    store = f"{bucket}/four"
    common = ["--n-features", "40", "--n-steps", "20", "--n-test", "10", "--sparsity", "0.9"]
    assert main(["sweep", "--n-examples", "3", "4", *common, "--n-workers", "1", "--out", store]) == 0
    write_atomically(f"{store}/0123456789abcdef.safetensors", b"half a run")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["report", store, "--out", str(tmp_path / "report.html")]) == 0
    assert f"{store}/0123456789abcdef.safetensors (10 bytes" in capsys.readouterr().err
    assert main(["store", "check", store]) == 1
    assert main(["store", "check", store, "--remove-damaged"]) == 0
    assert main(["store", "merge", str(tmp_path / "copy"), store]) == 0
    assert numbers(tmp_path / "copy") == numbers(store)


def test_a_bucket_that_is_not_there_is_named_in_one_line(bucket, capsys):
    assert main(["train", "--n-examples", "3", "--out", "s3://no-such-bucket/runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out: received s3://no-such-bucket/runs" in line
