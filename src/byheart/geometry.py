"""How many dimensions of the hidden space a feature or a training example has to itself.

For vectors v_j the dimensionality of vector i is D_i = |v_i|^2 / sum_j (v^_i . v_j)^2, where v^ is the unit vector and
j runs over all vectors, i included. With M = sum_j v_j v_j^T (n_hidden x n_hidden) the sum is v^_i^T M v^_i, so a
million vectors cost O(T m^2) time and O(m^2) memory beyond them.

Known values: 1 for a vector orthogonal to all others, 1/2 in an antipodal pair, 2/T in a regular T-gon, 0 if absent.
The values of a set sum to at most its rank. Vectors may be in any container that ``byheart.arrays`` takes.

Source: Elhage et al. 2022, "Toy Models of Superposition" (features); Henighan et al. 2023, section "Experiment setup"
(examples) and C. Olah's MNIST comment there (maximal dimensionality).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Float64, Int64

from byheart.arrays import as_array, finite_array

_ROWS_PER_BLOCK = 65_536


def example_dimensionality(
    hidden: Float[np.ndarray, "n_examples n_hidden"], repeats: Int64[np.ndarray, " n_examples"] | None = None
) -> Float64[np.ndarray, " n_examples"]:
    """Return D_X of every training example, in [0, 1], from its hidden vector h_i = W x_i (or any layer's activations).

    Args:
        hidden: Hidden vectors, one row per example.
        repeats: How often each example occurs in the training set; default once. All copies are counted in the sum, so
            an example that occurs R times has at most 1/R.

    Raises:
        ValueError: If ``hidden`` is not a finite matrix, or ``repeats`` not a count >= 1 for each of its rows.

    References:
        Henighan et al. 2023, "Superposition, Memorization, and Double Descent".
    """
    repeats = None if repeats is None else as_array(repeats, "repeats")
    hidden = _checked(hidden, "hidden", repeats)
    second_moment = np.zeros((hidden.shape[1], hidden.shape[1]))
    for rows, weights in _blocks(hidden, repeats):
        second_moment += rows.T @ (rows * weights[:, None])
    return np.concatenate([_dimensionality(rows, second_moment) for rows, _ in _blocks(hidden, None)])


def feature_dimensionality(W: Float[np.ndarray, "n_hidden n_features"]) -> Float64[np.ndarray, " n_features"]:
    """Return D_f of every feature, in [0, 1], from the columns of W.

    Raises:
        ValueError: If ``W`` is not a finite matrix.

    References:
        Elhage et al. 2022, "Toy Models of Superposition", section "The geometry of superposition".
    """
    return example_dimensionality(_checked(W, "W").T)


def maximal_dimensionality(
    hidden: Float[np.ndarray, "n_examples n_hidden"], repeats: Int64[np.ndarray, " n_examples"] | None = None
) -> Float64[np.ndarray, " n_examples"]:
    """Return D*_i = max over directions v of (v . h_i)^2 / sum_j (v . h_j)^2, in [0, 1] and at least D_X.

    The maximum is h_i^T (sum_j h_j h_j^T)^+ h_i, the leverage score of example i, so no search is needed; the values
    sum to the rank of ``hidden`` (copies counted). Computed from a streaming QR decomposition, which does not square
    the condition number as the second-moment matrix would.

    Args:
        hidden: Hidden vectors, one row per example.
        repeats: How often each example occurs in the training set; default once.

    Raises:
        ValueError: If ``hidden`` is not a finite matrix, or ``repeats`` not a count >= 1 for each of its rows.

    References:
        C. Olah, MNIST comment in Henighan et al. 2023.
    """
    repeats = None if repeats is None else as_array(repeats, "repeats")
    hidden = _checked(hidden, "hidden", repeats)
    R: Float64[np.ndarray, "n_kept n_hidden"] = np.zeros((0, hidden.shape[1]))
    for rows, weights in _blocks(hidden, repeats):
        R = np.asarray(np.linalg.qr(np.vstack([R, rows * np.sqrt(weights)[:, None]]), mode="r"))
    _, singular, directions = np.linalg.svd(R, full_matrices=False)
    kept = singular > singular[0] * max(hidden.shape) * np.finfo(np.float64).eps if singular[0] > 0 else singular > 0
    whiten = directions[kept].T / singular[kept]
    return np.concatenate([np.square(rows @ whiten).sum(axis=1) for rows, _ in _blocks(hidden, None)])


def _dimensionality(
    rows: Float64[np.ndarray, "n_rows n_hidden"], second_moment: Float64[np.ndarray, "n_hidden n_hidden"]
) -> Float64[np.ndarray, " n_rows"]:
    squared_norms = np.square(rows).sum(axis=1)
    present = squared_norms > 0  # a vector too small to square counts as absent
    unit = rows[present] / np.sqrt(squared_norms[present, None])
    result = np.zeros(len(rows))
    result[present] = squared_norms[present] / np.einsum("ij,ij->i", unit @ second_moment, unit)
    return result


def _blocks(
    hidden: Float[np.ndarray, "n_examples n_hidden"], repeats: Int64[np.ndarray, " n_examples"] | None
) -> Iterator[tuple[Float64[np.ndarray, "n_rows n_hidden"], Float64[np.ndarray, " n_rows"]]]:
    """Yield blocks of rows in float64, scaled so that the largest entry is 1, with their weights."""
    largest = float(np.abs(hidden).max(initial=0)) or 1.0
    for start in range(0, len(hidden), _ROWS_PER_BLOCK):
        rows = hidden[start : start + _ROWS_PER_BLOCK].astype(np.float64) / largest
        weights = np.ones(len(rows)) if repeats is None else repeats[start : start + _ROWS_PER_BLOCK].astype(np.float64)
        yield rows, weights


def is_regular_polygon(points: Float[np.ndarray, "n_points n_dimensions"]) -> bool:
    """Whether planar vectors form a regular polygon: lengths differ by less than 20 %, gaps by less than 10 degrees.

    Lengths from the shortest to the longest, in shares of their mean; gaps from those of a regular polygon.

    Raises:
        ValueError: If the vectors are not planar, or there are fewer than three.
    """
    points = _checked(points, "points")
    if points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"points: received shape {points.shape}, accepted: (n_points >= 3, 2)")
    lengths = np.linalg.norm(points, axis=1)
    return bool(np.ptp(lengths) < 0.2 * lengths.mean() and np.abs(_gaps(points) - 360 / len(points)).max() < 10)


def lengths_apart(
    points: Float[np.ndarray, "n_points n_dimensions"],
) -> tuple[Bool[np.ndarray, " n_points"], Bool[np.ndarray, " n_points"], Bool[np.ndarray, " n_points"]]:
    """Return which vectors are long, short and at the origin: from 0.8, from 0.2 and below 0.2 of the longest.

    References:
        C. Olah and T. Henighan, comment on two circles in Henighan et al. 2023 (a ratio of 0.4); the bounds are ours.
    """
    lengths = np.linalg.norm(points, axis=1)
    relative = lengths / lengths.max() if lengths.any() else lengths
    return relative >= 0.8, (relative >= 0.2) & (relative < 0.8), relative < 0.2


def arrangement(points: Float[np.ndarray, "n_points 2"]) -> str:
    """Name how planar hidden vectors lie.

    "regular polygon" (see ``is_regular_polygon``); else "two circles", if some are short (see ``lengths_apart``); else
    "some at the origin", if some are; else "shared direction", if two are nearer in angle than a quarter of a regular
    polygon's gap; else "other".

    Raises:
        ValueError: As ``is_regular_polygon``.

    References:
        C. Olah and T. Henighan, comment on two circles in Henighan et al. 2023; the other names are ours.
    """
    if is_regular_polygon(points):
        return "regular polygon"
    _, short, at_origin = lengths_apart(points)
    if short.any():
        return "two circles"
    if at_origin.any():
        return "some at the origin"
    return "shared direction" if _gaps(points).min() < 90 / len(points) else "other"


def _gaps(points: np.ndarray) -> np.ndarray:
    """The angles between neighbours, in degrees."""
    angles = np.sort(np.degrees(np.arctan2(points[:, 1], points[:, 0])))
    return np.diff(np.append(angles, angles[0] + 360))


def neighbour_overlap(hidden: Float[np.ndarray, "n_examples 2"], rows: Any) -> float:
    """Return how much more alike neighbours by angle are than any two examples: a ratio of mean inner products.

    1 if planar hidden vectors are in random order, large if examples that share features are side by side; NaN if no
    two examples share a feature.

    Args:
        hidden: Planar hidden vectors.
        rows: The examples themselves, a scipy.sparse matrix or an array of shape (n_examples, n_features).
    """
    order = np.argsort(np.arctan2(hidden[:, 1], hidden[:, 0]))
    X = scipy.sparse.csr_array(rows)[order]
    beside = float(X.multiply(X[np.roll(np.arange(len(order)), 1)]).sum()) / len(order)
    sums = np.asarray(X.sum(axis=0)).ravel()
    squares = float(X.multiply(X).sum())
    any_two = (float(sums @ sums) - squares) / (len(order) * (len(order) - 1))
    return beside / any_two if any_two > 0 else float("nan")


def _checked(
    matrix: Float[np.ndarray, "rows columns"], name: str, repeats: Int64[np.ndarray, " counts"] | None = None
) -> Float[np.ndarray, "rows columns"]:
    found = finite_array(matrix, name)
    if found.ndim != 2 or found.size == 0:
        raise ValueError(f"{name}: received shape {found.shape}, accepted: a matrix with at least one row and column")
    if repeats is not None:
        counts = as_array(repeats, "repeats")
        if counts.shape != found.shape[:1] or counts.min() < 1:
            raise ValueError(f"repeats: received {repeats!r}, accepted: a count >= 1 for each of {len(found)} rows")
    return found
