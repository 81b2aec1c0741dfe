"""How many dimensions of the hidden space a feature or a training example has to itself.

For vectors v_j the dimensionality of vector i is D_i = |v_i|^2 / sum_j (v^_i . v_j)^2, where v^ is the unit vector and
j runs over all vectors, i included. With M = sum_j v_j v_j^T (n_hidden x n_hidden) the sum is v^_i^T M v^_i, so a
million vectors cost O(T m^2) time and O(m^2) memory beyond them. Fewer vectors than they have components are compared
with each other instead, which costs O(T^2 m).

Known values: 1 for a vector orthogonal to all others, 1/2 in an antipodal pair, 2/T in a regular T-gon, 0 if absent.
The values of a set sum to at most its rank. Vectors may be in any container that ``byheart.arrays`` takes.

Source: Elhage et al. 2022, "Toy Models of Superposition" (features); Henighan et al. 2023, section "Experiment setup"
(examples) and C. Olah's MNIST comment there (maximal dimensionality).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Bool, Float, Float64, Int64

from byheart.arrays import as_array, finite_array

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Share of the largest dimension up to which others are the rounding of float32.

The units of a LayerNorm, which sum to 0, or of a linear layer with more units than it reads numbers, would otherwise
have dimensions of noise."""
_ROWS_PER_BLOCK = 65_536
_ROWS_PER_UPDATE = 256  # of a QR decomposition, at least: it works column by column, which few rows do not pay for
_COLUMNS_PER_UPDATE = 32  # of reflections at once; fastest of 16, 32 and 64 at widths from 512 to 1,024
_COLUMNS_PER_STEP = 64  # the same of a whole QR decomposition, at 300 columns of 50,000


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
    n_rows, width = hidden.shape
    largest = float(_largest(hidden).max()) or 1.0
    if n_rows < width:
        root = np.concatenate([rows * np.sqrt(weights)[:, None] for rows, weights in _blocks(hidden, largest, repeats)])
        return np.concatenate(
            [_dimensionality(rows, lambda v: np.square(v @ root.T).sum(axis=1)) for rows, _ in _blocks(hidden, largest)]
        )
    moment = np.zeros((width, width))
    for rows, weights in _blocks(hidden, largest, repeats):
        moment += rows.T @ (rows * weights[:, None])
    return np.concatenate(
        [_dimensionality(rows, lambda v: np.einsum("ij,ij->i", v @ moment, v)) for rows, _ in _blocks(hidden, largest)]
    )


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
    sum to the rank of ``hidden`` (copies counted). Computed from a QR decomposition in float64, which does not square
    the condition number as the second-moment matrix would. The unit of a column does not matter: each counts as a
    dimension, however small it is beside others, unless others make it up to within the rounding of the numbers, in
    float32 if they are (see ``whitening``).

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
    n_rows, width = hidden.shape
    scales = np.ldexp(1.0, np.frexp(_largest(hidden))[1].clip(-1000, 1000))
    blocks = (rows * np.sqrt(weights)[:, None] for rows, weights in _blocks(hidden, scales, repeats))
    if n_rows <= width:
        root = np.concatenate(list(blocks))
    else:
        factor = TriangularFactor(width)
        for rows in blocks:
            factor.add(rows)
        root = factor.finish()
    whiten, _ = whitening(root, n_rows, ROUNDING if hidden.dtype in (np.float32, np.float16) else 0.0)
    return np.concatenate([np.square(rows @ whiten).sum(axis=1) for rows, _ in _blocks(hidden, scales)])


class TriangularFactor:
    """R, upper triangular, with R^T R the sum of h h^T over rows h that come in batches.

    It is the factor of a QR decomposition of all rows, by Householder reflections of R and the rows that are new: in
    O(m^2) memory, without squaring the condition number, and whatever the unit of each column.

    Args:
        width: Length of a row.
    """

    def __init__(self, width: int) -> None:
        self._R = np.zeros((width, width), order="F")
        self._waiting: list[Float64[np.ndarray, "n_rows width"]] = []

    def add(self, rows: Float64[np.ndarray, "n_rows width"]) -> None:
        """Add rows, which are not copied."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= max(len(self._R), _ROWS_PER_UPDATE):
            self._update()

    def finish(self) -> Float64[np.ndarray, "width width"]:
        """Return R of all rows so far."""
        if self._waiting:
            self._update()
        found: Float64[np.ndarray, "width width"] = np.triu(self._R)
        return found

    def _update(self) -> None:
        rows = np.empty((sum(map(len, self._waiting)), len(self._R)), order="F")
        np.concatenate(self._waiting, out=rows)
        self._waiting.clear()
        step = min(_COLUMNS_PER_UPDATE, len(self._R))
        self._R, _, _, info = scipy.linalg.lapack.dtpqrt(0, step, self._R, rows, overwrite_a=1, overwrite_b=1)
        assert info == 0


def whitening(
    root: Float64[np.ndarray, "n_root_rows n_hidden"], n_rows: int, least: float = 0.0
) -> tuple[Float64[np.ndarray, "n_hidden rank"], Float64[np.ndarray, " n_directions"]]:
    """Return W such that |W^T h|^2 is the maximal dimensionality of h among rows whose second moment is root^T root.

    Beside it, how large each of the dimensions is, in shares of the largest, those included that are too small to
    count. W has as many columns as the rows have rank. That is counted as ``numpy.linalg.matrix_rank`` counts, by
    singular values above the largest one times eps max(n_rows, n_hidden), once each column has been divided by its
    largest entry: so neither rank nor dimensionalities depend on the units of the columns.

    Args:
        root: The rows themselves, or their triangular factor.
        n_rows: Number of the rows.
        least: Share of the largest dimension up to which others are taken for rounding of the rows (see ``ROUNDING``).
    """
    _, exponents = np.frexp(np.abs(root).max(axis=0))  # powers of two, so that dividing by them rounds nothing
    scaled = np.ldexp(root, -exponents)
    basis = None
    if len(root) < root.shape[1]:
        basis, factor = tall_qr(scaled.T)
        scaled = factor.T
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    kept = singular > singular[0] * max(max(n_rows, root.shape[1]) * np.finfo(np.float64).eps, least)
    whiten = directions[kept].T / singular[kept]
    whiten = np.ldexp(whiten if basis is None else basis @ whiten, -exponents[:, None])
    return whiten, singular / max(singular[0], np.finfo(np.float64).tiny)


def tall_qr(
    columns: Float64[np.ndarray, "n_hidden n_columns"],
) -> tuple[Float64[np.ndarray, "n_hidden n_columns"], Float64[np.ndarray, "n_columns n_columns"]]:
    """Return the QR decomposition of at most as many columns as they are long.

    By recursive Householder reflections, which take half of the time of ``numpy.linalg.qr`` for 300 columns of 50,000.
    """
    n_columns = columns.shape[1]
    reflections, factors, info = scipy.linalg.lapack.dgeqrt(min(_COLUMNS_PER_STEP, n_columns), columns)
    assert info == 0
    identity = np.eye(len(columns), n_columns, order="F")
    basis, info = scipy.linalg.lapack.dgemqrt(reflections, factors, identity, overwrite_c=1)
    assert info == 0
    return basis, np.triu(reflections[:n_columns])


def _dimensionality(
    rows: Float64[np.ndarray, "n_rows n_hidden"],
    against_all: Callable[[Float64[np.ndarray, "n_rows n_hidden"]], Float64[np.ndarray, " n_rows"]],
) -> Float64[np.ndarray, " n_rows"]:
    squared_norms = np.square(rows).sum(axis=1)
    present = squared_norms > 0  # a vector too small to square counts as absent
    result = np.zeros(len(rows))
    result[present] = squared_norms[present] / against_all(rows[present] / np.sqrt(squared_norms[present, None]))
    return result


def _largest(hidden: Float[np.ndarray, "n_examples n_hidden"]) -> Float64[np.ndarray, " n_hidden"]:
    """The largest absolute value of each column."""
    high, low = hidden.max(axis=0).astype(np.float64), hidden.min(axis=0).astype(np.float64)
    found: Float64[np.ndarray, " n_hidden"] = np.maximum(high, -low)
    return found


def _blocks(
    hidden: Float[np.ndarray, "n_examples n_hidden"],
    scale: float | Float64[np.ndarray, " n_hidden"],
    repeats: Int64[np.ndarray, " n_examples"] | None = None,
) -> Iterator[tuple[Float64[np.ndarray, "n_rows n_hidden"], Float64[np.ndarray, " n_rows"]]]:
    """Yield blocks of rows in float64, divided by a scale of all or of each column, with their weights."""
    for start in range(0, len(hidden), _ROWS_PER_BLOCK):
        rows = hidden[start : start + _ROWS_PER_BLOCK].astype(np.float64) / scale
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
