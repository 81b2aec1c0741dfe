"""Figures show the numbers they are given."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from byheart.toy import figures as plots
from byheart.toy.config import TrainConfig
from byheart.toy.runs import summed
from byheart.toy.sweep import grid
from byheart.toy.tables import dimensionality_counts, history_of, table_of, vectors_of
from byheart.toy.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from byheart.toy.runs import open_runs

    directory = tmp_path_factory.mktemp("runs")
    base = TrainConfig(3, n_features=80, sparsity=0.9, n_steps=200, n_test=50, batch_size=16)
    for config in grid(base, {"n_examples": [3, 10, "inf"]}, range(2)):
        train(config, out=directory)
    return open_runs(directory)


@pytest.fixture(scope="module")
def tables(runs):
    longest = {run.id: float(np.linalg.norm(run.hidden, axis=1).max()) for run in runs}
    table = table_of({"all": runs})
    first = [next(iter(runs.where(n_examples=size))) for size in (3, 10, "inf")]
    return {
        "runs": table.assign(hidden_norm_max=table["id"].map(longest)),
        "dimensionalities": dimensionality_counts(runs),
        "vectors": vectors_of(first),
    }


def axes():
    return Figure().add_subplot()


def test_losses_draws_the_mean_over_seeds_and_every_seed(tables):
    table = tables["runs"]
    ax = plots.losses(table, axes())
    assert any(sorted(line.get_ydata()) == sorted(table["test_loss"]) for line in ax.lines)
    (errors,) = ax.containers
    mean = table.groupby("n_examples")["test_loss"].mean()
    np.testing.assert_allclose(errors.lines[0].get_ydata().astype(float), mean)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "10", "\N{INFINITY}"]


def test_losses_are_summed_over_features(tables):
    averaged = tables["runs"].assign(reduction="mean")
    ax = plots.losses(averaged, axes())
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    assert np.isin(summed(averaged)["test_loss"], drawn).all()


def test_dimensionalities_draws_every_value(tables):
    counts = tables["dimensionalities"]
    ax = plots.dimensionalities(tables["runs"], counts, axes())
    drawn = np.concatenate([np.asarray(points.get_offsets())[:, 1] for points in ax.collections])
    assert sorted(drawn) == sorted(counts["dimensionality"])


def test_the_line_of_regular_polygons_is_m_over_t(tables):
    ax = plots.dimensionalities(tables["runs"], tables["dimensionalities"], axes())
    (line,) = [line for line in ax.lines if line.get_label().startswith("m / T")]
    np.testing.assert_allclose(line.get_ydata() * line.get_xdata(), 2)


def test_means_above_the_pane_are_pointed_at_with_their_values(tables):
    table = tables["runs"].assign(test_loss=tables["runs"]["n_examples"].map({3: 1.3, 10: 1.01, math.inf: 453.304}))
    ax = plots.losses(table, axes())
    plots._mark_above(summed(table), ax, 1.025)
    (marks,) = [line for line in ax.lines if line.get_marker() == "^"]
    ticks = ax.get_xticks()
    assert list(marks.get_xdata()) == [ticks[0], ticks[2]]
    assert [text.get_text() for text in ax.texts] == ["1.3", "453.3"]


def test_vectors_that_are_all_zero_can_be_drawn():
    plots.vectors(np.zeros((3, 2)), axes(), plots.FEATURES)


def test_a_common_scale_is_common(tables):
    figure = Figure()
    grid_of_axes = np.array([[figure.add_subplot(2, 2, 2 * i + j + 1) for j in range(2)] for i in range(2)])
    shown = tables["vectors"].query("n_examples < inf")
    plots.geometry(shown, grid_of_axes, common_scale=True)
    assert grid_of_axes[0, 0].get_xlim() == grid_of_axes[0, 1].get_xlim()
    plots.geometry(shown, grid_of_axes, common_scale=False)
    assert grid_of_axes[0, 0].get_xlim() != grid_of_axes[0, 1].get_xlim()


@pytest.mark.parametrize("figure", [plots.overview, plots.double_descent, plots.norms_and_scales])
def test_whole_figures_can_be_drawn_with_infinite_data_too(tables, figure, tmp_path):
    figure(tables).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_curves_have_a_line_per_value_of_the_group(runs):
    finite = runs.table[np.isfinite(runs.table["n_examples"])]
    ax = plots.curves(finite, "test_loss", "seed", axes(), label="seed {}")
    assert [container.get_label() for container in ax.containers] == ["seed 0", "seed 1"]
    drawn = ax.containers[1].lines[0].get_ydata().astype(float)
    np.testing.assert_allclose(drawn, finite[finite["seed"] == 1].sort_values("n_examples")["test_loss"])


def test_lines_may_stand_apart_without_moving_on_average(runs):
    finite = runs.table[np.isfinite(runs.table["n_examples"])]
    ax = plots.curves(finite, "test_loss", "seed", axes(), apart=1.21)
    x = np.array([container.lines[0].get_xdata() for container in ax.containers], dtype=float)
    np.testing.assert_allclose(x, [[3 / 1.1, 10 / 1.1], [3 * 1.1, 10 * 1.1]])


def test_a_log_axis_has_a_tick_at_every_t_and_labels_that_are_apart():
    ax = axes()
    plots.log_axis(ax, [5, 10, 30, 1_000, 1_500, math.inf], apart=3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["5", "30", "1k", "\N{INFINITY}"]
    np.testing.assert_allclose(ax.get_xticks(minor=True), [10, 1_500])


@pytest.mark.parametrize(
    ("limits", "labels"),
    [
        ((0.9, 3.4), ["1", "1.5", "2", "3"]),
        ((0.9, 30), ["1", "2", "5", "10", "20"]),
        ((0.9, 99), ["1", "3", "10", "30"]),
        ((0.9, 900), ["1", "10", "100"]),
    ],
)
def test_losses_have_labels_that_are_neither_one_nor_many(limits, labels):
    ax = axes()
    ax.set_ylim(*limits)
    plots.log_losses(ax)
    low, high = ax.get_ylim()
    shown = [ax.yaxis.get_major_formatter()(tick) for tick in ax.get_yticks() if low <= tick <= high]
    assert shown == labels


def test_a_map_has_a_cell_per_pair_with_the_mean_over_the_rest(runs):
    ax = axes()
    mesh = plots.map_of(runs.table, "test_loss", "n_examples", "n_hidden", ax)
    means = runs.table.groupby("n_examples")["test_loss"].mean()
    np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), means)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "10", "\N{INFINITY}"]


def test_a_training_history_follows_the_repeated_example():
    config = TrainConfig(
        6, n_features=80, sparsity=0.9, n_steps=60, n_test=50, repeats=(4,), snapshot_steps=(0, 30, 60)
    )
    history = history_of(train(config), n_features=3)
    ax = plots.training_history(history, axes())
    expected = history.loc[history["line"] == "example 0", "dimensionality"]
    black = [line.get_ydata() for line in ax.lines if line.get_color() == "black"]
    np.testing.assert_allclose(black, [expected])
    assert sum(line.get_color() == plots.FEATURES for line in ax.lines) == 3
    assert len(ax.get_legend_handles_labels()[1]) == 3
