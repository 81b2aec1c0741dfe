from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from language.simulate import documents
from safetensors.numpy import save_file

from byheart.language.design import Design
from byheart.language.logs import Logs, as_logs


@pytest.fixture
def design():
    return Design(documents([3, 2]), n_models=2)


@pytest.fixture
def logs():
    values = -np.arange(10, dtype=np.float32).reshape(2, 5)
    return Logs(values, values > -4)


def same(found, logs):
    assert found.log_probability.dtype == np.float32
    np.testing.assert_array_equal(found.log_probability, logs.log_probability)
    if found.correct is not None:
        np.testing.assert_array_equal(found.correct, logs.correct)


def test_arrays_in_any_form(design, logs):
    for given in (
        logs,
        (logs.log_probability, logs.correct),
        {"log_probability": logs.log_probability, "correct": logs.correct.astype(int)},
        logs.log_probability.astype(np.float64).tolist(),
    ):
        same(as_logs(given, design), logs)
    assert as_logs(logs.log_probability, design).correct is None


def test_files(design, logs, tmp_path):
    arrays = {"log_probability": logs.log_probability, "correct": logs.correct}
    np.save(tmp_path / "a.npy", logs.log_probability)
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.npz", "a.safetensors"):
        same(as_logs(tmp_path / name, design), logs)


def long_table(logs):
    model, token = np.divmod(np.arange(10), 5)
    return pd.DataFrame(
        {
            "model": model,
            "token": token,
            "document": np.array([0, 0, 0, 1, 1])[token],
            "position": np.array([0, 1, 2, 0, 1])[token],
            "log_probability": logs.log_probability.ravel(),
            "correct": logs.correct.ravel(),
        }
    ).sample(frac=1, random_state=0)


@pytest.mark.parametrize("left_out", [["document", "position"], ["token"], ["token", "correct"]])
def test_parquet_in_any_order(design, logs, tmp_path, left_out):
    long_table(logs).drop(columns=left_out).to_parquet(tmp_path / "a.parquet")
    same(as_logs(str(tmp_path / "a.parquet"), design), logs)


def test_parquet_with_names(design, logs, tmp_path):
    table = long_table(logs).drop(columns="token")
    table["document"] = "d" + table["document"].astype(str)
    table.to_parquet(tmp_path / "a.parquet")
    same(as_logs(tmp_path / "a.parquet", design), logs)
    table["document"] = "x"
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="document: received -1"):
        as_logs(tmp_path / "a.parquet", design)


def test_parquet_refuses_gaps_and_repeats(design, logs, tmp_path):
    table, path = long_table(logs), tmp_path / "a.parquet"
    for wrong, says in (
        (table.iloc[1:], "0 times"),
        (pd.concat([table, table.iloc[:1]]), "2 times"),
        (table.drop(columns="model"), "without model"),
        (table.assign(token=table["token"] + 1), "token: received 5"),
        (table.drop(columns="token").assign(position=2), "position 2 of document 1"),
    ):
        wrong.to_parquet(path)
        with pytest.raises(ValueError, match=says):
            as_logs(path, design)


def test_rounding_above_zero_is_tolerated(design, logs):
    given = logs.log_probability.copy()
    given[0, 0] = 1e-5
    assert as_logs(given, design).log_probability[0, 0] == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf, 0.1])
def test_no_log_probability(design, logs, value):
    given = logs.log_probability.copy()
    given[1, 2] = value
    with pytest.raises(ValueError, match="of model 1 at token 2"):
        as_logs(given, design)


def test_other_mistakes(design, logs, tmp_path):
    values = logs.log_probability
    for given, says in (
        (values[:, :4], r"received shape \(2, 4\), accepted: \(2, 5\)"),
        ((values, logs.correct, 0), "tuple of 3"),
        ({"correct": logs.correct}, "accepted: log_probability and correct"),
        ((values, values - 0.5), "accepted: bools"),
        (values.astype(complex), "real numbers"),
        (tmp_path / "a.npy", "not there"),
        ("a.csv", "accepted: a file .npy"),
    ):
        with pytest.raises(ValueError, match=says):
            as_logs(given, design)
