"""From a ranking to probabilities: what held-out runs say of how often examples with such scores are missed unseen.

A held-out run is a model that was trained on some of the examples only. Whether it misses those that it never saw is
regressed on the scores of the audited model; the same for those it was trained on; the difference of the two rates is
memorization. Examples with the same scores still differ: the rate of each is taken to be normal around the regression,
on the probit scale, with a deviation that two held-out runs or more tell, and that is 0.75 otherwise (what MNIST has).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy.stats import norm

if TYPE_CHECKING:
    from byheart.audit.counterfactual import Counterfactual

MEMORIZED = 0.25  # an example counts as memorised from this memorization on (Feldman and Zhang 2020)
_WITH_LOG = ("mean_loss", "maximal_dimensionality", "ridge_leave_one_out", "gradient_dimensionality")
_WITHOUT_LOG = (
    "loss",
    "maximal_dimensionality",
    "ridge_leave_one_out",
    "gradient_dimensionality",
    "other_class",
    "class_dimensionality",
    "residual_dimensionality",
    "gradient_norm",
)
_MARGINS = ("ridge_leave_one_out", "other_class")  # all others are positive, and enter by their logarithm
_DEVIATIONS = np.array([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0])  # that are tried where two runs tell
_DEFAULT_DEVIATION = 0.75
_NODES = np.linspace(-4, 4, 81)  # of the normal distribution around the regression
_FEWEST = 5  # outcomes of either kind that a regression takes
_ROWS_AT_ONCE = 20_000
_LEVEL = 0.95


def calibrate(table: pd.DataFrame, held_out: Counterfactual) -> pd.DataFrame:
    """Estimate the memorization of every example from its scores, given what held-out runs know.

    Args:
        table: ``Audit.table`` of a classification.
        held_out: One or more runs on parts of the same examples; their number and fraction are free.

    Returns:
        estimate: Of memorization, in [-1, 1].
        low, high: Ends of its 95 % interval, as far as scores and outcomes tell.
        probability: That memorization is above 0.25.

    Raises:
        ValueError: If the runs are of another number of examples, each has seen all or nothing, or the table is of no
            classification with a last linear layer.

    References:
        Feldman and Zhang 2020 (memorization, and the threshold 0.25). The regression is ours.
    """
    inside, missed = held_out.train_mask, held_out.margins <= 0
    if inside.shape[1] != len(table):
        raise ValueError(f"held_out: received {inside.shape[1]} examples, accepted: the dataset's {len(table)}")
    if inside.all() or not inside.any():
        raise ValueError("held_out: received runs on all examples or none, accepted: on some of them")
    if "ridge_leave_one_out" not in table:
        raise ValueError("held_out: received with a model without classes or last linear layer, accepted: with both")
    features = _features(table)
    rate_out, rate_in = _rates(features, missed, ~inside), _rates(features, missed, inside)
    n_out, n_missed = (~inside).sum(axis=0), (missed & ~inside).sum(axis=0)
    deviation = _DEFAULT_DEVIATION
    if (n_out >= 2).sum() >= _FEWEST:
        deviation = max(_DEVIATIONS, key=lambda value: _log_likelihood(rate_out, n_out, n_missed, value))
    parts = [
        _posterior(rate_out[rows], rate_in[rows], n_out[rows], n_missed[rows], deviation)
        for rows in np.array_split(np.arange(len(table)), -(-len(table) // _ROWS_AT_ONCE))
    ]
    return pd.DataFrame(np.concatenate(parts), columns=["estimate", "low", "high", "probability"])


def _features(table: pd.DataFrame) -> np.ndarray:
    names = [name for name in (_WITH_LOG if "mean_loss" in table else _WITHOUT_LOG) if name in table]
    columns = [
        table[name].to_numpy() if name in _MARGINS else np.log(np.maximum(table[name].to_numpy(), 1e-12))
        for name in names
    ]
    return np.stack(columns, axis=1)


def _rates(
    features: np.ndarray, missed: Bool[np.ndarray, "n_models n_examples"], rows: Bool[np.ndarray, "n_models n_examples"]
) -> Float64[np.ndarray, " n_examples"]:
    """How often examples with such scores are missed by the models of these rows; one rate for all if few are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, examples = np.nonzero(rows)
    outcomes = missed[rows]
    if min(outcomes.sum(), (~outcomes).sum()) < _FEWEST:
        return np.full(len(features), (outcomes.sum() + 0.5) / (len(outcomes) + 1))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    regression.fit(features[examples], outcomes)
    found: Float64[np.ndarray, " n_examples"] = regression.predict_proba(features)[:, 1]
    return found


def _likelihoods(
    rate: np.ndarray, n_out: np.ndarray, n_missed: np.ndarray, deviation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rates at the nodes, and how likely the outcomes are at each, times the nodes' weights."""
    centre = norm.ppf(np.clip(rate, 1e-6, 1 - 1e-6)) * np.sqrt(1 + deviation**2)
    rates = norm.cdf(centre[:, None] + deviation * _NODES)
    weights = norm.pdf(_NODES) / norm.pdf(_NODES).sum()
    likely = rates ** n_missed[:, None] * (1 - rates) ** (n_out - n_missed)[:, None]
    return rates, likely * weights


def _log_likelihood(rate: np.ndarray, n_out: np.ndarray, n_missed: np.ndarray, deviation: float) -> float:
    rows = np.flatnonzero(n_out >= 2)[:_ROWS_AT_ONCE]
    _, weighted = _likelihoods(rate[rows], n_out[rows], n_missed[rows], float(deviation))
    return float(np.log(weighted.sum(axis=1)).sum())


def _posterior(
    rate_out: np.ndarray, rate_in: np.ndarray, n_out: np.ndarray, n_missed: np.ndarray, deviation: float
) -> np.ndarray:
    """Mean, interval and probability of being above 0.25, of memorization: a row per example."""
    rates, weights = _likelihoods(rate_out, n_out, n_missed, deviation)
    weights /= weights.sum(axis=1, keepdims=True)
    mem = rates - rate_in[:, None]
    below = weights.cumsum(axis=1)
    index = np.arange(len(mem))
    low, high = (
        mem[index, (below < tail).sum(axis=1).clip(max=len(_NODES) - 1)]
        for tail in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2)
    )
    # The node at which 0.25 is passed counts in part, so that probabilities do not jump.
    above = np.clip((mem - MEMORIZED) / np.maximum(np.gradient(mem, axis=1), 1e-12) + 0.5, 0, 1)
    return np.stack([(weights * mem).sum(axis=1), low, high, (weights * above).sum(axis=1)], axis=1)
