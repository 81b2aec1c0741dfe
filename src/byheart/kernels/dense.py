"""The dense part of a step, as if every target were 0: in registers for two hidden units, by BLAS for any number."""

from __future__ import annotations

import numpy as np

from byheart.kernels.compile import relu, serial

_ZERO = np.float32(0)


@serial
def dense_pair(h, w0, w1, bias, grad_w0, grad_w1, grad_b, grad_h):  # type: ignore[no-untyped-def]
    """Four examples at a time against one block of features; adds to grad_w0, grad_w1 and grad_b, sets grad_h."""
    n_examples, n_features = h.shape[0], w0.shape[0]
    for i in range(0, n_examples - 3, 4):
        p0, p1, q0, q1 = h[i, 0], h[i, 1], h[i + 1, 0], h[i + 1, 1]
        r0, r1, s0, s1 = h[i + 2, 0], h[i + 2, 1], h[i + 3, 0], h[i + 3, 1]
        gp0, gp1, gq0, gq1 = _ZERO, _ZERO, _ZERO, _ZERO
        gr0, gr1, gs0, gs1 = _ZERO, _ZERO, _ZERO, _ZERO
        for f in range(n_features):
            x, y, c = w0[f], w1[f], bias[f]
            p = relu(p0 * x + (p1 * y + c))
            q = relu(q0 * x + (q1 * y + c))
            r = relu(r0 * x + (r1 * y + c))
            s = relu(s0 * x + (s1 * y + c))
            gp0 += p * x
            gp1 += p * y
            gq0 += q * x
            gq1 += q * y
            gr0 += r * x
            gr1 += r * y
            gs0 += s * x
            gs1 += s * y
            grad_w0[f] += p * p0 + q * q0 + r * r0 + s * s0
            grad_w1[f] += p * p1 + q * q1 + r * r1 + s * s1
            grad_b[f] += (p + q) + (r + s)
        grad_h[i, 0], grad_h[i, 1], grad_h[i + 1, 0], grad_h[i + 1, 1] = gp0, gp1, gq0, gq1
        grad_h[i + 2, 0], grad_h[i + 2, 1], grad_h[i + 3, 0], grad_h[i + 3, 1] = gr0, gr1, gs0, gs1
    for i in range(n_examples - n_examples % 4, n_examples):
        p0, p1 = h[i, 0], h[i, 1]
        gp0, gp1 = _ZERO, _ZERO
        for f in range(n_features):
            x, y = w0[f], w1[f]
            p = relu(p0 * x + (p1 * y + bias[f]))
            gp0 += p * x
            gp1 += p * y
            grad_w0[f] += p * p0
            grad_w1[f] += p * p1
            grad_b[f] += p
        grad_h[i, 0], grad_h[i, 1] = gp0, gp1


@serial
def dense_tiles(h, W, bias, grad_W, grad_b, grad_h, d, weights, products, hidden_products):  # type: ignore[no-untyped-def]
    """Any number of hidden units: tiles of examples against one block of features, products by BLAS."""
    n_examples, n_features = h.shape[0], W.shape[1]
    W_block = weights.reshape(-1)[: W.size].reshape(W.shape)
    W_block[:] = W
    product = products.reshape(-1)[: W.size].reshape(W.shape)
    for start in range(0, n_examples, d.shape[0]):
        h_tile = h[start : start + d.shape[0]]
        d_tile = d.reshape(-1)[: h_tile.shape[0] * n_features].reshape(h_tile.shape[0], n_features)
        np.dot(h_tile, W_block, d_tile)
        for i in range(d_tile.shape[0]):
            for f in range(n_features):
                p = relu(d_tile[i, f] + bias[f])
                d_tile[i, f] = p
                grad_b[f] += p
        np.dot(h_tile.T, d_tile, product)
        for k in range(W.shape[0]):
            for f in range(n_features):
                grad_W[k, f] += product[k, f]
        hidden_product = hidden_products[: h_tile.shape[0]]
        np.dot(d_tile, W_block.T, hidden_product)
        grad_h[start : start + d.shape[0]] = hidden_product
