"""Active outputs: found and summed as NumPy does, in whole words and in what is left over."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from byheart.toy.kernels import active
from byheart.toy.kernels.active import BITS, activate, add_active
from byheart.toy.kernels.compile import empty, serial


def found(words: np.ndarray, n_features: int) -> np.ndarray:
    """Whether each output's bit is set; none may be beyond the last one."""
    bits = (words[:, :, None] >> np.arange(BITS, dtype=np.uint64)) & np.uint64(1)
    bits = bits.reshape(len(words), -1).astype(bool)
    assert not bits[:, n_features:].any()
    return bits[:, :n_features]


@given(st.integers(1, 5), st.integers(1, 200), st.integers(1, 70), st.integers(0, 2**32 - 1))
@example(1, 64, 16, 0)
@example(3, 63, 15, 0)
@example(2, 129, 33, 0)
def test_active_outputs_and_their_sums_are_those_of_numpy(n_rows, n_features, n_hidden, seed):
    rng = np.random.default_rng(seed)
    products, bias = rng.integers(-3, 3, (n_rows, n_features)), rng.integers(-3, 3, n_features)
    h, W = rng.integers(-3, 3, (n_rows, n_hidden)), rng.integers(-3, 3, (n_features, n_hidden))
    z, words = products.astype(np.float32), np.full((n_rows, -(-n_features // BITS)), 77, np.uint64)
    active = products + bias > 0
    assert activate(z, bias.astype(np.float32), words) == active.sum()
    assert (z == products + bias).all()
    assert (found(words, n_features) == active).all()

    sums = [rng.integers(-3, 3, shape).astype(np.float32) for shape in (n_features, W.shape, h.shape)]
    p = np.where(active, products + bias, 0)  # small whole numbers, so that all sums are exact
    expected = [before + now for before, now in zip(sums, (p.sum(axis=0), p.T @ h, p @ W), strict=True)]
    add_active(z, words, h.astype(np.float32), W.astype(np.float32), *sums)
    for ours, theirs in zip(sums, expected, strict=True):
        assert (ours == theirs).all()


@serial
def dot(a, i, b, j, size):
    return active.dot(a, i, b, j, size)


@given(st.integers(0, 70), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32 - 1))
@example(15, 1, 0, 0)
@example(16, 0, 3, 0)
@example(17, 0, 0, 0)
@example(33, 2, 2, 0)
def test_a_product_is_of_so_many_numbers_and_of_none_beside_them(size, i, j, seed):
    rng, arrays = np.random.default_rng(seed), []
    for start in (i, j):
        array = empty((start + size + 20,))
        array[:] = np.nan
        array[start : start + size] = rng.integers(-3, 3, size)
        arrays.append(array)
    a, b = arrays
    assert dot(a, i, b, j, size) == a[i : i + size] @ b[j : j + size]
    if size:
        a[i + rng.integers(size)] = np.nan
        assert np.isnan(dot(a, i, b, j, size))


@given(st.integers(1, 150), st.data())
def test_what_is_nan_is_active(n_features, data):
    at = data.draw(st.integers(0, n_features - 1))
    z, words = np.full((1, n_features), -1.0, np.float32), np.zeros((1, -(-n_features // BITS)), np.uint64)
    z[0, at] = np.nan
    assert activate(z, np.zeros(n_features, np.float32), words) == 1
    assert found(words, n_features)[0, at]
