"""Regressions on cheap scores, each row predicted from other rows only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy.special import expit

_FOLDS = 10
_PENALTIES = 10.0 ** np.arange(-3, 5)  # of standardised scores
_STEPS = 50

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""What predicts at other features, given features and outcomes."""


def cross_fitted(
    features: Float64[np.ndarray, "n_rows n_scores"], outcomes: np.ndarray, fit: Fit, rows: np.ndarray, seed: int = 0
) -> Float64[np.ndarray, " n_rows"]:
    """Predict every row from others, ten folds of the rows that have outcomes; from all, where a row has none.

    Args:
        features: Scores of all rows.
        outcomes: Outcomes of all rows; only those of ``rows`` are read.
        fit: What fits and predicts.
        rows: Numbers of the rows to fit to.
        seed: Of the folds.
    """
    features = _standardised(features)
    found = fit(features[rows], outcomes[rows], features)
    folds = np.array_split(np.random.default_rng(seed).permutation(rows), min(_FOLDS, len(rows)))
    for fold in folds:
        others = np.setdiff1d(rows, fold)
        found[fold] = fit(features[others], outcomes[others], features[fold])
    return found


def ridge(features: np.ndarray, outcomes: np.ndarray, at: np.ndarray) -> Float64[np.ndarray, " n_at"]:
    """Fit a ridge regression, its penalty chosen by leaving out one row at a time, and predict."""
    middle, mean = features.mean(axis=0), outcomes.mean()
    u, d, vt = np.linalg.svd(features - middle, full_matrices=False)
    centred, fits = outcomes - mean, []
    for penalty in _PENALTIES:
        shrink = d**2 / (d**2 + penalty)
        left = 1 - 1 / len(features) - (u**2) @ shrink
        fits.append(np.mean(((centred - u @ (shrink * (u.T @ centred))) / np.maximum(left, 1e-9)) ** 2))
    penalty = _PENALTIES[int(np.argmin(fits))]
    slope = vt.T @ (d / (d**2 + penalty) * (u.T @ centred))
    found: Float64[np.ndarray, " n_at"] = mean + (at - middle) @ slope
    return found


def logistic(features: np.ndarray, outcomes: np.ndarray, at: np.ndarray) -> Float64[np.ndarray, " n_at"]:
    """Fit a logistic regression with a small penalty by Newton's method, and predict probabilities."""
    x = np.column_stack([np.ones(len(features)), features])
    penalty = np.diag([0.0, *np.ones(features.shape[1])])
    # Half an outcome of either kind keeps the constant finite where all are equal.
    outcomes = (outcomes * len(x) + 0.5) / (len(x) + 1)
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = expit(x @ weights)
        step = np.linalg.solve(
            (x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-9 * np.eye(len(penalty)),
            x.T @ (outcomes - p) - penalty @ weights,
        )
        weights += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    found: Float64[np.ndarray, " n_at"] = expit(weights[0] + at @ weights[1:])
    return found


def checked_scores(scores: np.ndarray, n_units: int) -> Float64[np.ndarray, "n_units n_scores"]:
    """Return scores as a matrix with a row per unit.

    Raises:
        ValueError: If the shape is another, or a score is not finite.
    """
    found = np.asarray(scores, dtype=np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n_units or not found.shape[1]:
        raise ValueError(f"scores: received shape {found.shape}, accepted: ({n_units}, n_scores)")
    if not np.isfinite(found).all():
        raise ValueError("scores: received some that are not finite, accepted: finite ones")
    return found


def _standardised(features: np.ndarray) -> Float64[np.ndarray, "n_rows n_scores"]:
    spread = features.std(axis=0)
    found: Float64[np.ndarray, "n_rows n_scores"] = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return found
