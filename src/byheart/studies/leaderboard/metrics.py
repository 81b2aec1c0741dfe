"""How well scores rank what is memorized: areas and precision with intervals; calibration; what follows the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from sklearn.metrics import average_precision_score, roc_auc_score

from byheart.memorization import Memorization
from byheart.network.calibration import MEMORIZED

N_RESAMPLES = 100
_FEWEST = 10  # examples of either kind that a ranking is judged by


def ranking(
    scores: Mapping[str, list[np.ndarray]],
    positive: Bool[np.ndarray, " n_examples"],
    *,
    n_resamples: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how well each score ranks the positive examples first: a row per score.

    Args:
        scores: By name, the score of every example, by several audited networks.
        positive: Which examples should come first.
        n_resamples: Of the examples, for the intervals; default 100.
        seed: Of the resampling.

    Returns:
        score; auroc, ap and precision at as many as there are positive, means over networks, with the ends of their
        95 % intervals over examples. Empty with fewer than ten positive or negative examples.
    """
    if min(positive.sum(), (~positive).sum()) < _FEWEST:
        return pd.DataFrame()
    rng = np.random.default_rng(seed)
    samples = [
        np.arange(len(positive)),
        *(rng.integers(0, len(positive), len(positive)) for _ in range(n_resamples or N_RESAMPLES)),
    ]
    rows = []
    for name, values in scores.items():
        found = np.array([np.mean([_areas(v[rows_], positive[rows_]) for v in values], axis=0) for rows_ in samples])
        low, high = np.quantile(found[1:], (0.025, 0.975), axis=0)
        row: dict[str, object] = {"score": name}
        for k, metric in enumerate(("auroc", "ap", "precision_at_n")):
            row |= {metric: found[0, k], f"{metric}_low": low[k], f"{metric}_high": high[k]}
        rows.append(row)
    return pd.DataFrame(rows)


def _areas(values: np.ndarray, positive: np.ndarray) -> tuple[float, float, float]:
    first = np.argsort(-values, kind="stable")[: positive.sum()]
    area, precision = roc_auc_score(positive, values), average_precision_score(positive, values)
    return float(area), float(precision), float(positive[first].mean())


def calibration(
    calibrated: list[pd.DataFrame],
    truth: Memorization,
    rows: Bool[np.ndarray, " n_examples"],
    wrong: Bool[np.ndarray, " n_examples"],
) -> pd.Series[float]:
    """Return how far estimates and probabilities are from the truth, means over audited networks.

    Returns:
        rmse of the estimates; that of the truth itself against its expectation, ``truth_rmse``; calibration_error of
        the probability that memorization is above 0.25, the mean distance in ten groups of equal size; coverage of the
        95 % intervals, widened by the truth's resolution, one model; coverage_wrong, of those of wrong labels.
    """
    mem, step = truth.mem[rows], 1 / truth.n_out[rows]
    found = []
    for table in calibrated:
        part = table[rows]
        error = float(np.sqrt(np.mean((part["estimate"] - mem) ** 2)))
        inside = ((part["low"] - step <= mem) & (mem <= part["high"] + step)).to_numpy()
        gap = calibration_error(part["probability"].to_numpy(), mem > MEMORIZED)
        among_wrong = inside[wrong[rows]].mean() if wrong[rows].any() else np.nan
        found.append((error, gap, inside.mean(), among_wrong))
    rate = 1 - mem.clip(0, 1)
    noise = float(np.sqrt(np.mean(rate * (1 - rate) / truth.n_out[rows])))
    values = dict(zip(("rmse", "calibration_error", "coverage", "coverage_wrong"), np.mean(found, axis=0), strict=True))
    return pd.Series(values | {"truth_rmse": noise})


def calibration_error(
    probabilities: Float64[np.ndarray, " n_examples"], happened: Bool[np.ndarray, " n_examples"], n_groups: int = 10
) -> float:
    """Return the mean distance of probabilities and rates, in groups of equal size by probability."""
    groups = np.array_split(np.argsort(probabilities, kind="stable"), n_groups)
    gaps = [abs(probabilities[group].mean() - happened[group].mean()) * len(group) for group in groups]
    return float(sum(gaps) / len(probabilities))


def follows(
    scores: Mapping[str, list[np.ndarray]],
    base: Float64[np.ndarray, " n_examples"],
    other: Float64[np.ndarray, " n_examples"],
) -> pd.DataFrame:
    """Return whether a score of one network tells which of another's memorized examples it has memorized too.

    Args:
        scores: Of the one network, by name.
        base: Memorization by the other network, from the same data.
        other: Memorization by the one.

    Returns:
        As ``ranking``, among examples with a base above 0.25: those whose ``other`` is above 0.25 should come first. A
        score that knows only the data cannot tell by how the networks differ.
    """
    rows = base > MEMORIZED
    return ranking({name: [v[rows] for v in values] for name, values in scores.items()}, other[rows] > MEMORIZED)
