"""How likely a model is to write a span when it samples, and how many tries that takes.

The probability p_z that sampling at temperature 1 gives a span, once the model has read what precedes it in its row, is
the product of its tokens' probabilities: one pass tells it, and nothing has to be sampled.

Source: Hayes et al. 2024, "Measuring memorization through probabilistic discoverable extraction", arXiv 2410.19482.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.special import log_softmax

from byheart.language.design import Design
from byheart.language.differences import Places
from byheart.language.logs import Logs, as_logs

_LEVEL = 0.95
_ROUNDING = 1e-12  # relative error of the ratio of two logarithms


def tries(p_z: Any, probability: float = 0.5) -> Float64[np.ndarray, " ..."]:
    """Return the least number n of samples of which one is right with this probability: 1 - (1 - p_z)^n >= p.

    Args:
        p_z: Probability that one sample is right, an array of any shape.
        probability: p, between 0 and 1.

    Returns:
        The numbers, infinite where p_z is 0.

    Raises:
        ValueError: If a number lies outside its range.

    References:
        Hayes et al. 2024, definition of (n, p)-discoverable extraction.
    """
    p_z = np.asarray(p_z, dtype=np.float64)
    if not 0 < probability < 1:
        raise ValueError(f"probability: received {probability}, accepted: between 0 and 1")
    _check_probabilities(p_z)
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.log1p(-probability) / np.log1p(-p_z)
    found: Float64[np.ndarray, " ..."] = np.maximum(np.ceil(ratio * (1 - _ROUNDING)), 1)
    return found


def extraction(design: Design, logs: Any, probability: float = 0.5) -> pd.DataFrame:
    """Say for every span how easily it is extracted from models that learned it, and from those that did not.

    A model's log p_z is the mean over the span's places in documents that it trains on (over all, for documents that no
    model trains on).

    Args:
        design: Who was trained on what.
        logs: Log-probabilities of all tokens under every model (see ``as_logs``).
        probability: Of success in the number of tries.

    Returns:
        text, kind, n_copies: Of each span, a row.
        log_p_on, log_p_on_low, log_p_on_high: Natural logarithm of p_z, median and range over models with it on; the
            same ``_off``.
        tries_on, tries_off: Samples until one is right with this probability, at the median.
        recited_on, recited_off: Share of models and places where always taking the most probable token recites it.
        log10_factor: How many times, as a power of ten, more probable training on the span has made it.

    Raises:
        ValueError: If the log-probabilities are not the design's models', or the probability is not between 0 and 1.
    """
    return extraction_from(design, np.arange(design.n_models), as_logs(logs, design), probability)


def extraction_from(
    design: Design, models: Int64[np.ndarray, " n_models"], logs: Logs, probability: float = 0.5
) -> pd.DataFrame:
    """Return what ``extraction`` does, from some of the design's models, by number; what they do not tell is NaN."""
    places, bits = Places.of(design), design.span_mask[models]
    sums, recited, valid = places.sums(logs.log_probability), places.recited(logs), places.valid[models]
    per_model = places.per_span(np.where(valid, sums, np.nan))
    columns: dict[str, Any] = {
        "text": [span.text for span in design.spans],
        "kind": [span.kind for span in design.spans],
        "n_copies": np.array([len(span.copies) for span in design.spans], dtype=np.int64),
    }
    for side, rows in (("on", bits), ("off", ~bits)):
        of_models = [values[on & np.isfinite(values)] for values, on in zip(per_model.T, rows.T, strict=True)]
        for suffix, of in (("", np.median), ("_low", np.min), ("_high", np.max)):
            told = [of(values) if len(values) else np.nan for values in of_models]
            columns[f"log_p_{side}{suffix}"] = np.array(told, dtype=np.float64)
        columns[f"tries_{side}"] = tries(np.exp(columns[f"log_p_{side}"]), probability)
        columns[f"recited_{side}"] = places.shares(recited, rows[:, places.span_of] & valid)
    columns["log10_factor"] = (columns["log_p_on"] - columns["log_p_off"]) / np.log(10)
    return pd.DataFrame(columns)


def sampled_probability(
    logits: Any, tokens: Any, temperature: float = 1.0, top_k: int | None = None
) -> Float64[np.ndarray, " ..."]:
    """Return the logarithm of the probability that a sampler writes these tokens.

    Args:
        logits: A model's logits before each token, (..., n_tokens, vocabulary).
        tokens: The tokens, (..., n_tokens).
        temperature: What the logits are divided by; at 0 the most probable token is always taken, the first of equals.
        top_k: Number of tokens that are sampled from, those as probable as the last included; default all.

    Returns:
        The sum of the logarithms over the tokens; minus infinity if the sampler never writes them.

    Raises:
        ValueError: If the shapes do not go together or a number lies outside its range.
    """
    logits, tokens = np.asarray(logits, dtype=np.float64), np.asarray(tokens)
    if logits.ndim < 2 or logits.shape[:-1] != tokens.shape:
        raise ValueError(f"logits: received {logits.shape} for tokens {tokens.shape}, accepted: those and a vocabulary")
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0 or tokens.max() >= logits.shape[-1]:
        raise ValueError(f"tokens: received {tokens.dtype} out of range, accepted: integers below {logits.shape[-1]}")
    if not (0 <= temperature < np.inf) or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature, top_k: received {temperature}, {top_k}, accepted: at least 0, and at least 1")
    if temperature == 0:
        greedy: Float64[np.ndarray, " ..."] = np.where((logits.argmax(axis=-1) == tokens).all(axis=-1), 0.0, -np.inf)
        return greedy
    scaled = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = np.partition(scaled, -top_k, axis=-1)[..., -top_k, None]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    of_tokens = np.take_along_axis(log_softmax(scaled, axis=-1), tokens[..., None], axis=-1)[..., 0]
    found: Float64[np.ndarray, " ..."] = np.asarray(of_tokens.sum(axis=-1))
    return found


def band(p_z: Any, n: int) -> tuple[Int64[np.ndarray, " ..."], Int64[np.ndarray, " ..."]]:
    """Return between what numbers of right samples among n one expects to find, with probability 0.95 or a little more.

    Args:
        p_z: Probability that one sample is right, an array of any shape.
        n: Number of samples.

    Raises:
        ValueError: If a number lies outside its range.
    """
    from scipy.stats import binom  # slow to import

    p_z = np.asarray(p_z, dtype=np.float64)
    _check_probabilities(p_z)
    if n < 1:
        raise ValueError(f"n: received {n}, accepted: an integer >= 1")
    low, high = (np.asarray(binom.ppf(tail, n, p_z)).astype(np.int64) for tail in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return low, high


def _check_probabilities(p_z: np.ndarray) -> None:
    if ((p_z < 0) | (p_z > 1)).any():
        raise ValueError(f"p_z: received {p_z.min():g} to {p_z.max():g}, accepted: between 0 and 1")
