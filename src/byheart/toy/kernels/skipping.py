"""Exact skipping: most (example, feature) pairs are surely inactive or surely active.

Examples with similar h, and features whose (W_f, b_f) point in similar directions, are put side by side in tiles. Only
the direction of (W_f, b_f) decides where z = W_f . h + b_f is positive, so boxes are put around directions. Over a tile
z lies between bounds from the boxes around its features and its examples:

- at most 0 everywhere: the tile contributes nothing;
- at least 0 everywhere: the ReLU is the identity, so the tile's sums follow from moments of its two sides, e.g.
  sum_i z_i h_i = (sum_i h_i h_i^T) W_f + b_f sum_i h_i. Moments are added in float64: their terms cancel;
- otherwise the tile is cut, and computed pair by pair.

Tiles of 128 examples are tried first, and of those that are cut the parts of 32 examples.

The result is that of the dense computation up to rounding, for any weights: where rounding of the bounds errs, z is
zero up to rounding. Bounds that are not finite count as cut, so NaN and infinity pass through.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32
from numba.cpython.unsafe.tuple import tuple_setitem

from byheart.toy.kernels.compile import empty, inlined, inner, serial
from byheart.toy.kernels.dense import FEATURES, dense, row
from byheart.toy.pace import Pace

EXAMPLES = 32  # per tile
TILES = 4  # of examples, tried together
_POINTS_OF_FIRST_PIECE = 100_000  # while making an order
_ZERO, _ONE = np.float32(0), np.float32(1)


class Tiles(NamedTuple):
    """What is known of each tile of features.

    boxes: lowest (W, b), scaled to directions, then highest; (2 n_hidden + 2, n_tiles)
    moments: sums of W_k W_l for k <= l, then of b W_k; (n_sums - 1, n_tiles), float64
    sums: by group, of the examples for which all the tile is active: sums of h_k h_l for k <= l, then of h_k, then
        their number; (n_groups, n_sums, n_tiles), float64
    width: ``FEATURES``, unknown to the compiler, as it unrolls loops of known length instead of vectorising them
    """

    boxes: np.ndarray
    moments: np.ndarray
    sums: np.ndarray
    width: int


def n_sums(n_hidden: int) -> int:
    """Return how many sums of the examples a surely active tile needs."""
    return n_hidden * (n_hidden + 1) // 2 + n_hidden + 1


def tiles(n_hidden: int, n_features: int, n_groups: int) -> Tiles:
    """Return memory for the tiles of features."""
    n_tiles, n = -(-n_features // FEATURES), n_sums(n_hidden)
    return Tiles(
        empty((2 * n_hidden + 2, n_tiles)),
        empty((n - 1, n_tiles), np.float64),
        empty((n_groups, n, n_tiles), np.float64),
        FEATURES,
    )


@serial
def _select(keys, order, lo, hi, middle):
    """Reorder order[lo:hi] so that keys before position ``middle`` are at most those after it (quickselect)."""
    hi -= 1
    while lo < hi:
        pivot = keys[order[(lo + hi) // 2]]
        i, j = lo, hi
        while i <= j:
            while keys[order[i]] < pivot:
                i += 1
            while keys[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            hi = j
        elif middle >= i:
            lo = i
        else:
            return


@serial
def _split(points, size, order, stack, depth, n_points):
    """Split the parts of ``order`` on the stack, until at least ``n_points`` were looked at; return its depth."""
    while depth > 0 and n_points > 0:
        depth -= 1
        lo, hi = stack[depth, 0], stack[depth, 1]
        n_points -= hi - lo
        if hi - lo <= size:
            continue
        widest, axis = np.float32(-1), 0
        for d in range(points.shape[0]):
            low = high = points[d, order[lo]]
            for i in range(lo + 1, hi):
                x = points[d, order[i]]
                low = x if x < low else low
                high = x if x > high else high
            if high - low > widest:
                widest, axis = high - low, d
        middle = lo + ((hi - lo) // size + 1) // 2 * size
        _select(points[axis], order, lo, hi, middle)
        stack[depth, 0], stack[depth, 1] = lo, middle
        stack[depth + 1, 0], stack[depth + 1, 1] = middle, hi
        depth += 2
    return depth


def _compact_order(points: Float32[np.ndarray, "n_dimensions n"], size: int) -> Int32[np.ndarray, " n"]:
    """Return an order of points in which runs of ``size`` are compact: by k-d splits."""
    order = np.arange(points.shape[1], dtype=np.int32)
    stack, depth = np.empty((64, 2), np.int64), 1  # halves: it is never deeper than the logarithm of their number
    stack[0] = 0, len(order)
    for first, last in Pace(_POINTS_OF_FIRST_PIECE).cut(0, sys.maxsize):
        depth = int(_split(points, size, order, stack, depth, last - first))
        if depth == 0:
            break
    return order


def spread(h: Float32[np.ndarray, "n_examples n_hidden"]) -> Float32[np.ndarray, " n_hidden"]:
    """Return the mean of each |h_k|. Their largest, or mean square, would be that of a few outliers."""
    means: Float32[np.ndarray, " n_hidden"] = np.abs(h).mean(axis=0, dtype=np.float64).astype(np.float32)
    return means


def compact_orders(
    weights: Float32[np.ndarray, "n_hidden_and_bias n_features"],
    h: Float32[np.ndarray, "n_examples n_hidden"],
    scales: Float32[np.ndarray, " n_hidden"],
) -> tuple[Int32[np.ndarray, " n_features"], Int32[np.ndarray, " n_examples"]]:
    """Return orders of features (W and, in the last row, b) and of examples in which tiles are compact.

    ``scales`` are typical sizes of h_k, as ``spread`` has them: features whose lines W_f . h + b_f = 0 pass
    through most examples should be told apart best.
    """
    directions = weights * np.append(scales, np.float32(1))[:, None]
    size = np.sqrt(np.square(directions, dtype=np.float64).sum(axis=0))
    directions /= np.where(size > 0, size, 1)
    return _compact_order(directions, FEATURES), _compact_order(np.ascontiguousarray(h.T), EXAMPLES)


@serial
def describe(theta, scales, tiles, first_tile, last_tile):
    """Set the boxes and moments of these tiles of features."""
    n_hidden, boxes, moments, width = tiles.boxes.shape[0] // 2 - 1, tiles.boxes, tiles.moments, np.uint64(tiles.width)
    size = np.empty(FEATURES, np.float32)
    for tile in range(first_tile, last_tile):
        first, finite = np.uint64(tile * (n_hidden + 1) * FEATURES), np.float64(0)
        bias = first + np.uint64(n_hidden * FEATURES)
        for j in range(width):
            largest = abs(theta[bias + j])
            for k in range(n_hidden):
                largest = _high(largest, abs(theta[first + np.uint64(k * FEATURES) + j]) * scales[k])
            size[j] = largest if largest != 0 else _ONE
            finite += size[j]  # if it overflowed, all directions would be 0, and the tile would seem decided
        for k in range(n_hidden + 1):
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for j in range(width):
                x = theta[first + np.uint64(k * FEATURES) + j] / size[j]
                low, high = _low(x, low), _high(x, high)
            finite += np.float64(high) - np.float64(low)  # a direction may overflow, too
            boxes[k, tile], boxes[n_hidden + 1 + k, tile] = low, high
        q = 0
        for k in range(n_hidden + 1):
            for other in range(k if k < n_hidden else 0, n_hidden):
                total = np.float64(0)
                for j in range(width):
                    x = theta[first + np.uint64(k * FEATURES) + j]
                    y = theta[first + np.uint64(other * FEATURES) + j]
                    total += np.float64(x) * np.float64(y)
                moments[q, tile] = total
                finite += total
                q += 1
        if not abs(finite) < np.inf:
            boxes[:, tile] = np.float32(np.nan)
            moments[:, tile] = 0.0


@inner
def _moments(zeros, h, sums):
    n_hidden, q = len(zeros), 0
    for k in range(n_hidden + 1):
        for other in range(k if k < n_hidden else 0, n_hidden):
            total = np.float64(0)
            for i in range(h.shape[0]):
                total += (np.float64(h[i, k]) if k < n_hidden else np.float64(1)) * np.float64(h[i, other])
            sums[q] = total
            q += 1
    sums[q] = h.shape[0]


@inner
def _low(a, b):
    return a if a < b else b


@inner
def _high(a, b):
    return a if a > b else b


@inner
def _classify(zeros, h, boxes, n_tiles, active, where):
    """Of some examples against ``n_tiles`` tiles of features: active[t] = 1 if surely active, else 0; list cut tiles.

    Returns:
        How many are cut.
    """
    n_hidden = len(zeros)
    low = high = row(zeros, h, 0)
    total = _ZERO
    for i in range(h.shape[0]):
        x = row(zeros, h, i)
        for k in range(n_hidden):
            low = tuple_setitem(low, k, _low(low[k], x[k]))
            high = tuple_setitem(high, k, _high(high[k], x[k]))
            total += x[k]
    finite = abs(total) < np.inf  # minimum and maximum may drop a NaN
    n_cut = np.int64(0)
    for t in range(n_tiles):
        z_low, z_high = boxes[n_hidden, t], boxes[2 * n_hidden + 1, t]
        for k in range(n_hidden):
            p, q = boxes[k, t] * low[k], boxes[k, t] * high[k]
            r, s = boxes[n_hidden + 1 + k, t] * low[k], boxes[n_hidden + 1 + k, t] * high[k]
            z_low += _low(_low(p, q), _low(r, s))
            z_high += _high(_high(p, q), _high(r, s))
        bounded = finite and abs(z_low) + abs(z_high) < np.inf
        active[t] = 1.0 if bounded and z_low >= 0 else (0.0 if bounded and z_high <= 0 else -1.0)
    for t in range(n_tiles):  # without a branch: it would be mispredicted
        where[n_cut] = t
        n_cut += np.int64(active[t] < 0)
        active[t] = max(active[t], 0.0)
    return n_cut


@inner
def _add_active(active, n_tiles, example_sums, feature_moments, sums, moments):
    """Add the examples' sums to each active tile of features, and the active tiles' moments to the examples'."""
    for q in range(sums.shape[0]):
        s = example_sums[q]
        for t in range(n_tiles):
            sums[q, t] += active[t] * s
    for q in range(feature_moments.shape[0]):
        total = np.float64(0)
        for t in range(n_tiles):
            total += active[t] * feature_moments[q, t]
        moments[q] += total


@inlined
def _add_linear(zeros, h, moments, grad_h):
    """Add to grad_h what the surely active features give: (sum of W_f W_f^T) h + sum of b_f W_f."""
    n_hidden = len(zeros)
    for i in range(h.shape[0]):
        for k in range(n_hidden):
            total = moments[n_hidden * (n_hidden + 1) // 2 + k]
            for other in range(n_hidden):
                total += moments[_pair(k, other, n_hidden)] * np.float64(h[i, other])
            grad_h[i, k] = np.float32(grad_h[i, k] + total)


@serial
def skip(zeros, h, theta, tiles, sums, grad, grad_h):
    """Do for some examples against all features what ``dense`` does: add to grad and grad_h, and to ``sums``.

    Returns:
        How many tiles were computed pair by pair.
    """
    n_sums, n_tiles = sums.shape
    boxes, moments = np.empty(tiles.boxes.shape, np.float32), np.empty(tiles.moments.shape)
    active, where, here = np.empty(n_tiles), np.empty(n_tiles + 1, np.int64), np.empty(n_tiles + 1, np.int64)
    cut_sums, example_sums = np.empty(sums.shape), np.empty(n_sums)
    large, small = np.empty(n_sums - 1), np.empty(n_sums - 1)
    total_cut = np.int64(0)
    for first in range(0, h.shape[0], EXAMPLES * TILES):
        last = min(first + EXAMPLES * TILES, h.shape[0])
        n_cut = _classify(zeros, h[first:last], tiles.boxes, n_tiles, active, where)
        _moments(zeros, h[first:last], example_sums)
        large[:] = 0.0
        _add_active(active, n_tiles, example_sums, tiles.moments, sums, large)
        for q in range(n_sums):
            for place in range(n_cut):
                cut_sums[q, place] = 0.0
        for q in range(boxes.shape[0]):
            for place in range(n_cut):
                boxes[q, place] = tiles.boxes[q, where[place]]
        for q in range(moments.shape[0]):
            for place in range(n_cut):
                moments[q, place] = tiles.moments[q, where[place]]
        for start in range(first, last, EXAMPLES):
            stop = min(start + EXAMPLES, last)
            n_here = _classify(zeros, h[start:stop], boxes, n_cut, active, here)
            _moments(zeros, h[start:stop], example_sums)
            for q in range(n_sums - 1):
                small[q] = large[q]
            _add_active(active, n_cut, example_sums, moments, cut_sums, small)
            for place in range(n_here):
                here[place] = where[here[place]]
            dense(zeros, h[start:stop], theta, grad, grad_h[start:stop], here[:n_here])
            _add_linear(zeros, h[start:stop], small, grad_h[start:stop])
            total_cut += n_here
        for q in range(n_sums):
            for place in range(n_cut):
                sums[q, where[place]] += cut_sums[q, place]
    return total_cut


@serial
def add_linear_to_features(theta, tiles, first_tile, last_tile, grad):
    """Add to ``grad`` (float64, of these tiles) what surely active examples give: (sum h h^T) W_f + b_f sum h."""
    n_hidden, sums, width = tiles.boxes.shape[0] // 2 - 1, tiles.sums, np.uint64(tiles.width)
    linear = n_hidden * (n_hidden + 1) // 2
    total = np.empty(sums.shape[1], np.float64)
    begin = np.uint64(first_tile * (n_hidden + 1) * FEATURES)
    for tile in range(first_tile, last_tile):
        for q in range(sums.shape[1]):
            total[q] = 0.0
            for group in range(sums.shape[0]):
                total[q] += sums[group, q, tile]
        if total[linear + n_hidden] == 0:
            continue
        first = np.uint64(tile * (n_hidden + 1) * FEATURES)
        for k in range(n_hidden + 1):
            for j in range(width):
                g = total[linear + k] * np.float64(theta[first + np.uint64(n_hidden * FEATURES) + j])
                for other in range(n_hidden):
                    q = _pair(k, other, n_hidden) if k < n_hidden else linear + other
                    g += total[q] * np.float64(theta[first + np.uint64(other * FEATURES) + j])
                grad[first + np.uint64(k * FEATURES) + j - begin] += g


@inner
def _pair(k, other, n_hidden):
    """Return where sums over k <= l hold that of k and ``other``."""
    lo, hi = min(k, other), max(k, other)
    return lo * n_hidden - lo * (lo - 1) // 2 + hi - lo
