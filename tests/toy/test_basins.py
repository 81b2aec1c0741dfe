import dataclasses

import numpy as np
import pytest

import byheart as bh
from byheart.toy.basins import (
    KINDS,
    attractors_of,
    filled,
    find_basins,
    on_border,
    plane_of,
    training_examples,
)


@pytest.fixture(scope="module")
def run():
    return bh.train(bh.TrainConfig(n_examples=5, n_features=60, sparsity=0.9, n_steps=300))


def test_everything_is_counted_once(run):
    found = attractors_of(run, n_across=20)
    counts = found.counts()
    assert sum(counts[f"n_{kind}"] for kind in KINDS) == len(found.table)
    assert counts["n_attractors"] == (found.table["kind"] != "origin").sum()
    assert sum(counts[f"plane_{kind}"] for kind in KINDS) + found.unsettled == pytest.approx(1)
    assert found.table["examples"].sum() <= 1 + 1e-12
    ends = found.attractors.reached[found.examples]
    assert len(ends) == 5
    np.testing.assert_allclose(found.table["examples"], np.bincount(ends[ends >= 0], minlength=len(found.table)) / 5)


def test_the_two_largest_features_of_an_answer():
    X = np.array([[0.8, 0.0, 0.6, 0.0]])
    found = find_basins(np.array([[1.0, 0, 0, 0], [0, 0, 1, 0]]), np.full(4, -0.05), X[:, [0, 2]], X, 10)
    row = found.table[found.table["share_of_two"] > 0].iloc[0]
    assert {row["first"], row["second"]} <= {0, 1, 2, 3}
    assert row["share_of_two"] == pytest.approx(1)


def test_the_map_of_the_plane_is_that_of_its_cells(run):
    plane = plane_of(run, training_examples(run), 20)
    cells = filled(plane)
    around = bh.attractors_of(run, n_across=20)
    assert (cells != -2).sum() == around.plane.stop
    on_plane = around.attractors.reached[around.plane]
    sizes = np.sort(np.unique(cells[cells >= 0], return_counts=True)[1])
    assert sizes.tolist() == np.sort(np.unique(on_plane[on_plane >= 0], return_counts=True)[1]).tolist()
    assert set(plane["kind"]) <= {*KINDS, "unsettled"}
    assert np.array_equal(cells[::-1] == -2, cells == -2)  # the disc is symmetric


def test_other_models_are_refused(run):
    wide = dataclasses.replace(run, config=dataclasses.replace(run.config, n_hidden=3))
    with pytest.raises(ValueError, match="run: received n_hidden 3"):
        attractors_of(wide)
    with pytest.raises(ValueError, match="examples: received none"):
        attractors_of(dataclasses.replace(run, data_digest="X 0"))


def test_infinite_data_have_no_examples_to_fall_into():
    config = bh.TrainConfig("inf", n_features=60, sparsity=0.9, n_steps=20, batch_size=20, n_test=30)
    assert "example" not in set(attractors_of(bh.train(config), n_across=10).table["kind"])


@pytest.mark.parametrize(("n_features", "expected"), [(3, False), (5, True)])
def test_features_of_a_pentagon_lie_on_borders_those_of_a_triangle_do_not(n_features, expected):
    angles = 2 * np.pi * np.arange(n_features) / n_features
    W = np.stack([np.cos(angles), np.sin(angles)])
    assert on_border(W, np.zeros(n_features), W.T).tolist() == [expected] * n_features
    assert on_border(W, np.zeros(n_features), W[:, :0].T).tolist() == []
