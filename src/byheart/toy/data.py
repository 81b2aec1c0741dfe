"""Finite sets of sparse training examples.

Each feature of an example is 0 with probability ``sparsity`` (S), otherwise uniform on (0, 1], independently; every
example is then scaled to unit Euclidean norm. A set holds a fixed number T of them and is trained on full batch.

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent", section "Experiment setup".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int32, Int64

# Expected nonzeros drawn at a time: bounds the temporary memory; part of the definition of the random stream.
_NONZEROS_PER_BLOCK = 4_000_000
_MAX_FEATURES = 2**31 - 1  # indices are int32


@dataclass(frozen=True, eq=False)
class SparseExamples:
    """A set of sparse examples in compressed sparse row (CSR) form, each with the number of times it is repeated.

    Row ``i`` holds ``values[indptr[i]:indptr[i + 1]]`` at the features ``indices[indptr[i]:indptr[i + 1]]``, sorted.
    """

    indptr: Int64[np.ndarray, " n_examples_plus_1"]
    indices: Int32[np.ndarray, " n_nonzeros"]
    values: Float32[np.ndarray, " n_nonzeros"]
    n_features: int
    repeats: Int64[np.ndarray, " n_examples"]

    def __post_init__(self) -> None:
        """Check what compiled code will rely on.

        Raises:
            ValueError: If the arrays are not those of finite rows of ``n_features`` columns, each repeated >= 1 times.
        """
        sizes_fit = (
            self.indptr.ndim == 1
            and len(self.indptr) >= 2
            and self.indptr[0] == 0
            and self.indptr[-1] == len(self.indices) == len(self.values)
            and (np.diff(self.indptr) >= 0).all()
            and len(self.repeats) == len(self.indptr) - 1
        )
        if not sizes_fit:
            raise ValueError(
                f"examples: received indptr {self.indptr.shape}, indices {self.indices.shape}, values"
                f" {self.values.shape}, repeats {self.repeats.shape}, accepted: the arrays of a CSR matrix of >= 1 row"
            )
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < self.n_features):
            raise ValueError(f"examples: received an index outside 0 to {self.n_features - 1}, accepted: features only")
        if not np.isfinite(self.values).all():
            raise ValueError("examples: received NaN or infinite values, accepted: finite float32 values only")
        if (self.repeats < 1).any():
            raise ValueError("repeats: received a count below 1, accepted: counts >= 1")

    @property
    def n_examples(self) -> int:
        """Number of distinct rows (repeats not counted)."""
        return len(self.indptr) - 1

    @classmethod
    def from_matrix(cls, matrix: Any, repeats: Sequence[int] = ()) -> SparseExamples:
        """Take the user's own examples, one per row, as they are (they are not scaled).

        Args:
            matrix: A scipy.sparse matrix or array, or anything ``np.asarray`` takes, of shape (n_examples, n_features).
            repeats: How often the first ``len(repeats)`` examples occur, each at least 1; the others occur once.

        Raises:
            ValueError: If the matrix is not two-dimensional, is empty, or holds a value that is not finite.
        """
        if not scipy.sparse.issparse(matrix):
            matrix = np.asarray(matrix)
        if matrix.dtype.kind not in "fiub":
            raise ValueError(f"examples: received dtype {matrix.dtype}, accepted: real numbers")
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"examples: received shape {matrix.shape}, accepted: (n_examples, n_features), both >= 1")
        if matrix.shape[1] > _MAX_FEATURES:
            raise ValueError(f"examples: received {matrix.shape[1]} features, accepted: at most {_MAX_FEATURES}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            csr = scipy.sparse.csr_array(matrix, dtype=np.float32, copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        n_examples, n_features = csr.shape
        return cls(
            csr.indptr.astype(np.int64),
            csr.indices.astype(np.int32),
            csr.data,
            int(n_features),
            _repeats(repeats, n_examples),
        )

    def to_scipy(self) -> scipy.sparse.csr_array:
        """Return the rows, without repeats, as a scipy CSR array of shape (n_examples, n_features)."""
        return scipy.sparse.csr_array(
            (self.values, self.indices, self.indptr), shape=(self.n_examples, self.n_features)
        )

    def expanded(self) -> SparseExamples:
        """Return the set with every example written out as often as it is repeated: what the loss averages over."""
        if (self.repeats == 1).all():
            return self
        return SparseExamples.from_matrix(self.to_scipy()[np.repeat(np.arange(self.n_examples), self.repeats)])


def sample_examples(
    n_examples: int,
    n_features: int,
    sparsity: float,
    rng: np.random.Generator,
    repeats: Sequence[int] = (),
    *,
    unit_norm: bool = True,
    keep_empty: bool = False,
) -> SparseExamples:
    """Draw a set of sparse examples in O(nonzeros) time.

    The active positions of all rows laid end to end form a Bernoulli process, so the gaps between them are geometric.
    A row without any active feature has no direction to normalise: it is drawn again, until none is left.

    Args:
        n_examples: Number of rows T, at least 1.
        n_features: Features per row n, at least 1.
        sparsity: Probability S in [0, 1) that a feature is 0. ``n_features * (1 - sparsity)`` must be at least 0.01.
        rng: Source of randomness.
        repeats: How often the first ``len(repeats)`` examples occur, each at least 1; the others occur once.
        unit_norm: Whether every example is scaled to unit Euclidean norm.
        keep_empty: Whether rows without any active feature stay as they are instead of being drawn again.

    Raises:
        ValueError: If an argument is outside its range.
    """
    check_sampling(n_examples, n_features, sparsity)
    rows_per_block = max(1, int(_NONZEROS_PER_BLOCK / (n_features * (1 - sparsity))))
    counts, indices = [], []
    for start in range(0, n_examples, rows_per_block):
        n_rows = min(rows_per_block, n_examples - start)
        draw = _bernoulli_positions if keep_empty else _active_positions
        rows, columns = draw(n_rows, n_features, sparsity, rng)
        counts.append(np.bincount(rows, minlength=n_rows))
        indices.append(columns)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    values = np.float32(1) - rng.random(indptr[-1], dtype=np.float32)  # uniform on (0, 1]
    if unit_norm:
        lengths = np.diff(indptr)
        norms = np.sqrt(np.add.reduceat(np.square(values, dtype=np.float64), indptr[:-1][lengths > 0]))
        values = (values / np.repeat(norms, lengths[lengths > 0])).astype(np.float32)
    return SparseExamples(indptr, np.concatenate(indices), values, n_features, _repeats(repeats, n_examples))


def check_sampling(n_examples: int, n_features: int, sparsity: float) -> None:
    """Raise a ValueError that says what is accepted if examples of these sizes cannot be drawn."""
    if n_examples < 1:
        raise ValueError(f"n_examples: received {n_examples}, accepted: an integer >= 1")
    if not 1 <= n_features <= _MAX_FEATURES:
        raise ValueError(f"n_features: received {n_features}, accepted: an integer >= 1, at most {_MAX_FEATURES}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: received {sparsity}, accepted: 0 <= sparsity < 1")
    if n_features * (1 - sparsity) < 0.01:
        raise ValueError(
            f"sparsity: received {sparsity} at n_features {n_features}, accepted: n_features * (1 - sparsity) >= 0.01"
            " (almost every example would be all zero)"
        )


def _active_positions(
    n_rows: int, n_features: int, sparsity: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " n_nonzeros"], Int32[np.ndarray, " n_nonzeros"]]:
    """Draw (row, feature) of the active entries, sorted; every row has at least one."""
    rows, columns = _bernoulli_positions(n_rows, n_features, sparsity, rng)
    empty = np.flatnonzero(np.bincount(rows, minlength=n_rows) == 0)
    redrawn = empty.size > 0
    while empty.size:
        new_rows, new_columns = _bernoulli_positions(empty.size, n_features, sparsity, rng)
        rows = np.concatenate([rows, empty[new_rows]])
        columns = np.concatenate([columns, new_columns])
        empty = np.flatnonzero(np.bincount(rows, minlength=n_rows) == 0)
    if redrawn:
        order = np.argsort(rows, kind="stable")
        rows, columns = rows[order], columns[order]
    return rows, columns


def _bernoulli_positions(
    n_rows: int, n_features: int, sparsity: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " n_nonzeros"], Int32[np.ndarray, " n_nonzeros"]]:
    """Draw the (row, feature) of each success in ``n_rows * n_features`` trials of probability ``1 - sparsity``."""
    end = n_rows * n_features
    expected = end * (1 - sparsity)
    draw = int(expected + 6 * np.sqrt(expected)) + 16
    positions = np.cumsum(rng.geometric(1 - sparsity, draw)) - 1
    while positions[-1] < end:
        positions = np.concatenate([positions, positions[-1] + np.cumsum(rng.geometric(1 - sparsity, draw))])
    positions = positions[: np.searchsorted(positions, end)]
    rows, columns = np.divmod(positions, n_features)
    return rows, columns.astype(np.int32)


def _repeats(repeats: Sequence[int], n_examples: int) -> Int64[np.ndarray, " n_examples"]:
    if len(repeats) > n_examples or any(count < 1 or count != int(count) for count in repeats):
        raise ValueError(f"repeats: received {tuple(repeats)}, accepted: at most n_examples = {n_examples} counts >= 1")
    counts = np.ones(n_examples, dtype=np.int64)
    counts[: len(repeats)] = repeats
    return counts
