from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from byheart.attractors import answers, disc, energy, find_attractors, multipliers, what_they_are
from byheart.toy.data import SparseExamples
from byheart.toy.solutions import polygon, polygon_radius

numbers = st.floats(-2, 2, allow_subnormal=False).map(lambda x: round(x, 3))
# Weights, bias and a hidden vector, with up to three hidden units and eight features.
networks = st.tuples(st.integers(1, 3), st.integers(1, 8)).flatmap(
    lambda s: st.tuples(*(arrays(np.float64, shape, elements=numbers) for shape in (s, s[1], s[0])))
)


def one_step(W: np.ndarray, b: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The definition, one hidden vector at a time."""
    output = np.maximum(W.T @ h + b, 0)
    length = np.sqrt((output**2).sum())
    return W @ (output / length) if length > 0 else np.zeros(len(W))


def ends_of(W: np.ndarray, b: np.ndarray, starts: np.ndarray, n_steps: int = 150) -> np.ndarray:
    ends = []
    for h in starts:
        for _ in range(n_steps):
            h = one_step(W, b, h)
        ends.append(h)
    return np.array(ends)


def t_gon(n_examples: int, wider: float, n_each: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A memorizing solution of unit examples without a feature in common, ``wider`` times the least radius."""
    X = np.kron(np.eye(n_examples), np.arange(1, n_each + 1) / np.sqrt((np.arange(1, n_each + 1) ** 2).sum()))
    W, _ = polygon(SparseExamples.from_matrix(X))
    return wider * W, -((wider * polygon_radius(n_examples)) ** 2 - 1) * X.sum(axis=0), X


def features_on_a_polygon(n_features: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n_features) / n_features
    return np.stack([np.cos(angles), np.sin(angles)])


@given(networks)
@settings(max_examples=40)
def test_every_point_ends_where_the_definition_does(network):
    W, b, _ = network
    starts = np.random.default_rng(0).normal(size=(3, len(W)))
    found = find_attractors(W, b, starts)
    quickly = (found.reached >= 0) & (np.append(found.multipliers, 1)[found.reached] < 0.8)
    ends = ends_of(W, b, starts)
    np.testing.assert_allclose(found.hidden[found.reached[quickly]], ends[quickly], atol=5e-3)
    np.testing.assert_allclose(answers(W, b, found.hidden) @ W.T, found.hidden, atol=1e-6)


@given(networks)
def test_the_energy_never_falls(network):
    W, b, h = network
    x = answers(W, b, h[None])
    for _ in range(20):
        after = answers(W, b, x @ W.T)
        assert energy(W, b, after)[0] >= energy(W, b, x)[0] - 1e-12
        x = after


@given(networks)
def test_the_multiplier_is_the_largest_eigenvalue_of_finite_differences(network):
    W, b, h = network
    before = W.T @ h + b
    assume((np.abs(before) > 1e-3).all())  # no kink nearby
    assume(np.sqrt((np.maximum(before, 0) ** 2).sum()) > 0.1)
    steps = 1e-6 * np.eye(len(W))
    derivative = np.stack([(one_step(W, b, h + s) - one_step(W, b, h - s)) / 2e-6 for s in steps], axis=1)
    np.testing.assert_allclose(derivative, derivative.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh((derivative + derivative.T) / 2)
    assert eigenvalues[0] > -1e-5
    np.testing.assert_allclose(multipliers(W, b, h[None])[0], eigenvalues[-1], atol=1e-4)


@given(networks)
@settings(max_examples=40)
def test_a_fixed_point_is_come_back_to_if_its_multiplier_is_below_one(network):
    W, b, _ = network
    found = find_attractors(W, b, np.random.default_rng(1).normal(size=(5, len(W))))
    for h, answer, multiplier in zip(found.hidden, found.answers, found.multipliers, strict=True):
        clear = (np.abs(W.T @ h + b) > 1e-3).all()
        if multiplier < 0.8 and clear and answer.any():
            near = h + 1e-5 * np.random.default_rng(2).normal(size=(2, len(W)))
            np.testing.assert_allclose(ends_of(W, b, near), np.tile(h, (2, 1)), atol=1e-7)


@pytest.mark.parametrize("n_examples", [3, 4, 5, 6, 8, 10, 15])
@pytest.mark.parametrize("wider", [1.02, 1.2])
def test_every_example_of_a_t_gon_wider_than_the_least_is_an_attractor(n_examples, wider):
    W, b, X = t_gon(n_examples, wider)
    hidden = X @ W.T
    np.testing.assert_allclose(answers(W, b, hidden), X, atol=1e-6)  # the examples are rounded to float32
    np.testing.assert_allclose(multipliers(W, b, hidden), 0, atol=1e-5)
    found = find_attractors(W, b, np.concatenate([hidden, disc(1.2 * wider * polygon_radius(n_examples), 40)]))
    kinds = what_they_are(found, X, hidden)
    examples = kinds[kinds["kind"] == "example"]
    assert sorted(examples["which"]) == list(range(n_examples))
    assert (found.basins(slice(n_examples, None))[examples.index] > 0).all()


@pytest.mark.parametrize(("n_examples", "wider"), [(3, 1.1), (4, 1.3), (5, 1.2)])
def test_a_wide_t_gon_of_few_examples_has_no_other_attractors(n_examples, wider):
    W, b, X = t_gon(n_examples, wider)
    hidden = X @ W.T
    found = find_attractors(W, b, disc(1.5 * np.abs(hidden).max(), 60))
    kinds = what_they_are(found, X, hidden)["kind"].value_counts()
    assert kinds["example"] == n_examples
    assert set(kinds.index) <= {"example", "origin"}


@pytest.mark.parametrize(("n_examples", "wider", "attracts"), [(5, 1.09, True), (5, 1.12, False), (8, 2.0, True)])
def test_where_the_middle_of_two_neighbours_attracts_too(n_examples, wider, attracts):
    """It does up to R^2 = sqrt(2)/(sqrt(2) - 2 cos(2 pi/T)), at any radius from T = 8 on."""
    W, b, X = t_gon(n_examples, wider)
    cosine, squared = np.cos(2 * np.pi / n_examples), (wider * polygon_radius(n_examples)) ** 2
    assert attracts == (squared * (np.sqrt(2) - 2 * cosine) < np.sqrt(2))
    middle = (X[:1] + X[1:2]) @ W.T / np.sqrt(2)
    expected = squared * (1 - cosine) / (squared * (1 + cosine - np.sqrt(2)) + np.sqrt(2))
    np.testing.assert_allclose(multipliers(W, b, middle), expected, rtol=1e-5)
    assert attracts == (expected < 1)


@pytest.mark.parametrize(("n_features", "on_features"), [(3, True), (5, False), (7, True), (9, False), (11, True)])
def test_odd_polygons_of_features_without_bias_attract_at_the_features_or_between_them(n_features, on_features):
    """The energy of the best x of a direction is a sum of max(0, cos)^2, whose odd harmonics alternate in sign."""
    W, b = features_on_a_polygon(n_features), np.zeros(n_features)
    found = find_attractors(W, b, disc(1, 41) + 1e-3)
    assert len(found.hidden) == n_features
    places = np.arctan2(found.hidden[:, 1], found.hidden[:, 0]) * n_features / (2 * np.pi)
    np.testing.assert_allclose(np.abs((places % 1) - 0.5), 0.5 if on_features else 0, atol=1e-6)
    np.testing.assert_allclose(found.basins(), 1 / n_features, atol=0.02)


def test_five_features_on_a_pentagon_are_attractors_once_a_bias_silences_their_neighbours():
    W = features_on_a_polygon(5)
    squares = 1 + 2 * np.cos(0.4 * np.pi) ** 2  # of a feature and its neighbours, along the feature
    at_feature = multipliers(W, np.zeros(5), np.sqrt(squares) * W.T[:1])
    assert at_feature[0] == pytest.approx((3 - squares) / squares) == pytest.approx(1.52, abs=0.01)
    found = find_attractors(W, np.zeros(5), disc(1, 41) + 1e-3)
    np.testing.assert_allclose(found.multipliers, np.tan(np.pi / 5) ** 2, rtol=1e-6)
    assert list(what_they_are(found, np.zeros((0, 5)), np.zeros((0, 2)))["kind"]) == ["mixture"] * 5
    silenced = find_attractors(W, np.full(5, -0.4), disc(1, 41))
    kinds = what_they_are(silenced, np.zeros((0, 5)), np.zeros((0, 2)))
    assert sorted(kinds.query("kind == 'feature'")["which"]) == [0, 1, 2, 3, 4]


def test_nothing_active_ends_at_the_origin():
    W = features_on_a_polygon(5)
    found = find_attractors(W, np.full(5, -3.0), disc(1, 10))
    assert what_they_are(found, np.eye(5), W.T)["kind"].tolist() == ["origin"]
    assert found.basins().tolist() == [1.0]
    assert multipliers(W, np.zeros(5), np.zeros((1, 2)))[0] == np.inf  # any small step is scaled up


def test_what_an_attractor_is():
    X = np.array([[0.8, 0.6, 0, 0], [0, 0, 0, 1]])
    W = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    outputs = np.array(
        [[0.8, 0.6, 0, 0], [0.99, np.sqrt(1 - 0.99**2), 0, 0], [0, 0, np.sqrt(0.5), np.sqrt(0.5)], [0, 0, 0, 1]]
    )
    found = find_attractors(W, np.zeros(4), np.ones((1, 2)))
    made_up = type(found)(outputs @ W.T, outputs, np.zeros(4), found.reached)
    table = what_they_are(made_up, X, X @ W.T)
    assert table["kind"].tolist() == ["example", "feature", "mixture", "example"]
    assert table["which"].tolist() == [0, 0, 2, 1]
    np.testing.assert_allclose(table["n_effective"][2:], [2, 1])
    elsewhere = what_they_are(made_up, X, 3 * X @ W.T)  # the answer of an example, but not at its place
    assert elsewhere["kind"].tolist() == ["mixture", "feature", "mixture", "feature"]


def test_a_disc_is_filled_evenly():
    points = disc(2, 200)
    assert np.linalg.norm(points, axis=1).max() <= 2
    assert len(points) == pytest.approx(np.pi / 4 * 200**2, rel=0.01)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="W, b, h: received shapes"):
        find_attractors(np.ones((2, 3)), np.ones(2), np.ones((1, 2)))
    with pytest.raises(ValueError, match="disc: received radius 0"):
        disc(0, 10)
    with pytest.raises(ValueError, match="h: received"):
        multipliers(np.ones((2, 3)), np.ones(3), np.full((1, 2), np.nan))
