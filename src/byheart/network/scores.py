"""What one trained network says of each of its training examples: scores, larger meaning more memorized.

All come from second moments, so that two passes over the data suffice and no activations are kept. With h the vectors
of a layer (one per position of an example), z the input of the last linear layer, p the predicted probabilities, y the
one-hot class and delta = p - y:

- ``example_dimensionality`` D_X = |h|^2 / sum_j (h^ . h_j)^2 and ``maximal_dimensionality`` D* = h^T M^+ h, with
  M = sum h h^T: the share of the layer's dimensions that the example holds (Henighan et al. 2023).
- ``class_dimensionality``: D* among the examples of its own class, with a ridge.
- ``other_class``: how much better the best other class explains the example than its own without it: the logarithm of
  the own class's leave-one-out D* over the lowest D* of another class. New; finds wrong labels.
- ``gradient_dimensionality``: D* of the gradient of the loss in the last linear layer, delta z^T, with the Kronecker
  product of the moments of delta and z in place of those of the gradient (as in K-FAC, Martens and Grosse 2015).
- ``residual_dimensionality``: D* of z times |delta|^2. New.
- ``ridge_leave_one_out``: margin by which a ridge regression of y on z, trained without the example, gets it wrong; in
  closed form (Allen 1974, PRESS).
- ``gradient_norm`` |delta| |z|, of the same layer's gradient (Paul et al. 2021, GraNd, last layer).

The layer's rows may be many per example (positions of an image or a text): each is a row of the moments, and an
example's dimensionality is the sum over its rows, so that all still sum to the rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64, Int64

RIDGE = 0.01  # times the mean eigenvalue of the moments that it is added to
MOST_CLASS_BYTES = 2**29  # moments by class take n_classes * n_hidden^2 * 8 bytes


class LayerMoments:
    """First pass over the vectors of a layer: their second moments, and those by class."""

    def __init__(self, n_hidden: int, n_classes: int | None) -> None:
        self.n_rows = 0
        self.moment = np.zeros((n_hidden, n_hidden))
        by_class = n_classes is not None and n_classes * n_hidden**2 * 8 <= MOST_CLASS_BYTES
        self.by_class = np.zeros((n_classes if by_class and n_classes else 0, n_hidden, n_hidden))

    def add(
        self,
        rows: Float[np.ndarray, "n_examples n_positions n_hidden"],
        labels: Int64[np.ndarray, " n_examples"] | None,
    ) -> None:
        """Add a batch of examples, with their classes if there are any."""
        flat = rows.astype(np.float64).reshape(-1, rows.shape[-1])
        self.n_rows += len(flat)
        if labels is None or not len(self.by_class):
            self.moment += flat.T @ flat
            return
        for label in np.unique(labels):
            own = rows[labels == label].astype(np.float64).reshape(-1, rows.shape[-1])
            moment = own.T @ own
            self.by_class[label] += moment
            self.moment += moment


@dataclass
class LayerScores:
    """Second pass: dimensionalities of examples, given the moments of all.

    Attributes:
        moments: Of the first pass.
        rank: Of the second moment: how many dimensions of the layer are in use.
    """

    moments: LayerMoments
    rank: int = field(init=False)

    def __post_init__(self) -> None:
        values, directions = np.linalg.eigh(self.moments.moment)
        kept = values > max(values[-1], 0) * max(self.moments.n_rows, len(values)) * np.finfo(np.float64).eps
        self.rank = int(kept.sum())
        self._directions = directions
        inverses = np.divide(1, values, out=np.zeros_like(values), where=kept)
        self._values = np.stack([np.maximum(values, 0), inverses], axis=1)
        self._by_class = [_inverse_root(moment) for moment in self.moments.by_class]

    def __call__(
        self,
        rows: Float[np.ndarray, "n_examples n_positions n_hidden"],
        labels: Int64[np.ndarray, " n_examples"] | None,
    ) -> dict[str, Float64[np.ndarray, " n_examples"]]:
        """Return the scores of a batch, by name."""
        n_examples, n_positions, n_hidden = rows.shape
        flat = rows.astype(np.float64).reshape(-1, n_hidden)
        squares = np.square(flat).sum(axis=1)
        safe = np.where(squares > 0, squares, 1)
        against_all, held = (np.square(flat @ self._directions) @ self._values).T  # h^T M h and h^T M^+ h
        against_all = against_all / safe  # sum over j of (h^ . h_j)^2
        found = {
            "example_dimensionality": np.where(squares > 0, squares / np.where(squares > 0, against_all, 1), 0),
            "maximal_dimensionality": held,
        }
        if labels is not None and len(self._by_class):
            row_labels = np.repeat(labels, n_positions)
            leverages = np.stack([_leverages(root, flat) for root in self._by_class], axis=1)
            index = np.arange(len(flat))
            own = leverages[index, row_labels]
            leverages[index, row_labels] = np.inf
            without = own / np.maximum(1 - own, np.finfo(float).eps)
            found["class_dimensionality"] = own
            found["other_class"] = np.log(np.maximum(without, 1e-300)) - np.log(
                np.maximum(leverages.min(axis=1), 1e-300)
            )
        return {name: values.reshape(n_examples, n_positions).sum(axis=1) for name, values in found.items()}


class HeadMoments:
    """First pass over the last linear layer: moments of its inputs z, of delta, and of z with the classes."""

    def __init__(self, n_inputs: int, n_classes: int) -> None:
        self.n_examples = 0
        self.inputs = np.zeros((n_inputs, n_inputs))
        self.delta = np.zeros((n_classes, n_classes))
        self.targets = np.zeros((n_inputs, n_classes))

    def add(
        self,
        inputs: Float[np.ndarray, "n_examples n_inputs"],
        probabilities: Float[np.ndarray, "n_examples n_classes"],
        labels: Int64[np.ndarray, " n_examples"],
    ) -> None:
        """Add a batch of examples."""
        z, y = inputs.astype(np.float64), np.eye(len(self.delta))[labels]
        delta = probabilities.astype(np.float64) - y
        self.n_examples += len(z)
        self.inputs += z.T @ z
        self.delta += delta.T @ delta
        self.targets += z.T @ y


class HeadScores:
    """Second pass: scores of the last linear layer, given the moments of all."""

    def __init__(self, moments: HeadMoments) -> None:
        self.moments = moments
        self._inputs = _inverse_root(moments.inputs)
        self._delta = _inverse_root(moments.delta, ridge=1e-6)
        self._weights = self._inputs.T @ (self._inputs @ moments.targets)

    def __call__(
        self,
        inputs: Float[np.ndarray, "n_examples n_inputs"],
        probabilities: Float[np.ndarray, "n_examples n_classes"],
        labels: Int64[np.ndarray, " n_examples"],
    ) -> dict[str, Float64[np.ndarray, " n_examples"]]:
        """Return the scores of a batch, by name."""
        z, y = inputs.astype(np.float64), np.eye(len(self.moments.delta))[labels]
        delta = probabilities.astype(np.float64) - y
        leverage = _leverages(self._inputs, z)
        squared_residual = np.square(delta).sum(axis=1)
        left_out = y - (y - z @ self._weights) / np.maximum(1 - leverage, np.finfo(float).eps)[:, None]
        index = np.arange(len(z))
        own = left_out[index, labels].copy()
        left_out[index, labels] = -np.inf
        return {
            "gradient_dimensionality": leverage * _leverages(self._delta, delta),
            "residual_dimensionality": leverage * squared_residual,
            "ridge_leave_one_out": left_out.max(axis=1) - own,
            "gradient_norm": np.sqrt(squared_residual * np.square(z).sum(axis=1)),
        }


def _inverse_root(
    moment: Float64[np.ndarray, "n_hidden n_hidden"], ridge: float = RIDGE
) -> Float64[np.ndarray, "n_hidden n_hidden"]:
    """Return lower triangular R, R^T R = (moment + lambda)^-1, lambda = ridge times the mean eigenvalue (1 if 0)."""
    scale = float(np.trace(moment)) / len(moment) or 1.0
    lower = np.linalg.cholesky(moment + ridge * scale * np.eye(len(moment)))
    root: Float64[np.ndarray, "n_hidden n_hidden"] = scipy.linalg.solve_triangular(
        lower, np.eye(len(moment)), lower=True
    )
    return root


def _leverages(
    root: Float64[np.ndarray, "n_hidden n_hidden"], rows: Float64[np.ndarray, "n_rows n_hidden"]
) -> Float64[np.ndarray, " n_rows"]:
    """Return |R h|^2 of each row h, with R lower triangular, which takes half of a full product."""
    whitened = scipy.linalg.blas.dtrmm(1.0, root, rows.T, lower=1)
    found: Float64[np.ndarray, " n_rows"] = np.einsum("ij,ij->j", whitened, whitened)
    return found
