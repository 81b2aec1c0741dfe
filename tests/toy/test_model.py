from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.model import hidden_vectors, initial_weights, loss_scale, outputs


@pytest.mark.parametrize("initialization", ["xavier_normal", "xavier_uniform"])
@pytest.mark.parametrize(("n_hidden", "n_features"), [(2, 10_000), (100, 300), (1, 1)])
def test_initial_weights_have_glorots_deviation_and_mean_zero_and_the_bias_is_zero(
    initialization, n_hidden, n_features
):
    W, b = initial_weights(n_hidden, n_features, initialization, np.random.default_rng(0))
    assert W.shape == (n_hidden, n_features)
    assert W.dtype == b.dtype == np.float32
    assert not b.any()
    if W.size > 1:
        std = np.sqrt(2 / (n_hidden + n_features))
        assert abs(W.mean()) < 5 * std / np.sqrt(W.size)
        assert abs(W.std() / std - 1) < 5 / np.sqrt(2 * W.size)


def test_the_two_initialisations_have_the_shapes_they_are_named_after():
    n_hidden, n_features = 100, 300
    std = np.sqrt(2 / (n_hidden + n_features))
    normal, _ = initial_weights(n_hidden, n_features, "xavier_normal", np.random.default_rng(0))
    uniform, _ = initial_weights(n_hidden, n_features, "xavier_uniform", np.random.default_rng(0))
    assert scipy.stats.kstest(normal.ravel() / std, "norm").pvalue > 1e-4
    bound = np.sqrt(6 / (n_hidden + n_features))  # Glorot and Bengio 2010, equation 16
    assert scipy.stats.kstest(uniform.ravel(), "uniform", (-bound, 2 * bound)).pvalue > 1e-4
    assert np.abs(uniform).max() <= np.float32(bound)


def test_initial_weights_follow_their_generator():
    draws = [initial_weights(3, 20, "xavier_normal", np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 10), st.integers(0, 2**32))
def test_hidden_vectors_and_outputs_are_the_equations_of_the_paper(n_hidden, n_features, n_examples, seed):
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(n_hidden, n_features)), rng.normal(size=n_features)
    examples = sample_examples(n_examples, n_features, 0.5, rng)
    X = examples.to_scipy().toarray().astype(np.float64)
    hidden, answers = hidden_vectors(W, examples), outputs(W, b, X)
    for i, x in enumerate(X):
        h = np.array([sum(W[k, f] * x[f] for f in range(n_features)) for k in range(n_hidden)])
        answer = np.array([max(sum(W[k, f] * h[k] for k in range(n_hidden)) + b[f], 0) for f in range(n_features)])
        np.testing.assert_allclose(hidden[i], h, atol=1e-12)
        np.testing.assert_allclose(answers[i], answer, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hidden_vectors_come_in_the_precision_of_the_weights_one_row_per_distinct_example(dtype):
    examples = SparseExamples.from_matrix(np.eye(3), repeats=(5,))
    W = np.arange(6, dtype=dtype).reshape(2, 3)
    hidden = hidden_vectors(W, examples)
    assert hidden.dtype == dtype
    assert hidden.flags.c_contiguous
    assert np.array_equal(hidden, W.T)


def test_the_mean_reduction_divides_by_the_number_of_features_and_the_sum_does_not():
    assert loss_scale(250, "sum") == 1
    assert loss_scale(250, "mean") == 1 / 250
