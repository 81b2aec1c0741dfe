"""Codes of examples: what no code can save, what a model that holds the examples saves, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byheart.toy.codes import RESOLUTION, code, memorized_bits
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.solutions import polygon

N, SPARSITY = 200, 0.95


def apart(n_examples: int, n_each: int = 8) -> SparseExamples:
    """Unit examples without a feature in common."""
    X = np.zeros((n_examples, N))
    for i in range(n_examples):
        values = np.random.default_rng(i).uniform(0.2, 1, n_each)
        X[i, i * n_each : (i + 1) * n_each] = values / np.linalg.norm(values)
    return SparseExamples.from_matrix(X)


def drawn(n_examples: int, seed: int) -> SparseExamples:
    """Examples of just the kind that is written without a model: independent, values spread evenly."""
    return sample_examples(n_examples, N, SPARSITY, np.random.default_rng(seed), unit_norm=False)


def test_without_a_model_an_example_takes_its_places_and_its_values():
    examples = apart(3)
    found = code(np.zeros((2, N)), -np.ones(N), examples, SPARSITY).without
    expected = -8 * np.log2(1 - SPARSITY) - (N - 8) * np.log2(SPARSITY) - 8 * np.log2(RESOLUTION)
    np.testing.assert_allclose(found, expected)


@given(
    n_hidden=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.3, 3.0]),
    bias=st.floats(-1, 0.2),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_no_model_saves_bits_on_examples_that_it_has_not_seen(n_hidden, spread, bias, seed):
    W = np.random.default_rng(seed).normal(0, spread, (n_hidden, N)) if spread else np.zeros((n_hidden, N))
    saved = code(W, np.full(N, bias), drawn(200, seed), SPARSITY).saved
    assert saved.min() >= -1
    assert saved.mean() <= 0.3  # what is fitted to the set, such as how likely mistakes are, takes few bits for 200


@pytest.mark.parametrize("n_examples", [5, 10])
def test_a_polygon_holds_most_bits_of_its_examples(n_examples):
    examples = apart(n_examples)
    W, b = polygon(examples)
    train, fresh = code(W, b, examples, SPARSITY), code(W, b, drawn(100, 1), SPARSITY)
    assert memorized_bits(train, fresh) > 0.6 * train.without.sum()
    assert memorized_bits(train, fresh) < train.without.sum() + n_examples
    assert memorized_bits(train, train) == pytest.approx(0)


def test_neither_the_order_of_examples_nor_that_of_features_matters():
    examples = drawn(20, 3)
    W, b = polygon(examples)
    examples_order, features_order = (np.random.default_rng(0).permutation(size) for size in (20, N))
    before = code(W, b, examples, SPARSITY).with_model
    X = examples.to_scipy().toarray()[examples_order][:, features_order]
    after = code(W[:, features_order], b[features_order], SparseExamples.from_matrix(X), SPARSITY).with_model
    np.testing.assert_allclose(after, before[examples_order], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"W": np.full((2, N), np.nan)}, "W: received nan"),
        ({"W": np.zeros((N, 2))}, "W, b: received shapes"),
        ({"b": np.zeros(1)}, "W, b: received shapes"),
        ({"b": np.full(N, np.inf)}, "finite, as the examples have 200 features"),
        ({"sparsity": 95}, "sparsity: received 95, accepted: above 0, below 1"),
        ({"sparsity": 1.0}, "sparsity: received 1.0"),
        ({"examples": SparseExamples.from_matrix(np.full((2, N), 5.0))}, "received values from 5 to 5, accepted"),
        ({"examples": SparseExamples.from_matrix(np.full((2, N), -0.5))}, "received values from -0.5 to -0.5"),
    ],
)
def test_what_would_be_misread_is_refused(changed, message):
    given = {"W": np.zeros((2, N)), "b": np.zeros(N), "examples": apart(2), "sparsity": SPARSITY}
    with pytest.raises(ValueError, match=message):
        code(**(given | changed))
