"""Cheap scores of documents that take a model itself: its output at every token, its hidden vectors, its gradients.

One trained model is enough. A score is computed for every document, whether the model was trained on it or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.language.design import Design
from byheart.language.scores import least_probable

if TYPE_CHECKING:
    from byheart.language.model import Transformer

_ROWS_PER_BATCH = 32
_OTHER_PREFIXES = 8

MEANINGS = {
    "min_k_plus_plus": (
        "Mean log-probability of its least probable fifth, each token's in deviations of the model's own distribution.",
        "Zhang et al. 2024, arXiv 2404.02936",
        1,
    ),
    "gradient_norm": ("Length of the gradient of its mean loss: self-influence.", "Pruthi et al. 2020 (TracIn)", 1),
    "dimensionality": ("D_X of its contexts in the last layer, mean.", "Henighan et al. 2023", 1),
    "maximal_dimensionality": (
        "D* of its contexts in the last layer, mean.",
        "Olah, comment in Henighan et al. 2023",
        1,
    ),
    "residual_dimensionality": ("D* times the squared error of the output, mean.", "as the audit's", 1),
    "prior_aware": (
        "How much more probable its second half is after its own first half than after others', in nats a token.",
        "after arXiv 2602.18733, in our reading",
        1,
    ),
}
"""Of each score: what it is, where it comes from, and 1 if larger means more memorized."""


def scores_of_model(model: Transformer, design: Design, names: Any = tuple(MEANINGS), seed: int = 0) -> pd.DataFrame:
    """Compute scores that take a model, a row for each document and a column for each score.

    Args:
        model: A model of the design.
        design: The design of its documents.
        names: Scores to compute; default all in ``MEANINGS``.
        seed: Of the other documents whose first halves "prior_aware" takes.

    Raises:
        ValueError: If there is no such score.
    """
    if unknown := [name for name in names if name not in MEANINGS]:
        raise ValueError(f"names: received {unknown[0]!r}, accepted: {', '.join(MEANINGS)}")
    found: dict[str, np.ndarray] = {}
    if set(names) - {"gradient_norm", "prior_aware"}:
        found |= _of_outputs(model, design)
    if "gradient_norm" in names:
        found["gradient_norm"] = _gradient_norms(model, design)
    if "prior_aware" in names:
        found["prior_aware"] = _prior_aware(model, design, seed)
    return pd.DataFrame({name: found[name] for name in names})


def _of_outputs(model: Transformer, design: Design) -> dict[str, Float64[np.ndarray, " n_documents"]]:
    """Scores from one pass: of the distribution at every token, and of the hidden vectors that it is read from."""
    import torch

    n_tokens = design.documents.n_tokens
    standardised, errors = np.zeros(n_tokens), np.zeros(n_tokens)
    hidden = np.zeros((n_tokens, model.config.width), dtype=np.float32)
    for inputs, targets, numbers, there in _batches(design):
        with torch.no_grad():
            states = model.hidden(inputs)[-1]
            said = torch.log_softmax(states @ model.weights["tokens"][: model.vocabulary].T, -1).double()
            share = said.exp()
            mean = (share * said).sum(-1)
            deviation = ((share * said**2).sum(-1) - mean**2).clamp(min=1e-12).sqrt()
            own = said.gather(-1, targets[..., None])[..., 0]
            standardised[numbers] = ((own - mean) / deviation).numpy()[there]
            errors[numbers] = ((share**2).sum(-1) - 2 * own.exp() + 1).numpy()[there]
            hidden[numbers] = states.numpy()[there]
    own_direction = maximal_dimensionality(hidden)
    return {
        "min_k_plus_plus": least_probable(standardised[None], design.documents.starts)[0],
        "dimensionality": _means(design, example_dimensionality(hidden)),
        "maximal_dimensionality": _means(design, own_direction),
        "residual_dimensionality": _means(design, own_direction * errors),
    }


def _gradient_norms(model: Transformer, design: Design) -> Float64[np.ndarray, " n_documents"]:
    """The length of the gradient of each document's mean loss, one document at a time."""
    import torch
    from torch.nn import functional as F

    parameters = list(model.parameters())
    found = np.empty(len(design.documents))
    for number in range(len(design.documents)):
        loss = torch.zeros(())
        whole = design.documents.tokens[number]
        for start in range(0, len(whole), design.context):
            tokens = torch.from_numpy(whole[start : start + design.context])
            inputs = torch.cat([torch.tensor([design.documents.vocabulary]), tokens[:-1]])
            loss = loss + F.cross_entropy(model(inputs[None])[0], tokens, reduction="sum")
        gradients = torch.autograd.grad(loss / len(whole), parameters)
        found[number] = float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
    return found


def _prior_aware(model: Transformer, design: Design, seed: int) -> Float64[np.ndarray, " n_documents"]:
    """The second half of each document (of its first row) after its own first half, against after those of others."""
    import torch

    rng = np.random.default_rng([seed, 7])
    texts = [tokens[: design.context] for tokens in design.documents.tokens]
    firsts, found = [tokens[: len(tokens) // 2] for tokens in texts], np.full(len(texts), np.nan)
    long = [number for number, tokens in enumerate(texts) if len(tokens) >= 4]
    for number in long:
        second = texts[number][len(texts[number]) // 2 :]
        others = [other for other in rng.permutation(long)[: _OTHER_PREFIXES + 1] if other != number][:_OTHER_PREFIXES]
        said = []
        for first in (firsts[number], *(firsts[other] for other in others)):
            before = first[-(design.context - len(second)) :] if len(second) < design.context else first[:0]
            row = np.concatenate([[design.documents.vocabulary], before, second[:-1]])
            with torch.no_grad():
                logits = model(torch.from_numpy(row)[None])[0, -len(second) :].double()
            said.append(float(torch.log_softmax(logits, -1).gather(1, torch.from_numpy(second)[:, None]).sum()))
        prior = np.logaddexp.reduce(said[1:]) - np.log(len(said) - 1) if len(said) > 1 else np.nan
        found[number] = (said[0] - prior) / len(second)
    return found


def _batches(design: Design) -> Iterator[tuple[Any, Any, np.ndarray, np.ndarray]]:
    """Yield inputs and targets of rows of like length, the targets' numbers among all tokens, and where they are."""
    import torch

    documents = design.documents
    rows = sorted(design.rows, key=lambda row: row.stop - row.start)
    for at in range(0, len(rows), _ROWS_PER_BATCH):
        batch = rows[at : at + _ROWS_PER_BATCH]
        inputs = np.full((len(batch), batch[-1].stop - batch[-1].start + 1), documents.vocabulary)
        for row, values in zip(batch, inputs, strict=True):
            values[1 : 1 + row.stop - row.start] = documents.tokens[row.document][row.start : row.stop]
        there = inputs[:, 1:] < documents.vocabulary
        numbers = np.concatenate([np.arange(documents.n_tokens)[design.tokens_of(row)] for row in batch])
        targets = torch.from_numpy(np.where(there, inputs[:, 1:], 0))
        yield torch.from_numpy(inputs[:, :-1]), targets, numbers, there


def _means(design: Design, values: np.ndarray) -> Float64[np.ndarray, " n_documents"]:
    starts = design.documents.starts
    found: np.ndarray = np.add.reduceat(values, starts[:-1], dtype=np.float64) / np.diff(starts)
    return found
