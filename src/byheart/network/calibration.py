"""From a ranking to probabilities: what held-out runs say of how often examples with such scores are missed unseen.

A held-out run is a model that was trained on some of the examples only. Whether it misses those that it never saw is
regressed on the scores of the audited model; the same for those it was trained on; the difference of the two rates is
memorization. Examples with the same scores still differ, and so do runs: each rate of an example is taken to be normal
around its regression, on the probit scale, with a deviation of 0.75, or more if several held-out runs say so. Intervals
that took the rate of known examples from one run as exact covered 8 to 35 % of wrong labels in place of 95 %.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from scipy.special import ndtr, ndtri

from byheart.network.score_table import Evidence, scores_from

if TYPE_CHECKING:
    from byheart.network.counterfactual import Counterfactual

MEMORIZED = 0.25  # an example counts as memorized from this memorization on (Feldman and Zhang 2020)
_DEVIATIONS = np.array([0.75, 1.0, 1.5, 2.0])  # the first where one run cannot tell; few runs tell less too easily
_NODES = {"out": np.linspace(-4, 4, 161), "in": np.linspace(-3, 3, 11)}  # of the normal distributions
_GRID = np.linspace(-1, 1, 401)  # of memorization
_FEWEST = 5  # outcomes of either kind that a regression takes
_ROWS_AT_ONCE = 2_000
_ROWS_THAT_TELL = 20_000  # the deviation
_LEVEL = 0.95


def calibrate(
    table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence], held_out: Counterfactual
) -> pd.DataFrame:
    """Estimate the memorization of every example from its scores, given what held-out runs know.

    Args:
        table: Scores of the examples of a classification, as ``Audit.table`` has them.
        layers: Layers that the scores of layers are of; with several, their means are taken.
        evidence: What the scores are made from.
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
    if "head" not in evidence:
        raise ValueError("held_out: received with a model without classes or last linear layer, accepted: with both")
    features = _features(table, layers, evidence)
    sides = [_Side.of(features, missed, rows, nodes) for rows, nodes in ((~inside, "out"), (inside, "in"))]
    chunks = np.array_split(np.arange(len(table)), -(-len(table) // _ROWS_AT_ONCE))
    parts = [_posterior(*(side.likelihoods(rows) for side in sides)) for rows in chunks]
    return pd.DataFrame(np.concatenate(parts), columns=["estimate", "low", "high", "probability"])


def _features(
    table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]
) -> Float64[np.ndarray, "n_examples n_scores"]:
    used = ("always", "with a log" if "log" in evidence else "without a log")
    columns = []
    for score in scores_from(evidence):
        if score.calibrates in used:
            values = score.values(table, layers).to_numpy(dtype=np.float64)
            columns.append(np.log(np.maximum(values, 1e-12)) if score.transform == "log" else values)
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


@dataclass
class _Side:
    """How often each example is missed by models that were trained on it, or by those that were not."""

    rate: Float64[np.ndarray, " n_examples"]
    """Of examples with such scores."""
    n: Int64[np.ndarray, " n_examples"]
    n_missed: Int64[np.ndarray, " n_examples"]
    nodes: Float64[np.ndarray, " n_nodes"]
    deviation: float = float(_DEVIATIONS[0])

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        missed: Bool[np.ndarray, "n_models n_examples"],
        rows: Bool[np.ndarray, "n_models n_examples"],
        nodes: str,
    ) -> _Side:
        rate = _rates(features, missed, rows)
        side = cls(rate, rows.sum(axis=0), (missed & rows).sum(axis=0), _NODES[nodes])
        telling = np.flatnonzero(side.n >= 2)[:_ROWS_THAT_TELL]
        if len(telling) >= _FEWEST:
            fits = []
            for value in _DEVIATIONS.tolist():
                side.deviation = value
                fits.append(np.log(side.likelihoods(telling)[1].sum(axis=1)).sum())
            side.deviation = float(_DEVIATIONS[int(np.argmax(fits))])
        return side

    def likelihoods(
        self, rows: Int64[np.ndarray, " n_rows"]
    ) -> tuple[Float64[np.ndarray, "n_rows n_nodes"], Float64[np.ndarray, "n_rows n_nodes"]]:
        """Rates of these examples at the nodes, and how likely their outcomes are at each, times the nodes' weights."""
        centre = ndtri(np.clip(self.rate[rows], 1e-6, 1 - 1e-6)) * np.sqrt(1 + self.deviation**2)
        rates = ndtr(centre[:, None] + self.deviation * self.nodes)
        n, n_missed = self.n[rows, None], self.n_missed[rows, None]
        density = np.exp(-(self.nodes**2) / 2)
        return rates, rates**n_missed * (1 - rates) ** (n - n_missed) * (density / density.sum())


def _posterior(
    missed_out: tuple[np.ndarray, np.ndarray], missed_in: tuple[np.ndarray, np.ndarray]
) -> Float64[np.ndarray, "n_rows 4"]:
    """Mean, interval and probability of being above 0.25, of memorization: a row per example."""
    (rate_out, weight_out), (rate_in, weight_in) = missed_out, missed_in
    mem = rate_out[:, :, None] - rate_in[:, None, :]
    weights = weight_out[:, :, None] * weight_in[:, None, :]
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    cells = np.rint((mem + 1) / (_GRID[1] - _GRID[0])).astype(np.int64)
    cells += len(_GRID) * np.arange(len(mem))[:, None, None]
    density = np.bincount(cells.ravel(), weights.ravel(), len(mem) * len(_GRID)).reshape(len(mem), -1)
    below = density.cumsum(axis=1)
    low, high = (
        _GRID[(below < tail).sum(axis=1).clip(max=len(_GRID) - 1)] for tail in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2)
    )
    above = density[:, _GRID > MEMORIZED + 1e-9].sum(axis=1)
    return np.stack([(weights * mem).sum(axis=(1, 2)), low, high, above], axis=1)
