"""How well few models tell what many say: eight models, one model, and one pass instead of samples.

Few models are some of the ensemble, and the truth is what the estimates of the other ones say, or of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from byheart.language.design import Design, models_of
from byheart.language.differences import Parts
from byheart.language.ensemble import Ensemble
from byheart.language.estimates import estimate
from byheart.language.extraction import band
from byheart.language.few import FEWEST, shrunk, single
from byheart.language.logs import Logs
from byheart.language.sampling import predicted, sampled_count
from byheart.language.scores import scores_by_pair

_FEW = 8
_QUARTERS = 4
_Z90 = 1.645
_SAMPLED_FROM = 0.02  # probability from which sampling a hundred times says something
_SAMPLERS = ((1.0, None), (0.8, 40))  # temperature, top-k


def of_pairs(ensemble: Ensemble, pairs: np.ndarray) -> tuple[Design, Logs]:
    """Return the design and the logs of some pairs of an ensemble's models."""
    logs, models = ensemble.logs, models_of(pairs)
    correct = None if logs.correct is None else logs.correct[models]
    return ensemble.design.of_pairs(pairs), Logs(logs.log_probability[models], correct)


def reliability_by_number(ensemble: Ensemble) -> pd.DataFrame:
    """Return the reliability table (see ``reliability_table``) of 8, 16, 32 ... models.

    Returns:
        Its rows for every set of so many models that shares none with the others: n_models, first_model.
    """
    n_all, rows = ensemble.design.n_models, []
    for size in (2**k for k in range(3, 12) if 2**k <= n_all):
        for first in range(0, n_all - size + 1, size):
            pairs = np.arange(first // 2, (first + size) // 2)
            found = estimate(*of_pairs(ensemble, pairs)).reliability
            rows.append(found.assign(n_models=size, first_model=first))
    return pd.concat(rows, ignore_index=True)


def eight_against_many(ensemble: Ensemble, scores: list[str]) -> pd.DataFrame:
    """Compare what every eight models say with the help of cheap scores with what all the others say.

    Args:
        ensemble: At least sixteen models.
        scores: Names of cheap scores (see ``document_scores``), of the eight models.

    Returns:
        A row per eight models and score of memorization ("log_probability", "accuracy"): first_model, score, n_others;
        n_told, documents that the eight models tell of, and n_documents, those that are compared; correlation with the
        others, of the eight with scores, of the eight alone (correlation_models_only), and of the scores alone
        (correlation_scores_only); coverage, the share of documents whose 90 % interval, widened by the others' own
        error, holds what the others say. NaN with fewer than ten told, as of documents with many spans.
    """
    design = ensemble.design
    rows: list[dict[str, float | str]] = []
    pairs = np.arange(design.n_models // 2)
    for first in range(0, len(pairs) - _FEW // 2 + 1, _FEW // 2):
        own = pairs[first : first + _FEW // 2]
        others = np.setdiff1d(pairs, own)
        part, logs = of_pairs(ensemble, own)
        parts = Parts.of(part)
        told = np.isfinite(parts.compare(parts.sums(logs.log_probability)).standard_error)
        n_told = int((told & (np.array(part.roles) == "random")).sum())
        if n_told < FEWEST:
            same: dict[str, float | str] = {
                "first_model": 2 * first,
                "n_others": 2 * len(others),
                "n_told": n_told,
                "n_documents": 0,
            }
            rows += [same | {"score": measure} for measure in ("log_probability", "accuracy")]
            continue
        truth = estimate(*of_pairs(ensemble, others)).documents
        training = {name: values[models_of(own)] for name, values in ensemble.training.items()}
        cheap = scores_by_pair(part, log_probability=logs.log_probability, training=training, names=scores)
        found = shrunk(part, logs, cheap)
        for measure in ("log_probability", "accuracy"):
            known = (truth[f"{measure}_se"].notna() & found[measure].notna()).to_numpy()
            both = known & found[f"{measure}_models"].notna().to_numpy()
            true = truth[measure].to_numpy()
            half = ((found[f"{measure}_high"] - found[f"{measure}_low"]) / 2).to_numpy()
            wide = np.hypot(half, _Z90 * truth[f"{measure}_se"].to_numpy())
            held = np.abs(found[measure].to_numpy() - true) <= wide
            rows.append(
                {
                    "first_model": 2 * first,
                    "score": measure,
                    "n_others": 2 * len(others),
                    "n_told": n_told,
                    "n_documents": int(known.sum()),
                    "correlation": _correlation(found[measure], true, known),
                    "correlation_models_only": _correlation(found[f"{measure}_models"], true, both),
                    "correlation_scores_only": _correlation(found[f"{measure}_regression"], true, known),
                    "coverage": float(held[known].mean()),
                }
            )
    columns = [f"correlation{by}" for by in ("", "_models_only", "_scores_only")]
    return pd.DataFrame(
        rows, columns=["first_model", "score", "n_others", "n_told", "n_documents", *columns, "coverage"]
    )


def one_against_many(ensemble: Ensemble) -> pd.DataFrame:
    """Count how often 95 % intervals of group means from every model by itself hold what all models say of the group.

    Groups are quarters of the documents by length, of those with and without spans.

    Returns:
        A row per group: group, n_models (those with an interval), n_in (documents trained on, mean), truth (nats per
        token), held (share of the models), bias (mean estimate less truth), scatter (standard deviation of the
        estimates), stated (root mean square of their standard errors), stated_of_run (the same for intervals of the one
        run, without what runs differ by: what it is less than the scatter).
    """
    design = ensemble.design
    truth = estimate(design, ensemble.logs).documents
    known = truth["log_probability"].notna()
    quarters = pd.qcut(truth["n_tokens"].rank(method="first").where(known), _QUARTERS, labels=False)
    spans = np.bincount(design.documents.document_of, design.span_of >= 0, len(design.documents)) > 0
    labels = [
        "other" if np.isnan(quarter) else f"{'with' if has else 'without'} spans, quarter {int(quarter) + 1}"
        for quarter, has in zip(quarters.to_numpy(dtype=float), spans, strict=True)
    ]
    means = truth.assign(group=labels)[known].groupby("group")["log_probability"].mean()
    rows = []
    for model in range(design.n_models):
        said = ensemble.logs.log_probability[model]
        found = single(design, said, labels, model=model).groups
        of_run = single(design, said, labels, model=model, between_runs=0).groups["standard_error"]
        told = found["group"].isin(means.index) & found["standard_error"].notna()
        rows.append(found.assign(squared_of_run=of_run**2)[told])
    table = pd.concat(rows, ignore_index=True)
    table["truth"] = means[table["group"]].to_numpy()
    table["held"] = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
    table["bias"] = table["memorization"] - table["truth"]
    table["squared"] = table["standard_error"] ** 2
    found = table.groupby("group").agg(
        n_models=("held", "size"),
        n_in=("n_in", "mean"),
        truth=("truth", "first"),
        held=("held", "mean"),
        bias=("bias", "mean"),
        scatter=("memorization", "std"),
        stated=("squared", "mean"),
        stated_of_run=("squared_of_run", "mean"),
    )
    return found.assign(**{name: np.sqrt(found[name]) for name in ("stated", "stated_of_run")}).reset_index()


def samples_against_one_pass(
    ensemble: Ensemble, spans: np.ndarray, n_samplings: int = 200, n_samples: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Sample spans that come out often enough, under two samplers, and compare the counts with what one pass says.

    Args:
        ensemble: Trained models.
        spans: Numbers of the spans to choose from.
        n_samplings: Number of rows at least, if models and spans allow.
        n_samples: Samples for each.
        seed: Of the choice of models and spans.

    Returns:
        A row per model, span and sampler: model, span, temperature, top_k (0: none), p_z (predicted probability of the
        span), count (samples that were the span), low and high (95 % band of the count).
    """
    design = ensemble.design
    rows: list[tuple[Any, ...]] = []
    rng = np.random.default_rng(seed)
    for model in rng.permutation(design.n_models):
        if len(rows) >= n_samplings:
            break
        network = ensemble.model(int(model))
        for number in rng.permutation(spans):
            place = design.spans[number].places[0]
            if place.start // design.context != (place.stop - 1) // design.context:
                continue
            for temperature, top_k in _SAMPLERS:
                sampler: dict[str, Any] = {"temperature": temperature, "top_k": top_k}
                p = predicted(network, design, place, **sampler)
                if _SAMPLED_FROM <= p <= 1 - _SAMPLED_FROM:
                    count = sampled_count(network, design, place, n_samples, **sampler, seed=len(rows))
                    low, high = band(p, n_samples)
                    rows.append((int(model), number, temperature, top_k or 0, p, count, int(low), int(high)))
    return pd.DataFrame(rows, columns=["model", "span", "temperature", "top_k", "p_z", "count", "low", "high"])


def _correlation(found: pd.Series, true: np.ndarray, rows: np.ndarray) -> float:
    return float(np.corrcoef(found.to_numpy()[rows], true[rows])[0, 1])
