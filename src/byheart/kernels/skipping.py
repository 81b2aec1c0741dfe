"""Exact skipping for two hidden units: most (example, feature) pairs are surely inactive or surely active.

Features with similar (w, b) and examples with similar h are put side by side, in tiles of 32 x 16 pairs. Over a tile
the pre-activation z = w . h + b lies between bounds from the boxes around its features and its examples:

- below 0 everywhere: the tile contributes nothing;
- above 0 everywhere: the ReLU is the identity, so the tile's sums follow from moments of its two sides, e.g.
  sum_i z_i h_i = (sum_i h_i h_i^T) w + b sum_i h_i. Moments are added in float64: their terms cancel;
- otherwise the tile is computed pair by pair.

The result is that of the dense computation up to rounding, for any weights. Tiles whose bounds are not finite are
computed pair by pair, so NaN and infinity pass through.
"""

from __future__ import annotations

import numba
import numpy as np

from byheart.kernels.compile import parallel, serial
from byheart.kernels.dense import dense_pair

_FEATURES = 16  # per tile
_EXAMPLES = 32  # per tile
N_GROUPS = 8  # parts of the examples, whose sums are added in order
_ZERO = np.float32(0)


@serial
def _select(keys, order, lo, hi, middle):  # type: ignore[no-untyped-def]
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
def _compact_order(points, scales, size, order):  # type: ignore[no-untyped-def]
    """Order points (dimensions x n) so that runs of ``size`` are compact: k-d splits along the widest side."""
    stack = [(np.int64(0), np.int64(order.shape[0]))]
    while len(stack) > 0:
        lo, hi = stack.pop()
        if hi - lo <= size:
            continue
        widest, axis = np.float32(-1), 0
        for d in range(points.shape[0]):
            low = high = points[d, order[lo]]
            for i in range(lo + 1, hi):
                x = points[d, order[i]]
                low = x if x < low else low
                high = x if x > high else high
            width = (high - low) * scales[d]
            if width > widest:
                widest, axis = width, d
        middle = lo + ((hi - lo) // size + 1) // 2 * size
        _select(points[axis], order, lo, hi, middle)
        stack.append((lo, middle))
        stack.append((middle, hi))


@serial
def reorder(W, b, h, features, examples):  # type: ignore[no-untyped-def]
    """Renew both orders, unless a value is not finite (then any order serves)."""
    points = np.empty((3, W.shape[1]), np.float32)
    points[:2] = W
    points[2] = b
    h_t = np.ascontiguousarray(h.T)
    scales = np.ones(3, np.float32)
    scales[0], scales[1] = np.abs(h_t[0]).max(), np.abs(h_t[1]).max()
    if abs(points.sum()) < np.inf and abs(h_t.sum()) < np.inf:
        _compact_order(points, scales, _FEATURES, features)
        _compact_order(h_t, np.ones(2, np.float32), _EXAMPLES, examples)


@serial
def _feature_tiles(W, b, order, w, boxes, moments):  # type: ignore[no-untyped-def]
    """Gather (w0, w1, b) in order, padded with features that are never active; their boxes and moments by tile."""
    n = order.shape[0]
    for j in range(w.shape[1]):
        f = order[j] if j < n else 0
        w[0, j] = W[0, f] if j < n else _ZERO
        w[1, j] = W[1, f] if j < n else _ZERO
        w[2, j] = b[f] if j < n else np.float32(-1)
    for tile in range(boxes.shape[1]):
        first = tile * _FEATURES
        for d in range(3):
            low = high = w[d, first]
            for j in range(first + 1, first + _FEATURES):
                low = w[d, j] if w[d, j] < low else low
                high = w[d, j] if w[d, j] > high else high
            boxes[2 * d, tile], boxes[2 * d + 1, tile] = low, high
        s00 = s01 = s11 = s0 = s1 = 0.0
        for j in range(first, first + _FEATURES):
            x, y, c = np.float64(w[0, j]), np.float64(w[1, j]), np.float64(w[2, j])
            s00 += x * x
            s01 += x * y
            s11 += y * y
            s0 += c * x
            s1 += c * y
        moments[0, tile], moments[1, tile], moments[2, tile] = s00, s01, s11
        moments[3, tile], moments[4, tile] = s0, s1
        if not abs(s00 + s01 + s11 + s0 + s1) < np.inf:
            boxes[:, tile] = np.float32(np.nan)
            moments[:, tile] = 0.0


@serial
def _low(a, b):  # type: ignore[no-untyped-def]
    return a if a < b else b


@serial
def _high(a, b):  # type: ignore[no-untyped-def]
    return a if a > b else b


@serial
def _classify(h, w_boxes, active, cut):  # type: ignore[no-untyped-def]
    """Of one tile of examples against every tile of features: active[t] = 1 if surely active, cut[t] if undecided."""
    low0 = high0 = h[0, 0]
    low1 = high1 = h[0, 1]
    total = _ZERO
    for e in range(_EXAMPLES):
        low0, high0 = _low(low0, h[e, 0]), _high(high0, h[e, 0])
        low1, high1 = _low(low1, h[e, 1]), _high(high1, h[e, 1])
        total += h[e, 0] + h[e, 1]
    if not abs(total) < np.inf:
        low0 = np.float32(np.nan)
    for t in range(w_boxes.shape[1]):
        a, b, c, d = w_boxes[0, t] * low0, w_boxes[0, t] * high0, w_boxes[1, t] * low0, w_boxes[1, t] * high0
        i, j, k, m = w_boxes[2, t] * low1, w_boxes[2, t] * high1, w_boxes[3, t] * low1, w_boxes[3, t] * high1
        low = _low(_low(a, b), _low(c, d)) + (_low(_low(i, j), _low(k, m)) + w_boxes[4, t])
        high = _high(_high(a, b), _high(c, d)) + (_high(_high(i, j), _high(k, m)) + w_boxes[5, t])
        finite = abs(a + d) < np.inf  # minimum and maximum may drop a NaN
        surely_active = finite and low >= 0
        active[t] = np.float32(1) if surely_active else _ZERO
        cut[t] = _ZERO if surely_active or (finite and high <= 0) else np.float32(1)


@serial
def _example_tile(h, w, boxes, moments, active, cut, where, g, sums, w_cut, g_cut, grad_h):  # type: ignore[no-untyped-def]
    """All features for one tile of examples; return how many of its tiles were cut."""
    _classify(h, boxes, active, cut)
    s00 = s01 = s11 = s0 = s1 = 0.0
    for e in range(_EXAMPLES):
        x, y = np.float64(h[e, 0]), np.float64(h[e, 1])
        s00 += x * x
        s01 += x * y
        s11 += y * y
        s0 += x
        s1 += y
    m00 = m01 = m11 = m0 = m1 = 0.0
    for t in range(active.shape[0]):
        on = np.float64(active[t])
        sums[0, t] += on * s00
        sums[1, t] += on * s01
        sums[2, t] += on * s11
        sums[3, t] += on * s0
        sums[4, t] += on * s1
        sums[5, t] += on
        m00 += on * moments[0, t]
        m01 += on * moments[1, t]
        m11 += on * moments[2, t]
        m0 += on * moments[3, t]
        m1 += on * moments[4, t]
    n_cut = np.int64(0)
    for t in range(cut.shape[0]):  # without a branch: it would be mispredicted
        where[n_cut] = t
        n_cut += np.int64(cut[t])
    width = n_cut * _FEATURES
    for d in range(3):  # the undecided tiles side by side, for one dense computation
        for place in range(n_cut):
            to, first = place * _FEATURES, where[place] * _FEATURES
            for k in range(_FEATURES):
                w_cut[d, to + k] = w[d, first + k]
    g_cut[:, :width] = _ZERO
    dense_pair(
        h,
        w_cut[0, :width],
        w_cut[1, :width],
        w_cut[2, :width],
        g_cut[0, :width],
        g_cut[1, :width],
        g_cut[2, :width],
        grad_h,
    )
    for d in range(3):
        for place in range(n_cut):
            at, first = place * _FEATURES, where[place] * _FEATURES
            for k in range(_FEATURES):
                g[d, first + k] += g_cut[d, at + k]
    for e in range(_EXAMPLES):
        x, y = np.float64(h[e, 0]), np.float64(h[e, 1])
        grad_h[e, 0] = np.float32(grad_h[e, 0] + (m00 * x + m01 * y + m0))
        grad_h[e, 1] = np.float32(grad_h[e, 1] + (m01 * x + m11 * y + m1))
    return n_cut


@serial
def _group(h, w, boxes, moments, order, scratch, g, sums, cut_scratch, grad_h):  # type: ignore[no-untyped-def]
    """One group of examples, given by their places in the order; those that do not fill a tile go pair by pair."""
    g[:] = _ZERO
    sums[:] = 0.0
    n_tiles = boxes.shape[1]
    active, cut = scratch[0, :n_tiles], scratch[1, :n_tiles]
    h_tile, grad_tile = np.empty((_EXAMPLES, 2), np.float32), np.empty((_EXAMPLES, 2), np.float32)
    where = np.empty(n_tiles + 1, np.int64)
    n_cut, n = 0, order.shape[0]
    for first in range(0, n, _EXAMPLES):
        size = min(_EXAMPLES, n - first)
        for e in range(size):
            h_tile[e] = h[order[first + e]]
        if size == _EXAMPLES:
            w_cut, g_cut = cut_scratch[0], cut_scratch[1]
            n_cut += _example_tile(h_tile, w, boxes, moments, active, cut, where, g, sums, w_cut, g_cut, grad_tile)
        else:
            dense_pair(h_tile[:size], w[0], w[1], w[2], g[0], g[1], g[2], grad_tile)
        for e in range(size):
            grad_h[order[first + e]] = grad_tile[e]
    return n_cut


@parallel
def skip(W, b, h, features, examples, w, boxes, moments, scratch, parts, sums, cut, grad_W, grad_b, grad_h):  # type: ignore[no-untyped-def]
    """Set the sums of the dense pass: grad_W and grad_b over examples, grad_h over features.

    Returns:
        The share of tiles that were computed pair by pair.
    """
    _feature_tiles(W, b, features, w, boxes, moments)
    n_examples, n_tiles = h.shape[0], boxes.shape[1]
    per_group = -(-n_examples // (N_GROUPS * _EXAMPLES)) * _EXAMPLES
    n_cut = np.zeros(N_GROUPS, np.int64)
    for group in numba.prange(N_GROUPS):
        lo, hi = min(group * per_group, n_examples), min((group + 1) * per_group, n_examples)
        n_cut[group] = _group(
            h, w, boxes, moments, examples[lo:hi], scratch[group], parts[group], sums[group], cut[group], grad_h
        )
    for tile in numba.prange(n_tiles):
        total = sums[0, :, tile].copy()
        for group in range(1, N_GROUPS):
            total += sums[group, :, tile]
        for j in range(tile * _FEATURES, min((tile + 1) * _FEATURES, features.shape[0])):
            g0 = g1 = gb = 0.0
            if total[5] > 0:
                x, y, c = np.float64(w[0, j]), np.float64(w[1, j]), np.float64(w[2, j])
                g0 = total[0] * x + total[1] * y + total[3] * c
                g1 = total[1] * x + total[2] * y + total[4] * c
                gb = total[3] * x + total[4] * y + total[5] * _EXAMPLES * c
            for group in range(N_GROUPS):
                g0 += parts[group, 0, j]
                g1 += parts[group, 1, j]
                gb += parts[group, 2, j]
            f = features[j]
            grad_W[0, f], grad_W[1, f], grad_b[f] = np.float32(g0), np.float32(g1), np.float32(gb)
    return n_cut.sum() / max(1, (n_examples // _EXAMPLES) * n_tiles)


def scratch(n_examples: int, n_features: int) -> tuple[np.ndarray, ...]:
    """Return the two orders (of features and of examples) and the scratch memory that ``skip`` takes."""
    n_tiles = -(-n_features // _FEATURES)
    shapes = [
        ((3, n_tiles * _FEATURES), np.float32),
        ((6, n_tiles), np.float32),
        ((5, n_tiles), np.float64),
        ((N_GROUPS, 2, n_tiles), np.float32),
        ((N_GROUPS, 3, n_tiles * _FEATURES), np.float32),
        ((N_GROUPS, 6, n_tiles), np.float64),
        ((N_GROUPS, 2, 3, n_tiles * _FEATURES), np.float32),
    ]
    orders = np.arange(n_features, dtype=np.int32), np.arange(n_examples, dtype=np.int32)
    return *orders, *(np.full(shape, np.nan, dtype) for shape, dtype in shapes)
