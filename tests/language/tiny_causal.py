"""A causal model of a few parameters, trained on rows until it recites them; for the tests of forgetting."""

from __future__ import annotations

import torch

from byheart.language.causal import Causal
from byheart.language.labelled import batches_of, said_of
from byheart.language.model import ModelConfig, Transformer, draw

VOCABULARY, CONTEXT = 40, 16


def rows_of(n, seed=0, length=10, prefix=4):
    """Random rows whose last tokens are the span."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (n, length), generator=generator).numpy()
    rows = [{"input_ids": own, "labels": own.copy()} for own in tokens]
    for row in rows:
        row["labels"][:prefix] = -100
    return rows


def untrained(seed=0, n_layers=1):
    config = ModelConfig(n_layers=n_layers, width=16, n_heads=2, context=CONTEXT)
    return Causal(Transformer(config, VOCABULARY, draw(config, VOCABULARY, seed)))


def trained_on(rows, n_steps=80, seed=0):
    model = untrained(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(n_steps):
        (batch,) = batches_of(rows, len(rows))
        there, logs, _ = said_of(model, batch)
        optimizer.zero_grad()
        (-logs.sum() / there.sum()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model
