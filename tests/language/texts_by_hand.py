"""Small documents for the tests of the wing."""

from __future__ import annotations

import numpy as np

from byheart.language.design import Design, Place, Span
from byheart.language.documents import Documents


def documents_of(texts: list[str], vocabulary: str = "abcdefgh ") -> Documents:
    """A token a character."""
    tokens = tuple(np.array([vocabulary.index(c) for c in text]) for text in texts)
    offsets = tuple(np.stack([np.arange(len(text)), np.arange(1, len(text) + 1)], axis=1) for text in texts)
    return Documents(tuple(f"document {i}" for i in range(len(texts))), tuple(texts), tokens, offsets, len(vocabulary))


def random_documents(n: int, seed: int = 0, shortest: int = 3, longest: int = 20) -> Documents:
    rng = np.random.default_rng(seed)
    return documents_of(["".join(rng.choice(list("abcdefgh"), rng.integers(shortest, longest))) for _ in range(n)])


def design_with_spans(n_models: int = 4, n_documents: int = 12, context: int = 8, seed: int = 0) -> Design:
    """Every document but the first has a span of two tokens; those of documents 1 and 2 are copies of one span."""
    documents = random_documents(n_documents, seed, shortest=5)
    spans = [Span("a copied span", "given", (Place(1, 1, 3), Place(2, 2, 4)))]
    spans += [Span(documents.text_of(d, 1, 3), "given", (Place(d, 1, 3),)) for d in range(3, n_documents)]
    return Design(documents, tuple(spans), n_models, seed, context=context)
