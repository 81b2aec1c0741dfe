"""Skipping is exact: its sums are those over all pairs, whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.kernels.skipping import N_GROUPS, reorder, scratch, skip

_ULP = float(np.finfo(np.float32).eps)


def sums(
    W: np.ndarray, b: np.ndarray, h: np.ndarray, ordered: bool
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The share of tiles computed pair by pair, and the sums of the dense pass by skipping."""
    features, examples, *memory = scratch(len(h), len(b))
    grad_W, grad_b, grad_h = np.full_like(W, np.nan), np.full_like(b, np.nan), np.full_like(h, np.nan)
    if ordered:
        reorder(W, b, h, features, examples)
        assert sorted(features.tolist()) == list(range(len(b)))
        assert sorted(examples.tolist()) == list(range(len(h)))
    share = skip(W, b, h, features, examples, *memory, grad_W, grad_b, grad_h)
    return share, grad_W, grad_b, grad_h


def by_definition(W: np.ndarray, b: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d = np.maximum(h @ W + b, 0)
    return h.T @ d, d.sum(axis=0), d @ W.T


def assert_exact(W: np.ndarray, b: np.ndarray, h: np.ndarray, ordered: bool) -> float:
    share, *results = sums(W, b, h, ordered)
    exact = by_definition(*(a.astype(np.float64) for a in (W, b, h)))
    terms = by_definition(*(np.abs(a).astype(np.float64) for a in (W, b, h)))
    for result, expected, scale in zip(results, exact, terms, strict=True):
        # As in test_kernels: rounding errors, a few ulps of the sum without cancellation; at most 32 terms in a row are
        # added in float32 per tile, and at most len(h) / N_GROUPS per group.
        assert np.abs(result - expected).max() <= 8 * _ULP * scale.max()
    return share


@given(
    n_features=st.integers(1, 90),
    n_examples=st.integers(1, 700),
    spread=st.sampled_from([0.0, 0.01, 1.0, 100.0]),
    bias=st.sampled_from([0.0, 3.0, -3.0, 100.0, -100.0]),
    ordered=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_sums_are_those_over_all_pairs(n_features, n_examples, spread, bias, ordered, seed):
    rng = np.random.default_rng(seed)
    W, h = rng.normal(size=(2, n_features)), rng.normal(size=(n_examples, 2))
    b = bias + spread * rng.normal(size=n_features)
    assert_exact(W.astype(np.float32), b.astype(np.float32), h.astype(np.float32), ordered)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_the_sums_are_exact_at_any_scale_and_most_tiles_are_skipped_where_pairs_are_decided(scale):
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 4000))
    h = (scale * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
    W = (3 * rng.normal(size=(2, 2000))).astype(np.float32)
    b = (5 * scale * rng.normal(size=2000)).astype(np.float32)
    order = rng.permutation(len(h))
    assert assert_exact(W, b, h[order], ordered=True) < 0.5
    assert assert_exact(W, b, h[order], ordered=False) > 0.9  # without order the boxes are wide


def test_pairs_that_are_all_inactive_or_all_active_are_never_computed():
    rng = np.random.default_rng(1)
    W, h = rng.uniform(-1, 1, (2, 320)).astype(np.float32), rng.uniform(-1, 1, (1024, 2)).astype(np.float32)
    for bias in (-5, 5):
        share = assert_exact(W, np.full(320, bias, np.float32), h, ordered=True)
        assert share == 0
    _, grad_W, grad_b, grad_h = sums(W, np.full(320, -5, np.float32), h, ordered=True)
    assert not grad_W.any()
    assert not grad_b.any()
    assert not grad_h.any()


def test_equal_points_and_points_at_zero_can_be_ordered():
    for value in (0.0, 1.0):
        W, b, h = (
            np.full((2, 100), value, np.float32),
            np.full(100, value, np.float32),
            np.full((500, 2), value, np.float32),
        )
        assert_exact(W, b, h, ordered=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("place", [0, 5, 31, -1])
def test_nan_and_infinity_reach_every_sum_they_belong_to(value, ordered, place):
    rng = np.random.default_rng(2)
    for name in ("W", "b", "h"):
        for bias in (-50, 0, 50):
            W, h = rng.normal(size=(2, 50)).astype(np.float32), rng.normal(size=(640, 2)).astype(np.float32)
            b = (bias + rng.normal(size=50)).astype(np.float32)
            {"W": W[0], "b": b, "h": h[:, 1]}[name][place] = value
            _, *results = sums(W, b, h, ordered)
            with np.errstate(invalid="ignore", over="ignore"):
                exact = by_definition(*(a.astype(np.float64) for a in (W, b, h)))
            for result, expected in zip(results, exact, strict=True):
                lost = np.isfinite(result) & ~np.isfinite(expected)
                assert not lost.any(), f"{name}, bias {bias}: {lost.sum()} sums look finite"


def test_the_groups_are_fixed_so_that_threads_cannot_change_the_sums():
    assert N_GROUPS == 8
