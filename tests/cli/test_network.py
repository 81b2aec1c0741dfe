"""Audits as a person runs them."""

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
    assert err == "byheart: check failed: 6 examples, mean_loss>0.5 count>2\n"
    assert run(*command, "--fail-on", "mean_loss>0.5 count>100")[0] == 0
    status, _, err = run(*command, "--fail-on", "probability>0.9")
    assert status == 2
    assert "probability needs a held-out run" in err


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
    assert "newly memorized examples" in out
    tables = []
    for name, suffix in (("early", ".csv"), ("make", ".parquet")):
        tables.append(tmp_path / f"{name}{suffix}")
        run("audit", f"{target}:{name}", "--out", tmp_path / "page.html", "--table", tables[-1])
    assert run("audit", "diff", *tables)[1].splitlines()[-1] == out.splitlines()[-1]
    assert run("audit", "diff", tables[0], tables[0])[1].splitlines()[-1] == "0 newly memorized examples, 0 no longer"


def test_layer_head_and_axes_are_options(run, target, tmp_path):
    command = ["audit", f"{target}:early", "--out", tmp_path / "page.html"]
    assert run(*command, "--layer", "1", "--head", "2", "--axes", "nu")[0] == 0
    for option, message in (("--head", "head: received 'npu', accepted: 0, 2"), ("--axes", "axes: received 'npu'")):
        status, _, err = run(*command, option, "npu")
        assert status == 2
        assert message in err
