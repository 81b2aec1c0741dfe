"""Scores that look at no model at all: what of memorization is a property of the data.

Report them beside every score of a model: on images of digits and garments they rank memorised examples nearly as well.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64, Int64

_MOST_EXAMPLES = 20_000  # a kernel matrix of 3.2 GB
_WIDTHS = (0.1, 0.2, 0.4, 0.8)  # of the kernel, times the median distance
_RIDGES = (1e-3, 1e-2, 1e-1)


def neighbour_disagreement(
    inputs: Float[np.ndarray, "n_examples ..."], labels: Int64[np.ndarray, " n_examples"], n_neighbours: int = 10
) -> Float64[np.ndarray, " n_examples"]:
    """Return the share of each example's nearest neighbours, by Euclidean distance, that have another label.

    Neighbours count by the inverse of their rank.

    Raises:
        ValueError: If there are not more examples than neighbours, or too many for all their distances.
    """
    if not 1 <= n_neighbours < len(labels):
        raise ValueError(f"n_neighbours: received {n_neighbours}, accepted: 1 to {len(labels) - 1}")
    squares = _squared_distances(inputs)
    np.fill_diagonal(squares, np.inf)
    nearest = np.argpartition(squares, n_neighbours - 1, axis=1)[:, :n_neighbours]
    order = np.take_along_axis(squares, nearest, axis=1).argsort(axis=1)
    nearest = np.take_along_axis(nearest, order, axis=1)
    weights = 1 / np.arange(1, n_neighbours + 1)
    share: Float64[np.ndarray, " n_examples"] = (labels[nearest] != labels[:, None]) @ weights / weights.sum()
    return share


def kernel_leave_one_out(
    inputs: Float[np.ndarray, "n_examples ..."], labels: Int64[np.ndarray, " n_examples"]
) -> Float64[np.ndarray, " n_examples"]:
    """Return by how much a kernel ridge regression trained without the example gets its label wrong, in closed form.

    The kernel is exp(-d^2 / (2 w^2)); width and ridge are those with the least leave-one-out error on all examples. The
    score is the regression's largest output for another class less that for the example's own.

    Raises:
        ValueError: If there are fewer than two examples or classes, or too many examples for a kernel matrix.

    References:
        Allen 1974 (PRESS); Rifkin and Lippert 2007, "Notes on regularized least squares" (kernel form).
    """
    n_classes = int(labels.max()) + 1
    if len(labels) < 2 or len(set(labels.tolist())) < 2:
        raise ValueError(f"labels: received {len(labels)} of one class, accepted: two classes or more")
    squares = _squared_distances(inputs)
    median = float(np.sqrt(np.median(squares[np.triu_indices(len(squares), 1)][:: max(len(squares) // 100, 1)])))
    targets = np.eye(n_classes)[labels]
    best_error, best = np.inf, np.zeros_like(targets)
    for width in _WIDTHS:
        values, vectors = scipy.linalg.eigh(np.exp(-squares / (2 * (width * median or 1.0) ** 2)), driver="evd")
        rotated = vectors.T @ targets
        for ridge in _RIDGES:
            inverse = 1 / (np.maximum(values, 0) + ridge)
            residuals = (vectors * inverse) @ rotated / (np.square(vectors) @ inverse)[:, None]
            error = float(np.square(residuals).sum())
            if error < best_error:
                best_error, best = error, targets - residuals
    index = np.arange(len(labels))
    own = best[index, labels].copy()
    best[index, labels] = -np.inf
    margins: Float64[np.ndarray, " n_examples"] = best.max(axis=1) - own
    return margins


def _squared_distances(inputs: Float[np.ndarray, "n_examples ..."]) -> Float64[np.ndarray, "n_examples n_examples"]:
    if len(inputs) > _MOST_EXAMPLES:
        raise ValueError(f"inputs: received {len(inputs)} examples, accepted: at most {_MOST_EXAMPLES}")
    rows = np.asarray(inputs, dtype=np.float64).reshape(len(inputs), -1)
    squares = np.square(rows).sum(axis=1)
    found: Float64[np.ndarray, "n_examples n_examples"] = squares[:, None] + squares - 2 * rows @ rows.T
    np.maximum(found, 0, out=found)
    return found
