"""Does the staircase, from one training run, tell what one exposure memorized?

Small language models are trained on verses of the King James Bible, each run leaving a part of them out of each epoch
as ``EpochStaircase`` does, with its own parts, order and parameters. Its estimate uses the few documents that the
callback would measure. After every epoch all runs are also asked about all verses, which the callback never does: over
the runs, a verse has then been left out of an epoch in some and been in it in the others, all else equal in law. The
mean of the differences over all verses is the counterfactual truth; each run is judged by the truth of the others.

Source: Zhang et al. 2021, arXiv 2112.12938 (counterfactual memorization, here of one exposure in place of all).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from byheart import jobs
from byheart.jobs import Job, JobsError, Report
from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.ensemble import STACK, Batches, EnsembleConfig, answers
from byheart.language.rotation import Rotation, Staircase, estimate
from byheart.language.texts import corpus
from byheart.language.tokens import tokenize
from byheart.provenance import provenance
from byheart.records import Record, Records

_VOCABULARY, _CONTEXT = 1_024, 128


@dataclass(frozen=True)
class Setting:
    """What a group of runs is trained on, and how.

    Attributes:
        n_examples: Verses.
        n_epochs: Epochs of each run.
        n_models: Runs.
        learning_rate: Of AdamW, at its peak.
        first: Seed of the first run.
    """

    n_examples: int
    n_epochs: int
    n_models: int = 32
    learning_rate: float = 5e-3
    width: int = 64


def _documents(setting: Setting) -> Documents:
    texts = corpus("kjv")
    order = np.random.default_rng(0).permutation(len(texts.texts))[: setting.n_examples]
    return tokenize([texts.names[i] for i in order], [texts.texts[i] for i in order], vocabulary=_VOCABULARY)


def _train_stack(setting: Setting, runs: list[int], *, n_threads: int | None, report: Report) -> Record:
    """Train runs side by side in a worker, and ask all about all verses before and after every epoch."""
    import torch

    from byheart.language.model import ModelConfig
    from byheart.language.stacked import Stack, adamw, learning_rate

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    made_by = provenance("torch", n_threads=torch.get_num_threads())
    began = time.perf_counter()
    documents = _documents(setting)
    n = len(documents)
    config = EnsembleConfig(width=setting.width, n_epochs=setting.n_epochs, learning_rate=setting.learning_rate)
    design = Design(documents, (), 2, roles=("always",) * n, context=int(np.diff(documents.starts).max()))
    sizes = ModelConfig(config.n_layers, config.width, config.n_heads, design.context)
    stack = Stack(sizes, documents.vocabulary, [1000 + run for run in runs])
    optimizer = adamw(stack, config.weight_decay)
    scale = 1 / (config.batch_size * design.tokens_per_row)
    rotations = [Rotation(n, seed=run) for run in runs]
    batches = Batches(design, [0] * len(runs), config.batch_size)
    batches.models = [1000 + run for run in runs]  # seeds of their orders
    n_steps, step = setting.n_epochs * batches.n_steps, 0
    losses = [_losses(design, stack)]
    for epoch in range(setting.n_epochs):
        batches.rows = [rotation.kept(epoch) for rotation in rotations]
        for batch in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(step, n_steps, config.learning_rate)
            stack.train_on(batch.inputs, batch.where, batch.targets, scale)
            optimizer.step()
            step += 1
            report(step / n_steps, 0.0)
        losses.append(_losses(design, stack))
    made_by["wall_seconds"] = time.perf_counter() - began
    return Record({"losses": np.stack(losses, axis=1)}, {"provenance": json.dumps(made_by)})


def _losses(design: Design, stack: Any) -> Float32[np.ndarray, "n_runs n_documents"]:
    """Mean loss of each document's tokens, in nats."""
    log_probability, _ = answers(design, stack)
    starts = design.documents.starts
    sums = np.add.reduceat(log_probability, starts[:-1], axis=1, dtype=np.float64)
    return (-sums / np.diff(starts)).astype(np.float32)
