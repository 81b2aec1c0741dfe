from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from byheart.geometry import (
    TriangularFactor,
    arrangement,
    example_dimensionality,
    feature_dimensionality,
    is_regular_polygon,
    lengths_apart,
    maximal_dimensionality,
    neighbour_overlap,
    tall_qr,
)

# Rounding of sums of at most a few hundred float64 terms.
_CLOSE = 1e-10

both = pytest.mark.parametrize("dimensionality", [example_dimensionality, maximal_dimensionality])
# Small whole numbers, so that rank deficiency, absent and parallel vectors are common and the rank is beyond doubt.
hiddens = st.tuples(st.integers(1, 30), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-4, 4).map(float))
)


def polygon(n_vectors: int, phase: float = 0.3) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n_vectors) / n_vectors + phase
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def brute_force(hidden: np.ndarray, repeats: np.ndarray | None = None) -> np.ndarray:
    """The definition, |h_i|^2 / sum_j (unit(h_i) . h_j)^2, one pair at a time."""
    repeats = np.ones(len(hidden)) if repeats is None else repeats
    result = []
    for h in hidden:
        norm = np.sqrt((h**2).sum())
        total = 0.0
        for other, count in zip(hidden, repeats, strict=True):
            total += count * ((h / norm) @ other) ** 2 if norm > 0 else 0
        result.append(norm**2 / total if norm > 0 else 0.0)
    return np.array(result)


@given(hiddens)
def test_dimensionality_is_its_definition(hidden):
    np.testing.assert_allclose(example_dimensionality(hidden), brute_force(hidden), atol=_CLOSE)
    np.testing.assert_allclose(feature_dimensionality(hidden.T.copy()), brute_force(hidden), atol=_CLOSE)


@given(hiddens)
def test_dimensionality_lies_between_zero_and_the_maximal_one_which_is_at_most_one(hidden):
    D, D_max = example_dimensionality(hidden), maximal_dimensionality(hidden)
    assert D.shape == D_max.shape == (len(hidden),)
    assert (D >= 0).all()
    assert (D_max + _CLOSE >= D).all()
    assert (D_max <= 1 + _CLOSE).all()


@given(hiddens)
def test_the_budget_dimensionalities_sum_to_at_most_the_rank_and_maximal_ones_to_the_rank(hidden):
    rank = np.linalg.matrix_rank(hidden)
    assert example_dimensionality(hidden).sum() <= rank + _CLOSE
    assert abs(maximal_dimensionality(hidden).sum() - rank) < _CLOSE


@both
@given(hidden=hiddens, seed=st.integers(0, 2**32), scale=st.sampled_from([-3.0, 0.1, 1e6]))
def test_rotation_scale_and_order_change_nothing(dimensionality, hidden, seed, scale):
    rng = np.random.default_rng(seed)
    expected = dimensionality(hidden)
    rotation = scipy.stats.ortho_group.rvs(hidden.shape[1], random_state=rng) if hidden.shape[1] > 1 else -np.eye(1)
    np.testing.assert_allclose(dimensionality(hidden @ rotation), expected, atol=1e-8)
    np.testing.assert_allclose(dimensionality(scale * hidden), expected, atol=_CLOSE)
    order = rng.permutation(len(hidden))
    np.testing.assert_allclose(dimensionality(hidden[order]), expected[order], atol=_CLOSE)


@given(hidden=hiddens, seed=st.integers(0, 2**32))
def test_no_invertible_map_changes_the_maximal_dimensionality(hidden, seed):
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(hidden.shape[1],) * 2))[0] * rng.uniform(0.5, 2, hidden.shape[1])
    np.testing.assert_allclose(maximal_dimensionality(hidden @ mixing), maximal_dimensionality(hidden), atol=1e-8)


def leverages(hidden: np.ndarray) -> np.ndarray:
    """Squared rows of the left singular vectors, by NumPy in float64, once each column has the length 1."""
    U, singular, _ = np.linalg.svd(hidden / np.linalg.norm(hidden, axis=0), full_matrices=False)
    return np.square(U[:, singular > singular[0] * max(hidden.shape) * np.finfo(float).eps]).sum(axis=1)


@given(hiddens, st.data())
def test_the_unit_of_each_feature_changes_neither_the_maximal_dimensionality_nor_the_rank(hidden, data):
    powers = data.draw(arrays(np.float64, hidden.shape[1], elements=st.floats(-8, 8)))
    found = maximal_dimensionality(hidden * 10**powers)
    np.testing.assert_allclose(found, maximal_dimensionality(hidden), atol=1e-8)
    assert found.sum() == pytest.approx(np.linalg.matrix_rank(hidden))


@pytest.mark.parametrize("ratio", [1e-10, 1e-3, 1e3, 1e6, 1e10, 1e30])
@pytest.mark.parametrize("shape", [(500, 6), (40, 40), (8, 30)])
def test_features_of_very_different_sizes_all_count(shape, ratio):
    hidden = np.random.default_rng(0).normal(size=shape)
    hidden[:, ::2] *= ratio
    found = maximal_dimensionality(hidden)
    np.testing.assert_allclose(found, leverages(hidden), atol=1e-10)
    assert found.sum() == pytest.approx(min(shape))


@pytest.mark.parametrize("shape", [(300, 12), (20, 50)])
def test_features_that_others_make_up_count_once_in_any_unit(shape):
    rng = np.random.default_rng(1)
    hidden = (rng.normal(size=(shape[0], 5)) @ rng.normal(size=(5, shape[1]))) * 10 ** rng.uniform(-6, 6, shape[1])
    np.testing.assert_allclose(maximal_dimensionality(hidden), leverages(hidden), atol=1e-9)
    assert maximal_dimensionality(hidden).sum() == pytest.approx(5)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_features_with_a_large_common_offset_all_count(offset):
    # Their second moments have eigenvalues of 1 and offset^2, more than float64 tells apart from 1e8 on.
    hidden = np.random.default_rng(2).normal(size=(200, 4)) + offset
    np.testing.assert_allclose(maximal_dimensionality(hidden), leverages(hidden), atol=1e-14 * offset)
    assert maximal_dimensionality(hidden).sum() == pytest.approx(4)


@given(st.integers(0, 1_000), st.integers(1, 700), st.integers(1, 9), st.lists(st.integers(1, 300), min_size=1))
def test_the_triangular_factor_is_that_of_all_rows_however_they_come(seed, n_rows, width, sizes):
    rows = np.random.default_rng(seed).normal(size=(n_rows, width))
    factor, scaled = TriangularFactor(width), TriangularFactor(width)
    powers = 2.0 ** np.arange(width)
    for part in np.split(rows, np.cumsum(sizes)[np.cumsum(sizes) < n_rows]):
        factor.add(part)
        scaled.add(part * powers)
    R = factor.finish()
    np.testing.assert_allclose(R.T @ R, rows.T @ rows, atol=1e-11)
    np.testing.assert_array_equal(R, np.triu(R))
    np.testing.assert_array_equal(scaled.finish(), R * powers)  # what a unit changes, to the last bit


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (7, 3), (300, 100)])
def test_tall_columns_are_an_orthonormal_basis_times_a_triangle(shape):
    columns = np.random.default_rng(3).normal(size=shape)
    columns[:, -1] = columns[:, 0]
    before = columns.copy()
    basis, R = tall_qr(columns)
    np.testing.assert_array_equal(columns, before)
    np.testing.assert_allclose(basis.T @ basis, np.eye(shape[1]), atol=1e-13)
    np.testing.assert_allclose(basis @ R, columns, atol=1e-12)


@both
def test_twenty_vectors_of_100_000_components(dimensionality):
    # A moment of that width would take 80 GB.
    rng = np.random.default_rng(4)
    hidden = rng.normal(size=(20, 100_000)).astype(np.float32)
    hidden[3] = hidden[7]
    repeats = np.where(np.arange(20) == 5, 3, 1)
    expected = brute_force(hidden.astype(float), repeats)
    if dimensionality is maximal_dimensionality:
        expected = np.where(np.isin(np.arange(20), [3, 7]), 1 / 2, 1 / repeats)
    np.testing.assert_allclose(dimensionality(hidden, repeats), expected, rtol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_the_most_negative_whole_number_has_its_size():
    hidden = np.array([[-128, 0], [1, 100]], dtype=np.int8)
    np.testing.assert_allclose(maximal_dimensionality(hidden), 1)


@both
@pytest.mark.parametrize("n_vectors", [3, 5, 6, 7, 30, 1001])
def test_the_corners_of_a_regular_polygon_share_two_dimensions_equally(dimensionality, n_vectors):
    np.testing.assert_allclose(dimensionality(7.5 * polygon(n_vectors)), 2 / n_vectors, rtol=1e-9)


@both
def test_known_values_alone_orthogonal_antipodal_absent_and_twins(dimensionality):
    assert dimensionality(np.array([[3.0, 4.0]])).tolist() == pytest.approx([1])
    assert dimensionality(np.diag([1.0, 2.0, 30.0])).tolist() == pytest.approx([1, 1, 1])
    mixed = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 5], [0, 0, 5]])
    assert dimensionality(mixed).tolist() == pytest.approx([0.5, 0.5, 1, 0, 0.5, 0.5])
    assert dimensionality(np.zeros((3, 2))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("n_vectors", [3, 5, 8])
def test_the_columns_of_a_polygon_of_weights_have_its_dimensionality_and_absent_features_none(n_vectors):
    W = np.concatenate([polygon(n_vectors), np.zeros((4, 2))]).T
    expected = [2 / n_vectors] * n_vectors + [0] * 4
    np.testing.assert_allclose(feature_dimensionality(W.astype(np.float32)), expected, atol=1e-6)


@both
@given(hidden=hiddens, data=st.data())
def test_repeats_equal_writing_the_rows_out(dimensionality, hidden, data):
    repeats = data.draw(arrays(np.int64, len(hidden), elements=st.integers(1, 5)))
    written_out = dimensionality(np.repeat(hidden, repeats, axis=0))
    first = np.cumsum(repeats) - repeats
    np.testing.assert_allclose(dimensionality(hidden, repeats), written_out[first], atol=_CLOSE)


def test_no_direction_isolates_an_example_better_than_its_maximal_dimensionality_and_one_does_as_well():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(12, 4)) * [1, 3, 0.2, 1]
    D_max = maximal_dimensionality(hidden)

    def share(v: np.ndarray, i: int) -> float:
        return float((hidden[i] @ v) ** 2 / np.square(hidden @ v).sum())

    for i in range(len(hidden)):
        searched = max(share(v, i) for v in rng.normal(size=(500, 4)))
        assert searched <= D_max[i] + _CLOSE
        best = max(
            -scipy.optimize.minimize(lambda v, i=i: -share(v, i), start, tol=1e-12).fun
            for start in rng.normal(size=(4, 4))
        )
        assert best <= D_max[i] + _CLOSE
        assert best > D_max[i] - 1e-6


@both
@pytest.mark.parametrize("rows", [1, 3, 7, 64])
def test_streaming_over_blocks_of_rows_changes_nothing(dimensionality, rows, monkeypatch):
    rng = np.random.default_rng(1)
    hidden, repeats = rng.normal(size=(50, 5)), rng.integers(1, 9, 50)
    expected = dimensionality(hidden, repeats)
    monkeypatch.setattr("byheart.geometry._ROWS_PER_BLOCK", rows)
    np.testing.assert_allclose(dimensionality(hidden, repeats), expected, rtol=1e-12)


@both
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_scales_neither_overflow_nor_vanish(dimensionality, scale):
    hidden = np.random.default_rng(2).normal(size=(9, 3))
    np.testing.assert_allclose(dimensionality(scale * hidden), dimensionality(hidden), rtol=1e-9)


@both
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30, 3e37])
def test_float32_is_computed_in_float64(dimensionality, scale):
    hidden = (scale * polygon(7)).astype(np.float32)
    result = dimensionality(hidden)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, dimensionality(hidden.astype(np.float64)), rtol=1e-12)
    np.testing.assert_allclose(result, 2 / 7, rtol=1e-5)


def test_the_maximal_dimensionality_keeps_directions_a_second_moment_matrix_would_lose():
    # Singular values 1 and 1e-10: their squares differ by 1e-20, less than float64 can tell.
    hidden = np.array([[1.0, 0], [1, 0], [0, 1e-10], [0, 1e-10]])
    np.testing.assert_allclose(maximal_dimensionality(hidden), 0.5, rtol=1e-6)


def test_a_huge_norm_in_another_direction_takes_nothing_away():
    hidden = np.array([[1e8, 0, 0], [0, 1, 0], [0, 0, 1e-3]])
    np.testing.assert_allclose(example_dimensionality(hidden), 1, rtol=1e-12)
    np.testing.assert_allclose(maximal_dimensionality(hidden), 1, rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", [example_dimensionality, feature_dimensionality, maximal_dimensionality])
@pytest.mark.parametrize("matrix", [np.zeros(3), np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((2, 2, 2))])
def test_what_is_no_matrix_or_empty_is_refused(function, matrix):
    with pytest.raises(ValueError, match=r"(hidden|W): received shape .*, accepted: a matrix"):
        function(matrix)


@pytest.mark.parametrize("function", [example_dimensionality, feature_dimensionality, maximal_dimensionality])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(function, value):
    matrix = np.ones((3, 2))
    matrix[1, 1] = value
    with pytest.raises(ValueError, match=r"(hidden|W): received (nan|-?inf) of example 1, column 1, accepted: f"):
        function(matrix)


@pytest.mark.usefixtures("unchecked")
@both
@pytest.mark.parametrize("repeats", [[3], [1, 2], [1] * 6, [1, 1, 1, 1, 0], [1, 1, 1, 1, -2]])
def test_repeats_of_another_length_or_below_one_are_refused(dimensionality, repeats):
    with pytest.raises(ValueError, match=r"repeats: received .*, accepted: "):
        dimensionality(polygon(5), np.array(repeats))


@given(st.integers(3, 15), st.floats(0.01, 100), st.floats(0, 6), st.randoms(use_true_random=False))
def test_a_regular_polygon_is_one_whatever_its_size_turn_and_order(n_points, radius, phase, random):
    corners = list(radius * polygon(n_points, phase))
    random.shuffle(corners)
    assert is_regular_polygon(np.array(corners))
    assert not is_regular_polygon(np.array([0.7 * corners[0], *corners[1:]]))


def test_a_polygon_with_a_corner_moved_by_fifteen_degrees_is_not_regular():
    points = polygon(6)
    turn = np.deg2rad(15)
    points[0] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] @ points[0]
    assert not is_regular_polygon(points)


@pytest.mark.parametrize(
    ("lengths", "second", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], 60, "regular polygon"),
        ([1, 1, 1, 1, 0.4, 0.4], 60, "two circles"),
        ([1, 1, 1, 1, 0.4, 0.0], 60, "two circles"),
        ([1, 1, 1, 1, 1, 0.0], 60, "some at the origin"),
        ([0, 0, 0, 0, 0, 0], 60, "some at the origin"),
        ([1, 1, 1, 1, 1, 1], 5, "shared direction"),
        ([1, 1, 1, 1, 1, 1], 30, "other"),
    ],
)
def test_arrangements_are_named(lengths, second, expected):
    angles = np.deg2rad([0, second, 120, 180, 240, 300])
    points = np.array(lengths)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert arrangement(points) == expected


@given(hiddens, st.floats(1e-3, 1e3))
def test_each_vector_is_long_short_or_at_the_origin_in_any_unit(hidden, unit):
    masks = np.array(lengths_apart(hidden))
    assert (masks.sum(axis=0) == 1).all()
    assert masks[0].any() == hidden.any()  # the longest is long
    np.testing.assert_array_equal(lengths_apart(hidden * 2 ** round(np.log2(unit))), masks)


@pytest.mark.parametrize("shape", [(2, 2), (5, 3)])
def test_only_three_or_more_planar_points_can_be_a_polygon(shape):
    with pytest.raises(ValueError, match=r"points: received shape .* accepted: \(n_points >= 3, 2\)"):
        is_regular_polygon(np.ones(shape))


def test_neighbours_overlap_where_examples_that_share_a_feature_are_side_by_side():
    X = np.repeat(np.eye(20), 5, axis=0)  # 20 kinds of example, five of each
    beside, mixed = polygon(100), polygon(100)[np.random.default_rng(0).permutation(100)]
    # Of 100 neighbours 80 are alike; of any two, 4 in 99.
    assert neighbour_overlap(beside, X) == pytest.approx(0.8 / (4 / 99))
    assert neighbour_overlap(mixed, X) < 4
    assert np.isnan(neighbour_overlap(polygon(4), np.eye(4)))
