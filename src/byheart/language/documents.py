"""Texts as tokens: what a language model is trained on, and where every token stands in its text.

All tokens of all documents have one number each, in order: token t of document d is number ``starts[d] + t``. Arrays
over tokens, such as log-probabilities, are in this order everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, eq=False)
class Documents:
    """Texts, each with its tokens.

    Attributes:
        names: A name for every document, such as a reference.
        texts: The texts.
        tokens: The numbers of each text's tokens, in [0, vocabulary); no document has a token for its beginning.
        offsets: The characters [start, stop) of its text that every token stands for; together all of the text.
        vocabulary: Number of tokens there are.
        notes: What was assumed when the texts were read, in sentences.

    Raises:
        ValueError: If there is no document, one is empty, a token is out of range, or offsets are not a text's.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[Int64[np.ndarray, " n_tokens"], ...]
    offsets: tuple[Int64[np.ndarray, "n_tokens 2"], ...]
    vocabulary: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("documents: received none, accepted: at least one")
        if not len(self.names) == len(self.texts) == len(self.tokens) == len(self.offsets):
            raise ValueError(
                f"documents: received {len(self.names)} names, {len(self.texts)} texts, {len(self.tokens)} rows of"
                f" tokens and {len(self.offsets)} of offsets, accepted: as many of each"
            )
        for name, text, tokens, offsets in zip(self.names, self.texts, self.tokens, self.offsets, strict=True):
            if not len(tokens):
                raise ValueError(f"documents: received {name!r} without a token, accepted: texts that are not empty")
            if tokens.min() < 0 or tokens.max() >= self.vocabulary:
                raise ValueError(f"documents: received a token of {name!r} outside 0 to {self.vocabulary - 1}")
            if offsets.shape != (len(tokens), 2) or offsets[0, 0] != 0 or offsets[-1, 1] != len(text):
                raise ValueError(f"documents: received offsets of {name!r} that do not cover its text")

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.texts)

    @cached_property
    def starts(self) -> Int64[np.ndarray, " n_documents_and_1"]:
        """Number of every document's first token, and at the end the number of all tokens."""
        return np.cumsum([0, *(len(tokens) for tokens in self.tokens)], dtype=np.int64)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all documents."""
        return int(self.starts[-1])

    @cached_property
    def flat(self) -> Int64[np.ndarray, " n_tokens"]:
        """The tokens of all documents, one after the other."""
        return np.concatenate(self.tokens).astype(np.int64)

    @cached_property
    def document_of(self) -> Int64[np.ndarray, " n_tokens"]:
        """Document of every token."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def text_of(self, document: int, start: int, stop: int) -> str:
        """Return the text that tokens [start, stop) of a document stand for."""
        offsets = self.offsets[document]
        return self.texts[document][int(offsets[start, 0]) : int(offsets[stop - 1, 1])]

    def take(self, rows: Sequence[int] | np.ndarray) -> Documents:
        """Return some of the documents, by index, in the order of the indices."""
        chosen = [int(row) for row in rows]
        return Documents(
            tuple(self.names[row] for row in chosen),
            tuple(self.texts[row] for row in chosen),
            tuple(self.tokens[row] for row in chosen),
            tuple(self.offsets[row] for row in chosen),
            self.vocabulary,
            self.notes,
        )
