"""Audits as a person runs them."""

import re

import numpy as np
import pandas as pd
import pytest


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

def named():
    made = early()
    return made | {"ids": [f"{i:03}.png" for i in range(200)]}

def broken():
    return {"model": None, "dataset": [].pop()}

class Untouched(torch.nn.Module):
    def forward(self, x):
        raise AssertionError("the audit has begun")

def untouched():
    return Untouched(), ([[0., 1.]], [0])
"""
    )
    return path


def test_audit_writes_a_page_and_a_table_and_fails_on_what_is_asked(run, target, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    command = ["audit", f"{target}:make", "--out", page, "--table", table]
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    assert f"wrote {page}" in out
    assert "The ranking is uncalibrated" in out
    scores = pd.read_csv(table, index_col="example")
    assert len(scores) == 200
    assert set(scores["score"].nlargest(6).index) == set(range(6))  # the wrong labels
    assert "mine.py:make" in page.read_text(encoding="utf-8")
    status, _, err = run(*command, "--fail-on", "mean_loss>0.5 count>2")
    assert status == 1
    assert err == "byheart: check failed: 6 examples (3.00% of 200), mean_loss>0.5 count>2\n"
    status, out, _ = run(*command, "--fail-on", "mean_loss>0.5 share>0.03")
    assert status == 0
    assert "check passed: not mean_loss>0.5 share>0.03\n" in out


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("probability>0.9", "'probability', but .*:untouched has no held-out run, accepted: with a held-out run"),
        ("mean_loss>1", "has no log or checkpoints"),
        ("mean_residual_dimensionality>1", "has no checkpoints"),
        ("input_curvature>1", "has no curvature=True"),
    ],
)
def test_a_condition_that_lacks_evidence_is_refused_before_the_audit(run, target, tmp_path, condition, message):
    command = ["audit", f"{target}:untouched", "--out", tmp_path / "page.html", "--fail-on"]
    status, _, err = run(*command, condition)
    assert status == 2
    assert re.search(message, err)
    assert "the audit has begun" in run(*command, "loss>1")[2]


def test_a_condition_is_refused_before_a_network_is_trained(run, monkeypatch, tmp_path):
    monkeypatch.setattr("byheart.cli.network.built_in", lambda *_: pytest.fail("trained"))
    command = ["audit", "digits", "--out", tmp_path / "page.html", "--no-held-out", "--fail-on"]
    for condition in ("probability>0.9", "probabilty>0.9", "loss>x"):
        status, _, err = run(*command, condition)
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("byheart: fail_on: received")


def test_a_list_for_each_verdict_is_printed_and_one_alone_if_asked(run, target, tmp_path):
    command = ["audit", f"{target}:make", "--out", tmp_path / "page.html"]
    _, out, _ = run(*command)
    assert "suspected wrong label: 4 of 200. Look whether each label is right" in out
    table = tmp_path / "table.parquet"
    status, out, _ = run(*command, "--table", table, "--verdict", "suspected wrong label")
    assert status == 0
    assert "memorized: " not in out
    assert set(pd.read_parquet(table)["example"]) <= set(range(6))  # the wrong labels
    assert set(pd.read_parquet(table)["verdict"]) == {"suspected wrong label"}
    status, _, err = run(*command, "--verdict", "wrong")
    assert (status, err) == (
        2, "byheart: verdict: received 'wrong', accepted: suspected wrong label, memorized, not learned, copy\n"
    )  # fmt: skip


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_computed(run, target, tmp_path, monkeypatch):
    command = ["audit", f"{target}:missing", "--table"]
    assert "accepted: a name that ends in .csv or .parquet" in run(*command, tmp_path / "table.xlsx")[2]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install pyarrow" in run(*command, tmp_path / "table.parquet")[2]


def test_two_audits_are_compared(run, target, tmp_path):
    status, out, _ = run("audit", "diff", f"{target}:early", f"{target}:make")
    assert status == 0
    tables = []
    for name, suffix in (("early", ".csv"), ("make", ".parquet")):
        tables.append(tmp_path / f"{name}{suffix}")
        run("audit", f"{target}:{name}", "--out", tmp_path / "page.html", "--table", tables[-1])
    assert run("audit", "diff", *tables)[1].splitlines()[-1] == out.splitlines()[-1]
    out = run("audit", "diff", tables[0], tables[0])[1].splitlines()
    assert out[-1] == "0 newly memorized, 0 no longer"
    assert "not known without --noise" in out[-2]


@pytest.fixture
def tables(tmp_path):
    """Four trainings that flag ten of a thousand examples, one of which, "after", flags ten others."""
    found, rng = {}, np.random.default_rng(0)
    for name in ("before", "after", "seed2", "seed3"):
        score = rng.random(1_000) * 0.1
        score[:10] += 1
        if name == "after":
            score[10:20] += 2
        flagged = score >= np.sort(score)[-10]
        table = pd.DataFrame({"label": 0, "score": score, "flagged": flagged}, index=range(1_000))
        found[name] = tmp_path / f"{name}.csv"
        table.to_csv(found[name], index_label="example")
    return found


def test_more_newly_memorized_than_noise_explains_fails(run, tables, tmp_path):
    noise = ("--noise", tables["seed2"], tables["seed3"])
    command = ["audit", "diff", tables["before"], tables["after"], *noise]
    status, out, err = run(*command, "--fail-on", "p_value<0.01 excess>5", "--table", tmp_path / "changes.csv")
    assert (status, err) == (1, "byheart: check failed: p_value 1.69e-05, excess 10, p_value<0.01 excess>5\n")
    assert "10 newly memorized, 10 no longer" in out
    assert "differ by about 0 ± 0: more than noise explains (p = 1.7e-05)" in out
    assert len(pd.read_csv(tmp_path / "changes.csv")) == 20
    assert '"' in (tmp_path / "changes.csv").read_text().splitlines()[1]  # words are quoted, as in an audit's table
    assert run(*command, "--fail-on", "p_value<0.01 excess>15")[0] == 0
    same = ["audit", "diff", tables["before"], tables["seed3"], "--noise", tables["seed2"]]
    status, out, _ = run(*same, "--fail-on", "p_value<0.01")
    assert status == 0
    assert "within noise (p = 1)" in out


def test_what_noise_tells_is_refused_without_it(run, tables):
    command = ["audit", "diff", tables["before"], tables["after"], "--fail-on"]
    for condition in ("p_value<0.01", "excess>0"):
        status, _, err = run(*command, condition)
        assert status == 2
        assert "without --noise" in err
    assert run("audit", "digits", "--noise", tables["seed2"])[2].endswith("without diff, accepted: with diff A B\n")
    status, _, err = run(*command[:-1], "--noise", tables["before"])
    assert status == 2
    assert "noise 1: received the same scores as before" in err


def test_files_are_looked_for_before_anything_is_run(run, target, tables):
    status, _, err = run("audit", "diff", f"{target}:untouched", tables["after"].with_name("none.csv"))
    assert status == 2
    assert "No such file" in err


def test_ids_match_examples(run, target, tmp_path):
    table = tmp_path / "named.csv"
    assert run("audit", f"{target}:named", "--out", tmp_path / "page.html", "--table", table)[0] == 0
    whole = pd.read_csv(table, index_col="example")
    assert next(iter(whole)) == "id"
    whole.iloc[::-1].iloc[:-3].to_csv(tmp_path / "fewer.csv", index_label="example")
    status, out, _ = run("audit", "diff", table, tmp_path / "fewer.csv", "--fail-on", "removed>2")
    assert status == 1
    assert "3 removed" in out
    assert "002.png" in out


def test_a_traceback_is_shown_when_asked_for(run, target):
    status, _, line = run("audit", f"{target}:broken")
    assert (status, line.count("\n")) == (2, 1)
    assert "IndexError in mine.py" in line
    status, _, err = run("audit", f"{target}:broken", "--traceback")
    assert status == 2
    assert err.endswith(line)
    assert '"dataset": [].pop()' in err


def test_layer_head_and_axes_are_options(run, target, tmp_path):
    command = ["audit", f"{target}:early", "--out", tmp_path / "page.html"]
    assert run(*command, "--layer", "1", "--head", "2", "--axes", "nu")[0] == 0
    for option, message in (("--head", "head: received 'npu', accepted: 0, 2"), ("--axes", "axes: received 'npu'")):
        status, _, err = run(*command, option, "npu")
        assert status == 2
        assert message in err
