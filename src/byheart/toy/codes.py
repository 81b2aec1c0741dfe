"""How many bits a model saves in writing an example down: what it holds of it, in units of its capacity.

Sender and receiver both have the model. The sender writes the hidden vector, rounded to a grid, and what the model's
answer to it gets wrong; or, where that is shorter, the example as if there were no model, which one bit tells. Bits
that are saved on training examples, beyond those saved on fresh ones, are memorized: the model could learn them nowhere
else. They are a lower bound, since another code might save more.

Source: Morris et al. 2025, arXiv 2505.24832 (memorization in bits, as what a model saves in a code); this code is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from byheart.arrays import finite_array
from byheart.toy.data import SparseExamples

RESOLUTION = 2**-7  # to which values, between 0 and 1, are written
ANSWERED = 0.05  # an answer above it is taken to say that the feature is there
_GRID_BITS = tuple(range(1, 15))  # for each hidden unit; the best of these for a set of examples is chosen
_SCALES = tuple(RESOLUTION * 2**k for k in range(6))  # of the errors of values, likewise
_PASSES = 3  # over which examples are written with the model, and how likely its mistakes are


@dataclass(frozen=True)
class Code:
    """The bits of each example of a set, without a model and with it."""

    without: Float64[np.ndarray, " n_examples"]
    """As if there were no model: which features are there, and their values."""
    with_model: Float64[np.ndarray, " n_examples"]
    """The shorter of both ways, and the bit that tells which."""

    @property
    def saved(self) -> Float64[np.ndarray, " n_examples"]:
        """Bits that the model saves, at least -1."""
        saved: Float64[np.ndarray, " n_examples"] = self.without - self.with_model
        return saved


def memorized_bits(train: Code, fresh: Code) -> float:
    """Return the bits that a model holds of its training set: saved there, beyond what it saves on fresh examples."""
    return float(train.saved.sum() - len(train.saved) * fresh.saved.mean())


def code(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    sparsity: float,
) -> Code:
    """Return how many bits a set of distinct examples takes, without the model and with it.

    Args:
        W: Weights of the ReLU-output model.
        b: Bias.
        examples: What is written down; values lie between 0 and 1.
        sparsity: Probability that a feature is 0, which both sides know; above 0, below 1.

    Raises:
        ValueError: If weights are not finite or do not fit the examples, values lie outside of 0 to 1, or the sparsity
            is out of range.
    """
    W, b = finite_array(W, "W"), np.asarray(b)
    _check(W, b, examples, sparsity)
    X = examples.to_scipy().toarray().astype(np.float64)
    there = X > 0
    n_there = there.sum(axis=1)
    places = -n_there * np.log2(1 - sparsity) - (X.shape[1] - n_there) * np.log2(sparsity)
    without = places + n_there * -np.log2(RESOLUTION)
    h = X @ np.asarray(W, np.float64).T
    reach = float(np.abs(h).max()) or 1.0
    best = without + 1.0
    for bits in _GRID_BITS:
        step = 2 * reach / 2**bits
        rounded = (np.floor(h / step) + 0.5) * step
        answers = np.maximum(rounded @ W + b, 0)
        found = bits * len(W) + _corrections(X, there, answers, without - bits * len(W), sparsity)
        shorter = 1 + np.minimum(found, without)
        best = shorter if shorter.sum() < best.sum() else best
    return Code(without, best)


def _check(W: np.ndarray, b: np.ndarray, examples: SparseExamples, sparsity: float) -> None:
    n = examples.n_features
    if W.shape[1] != n or b.shape != (n,) or not np.isfinite(b).all():
        accepted = f"W of shape (n_hidden, {n}) and b of shape ({n},), finite, as the examples have {n} features"
        raise ValueError(f"W, b: received shapes {W.shape} and {b.shape}, accepted: {accepted}")
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity: received {sparsity}, accepted: above 0, below 1")
    if len(examples.values) and not (examples.values.min() >= 0 and examples.values.max() <= 1 + RESOLUTION):
        low, high = examples.values.min(), examples.values.max()
        raise ValueError(f"examples: received values from {low:g} to {high:g}, accepted: from 0 to 1")


def _corrections(
    X: Float64[np.ndarray, "n_examples n_features"],
    there: Bool[np.ndarray, "n_examples n_features"],
    answers: Float64[np.ndarray, "n_examples n_features"],
    worth: Float64[np.ndarray, " n_examples"],
    sparsity: float,
) -> Float64[np.ndarray, " n_examples"]:
    """Bits that set the answers right; their mistakes are as likely as among examples for which that is worth while."""
    said = answers > ANSWERED
    hits, misses = (said & there).sum(axis=1), (~said & there).sum(axis=1)
    n_said = said.sum(axis=1)
    values = _value_bits(X, there, answers)
    chosen = np.ones(len(X), bool)
    bits = np.zeros(len(X))
    for _ in range(_PASSES):
        hit = (hits[chosen].sum() + 0.5) / (n_said[chosen].sum() + 1)
        miss = (misses[chosen].sum() + 0.5) / ((X.shape[1] - n_said[chosen]).sum() + 1)
        bits = -hits * np.log2(hit) - (n_said - hits) * np.log2(1 - hit)
        bits += -misses * np.log2(miss) - (X.shape[1] - n_said - misses) * np.log2(1 - miss)
        bits += _best_scale(values, chosen)
        chosen = bits < worth
        if not chosen.any():
            break
    return bits


def _value_bits(
    X: Float64[np.ndarray, "n_examples n_features"],
    there: Bool[np.ndarray, "n_examples n_features"],
    answers: Float64[np.ndarray, "n_examples n_features"],
) -> Float64[np.ndarray, "n_scales n_examples"]:
    """Bits of the values, given the answers: half of the probability is spread evenly, half around the answer."""
    rows, columns = np.nonzero(there)
    errors = X[rows, columns] - answers[rows, columns]
    found = []
    for scale in _SCALES:
        near = RESOLUTION / (scale * np.sqrt(2 * np.pi)) * np.exp(-((errors / scale) ** 2) / 2)
        each = -np.log2(np.minimum(0.5 * RESOLUTION + 0.5 * near, 1.0))
        found.append(np.bincount(rows, each, minlength=len(X)))
    return np.stack(found)


def _best_scale(
    values: Float64[np.ndarray, "n_scales n_examples"], chosen: Bool[np.ndarray, " n_examples"]
) -> Float64[np.ndarray, " n_examples"]:
    best: Float64[np.ndarray, " n_examples"] = values[values[:, chosen].sum(axis=1).argmin()]
    return best
