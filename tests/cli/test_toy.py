"""Training, sweeping and reporting as a person does it."""

import re
import warnings

import numpy as np

from byheart.toy.config import TrainConfig
from byheart.toy.runs import open_runs

SMALL = ["--n-features", "60", "--sparsity", "0.9", "--n-steps", "200", "--n-test", "50"]


def test_train_keeps_one_file_and_prints_its_metrics(run, tmp_path):
    status, out, _ = run("train", "--n-examples", 5, *SMALL, "--out", tmp_path)
    assert status == 0
    (header,) = open_runs(tmp_path).headers
    assert header.config == TrainConfig(5, n_features=60, sparsity=0.9, n_steps=200, n_test=50)
    assert f"{header.metrics['train_loss']:.6g}" in out
    assert header.id in out


def test_sweep_trains_every_combination_and_seed(run, tmp_path):
    arguments = ["sweep", "--n-examples", 3, 5, "--weight-decay", 0, 0.1, "--n-seeds", 2, *SMALL, "--out", tmp_path]
    status, out, _ = run(*arguments)
    assert status == 0
    assert "8 runs" in out
    dataset = open_runs(tmp_path).dataset
    assert dict(dataset.sizes) == {"n_examples": 2, "weight_decay": 2, "seed": 2}
    assert np.isfinite(dataset["train_loss"]).all()


def test_sweep_lets_the_warm_up_follow_the_number_of_steps(run, tmp_path):
    small = ["--n-features", "60", "--sparsity", "0.9", "--n-test", "50"]
    status, _, err = run("sweep", "--n-examples", 3, "--n-steps", 100, 1000, *small, "--out", tmp_path)
    assert (status, err) == (0, "")
    assert {(h.config.n_steps, h.config.warmup_steps) for h in open_runs(tmp_path).headers} == {(100, 5), (1000, 50)}


def test_a_failed_run_is_reported_with_its_config_and_the_rest_is_kept(run, tmp_path):
    arguments = ["sweep", "--n-examples", 3, "--learning-rate", 1e-3, 1e30, *SMALL, "--out", tmp_path]
    status, _, err = run(*arguments)
    assert status == 1
    assert "learning_rate=1e+30" in err
    assert "step 1" in err
    assert [h.config.learning_rate for h in open_runs(tmp_path).headers] == [1e-3]


def test_a_text_file_in_the_place_of_a_run_is_named(run, tmp_path):
    (tmp_path / "0123456789abcdef.safetensors").write_text("not a run")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = run("report", tmp_path, "--out", tmp_path / "report.html")
    assert status == 2
    left_out, nothing = err.splitlines()
    assert left_out.startswith("byheart: left out: run file: received")
    assert "0123456789abcdef.safetensors" in left_out
    assert "with no run files" in nothing
    assert not (tmp_path / "report.html").exists()


def test_a_disk_that_is_full_in_the_end_is_one_line_that_names_the_run(run, tmp_path, monkeypatch):
    def full(where, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("byheart.storage.write_atomically", full)
    sizes = ("--n-features", 20, "--n-steps", 5, "--n-test", 5, "--kernel", "reference")
    status, _, err = run("train", "--n-examples", 3, *sizes, "--out", tmp_path)
    assert status == 1
    assert re.fullmatch(r"byheart: run file: received \S+/[0-9a-f]{16}\.safetensors \(No space left .*\n", err)


def test_an_unwritable_directory_is_named_before_anything_is_trained(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run("train", "--n-examples", 5, "--out", tmp_path / "file")
    assert status == 2
    assert str(tmp_path / "file") in err
    assert err.count("\n") == 1
