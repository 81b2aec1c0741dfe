"""Solutions built by hand, against what the paper's theory says of them."""

import numpy as np
import pytest
import scipy.sparse

from byheart.toy.config import TrainConfig
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import reference
from byheart.toy.measures import represented_features
from byheart.toy.solutions import (
    feature_polygon_loss_change,
    infinite_data_loss,
    pentagon,
    polygon,
    polygon_norms,
    polygon_radius,
)
from byheart.toy.train import draw_test_examples, train


def disjoint(n_examples: int, n_active: int) -> SparseExamples:
    """Unit examples without a feature in common."""
    rng = np.random.default_rng(0)
    blocks = [rng.uniform(0.1, 1, n_active) for _ in range(n_examples)]
    rows = scipy.sparse.block_diag([block[None] / np.linalg.norm(block) for block in blocks])
    return SparseExamples.from_matrix(scipy.sparse.csr_array(rows))


@pytest.mark.parametrize("n_examples", [3, 4, 5, 10, 30, 100])
def test_disjoint_examples_on_a_polygon_are_answered_without_error(n_examples):
    examples = disjoint(n_examples, 7)
    W, b = polygon(examples)
    rounding = 3e-7 * polygon_radius(n_examples) ** 2  # the examples are float32, of norm 1 but for that
    assert reference.example_losses(W, b, examples).max() < rounding**2
    np.testing.assert_allclose(np.linalg.norm(examples.to_scipy() @ W.T, axis=1), polygon_radius(n_examples), rtol=1e-6)
    W_norm, b_norm = polygon_norms(n_examples)
    assert np.linalg.norm(W) == pytest.approx(W_norm, rel=1e-6)
    assert np.linalg.norm(b) == pytest.approx(b_norm, rel=1e-6, abs=1e-9)
    assert b_norm == pytest.approx(np.sqrt(n_examples) * abs(polygon_radius(n_examples) ** 2 - 1), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n_examples", "radius"), [(5, 1.20), (10, 2.29), (30, 6.77), (100, 22.5)])
def test_the_radius_is_the_derived_one(n_examples, radius):
    assert polygon_radius(n_examples) == pytest.approx(radius, rel=5e-3)


def test_a_smaller_radius_could_not_tell_neighbours_apart():
    examples = disjoint(8, 3)
    W, b = polygon(examples)
    assert reference.example_losses(0.95 * W, b, examples).min() > 1e-3


def test_a_pentagon_represents_its_five_features_and_costs_what_theory_says():
    config = TrainConfig(1, n_features=2_000, sparsity=0.995, n_test=20_000)
    examples = draw_test_examples(config)
    W, b = pentagon(examples)
    assert np.linalg.norm(W) == pytest.approx(np.sqrt(5))
    assert set(represented_features(W, b)) == set(np.flatnonzero(W[0]))
    loss = reference.example_losses(W, b, SparseExamples.from_matrix(examples.to_scipy()[:4_000])).mean()
    expected = infinite_data_loss(2_000, float(examples.to_scipy().mean()))
    assert (1 - loss) / (1 - expected) == pytest.approx(1, abs=0.35)  # theory forgets what the five do to each other


def test_the_level_of_infinite_data_is_the_papers():
    mean = float(draw_test_examples(TrainConfig(1)).to_scipy().mean())
    assert infinite_data_loss(10_000, mean) == pytest.approx(0.9988, abs=1e-4)


def test_five_features_gain_most():
    gains = {n: feature_polygon_loss_change(n, 0.999) for n in range(1, 20)}
    assert min(gains, key=lambda n: gains[n]) == 5
    # F = 4: no neighbour is disturbed, each feature saves a third of (1 - S).
    assert gains[4] == pytest.approx(-4 * 0.001 / 3)
    # F = 12: of the others, those at 30 and 60 degrees on either side are disturbed (at 90 nothing is).
    assert gains[12] == pytest.approx(4 * 0.001 * (2 * 0.75 + 2 * 0.25 - 1))


def test_training_starts_from_the_built_solution():
    config = TrainConfig(
        8, n_features=300, sparsity=0.98, n_steps=1, learning_rate=1e-9, initialization="polygon", n_test=50
    )
    run = train(config)
    W, b = polygon(sample_examples(8, 300, 0.98, np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,)))))
    np.testing.assert_allclose(run.W, W, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.b, b, rtol=1e-4, atol=1e-6)
    other = train(TrainConfig(8, n_features=300, sparsity=0.98, n_steps=1, initialization="pentagon", n_test=50))
    assert len(np.flatnonzero(np.abs(other.W).max(axis=0) > 0.1)) == 5


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="received 1, accepted"):
        polygon_radius(1)
    with pytest.raises(ValueError, match="received 3, accepted"):
        pentagon(disjoint(3, 1))
    for name, value in (("n_inits", 3), ("bias_initialization", "uniform")):
        with pytest.raises(ValueError, match=f"{name}: received {value!r}, accepted: .*, as initial weights are built"):
            TrainConfig(5, initialization="pentagon", **{name: value})
    for fields in ({"n_hidden": 3}, {"n_examples": "inf"}, {"n_examples": 2}, {"tied": False}):
        with pytest.raises(ValueError, match="initialization: received 'polygon'"):
            TrainConfig(**{"n_examples": 5, "initialization": "polygon", **fields})
