"""Figures show the numbers they are given."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from byheart.geometry import example_dimensionality
from byheart.toy import figures as plots
from byheart.toy.config import TrainConfig
from byheart.toy.sweep import grid
from byheart.toy.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from byheart.toy.runs import open_runs

    directory = tmp_path_factory.mktemp("runs")
    base = TrainConfig(3, n_features=80, sparsity=0.9, n_steps=200, n_test=50, batch_size=16)
    for config in grid(base, {"n_examples": [3, 10, "inf"]}, range(2)):
        train(config, out=directory)
    return open_runs(directory)


def axes():
    return Figure().add_subplot()


def test_the_papers_values_are_all_there():
    table = plots.paper_reference().set_index("n_examples")
    assert len(table) == 21
    assert table.loc[2_000, "test_loss"] == 1.015
    assert math.isnan(table.loc[10, "test_loss"])  # above the top of the paper's axis
    assert table.loc[math.inf, "feature_dim_max"] == 0.255


def test_losses_draws_the_mean_over_seeds_and_every_seed(runs):
    ax = plots.losses(runs, axes())
    by_label = {line.get_label(): line for line in ax.lines}
    assert sorted(by_label["each seed"].get_ydata()) == sorted(runs.table["test_loss"])
    mean = runs.table.groupby("n_examples")["test_loss"].mean()
    (errors,) = ax.containers
    np.testing.assert_allclose(errors.lines[0].get_ydata().astype(float), mean)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "10", "\N{INFINITY}"]


def test_dimensionalities_draws_every_example(runs):
    ax = plots.dimensionalities(runs, axes())
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    for run in runs.where(n_examples=10):
        assert np.isin(example_dimensionality(run.hidden), drawn).all()


def test_the_line_of_regular_polygons_is_m_over_t(runs):
    ax = plots.dimensionalities(runs, axes())
    (line,) = [line for line in ax.lines if line.get_label() == "m / T"]
    np.testing.assert_allclose(line.get_ydata() * line.get_xdata(), 2)


@pytest.mark.parametrize("n_hidden", [1, 2, 5])
def test_vectors_are_drawn_in_the_plane_whatever_their_width(n_hidden):
    points = np.random.default_rng(0).normal(size=(20, n_hidden))
    ax = plots.vectors(points, axes(), plots.EXAMPLES)
    shown = np.stack(ax.lines[-1].get_data(), axis=1)
    longest = np.linalg.norm(points, axis=1).max()
    assert shown.shape == (20, 2)
    assert np.linalg.norm(shown, axis=1).max() <= longest * (1 + 1e-9)
    if n_hidden == 2:
        np.testing.assert_array_equal(shown, points)


def test_vectors_that_are_all_zero_can_be_drawn():
    plots.vectors(np.zeros((3, 2)), axes(), plots.FEATURES)


def test_a_common_scale_is_common(runs):
    figure = Figure()
    grid_of_axes = np.array([[figure.add_subplot(2, 2, 2 * i + j + 1) for j in range(2)] for i in range(2)])
    chosen = [next(iter(runs.where(n_examples=t))) for t in (3, 10)]
    plots.geometry(chosen, grid_of_axes, common_scale=True)
    assert grid_of_axes[0, 0].get_xlim() == grid_of_axes[0, 1].get_xlim()
    plots.geometry(chosen, grid_of_axes, common_scale=False)
    assert grid_of_axes[0, 0].get_xlim() != grid_of_axes[0, 1].get_xlim()


@pytest.mark.parametrize("figure", [plots.double_descent, plots.norms_and_scales])
def test_whole_figures_can_be_drawn_with_infinite_data_too(runs, figure, tmp_path):
    figure(runs, [3, 10, math.inf]).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_curves_have_a_line_per_value_of_the_group(runs):
    finite = runs.table[np.isfinite(runs.table["n_examples"])]
    ax = plots.curves(finite, "test_loss", "seed", axes(), label="seed {}")
    assert [container.get_label() for container in ax.containers] == ["seed 0", "seed 1"]
    drawn = ax.containers[1].lines[0].get_ydata().astype(float)
    np.testing.assert_allclose(drawn, finite[finite["seed"] == 1].sort_values("n_examples")["test_loss"])


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
    run = train(config)
    ax = plots.training_history(run, axes(), n_features=3)
    expected = [example_dimensionality(hidden)[0] for hidden in run.snapshots["hidden"]]
    black = [line.get_ydata() for line in ax.lines if line.get_color() == "black" and len(line.get_xdata())]
    np.testing.assert_allclose(black, [expected])
    assert sum(line.get_color() == plots.FEATURES and len(line.get_xdata()) > 0 for line in ax.lines) == 3
