"""The ReLU-output model: h = W x, x' = ReLU(W^T h + b), with tied weights.

The loss of an example is the squared error summed over features, so a model that always answers 0 scores exactly 1 on
unit-norm examples.

Source: Henighan et al. 2023, section "Experiment setup"; Elhage et al. 2022, "Toy Models of Superposition".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from byheart.toy.data import SparseExamples
from byheart.toy.pace import Pace

Initialization = Literal["xavier_normal", "xavier_uniform", "polygon", "pentagon"]
BUILT: tuple[Initialization, ...] = ("polygon", "pentagon")
BiasInitialization = Literal["zeros", "uniform"]
Loss = Literal["squared", "absolute", "fourth_power"]
Reduction = Literal["sum", "mean"]

_ROWS_OF_FIRST_PIECE = 1024


@dataclass(frozen=True)
class Variant:
    """What may differ from the paper's model; see the fields of these names in ``TrainConfig``."""

    loss: Loss = "squared"
    hidden_relu: bool = False
    tied: bool = True


def initial_weights(
    n_hidden: int,
    n_features: int,
    initialization: Initialization,
    rng: np.random.Generator,
    bias: BiasInitialization = "zeros",
) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
    """Draw W by Glorot and Bengio's rule (gain 1, standard deviation sqrt(2 / (n_hidden + n_features))), and b.

    The bias is zero, or uniform on +-1/sqrt(n_hidden) as in ``torch.nn.Linear(n_hidden, n_features)``.

    Raises:
        ValueError: If the initialization is not a drawn one.

    References:
        Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """
    if initialization in BUILT:
        raise ValueError(f"initialization: received {initialization}, accepted: xavier_normal or xavier_uniform")
    std = np.sqrt(2 / (n_hidden + n_features))
    if initialization == "xavier_normal":
        W = rng.normal(0, std, (n_hidden, n_features))
    else:
        bound = np.sqrt(3) * std
        W = rng.uniform(-bound, bound, (n_hidden, n_features))
    b = np.zeros(n_features) if bias == "zeros" else rng.uniform(-1, 1, n_features) / np.sqrt(n_hidden)
    return W.astype(np.float32), b.astype(np.float32)


def encoder(W: Float[np.ndarray, "n_rows n_features"], variant: Variant) -> Float[np.ndarray, "n_hidden n_features"]:
    """Return the weights of the encoder: all of W, or the upper half if weights are untied."""
    return W if variant.tied else W[: len(W) // 2]


def hidden_vectors(
    W: Float[np.ndarray, "n_rows n_features"],
    examples: SparseExamples,
    variant: Variant = Variant(),
) -> Float[np.ndarray, "n_examples n_hidden"]:
    """Return h_i = W x_i of every distinct example, after a ReLU if the variant has one."""
    X, W_t = examples.to_scipy(), np.ascontiguousarray(encoder(W, variant).T)
    h = np.empty((examples.n_examples, W_t.shape[1]), W.dtype)
    for first, last in Pace(_ROWS_OF_FIRST_PIECE).cut(0, len(h)):
        h[first:last] = X[first:last] @ W_t
    return np.maximum(h, 0) if variant.hidden_relu else h


def outputs(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    X: Float[np.ndarray, "n_examples n_features"],
) -> Float[np.ndarray, "n_examples n_features"]:
    """Return x' = ReLU(W^T W x + b) for a dense batch."""
    return np.asarray(np.maximum(X @ W.T @ W + b, 0))


def loss_scale(n_features: int, reduction: Reduction) -> float:
    """Return what an example's summed squared error is multiplied by: 1, or 1/n_features for ``"mean"``."""
    return 1.0 if reduction == "sum" else 1.0 / n_features
