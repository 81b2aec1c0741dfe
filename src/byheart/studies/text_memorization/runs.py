"""What is trained for the study, and the tables that are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byheart.language.counterfactual import CounterfactualConfig, design_of
from byheart.language.ensemble import Ensemble, EnsembleConfig, train_all
from byheart.language.estimates import estimate
from byheart.language.leaderboard import leaderboard
from byheart.language.superposition import superposition
from byheart.language.texts import corpus, has_archive
from byheart.language.validation import (
    eight_against_many,
    one_against_many,
    reliability_by_number,
    samples_against_one_pass,
)
from byheart.studies.study import Scale
from byheart.toy.sweep import OnProgress

_SIZES: dict[Scale, tuple[int, int, int]] = {  # documents, models, canaries for each number of copies
    "quick": (300, 16, 1),
    "medium": (1_000, 32, 4),
    "paper": (1_000, 128, 4),
}
_OTHERS = {"shakespeare": 600, "factbook": 60}  # documents at most of the corpora that do not install
_CHEAP = [
    "unigram_surprisal",
    "n_tokens",
    "repeated",
    "loss",
    "mean_loss",
    "first_epoch_loss",
    "loss_drop",
    "zlib_ratio",
]


@dataclass(frozen=True)
class TextConfig:
    """An ensemble on a corpus.

    Attributes:
        corpus: Name of the corpus.
        n_documents: Number of its documents.
        n_models: Number of models.
        canaries: Canaries for each number of copies.
        training: How models are made.
        folder: Where the corpus' archive lies, if it does not install.
    """

    corpus: str
    n_documents: int
    n_models: int
    canaries: int
    training: EnsembleConfig = EnsembleConfig()  # noqa: RUF009 - frozen
    folder: Path = Path()


def groups(scale: Scale, folder: Path | None = None) -> dict[str, list[TextConfig]]:
    """Return the ensembles of a scale: on the King James Bible, and on the corpora whose archives a folder holds.

    Raises:
        FileNotFoundError: If a folder is given that holds none of them.
    """
    n_documents, n_models, canaries = _SIZES[scale]
    found = {"kjv": [TextConfig("kjv", n_documents, n_models, canaries)]}
    if folder is not None:
        there = {name: most for name, most in _OTHERS.items() if has_archive(name, folder)}
        if not there:
            raise FileNotFoundError(
                f"folder: received {folder}, accepted: one with an archive of {' or '.join(_OTHERS)} (see corpus)"
            )
        for name, most in there.items():
            config = TextConfig(name, min(n_documents, most), n_models, canaries, folder=folder)
            found[name] = [config]
    return found


def train(
    chosen: Mapping[str, list[TextConfig]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Ensemble], list[dict[str, Any]]]:
    """Train the ensembles of all corpora."""
    from byheart.toy.sweep import Progress

    def report(done: float, total: float) -> None:
        assert on_progress is not None
        on_progress(Progress(int(total), int(done), done, total, None))

    given = {}
    for label, (config,) in chosen.items():
        measured = CounterfactualConfig(config.n_models, canaries=config.canaries)
        texts = corpus(config.corpus, config.n_documents, folder=config.folder)
        given[label] = (design_of(texts, measured)[0], config.training)
    found = train_all(
        given,
        store=directory,
        n_workers=n_workers,
        executor=executor,
        on_progress=None if on_progress is None else report,
    )
    return found, [dict(made_by) for ensemble in found.values() for made_by in ensemble.provenance]


def tables(ensembles: Mapping[str, Ensemble]) -> dict[str, pd.DataFrame]:
    """Return the tables of all corpora, each with a column "corpus"."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for label, ensemble in ensembles.items():
        found = estimate(ensemble.design, ensemble.logs)
        spans = found.spans
        natural = spans[spans["kind"] == "repeat"]
        dimensions = superposition(ensemble)
        own = {
            "corpora": _corpus(ensemble, found.headline()),
            "reliability": reliability_by_number(ensemble),
            "dose": found.dose,
            "chance": _chance(spans),
            "repeats": natural[["n_copies", "n_tokens", "bits", "bits_se", "document_bits", "recited_on"]],
            "few": eight_against_many(ensemble, _CHEAP),
            "single": one_against_many(ensemble),
            "scores": leaderboard(ensemble),
            "extraction": samples_against_one_pass(ensemble, np.flatnonzero(spans["recited_on"] > 0)),
            "superposition": dimensions.dimensionality,
            "superposition-correlation": dimensions.correlation,
        }
        for name, table in own.items():
            parts.setdefault(name, []).append(table.assign(corpus=label))
    return {name: pd.concat(own, ignore_index=True) for name, own in parts.items()}


def _corpus(ensemble: Ensemble, headline: str) -> pd.DataFrame:
    """What was trained on, and how well: mean nats per token of documents that are in, and of those that are out."""
    design, said = ensemble.design, ensemble.logs.log_probability
    random = np.array(design.roles)[design.documents.document_of] == "random"
    inside = design.document_mask[:, design.documents.document_of]
    row = {
        "n_documents": sum(role == "random" for role in design.roles),
        "n_tokens": design.documents.n_tokens,
        "n_models": design.n_models,
        "n_parameters": sum(values.numel() for values in ensemble.model(0).parameters()),
        "loss_in": -float(said[:, random][inside[:, random]].mean()),
        "loss_out": -float(said[:, random][~inside[:, random]].mean()),
        "headline": headline,
    }
    return pd.DataFrame([row | dataclasses.asdict(ensemble.config)])


def _chance(spans: pd.DataFrame) -> pd.DataFrame:
    """What models say of canaries that are off, by their number of copies, and of probes, which have none."""
    kinds = spans[spans["kind"].isin(["canary", "probe"])].assign(planned=lambda table: table["planned"].fillna(0))
    found = kinds.groupby(["kind", "planned"]).agg(
        n_spans=("text", "size"),
        accuracy=("accuracy_off", "mean"),
        accuracy_se=("accuracy_off", "sem"),
        log_probability=("log_probability_off", "mean"),
        log_probability_se=("log_probability_off", "sem"),
    )
    return found.reset_index()
