"""Which cheap score of one model, or of none, finds what many models say is memorized."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from byheart.language.ensemble import Ensemble
from byheart.language.estimates import estimate
from byheart.language.logs import Logs
from byheart.language.scores import SCORES, document_scores
from byheart.language.scores_of_models import MEANINGS, scores_of_model

_MEASURES = ("log_probability", "accuracy")


def leaderboard(ensemble: Ensemble, n_models: int = 8) -> pd.DataFrame:
    """Compare every score of single models with what all models of other pairs say of the same documents.

    A score tells of the documents that its model was trained on; its sign is fixed beforehand, by what it means.

    Args:
        ensemble: At least six models, whose documents are in random halves of them.
        n_models: Models to score, each by itself; the first of so many pairs.

    Returns:
        A row per score: score, source, needs ("texts", "logs", "training", "model"), n_models (as many as were scored);
        for each measure of memorization the correlation (Pearson's) of the score, times its sign, with it, mean over
        models, and its error ``_se``; rank_log_probability, the same of ranks (Spearman's); seconds for one model's
        documents, once it is trained.

    Raises:
        ValueError: If the ensemble has too few models.
    """
    design = ensemble.design
    n_pairs = min(n_models, design.n_models // 2)
    if design.n_models < 6:
        raise ValueError(f"ensemble: received {design.n_models} models, accepted: at least 6")
    rows = []
    for pair in range(n_pairs):
        others = np.delete(np.arange(design.n_models), [2 * pair, 2 * pair + 1])
        logs = ensemble.logs
        correct = None if logs.correct is None else logs.correct[others]
        known = Logs(logs.log_probability[others], correct)
        truth = estimate(design.of_pairs(np.delete(np.arange(design.n_models // 2), pair)), known).documents
        inside = design.document_mask[2 * pair] & truth["log_probability"].notna().to_numpy()
        for name, sign, values, seconds in _scored(ensemble, pair):
            row = {"score": name, "seconds": seconds}
            told = inside & np.isfinite(values)
            for measure in _MEASURES:
                row[f"correlation_{measure}"] = _correlation(sign * values[told], truth[measure].to_numpy()[told])
            ranks = [pd.Series(v[told]).rank().to_numpy() for v in (sign * values, truth["log_probability"].to_numpy())]
            rows.append(row | {"rank_log_probability": _correlation(*ranks)})
    table = pd.DataFrame(rows).groupby("score", sort=False)
    found = table.mean().join(table.sem().drop(columns="seconds").add_suffix("_se")).assign(n_models=n_pairs)
    about: dict[str, tuple[str, str]] = {name: (score.source, score.needs) for name, score in SCORES.items()}
    about |= {name: (source, "model") for name, (_, source, _) in MEANINGS.items()}
    found["source"], found["needs"] = zip(*(about[str(name)] for name in found.index), strict=True)
    first = ["score", "source", "needs", "n_models"]
    found = found.reset_index()
    return found[first + [name for name in found if name not in first]]


def _scored(ensemble: Ensemble, pair: int) -> list[tuple[str, int, np.ndarray, float]]:
    """Every score by the first model of a pair, with its sign, and the seconds that it took."""
    models = slice(2 * pair, 2 * pair + 2)
    part = ensemble.design.of_pairs([pair])
    said = ensemble.logs.log_probability[models]
    training = {name: values[models] for name, values in ensemble.training.items()}
    found = []
    for name, score in SCORES.items():
        began = time.perf_counter()
        values = document_scores(part, log_probability=said, training=training, names=[name])[name].to_numpy(
            dtype=float
        )
        found.append((name, score.sign, values, time.perf_counter() - began))
    model = ensemble.model(2 * pair)
    for name, (_, _, sign) in MEANINGS.items():
        began = time.perf_counter()
        values = scores_of_model(model, ensemble.design, [name])[name].to_numpy(dtype=float)
        found.append((name, sign, values, time.perf_counter() - began))
    return found


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    told = np.isfinite(a) & np.isfinite(b)
    if told.sum() < 3 or a[told].std() == 0 or b[told].std() == 0:
        return float("nan")
    return float(np.corrcoef(a[told], b[told])[0, 1])
