"""Small problems that every kernel is tested on: awkward shapes, each in several regimes of the weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import threadpoolctl
from jaxtyping import Float32, Float64

from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW, reference
from byheart.toy.model import Reduction, loss_scale

# name: n_hidden, n_features, n_examples, sparsity, repeats. Up to eight hidden units the pieces of work are tiles of 16
# features, blocks of 1,024, chunks of 128 examples, and groups of them: one of fewer than 256 examples, then two (from
# there on pairs are skipped), and eight from 1,024 examples on. With more hidden units they are blocks of 1,024
# features and passes of up to 4,096 examples. The last piece is a whole one, a part, or a single example or feature.
_SHAPES: dict[str, tuple[int, int, int, float, tuple[int, ...]]] = {
    "one of everything": (1, 1, 1, 0.0, ()),
    "one hidden unit": (1, 37, 7, 0.8, ()),
    "one example": (2, 37, 1, 0.9, ()),
    "an example of a single feature": (2, 53, 6, 0.9, ()),
    "an example without any feature": (2, 53, 6, 0.9, ()),
    "repeats": (2, 101, 5, 0.9, (3, 1, 7)),
    "three hidden units, dense": (3, 29, 11, 0.1, ()),
    "eight hidden units": (8, 150, 43, 0.95, ()),
    "nine hidden units": (9, 150, 43, 0.95, (2,)),
    "64 hidden units": (64, 75, 131, 0.9, ()),
    "two blocks, 17 hidden units": (17, 1100, 50, 0.99, (2,)),
    "three blocks": (2, 2500, 30, 0.99, ()),
    "many examples": (2, 23, 9001, 0.7, ()),
    "many examples, one hidden unit": (1, 48, 257, 0.7, ()),
    "many examples, three hidden units": (3, 33, 1025, 0.7, ()),
    "many examples, eight hidden units": (8, 64, 600, 0.9, (3,)),
    "many examples, nine hidden units": (9, 23, 8193, 0.7, ()),
    "many examples, two blocks": (2, 1040, 300, 0.99, ()),
    "many sparse examples": (2, 150, 2111, 0.97, (2,)),
}
_REGIMES = ("small random", "large bias", "all inactive", "all active", "memorized")

CASES = [f"{shape}: {regime}" for shape in _SHAPES for regime in _REGIMES]
SMALL_CASES = [f"{shape}: {regime}" for shape in _SHAPES if "many" not in shape for regime in _REGIMES]


@dataclass(frozen=True, eq=False)
class Case:
    """Weights and examples. The weights are float32 numbers, so that every precision starts from the same ones."""

    W: Float32[np.ndarray, "n_hidden n_features"]
    b: Float32[np.ndarray, " n_features"]
    examples: SparseExamples

    def weights(
        self, dtype: type[np.floating]
    ) -> tuple[Float64[np.ndarray, "n_hidden n_features"], Float64[np.ndarray, " n_features"]]:
        """Return copies of (W, b) in this precision."""
        return self.W.astype(dtype), self.b.astype(dtype)

    def dense(self) -> Float64[np.ndarray, "n_repeated_examples n_features"]:
        """Return the examples in float64 with repeats written out."""
        rows: Float64[np.ndarray, "n_examples n_features"] = self.examples.to_scipy().toarray().astype(np.float64)
        return np.repeat(rows, self.examples.repeats, axis=0)


def terms(problem: Case, reduction: Reduction) -> tuple[float, float, float]:
    """Return how large loss, gradient of W and gradient of b would be if none of their terms cancelled.

    Times one ulp, that is what rounding every term of the sums once does to them at most, in any order of summation:
    the error of a pre-activation z = W_f . h + b_f is about an ulp of Z = |W_f| . |h| + |b_f| + |x|, small as z may be.
    """
    (W, b), X = problem.weights(np.float64), problem.dense()
    z = X @ W.T @ W + b
    h = np.abs(X) @ np.abs(W).T
    Z = h @ np.abs(W) + np.abs(b) + np.abs(X)
    scale = loss_scale(W.shape[1], reduction) / len(X)
    d = np.where(z > 0, Z, 0) * (2 * scale)
    loss = scale * 2 * (np.abs(np.maximum(z, 0) - X) * Z).sum()
    return float(loss), float((h.T @ d + (d @ np.abs(W).T).T @ np.abs(X)).max()), float(d.sum(axis=0).max())


@functools.cache
def case(name: str) -> Case:
    """Build the case of this name, which is in ``CASES``."""
    shape, regime = name.split(": ")
    n_hidden, n_features, n_examples, sparsity, repeats = _SHAPES[shape]
    rng = np.random.default_rng(list(name.encode()))
    examples = sample_examples(n_examples, n_features, sparsity, rng, repeats)
    if "example " in shape:
        rows = examples.to_scipy().toarray()
        rows[2] = 0
        rows[2, 7] = 1 if "single" in shape else 0
        examples = SparseExamples.from_matrix(rows, repeats)
    W, b = _weights(regime, n_hidden, n_features, examples, rng)
    return Case(W.astype(np.float32), b.astype(np.float32), examples)


def _weights(
    regime: str, n_hidden: int, n_features: int, examples: SparseExamples, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "n_hidden n_features"], Float64[np.ndarray, " n_features"]]:
    if regime in ("small random", "memorized"):
        W = rng.normal(0, np.sqrt(2 / (n_hidden + n_features)), (n_hidden, n_features))
        if regime == "small random":
            return W, rng.normal(0, 1e-3, n_features)
        training = reference.start(W, np.zeros(n_features), examples, AdamW(weight_decay=0), "sum")
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            training.advance(np.full(60 if examples.n_examples * n_features > 100_000 else 600, 0.02))
        return training.W, training.b
    W = rng.normal(0, 1, (n_hidden, n_features))
    if regime == "large bias":
        return W, rng.normal(0, 30, n_features)
    return W, np.full(n_features, 50.0 if regime == "all active" else -50.0)
