"""What can be said with few models: eight, two, or one.

With eight, each estimate is drawn towards what documents with such scores have (empirical Bayes). With one model whose
documents were drawn at random, or two complements, groups of documents or spans can be compared, those trained on with
those not: single ones cannot, except by their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from scipy.special import digamma, ndtr, polygamma

from byheart.language.design import Design, models_of
from byheart.language.differences import Parts, Places, measures_of
from byheart.language.logs import as_logs
from byheart.language.regress import checked_scores, cross_fitted, logistic, ridge

_LARGE = 1e6  # degrees of freedom that are as good as infinite
_DEVIATIONS = 200  # of documents from the regression, that are weighed against each other
_FEWEST_EFFECTIVE = 5  # units of a group, on either side, that an interval is told from
_MOST_SHARED = 0.9  # of the models' errors: scores that follow them more say nothing else
FEWEST = 10
"""Units that a regression takes."""


def shrunk(design: Design, logs: Any, scores: np.ndarray, level: float = 0.9) -> pd.DataFrame:
    """Estimate the memorization of documents from few models, with the help of cheap scores.

    Memorization is regressed on the scores (ridge, each document predicted from others), and documents are taken to
    scatter normally around the regression, those mostly in spans by another width than the rest; each estimate is the
    posterior mean. How far they scatter is uncertain with so few models: all variances count, as likely as they make
    the data. With one variance, estimated by moments, intervals of 90 % covered 79 % in a simulation, since it was 0 in
    some. The variances of the models' estimates are first drawn to their mean. The width around the regression, and
    that mean, fall with the length of a document by the same power of it, which is fitted.

    Scores of the same models share their accidents: a model that happened to learn a document better has a lower loss
    on it, too. The regression then follows the errors of the estimates, and seems better than it is. How far it does is
    told by how both differ between pairs of complements, if scores are given for each pair, and taken out; not of
    documents with spans, of which a pair does not tell. Where scores share errors and come in one matrix, intervals are
    too short: of token accuracy, those of 90 % held 83 to 86 % on two corpora.

    Args:
        design: Who was trained on what; at least four models.
        logs: Log-probabilities of all tokens under every model (see ``as_logs``).
        scores: A row of scores for each document, that do not come from these models (of text alone, or of others); or
            such a matrix for each pair of complements, of the one that was trained on each document, in the order of
            the models.
        level: Of the intervals.

    Returns:
        name: A row per document; NaN for those in all models or none. What the models alone cannot tell, since a
            document's spans are off in too many of them, is as the scores say.
        log_probability, accuracy: Posterior mean of memorization (nats per token, share of tokens); ``_se`` its
            standard deviation, ``_low`` and ``_high`` the interval, ``_models`` what the models alone say,
            ``_regression`` what the scores say, ``_expected`` the same without the models' errors, and ``_weight`` the
            models' share in the mean of both.

    Raises:
        ValueError: If there are fewer than four models or ten documents, or the scores are not the documents'.

    References:
        Morris 1983 (empirical Bayes, flat prior of the variance); after Smyth 2004 (variances of the estimates, which
        he draws to the level of their logarithms); Sartor et al. 2006 (their trend).
    """
    if design.n_models < 4:
        raise ValueError(f"n_models: received {design.n_models}, accepted: at least 4 (see single)")
    if not 0 < level < 1:
        raise ValueError(f"level: received {level}, accepted: between 0 and 1")
    of_pairs = _checked_of_pairs(scores, design)
    rows = np.flatnonzero(np.array(design.roles) == "random")
    _check_enough(len(rows))
    in_spans = np.bincount(design.documents.document_of, design.span_of >= 0, len(design.documents))[rows]
    spans = in_spans > np.diff(design.documents.starts)[rows] / 2
    kinds = [own for own in (rows[spans], rows[~spans]) if len(own)]
    columns: dict[str, Any] = {"name": list(design.documents.names)}
    parts, lengths = Parts.of(design), np.diff(design.documents.starts)
    for name, values in measures_of(as_logs(logs, design)).items():
        sums = parts.sums(values)
        found = parts.compare(sums)
        degrees = found.n_on + found.n_off - 2
        by_pair = np.stack(
            [parts.compare(sums, models_of(np.array([p]))).difference for p in range(design.n_models // 2)]
        )
        variances = found.standard_error**2
        posterior = _posterior(found.difference, variances, of_pairs, by_pair, kinds, degrees, lengths, level)
        columns |= {name + suffix: values for suffix, values in posterior.items()}
    return pd.DataFrame(columns)


def _posterior(
    given: np.ndarray,
    variances: np.ndarray,
    of_pairs: np.ndarray,
    by_pair: np.ndarray,
    kinds: list[Int64[np.ndarray, " n"]],
    degrees: np.ndarray,
    lengths: np.ndarray,
    level: float,
) -> dict[str, Float64[np.ndarray, " n_documents"]]:
    """What is said of the documents of each kind, which scatter in ways of their own around one regression."""
    from scipy.stats import t  # slow to import

    suffixes = ("", "_se", "_low", "_high", "_models", "_regression", "_expected", "_weight")
    columns = {suffix: np.full(len(given), np.nan) for suffix in suffixes}
    told = np.isfinite(variances)
    every = np.concatenate(kinds)
    if not told[every].any():
        return columns
    _check_enough(int(told[every].sum()))
    features = of_pairs.mean(axis=0)
    regression = cross_fitted(features, given, ridge, every[told[every]])
    expected = regression.copy()
    alone = every[np.isfinite(by_pair[:, every]).all(axis=0) & told[every]]
    expected[alone] = _freed(features, of_pairs[:, alone], given[alone], by_pair[:, alone], regression, alone)
    for rows in kinds if min(told[own].sum() for own in kinds) >= FEWEST else [every]:
        apart = np.where(told, given - expected, 0)[rows]
        unit = _unit(variances[rows], lengths[rows])
        weight, error, of_error = _weighed(apart / unit, variances[rows] / unit**2, degrees[rows])
        error *= unit
        mean = expected[rows] + weight * apart
        half = t.ppf((1 + level) / 2, of_error) * error
        parts = (mean, error, mean - half, mean + half, given[rows], regression[rows], expected[rows], weight)
        for suffix, values in zip(suffixes, parts, strict=True):
            columns[suffix][rows] = values
    return columns


def _freed(
    features: np.ndarray,
    of_pairs: np.ndarray,
    given: np.ndarray,
    by_pair: np.ndarray,
    regression: np.ndarray,
    rows: np.ndarray,
) -> Float64[np.ndarray, " n_rows"]:
    """What documents are expected to have by a regression, without the models' errors that it follows.

    How far it follows them is the covariance of both over pairs, per variance. What is left is no regression on the
    scores any more, and is fitted once more. Of documents with spans single pairs do not tell.

    Args:
        features: Scores of all documents.
        of_pairs: Of each pair, of the documents in ``rows``.
        given: What all models say of these.
        by_pair: What each pair says.
        regression: Predictions of all documents.
        rows: Numbers of those documents.
    """
    predicted: Float64[np.ndarray, " n_rows"] = regression[rows]
    if len(rows) < FEWEST:
        return predicted
    centred = features - features.mean(axis=0)
    slopes = np.linalg.lstsq(centred, regression - regression.mean(), rcond=None)[0]
    errors = by_pair - by_pair.mean(axis=0)
    followed = float((((of_pairs - features[rows]) @ slopes) * errors).sum())
    variance = float((errors**2).sum())
    shared = max(0.0, followed / variance) if variance > 0 else 0.0
    if shared >= _MOST_SHARED:
        return np.full(len(rows), given.mean())
    free = predicted - shared * (given - predicted) / (1 - shared)
    apart, spread = free - free.mean(), float(free.var())
    slope = max(0.0, float(np.mean(apart * given)) / spread) if spread > 0 and shared > 0 else 1.0
    found: Float64[np.ndarray, " n_rows"] = given.mean() + slope * apart
    return found


def _unit(variances: np.ndarray, lengths: np.ndarray) -> Float64[np.ndarray, " n_documents"]:
    """How far estimates scatter by the length of their document: a power of it, fitted, that is 1 at the median."""
    x = np.log(lengths / np.median(lengths))
    known = np.isfinite(variances) & (variances > 0)
    if known.sum() < FEWEST or np.ptp(x[known]) == 0:
        return np.ones(len(lengths))
    power = float(np.polyfit(x[known], np.log(variances[known]), 1)[0])
    unit: Float64[np.ndarray, " n_documents"] = np.exp(np.clip(power, -1, 0) / 2 * x)
    return unit


def _weighed(
    apart: np.ndarray, variances: np.ndarray, degrees: np.ndarray
) -> tuple[Float64[np.ndarray, " n_documents"], ...]:
    """The models' share in each posterior mean, its standard deviation, and the degrees of freedom of that.

    NaN variances are of what the models cannot tell.

    Args:
        apart: What the models say less the regression.
        variances: Of what they say.
        degrees: Their degrees of freedom.
    """
    told = np.isfinite(variances)
    scale = np.mean(apart[told] ** 2)
    variance = np.full(len(apart), _LARGE * scale + 1)
    of_error = np.full(len(apart), np.inf)
    moderated, of_error[told] = _moderated(variances[told], degrees[told])
    variance[told] = np.maximum(moderated, 1e-12 * scale + np.finfo(float).tiny)
    deviations = np.linspace(0, 2 * np.sqrt(scale), _DEVIATIONS)
    total = deviations[:, None] ** 2 + variance[told]
    likelihood = -(np.log(total) + apart[told] ** 2 / total).sum(axis=1) / 2
    chance = deviations * np.exp(likelihood - likelihood.max())  # flat in the variance
    chance /= chance.sum()
    weights = deviations[:, None] ** 2 / (deviations[:, None] ** 2 + variance)
    weight = chance @ weights
    return weight, np.sqrt(weight * variance + chance @ (weights - weight) ** 2 * apart**2), of_error


def _moderated(
    variances: np.ndarray, degrees: np.ndarray
) -> tuple[Float64[np.ndarray, " n_units"], Float64[np.ndarray, " n_units"]]:
    """Draw variances of few degrees of freedom to their mean, the less the more they scatter than by chance.

    Returns them, and their degrees of freedom.
    """
    from scipy.optimize import brentq  # slow to import

    positive = variances > 0
    if positive.sum() < 2:
        return variances, degrees
    half = degrees[positive] / 2
    logs = np.log(variances[positive]) - digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - polygamma(1, half).mean())
    prior = _LARGE
    if excess > polygamma(1, _LARGE / 2):
        prior = 2 * brentq(lambda half: float(polygamma(1, half)) - excess, 1e-6, _LARGE)
    found: Float64[np.ndarray, " n_units"] = (degrees * variances + prior * variances.mean()) / (degrees + prior)
    return found, degrees + prior


def _checked_of_pairs(scores: np.ndarray, design: Design) -> Float64[np.ndarray, "n_pairs n_documents n_scores"]:
    """Scores for each pair: equal ones, if one matrix is given."""
    found, n = np.asarray(scores), len(design.documents)
    if found.ndim != 3:
        return np.repeat(checked_scores(found, n)[None], len(design.pairs), axis=0)
    if len(found) != len(design.pairs):
        raise ValueError(f"scores: received {len(found)} matrices, accepted: {len(design.pairs)}, one for each pair")
    return np.stack([checked_scores(own, n) for own in found])


@dataclass(frozen=True, eq=False)
class Single:
    """What one model, or two complements, tell.

    Attributes:
        groups: A row per group: group, n_in and n_out (units trained on or not), memorization (nats per token) with
            standard_error, low and high (95 %).
        units: A row per document or span: inside (whether the model was trained on it), and if scores were given
            probability_inside and probability; NaN where the model does not tell.
        pair: Whether there were two models.
    """

    groups: pd.DataFrame
    units: pd.DataFrame
    pair: bool


def single(
    design: Design,
    log_probability: Any,
    groups: Sequence[Any] | None = None,
    *,
    model: int = 0,
    unit: Literal["documents", "spans"] = "documents",
    scores: np.ndarray | None = None,
    threshold: float = 1.0,
    between_runs: float = 0.035,
) -> Single:
    """Estimate the memorization of groups of documents or spans from one model, or from it and its complement.

    A group's memorization is the mean log-probability of its units that the model was trained on, less that of the
    others. The intervals are over units, which is valid for this one run since it was drawn at random which of them it
    was trained on; documents that share a span count as one. A document is compared if all of its spans are on, and
    stands for those whose are not; where a few stand for most, as of documents with many spans, a group has no
    interval. With the complement, a unit's own difficulty cancels and
    intervals are shorter.

    How much a run memorizes of everything differs between runs, which one run cannot tell. So intervals for what runs
    have in the mean take it from elsewhere: 3.5 % is the deviation between the runs of the study "text-memorization",
    about the same on two corpora.

    With scores, each unit's probability of being memorized is told from the units with such scores. With one model the
    log-probabilities of a unit, trained on or not, are taken as normal around a regression on the scores and
    independent of each other, which spreads memorization too much if they are not: probabilities are then too near to a
    half. With a pair, the difference itself is there for every unit, and its probability of being above the threshold
    is a logistic regression on the scores.

    Args:
        design: Who was trained on what.
        log_probability: Of all tokens, natural logarithms: of the model, or two rows, of it and of its complement.
        groups: A label for each document or span; default all in one group.
        model: Number of the model in the design.
        unit: What is compared.
        scores: A row of scores for each document or span; they must not know whether the model was trained on it.
        threshold: Memorization in nats per token from which on a unit counts as memorized.
        between_runs: Standard deviation of memorization between runs, over its mean, at least 0; at 0, intervals are
            for this one run.

    Returns:
        Estimates of the groups; and for units ``probability_inside``, that the model was trained on it, by its scores
        and log-probability, and ``probability``, that its memorization is above the threshold, by its scores. Each is
        fitted to other units only.

    Raises:
        ValueError: If a shape or number is wrong, or there are fewer than ten units to fit to.

    References:
        Neyman 1923 (intervals by the random draw); Kish 1965 (how many units weighted ones are worth, at least five
        here). The regressions follow ``byheart.network.calibration``.
    """
    values, models = _checked(design, log_probability, model)
    if not 0 <= between_runs < np.inf:
        raise ValueError(f"between_runs: received {between_runs}, accepted: a finite number >= 0")
    told, inside, of_models, weights, clusters = _units(design, values, models, unit)
    labels = pd.Series(["all"] * len(told) if groups is None else list(groups), dtype=object)
    if len(labels) != len(told):
        raise ValueError(f"groups: received {len(labels)}, accepted: {len(told)}, a label for each of the {unit}")
    pair = len(models) == 2
    measured = (of_models[0] - of_models[1]) / 2 if pair else of_models[0]
    rows = []
    for label in labels.unique():
        own = told & (labels == label).to_numpy()
        columns = (measured[own], inside[own], weights[own], clusters[own])
        rows.append({"group": label, **_compared(*columns, between_runs / np.sqrt(len(models)))})
    units = pd.DataFrame({"inside": inside})
    if scores is not None:
        units["probability_inside"], units["probability"] = _probabilities(
            checked_scores(scores, len(told)), measured, inside, np.flatnonzero(told), threshold, pair
        )
    return Single(pd.DataFrame(rows), units, pair)


def _checked(design: Design, log_probability: Any, model: int) -> tuple[np.ndarray, list[int]]:
    values = np.atleast_2d(np.asarray(log_probability, dtype=np.float64))
    if values.ndim != 2 or len(values) > 2 or values.shape[1] != design.documents.n_tokens:
        raise ValueError(
            f"log_probability: received shape {values.shape}, accepted: one or two rows of"
            f" {design.documents.n_tokens} tokens"
        )
    if not np.isfinite(values).all():
        raise ValueError("log_probability: received some that are not finite, accepted: finite ones")
    if not 0 <= model < design.n_models:
        raise ValueError(f"model: received {model}, accepted: 0 to {design.n_models - 1}")
    return values, [model, model ^ 1][: len(values)]


def _units(
    design: Design, values: np.ndarray, models: list[int], unit: str
) -> tuple[
    Bool[np.ndarray, " n_units"],
    Bool[np.ndarray, " n_units"],
    Float64[np.ndarray, "n_models n_units"],
    Float64[np.ndarray, " n_units"],
    Int64[np.ndarray, " n_units"],
]:
    """Which units can be compared, which the first model was trained on, their means, weights, and clusters.

    A document is compared if all of its spans are on; it then stands for those of its group whose spans are not.
    """
    if unit == "documents":
        parts = Parts.of(design)
        found = parts.means(values, np.array(models))
        n_spans = np.bincount(parts.document_of, parts.span_of >= 0, len(design.documents))
        told = (np.array(design.roles) == "random") & np.isfinite(found).all(axis=0)
        clusters = len(design.spans) + np.arange(len(design.documents))
        clusters[parts.document_of] = np.where(parts.span_of >= 0, parts.span_of, clusters[parts.document_of])
        return told, design.document_mask[models[0]], found, 2.0**n_spans, clusters
    if unit != "spans":
        raise ValueError(f"unit: received {unit!r}, accepted: documents, spans")
    places = Places.of(design)
    found = places.per_span(np.where(places.valid[models], places.sums(values) / places.n_tokens, np.nan))
    every = np.arange(len(design.spans))
    return np.isfinite(found).all(axis=0), design.span_mask[models[0]], found, np.ones(len(every)), every


def _compared(
    measured: np.ndarray, inside: np.ndarray, weights: np.ndarray, clusters: np.ndarray, between_runs: float
) -> dict[str, float]:
    from scipy.stats import t  # slow to import

    sides = (inside, ~inside)
    n = [int(rows.sum()) for rows in sides]
    names = ("memorization", "standard_error", "low", "high")
    found = {"n_in": n[0], "n_out": n[1], **dict.fromkeys(names, np.nan)}
    if not min(n):
        return found
    means = [np.average(measured[rows], weights=weights[rows]) for rows in sides]
    found["memorization"] = float(means[0] - means[1])
    if min(n) < 2 or min(_effective(weights[rows]) for rows in sides) < _FEWEST_EFFECTIVE:
        return found
    parts = np.zeros(len(measured))  # of the error of the difference
    variances = []
    for rows, mean, size, sign in zip(sides, means, n, (1, -1), strict=True):
        own = weights[rows] / weights[rows].sum() * (measured[rows] - mean) * np.sqrt(size / (size - 1))
        parts[rows] = sign * own
        variances.append((own**2).sum())
    _, members = np.unique(clusters, return_inverse=True)
    among_units = (np.bincount(members, parts) ** 2).sum()
    found["standard_error"] = float(np.sqrt(among_units + (between_runs * found["memorization"]) ** 2))
    degrees = np.inf
    if sum(variances) > 0:
        degrees = sum(variances) ** 2 / sum(v**2 / (size - 1) for v, size in zip(variances, n, strict=True))  # Welch
    half = float(t.ppf(0.975, degrees)) * found["standard_error"]
    found["low"], found["high"] = found["memorization"] - half, found["memorization"] + half
    return found


def _effective(weights: np.ndarray) -> float:
    """How many units of equal weight would tell as much (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _probabilities(
    features: np.ndarray, measured: np.ndarray, inside: np.ndarray, rows: np.ndarray, threshold: float, pair: bool
) -> tuple[Float64[np.ndarray, " n_units"], Float64[np.ndarray, " n_units"]]:
    """Probabilities that units were trained on, and that their memorization is above the threshold."""
    bits = inside.astype(np.float64)
    sides = [rows[inside[rows]], rows[~inside[rows]]]
    _check_enough(min(len(side) for side in sides))
    known = np.where(np.isfinite(measured), measured, 0)
    trained_on = cross_fitted(np.column_stack([features, known]), bits, logistic, rows)
    if pair:
        middle = (measured[sides[0]].mean() + measured[sides[1]].mean()) / 2
        differences = 2 * np.where(inside, known - middle, middle - known)
        above = cross_fitted(features, (differences > threshold).astype(np.float64), logistic, rows)
    else:
        means = [cross_fitted(features, known, ridge, side) for side in sides]
        variance = sum(np.var((known - mean)[side], ddof=1) for mean, side in zip(means, sides, strict=True))
        above = ndtr((means[0] - means[1] - threshold) / np.sqrt(variance))
    outside = np.setdiff1d(np.arange(len(measured)), rows)
    trained_on[outside] = above[outside] = np.nan
    return trained_on, above


def _check_enough(n_units: int) -> None:
    if n_units < FEWEST:
        raise ValueError(f"scores: received {n_units} units to fit to, accepted: at least {FEWEST}")
