"""How far estimates are to be trusted: from halves of the models, and what effects they can tell from 0."""

from __future__ import annotations

import numpy as np
import pandas as pd

from byheart.language.design import Design, models_of
from byheart.language.differences import Difference, Parts, Places, measures_of
from byheart.language.logs import Logs

_SPLITS = 10
_FEWEST_UNITS = 10  # that a reliability is told of
_TOLD = 2.8  # standard errors of an effect that is told from 0 with probability 0.8
_FALSE = 0.05  # share of those counted that are expected to be false


def reliability_table(design: Design, logs: Logs, places: Places, seed: int = 0) -> pd.DataFrame:
    """Estimate reliability from halves of the models, split at random with pairs of complements kept whole.

    Args:
        design: Who was trained on what.
        logs: Log-probabilities of its models.
        places: Places of its spans.
        seed: Of the splits.

    Returns:
        unit, score: A row per unit and score, in nats per token and in tokens right.
        n_units: Units with an estimate in both halves, median over splits.
        reliability: Squared correlation with what many models would say: of the halves, stepped up (Spearman 1910,
            Brown 1910), mean over ten splits; ``reliability_sd`` its standard deviation over the splits. NaN of fewer
            than ten units.
        error_ratio: Stated standard error over the one that the halves show (root mean squares): near 1 if it holds;
            ``error_ratio_sd`` its standard deviation over the splits.
    """
    parts = Parts.of(design)
    share = 2 * (design.n_models // 4) / design.n_models
    rows = []
    for name, values in measures_of(logs).items():
        sums = parts.sums(values)
        halves = [[parts.compare(sums, h) for h in split] for split in _splits(design.n_models, seed)]
        rows.append({"unit": "documents", "score": name, **_agreement(parts.compare(sums), halves, share)})
        if design.spans:
            scores = places.sums(values) / places.n_tokens
            halves = [[places.compare(scores, h) for h in split] for split in _splits(design.n_models, seed)]
            rows.append({"unit": "spans", "score": name, **_agreement(places.compare(scores), halves, share)})
    return pd.DataFrame(rows)


def _splits(n_models: int, seed: int) -> list[list[np.ndarray]]:
    """Halves of the models, by pairs; of an odd number of pairs one is left out."""
    rng = np.random.default_rng(seed)
    n = n_models // 4
    orders = [rng.permutation(n_models // 2) for _ in range(_SPLITS)]
    return [[models_of(pairs) for pairs in (order[:n], order[n : 2 * n])] for order in orders]


def _agreement(whole: Difference, halves: list[list[Difference]], share: float) -> dict[str, float]:
    told = np.isfinite(whole.standard_error)
    stated = np.sqrt(np.mean(whole.standard_error[told] ** 2)) if told.any() else np.nan
    counts, reliabilities, ratios = [], [], []
    for first, second in halves:
        a, b = first.difference, second.difference
        both = told & np.isfinite(a) & np.isfinite(b)
        counts.append(int(both.sum()))
        r = (
            np.corrcoef(a[both], b[both])[0, 1]
            if both.sum() >= _FEWEST_UNITS and a[both].std() * b[both].std() > 0
            else np.nan
        )
        reliabilities.append(r / (share + (1 - share) * r) if r > -1 else np.nan)
        apart = np.sqrt(np.mean((a - b)[both] ** 2)) * np.sqrt(share / 2) if both.any() else np.nan
        ratios.append(stated / apart if apart > 0 else np.nan)
    return {
        "n_units": float(np.median(counts)),
        "reliability": float(np.mean(reliabilities)),
        "reliability_sd": float(np.std(reliabilities, ddof=1)),
        "error_ratio": float(np.mean(ratios)),
        "error_ratio_sd": float(np.std(ratios, ddof=1)),
    }


def underpowered(table: pd.DataFrame) -> bool:
    """Return whether more than half of the estimates, in bits, are below what is told from 0."""
    told = table[table["bits_se"].notna()]
    return not len(told) or bool((told["bits"] < _TOLD * told["bits_se"].median()).mean() > 0.5)


def verdict(table: pd.DataFrame, units: str, degrees: int) -> str:
    """Count the memorized units of a table in one sentence, or say why it cannot be done.

    Args:
        table: Estimates, with columns bits and bits_se.
        units: What the rows are called.
        degrees: Degrees of freedom of the errors.
    """
    from scipy.stats import false_discovery_control, t  # slow to import

    told = table[table["bits_se"].notna()]
    if not len(told):
        return f"Underpowered: no {units} are in some models and out of others often enough."
    smallest = f"{_TOLD * told['bits_se'].median():.3g} bits"
    if underpowered(table):
        return (
            f"Underpowered for {units}: of {len(told)}, most have estimates below {smallest}, the smallest effect that"
            " these models tell from 0 with probability 0.8; more models are needed, or there is little to find."
        )
    # A unit without any spread among its models is as sure as the data can say.
    ratio = told["bits"].to_numpy() / np.maximum(told["bits_se"].to_numpy(), np.finfo(float).tiny)
    count = int((false_discovery_control(t.sf(ratio, degrees)) <= _FALSE).sum())
    return (
        f"{count} of {len(told)} {units} are memorized, median {told['bits'].median():.3g} bits, at a false discovery"
        f" rate of 5 %; an effect of {smallest} is told from 0 with probability 0.8."
    )
