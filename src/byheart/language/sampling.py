"""Sampling from a model, to check what one pass says of extraction: how often a span really comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from byheart.language.design import Design, Place
from byheart.language.extraction import sampled_probability

if TYPE_CHECKING:
    from byheart.language.model import Transformer


def sampled_count(
    model: Transformer,
    design: Design,
    place: Place,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> int:
    """Continue a text from just before a span many times, and count how often the span comes out word for word.

    Args:
        model: The model that continues.
        design: The design of its documents.
        place: The span, which has to lie in one row of its document.
        n: Number of continuations, at least 1.
        temperature: Of the draw, above 0: logits are divided by it.
        top_k: Number of tokens that are drawn from at every place; default all.
        seed: Seed of the draw.

    Raises:
        ValueError: If the span is cut by the end of a row.
    """
    import torch

    before, own = _in_row(design, place)
    rng = np.random.default_rng(seed)
    alive = n  # continuations that have said the span up to here
    for at, token in enumerate(own):
        if not alive:
            break
        inputs = torch.tensor([[*before, *own[:at]]])
        with torch.no_grad():
            logits = model(inputs)[0, -1].double().numpy()
        share = _probabilities(logits, temperature, top_k)
        alive = int((rng.choice(len(share), alive, p=share) == token).sum())
    return alive


def predicted(
    model: Transformer, design: Design, place: Place, *, temperature: float = 1.0, top_k: int | None = None
) -> float:
    """Return the probability that a span comes out word for word when the model continues what stands before it.

    One pass over the text tells (Hayes et al. 2024, arXiv 2410.19482).

    Args:
        model: The model that continues.
        design: The design of its documents.
        place: The span, which has to lie in one row of its document.
        temperature: Of the draw; 0 always takes the most probable token.
        top_k: Number of tokens that are drawn from at every place; default all.

    Raises:
        ValueError: If the span is cut by the end of a row.
    """
    import torch

    before, own = _in_row(design, place)
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *own[:-1]]]))[0, len(before) - 1 :].double().numpy()
    return float(np.exp(sampled_probability(logits, np.array(own), temperature, top_k)))


def _in_row(design: Design, place: Place) -> tuple[list[int], list[int]]:
    """The tokens of a row before a span, its beginning first, and the span's."""
    start = place.start // design.context * design.context
    if place.stop > start + design.context:
        raise ValueError(f"place: received {place}, which the end of a row cuts, accepted: spans within a row")
    tokens = design.documents.tokens[place.document]
    before = [design.documents.vocabulary, *tokens[start : place.start].tolist()]
    return before, tokens[place.start : place.stop].tolist()


def _probabilities(logits: np.ndarray, temperature: float, top_k: int | None) -> np.ndarray:
    scaled = logits / temperature
    if top_k is not None:
        scaled[scaled < np.sort(scaled)[-top_k]] = -np.inf
    shares = np.exp(scaled - scaled.max())
    share: np.ndarray = shares / shares.sum()
    return share
