"""The command line as a person uses it: what it makes of nonsense, of Ctrl-C and of a terminal."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

import byheart
from byheart.cli import main
from byheart.toy.runs import open_runs

SMALL = ["--n-features", "60", "--sparsity", "0.9", "--n-steps", "200", "--n-test", "50"]
TERMINAL = os.environ | {"TERM": "xterm"}


@pytest.mark.parametrize(
    ("arguments", "received", "accepted"),
    [
        (["verdicts", "no-such-directory"], "no-such-directory", "one with results"),
        (["reproduce", "all", "--scale", "huge"], "huge", "quick"),
        (["train", "--n-examples", "0"], "received 0", "integer >= 1"),
        (["train", "--n-examples", "five"], "--n-examples: received 'five'", "accepted: an integer, inf"),
        (["train", "--n-examples", "5", "--n-steps", "1.5"], "--n-steps: received '1.5'", "accepted: an integer"),
        (["train", "--n-examples", "5", "--sparsity", "high"], "--sparsity: received 'high'", "accepted: a number"),
        (["train"], "--n-examples: received nothing", "accepted: Distinct training examples T"),
        (["train", "--n-examples"], "--n-examples", "expected one argument"),
        (["train", "--n-examples", "5", "--n-hidden", "0"], "received 0", "integer >= 1"),
        (["train", "--n-examples", "5", "--sparsity", "1"], "received 1.0", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--sparsity", "-0.1"], "received -0.1", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--sparsity", "nan"], "received nan", "0 <= sparsity < 1"),
        (["train", "--n-examples", "5", "--weight-decay", "-1"], "received -1.0", ">= 0"),
        (["train", "--n-examples", "5", "--n-steps", "10", "--warmup-steps", "11"], "received 11", "n_steps = 10"),
        (["train", "--n-examples", "5", "--kernel", "fpga"], "--kernel: received 'fpga'", "accepted: cpu, gpu"),
        (["train", "--n-examples", "5", "--bogus", "1"], "received --bogus 1", "byheart train --help"),
        (["train", "--n-ex", "5"], "received --n-ex 5", "accepted: options of this command"),
        (["sweep", "--n-examples", "3", "0"], "received 0", "integer >= 1"),
        (["sweep", "--n-examples", "3", "--n-seeds", "0"], "received 0", "integer >= 1"),
        (["sweep", "--n-examples", "3", "--n-workers", "0"], "received 0", "integer >= 1"),
        (["sweep", "--n-examples", "3", "5", "--batch-size", "64"], "received 64 with n_examples 3", "n_examples inf"),
        (["train", "--n-examples", "3", "--batch-size", "64"], "received 64 with n_examples 3", "n_examples inf"),
        (["reproduce", "quadruple-descent"], "'quadruple-descent'", "double-descent"),
        (["reproduce", "double-descent", "--max-examples", "1"], "received 1", "at least 3, the study's smallest T"),
        (["reproduce", "all", "--max-examples", "1"], "received 1", "smallest T"),
        (["reproduce", "mnist", "--max-examples", "5"], "received 5 with mnist", "other studies"),
        (["reproduce", "double", "--list"], "received 'double'", "double-descent"),
        (["reproduce", "double-descent", "--folder", "x"], "'x' with double-descent", "with mnist"),
        (["reproduce", "mnist", "--folder", "nowhere"], "nowhere", "a folder with"),
        (["copied", "a.txt"], "output, --from: received none", "--from FILES"),
        (["copied", "no-such.txt", "--from", "no-such.txt"], "no-such.txt", "a text file"),
        (["copied", __file__, "--from", __file__, "--held-out", __file__], "--held-out", "not in --from"),
        (["copied", __file__, "--from", __file__, "--min-characters", "0"], "received 0", "integer >= 1"),
        (["forgotten", "a"], "before, after, --spans: received too few", "byheart forgotten A B --spans FILE"),
        (["forgotten", "a", "b", "--spans", "no-such.json"], "no-such.json", "a JSON file"),
        (["audit", "nowhere.py:make"], "'nowhere.py:make'", "no file nowhere.py"),
        (["audit", "cifar"], "cifar", "FILE.py:function, mnist, fashion-mnist, digits"),
        (["audit", "digits", "--out", "page.txt"], "page.txt", ".html"),
        (["audit", "diff", "a.csv"], "target", "diff A B"),
        (["audit", "diff", "a.csv", "b.csv"], "a.csv", "No such file"),
        (["audit", "digits", "--fail-on", "count>3"], "'count>3'", "a condition on a column"),
        (["leaderboard", "imagenet"], "'imagenet'", "mnist-mlp"),
        (["report", "no-such-directory"], "no-such-directory", "directory"),
        (["leaderboard", "--bogus"], "received --bogus", "byheart leaderboard --help"),
        (["report"], "RUNS: received nothing", "accepted: Directory of run files"),
        (["frobnicate"], "command: received 'frobnicate'", "accepted: train, "),
        (["--frobnicate"], "--frobnicate", "byheart --help"),
        ([], "command: received ''", "accepted: train, "),
    ],
)
def test_bad_input_is_answered_in_one_line_and_with_status_2(run, tmp_path, monkeypatch, arguments, received, accepted):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    assert received in err
    assert accepted in err
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_are_printed(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert "Train one model and keep it as one file." in out
    status, out, err = run("train", "--help")
    assert (status, err) == (0, "")
    assert "Initial W: drawn" in out  # a field's docstring
    assert "default 5 % of" in out
    assert run("--version") == (0, f"byheart {byheart.__version__}\n", "")


TARGET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (torch.randn(60, 4), torch.randint(0, 3, (60,)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", ["数据", os.fsdecode(b"net\xe9")])
def test_output_that_cannot_be_encoded_loses_nothing(tmp_path, encoding, name):
    (tmp_path / f"{name}.py").write_text(TARGET)
    command = [sys.executable, "-m", "byheart", "audit", f"{name}.py:make", "--out", f"{name}.html", "--table", "t.csv"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u" in done.stdout
    assert (tmp_path / f"{name}.html").is_file()
    assert (tmp_path / "t.csv").read_text().count("\n") == 61


def test_output_that_cannot_be_encoded_is_spelled_out(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["reproduce", "--list"]) == 0
    print("\u2265")
    sys.stdout.flush()
    assert written.getvalue().endswith(b"\\u2265\n")


def test_a_reader_that_goes_away_is_no_failure(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "byheart", "reproduce", "--list"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_is_no_failure(closed):
    command = [sys.executable, "-m", "byheart", "reproduce", "--list"]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("double-descent" in done.stdout) == (closed == "2")


def test_a_notebooks_backend_that_is_not_there_does_not_matter(run, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://no_such_package.backend_inline")
    assert run("reproduce", "--list")[0] == 0
    assert os.environ["MPLBACKEND"] == "agg"  # what a study that draws would import matplotlib with


def until(leader, words):
    """Read a pseudo-terminal until the words are drawn, or to its end without words."""
    drawn = b""
    while not words or words not in drawn:
        try:
            drawn += os.read(leader, 4096)
        except OSError:  # how a pseudo-terminal ends on Linux
            break
    return drawn


@pytest.mark.slow
def test_ctrl_c_is_answered_at_once_and_keeps_finished_runs(tmp_path):
    quick = [sys.executable, "-m", "byheart", "train", "--n-examples", "3", *SMALL, "--out", str(tmp_path)]
    subprocess.run(quick, check=True, capture_output=True)  # by another command, so that no run of the sweep is there
    command = [sys.executable, "-m", "byheart", "sweep", "--n-examples", "100", "2000"]
    command += ["--n-steps", "3000000", "--n-features", "1000", "--sparsity", "0.99", "--out", str(tmp_path)]
    leader, follower = pty.openpty()
    with os.fdopen(leader), subprocess.Popen(command, stderr=follower, start_new_session=True, env=TERMINAL) as process:
        os.close(follower)
        hang = threading.Timer(300, os.killpg, (process.pid, signal.SIGKILL))
        hang.start()
        assert b"loss" in until(leader, b"loss")  # the runs are under way, and take hours
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        last = until(leader, b"").decode()
        assert process.wait() == 130
        hang.cancel()
    assert last.endswith("interrupted\r\n")
    assert "Traceback" not in last
    assert len(open_runs(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_progress_bar_is_drawn_in_a_terminal_only(tmp_path):
    command = [sys.executable, "-m", "byheart", "train", "--n-examples", "3", "--out", str(tmp_path), *SMALL]
    piped = subprocess.run(command, check=True, capture_output=True, text=True)
    assert piped.stderr == ""
    command[command.index("200")] = "20000"
    leader, follower = pty.openpty()
    with (
        os.fdopen(leader),
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=TERMINAL) as process,
    ):
        os.close(follower)
        drawn = until(leader, b"")
    assert process.returncode == 0
    assert b"train" in drawn
    assert b"loss" in drawn
