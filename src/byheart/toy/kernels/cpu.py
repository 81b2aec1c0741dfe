"""The fast kernel: float32, compiled by numba, on all the threads numba is given.

The T x n matrix of outputs never exists. A step of training first takes every target to be 0, which makes the outputs
themselves the errors, and sums over all pairs of examples and features in tiles that stay in registers or cache
(``dense``), most of them skipped, exactly, where that pays (``skipping``); then it corrects the sums at the few nonzero
targets. Up to eight hidden units everything is our own code (``narrow``); with more, products are BLAS's (``wide``).

Work is cut into fixed pieces whose sums are added in a fixed order, so the result has the same bits whatever the number
of threads. Reassociation is allowed so that loops can be vectorised; NaN and infinity are honoured.
"""

from __future__ import annotations

import numba
import numpy as np
import threadpoolctl
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, narrow, wide
from byheart.toy.kernels.compile import empty, parallel, relu, serial
from byheart.toy.model import Reduction, hidden_vectors, loss_scale
from byheart.toy.pace import Pace

_FEATURES_PER_SUM = 1024  # terms of a loss that are added in float32
_ROWS_PER_CHUNK = 32  # of outputs that a thread has at a time
_SHORT = 5e7  # multiplications with W that are short on any machine: those of the first piece of losses


def start(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    optimizer: AdamW,
    reduction: Reduction,
    *,
    skipping: bool = True,
) -> narrow.Training | wide.Training:
    """Begin training from these weights; the arrays given are left as they are.

    Args:
        W: Weights.
        b: Bias.
        examples: What to train on.
        optimizer: AdamW's settings.
        reduction: Of the squared error over features.
        skipping: Whether pairs may be skipped where that pays; the result is the same up to rounding.
    """
    if len(W) <= narrow.MAX_HIDDEN:
        return narrow.Training(W, b, examples, optimizer, reduction, skipping)
    return wide.Training(W, b, examples, optimizer, reduction)


@serial
def _rows_losses(W, b, h, indptr, indices, values, z, losses):
    n_hidden, n_features = W.shape
    if n_hidden > narrow.MAX_HIDDEN:
        np.dot(h, W, z)
    else:
        for i in range(h.shape[0]):
            z[i] = h[i, 0] * W[0]
            for k in range(1, n_hidden):
                z[i] += h[i, k] * W[k]
    for i in range(h.shape[0]):
        x_out = z[i]
        for f in range(n_features):
            x_out[f] = relu(x_out[f] + b[f])
        for entry in range(indptr[i], indptr[i + 1]):
            x_out[indices[entry]] -= values[entry]
        loss = np.float64(0)
        for left in range(0, n_features, _FEATURES_PER_SUM):
            part = np.float32(0)
            for f in range(left, min(left + _FEATURES_PER_SUM, n_features)):
                part += x_out[f] * x_out[f]
            loss += part
        losses[i] = loss


@parallel
def _example_losses(W, b, h, indptr, indices, values, outputs, losses):
    rows = outputs.shape[1]
    for chunk in numba.prange(-(-h.shape[0] // rows)):
        lo, hi = chunk * rows, min((chunk + 1) * rows, h.shape[0])
        z = outputs[numba.get_thread_id(), : hi - lo]
        _rows_losses(W, b, h[lo:hi], indptr[lo : hi + 1], indices, values, z, losses[lo:hi])


def example_losses(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], examples: SparseExamples
) -> Float64[np.ndarray, " n_examples"]:
    """Return the squared error of each distinct example, summed over features."""
    W, b = np.ascontiguousarray(W, np.float32), np.ascontiguousarray(b, np.float32)
    h, losses = hidden_vectors(W, examples), empty((examples.n_examples,), np.float64)
    rows = min(_ROWS_PER_CHUNK, len(losses))
    outputs = empty((numba.config.NUMBA_NUM_THREADS, rows, len(b)))
    pace = Pace(_SHORT / (rows * W.size))
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for first, last in pace.cut(0, -(-len(losses) // rows), numba.get_num_threads()):
            lo, hi = first * rows, min(last * rows, len(losses))
            indptr = examples.indptr[lo : hi + 1]
            _example_losses(W, b, h[lo:hi], indptr, examples.indices, examples.values, outputs, losses[lo:hi])
    return losses


def loss_and_gradient(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    reduction: Reduction,
    *,
    skipping: bool = True,
) -> tuple[float, Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
    """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
    gradient = start(W, b, examples, AdamW(), reduction, skipping=skipping).gradient()
    loss = loss_scale(len(b), reduction) * float(np.average(example_losses(W, b, examples), weights=examples.repeats))
    return loss, *gradient
