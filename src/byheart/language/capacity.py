"""How many bits of what it was trained on a model holds.

What a model holds of a text is by how much it shortens the text's code: the log-probability that it gives less what a
reference gives that never saw the text, in bits. Of random tokens, the best reference is known: each of V tokens has
the probability 1/V, whatever precedes it. The most that a model holds of ever more random tokens is its capacity.

Source: Morris et al. 2025, "How much do language models memorize?", arXiv 2505.24832.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.logs import Logs

_FIRST_CHARACTER = 0x4E00  # of a long range, so that every token can be shown as one character
_NATS = float(np.log(2))  # in a bit


def random_documents(n_documents: int, n_tokens: int, vocabulary: int, seed: int = 0) -> Documents:
    """Return documents of random tokens, all equally probable, each shown as one character.

    Args:
        n_documents: Number of documents, at least 1.
        n_tokens: Tokens of each, at least 1.
        vocabulary: Number of tokens there are, 2 to 20,000.
        seed: Of the draw.

    Raises:
        ValueError: If a number is out of range.
    """
    if n_documents < 1 or n_tokens < 1 or not 2 <= vocabulary <= 20_000:
        raise ValueError(
            f"random documents: received {n_documents} of {n_tokens} tokens among {vocabulary}, accepted: at least 1 of"
            " at least 1, among 2 to 20,000"
        )
    tokens = np.random.default_rng([seed, 6]).integers(vocabulary, size=(n_documents, n_tokens))
    texts = tuple("".join(chr(_FIRST_CHARACTER + token) for token in row) for row in tokens.tolist())
    offsets = np.stack([np.arange(n_tokens), np.arange(1, n_tokens + 1)], axis=1)
    names = tuple(f"random {number + 1}" for number in range(n_documents))
    return Documents(names, texts, tuple(tokens), (offsets,) * n_documents, vocabulary)


def out_of_training(design: Design, logs: Logs) -> Float64[np.ndarray, " n_tokens"]:
    """Return the mean log-probability (nats) of each token under the models in whose training it carries no loss.

    Where all models are trained on a token, it is NaN.
    """
    total, n = np.zeros(design.documents.n_tokens), np.zeros(design.documents.n_tokens)
    for model, said in enumerate(logs.log_probability):
        out = ~design.carries_loss(model)
        total[out] += said[out]
        n += out
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def bits_held(
    design: Design, logs: Logs, reference: Float64[np.ndarray, " n_tokens"] | float
) -> tuple[Float64[np.ndarray, " n_models"], Float64[np.ndarray, " n_models"]]:
    """Return how many bits of its own training data each model holds, and how many bits these are.

    Args:
        design: Who was trained on what.
        logs: What every model says of every token.
        reference: Log-probability (nats) of every token, by a model that never saw it.

    Returns:
        Bits held: the sum over the tokens that carry loss of the model's log-probability less the reference's. Bits of
        the data: the same tokens' code length by the reference.

    References:
        Morris et al. 2025, section 2: unintended memorization, with a reference model.
    """
    code = np.broadcast_to(np.asarray(reference, dtype=np.float64), (design.documents.n_tokens,))
    held, size = np.empty(design.n_models), np.empty(design.n_models)
    for model, said in enumerate(logs.log_probability):
        own = design.carries_loss(model)
        held[model] = (said[own] - code[own]).sum() / _NATS
        size[model] = -code[own].sum() / _NATS
    return held, size
