"""Does double descent stay with other losses, a ReLU after the hidden layer, untied weights, or no normalisation?

Source: M. Hobbhahn's comment in Henighan et al. 2023 (n = 1,000, S = 0.99; 3,000 steps at 5e-3, as in a port of his
notebook). Variants of the model are trained by the kernel "torch": pip install "byheart[torch]".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from byheart.studies.study import (
    FEW_STEPS,
    N_SEEDS,
    SMALLEST,
    SMALLEST_T,
    Claim,
    Finding,
    Scale,
    Study,
    judge_bump,
    mean_losses,
)
from byheart.toy.config import TrainConfig
from byheart.toy.figures import figure_of
from byheart.toy.runs import Runs
from byheart.toy.sweep import grid

_VARIANTS: dict[str, dict[str, Any]] = {
    "the paper's model": {},
    "absolute error": {"loss": "absolute"},
    "fourth power": {"loss": "fourth_power"},
    "ReLU after the hidden layer": {"hidden_relu": True},
    "untied weights": {"tied": False},
    "no normalisation": {"unit_norm": False},
}
_T: dict[Scale, tuple[int, ...]] = {
    "quick": SMALLEST_T,
    "medium": (5, 10, 30, 50, 100, 200, 300, 500, 1_000, 2_000),
    "paper": (5, 10, 15, 30, 50, 100, 200, 300, 500, 700, 1_000, 1_500, 2_000, 5_000, 10_000),
}
_HOBBHAHN = "M. Hobbhahn, comment in Henighan et al. 2023"


def _configs(scale: Scale) -> list[TrainConfig]:
    his = {"n_features": 1_000, "sparsity": 0.99, **FEW_STEPS}
    base = TrainConfig(3, **(SMALLEST if scale == "quick" else his))
    return [
        config
        for change in _VARIANTS.values()
        for config in grid(dataclasses.replace(base, **change), {"n_examples": _T[scale]}, range(N_SEEDS[scale]))
    ]


def _named(runs: Runs) -> pd.DataFrame:
    """The runs with the name of their variant."""
    fields = sorted({field for change in _VARIANTS.values() for field in change})
    default = TrainConfig(3)
    names = {
        tuple(change.get(field, getattr(default, field)) for field in fields): name
        for name, change in _VARIANTS.items()
    }
    by_id = {h.id: names[tuple(getattr(h.config, field) for field in fields)] for h in runs.headers}
    table = runs.table
    return table.assign(variant=table["id"].map(by_id))


def _claim_of(name: str) -> Claim:
    def test(runs: Runs) -> Finding:
        table = _named(runs)
        chosen = table[(table["variant"] == name) & (table["n_examples"] > 15)]
        return judge_bump(chosen, f"{name}: three T above 15, two seeds")

    return Claim(
        name.lower().replace(" ", "-"),
        f"{name[0].upper()}{name[1:]}: test loss has a bump along T above 15 (more than 3 standard errors high)",
        _HOBBHAHN if name not in ("untied weights", "no normalisation") else "new",
        "double descent stays",
        test,
        refuted_if="test loss is highest at the smallest T",
    )


def _figures(runs: Runs) -> dict[str, Figure]:
    table = _named(runs)
    figure, axes = figure_of(2, 3, size=(9, 4.8), sharex=True)
    for ax, name in zip(axes.flat, _VARIANTS, strict=True):
        own = table[table["variant"] == name]
        grouped = own.groupby("n_examples")["test_loss"]
        ax.plot(own["n_examples"], own["test_loss"], "o", ms=3, color="#D55E00", alpha=0.6, mew=0)
        ax.errorbar(grouped.mean().index, grouped.mean(), yerr=grouped.sem(), color="black", lw=1.2, capsize=2)
        ax.set(xscale="log", yscale="log")
        ax.set_title(name, fontsize=9)
    figure.supxlabel("training examples T", fontsize=9)
    figure.supylabel("test loss (of the variant's own loss)", fontsize=9)
    return {"variants": figure}


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    return {"by-variant": mean_losses(_named(runs), ["variant", "n_examples"])}


STUDY = Study(
    "variants",
    "Does double descent stay with other losses and models?",
    _configs,
    tuple(_claim_of(name) for name in _VARIANTS),
    _figures,
    _tables,
)
