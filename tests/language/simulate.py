"""Small designs, and log-probabilities of models whose memorization is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byheart.language.design import Design, Place, Span
from byheart.language.documents import Documents
from byheart.language.logs import Logs


def documents(sizes: Sequence[int]) -> Documents:
    """Texts of one letter a token."""
    tokens = tuple(np.arange(size) % 7 for size in sizes)
    offsets = tuple(np.stack([np.arange(size), np.arange(size) + 1], axis=1) for size in sizes)
    texts = tuple("abcdefg"[:7] * (size // 7) + "abcdefg"[: size % 7] for size in sizes)
    return Documents(tuple(f"d{number}" for number in range(len(sizes))), texts, tokens, offsets, 7)


def planted(n_documents: int, copies: Sequence[int], size: int = 6, **options: object) -> Design:
    """A span of tokens 2 and 3 in so many documents each, the documents in order."""
    spans, first = [], 0
    for number in copies:
        places = tuple(Place(first + copy, 2, 4) for copy in range(number))
        spans.append(Span("cd", "canary", places, settings={"n_copies": number}))
        first += number
    return Design(documents([size] * n_documents), tuple(spans), **options)


def simulated(
    design: Design,
    seed: int,
    of_documents: np.ndarray,
    of_spans: np.ndarray,
    noise: float = 0.3,
    influence: float = 0.0,
) -> Logs:
    """Models whose tokens gain from their document's bit, and from their span's where the document is in.

    Noise is a model's, one number per document; influence is what other documents' bits add to it.
    """
    rng = np.random.default_rng(seed)
    document_of, shape = design.documents.document_of, (design.n_models, len(design.documents))
    inside = design.document_mask
    effects = rng.normal(0, influence / np.sqrt(shape[1] / 4), (shape[1], shape[1])) * (1 - np.eye(shape[1]))
    of_models = rng.normal(0, noise, shape) + (inside - 0.5) @ effects + inside * of_documents
    x = -30 + rng.normal(0, 2, design.documents.n_tokens) + of_models[:, document_of]
    on = np.concatenate([design.span_mask, np.zeros((design.n_models, 1), dtype=bool)], axis=1)
    gains = np.append(of_spans, 0.0)
    x += np.where(inside[:, document_of] & on[:, design.span_of], gains[design.span_of], 0)
    x += rng.normal(0, noise, x.shape)
    return Logs(x.astype(np.float32), x > -29)
