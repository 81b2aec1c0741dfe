"""The dense sums in registers, alone: every number of hidden units, every remainder of examples."""

from __future__ import annotations

import numpy as np
import pytest

from byheart.toy.kernels import narrow
from byheart.toy.kernels.dense import FEATURES, add_scaled, dense, preactivation, row

_ULP = float(np.finfo(np.float32).eps)
every_width = pytest.mark.parametrize("n_hidden", range(1, narrow.MAX_HIDDEN + 1))


def zeros(n_hidden: int) -> tuple[np.float32, ...]:
    return (np.float32(0),) * n_hidden


def in_tiles(rows: np.ndarray) -> np.ndarray:
    """W and, in the last row, b as the kernel keeps them."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % FEATURES)))
    return np.ascontiguousarray(padded.reshape(len(rows), -1, FEATURES).swapaxes(0, 1)).ravel()


def in_rows(tiles: np.ndarray, n_hidden: int, n_features: int) -> np.ndarray:
    return tiles.reshape(-1, n_hidden + 1, FEATURES).swapaxes(0, 1).reshape(n_hidden + 1, -1)[:, :n_features]


def by_definition(rows: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As if all targets were 0: the gradient of W and, in the last row, b; and of h. Not scaled."""
    d = np.maximum(h @ rows[:-1] + rows[-1], 0)
    return np.vstack([h.T @ d, d.sum(axis=0)]), d @ rows[:-1].T


@every_width
@pytest.mark.parametrize("n_examples", range(1, 14))
def test_the_sums_are_those_over_all_examples_and_the_tiles_listed(n_hidden, n_examples):
    rng = np.random.default_rng([n_hidden, n_examples])
    rows = rng.normal(size=(n_hidden + 1, 5 * FEATURES)).astype(np.float32)
    h = rng.normal(size=(n_examples, n_hidden)).astype(np.float32)
    before, before_h = (rng.normal(size=a.shape).astype(np.float32) for a in (rows, h))
    which = np.array([3, 0, 2])
    grad, grad_h = in_tiles(before), before_h.copy()
    dense(zeros(n_hidden), h, in_tiles(rows), grad, grad_h, which)
    listed = np.isin(np.arange(5 * FEATURES) // FEATURES, which)
    with_sign, without = (
        by_definition(f(rows[:, listed].astype(np.float64)), f(h.astype(np.float64))) for f in (np.asarray, np.abs)
    )
    change = in_rows(grad, n_hidden, 5 * FEATURES).astype(np.float64) - before
    assert not change[:, ~listed].any()
    # Rounding errors: a few ulps of the sums without cancellation, and of what was there before.
    for result, expected, scale in zip((change[:, listed], grad_h - before_h), with_sign, without, strict=True):
        assert np.abs(result - expected).max() <= 4 * _ULP * (scale.max() + 3)


@every_width
def test_without_tiles_or_examples_nothing_changes(n_hidden):
    theta, h = np.ones((n_hidden + 1) * FEATURES, np.float32), np.ones((5, n_hidden), np.float32)
    grad, grad_h = np.full_like(theta, 7), np.full_like(h, 7)
    dense(zeros(n_hidden), h, theta, grad, grad_h, np.arange(0))
    dense(zeros(n_hidden), h[:0], theta, grad, grad_h[:0], np.arange(1))
    assert (grad == 7).all()
    assert (grad_h == 7).all()


@every_width
@pytest.mark.parametrize("n_examples", [1, 2, 3, 4])
@pytest.mark.parametrize("bias", [-100, 100])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])  # with either sign; inf - inf has the second one
def test_a_nan_in_one_place_reaches_what_depends_on_it_and_nothing_else(n_hidden, n_examples, nan, bias):
    rng = np.random.default_rng(0)
    for where in ("W", "b", "h"):
        rows = rng.normal(size=(n_hidden + 1, 2 * FEATURES)).astype(np.float32)
        h = rng.normal(size=(n_examples, n_hidden)).astype(np.float32)
        rows[-1] += bias
        if where == "h":
            h[-1, -1] = nan
        else:
            rows[-1 if where == "b" else 0, 5] = nan
        grad, grad_h = np.zeros_like(in_tiles(rows)), np.zeros_like(h)
        dense(zeros(n_hidden), h, in_tiles(rows), grad, grad_h, np.arange(2))
        expected, expected_h = by_definition(rows, h)
        np.testing.assert_array_equal(np.isnan(in_rows(grad, n_hidden, 2 * FEATURES)), np.isnan(expected))
        np.testing.assert_array_equal(np.isnan(grad_h), np.isnan(expected_h))


@every_width
@pytest.mark.parametrize("n_examples", range(1, 9))
def test_what_is_left_out_where_nothing_is_active_is_zero(n_hidden, n_examples):
    # Of each row of tiles, another share of the outputs is positive: none, one in all, some, most.
    rng = np.random.default_rng([n_hidden, n_examples])
    rows = rng.normal(size=(n_hidden + 1, 4 * FEATURES)).astype(np.float32)
    rows[-1] += np.repeat([-100, -100, -1, 1], FEATURES)
    rows[-1, FEATURES + 3] += 200
    h = rng.normal(size=(n_examples, n_hidden)).astype(np.float32)
    grad, grad_h = np.zeros_like(in_tiles(rows)), np.zeros_like(h)
    dense(zeros(n_hidden), h, in_tiles(rows), grad, grad_h, np.arange(4))
    exact, terms = (by_definition(f(rows.astype(np.float64)), f(h.astype(np.float64))) for f in (np.asarray, np.abs))
    for result, expected, scale in zip((in_rows(grad, n_hidden, rows.shape[1]), grad_h), exact, terms, strict=True):
        assert np.abs(result - expected).max() <= 4 * _ULP * scale.max()
    assert not in_rows(grad, n_hidden, rows.shape[1])[:, :FEATURES].any()


@every_width
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("bias", [-100, 0, 100])
def test_infinite_weights_show_in_all_that_depends_on_them(n_hidden, sign, bias):
    rng = np.random.default_rng(1)
    for where in ("W", "b", "h"):
        rows = rng.normal(size=(n_hidden + 1, 2 * FEATURES)).astype(np.float32)
        h = rng.normal(size=(5, n_hidden)).astype(np.float32)
        rows[-1] += bias
        {"W": rows[0], "b": rows[-1], "h": h[:, -1]}[where][3] = sign * np.inf
        grad, grad_h = np.zeros_like(in_tiles(rows)), np.zeros_like(h)
        dense(zeros(n_hidden), h, in_tiles(rows), grad, grad_h, np.arange(2))
        with np.errstate(invalid="ignore"):
            expected, expected_h = by_definition(rows, h)
        assert (np.isfinite(in_rows(grad, n_hidden, rows.shape[1])) <= np.isfinite(expected)).all()
        assert (np.isfinite(grad_h) <= np.isfinite(expected_h)).all()


@every_width
def test_an_output_of_minus_infinity_is_not_left_out(n_hidden):
    rows, h = np.full((n_hidden + 1, FEATURES), -100, np.float32), np.ones((5, n_hidden), np.float32)
    rows[0, 3] = -np.inf  # ReLU(-inf) W = 0 * -inf
    grad, grad_h = np.zeros_like(in_tiles(rows)), np.zeros_like(h)
    dense(zeros(n_hidden), h, in_tiles(rows), grad, grad_h, np.arange(1))
    assert np.isnan(grad_h[:, 0]).all()


@every_width
def test_a_feature_is_found_at_its_place(n_hidden):
    rng = np.random.default_rng(0)
    rows, h = rng.normal(size=(n_hidden + 1, 40)).astype(np.float32), rng.normal(size=(3, n_hidden)).astype(np.float32)
    theta, units = in_tiles(rows), row(zeros(n_hidden), h, 1)
    places = narrow._places(n_hidden, np.arange(40, dtype=np.int32))
    assert units == tuple(h[1])
    for feature in range(40):
        at = np.uint64(places[0, feature])
        assert theta[at :: np.uint64(FEATURES)][: n_hidden + 1].tolist() == rows[:, feature].tolist()
        z = h[1].astype(np.float64) @ rows[:-1, feature] + rows[-1, feature]
        assert preactivation(units, theta, at) == pytest.approx(z, abs=1e-5)
        assert add_scaled(units, np.float32(2), theta, at) == pytest.approx(h[1] + 2 * rows[:-1, feature], abs=1e-5)
