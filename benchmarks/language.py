"""Language models side by side against one by one: tokens per second and core, after a check that both agree.

``python -m benchmarks.language`` trains on verses of the King James Bible. The other side is PyTorch as one would
write it: the readable model, rows filled up to the longest of a batch, cross-entropy of all places that are not filled
up, and an AdamW per model. Both take turns, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from byheart.language.collate import IGNORED
from byheart.language.design import Design
from byheart.language.ensemble import STACK, Batches, EnsembleConfig, answers
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.stacked import Stack, adamw
from byheart.language.texts import corpus
from byheart.language.tokens import tokenize
from byheart.own import write_table
from byheart.provenance import provenance

_RATE = 1e-3
_DOCUMENTS = 1_300
_STEPS_OF_CHECK = 5


class SideBySide:
    """A stack of models, a step at a time."""

    def __init__(self, design: Design, sizes: ModelConfig, config: EnsembleConfig) -> None:
        vocabulary = design.documents.vocabulary
        self.stack = Stack(sizes, vocabulary, list(range(STACK)))
        self.optimizer = adamw(self.stack, config.weight_decay)
        self.optimizer.param_groups[0]["lr"] = _RATE
        self.batches = Batches(design, list(range(STACK)), config.batch_size)
        self.scale = 1 / (config.batch_size * design.tokens_per_row)

    def epoch(self, epoch: int, n_steps: int | None = None) -> int:
        """Train for an epoch, or some steps of it, and return the number of tokens trained on."""
        n_tokens = 0
        for step, batch in enumerate(self.batches.epoch(epoch)):
            if step == n_steps:
                break
            self.stack.train_on(batch.inputs, batch.where, batch.targets, self.scale)
            self.optimizer.step()
            n_tokens += sum(map(len, batch.targets))
        return n_tokens


class OneByOne:
    """The same models with the same batches, each a module with an optimizer of its own."""

    def __init__(self, design: Design, sizes: ModelConfig, config: EnsembleConfig) -> None:
        vocabulary = design.documents.vocabulary
        self.models = [Transformer(sizes, vocabulary, draw(sizes, vocabulary, seed)) for seed in range(STACK)]
        settings = {"lr": _RATE, "betas": (0.9, 0.95), "weight_decay": config.weight_decay, "fused": True}
        self.optimizers = [torch.optim.AdamW(model.parameters(), **settings) for model in self.models]
        self.batches = [Batches(design, [number], config.batch_size) for number in range(STACK)]
        self.scale = 1 / (config.batch_size * design.tokens_per_row)

    def epoch(self, epoch: int, n_steps: int | None = None) -> int:
        """Train for an epoch, or some steps of it, and return the number of tokens trained on."""
        n_tokens = 0
        for model, optimizer, batches in zip(self.models, self.optimizers, self.batches, strict=True):
            for step, batch in enumerate(batches.epoch(epoch)):
                if step == n_steps:
                    break
                inputs = batch.inputs[0]
                labels = torch.full(inputs.shape, IGNORED).flatten()
                labels[batch.where[0]] = batch.targets[0]
                optimizer.zero_grad()
                logits = model(inputs).flatten(0, 1)
                (self.scale * F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")).backward()
                optimizer.step()
                n_tokens += len(batch.targets[0])
        return n_tokens


def main() -> None:
    """Check, time in turns, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-rounds", type=int, default=5)
    parser.add_argument("--n-layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/language.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    texts = corpus("kjv", _DOCUMENTS, 0)
    design = Design(tokenize(texts.names, texts.texts), (), STACK)
    rows = []
    for n_layers in given.n_layers:
        config = EnsembleConfig(n_layers=n_layers)
        sizes = ModelConfig(n_layers, config.width, config.n_heads, design.context)
        difference = _disagreement(design, sizes, config)
        assert difference < 1e-4, f"the two disagree by {difference} nats"
        ours, theirs = (make(design, sizes, config) for make in (SideBySide, OneByOne))
        speeds = np.array([[_speed(side, turn) for side in (ours, theirs)] for turn in range(given.n_rounds)])
        ratio = speeds[:, 0] / speeds[:, 1]
        made_by = provenance("torch", n_threads=1)
        rows.append(
            {
                "n_layers": n_layers,
                "width": config.width,
                "tokens_per_second": np.median(speeds[:, 0]),
                "one_by_one": np.median(speeds[:, 1]),
                "ratio": np.median(ratio),
                "lowest_ratio": ratio.min(),
                "highest_ratio": ratio.max(),
                "disagreement": difference,
                **{name: made_by[name] for name in ("device", "torch", "git_revision", "started")},
            }
        )
    table = pd.DataFrame(rows)
    write_table(given.out, table, float_format="%.4g")
    print(table.to_string(index=False))


def _speed(side: SideBySide | OneByOne, turn: int) -> float:
    began = time.perf_counter()
    n_tokens = side.epoch(turn)
    return n_tokens / (time.perf_counter() - began)


def _disagreement(design: Design, sizes: ModelConfig, config: EnsembleConfig) -> float:
    """Largest difference of a model's mean log-probability after a few steps, in nats."""
    ours, theirs = SideBySide(design, sizes, config), OneByOne(design, sizes, config)
    for side in (ours, theirs):
        side.epoch(0, _STEPS_OF_CHECK)
    said, _ = answers(design, ours.stack)
    batch = next(Batches(design, list(range(STACK)), config.batch_size).epoch(1))
    differences = []
    for number, model in enumerate(theirs.models):
        with torch.no_grad():
            logits = model(batch.inputs[number]).flatten(0, 1)[batch.where[number]]
            own = -F.cross_entropy(logits, batch.targets[number])
        differences.append(abs(float(own) - float(said[number, batch.tokens[number]].mean())))
    return max(differences)


if __name__ == "__main__":
    main()
