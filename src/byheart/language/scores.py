"""Cheap scores of documents: what one model, or none, says of memorization that takes many models to know.

A score of a model is the mean over the models that were trained on the document; of none, NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart.language import scores_of_models as of_models
from byheart.language import scores_of_texts as of_texts
from byheart.language.design import Design
from byheart.language.differences import mean_where
from byheart.language.logs import as_logs

if TYPE_CHECKING:
    from byheart.language.model import Transformer

Needs = Literal["texts", "logs", "training", "model", "reference"]


@dataclass(frozen=True)
class Score:
    """A cheap score.

    Attributes:
        name: Its column.
        meaning: What it is, in a sentence.
        source: Where it comes from.
        sign: 1 if by its meaning larger should be more memorized, -1 if smaller should be.
        needs: "texts" takes no model, "logs" a model's log-probabilities, "training" those while it was trained, too;
            "model" a trained model, and "reference" also one that was not trained on the document.
        of: Computes it from the design and what it needs: values for each document ("texts"), for each model and
            document ("logs", "training"), or for some documents of a model (see ``scores_of_models``).
    """

    name: str
    meaning: str
    source: str
    sign: Literal[1, -1]
    needs: Needs
    of: Callable[..., np.ndarray]


def document_scores(
    design: Design,
    *,
    log_probability: Any = None,
    training: Mapping[str, np.ndarray] | None = None,
    model: Callable[[int], Transformer] | None = None,
    models: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compute cheap scores, a row for each document and a column for each score.

    A reference is one of the next pair of complements, after the last pair the first: of its two models, the one that
    was not trained on the document. The model's own complement would be no cheaper, and differs from it in all
    documents at once. All documents of a model take both, so that they cost two more trainings.

    Args:
        design: Who was trained on what.
        log_probability: Of all tokens under every model of the design, after training (see ``as_logs``).
        training: The same while models were trained on them (``Ensemble.training``).
        model: Returns a trained model by its number (``Ensemble.model``).
        models: Numbers of the models that scores are of; default all. Others are read as references only.
        names: Scores to compute; default all that the evidence allows.

    Raises:
        ValueError: If there is no such score or model, or a score needs what is not given.
    """
    rows = (
        np.arange(design.n_models) if models is None else np.array([int(number) for number in models], dtype=np.int64)
    )
    if not len(rows) or rows.min() < 0 or rows.max() >= design.n_models:
        raise ValueError(f"models: received {models}, accepted: some of 0 to {design.n_models - 1}")
    chosen = _chosen(design, log_probability is not None, training is not None, model is not None, names)
    logs: dict[str, np.ndarray] = {}
    if log_probability is not None:
        given = {"log_probability": as_logs(log_probability, design).log_probability, **(training or {})}
        logs = {name: values[rows] for name, values in given.items()}
    inside = design.document_mask[rows]
    columns: dict[str, np.ndarray] = {name: np.full(inside.shape, np.nan) for name in chosen}
    for name, score in ((name, SCORES[name]) for name in chosen):
        if score.needs == "texts":
            columns[name] = score.of(design)
        elif score.needs == "logs":
            columns[name] = score.of(design, logs["log_probability"])
        elif score.needs == "training":
            columns[name] = score.of(design, logs)
    of_model = [SCORES[name] for name in chosen if SCORES[name].needs in ("model", "reference")]
    for row, number in enumerate(rows if of_model else []):
        assert model is not None
        network = model(int(number))
        for documents, others in _compared(design, model, int(number), of_model):
            for score in of_model:
                if len(documents) and (score.needs == "reference") == bool(others):
                    columns[score.name][row, documents] = score.of(design, network, documents, *others)
    found = {
        name: values if values.ndim == 1 else mean_where(values, inside & np.isfinite(values))
        for name, values in columns.items()
    }
    return pd.DataFrame(found)


def scores_by_pair(design: Design, **given: Any) -> Float64[np.ndarray, "n_pairs n_documents n_scores"]:
    """Compute scores of pairs of complements, of which one was trained on each document, as ``shrunk`` takes them.

    Args:
        design: Who was trained on what.
        given: As ``document_scores`` takes it, without ``models``. Where a score is not known, it is the pair's mean.
    """
    tables = [document_scores(design, **given, models=[2 * pair, 2 * pair + 1]) for pair in range(len(design.pairs))]
    return np.stack([table.fillna(table.mean()).to_numpy(dtype=np.float64) for table in tables])


def _chosen(
    design: Design, has_logs: bool, has_training: bool, has_model: bool, names: Sequence[str] | None
) -> list[str]:
    given = {
        "texts": True,
        "logs": has_logs,
        "training": has_logs and has_training,
        "model": has_model,
        "reference": has_model and design.n_models >= 4,
    }
    accepted = [score.name for score in SCORES.values() if given[score.needs]]
    for name in [] if names is None else names:
        if name not in accepted:
            raise ValueError(f"names: received {name!r}, accepted with what is given: {', '.join(accepted)}")
    return accepted if names is None else list(names)


def reference_models(design: Design, model: int) -> tuple[int, int]:
    """Return the two models of the next pair, whose scores ``document_scores`` takes references from."""
    first = 2 * ((model // 2 + 1) % len(design.pairs))
    return first, first + 1


def _compared(
    design: Design, model: Callable[[int], Transformer], number: int, scores: list[Score]
) -> list[tuple[np.ndarray, tuple[Transformer, ...]]]:
    """The documents of a model; then, if a score asks for references, those that each was not trained on, and it."""
    own = design.document_mask[number]
    found: list[tuple[np.ndarray, tuple[Transformer, ...]]] = [(np.flatnonzero(own), ())]
    if any(score.needs == "reference" for score in scores):
        found += [
            (np.flatnonzero(own & ~design.document_mask[other]), (model(other),))
            for other in reference_models(design, number)
        ]
    return found


SCORES = {
    score.name: score
    for score in (
        Score(
            "unigram_surprisal",
            "How rare its tokens are in the other documents.",
            "no model",
            1,
            "texts",
            of_texts.unigram_surprisal,
        ),
        Score(
            "ngram_surprisal",
            "Its loss by an interpolated 5-gram model of the other documents.",
            "Witten and Bell 1991",
            1,
            "texts",
            of_texts.ngram_surprisal,
        ),
        Score("n_tokens", "Its length in tokens.", "no model", -1, "texts", of_texts.n_tokens),
        Score("zlib_ratio", "Compressed bytes per byte.", "no model", 1, "texts", of_texts.zlib_ratio),
        Score("repeated", "The share of its tokens in spans with copies.", "no model", -1, "texts", of_texts.repeated),
        Score("loss", "Mean loss of its tokens after training.", "Yeom et al. 2018", -1, "logs", of_models.loss),
        Score(
            "loss_over_zlib",
            "Loss per compressed byte.",
            "Carlini et al. 2021",
            -1,
            "logs",
            of_models.loss_over_zlib,
        ),
        Score(
            "min_k",
            "Mean log-probability of its least probable fifth.",
            "Shi et al. 2023",
            1,
            "logs",
            of_models.min_k,
        ),
        Score("mean_loss", "Loss averaged over training.", "as the audit's", 1, "training", of_models.mean_loss),
        Score(
            "first_epoch_loss",
            "Loss when it is first read.",
            "as the audit's",
            1,
            "training",
            of_models.first_epoch_loss,
        ),
        Score(
            "loss_drop",
            "Loss in the first epoch less that in the end.",
            "as the audit's",
            1,
            "training",
            of_models.loss_drop,
        ),
        Score(
            "min_k_plus_plus",
            "Mean standardised log-probability of its lowest fifth.",
            "Zhang et al. 2024",
            1,
            "model",
            of_models.min_k_plus_plus,
        ),
        Score(
            "gradient_norm",
            "Length of the gradient of its mean loss, by all parameters (ranks as TracIn's self-influence).",
            "Paul et al. 2021",
            1,
            "model",
            of_models.gradient_norm,
        ),
        Score(
            "self_influence",
            "Self-influence by the last layer's matrices, with EK-FAC's diagonal curvature.",
            "after George et al. 2018 and Grosse et al. 2023",
            1,
            "model",
            of_models.self_influence,
        ),
        Score(
            "prior_aware",
            "How much likelier its second half is after its own first half than after others'.",
            "after Tiwari et al. 2026",
            1,
            "model",
            of_models.prior_aware,
        ),
        Score(
            "example_dimensionality",
            "D_X of its contexts, the share of a dimension that each has to itself.",
            "Henighan et al. 2023",
            1,
            "model",
            of_models.example_dimensionality_of_contexts,
        ),
        Score(
            "maximal_dimensionality",
            "D* of its contexts, their leverage.",
            "C. Olah, comment in Henighan et al. 2023",
            1,
            "model",
            of_models.maximal_dimensionality_of_contexts,
        ),
        Score(
            "residual_dimensionality",
            "D* of its contexts times the squared residual.",
            "as the audit's",
            1,
            "model",
            of_models.residual_dimensionality,
        ),
        Score(
            "information_gain",
            "InfoRMIA per token: what the model knows more than one reference that never read it.",
            "after Tao and Shokri 2025",
            1,
            "reference",
            of_models.information_gain,
        ),
    )
}
