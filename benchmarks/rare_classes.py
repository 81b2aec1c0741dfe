"""Are wrong labels found beside rare classes? On made-up clusters, a minute.

``python -m benchmarks.rare_classes`` gives ten examples of three large classes the label of another of these, trains a
small network on them and on some small classes, and prints how many of the ten are among the first ten by each score: a
mean over seeds with its standard error. results/LOG.md has the numbers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

import byheart as bh

N_SEEDS = 6
N_WRONG = 10
N_EPOCHS = 60
LARGE = (180, 150, 140)
SMALL = {
    "none": (),
    "4 of 1": (1, 1, 1, 1),
    "3 of 2, 4 of 1": (2, 2, 2, 1, 1, 1, 1),
    "3 of 5": (5, 5, 5),
    "3 of 20": (20, 20, 20),
}
_SCORES = ("loss", "other_class", "ridge_leave_one_out", "mean_loss", "wrong_label")


def clusters(sizes: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor, set[int]]:
    """Return inputs, labels, and the numbers of the examples whose label is wrong; large classes come first."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = 1.6 * rng.normal(size=(len(sizes), 20))
    inputs = torch.tensor((centres[labels] + rng.normal(size=(len(labels), 20))).astype(np.float32))
    wrong = rng.choice(sum(LARGE), N_WRONG, replace=False)
    labels[wrong] = (labels[wrong] + 1) % len(LARGE)
    return inputs, torch.tensor(labels), set(wrong.tolist())


def found(sizes: tuple[int, ...], seed: int) -> dict[str, int]:
    """How many wrong labels are among as many first examples, by each score; wrong_label with a log and without."""
    inputs, labels, wrong = clusters(sizes, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, len(sizes)))
    optimizer, log = torch.optim.Adam(model.parameters(), 1e-2), bh.TrainingLog(len(labels))
    for _ in range(N_EPOCHS):
        for rows in torch.randperm(len(labels)).split(64):
            losses = nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="none")
            log.record(rows, losses)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    with_log = bh.audit(model, (inputs, labels), log=log).table
    columns = {name: with_log[name] for name in _SCORES}
    columns["wrong_label, no log"] = bh.audit(model, (inputs, labels)).table["wrong_label"]
    return {name: len(wrong & set(values.nlargest(N_WRONG).index)) for name, values in columns.items()}


def main() -> None:
    """Print the table."""
    for name, small in SMALL.items():
        table = pd.DataFrame([found(LARGE + small, seed) for seed in range(N_SEEDS)])
        means, errors = table.mean(), table.sem()
        cells = [
            f"{score} {means[score]:.1f} \N{PLUS-MINUS SIGN} {errors[score]:.1f}" for score in map(str, table.columns)
        ]
        print(f"small classes: {name}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
