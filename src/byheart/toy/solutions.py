"""Weights built by hand: examples memorized on a polygon, features on a pentagon; and the losses theory gives them.

Source: Henighan et al. 2023 (two dimensions hold any number of orthogonal examples; five features are best there) and
the notebook with it; S. Jain 2025 on the latter.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from byheart.toy.data import SparseExamples


def polygon_radius(n_examples: int) -> float:
    """Return r = 1/sqrt(1 - cos(2 pi/T)), the least radius at which a regular T-gon of unit examples can be told apart.

    Raises:
        ValueError: If ``n_examples`` is below 2.
    """
    if n_examples < 2:
        raise ValueError(f"n_examples: received {n_examples}, accepted: an integer >= 2")
    return float(1 / np.sqrt(1 - np.cos(2 * np.pi / n_examples)))


def polygon_norms(n_examples: int) -> tuple[float, float]:
    """Return ||W|| = sqrt(T) r and ||b|| = sqrt(T) r^2 |cos(2 pi/T)| of the least T-gon of unit examples.

    They hold for examples without a feature in common; for a larger radius R, ||b|| = sqrt(T) (R^2 - 1).

    Raises:
        ValueError: If ``n_examples`` is below 2.
    """
    radius = polygon_radius(n_examples)
    return np.sqrt(n_examples) * radius, np.sqrt(n_examples) * radius**2 * abs(np.cos(2 * np.pi / n_examples))


def polygon(examples: SparseExamples) -> tuple[Float64[np.ndarray, "2 n_features"], Float64[np.ndarray, " n_features"]]:
    """Return (W, b) that put the examples on a regular polygon, in their order.

    With h_i = r u_i, the bias -r^2 cos(2 pi/T) x lets through what points within 2 pi/T of an example: the loss of unit
    examples without a feature in common is 0. Examples that share features disturb each other.

    Raises:
        ValueError: If there are fewer than 2 examples.
    """
    n_examples = examples.n_examples
    radius, angle = polygon_radius(n_examples), 2 * np.pi / n_examples
    X = examples.to_scipy().astype(np.float64)
    corners = radius * np.stack([np.cos(angle * np.arange(n_examples)), np.sin(angle * np.arange(n_examples))])
    return np.asarray((X.T @ corners.T).T), -(radius**2) * np.cos(angle) * np.asarray(X.sum(axis=0)).ravel()


def pentagon(
    examples: SparseExamples,
) -> tuple[Float64[np.ndarray, "2 n_features"], Float64[np.ndarray, " n_features"]]:
    """Return (W, b) with the five features of largest sum on a unit pentagon; all others are answered by their mean.

    Raises:
        ValueError: If there are fewer than five features.
    """
    if examples.n_features < 5:
        raise ValueError(f"n_features: received {examples.n_features}, accepted: an integer >= 5")
    sums = np.asarray(examples.expanded().to_scipy().sum(axis=0), dtype=np.float64).ravel()
    chosen, angles = np.argsort(-sums, kind="stable")[:5], 2 * np.pi * np.arange(5) / 5
    W, b = np.zeros((2, examples.n_features)), sums / examples.repeats.sum()
    W[:, chosen] = np.stack([np.cos(angles), np.sin(angles)])
    b[chosen] = 0
    return W, b


def feature_polygon_loss_change(n_corners: int, sparsity: float) -> float:
    """Return how the loss changes if F features, uniform on (0, 1], are put on a regular unit polygon, with b = 0.

    (1 - S) (F/3) (sum over the others of max(0, cos)^2 - 1): each feature is answered, and disturbs those within a
    right angle. Least at F = 5.

    References:
        Henighan et al. 2023, the second notebook with it, as retold by S. Jain 2025.
    """
    others = np.cos(2 * np.pi * np.arange(1, n_corners) / n_corners)
    return float((1 - sparsity) * n_corners / 3 * ((np.maximum(others, 0) ** 2).sum() - 1))


def infinite_data_loss(n_features: int, mean: float, n_represented: int = 5) -> float:
    """Return the loss on unit-norm examples if some features are answered exactly, all others by their mean E[x].

    1 - F/n - (n - F) E[x]^2: F features carry F/n of the squared norm, a constant saves E[x]^2 on each of the others.
    """
    return 1 - n_represented / n_features - (n_features - n_represented) * mean**2
