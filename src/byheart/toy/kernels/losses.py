"""Losses of examples, one by one, on the CPU: the outputs of a few features, or of a few examples, at a time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels.blas import one_blas_thread
from byheart.toy.kernels.compile import empty, inner, relu, serial
from byheart.toy.kernels.narrow import MAX_HIDDEN
from byheart.toy.kernels.tickets import side_by_side, take, tickets
from byheart.toy.model import hidden_vectors
from byheart.toy.pace import Pace

_FEATURES_PER_SUM = 1024  # terms of a loss that are added in float32
_ROWS = 32  # examples that make a unit; at least, with many hidden units
_MOST_ROWS, _UNITS = 256, 8  # then: at most, and how many units there are at least; larger products are faster
_FEATURES_AT_ONCE = 512  # then: the outputs of so many stay in cache
_SERIAL_BELOW = 20_000_000  # multiplications with W: less work than this is over before a thread wakes up
_SHORT = 5e7  # likewise: those of the first piece, short on any machine
_ZERO = np.float32(0)


@serial
def _narrow(tickets, end, W, b, starts, features, values, losses):
    """With few hidden units; how many is not known to the compiler, so that it compiles this once."""
    n_examples, n_hidden = losses.shape[0], W.shape[0]
    h, z = np.empty((2, n_hidden), np.float32), np.empty((2, _FEATURES_PER_SUM + 16), np.float32)
    while True:
        ticket = take(tickets)
        if ticket >= end:
            return
        last = min((ticket + 1) * _ROWS, n_examples)
        for i in range(ticket * _ROWS, last, 2):
            _two_losses(W, b, starts, features, values, i, min(i + 1, last - 1), h, z, losses)


@inner
def _two_losses(W, b, starts, features, values, one, other, h, z, losses):
    for e in range(2):
        i = other if e else one
        h[e] = _ZERO
        for entry in range(starts[i], starts[i + 1]):
            for k in range(h.shape[1]):
                h[e, k] += values[entry] * W[k, features[entry]]
        losses[i] = 0.0
    entry_of_one, entry_of_other, n_features = starts[one], starts[other], b.shape[0]
    for left in range(0, n_features, _FEATURES_PER_SUM):
        right = min(left + _FEATURES_PER_SUM, n_features)
        _preactivations(h, W, b, left, right, z)
        entry_of_one = _add_targets(entry_of_one, starts[one + 1], features, values, left, right, z[0])
        losses[one] += _squares(z[0, : right - left])
        if other > one:
            entry_of_other = _add_targets(entry_of_other, starts[other + 1], features, values, left, right, z[1])
            losses[other] += _squares(z[1, : right - left])


@inner
def _preactivations(h, W, b, left, right, z):
    """Set z to W^T h + b of two examples at these features, two hidden units at a time."""
    n_hidden, bias, one, other = h.shape[1], b[left:right], z[0, : right - left], z[1, : right - left]
    odd = n_hidden % 2
    if odd:
        row = W[0, left:right]
        x, y = h[0, 0], h[1, 0]
        for f in range(bias.shape[0]):
            one[f] = bias[f] + x * row[f]
            other[f] = bias[f] + y * row[f]
    for k in range(odd, n_hidden, 2):
        row, next_row = W[k, left:right], W[k + 1, left:right]
        x, next_x, y, next_y = h[0, k], h[0, k + 1], h[1, k], h[1, k + 1]
        if k == 0:
            for f in range(bias.shape[0]):
                one[f] = bias[f] + x * row[f] + next_x * next_row[f]
                other[f] = bias[f] + y * row[f] + next_y * next_row[f]
        else:
            for f in range(bias.shape[0]):
                one[f] += x * row[f] + next_x * next_row[f]
                other[f] += y * row[f] + next_y * next_row[f]


@inner
def _add_targets(entry, stop, features, values, left, right, z):
    """Put the size of the error in place of z at the nonzero targets of these features; return the next entry."""
    while entry < stop and features[entry] < right:
        f = features[entry] - left
        z[f] = abs(relu(z[f]) - values[entry])
        entry += 1
    return entry


@inner
def _squares(z):
    """Return the sum of ReLU(z)^2."""
    total = _ZERO
    for f in range(z.shape[0]):
        p = relu(z[f])
        total += p * p
    return total


@serial
def _wide(tickets, end, W, b, h, starts, features, values, n_rows, losses):
    """With many: so many examples make a unit. W is transposed, so that all that belongs to a feature is contiguous."""
    n_examples, n_features = losses.shape[0], b.shape[0]
    outputs = np.empty(n_rows * min(_FEATURES_AT_ONCE, n_features), np.float32)
    entries = np.empty(n_rows, np.int64)
    while True:
        ticket = take(tickets)
        if ticket >= end:
            return
        lo, hi = ticket * n_rows, min((ticket + 1) * n_rows, n_examples)
        for i in range(lo, hi):  # assignments of whole arrays take seconds to compile
            losses[i], entries[i - lo] = 0.0, starts[i]
        for left in range(0, n_features, _FEATURES_AT_ONCE):
            right = min(left + _FEATURES_AT_ONCE, n_features)
            z = outputs[: (hi - lo) * (right - left)].reshape(hi - lo, right - left)
            np.dot(h[lo:hi], W[left:right].T, z)
            for i in range(lo, hi):
                row, entry = z[i - lo], entries[i - lo]
                for f in range(right - left):
                    row[f] += b[left + f]
                entries[i - lo] = _add_targets(entry, starts[i + 1], features, values, left, right, row)
                losses[i] += _squares(row)


def example_losses(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], examples: SparseExamples
) -> Float64[np.ndarray, " n_examples"]:
    """Return the squared error of each distinct example, summed over features."""
    W, b = np.asarray(W, np.float32), _on_cache_lines(b)
    losses: Float64[np.ndarray, " n_examples"] = empty((examples.n_examples,), np.float64)
    nonzeros, n_rows = (examples.indptr, examples.indices, examples.values), _ROWS
    given: tuple[Any, ...]
    if len(W) <= MAX_HIDDEN:
        compiled, given = _narrow, (_on_cache_lines(W), b, *nonzeros, losses)
    else:
        n_rows = max(_ROWS, min(_MOST_ROWS, len(losses) // _UNITS))
        h = hidden_vectors(W, examples)
        compiled, given = _wide, (_on_cache_lines(W.T), b, h, *nonzeros, n_rows, losses)
    n_units = -(-len(losses) // n_rows)
    n_threads = 1 if len(losses) * W.size < _SERIAL_BELOW else min(n_units, numba.get_num_threads())
    with nullcontext() if compiled is _narrow else one_blas_thread():
        for first, last in Pace(_SHORT / (n_rows * W.size)).cut(0, n_units, n_threads):
            side_by_side(n_threads, compiled, tickets(first), last, *given)
    return losses


def _on_cache_lines(array: np.ndarray) -> np.ndarray:
    copy = empty(array.shape)
    copy[...] = array
    return copy
