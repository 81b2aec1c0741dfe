"""Skipping is exact: its sums are those over all pairs, whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_dense import by_definition, in_rows, in_tiles, zeros

from byheart.toy.kernels import skipping
from byheart.toy.kernels.dense import FEATURES

_ULP = float(np.finfo(np.float32).eps)
_CHUNK = 160  # examples given to ``skip`` at a time


def sums(
    rows: np.ndarray, h: np.ndarray, ordered: bool = True, scales: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """The share of tiles computed pair by pair, and the dense sums by skipping, from two groups of examples."""
    (n_examples, n_hidden), n_features = h.shape, rows.shape[1]
    scales = skipping.spread(h) if scales is None else scales
    features, examples = np.arange(n_features), np.arange(n_examples)
    if ordered:
        features, examples = skipping.compact_orders(rows, h, scales)
        assert sorted(features.tolist()) == list(range(n_features))
        assert sorted(examples.tolist()) == list(range(n_examples))
    theta, h_in_order, none = in_tiles(rows[:, features]), h[examples], zeros(n_hidden)
    tiles = skipping.tiles(n_hidden, n_features, 2)
    n_tiles = tiles.boxes.shape[1]
    tiles.boxes[:], tiles.moments[:], tiles.sums[:] = np.nan, np.nan, 0
    skipping.describe(theta, scales, tiles, 0, n_tiles)
    grad, grad_h, n_cut, n_pieces = np.zeros_like(theta), np.zeros_like(h), 0, 0
    for lo in range(0, n_examples, _CHUNK):
        piece, group = slice(lo, lo + _CHUNK), int(lo > n_examples / 2)
        n_cut += skipping.skip(none, h_in_order[piece], theta, tiles, tiles.sums[group], grad, grad_h[piece])
        n_pieces += -(-len(h_in_order[piece]) // skipping.EXAMPLES)
    skipping.add_linear_to_features(theta, tiles, 0, n_tiles, grad)
    result, result_h = np.full_like(rows, np.nan), np.full_like(h, np.nan)
    result[:, features], result_h[examples] = in_rows(grad, n_hidden, n_features), grad_h
    return n_cut / (n_tiles * n_pieces), result, result_h


def assert_exact(rows: np.ndarray, h: np.ndarray, ordered: bool = True) -> float:
    share, *results = sums(rows, h, ordered)
    exact, terms = (by_definition(f(rows.astype(np.float64)), f(h.astype(np.float64))) for f in (np.asarray, np.abs))
    for result, expected, scale in zip(results, exact, terms, strict=True):
        # As in test_kernels: rounding errors, a few ulps of the sum without cancellation. Of 700 examples that are all
        # equal the sum is off by eight, as every addition rounds the same way.
        assert np.abs(result - expected).max() <= 16 * _ULP * scale.max()
    return share


def clustered(rng: np.random.Generator, n: int, n_clusters: int, spread: float, dimensions: int) -> np.ndarray:
    """Points around a few random ones, in random order."""
    return rng.normal(size=(n_clusters, dimensions))[rng.integers(0, n_clusters, n)] + spread * rng.normal(
        size=(n, dimensions)
    )


@given(
    n_hidden=st.sampled_from([1, 2, 3, 8]),
    n_features=st.integers(1, 90),
    n_examples=st.integers(1, 700),
    spread=st.sampled_from([0.0, 0.01, 1.0]),
    bias=st.sampled_from([0.0, 3.0, -3.0, 100.0, -100.0]),
    bias_spread=st.sampled_from([0.0, 0.01, 1.0, 100.0]),
    scale=st.sampled_from([1e-12, 1e-4, 1.0, 1e8]),
    ordered=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_sums_are_those_over_all_pairs(
    n_hidden, n_features, n_examples, spread, bias, bias_spread, scale, ordered, seed
):
    rng = np.random.default_rng(seed)
    h = scale * clustered(rng, n_examples, 5, spread, n_hidden)
    W = clustered(rng, n_features, 4, spread, n_hidden).T
    b = scale * (bias + bias_spread * rng.normal(size=n_features))
    assert_exact(np.vstack([W, b]).astype(np.float32), h.astype(np.float32), ordered)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
@pytest.mark.parametrize(("n_hidden", "share"), [(2, 0.3), (3, 0.6)])
def test_most_tiles_are_skipped_where_pairs_are_decided_at_any_scale(n_hidden, share, scale):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(4000, n_hidden))
    h *= scale / np.linalg.norm(h, axis=1, keepdims=True)
    rows = np.vstack([3 * rng.normal(size=(n_hidden, 2000)), 5 * scale * rng.normal(size=2000)]).astype(np.float32)
    assert assert_exact(rows, h.astype(np.float32)) < share
    assert assert_exact(rows, h.astype(np.float32), ordered=False) > 0.9  # without order the boxes are wide


def test_hardly_a_tile_of_clustered_data_is_computed():
    rng = np.random.default_rng(0)
    h, W = clustered(rng, 2048, 8, 1e-3, 3), clustered(rng, 1600, 10, 1e-3, 3).T
    assert assert_exact(np.vstack([W, np.zeros(1600)]).astype(np.float32), h.astype(np.float32)) < 0.1


def test_only_the_direction_of_a_features_weights_decides():
    rng = np.random.default_rng(0)
    h, rows = rng.normal(size=(640, 2)).astype(np.float32), rng.normal(size=(3, 800)).astype(np.float32)
    sizes = np.exp2(rng.integers(-20, 20, 800)).astype(np.float32)  # powers of two change no digit
    assert assert_exact(rows, h) == assert_exact(rows * sizes, h) < 0.7


def test_pairs_that_are_all_inactive_or_all_active_are_never_computed():
    rng = np.random.default_rng(1)
    W, h = rng.uniform(-1, 1, (2, 320)).astype(np.float32), rng.uniform(-1, 1, (1024, 2)).astype(np.float32)
    for bias in (-5, 5):
        rows = np.vstack([W, np.full((1, 320), bias, np.float32)])
        assert assert_exact(rows, h) == 0
        _, grad, grad_h = sums(rows, h)
        assert grad.any() == grad_h.any() == (bias > 0)


def test_a_few_examples_far_away_do_not_make_tiles_wide():
    rng = np.random.default_rng(4)
    h, rows = rng.normal(size=(4096, 2)).astype(np.float32), rng.normal(size=(3, 3200)).astype(np.float32)
    h[:3] *= 1000
    by_the_largest, *_ = sums(rows, h, scales=np.abs(h).max(axis=0))
    by_most, *_ = sums(rows, h)
    assert by_most < 0.7 * by_the_largest


@pytest.mark.parametrize("size", [1e20, 3e38])
def test_sizes_beyond_those_of_float32_decide_nothing(size):
    rng = np.random.default_rng(5)
    rows, h = rng.normal(size=(3, 32)).astype(np.float32), rng.normal(size=(64, 2)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        share, grad, _ = sums(rows * np.float32(1e20), h, scales=np.full(2, size, np.float32))
        exact = by_definition((rows * np.float32(1e20)).astype(np.float64), h.astype(np.float64))
    assert share == 1
    np.testing.assert_allclose(grad, exact[0], rtol=1e-4, atol=1e16)


def test_a_direction_beyond_float32_decides_nothing():
    rows, h = np.full((2, 16), -1, np.float32), np.linspace(-0.5, 0, 64, dtype=np.float32)[:, None]
    rows[1, 5] = -1e-39  # W / |b| is infinite where W is scaled by 0; all other outputs are 0
    share, grad, _ = sums(rows, h, scales=np.zeros(1, np.float32))
    assert share == 1
    assert grad[1, 5] == pytest.approx(-h.sum())


def test_where_every_pair_is_undecided_every_tile_is_computed():
    # Boxes around directions that are all there are, from each tile of features, hold z = 0.
    rng = np.random.default_rng(2)
    h = rng.normal(size=(256, 8)).astype(np.float32)
    rows = np.vstack([rng.normal(size=(8, 160)), np.zeros((1, 160))]).astype(np.float32)
    assert assert_exact(rows, h) > 0.95


@pytest.mark.parametrize("n_hidden", [1, 2, 8])
def test_equal_points_and_points_at_zero_can_be_ordered(n_hidden):
    for value in (0.0, 1.0, -1.0):
        rows, h = np.full((n_hidden + 1, 100), value, np.float32), np.full((500, n_hidden), value, np.float32)
        assert_exact(rows, h)


def test_points_close_together_come_to_lie_side_by_side():
    rng = np.random.default_rng(3)
    which_h, which_f = (rng.permutation(np.repeat(np.arange(7), size)) for size in (skipping.EXAMPLES, FEATURES))
    h = (rng.normal(size=(7, 3))[which_h] + 1e-4 * rng.normal(size=(len(which_h), 3))).astype(np.float32)
    rows = (rng.normal(size=(7, 4))[which_f] + 1e-4 * rng.normal(size=(len(which_f), 4))).T.astype(np.float32)
    features, examples = skipping.compact_orders(rows, h, skipping.spread(h))
    for which, order, size in ((which_h, examples, skipping.EXAMPLES), (which_f, features, FEATURES)):
        runs = which[order].reshape(-1, size)
        assert (runs == runs[:, :1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 31, -1])
@pytest.mark.parametrize("n_hidden", [1, 2, 3])
def test_nan_and_infinity_reach_every_sum_they_belong_to(n_hidden, value, place):
    rng = np.random.default_rng(2)
    for name in ("W", "b", "h"):
        for bias in (-50, 0, 50):
            rows, h = rng.normal(size=(n_hidden + 1, 50)), rng.normal(size=(640, n_hidden))
            rows, h = rows.astype(np.float32), h.astype(np.float32)
            rows[-1] += bias
            scales = skipping.spread(h)
            {"W": rows[0], "b": rows[-1], "h": h[:, -1]}[name][place] = value
            with np.errstate(invalid="ignore", over="ignore"):
                _, *results = sums(rows, h, ordered=False, scales=scales)  # an order is made of finite weights only
                exact = by_definition(rows.astype(np.float64), h.astype(np.float64))
            for result, expected in zip(results, exact, strict=True):
                lost = np.isfinite(result) & ~np.isfinite(expected)
                assert not lost.any(), f"{name}, bias {bias}: {lost.sum()} sums look finite"
