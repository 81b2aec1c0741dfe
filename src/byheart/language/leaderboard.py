"""How well cheap scores of one model, or of none, tell what many models say is memorized."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart.language.design import Design, models_of
from byheart.language.differences import Parts, measures_of
from byheart.language.ensemble import Ensemble
from byheart.language.scores import SCORES, Needs, document_scores, reference_models

_FEWEST = 10  # documents that a correlation is told of
_N_MODELS: dict[Needs, int] = {"texts": 0, "reference": 3}  # others take 1


def leaderboard(ensemble: Ensemble, *, n_models: int = 8, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare cheap scores of single models with the memorization that other models tell.

    A model's scores are compared over the documents that it was trained on with all of their spans on: what is off was
    never learned, and would count against the scores that are of all tokens. Memorization is that of ``estimates``,
    which is of documents without masking too, from all models but its own pair of complements and the pair of its
    references (see ``document_scores``), so that no model is on both sides. It has errors of its own, which lower all
    correlations alike.

    Args:
        ensemble: Trained models, at least 8.
        n_models: Models to score, at least 1: the first ones of so many pairs, or of all, if there are fewer.
        names: Scores; default all.

    Returns:
        A row per score: score, source, needs, sign; n_models, the models that are trained to score all documents of
        one: 0, 1, or 3 with references; n_scored, how many models were scored; n_documents, those of a model that are
        compared in log-probability, mean; correlation_log_probability and correlation_accuracy, Spearman's rank
        correlation of memorization with the score times its sign, so that above 0 is as foretold, in [-1, 1];
        pearson_log_probability and pearson_accuracy, Pearson's of the same. All are means over models, with ``_se`` the
        standard errors over these (NaN of one); NaN where a score does not vary. seconds are measured, for the
        documents of one model, or for all documents if it takes no model: of the score alone, beyond training, reading
        models from disk, and the log-probabilities, but with a check of these.

    Raises:
        ValueError: If a number is out of range, the ensemble has fewer than 8 models, or there is no such score.
    """
    design = ensemble.design
    if design.n_models < 8:
        raise ValueError(f"ensemble: received {design.n_models} models, accepted: at least 8")
    if n_models < 1:
        raise ValueError(f"n_models: received {n_models}, accepted: an integer >= 1")
    scored = [2 * pair for pair in range(min(n_models, len(design.pairs)))]
    names = list(SCORES) if names is None else list(names)
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"names: received {', '.join(unknown)}, accepted: {', '.join(SCORES)}")
    of_texts, seconds_of_texts = _timed(design, [name for name in names if SCORES[name].needs == "texts"])
    reads_models = any(SCORES[name].needs in ("model", "reference") for name in names)
    model = functools.lru_cache(maxsize=3)(ensemble.model)  # read once, outside of the time that is taken
    rows: list[dict[str, float | str]] = []
    for number in scored:
        for other in (number, *reference_models(design, number)) if reads_models else ():
            model(other)
        of_model, seconds = _timed(
            design,
            [name for name in names if name not in of_texts],
            log_probability=ensemble.logs.log_probability,
            training=ensemble.training,
            model=model,
            models=[number],
        )
        scores, seconds = of_texts | of_model, seconds_of_texts | seconds
        truth = _told_by_others(ensemble, number)
        whole = np.logical_and.reduceat(design.carries_loss(number), design.documents.starts[:-1])
        for name in names:
            row: dict[str, float | str] = {"score": name, "seconds": seconds[name]}
            for measure, values in truth.items():
                known = whole & np.isfinite(values) & np.isfinite(scores[name])
                own = SCORES[name].sign * scores[name]
                row[f"n_{measure}"] = int(known.sum())
                row[f"correlation_{measure}"] = _correlation(_ranks(own[known]), _ranks(values[known]))
                row[f"pearson_{measure}"] = _correlation(own[known], values[known])
            rows.append(row)
    return _averaged(pd.DataFrame(rows), names)


def _timed(
    design: Design, names: list[str], **given: Any
) -> tuple[dict[str, Float64[np.ndarray, " n_documents"]], dict[str, float]]:
    """Scores one by one, and how many seconds each took."""
    scores, seconds = {}, {}
    for name in names:
        began = time.perf_counter()
        scores[name] = document_scores(design, **given, names=[name])[name].to_numpy(dtype=np.float64)
        seconds[name] = time.perf_counter() - began
    return scores, seconds


def _averaged(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    of_score = table.groupby("score", sort=False)
    means, errors, counts = of_score.mean(), of_score.sem(), of_score.size()
    rows = []
    for name in names:
        score = SCORES[name]
        row: dict[str, object] = {"score": name, "source": score.source, "needs": score.needs, "sign": score.sign}
        row |= {"n_models": _N_MODELS.get(score.needs, 1), "n_scored": int(counts[name])}
        row["n_documents"] = means.loc[name, "n_log_probability"]
        for kind in ("correlation", "pearson"):
            for measure in ("log_probability", "accuracy"):
                column = f"{kind}_{measure}"
                row |= {column: means.loc[name, column], f"{column}_se": errors.loc[name, column]}
        rows.append(row | {"seconds": means.loc[name, "seconds"]})
    return pd.DataFrame(rows)


def _told_by_others(ensemble: Ensemble, model: int) -> dict[str, Float64[np.ndarray, " n_documents"]]:
    """Memorization of documents, by measure, without a model's pair and that of its references."""
    design = ensemble.design
    used = {model // 2, reference_models(design, model)[0] // 2}
    others = models_of(np.array([pair for pair in range(len(design.pairs)) if pair not in used]))
    part, random = Parts.of(design), np.array(design.roles) == "random"
    found = {}
    for measure, values in measures_of(ensemble.logs).items():
        difference = part.compare(part.sums(values), others)
        told = random & np.isfinite(difference.standard_error)
        found[measure] = np.where(told, difference.difference, np.nan)
    return found


def _ranks(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    from scipy.stats import rankdata  # slow to import

    ranks: Float64[np.ndarray, " n"] = rankdata(values)
    return ranks


def _correlation(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> float:
    if len(first) < _FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
