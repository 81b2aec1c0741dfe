"""The fast kernel: float32, compiled by numba, on all the threads numba is given.

The T x n matrix of outputs never exists. A step of training first takes every target to be 0, which makes the outputs
themselves the errors, and sums over all pairs of examples and features in tiles that stay in registers or cache
(``dense``), most of them skipped, exactly, where that pays (``skipping``); then it corrects the sums at the few nonzero
targets. Up to eight hidden units everything is our own code (``narrow``); with more, products are BLAS's (``wide``).

Work is cut into fixed pieces whose sums are added in a fixed order, so the result has the same bits whatever the number
of threads. Reassociation is allowed so that loops can be vectorised; NaN and infinity are honoured.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, narrow, wide
from byheart.toy.kernels.losses import example_losses as example_losses
from byheart.toy.model import Reduction, loss_scale


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
