"""Rows of tokens with labels, as a ``Trainer`` gets them, in batches; and what any causal model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byheart.language.as_found import check_causal, left_as_found
from byheart.language.collate import IGNORED
from byheart.language.finetune import context_of, n_known

if TYPE_CHECKING:
    import pandas as pd
    import torch

Row = Mapping[str, Any]
"""Has "input_ids", the tokens of a row; "labels" are the same, -100 where a token does not count; default all count."""


def check_rows(rows: Sequence[Row], what: str = "rows") -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the tokens and labels of rows, each row with a label after its first token.

    Raises:
        ValueError: If there is no row, or one has no label or labels of other tokens; ``what`` names them.
    """
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or "input_ids" not in row:
            raise ValueError(f"{what}: received a {type(row).__name__} as row {number}, accepted: a dict of input_ids")
        tokens = np.asarray(row["input_ids"])
        labels = np.asarray(row.get("labels", tokens))
        if (
            tokens.ndim != 1
            or not all(np.issubdtype(values.dtype, np.integer) or not values.size for values in (tokens, labels))
            or (tokens < 0).any()
            or labels.shape != tokens.shape
            or (labels[labels != IGNORED] != tokens[labels != IGNORED]).any()
        ):
            raise ValueError(
                f"{what}: received row {number} of shapes {tokens.shape} and {labels.shape}, or labels of other tokens,"
                " accepted: input_ids in a line, integers from 0 on, and labels that are the same or -100"
            )
        if not (labels[1:] != IGNORED).any():
            raise ValueError(
                f"{what}: received row {number}, which has no token to predict, accepted: two tokens or more"
            )
        found.append((tokens.astype(np.int64), labels.astype(np.int64)))
    if not found:
        raise ValueError(f"{what}: received none, accepted: at least one row")
    return found


def batches_of(
    rows: Sequence[Row], batch_size: int, device: Any = None, what: str = "rows"
) -> Iterator[dict[str, torch.Tensor]]:
    """Return batches of rows in their order, filled up at their ends: "input_ids", "attention_mask" and "labels".

    Raises:
        ValueError: If ``batch_size`` is below 1, or a row cannot be used (see ``check_rows``).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: received {batch_size}, accepted: an integer >= 1")
    return _batches(check_rows(rows, what), batch_size, device)


def _batches(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int, device: Any
) -> Iterator[dict[str, torch.Tensor]]:
    import torch

    for first in range(0, len(rows), batch_size):
        own = rows[first : first + batch_size]
        shape = len(own), max(len(tokens) for tokens, _ in own)
        filled = {"input_ids": np.zeros(shape, np.int64), "attention_mask": np.zeros(shape, np.int64)}
        filled["labels"] = np.full(shape, IGNORED)
        for i, (tokens, labels) in enumerate(own):
            filled["input_ids"][i, : len(tokens)] = tokens
            filled["attention_mask"][i, : len(tokens)] = 1
            filled["labels"][i, : len(tokens)] = labels
        yield {name: torch.from_numpy(values).to(device) for name, values in filled.items()}


def logits_of(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a model's logits for the tokens of a batch, whatever it returns them in."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    found: torch.Tensor = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    return found


def said_of(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which tokens of a batch have a label (the first of a row left out), their log-probabilities in nats, 0 for
    the others, and which are the most probable ones.
    """
    labels = batch["labels"][:, 1:]
    there = labels != IGNORED
    logits = logits_of(model, batch)[:, :-1].float()
    chosen = labels.clamp(min=0)[..., None]
    logs = logits.gather(2, chosen)[..., 0] - logits.logsumexp(2)
    return there, logs * there, (logits.argmax(2) == labels) & there


def recitation(
    model: Any, rows: Sequence[Row], batch_size: int = 16, what: str = "rows", name: str = "model"
) -> pd.DataFrame:
    """Say of each row how probable its labelled tokens are, and whether always taking the first guess writes them.

    The model is asked in evaluation mode and left as it was.

    Args:
        model: A causal model of Transformers, or any module that returns logits for ``input_ids``.
        rows: The rows.
        batch_size: Rows at once.
        what: Name of the rows in messages.
        name: Name of the model in messages.

    Returns:
        A row per row: ``n_tokens``, ``log_probability`` (nats, of all of them together) and ``recited``.

    Raises:
        ValueError: If a row cannot be used, is longer than the model reads or has a token that it does not know, or
            what the model says is not finite.
    """
    import pandas as pd

    check_readable(model, rows, what)
    device = next(model.parameters()).device
    found = []
    with left_as_found(model):
        for batch in batches_of(rows, batch_size, device, what):
            there, logs, right = said_of(model, batch)
            n_tokens = there.sum(1)
            recited = right.sum(1) == n_tokens
            found += list(zip(n_tokens.tolist(), logs.double().sum(1).tolist(), recited.tolist(), strict=True))
    table = pd.DataFrame(found, columns=["n_tokens", "log_probability", "recited"])
    if not np.isfinite(table["log_probability"]).all():
        raise ValueError(
            f"{name}: received a model whose probabilities are not finite, accepted: one that did not diverge"
        )
    return table


def check_readable(model: Any, rows: Sequence[Row], what: str = "rows") -> None:
    """Check that a model can read rows.

    Raises:
        ValueError: If one cannot be used, is longer than the model reads, or has a token that it does not know, or the
            model is not causal, or in half precision on a CPU.
    """
    checked = check_rows(rows, what)
    check_causal(model)
    first = next(model.parameters())
    if first.device.type == "cpu" and first.dtype.itemsize < 4:
        raise ValueError(f"model: received {first.dtype} on a CPU, accepted: float32 (`model.float()`)")
    known, reads = n_known(model), context_of(model)
    largest, longest = (max(int(of(tokens)) for tokens, _ in checked) for of in (np.max, len))
    if known is not None and largest >= known:
        raise ValueError(f"{what}: received token {largest}, of which the model has none, accepted: below {known}")
    if reads is not None and longest > reads:
        raise ValueError(f"{what}: received rows of {longest} tokens, accepted: up to the model's {reads}")
