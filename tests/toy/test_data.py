"""Finite sets of sparse examples: distribution, form, cost, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from byheart.toy.data import SparseExamples, sample_examples

# Probability that a correct sampler fails one of the statistical tests; the seeds are fixed.
_RARE = 1e-4


def draw(
    n_examples: int, n_features: int, sparsity: float, seed: int = 0, repeats: tuple[int, ...] = ()
) -> SparseExamples:
    return sample_examples(n_examples, n_features, sparsity, np.random.default_rng(seed), repeats)


def same(one: SparseExamples, other: SparseExamples) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("indptr", "indices", "values", "repeats")]
    return one.n_features == other.n_features and all(a.tobytes() == b.tobytes() for a, b in pairs)


sizes = st.tuples(
    st.integers(1, 60), st.integers(1, 80), st.sampled_from([0.0, 0.3, 0.9, 0.985]), st.integers(0, 2**32)
)


@given(sizes)
def test_every_row_has_unit_norm_and_distinct_sorted_positive_features(size):
    n_examples, n_features, sparsity, seed = size
    examples = draw(n_examples, n_features, sparsity, seed)
    assert examples.n_examples == n_examples
    assert examples.indptr[0] == 0
    assert examples.indptr[-1] == len(examples.indices) == len(examples.values)
    for start, end in zip(examples.indptr, examples.indptr[1:], strict=False):
        assert end > start, "a row is all zero"
        assert (np.diff(examples.indices[start:end]) > 0).all()
        assert examples.indices[start] >= 0
        assert examples.indices[end - 1] < n_features
        assert (examples.values[start:end] > 0).all()
        norm = np.sqrt(np.square(examples.values[start:end], dtype=np.float64).sum())
        assert abs(norm - 1) < 1e-7  # each value is off by at most 2^-24 of itself
    assert (examples.repeats == 1).all()


def test_without_sparsity_every_feature_is_active():
    examples = draw(20, 7, 0.0)
    assert (examples.to_scipy().toarray() > 0).all()


def test_an_example_with_one_feature_is_one_there():
    assert draw(50, 1, 0.99).values.tolist() == [1.0] * 50


@pytest.mark.parametrize(("n_features", "sparsity"), [(200, 0.95), (10, 0.95), (1000, 0.999)])
def test_every_feature_is_active_equally_often(n_features, sparsity):
    n_examples = 20_000
    p = (1 - sparsity) / (1 - sparsity**n_features)  # rows without any active feature are drawn again
    counts = np.bincount(draw(n_examples, n_features, sparsity).indices, minlength=n_features)
    total = n_examples * n_features * p
    assert abs(counts.sum() - total) < 5 * np.sqrt(total)
    if n_features > 10:  # with more rows redrawn, the features of a row exclude one another
        statistic = np.square(counts - n_examples * p).sum() / (n_examples * p * (1 - p))
        assert _RARE < scipy.stats.chi2.sf(statistic, n_features) < 1 - _RARE
    else:
        assert (np.abs(counts - n_examples * p) < 5 * np.sqrt(n_examples * p * (1 - p))).all()


@pytest.mark.parametrize(("n_features", "sparsity"), [(200, 0.95), (10, 0.95), (1000, 0.999)])
def test_the_number_of_active_features_is_binomial_given_that_there_is_one(n_features, sparsity):
    n_examples = 20_000
    counts = np.diff(draw(n_examples, n_features, sparsity, seed=1).indptr)
    k = np.arange(n_features + 1)
    expected = scipy.stats.binom.pmf(k, n_features, 1 - sparsity)
    expected[0] = 0
    expected *= n_examples / expected.sum()
    common = expected >= 10
    observed = np.bincount(counts, minlength=n_features + 1)
    bins_observed = np.append(observed[common], observed[~common].sum())
    bins_expected = np.append(expected[common], expected[~common].sum())
    statistic = (np.square(bins_observed - bins_expected) / bins_expected).sum()
    assert scipy.stats.chi2.sf(statistic, len(bins_observed) - 1) > _RARE


def test_features_are_active_independently_of_their_neighbours_in_the_row_and_in_the_next():
    n_examples, n_features, p = 20_000, 100, 0.1
    active = draw(n_examples, n_features, 1 - p, seed=2).to_scipy().toarray() > 0
    pairs = {
        "next feature": active[:, :-1] & active[:, 1:],
        "next row": active[:-1] & active[1:],
        "end of a row and start of the next": active[:-1, -1:] & active[1:, :1],
    }
    for name, both in pairs.items():
        assert abs(both.sum() - both.size * p**2) < 5 * np.sqrt(both.size * p**2), name


def test_values_are_uniform_before_the_rows_are_scaled():
    # Scaling keeps ratios; of k uniform numbers, the k - 1 others over the largest are uniform on (0, 1) again.
    examples = draw(5_000, 100, 0.9, seed=3)
    ratios = []
    for start, end in zip(examples.indptr, examples.indptr[1:], strict=False):
        row = np.sort(examples.values[start:end].astype(np.float64))
        ratios.extend(row[:-1] / row[-1])
    assert scipy.stats.kstest(ratios, "uniform").pvalue > _RARE
    assert max(ratios) <= 1


def test_values_do_not_depend_on_where_they_are():
    examples = draw(20_000, 20, 0.9, seed=4)
    left, right = examples.values[examples.indices < 10], examples.values[examples.indices >= 10]
    assert scipy.stats.ks_2samp(left, right).pvalue > _RARE


@given(sizes)
def test_a_seed_draws_the_same_bits_again(size):
    n_examples, n_features, sparsity, seed = size
    assert same(draw(n_examples, n_features, sparsity, seed), draw(n_examples, n_features, sparsity, seed))


def test_two_seeds_share_no_more_than_chance_would():
    p = 0.05
    one, other = (draw(500, 1000, 1 - p, seed).to_scipy().toarray() for seed in (5, 6))
    common = ((one > 0) & (other > 0)).sum()
    assert abs(common - one.size * p**2) < 5 * np.sqrt(one.size * p**2)
    both = (one > 0) & (other > 0)
    assert abs(np.corrcoef(one[both], other[both])[0, 1]) < 5 / np.sqrt(common)


def test_rows_drawn_in_several_blocks_obey_the_same_laws(monkeypatch):
    monkeypatch.setattr("byheart.toy.data._NONZEROS_PER_BLOCK", 50)
    examples = draw(3_001, 40, 0.9)
    matrix = examples.to_scipy().toarray()
    assert matrix.shape == (3_001, 40)
    assert np.allclose(np.linalg.norm(matrix.astype(np.float64), axis=1), 1, atol=1e-7)
    n_active, expected = (matrix > 0).sum(), 3_001 * 40 * 0.1 / (1 - 0.9**40)
    assert abs(n_active - expected) < 5 * np.sqrt(expected)
    assert len(np.unique(examples.indptr)) == 3_002


def test_memory_grows_with_the_nonzeros_and_not_with_rows_times_features():
    tracemalloc.start()
    examples = draw(20_000, 10_000_000, 1 - 1e-6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * len(examples.values)  # a dense float32 matrix would be 4,000,000 bytes per nonzero


@pytest.mark.large
def test_a_million_rows_of_ten_thousand_features_take_a_few_calls_and_less_than_a_gigabyte():
    script = """
import resource, sys
import numpy as np
from byheart.toy.data import sample_examples
calls = []
sys.setprofile(lambda *call: calls.append(call[1]))
examples = sample_examples(1_000_000, 10_000, 0.999, np.random.default_rng(0))
sys.setprofile(None)
print(len(calls), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, len(examples.values))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    n_calls, peak, nonzeros = map(int, result.stdout.split())
    assert abs(nonzeros - 1e7) < 5 * np.sqrt(1e7) + 1e3  # about 450 redrawn rows add a little
    assert n_calls < 10_000  # a loop over rows would make millions
    assert peak < 1e9


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 10, 0.5), "n_examples"),
        ((-3, 10, 0.5), "n_examples"),
        ((5, 0, 0.5), "n_features"),
        ((5, 10, 1.0), "sparsity"),
        ((5, 10, -0.1), "sparsity"),
        ((5, 10, float("nan")), "sparsity"),
        ((5, 10, 0.9999), "sparsity"),
    ],
)
def test_sizes_that_cannot_be_drawn_are_refused_with_what_is_accepted(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: received .*, accepted: ") as error:
        draw(*arguments)
    assert str(arguments[("n_examples", "n_features", "sparsity").index(name)]) in str(error.value)


def test_the_sparsest_accepted_sets_are_drawn():
    examples = draw(30, 10, 0.999)
    assert np.diff(examples.indptr).min() >= 1


def test_more_features_than_32_bits_can_number_are_refused_and_not_wrapped_around():
    with pytest.raises(ValueError, match="n_features: received 3000000000, accepted: "):
        draw(1, 3_000_000_000, 1 - 1e-8)


@pytest.mark.parametrize("repeats", [(0,), (2, -1), (1,) * 6])
def test_repeats_below_one_or_for_more_rows_than_there_are_are_refused(repeats):
    with pytest.raises(ValueError, match=r"repeats: received \(.*accepted: at most n_examples = 5"):
        draw(5, 10, 0.5, repeats=repeats)


@given(sizes, st.lists(st.integers(1, 5), max_size=8))
def test_expanding_writes_each_row_out_as_often_as_it_is_repeated(size, repeats):
    n_examples, n_features, sparsity, seed = size
    repeats = tuple(repeats[:n_examples])
    examples = draw(n_examples, n_features, sparsity, seed, repeats)
    assert np.array_equal(draw(n_examples, n_features, sparsity, seed).values, examples.values)
    counts = np.ones(n_examples, dtype=int)
    counts[: len(repeats)] = repeats
    expected = np.repeat(examples.to_scipy().toarray(), counts, axis=0)
    expanded = examples.expanded()
    assert (expanded.repeats == 1).all()
    assert np.array_equal(expanded.to_scipy().toarray(), expected)


MATRIX = np.array([[0, 2.5, 0, -1], [0, 0, 0, 0], [3, 0, 0.25, 0]])


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.asfortranarray,
        lambda a: a.astype(np.float32),
        lambda a: a.tolist(),
        scipy.sparse.csr_array,
        scipy.sparse.csr_matrix,
        scipy.sparse.csc_array,
        scipy.sparse.coo_array,
    ],
)
def test_own_examples_are_taken_as_they_are(convert):
    examples = SparseExamples.from_matrix(convert(MATRIX), repeats=(1, 4))
    assert np.array_equal(examples.to_scipy().toarray(), MATRIX)
    assert examples.indptr.tolist() == [0, 2, 2, 4]
    assert examples.indices.tolist() == [1, 3, 0, 2]
    assert examples.repeats.tolist() == [1, 4, 1]
    assert examples.n_features == 4
    dtypes = [a.dtype for a in (examples.indptr, examples.indices, examples.values)]
    assert dtypes == [np.int64, np.int32, np.float32]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float16])
def test_own_examples_may_be_integers_booleans_or_half_precision(dtype):
    matrix = np.array([[0, 1, 1], [1, 0, 0]])
    for convert in (np.asarray, scipy.sparse.csr_array):
        if convert is scipy.sparse.csr_array and dtype is np.float16:
            continue  # which scipy.sparse does not have
        examples = SparseExamples.from_matrix(convert(matrix.astype(dtype)))
        assert np.array_equal(examples.to_scipy().toarray(), matrix)


def test_duplicates_are_summed_unsorted_columns_sorted_and_explicit_zeros_dropped():
    coo = scipy.sparse.coo_array(([1.0, 2, 4, 5, -5], ([0, 0, 0, 1, 1], [3, 1, 3, 2, 2])), shape=(2, 4))
    examples = SparseExamples.from_matrix(coo)
    assert examples.indptr.tolist() == [0, 2, 2]
    assert examples.indices.tolist() == [1, 3]
    assert examples.values.tolist() == [2, 5]


def test_taking_own_examples_leaves_the_users_matrix_alone_and_does_not_share_it():
    matrix = scipy.sparse.csr_array((np.ones(2, np.float32), np.array([3, 1]), np.array([0, 2])), shape=(1, 4))
    examples = SparseExamples.from_matrix(matrix)
    assert matrix.indices.tolist() == [3, 1]
    matrix.data[:] = 7
    assert examples.values.tolist() == [1, 1]


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.float64(1),
        scipy.sparse.csr_array((0, 3)),
        scipy.sparse.coo_array(np.ones(3)),
    ],
)
def test_own_examples_that_are_no_matrix_or_empty_are_refused(matrix):
    with pytest.raises(ValueError, match=r"examples: received shape \(.*accepted: \(n_examples, n_features\)"):
        SparseExamples.from_matrix(matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_array])
def test_own_examples_with_nan_or_infinity_are_refused(value, convert):
    with pytest.raises(ValueError, match="examples: received NaN or infinite values, accepted: finite"):
        SparseExamples.from_matrix(convert(np.array([[1, value], [0, 1]])))


@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_array])
def test_own_examples_beyond_float32_are_refused_and_not_made_infinite(convert):
    with pytest.raises(ValueError, match=r"examples: received .*accepted: finite float32"):
        SparseExamples.from_matrix(convert(np.array([[1e300, 1.0]])))


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1j, 2]]),
        np.array([["a", "b"]]),
        np.array([[None, 1]], dtype=object),
        np.array([[1]], dtype="datetime64[s]"),
        scipy.sparse.csr_array(np.array([[1j, 2]])),
    ],
    ids=["complex", "str", "object", "datetime", "sparse complex"],
)
def test_own_examples_that_are_no_real_numbers_are_refused(matrix):
    with pytest.raises(ValueError, match=r"examples: received dtype .*, accepted: real numbers"):
        SparseExamples.from_matrix(matrix)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("indices", np.array([0, 3], np.int32), "index outside 0 to 2"),
        ("indices", np.array([0, -1], np.int32), "index outside 0 to 2"),
        ("indices", np.array([0], np.int32), "accepted: the arrays of a CSR matrix"),
        ("indptr", np.array([0, 2, 1]), "accepted: the arrays of a CSR matrix"),
        ("indptr", np.array([0]), "accepted: the arrays of a CSR matrix"),
        ("values", np.array([1, np.nan], np.float32), "received NaN"),
        ("repeats", np.array([0, 1]), "received a count below 1"),
        ("repeats", np.array([1]), "accepted: the arrays of a CSR matrix"),
    ],
)
def test_arrays_that_compiled_code_could_not_rely_on_are_refused(unchecked, field, value, message):
    whole = SparseExamples.from_matrix(np.eye(2, 3))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(whole, **{field: value})


def test_without_unit_norm_rows_are_the_same_but_for_their_length():
    unit, raw = (
        sample_examples(50, 300, 0.97, np.random.default_rng(5), unit_norm=norm).to_scipy() for norm in (True, False)
    )
    assert np.array_equal(unit.indices, raw.indices)
    assert ((raw.data > 0) & (raw.data <= 1)).all()
    lengths = np.sqrt(raw.multiply(raw).sum(axis=1))
    np.testing.assert_allclose(unit.toarray(), raw.toarray() / lengths[:, None], rtol=1e-5)


def test_empty_rows_are_kept_on_demand_as_often_as_chance_has_them():
    n_rows, n_features, sparsity = 20_000, 50, 0.97
    kept = sample_examples(n_rows, n_features, sparsity, np.random.default_rng(0), keep_empty=True)
    share = (np.diff(kept.indptr) == 0).mean()
    expected = sparsity**n_features
    assert abs(share - expected) < 4 * np.sqrt(expected / n_rows)
    full = kept.to_scipy()[np.flatnonzero(np.diff(kept.indptr))]
    np.testing.assert_allclose(np.sqrt(full.multiply(full).sum(axis=1)), 1, rtol=1e-5)
