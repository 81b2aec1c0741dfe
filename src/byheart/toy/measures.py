"""What is measured on a trained model: losses, norms, dimensionalities, and the features that it represents."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float64, Int64

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.toy.config import TrainConfig
from byheart.toy.data import SparseExamples
from byheart.toy.kernels import Kernel, choose, kernel_for
from byheart.toy.kernels.blas import one_blas_thread
from byheart.toy.model import Variant, encoder, loss_scale
from byheart.toy.runs import Run

_REPRESENTED_BELOW = 0.75  # loss of a feature alone


def norm(weights: np.ndarray) -> float:
    """Return the Euclidean norm. Not by BLAS, whose threads add up in another order and would make other bits."""
    return float(np.sqrt(np.square(weights, dtype=np.float64).sum()))


def measure(
    config: TrainConfig,
    kernel: Kernel,
    W: Float[np.ndarray, "n_rows n_features"],
    b: Float[np.ndarray, " n_features"],
    hidden: Float[np.ndarray, "n_examples n_hidden"],
    repeats: Int64[np.ndarray, " n_examples"],
    test: SparseExamples | None,
) -> dict[str, float | None]:
    """Return the metrics of a trained model by name; None where one does not apply.

    Args:
        config: What was trained.
        kernel: What computes the losses.
        W: Weights.
        b: Bias.
        hidden: Hidden vectors of the distinct training examples.
        repeats: How often each of these occurs in the training set.
        test: Examples for the test loss, if there are any.
    """
    scale = loss_scale(config.n_features, config.reduction)
    test_losses = None if test is None else scale * kernel.example_losses(W, b, test)
    with one_blas_thread():  # sums in another order would be other bits
        example_dims = example_dimensionality(hidden, repeats)
        feature_dims = feature_dimensionality(encoder(W, config.variant))
    return {
        "test_loss": None if test_losses is None else float(test_losses.mean()),
        "test_loss_se": None
        if test_losses is None or len(test_losses) < 2
        else float(test_losses.std(ddof=1) / np.sqrt(len(test_losses))),
        "W_norm": norm(W),
        "b_norm": norm(b),
        "n_features_represented": float(len(represented_features(W, b, kernel, config.variant))),
        "feature_dimensionality_max": float(feature_dims.max()),
        "example_dimensionality_max": float(example_dims.max()),
        "example_dimensionality_mean": float(np.average(example_dims, weights=repeats)),
    }


def example_losses(run: Run, examples: Any) -> Float64[np.ndarray, " n_examples"]:
    """Return a run's error on each example, summed over features: squared, unless the config has another loss.

    Args:
        run: A trained model.
        examples: Any examples, one per row: a scipy.sparse matrix, an array or ``SparseExamples``.

    Raises:
        ValueError: If their width is not the model's, or a value is not finite.
    """
    rows = examples if isinstance(examples, SparseExamples) else SparseExamples.from_matrix(examples)
    if rows.n_features != run.W.shape[1]:
        raise ValueError(f"examples: received {rows.n_features} features, accepted: {run.W.shape[1]} as in the run")
    variant = run.config.variant
    return choose(kernel_for(variant), variant).example_losses(run.W, run.b, rows)


def represented_features(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    kernel: Kernel | None = None,
    variant: Variant = Variant(),  # noqa: B008  (it is immutable)
) -> Int64[np.ndarray, " n_represented"]:
    """Return the features the model represents: shown one alone (x = e_i), its squared error is below 3/4.

    Answering 0 has an error of 1. At the paper's setup and T = 10,000 and more, five features have 0.4 to 0.7 and all
    others at least 0.86. Where examples are memorized, a few features that dominate one of them may count too.

    Args:
        W: Weights.
        b: Bias.
        kernel: What computes the losses; default "cpu".
        variant: Of the model that the kernel computes; its loss takes the place of the squared error.
    """
    asked = np.arange(W.shape[1])
    if variant == Variant():  # the error of output i alone, at most the loss, rules nearly all features out
        own = 1 - np.maximum(np.square(W).sum(axis=0) + b, 0)
        asked = np.flatnonzero(~(np.square(own) > _REPRESENTED_BELOW + 0.01))
    if not len(asked):
        return asked
    one_each = SparseExamples.from_matrix(scipy.sparse.eye_array(W.shape[1], format="csr")[asked])
    return asked[(kernel or choose("cpu")).example_losses(W, b, one_each) < _REPRESENTED_BELOW]
