"""Tables keep what runs and their vectors say."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.toy.config import PAPER_SETUP, TrainConfig, is_paper_setup
from byheart.toy.reference import paper_reference, reproduction_norms
from byheart.toy.runs import Run, open_runs
from byheart.toy.tables import at_paper_setup, dimensionality_counts, history_of, plane, table_of, vectors_of
from byheart.toy.train import train

SMALL = TrainConfig(6, n_features=80, sparsity=0.9, n_steps=60, n_test=50)


def made_up(n_examples: int | str, n_features: int, n_hidden: int = 2) -> Run:
    rng = np.random.default_rng(0)
    config = TrainConfig(n_examples, n_features=n_features, n_hidden=n_hidden)
    n_kept = 50 if n_examples == "inf" else n_examples
    return Run(
        config=config,
        W=rng.normal(size=(n_hidden, n_features)).astype(np.float32),
        b=np.zeros(n_features, np.float32),
        hidden=rng.normal(size=(n_kept, n_hidden)).astype(np.float32),
        repeats=np.ones(n_kept, np.int64),
        history={},
        metrics={},
    )


def test_a_run_has_a_row_in_each_of_its_groups(tmp_path):
    for seed in (0, 1):
        train(dataclasses.replace(SMALL, seed=seed), out=tmp_path)
    runs = open_runs(tmp_path)
    table = table_of({"both": runs, "second": runs.where(seed=1)})
    assert list(table["group"]) == ["both", "both", "second"]
    assert list(table["seed"]) == [0, 1, 1]
    pd.testing.assert_series_equal(table.iloc[1].drop("group"), table.iloc[2].drop("group"), check_names=False)
    assert table["test_loss"].tolist() == [run.metrics["test_loss"] for run in (*runs, *list(runs)[1:])]


@pytest.mark.parametrize("fields", [{}, {"reduction": "mean"}, {"seed": 3, "n_examples": 7, "learning_rate": 0.1}])
def test_the_papers_setup_is_one_mapping(fields):
    config = TrainConfig(**({"n_examples": 3} | fields))
    assert is_paper_setup(config.to_dict())
    for name, value in PAPER_SETUP.items():
        other = {"repeats": (2,), "loss": "absolute"}.get(name, 1 if isinstance(value, (int, float)) else None)
        other = not value if isinstance(value, bool) else 0.9 if name == "sparsity" else other
        assert not is_paper_setup(config.to_dict() | {name: other}), name


def test_a_table_is_of_the_papers_setup_if_every_run_is():
    table = pd.DataFrame([TrainConfig(3).to_dict(), TrainConfig(3, n_hidden=4).to_dict()])
    assert at_paper_setup(table.head(1))
    assert not at_paper_setup(table)


def test_dimensionalities_are_counted_in_steps(tmp_path):
    runs = [made_up(3, 40), made_up(3, 40), made_up("inf", 40)]
    counts = dimensionality_counts(runs)
    assert counts.groupby("n_examples")["count"].sum().to_dict() == {3.0: 2 * 43, math.inf: 90}
    for of, values in (
        ("feature", feature_dimensionality(runs[0].W)),
        ("example", example_dimensionality(runs[0].hidden)),
    ):
        own = counts[(counts["n_examples"] == 3) & (counts["of"] == of)]
        rounded = np.round(np.sort(np.concatenate([values, values])) / 0.005) * 0.005
        np.testing.assert_allclose(np.repeat(own["dimensionality"], own["count"]), rounded, atol=1e-9)


def test_vectors_are_kept_once_where_their_dots_would_lie_on_top_of_each_other():
    run = made_up(5, 2_000)
    table = vectors_of([run])
    examples, features = (table.loc[table["of"] == of, ["x", "y"]].to_numpy() for of in ("example", "feature"))
    np.testing.assert_allclose(examples, run.hidden, rtol=1e-3)
    assert 300 < len(features) < 2_000
    cell = np.linalg.norm(run.W, axis=0).max() / 48
    distance = np.linalg.norm(run.W.T[:, None] - features, axis=2)
    assert distance.min(axis=1).max() <= cell * np.sqrt(2)
    assert distance.min(axis=0).max() <= cell / 100  # each is a vector of the run
    assert vectors_of([], ["example"]).empty
    assert len(vectors_of([dataclasses.replace(run, W=0 * run.W)])) == 2_005


@pytest.mark.parametrize("n_hidden", [1, 2, 5])
def test_vectors_lie_in_the_plane_of_most_variance_whatever_their_width(n_hidden):
    points = np.random.default_rng(0).normal(size=(20, n_hidden))
    shown = plane(points)
    assert shown.shape == (20, 2)
    assert np.linalg.norm(shown, axis=1).max() <= np.linalg.norm(points, axis=1).max() * (1 + 1e-9)
    if n_hidden == 2:
        np.testing.assert_array_equal(shown, points)


def test_a_history_has_a_line_per_feature_and_example():
    run = train(dataclasses.replace(SMALL, repeats=(4,), snapshot_steps=(0, 30, 60)))
    history = history_of(run, n_features=3)
    lines = {str(line): rows for line, rows in history.groupby("line")}
    assert len(lines) == 5
    assert list(lines["example 0"]["step"]) == [1, 30, 60]  # on a log axis, 0 stands at 1
    dims = np.array([example_dimensionality(hidden) for hidden in run.snapshots["hidden"]])
    np.testing.assert_allclose(lines["example 0"]["dimensionality"], dims[:, 0])
    np.testing.assert_allclose(lines["largest other example"]["dimensionality"], dims[:, 1:].max(axis=1))
    best = np.array([feature_dimensionality(W) for W in run.snapshots["W"]]).max()
    assert history.loc[history["line"].str.startswith("feature"), "dimensionality"].max() == pytest.approx(best)


def test_the_papers_values_are_all_there():
    table = paper_reference().set_index("n_examples")
    assert len(table) == 21
    assert table.loc[2_000, "test_loss"] == 1.015
    assert math.isnan(table.loc[10, "test_loss"])  # above the top of the paper's axis
    assert table.loc[math.inf, "feature_dim_max"] == 0.255
    assert reproduction_norms()["n_examples"].is_monotonic_increasing
