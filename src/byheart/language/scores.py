"""Cheap scores of documents: what one model, or none, says of memorization that takes many models to know.

A score of a model is the mean over the models that were trained on the document; of none, NaN.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart.language.design import Design
from byheart.language.logs import as_logs

Needs = Literal["texts", "logs", "training"]
_LEAST_PROBABLE = 0.2  # share of the tokens that Min-K % averages


@dataclass(frozen=True)
class Score:
    """A cheap score.

    Attributes:
        name: Its column.
        meaning: What it is, in a sentence.
        source: Where it comes from.
        sign: 1 if larger means more memorized, -1 if smaller does.
        needs: "texts" takes no model, "logs" a model's log-probabilities, "training" those while it was trained.
        of: Computes it from the design, and log-probabilities (models, tokens) by name.
    """

    name: str
    meaning: str
    source: str
    sign: int
    needs: Needs
    of: Callable[[Design, Mapping[str, np.ndarray]], np.ndarray]


def document_scores(
    design: Design,
    *,
    log_probability: Any = None,
    training: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compute cheap scores, a row for each document and a column for each score.

    Args:
        design: Who was trained on what.
        log_probability: Of all tokens under every model of the design, after training (see ``as_logs``).
        training: The same while models were trained on them (``Ensemble.training``).
        names: Scores to compute; default all that the evidence allows.

    Raises:
        ValueError: If there is no such score, or it needs what is not given.
    """
    given: dict[str, np.ndarray] = {} if training is None else dict(training)
    if log_probability is not None:
        given["log_probability"] = as_logs(log_probability, design).log_probability
    has = {"texts"} | ({"logs"} if log_probability is not None else set())
    has |= {"training"} if training is not None and log_probability is not None else set()
    chosen = [name for name, score in SCORES.items() if score.needs in has] if names is None else list(names)
    for name in chosen:
        if name not in SCORES or SCORES[name].needs not in has:
            accepted = ", ".join(own.name for own in SCORES.values() if own.needs in has)
            raise ValueError(f"names: received {name!r}, accepted with what is given: {accepted}")
    return pd.DataFrame({name: SCORES[name].of(design, given) for name in chosen})


def _unigram(design: Design, _: Mapping[str, np.ndarray]) -> np.ndarray:
    """Each document by the counts of all others, one added to each."""
    documents = design.documents
    counts = np.bincount(documents.flat, minlength=documents.vocabulary)
    result = np.empty(len(documents))
    for number, tokens in enumerate(documents.tokens):
        others = counts - np.bincount(tokens, minlength=documents.vocabulary) + 1
        result[number] = -np.log(others[tokens] / others.sum()).mean()
    return result


def _n_tokens(design: Design, _: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.diff(design.documents.starts).astype(float)


def _zlib(design: Design, _: Mapping[str, np.ndarray]) -> np.ndarray:
    texts = [text.encode() for text in design.documents.texts]
    return np.array([len(zlib.compress(text)) / len(text) for text in texts])


def _repeated(design: Design, _: Mapping[str, np.ndarray]) -> np.ndarray:
    shares: np.ndarray = _per_document(design, (design.span_of >= 0)[None].astype(float))[0]
    return shares


def _loss(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return _of_models_inside(design, _per_document(design, -given["log_probability"]))


def _loss_over_zlib(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    size = _zlib(design, given) * np.array([len(text.encode()) for text in design.documents.texts])
    ratio: np.ndarray = _loss(design, given) * _n_tokens(design, given) / size
    return ratio


def _min_k(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    values, starts = given["log_probability"].astype(np.float64), design.documents.starts
    means = np.empty((len(values), len(design.documents)))
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        least = max(1, round(_LEAST_PROBABLE * (stop - start)))
        means[:, number] = np.sort(values[:, start:stop], axis=1)[:, :least].mean(axis=1)
    return _of_models_inside(design, means)


def _mean_loss(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return _of_models_inside(design, _per_document(design, -given["mean_of_epochs"]))


def _first_epoch_loss(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return _of_models_inside(design, _per_document(design, -given["first_epoch"]))


def _loss_drop(design: Design, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return _of_models_inside(design, _per_document(design, given["log_probability"] - given["first_epoch"]))


SCORES = {
    score.name: score
    for score in (
        Score("unigram_surprisal", "How rare its tokens are in the other documents.", "no model", 1, "texts", _unigram),
        Score("n_tokens", "Its length in tokens.", "no model", -1, "texts", _n_tokens),
        Score("zlib_ratio", "Compressed bytes per byte.", "no model", 1, "texts", _zlib),
        Score("repeated", "The share of its tokens in spans with copies.", "no model", -1, "texts", _repeated),
        Score("loss", "Mean loss of its tokens after training.", "Yeom et al. 2018", -1, "logs", _loss),
        Score("loss_over_zlib", "Loss per compressed byte.", "Carlini et al. 2021", -1, "logs", _loss_over_zlib),
        Score("min_k", "Mean log-probability of its least probable fifth.", "Shi et al. 2023", 1, "logs", _min_k),
        Score("mean_loss", "Loss averaged over training.", "as the audit's", 1, "training", _mean_loss),
        Score("first_epoch_loss", "Loss when it is first read.", "as the audit's", 1, "training", _first_epoch_loss),
        Score(
            "loss_drop", "Loss in the first epoch less that in the end.", "as the audit's", 1, "training", _loss_drop
        ),
    )
}


def _per_document(design: Design, values: np.ndarray) -> Float64[np.ndarray, "n_models n_documents"]:
    """Means over the tokens of each document that have a value."""
    starts, there = design.documents.starts[:-1], np.isfinite(values)
    sums = np.add.reduceat(np.where(there, values, 0).astype(np.float64), starts, axis=1)
    counts = np.add.reduceat(there.astype(float), starts, axis=1)
    means: Float64[np.ndarray, "n_models n_documents"] = np.divide(
        sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0
    )
    return means


def _of_models_inside(design: Design, means: np.ndarray) -> Float64[np.ndarray, " n_documents"]:
    used = design.document_mask & np.isfinite(means)
    counts = used.sum(axis=0)
    found: Float64[np.ndarray, " n_documents"] = np.divide(
        np.where(used, means, 0).sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0
    )
    return found
