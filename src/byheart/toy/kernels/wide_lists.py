"""Which outputs of a wide model can be active until something has moved far, as in ``neighbours``.

Lists are made for all examples at once, by one product whose outputs are bounds; words of bits name what is on them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byheart.toy.kernels.compile import inner
from byheart.toy.kernels.neighbours import LEAST_RADIUS, STEPS_AHEAD

_ZERO, _ONE = np.float32(0), np.float32(1)


class Lists(NamedTuple):
    """Which outputs can be active until something has moved far, as in ``neighbours``, but for all examples at once.

    Columns of W_then and h_then are multiplied to bounds: after those of W and h come radius and |(h, 1)|, then
    |W| + radius and reach.
    """

    words: np.ndarray  # (n_examples, words), the bits of these outputs
    W_then: np.ndarray  # (n_features, n_hidden + 2), when distances began
    b_then: np.ndarray
    h_then: np.ndarray  # (n_examples, n_hidden + 2)
    began_at: np.ndarray  # step, by chunk of examples, then of features
    moved: np.ndarray  # whether distances begin anew, likewise
    n_pairs: np.ndarray  # that were computed since they were last counted, by group and block


@inner
def _distance(a, i, b, j, n_hidden):
    total = _ZERO
    for k in range(n_hidden):
        difference = a[i, k] - b[j, k]
        total += difference * difference
    return total


@inner
def far_examples(state, lists, lo, hi):
    """Whether one of these is beyond its reach."""
    n_hidden, far = np.int64(state.h.shape[1]), False
    for i in range(lo, hi):
        reach = lists.h_then[i, n_hidden + 1]
        far |= not _distance(state.h, i, lists.h_then, i, n_hidden) <= reach * reach
    return far


@inner
def far_features(state, lists, lo, hi):
    """Whether one of these is beyond its radius."""
    n_hidden, far = np.int64(state.h.shape[1]), False
    for f in range(lo, hi):
        radius, along_b = lists.W_then[f, n_hidden], state.b[f] - lists.b_then[f]
        far |= not _distance(state.W, f, lists.W_then, f, n_hidden) + along_b * along_b <= radius * radius
    return far


@inner
def begin_examples(state, lists, lo, hi, steps):
    """Start their distances anew, with the reach that those until now suggest."""
    n_hidden = np.int64(state.h.shape[1])
    for i in range(lo, hi):
        distance, square = np.sqrt(_distance(state.h, i, lists.h_then, i, n_hidden)), _ONE
        for k in range(n_hidden):
            square += state.h[i, k] * state.h[i, k]
            lists.h_then[i, k] = state.h[i, k]
        size = np.sqrt(square)
        lists.h_then[i, n_hidden] = size
        lists.h_then[i, n_hidden + 1] = STEPS_AHEAD * distance / steps + LEAST_RADIUS * size


@inner
def begin_features(state, lists, lo, hi, steps):
    """Start their distances anew, with the radii that those until now suggest."""
    n_hidden = np.int64(state.h.shape[1])
    for f in range(lo, hi):
        b, along_b, square = state.b[f], state.b[f] - lists.b_then[f], _ZERO
        distance = np.sqrt(_distance(state.W, f, lists.W_then, f, n_hidden) + along_b * along_b)
        for k in range(n_hidden):
            square += state.W[f, k] * state.W[f, k]
            lists.W_then[f, k] = state.W[f, k]
        radius = STEPS_AHEAD * distance / steps + LEAST_RADIUS * np.sqrt(square + b * b)
        lists.W_then[f, n_hidden] = radius
        lists.W_then[f, n_hidden + 1] = np.sqrt(square) + radius
        lists.b_then[f] = b
