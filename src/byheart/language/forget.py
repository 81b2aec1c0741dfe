"""Make a model forget spans, or never learn them; and teach it them again, which tells gone from hidden.

Rows are as a ``Trainer`` gets them: "input_ids", and "labels" that are -100 outside of the span.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from byheart.language.documents import Documents
from byheart.language.extras import require
from byheart.language.labelled import Row, batches_of, check_readable, said_of

_MULTIPLIER = 0x9E3779B97F4A7C15  # of Knuth's multiplicative hash, 2^64 over the golden ratio


def gradient_ascent(
    model: Any,
    rows: Sequence[Row],
    *,
    retain: Sequence[Row] = (),
    until: float | None = None,
    learning_rate: float = 1e-4,
    max_steps: int = 500,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[Any, pd.DataFrame]:
    """Train a copy of a causal model to make spans less probable, until it no longer knows them.

    Args:
        model: A causal model of Transformers, or any module that returns logits for ``input_ids``; it stays as it is.
        rows: The spans to forget, each with what precedes it; labels are -100 outside of the span.
        retain: Rows of other text whose loss is kept low at the same time: without them the model soon loses all else.
        until: Mean log-probability per token of the spans (nats) at which it stops, such as that of spans that were
            never trained on; default once none is recited.
        learning_rate: Of Adam, above 0.
        max_steps: Steps after which it stops in any case, at least 1.
        batch_size: Rows of a step.
        seed: Of the order of rows.

    Returns:
        The copy, and a row per step: ``step``, ``log_probability`` (per token) and ``recited`` (share) of the spans
        that the step was made on, before it.

    Raises:
        ValueError: If there is no row or a number is out of range.
        ModuleNotFoundError: If PyTorch is missing.

    References:
        Jang et al. 2022, "Knowledge unlearning for mitigating privacy risks in language models", arXiv 2210.01504; with
        ``retain``, Liu et al. 2022, "Continual learning and private unlearning", arXiv 2203.12817.
    """
    require("torch")
    import torch

    check_training(learning_rate, max_steps)
    if until is not None and not until < 0:
        raise ValueError(f"until: received {until}, accepted: a log-probability below 0")
    check_readable(model, rows)
    own, log = copy.deepcopy(model).eval(), []
    parameters = [values.requires_grad_() for values in own.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    device = parameters[0].device
    kept = _endless(retain, batch_size, device, seed + 1, "retain") if len(retain) else None
    forgotten = _endless(rows, batch_size, device, seed, "rows")
    n_batches = -(-len(rows) // batch_size)
    for step in range(max_steps):
        batch = next(forgotten)
        there, logs, right = said_of(own, batch)
        recited = (right.sum(1) == there.sum(1)).float().mean()
        log.append((step, float(logs.detach().sum() / there.sum()), float(recited)))
        last = pd.DataFrame(log[-n_batches:], columns=["step", "log_probability", "recited"])
        reached = last["recited"].max() == 0 if until is None else last["log_probability"].mean() <= until
        if len(last) == n_batches and reached:
            break
        loss = logs.sum() / there.sum()
        if kept is not None:
            there, logs, _ = said_of(own, next(kept))
            loss = loss - logs.sum() / there.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    for before, after in zip(model.parameters(), own.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
    return own.train(model.training), pd.DataFrame(log, columns=["step", "log_probability", "recited"])


def relearn(
    model: Any, rows: Sequence[Row], *, learning_rate: float = 1e-3, max_steps: int = 200
) -> Float64[np.ndarray, " n_rows"]:
    """Return how many steps of training on a span alone it takes until a model recites it, for each span anew.

    A span that is gone takes as many as one of its kind that was never trained on; one that is hidden takes fewer.

    Args:
        model: A causal model of Transformers, or any module that returns logits for ``input_ids``; it stays as it is.
        rows: A span each, with what precedes it; labels are -100 outside of the span.
        learning_rate: Of Adam, above 0; the smaller, the finer the count.
        max_steps: Steps after which a span is given up, at least 1.

    Returns:
        The steps: 0 for a span that is recited as it is, infinite for one that is given up.

    Raises:
        ValueError: If there is no row or a number is out of range.
        ModuleNotFoundError: If PyTorch is missing.
    """
    require("torch")
    import torch

    check_training(learning_rate, max_steps)
    check_readable(model, rows)
    own = copy.deepcopy(model).eval()
    parameters = [values.requires_grad_() for values in own.parameters()]
    found = np.full(len(rows), np.inf)
    for number, batch in enumerate(batches_of(rows, 1, parameters[0].device)):
        with torch.no_grad():
            for mine, theirs in zip(parameters, model.parameters(), strict=True):
                mine.copy_(theirs)
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        for step in range(max_steps + 1):
            there, logs, right = said_of(own, batch)
            if bool((right == there).all()):
                found[number] = step
                break
            optimizer.zero_grad()
            (-logs.sum() / there.sum()).backward()
            optimizer.step()
    return found


def goldfish(documents: Documents, k: int = 4, context: int = 4) -> Bool[np.ndarray, " n_tokens"]:
    """Return which tokens keep their loss under the goldfish loss: about one in k does not, and is never learned.

    Which, depends on the tokens just before it alone, so that the same ones are left out in all copies of a passage.

    Args:
        documents: What is trained on.
        k: One token in k is left out, on average; at least 2.
        context: Number of tokens before it that decide, at least 1. The first ones of a document keep their loss.

    Raises:
        ValueError: If a number is out of range.

    References:
        Hans et al. 2024, "Be like a goldfish, don't memorize!", arXiv 2406.10209 (there k = 4, and 13 tokens decide).
    """
    for name, value, least in (("k", k, 2), ("context", context, 1)):
        if value < least:
            raise ValueError(f"{name}: received {value}, accepted: an integer >= {least}")
    hashed = np.zeros(documents.n_tokens, dtype=np.uint64)
    tokens = documents.flat.astype(np.uint64) + np.uint64(1)
    for back in range(context, 0, -1):
        hashed[back:] = (hashed[back:] ^ tokens[:-back]) * np.uint64(_MULTIPLIER)
        hashed ^= hashed >> np.uint64(29)
    position = np.arange(documents.n_tokens) - documents.starts[documents.document_of]
    found: np.ndarray = (position < context) | ((hashed >> np.uint64(32)) % np.uint64(k) != 0)
    return found


def sinks(
    sequences: Sequence[str], n_neurons: int, *, share: float = 0.5, active: float = 0.25
) -> Bool[np.ndarray, "n_sequences n_neurons"]:
    """Return which neurons of a hidden layer are active while a model is trained on each sequence: memorization sinks.

    Some neurons are there for all sequences. The others are sinks: each sequence has a few of its own, which a hash of
    its name chooses, so that they are the same ones in all its repetitions. What only one sequence needs is then to be
    kept in neurons that few others train, and the sinks of all are dropped after training.

    Args:
        sequences: The name of each sequence; repetitions have the same.
        n_neurons: Of the layer; the last ones are the sinks.
        share: Share of the neurons that are sinks, in (0, 1).
        active: Share of the sinks that are active in a sequence, in (0, 1].

    Raises:
        ValueError: If a share is out of range, or leaves no neuron of one of the kinds.

    References:
        Ghosal, Maini and Raghunathan 2025, "Memorization sinks", arXiv 2507.09937.
    """
    if not 0 < share < 1 or not 0 < round(share * n_neurons) < n_neurons:
        raise ValueError(f"share: received {share}, accepted: above 0, below 1, such that {n_neurons} neurons divide")
    n_sinks = round(share * n_neurons)
    if not 0 < active <= 1 or not round(active * n_sinks):
        raise ValueError(f"active: received {active}, accepted: above 0, at most 1, at least one of {n_sinks} sinks")
    found: np.ndarray = np.arange(n_neurons) < np.full((len(sequences), 1), n_neurons - n_sinks)
    for row, name in zip(found, sequences, strict=True):
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        own = np.random.default_rng(seed).choice(n_sinks, round(active * n_sinks), replace=False)
        row[n_neurons - n_sinks + own] = True
    return found


def check_training(learning_rate: float, max_steps: int) -> None:
    """Check the settings of a training.

    Raises:
        ValueError: If one is out of range.
    """
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate: received {learning_rate}, accepted: a finite number > 0")
    if max_steps < 1:
        raise ValueError(f"max_steps: received {max_steps}, accepted: an integer >= 1")


def _endless(rows: Sequence[Row], batch_size: int, device: Any, seed: int, what: str) -> Iterator[dict[str, Any]]:
    """Batches of rows in random order, another in each round."""
    batches_of(rows, batch_size, device, what)  # refused at once, not with the first batch
    rng = np.random.default_rng(seed)
    return (
        batch
        for _ in itertools.count()
        for batch in batches_of([rows[i] for i in rng.permutation(len(rows))], batch_size, device, what)
    )
