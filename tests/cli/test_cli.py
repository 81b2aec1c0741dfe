"""The command line as a person uses it: what it prints, its exit status, and what it makes of nonsense."""

import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from byheart.cli import main
from byheart.studies.catalogue import STUDIES
from byheart.toy.config import TrainConfig
from byheart.toy.runs import open_runs

SMALL = ["--n-features", "60", "--sparsity", "0.9", "--n-steps", "200", "--n-test", "50"]


def run(capsys, *arguments):
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train_keeps_one_file_and_prints_its_metrics(capsys, tmp_path):
    status, out, _ = run(capsys, "train", "--n-examples", 5, *SMALL, "--out", tmp_path)
    assert status == 0
    (header,) = open_runs(tmp_path).headers
    assert header.config == TrainConfig(5, n_features=60, sparsity=0.9, n_steps=200, n_test=50)
    assert f"{header.metrics['train_loss']:.6g}" in out
    assert header.id in out


def test_sweep_trains_every_combination_and_seed(capsys, tmp_path):
    arguments = ["sweep", "--n-examples", 3, 5, "--weight-decay", 0, 0.1, "--n-seeds", 2, *SMALL, "--out", tmp_path]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "8 runs" in out
    dataset = open_runs(tmp_path).dataset
    assert dict(dataset.sizes) == {"n_examples": 2, "weight_decay": 2, "seed": 2}
    assert np.isfinite(dataset["train_loss"]).all()


def test_sweep_lets_the_warm_up_follow_the_number_of_steps(capsys, tmp_path):
    small = ["--n-features", "60", "--sparsity", "0.9", "--n-test", "50"]
    status, _, err = run(capsys, "sweep", "--n-examples", 3, "--n-steps", 100, 1000, *small, "--out", tmp_path)
    assert (status, err) == (0, "")
    assert {(h.config.n_steps, h.config.warmup_steps) for h in open_runs(tmp_path).headers} == {(100, 5), (1000, 50)}


def test_a_failed_run_is_reported_with_its_config_and_the_rest_is_kept(capsys, tmp_path):
    arguments = ["sweep", "--n-examples", 3, "--learning-rate", 1e-3, 1e30, *SMALL, "--out", tmp_path]
    status, _, err = run(capsys, *arguments)
    assert status == 1
    assert "learning_rate=1e+30" in err
    assert "step 1" in err
    assert [h.config.learning_rate for h in open_runs(tmp_path).headers] == [1e-3]


def test_reproduce_lists_its_studies(capsys):
    status, out, _ = run(capsys, "reproduce", "--list")
    assert status == 0
    assert "double-descent" in out


def test_reproduce_all_runs_every_study_that_has_so_small_sets_and_gathers_the_verdicts(capsys, tmp_path):
    status, out, err = run(capsys, "reproduce", "all", "--max-examples", 3, "--out", tmp_path)
    assert (status, err) == (0, "")
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"double-descent", "double-descent-averaged", "double-descent-m4", "polygons", "two-views"}
    for name in made:
        assert {"README.md", "verdicts.csv", "report.html"} <= {path.name for path in (tmp_path / name).iterdir()}
        assert name in out
    page = (tmp_path / "README.md").read_text()
    assert "[polygons](polygons/README.md)" in page
    (tmp_path / "README.md").write_text("# Mine\n")
    status, out, _ = run(capsys, "verdicts", tmp_path)
    assert status == 0
    assert (tmp_path / "README.md").read_text().startswith("# Mine\n")
    assert page.split("-->")[1] == (tmp_path / "README.md").read_text().split("-->")[1]


def test_reproduce_all_says_at_once_what_it_leaves_out(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("byheart.cli.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("byheart.cli.STUDIES", {name: STUDIES[name] for name in ("double-descent", "variants")})
    made = []
    monkeypatch.setattr(
        "byheart.cli.ReproduceCommand._reproduce", lambda self, study, out: made.append((study.name, out))
    )
    monkeypatch.setattr("byheart.cli.write_summary", lambda out: pd.DataFrame(columns=["verdict"]))
    status, _, err = run(capsys, "reproduce", "all", "--out", tmp_path)
    assert (status, made) == (0, [("double-descent", tmp_path / "double-descent")])
    assert err.count("variants left out") == err.count("mnist left out") == 2  # at the start and at the end
    assert 'pip install "byheart[audit]"' in err


@pytest.fixture
def target(tmp_path):
    """A file whose functions return a network and its data, half a dozen of which it cannot know but by heart."""
    pytest.importorskip("torch")
    path = tmp_path / "mine.py"
    path.write_text(
        """
import byheart as bh, numpy as np, torch

def make(n_epochs=100):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 30)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    x[:, 0] += 10 * y - 5
    y[:6] = 1 - y[:6]
    net = torch.nn.Sequential(torch.nn.Linear(30, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    fit, log = bh.Fit(net, x, y, n_epochs=n_epochs), bh.TrainingLog(len(x))
    return {"model": fit(np.arange(200), 0, log), "dataset": (x, y), "log": log}

def early():
    return make(2)
"""
    )
    return path


def test_audit_writes_a_page_and_a_table_and_fails_on_what_is_asked(capsys, target, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    command = ["audit", f"{target}:make", "--out", page, "--table", table]
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert f"wrote {page}" in out
    assert "The ranking is uncalibrated" in out
    scores = pd.read_csv(table, index_col="example")
    assert len(scores) == 200
    assert set(scores["score"].nlargest(6).index) == set(range(6))  # the wrong labels
    assert "mine.py:make" in page.read_text(encoding="utf-8")
    status, _, err = run(capsys, *command, "--fail-on", "mean_loss>0.5 count>2")
    assert status == 1
    assert err == "byheart: check failed: 6 examples, mean_loss>0.5 count>2\n"
    assert run(capsys, *command, "--fail-on", "mean_loss>0.5 count>100")[0] == 0
    status, _, err = run(capsys, *command, "--fail-on", "probability>0.9")
    assert status == 2
    assert "probability needs a held-out run" in err


def test_two_audits_are_compared(capsys, target, tmp_path):
    status, out, _ = run(capsys, "audit", "diff", f"{target}:early", f"{target}:make")
    assert status == 0
    assert "newly memorised examples" in out
    tables = []
    for name in ("early", "make"):
        tables.append(tmp_path / f"{name}.csv")
        run(capsys, "audit", f"{target}:{name}", "--out", tmp_path / "page.html", "--table", tables[-1])
    assert run(capsys, "audit", "diff", *tables)[1].splitlines()[-1] == out.splitlines()[-1]
    assert (
        run(capsys, "audit", "diff", tables[0], tables[0])[1].splitlines()[-1]
        == "0 newly memorised examples, 0 no longer"
    )


@pytest.mark.parametrize(
    ("arguments", "received", "accepted"),
    [
        (["verdicts", "no-such-directory"], "no-such-directory", "one with results"),
        (["reproduce", "all", "--scale", "huge"], "huge", "quick"),
        (["train", "--n-examples", "0"], "received 0", "integer >= 1"),
        (["train", "--n-examples", "five"], "--n-examples: received five", "accepted: INT|{inf}"),
        (["train", "--n-examples", "5", "--n-steps", "1.5"], "--n-steps: received '1.5'", "accepted: an integer"),
        (["train", "--n-examples", "5", "--sparsity", "high"], "--sparsity: received 'high'", "accepted: a number"),
        (["train"], "--n-examples", "Missing"),
        (["train", "--n-examples", "5", "--n-hidden", "0"], "received 0", "integer >= 1"),
        (["train", "--n-examples", "5", "--sparsity", "1"], "received 1.0", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--sparsity", "-0.1"], "received -0.1", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--sparsity", "nan"], "received nan", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--weight-decay", "-1"], "received -1.0", ">= 0"),
        (["train", "--n-examples", "5", "--n-steps", "10", "--warmup-steps", "11"], "received 11", "n_steps = 10"),
        (["train", "--n-examples", "5", "--kernel", "fpga"], "fpga", "cpu"),
        (["train", "--n-examples", "5", "--bogus", "1"], "--bogus", "Unrecognized"),
        (["sweep", "--n-examples", "3", "0"], "received 0", "integer >= 1"),
        (["sweep", "--n-examples", "3", "--n-seeds", "0"], "received 0", "integer >= 1"),
        (["sweep", "--n-examples", "3", "--n-workers", "0"], "received 0", "integer >= 1"),
        (["reproduce", "quadruple-descent"], "'quadruple-descent'", "double-descent"),
        (["reproduce", "double-descent", "--max-examples", "1"], "received 1", "at least 3, the study's smallest T"),
        (["reproduce", "all", "--max-examples", "1"], "received 1", "smallest T"),
        (["reproduce", "mnist", "--max-examples", "5"], "received 5 with mnist", "other studies"),
        (["reproduce", "double", "--list"], "received 'double'", "double-descent"),
        (["reproduce", "double-descent", "--images", "x"], "'x' with double-descent", "with mnist"),
        (["reproduce", "mnist", "--images", "nowhere"], "nowhere", "a folder with"),
        (["audit", "nowhere.py:make"], "'nowhere.py:make'", "no file nowhere.py"),
        (["audit", "cifar"], "cifar", "FILE.py:function, mnist, fashion-mnist, digits"),
        (["audit", "digits", "--out", "page.txt"], "page.txt", ".html"),
        (["audit", "diff", "a.csv"], "target", "diff A B"),
        (["audit", "diff", "a.csv", "b.csv"], "a.csv", "No such file"),
        (["audit", "digits", "--fail-on", "count>3"], "'count>3'", "a condition on a column"),
        (["leaderboard", "imagenet"], "'imagenet'", "mnist-mlp"),
        (["report", "no-such-directory"], "no-such-directory", "directory"),
        (["frobnicate"], "frobnicate", "train"),
        ([], "", "train"),
    ],
)
def test_bad_input_is_answered_in_one_line_and_with_status_2(
    capsys, tmp_path, monkeypatch, arguments, received, accepted
):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    assert received in err
    assert accepted in err
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_in_the_place_of_a_run_is_named(capsys, tmp_path):
    (tmp_path / "0123456789abcdef.safetensors").write_text("not a run")
    status, _, err = run(capsys, "report", tmp_path, "--out", tmp_path / "report.html")
    assert status == 2
    assert "0123456789abcdef.safetensors" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_an_unwritable_directory_is_named_before_anything_is_trained(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "train", "--n-examples", 5, "--out", tmp_path / "file")
    assert status == 2
    assert str(tmp_path / "file") in err
    assert err.count("\n") == 1


def test_ctrl_c_is_answered_within_a_second_and_keeps_finished_runs(tmp_path):
    command = [sys.executable, "-m", "byheart", "sweep", "--n-examples", "100", "2000"]
    command += ["--n-steps", "3000000", "--n-features", "1000", "--sparsity", "0.99", "--out", str(tmp_path)]
    quick = [sys.executable, "-m", "byheart", "train", "--n-examples", "3", *SMALL, "--out", str(tmp_path)]
    subprocess.run(quick, check=True, capture_output=True)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(12)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 2  # a second, and one for a busy machine
    assert process.returncode == 130
    assert err.strip() == "interrupted; finished runs are kept, and the same command goes on from them"
    assert len(open_runs(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_progress_bar_is_drawn_in_a_terminal_only(tmp_path):
    command = [sys.executable, "-m", "byheart", "train", "--n-examples", "3", "--out", str(tmp_path), *SMALL]
    piped = subprocess.run(command, check=True, capture_output=True, text=True)
    assert piped.stderr == ""
    command[command.index("200")] = "20000"
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=os.environ | {"TERM": "xterm"})
    os.close(follower)
    drawn = b""
    while True:
        try:
            drawn += os.read(leader, 4096)
        except OSError:  # how a pseudo-terminal ends on Linux
            break
    assert process.wait() == 0
    assert b"train" in drawn
    assert b"loss" in drawn
