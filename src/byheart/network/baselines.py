"""Scores that look at no model at all: what of memorization is a property of the data.

Report them beside every score of a model: on images of digits and garments they rank memorized examples nearly as well.
"""

from __future__ import annotations

import itertools

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64, Int64

from byheart.arrays import as_labels, finite_array

_MOST_EXAMPLES = 20_000  # a kernel matrix of 3.2 GB
_WIDTHS = (0.1, 0.2, 0.4, 0.8)  # of the kernel, times the median distance
_RIDGES = (1e-3, 1e-2, 1e-1)
_N_TO_CHOOSE = 1_500  # examples that width and ridge are chosen on


def neighbour_disagreement(
    inputs: Float[np.ndarray, "n_examples ..."], labels: Int64[np.ndarray, " n_examples"], n_neighbours: int = 10
) -> Float64[np.ndarray, " n_examples"]:
    """Return the share of each example's nearest neighbours, by Euclidean distance, that have another label.

    Neighbours count by the inverse of their rank.

    Raises:
        ValueError: If there are not more examples than neighbours, or too many for all their distances.
    """
    labels = _labels(labels)
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

    The kernel is exp(-d^2 / (2 w^2)); width and ridge are those with the least leave-one-out error on the first 1,500
    examples. The score is the regression's largest output for another class that the data have, less that for the
    example's own.

    Raises:
        ValueError: If there are fewer than two examples or classes, or too many examples for a kernel matrix.

    References:
        Allen 1974 (PRESS); Rifkin and Lippert 2007, "Notes on regularized least squares" (kernel form).
    """
    classes, labels = np.unique(_labels(labels), return_inverse=True)
    if len(labels) < 2 or len(classes) < 2:
        raise ValueError(f"labels: received {len(labels)} of one class, accepted: two classes or more")
    squares = _squared_distances(inputs)
    few = squares[:_N_TO_CHOOSE, :_N_TO_CHOOSE]
    median = float(np.sqrt(np.median(few[np.triu_indices(len(few), 1)]))) or 1.0
    targets = np.eye(len(classes))[labels]

    def left_out(squares: np.ndarray, width: float, ridge: float) -> np.ndarray:
        """What the regression says of each example without it."""
        gram = np.exp(squares / (-2 * (width * median) ** 2))
        gram[np.diag_indices_from(gram)] += ridge
        lower = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True)
        inverse, _ = scipy.linalg.lapack.dpotri(lower, lower=True, overwrite_c=True)  # its upper half is not set
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        found: np.ndarray = targets[: len(squares)] - inverse @ targets[: len(squares)] / np.diag(inverse)[:, None]
        return found

    def error(choice: tuple[float, float]) -> float:
        return float(np.square(targets[: len(few)] - left_out(few, *choice)).sum())

    best = left_out(squares, *min(itertools.product(_WIDTHS, _RIDGES), key=error))
    index = np.arange(len(labels))
    own = best[index, labels].copy()
    best[index, labels] = -np.inf
    margins: Float64[np.ndarray, " n_examples"] = best.max(axis=1) - own
    return margins


def _labels(labels: Int64[np.ndarray, " n_examples"]) -> Int64[np.ndarray, " n_examples"]:
    """Labels in any container, words too, as whole numbers."""
    values, _ = as_labels(labels, "labels")
    if values.ndim != 1 or values.dtype.kind != "i":
        raise ValueError(f"labels: received {values.dtype} of shape {values.shape}, accepted: one class per example")
    return values


def _squared_distances(inputs: Float[np.ndarray, "n_examples ..."]) -> Float64[np.ndarray, "n_examples n_examples"]:
    values = finite_array(inputs, "inputs")
    if len(values) > _MOST_EXAMPLES:
        raise ValueError(f"inputs: received {len(values)} examples, accepted: at most {_MOST_EXAMPLES}")
    rows = values.astype(np.float64).reshape(len(values), -1)
    squares = np.square(rows).sum(axis=1)
    found: Float64[np.ndarray, "n_examples n_examples"] = squares[:, None] + squares - 2 * rows @ rows.T
    np.maximum(found, 0, out=found)
    return found
