"""The staircase as a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from byheart.colors import BLUE, VERMILION
from byheart.language.rotation import Staircase

_SIZE = 8  # points


def draw(found: Staircase) -> Figure:
    """Return the figure: levels begin with the first epoch's loss and go down by every epoch's drop."""
    table = found.epochs
    figure = Figure(figsize=(5.2, 3.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    before = table["loss_before"].iloc[0] - np.concatenate([[0], np.cumsum(table["drop"])])
    ends = table["epoch"].to_numpy() + 1
    left_out = before[:-1] - table["general"].to_numpy()
    for number, end in enumerate(ends):
        general = axes.plot([end - 1, end], [before[number], left_out[number]], color=BLUE, lw=1.5)[0]
        step = axes.plot([end, end], [left_out[number], before[number + 1]], color=VERMILION, lw=2.5)[0]
        general.set_label("left out of the epoch: general" if not number else "_")
        step.set_label("step: memorized in one exposure" if not number else "_")
    half = (table["high"] - table["low"]).to_numpy() / 2
    axes.errorbar(ends, before[1:], half, fmt="none", ecolor=VERMILION, lw=1, capsize=3, label="95 % interval")
    axes.set_xlabel("epochs", fontsize=_SIZE)
    axes.set_ylabel("loss (nats per token)", fontsize=_SIZE)
    axes.set_title(
        f"one exposure: {found.memorized:z.3f} nats per token ({found.low:z.3f} to {found.high:z.3f})", fontsize=_SIZE
    )
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelsize=_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=_SIZE - 1, frameon=False)
    return figure
