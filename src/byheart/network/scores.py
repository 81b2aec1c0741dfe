"""What one trained network says of each of its training examples: scores, larger meaning more memorized.

Two passes over the data suffice and no activations are kept, since all come from a triangular factor of the rows and
from second moments. With h the vectors of a layer (one per position of an example), z the input of the last linear
layer, p the predicted probabilities, y the one-hot class and delta = p - y:

- ``example_dimensionality`` D_X = |h|^2 / sum_j (h^ . h_j)^2 and ``maximal_dimensionality`` D* = h^T M^+ h, with
  M = sum h h^T: the share of the layer's dimensions that the example holds (Henighan et al. 2023). D* comes from a QR
  decomposition and does not depend on the units of the layer's numbers (``byheart.geometry.whitening``).
- ``class_dimensionality``: D* among the examples of its own class and one more, whose h h^T is the average of all
  examples, with a ridge: h^T (M_c + M/n + lambda)^-1 h.
- ``other_class``: how much better the best other class explains the example than its own without it: the logarithm of
  the own class's leave-one-out D* over the lowest D* of another class, each times how many examples it is among, so
  that small classes and large ones compare. New; finds wrong labels. Classes without examples, or whose vectors are
  all zero, explain nothing and do not compete.
- ``gradient_dimensionality``: D* of the gradient of the loss in the last linear layer, delta z^T, with the Kronecker
  product of the moments of delta and z in place of those of the gradient (as in K-FAC, Martens and Grosse 2015).
- ``residual_dimensionality``: D* of z times |delta|^2. New.
- ``ridge_leave_one_out``: margin by which a ridge regression of y on z, trained without the example, gets it wrong; in
  closed form (Allen 1974, PRESS). Classes without examples are no answers.
- ``gradient_norm`` |delta| |z|, of the same layer's gradient (Paul et al. 2021, GraNd, last layer).

The layer's rows may be many per example (positions of an image or a text): each is a row of the moments, and an
example's dimensionality is the sum over its rows, so that all still sum to the rank.

Rows that stay fewer than they are wide (300 examples of 50,000 units; 200 of 10,000 classes) are the exception: they
are kept, and all that depends on inner products alone is computed in their span, in which they have as many numbers as
there are rows.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64, Int64

from byheart.geometry import ROUNDING, TriangularFactor, tall_qr, whitening

RIDGE = 0.01  # times the mean eigenvalue of the moments that it is added to
MOST_CLASS_BYTES = 2**29  # moments by class take n_classes * min(n_hidden, n_rows)^2 * 8 bytes
MOST_BYTES = 2**30  # of rows that wait or of their moment: min(n_hidden, n_rows) * n_hidden * 8 bytes
_LEAST = float(np.finfo(np.float64).eps)  # of 1 - leverage
_NEARLY_ONE = 0.9  # leverage whose difference from 1 is computed in float64
_STRIP = 64  # rows of a triangular matrix that are multiplied at once
_CROWDED = 0.5  # dimensions in use for each vector from which on D* and what is left out tell little


class Span:
    """Rows that wait as long as they are fewer than they are wide, and at the end the span of those that still wait.

    Attributes:
        n_rows: Number of rows so far.
        basis: Of the span, orthonormal columns; None where the rows were not fewer, and are taken as they are.
    """

    def __init__(self, width: int, name: str) -> None:
        self.width, self.n_rows = width, 0
        self.basis: Float64[np.ndarray, "width n_rows"] | None = None
        self._name = name
        self._waiting: list[tuple[np.ndarray, np.ndarray | None]] = []

    def add(
        self, rows: Float[np.ndarray, "n_new width"], labels: Int64[np.ndarray, " n_new"] | None = None
    ) -> list[tuple[Float64[np.ndarray, "n_ready width"], Int64[np.ndarray, " n_ready"] | None]]:
        """Take rows, and return those that need not wait.

        Raises:
            ValueError: If so many rows of this width would not fit; the message says what does.
        """
        self.n_rows += len(rows)
        if min(self.n_rows, self.width) * self.width * 8 > MOST_BYTES:
            raise ValueError(
                f"{self._name}: received {self.n_rows:,} rows or more of {self.width:,} numbers, which would take more"
                f" than {MOST_BYTES / 2**30:g} GB, accepted: up to {MOST_BYTES // 8 // self.width:,} rows of that"
                f" width, or any number of rows of up to {math.isqrt(MOST_BYTES // 8):,} numbers"
            )
        if self.n_rows < self.width:
            self._waiting.append((np.array(rows), labels))  # a copy: what the network made may be written over
            return []
        ready = [(kept.astype(np.float64), of) for kept, of in (*self._waiting, (rows, labels))]
        self._waiting.clear()
        return ready

    def rest(self) -> tuple[Float64[np.ndarray, "n_rows width"], Int64[np.ndarray, " n_rows"] | None] | None:
        """Return the rows that still wait, if there are any; from now on the basis is that of their span."""
        if not self._waiting:
            return None
        rows = np.concatenate([rows for rows, _ in self._waiting]).astype(np.float64)
        labels = [labels for _, labels in self._waiting if labels is not None]
        self._waiting.clear()
        self.basis, _ = tall_qr(rows.T)
        return rows, np.concatenate(labels) if labels else None

    def coordinates(self, rows: Float64[np.ndarray, "n_any width"]) -> Float64[np.ndarray, "n_any n_coordinates"]:
        """Return rows in the basis, or as they are if there is none."""
        return rows if self.basis is None else rows @ self.basis


class SecondMoment:
    """Sum of h h^T over rows h, in the span of the rows if they are fewer than they are wide.

    Attributes:
        moment: The sum, once ``finish`` was called.
        span: What the rows' coordinates are.
    """

    def __init__(self, width: int, name: str) -> None:
        self.span = Span(width, name)
        self.moment: Float64[np.ndarray, "n_coordinates n_coordinates"] = np.zeros((0, 0))

    def add(self, rows: Float[np.ndarray, "n_new width"]) -> None:
        """Add rows."""
        for ready, _ in self.span.add(rows):
            self._sum(ready)

    def finish(self) -> None:
        """Take the rows that still wait."""
        rest = self.span.rest()
        if rest is not None:
            self._sum(self.span.coordinates(rest[0]))
        self.moment = np.tril(self.moment) + np.tril(self.moment, -1).T

    def _sum(self, rows: Float64[np.ndarray, "n_new n_coordinates"]) -> None:
        if not len(self.moment):
            self.moment = np.zeros((rows.shape[1], rows.shape[1]), order="F")
        self.moment = _add_products(self.moment, rows)


class LayerMoments:
    """First pass over the vectors of a layer: their triangular factor, and second moments by class.

    Args:
        n_hidden: Length of the vectors.
        n_classes: Number of classes, of a classification.
        name: Of the layer, for messages.
    """

    def __init__(self, n_hidden: int, n_classes: int | None, name: str = "layer") -> None:
        self.n_hidden = n_hidden
        self.span = Span(n_hidden, name)
        self.by_class: dict[int, Float64[np.ndarray, "n_coordinates n_coordinates"]] = {}
        """Second moment of each class that the data have; lower triangles."""
        self.n_rows_of: dict[int, int] = {}
        """Number of rows of each of these classes that are not all zero, as those of padding are."""
        self.without_classes = ""
        """Why there are no scores by class; empty if there are, or the data have none."""
        self._by_class = n_classes is not None
        self.name = name
        self._factor: TriangularFactor | None = None

    def add(
        self,
        rows: Float[np.ndarray, "n_examples n_positions n_hidden"],
        labels: Int64[np.ndarray, " n_examples"] | None,
    ) -> None:
        """Add a batch of examples, with their classes if there are any.

        Raises:
            ValueError: If so many of them would not fit.
        """
        row_labels = None if labels is None else np.repeat(labels, rows.shape[1])
        for ready, ready_labels in self.span.add(rows.reshape(-1, self.n_hidden), row_labels):
            self._sum(ready, ready_labels)

    def finish(self) -> tuple[Float64[np.ndarray, "n_root_rows n_hidden"], Float64[np.ndarray, "n n"]]:
        """Return the rows or their triangular factor, and the triangular factor of their coordinates."""
        rest = self.span.rest()
        if rest is not None:
            self._sum(self.span.coordinates(rest[0]), rest[1])
        assert self._factor is not None
        factor = self._factor.finish()
        if self._by_class and sum(bool(moment.any()) for moment in self.by_class.values()) < 2:
            self.by_class.clear()
            self.without_classes = (
                f"{self.name}: the data have fewer than two classes with activations, so that class_dimensionality and"
                " other_class, which compares classes, are left out of the table and of the score. Examples of another"
                " class bring them."
            )
        return (factor if rest is None else rest[0]), factor

    def _sum(
        self, rows: Float64[np.ndarray, "n_new n_coordinates"], labels: Int64[np.ndarray, " n_new"] | None
    ) -> None:
        self._factor = self._factor or TriangularFactor(rows.shape[1])
        self._factor.add(rows)
        if not self._by_class or labels is None:
            return
        for label in np.unique(labels).tolist():
            if label not in self.by_class:
                width, n_classes = rows.shape[1], len(self.by_class) + 1
                if n_classes * width**2 * 8 > MOST_CLASS_BYTES:
                    self._leave_out_classes(f"moments of {n_classes:,} classes or more at {width:,} dimensions")
                    return
                self.by_class[label] = np.zeros((width, width), order="F")
            own = rows[labels == label]
            self.by_class[label] = _add_products(self.by_class[label], own)
            self.n_rows_of[label] = self.n_rows_of.get(label, 0) + int(own.any(axis=1).sum())

    def _leave_out_classes(self, what: str) -> None:
        self.by_class.clear()
        self._by_class = False
        self.without_classes = (
            f"{self.name}: {what} would take more than {MOST_CLASS_BYTES / 2**30:g} GB, so that class_dimensionality"
            " and other_class are left out of the table and of the score. A narrower layer or fewer classes bring them."
        )


@dataclass
class LayerScores:
    """Second pass: dimensionalities of examples, given the moments of all.

    Attributes:
        moments: Of the first pass.
        rank: Of all rows: how many dimensions of the layer are in use.
        notes: What a reader of the results must know.
    """

    moments: LayerMoments
    rank: int = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        root, self._factor = self.moments.finish()
        self._whiten, shares = whitening(root, self.moments.span.n_rows, ROUNDING)
        self.rank, width = self._whiten.shape[1], self.moments.n_hidden
        self._triangle = None
        if self.moments.span.basis is None:  # a triangle of the same lengths takes half of the time
            self._triangle = np.zeros((width, width), order="F")
            self._triangle[: self.rank] = np.linalg.qr(self._whiten.T, mode="r")
        n_rounding = int(((shares > 0) & (shares <= ROUNDING)).sum())
        if n_rounding:
            self.notes.append(
                f"{self.moments.name}: {n_rounding:,} of {width:,} dimensions are no larger than the rounding of"
                " float32, beside the largest one, and are not counted."
            )
        n_rows = self.moments.span.n_rows
        if self.rank > _CROWDED * n_rows:
            self.notes.append(
                f"{self.moments.name}: {self.rank:,} dimensions are in use for {n_rows:,} vectors, so that D* is"
                f" {self.rank / n_rows:.2f} on average and nearly every example has a dimension of its own. What a"
                " layer says without an example tells little then; a log of losses or a held-out run tells more."
            )
        by_class = {label: m for label, m in self.moments.by_class.items() if m.any()}
        # Beside the rows of a class stands the average of all, else a class of few would explain nothing but these.
        average = sum(by_class.values()) / max(sum(self.moments.n_rows_of[label] for label in by_class), 1)
        self._by_class = {label: _inverse_root(m + average, width) for label, m in by_class.items()}
        self._length = max([math.sqrt(np.trace(m) / width) for m in by_class.values()], default=1.0)
        # in the precision of the network's own numbers, at half the time
        self._rounded = {label: (r * self._length).astype(np.float32) for label, r in self._by_class.items()}

    def __call__(
        self,
        rows: Float[np.ndarray, "n_examples n_positions n_hidden"],
        labels: Int64[np.ndarray, " n_examples"] | None,
    ) -> dict[str, Float64[np.ndarray, " n_examples"]]:
        """Return the scores of a batch, by name."""
        import torch

        n_examples, n_positions, n_hidden = rows.shape
        flat = rows.astype(np.float64).reshape(-1, n_hidden)
        coordinates = self.moments.span.coordinates(flat)
        n_threads = torch.get_num_threads()
        with ThreadPoolExecutor(n_threads) as pool:  # of products that have one thread each (``passes.looking_at``)
            of_all = pool.submit(_squared_lengths, self._factor, coordinates, lower=False)
            maximal = pool.submit(self._maximal, flat)
            found = {}
            if labels is not None and self._by_class:
                found = self._of_classes(coordinates, np.repeat(labels, n_positions), n_threads, pool)
        squares = np.square(flat).sum(axis=1)
        against_all = of_all.result() / np.where(squares > 0, squares, 1)  # sum over j of (h^ . h_j)^2
        found["example_dimensionality"] = np.where(squares > 0, squares / np.where(squares > 0, against_all, 1), 0)
        found["maximal_dimensionality"] = maximal.result()
        return {name: found[name].reshape(n_examples, n_positions).sum(axis=1) for name in sorted(found)}

    def _maximal(self, rows: Float64[np.ndarray, "n_rows n_hidden"]) -> Float64[np.ndarray, " n_rows"]:
        if self._triangle is None:
            found: Float64[np.ndarray, " n_rows"] = np.square(rows @ self._whiten).sum(axis=1)
            return found
        return _squared_lengths(self._triangle, rows, lower=False)

    def _of_classes(
        self,
        rows: Float64[np.ndarray, "n_rows n_coordinates"],
        labels: Int64[np.ndarray, " n_rows"],
        n_threads: int,
        pool: ThreadPoolExecutor,
    ) -> dict[str, Float64[np.ndarray, " n_rows"]]:
        own = np.any(rows, axis=1).astype(np.float64)
        rounded = (rows / self._length).astype(np.float32)

        def lowest_of(share: list[int]) -> Float64[np.ndarray, " n_rows"]:
            lowest = np.full(len(rows), np.inf)
            for label in share:
                leverages = _squared_lengths(self._rounded[label], rounded)
                n_rows = self.moments.n_rows_of[label] + 1
                lowest = np.minimum(lowest, np.where(labels == label, np.inf, n_rows * leverages))
                precise = (labels == label) & (leverages > _NEARLY_ONE)
                own[labels == label] = leverages[labels == label]
                own[precise] = _squared_lengths(self._by_class[label], rows[precise])
            return lowest

        known = list(self._by_class)
        lowest = np.minimum.reduce(list(pool.map(lowest_of, [known[i::n_threads] for i in range(n_threads)])))
        present, positions = np.unique(labels, return_inverse=True)
        n_own = np.array([self.moments.n_rows_of.get(label, 1) for label in present.tolist()])[positions]
        without = n_own * own / np.maximum(1 - own, _LEAST)
        ratio = np.log(np.maximum(without, 1e-300)) - np.log(np.maximum(lowest, 1e-300))
        return {"class_dimensionality": own, "other_class": ratio}


class HeadMoments:
    """First pass over the last linear layer: moments of its inputs z, of delta, and of z with the classes.

    Attributes:
        targets: Sum of z over the examples of each class that the data have.
    """

    def __init__(self, n_inputs: int, n_classes: int) -> None:
        self.n_classes = n_classes
        self.inputs = SecondMoment(n_inputs, "input of the last linear layer")
        self.delta = SecondMoment(n_classes, "classes")
        self.targets: dict[int, Float64[np.ndarray, " n_inputs"]] = {}

    def add(
        self,
        inputs: Float[np.ndarray, "n_examples n_inputs"],
        probabilities: Float[np.ndarray, "n_examples n_classes"],
        labels: Int64[np.ndarray, " n_examples"],
    ) -> None:
        """Add a batch of examples.

        Raises:
            ValueError: If so many of them would not fit.
        """
        self.inputs.add(inputs)
        self.delta.add(_delta(probabilities, labels))
        for label in np.unique(labels).tolist():
            self.targets[label] = self.targets.get(label, 0) + inputs[labels == label].sum(axis=0, dtype=np.float64)


class HeadScores:
    """Second pass: scores of the last linear layer, given the moments of all."""

    def __init__(self, moments: HeadMoments) -> None:
        self.moments = moments
        for each in (moments.inputs, moments.delta):
            each.finish()
        self._inputs = _inverse_root(moments.inputs.moment, moments.inputs.span.width)
        self._delta = _inverse_root(moments.delta.moment, moments.n_classes, ridge=1e-6)
        self._labels = np.array(sorted(moments.targets))
        targets = moments.inputs.span.coordinates(np.stack([moments.targets[k] for k in self._labels.tolist()]))
        self._weights = self._inputs.T @ (self._inputs @ targets.T)

    def __call__(
        self,
        inputs: Float[np.ndarray, "n_examples n_inputs"],
        probabilities: Float[np.ndarray, "n_examples n_classes"],
        labels: Int64[np.ndarray, " n_examples"],
    ) -> dict[str, Float64[np.ndarray, " n_examples"]]:
        """Return the scores of a batch, by name."""
        z, delta = inputs.astype(np.float64), _delta(probabilities, labels)
        coordinates = self.moments.inputs.span.coordinates(z)
        leverage = _squared_lengths(self._inputs, coordinates)
        squared_residual = np.square(delta).sum(axis=1)
        y = labels[:, None] == self._labels
        left_out = y - (y - coordinates @ self._weights) / np.maximum(1 - leverage, _LEAST)[:, None]
        own = np.where(y, left_out, 0).sum(axis=1)
        # where the data have one class only, the others' answer is that of a class without examples
        of_others = np.where(y, -np.inf, left_out)
        others, other_label = np.zeros(len(labels)), np.full(len(labels), -1)
        if len(self._labels) > 1:
            others, other_label = of_others.max(axis=1), self._labels[of_others.argmax(axis=1)]
        return {
            "gradient_dimensionality": leverage
            * _squared_lengths(self._delta, self.moments.delta.span.coordinates(delta)),
            "residual_dimensionality": leverage * squared_residual,
            "ridge_leave_one_out": others - own,
            "gradient_norm": np.sqrt(squared_residual * np.square(z).sum(axis=1)),
            "other_label": other_label,
        }


def _delta(
    probabilities: Float[np.ndarray, "n_examples n_classes"], labels: Int64[np.ndarray, " n_examples"]
) -> Float64[np.ndarray, "n_examples n_classes"]:
    delta = probabilities.astype(np.float64)
    delta[np.arange(len(labels)), labels] -= 1
    return delta


def _add_products(
    moment: Float64[np.ndarray, "n_coordinates n_coordinates"], rows: Float64[np.ndarray, "n_rows n_coordinates"]
) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
    """Return the moment, in Fortran order, with the products of rows added in place to its lower triangle."""
    found: Float64[np.ndarray, "n_coordinates n_coordinates"] = scipy.linalg.blas.dsyrk(
        1.0, rows.T, 1.0, moment, lower=1, overwrite_c=1
    )
    return found


def _inverse_root(
    moment: Float64[np.ndarray, "n_coordinates n_coordinates"], width: int, ridge: float = RIDGE
) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
    """Return lower triangular R, R^T R = (moment + lambda)^-1, lambda = ridge times the mean eigenvalue (1 if 0).

    Of the moment the lower triangle is read. The mean is over all ``width`` eigenvalues; those outside of the
    coordinates are 0.
    """
    scale = float(np.trace(moment)) / width or 1.0
    lower = np.linalg.cholesky(moment + ridge * scale * np.eye(len(moment)))
    root: Float64[np.ndarray, "n_coordinates n_coordinates"] = scipy.linalg.solve_triangular(
        lower, np.eye(len(moment)), lower=True
    )
    return root


def _squared_lengths(
    root: Float[np.ndarray, "n_coordinates n_coordinates"],
    rows: Float[np.ndarray, "n_rows n_coordinates"],
    lower: bool = True,
) -> Float64[np.ndarray, " n_rows"]:
    """Return |R h|^2 of each row h, with R triangular: in strips, which leave out most of its zeros."""
    found = np.zeros(len(rows))
    for start in range(0, len(root), _STRIP):
        strip = slice(start, start + _STRIP)
        used = slice(None, start + _STRIP) if lower else slice(start, None)
        whitened = rows[:, used] @ root[strip, used].T
        found += np.einsum("ij,ij->i", whitened, whitened)
    return found
