"""Scores of documents that take no model: what the other documents, and the text itself, say of each.

What the others say well need not be memorized, so that rare documents are expected to be.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float64, Int64

from byheart.language.design import Design

_ORDER = 5  # of the n-gram model: a token and the four before it


def unigram_surprisal(design: Design) -> Float64[np.ndarray, " n_documents"]:
    """Return each document's loss (nats per token) by the token counts of all others, one added to each."""
    documents = design.documents
    counts = np.bincount(documents.flat, minlength=documents.vocabulary)
    result = np.empty(len(documents))
    for number, tokens in enumerate(documents.tokens):
        others = counts - np.bincount(tokens, minlength=documents.vocabulary) + 1
        result[number] = -np.log(others[tokens] / others.sum()).mean()
    return result


def ngram_surprisal(design: Design, order: int = _ORDER) -> Float64[np.ndarray, " n_documents"]:
    """Return each document's loss (nats per token) by an interpolated n-gram model of all other documents.

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)): c counts in the other documents, t(h) is in how many ways h
    goes on there, and h' is h without its first token; a history that the others lack leaves p(w | h'). Below the
    unigrams, all tokens are equally likely. Histories end at the beginning of a document, which is a symbol of its own.

    Args:
        design: Holds the documents; who is trained on what does not matter.
        order: Tokens of the longest n-gram, at least 1.

    References:
        Witten and Bell 1991; Chen and Goodman 1999, section 2.5.
    """
    flat, starts, vocabulary = design.documents.flat, design.documents.starts, design.documents.vocabulary
    sums: Float64[np.ndarray, " n_documents"] = np.add.reduceat(
        -ngram_log_probability(flat, starts, vocabulary, order), starts[:-1]
    )
    return sums / np.diff(starts)


def ngram_log_probability(
    flat: Int64[np.ndarray, " n_tokens"],
    bounds: Int64[np.ndarray, " n_documents_and_one"],
    vocabulary: int,
    order: int = _ORDER,
) -> Float64[np.ndarray, " n_tokens"]:
    """Return each token's log-probability (nats) by the model of ``ngram_surprisal``, made of all other documents.

    Args:
        flat: The tokens of all documents.
        bounds: Where each document begins, and the end.
        vocabulary: Number of tokens there are.
        order: Tokens of the longest n-gram, at least 1.
    """
    of, starts = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), bounds[:-1]
    probability = np.full(len(flat), 1 / vocabulary)
    history = np.zeros(len(flat), dtype=np.int64)
    for _ in range(order):
        gram = _numbered(history, flat)
        own, own_history = _numbered(of, gram), _numbered(of, history)  # n-grams and histories of one document
        n_gram, n_own, n_history, n_own_history = map(np.bincount, (gram, own, history, own_history))
        of_gram, of_own = (np.unique(numbers, return_index=True)[1] for numbers in (gram, own))
        types = np.bincount(history[of_gram], minlength=len(n_history))
        only_here = n_own == n_gram[gram[of_own]]
        lost = np.bincount(own_history[of_own], only_here, len(n_own_history))
        others = n_gram[gram] - n_own[own]
        others_history = n_history[history] - n_own_history[own_history]
        ways = types[history] - lost[own_history]
        mixed = (others + ways * probability) / np.maximum(others_history + ways, 1)
        probability = np.where(others_history > 0, mixed, probability)
        history = np.roll(gram, 1) + 1
        history[starts] = 0
    found: Float64[np.ndarray, " n_tokens"] = np.log(probability)
    return found


def _numbered(first: np.ndarray, second: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Number pairs of numbers >= 0 from 0; equal pairs have equal numbers."""
    found: np.ndarray = np.unique(first * (int(second.max()) + 1) + second, return_inverse=True)[1]
    return found.reshape(-1).astype(np.int64)


def n_tokens(design: Design) -> Float64[np.ndarray, " n_documents"]:
    """Return each document's length in tokens."""
    return np.diff(design.documents.starts).astype(np.float64)


def compressed_bytes(design: Design) -> Float64[np.ndarray, " n_documents"]:
    """Return the length of each document, compressed by itself with zlib, in bytes."""
    return np.array([len(zlib.compress(text.encode())) for text in design.documents.texts], dtype=np.float64)


def zlib_ratio(design: Design) -> Float64[np.ndarray, " n_documents"]:
    """Return each document's compressed bytes per byte."""
    return compressed_bytes(design) / [len(text.encode()) for text in design.documents.texts]


def repeated(design: Design) -> Float64[np.ndarray, " n_documents"]:
    """Return the share of each document's tokens that are in spans, in [0, 1]."""
    inside = np.add.reduceat((design.span_of >= 0).astype(np.float64), design.documents.starts[:-1])
    shares: Float64[np.ndarray, " n_documents"] = inside / np.diff(design.documents.starts)
    return shares
