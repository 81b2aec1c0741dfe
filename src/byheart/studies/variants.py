"""Does double descent stay with other losses, a ReLU after the hidden layer, untied weights, or no normalisation?

Source: M. Hobbhahn's comment in Henighan et al. 2023 (n = 1,000, S = 0.99; 3,000 steps at 5e-3, as in a port of his
notebook). Variants of the model are trained by the kernel "torch": pip install "byheart[torch]".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from byheart.claims import Claim, Finding, judge_bump
from byheart.studies.readme import sizes_of
from byheart.studies.study import FEW_STEPS, N_SEEDS, SMALLEST, SMALLEST_T, Captioned, Scale, Study, Tables
from byheart.toy.config import TrainConfig
from byheart.toy.figures import figure_of, log_axis, log_losses, runs_and_mean
from byheart.toy.runs import Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import mean_losses, table_of

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


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """The configs by variant."""
    his = {"n_features": 1_000, "sparsity": 0.99, **FEW_STEPS}
    base = TrainConfig(3, **(SMALLEST if scale == "quick" else his))
    return {
        name: grid(dataclasses.replace(base, **change), {"n_examples": _T[scale]}, range(N_SEEDS[scale]))
        for name, change in _VARIANTS.items()
    }


def _claim_of(name: str) -> Claim:
    def test(tables: Tables) -> Finding:
        return judge_bump(
            tables["runs"].query("group == @name and n_examples > 15"), f"{name}: three T above 15, two seeds"
        )

    return Claim(
        name.lower().replace(" ", "-"),
        f"{name[0].upper()}{name[1:]}: test loss has a bump along T above 15 (more than 3 standard errors high)",
        _HOBBHAHN if name not in ("untied weights", "no normalisation") else "new",
        "double descent stays",
        test,
        refuted_if="test loss is highest at the smallest T",
    )


def _figures(tables: Tables) -> dict[str, Captioned]:
    runs = tables["runs"]
    figure, axes = figure_of(2, 3, size=(7.5, 4.8), sharex=True)
    by_variant = {str(name): rows for name, rows in runs.groupby("group")}
    for ax, (name, change) in zip(axes.flat, _VARIANTS.items(), strict=True):
        if name in by_variant:
            runs_and_mean(by_variant[name], "test_loss", ax, "black", name)
            if not {"loss", "unit_norm"} & set(change):  # of the others the tables do not have it
                ax.axhline(1, color="black", lw=0.8, ls="--", zorder=0)
            if by_variant[name]["test_loss"].max() > 1.5 * by_variant[name]["test_loss"].min():
                log_losses(ax)
        ax.set_title(name)
        log_axis(ax, runs["n_examples"], apart=3)
    figure.supxlabel("training examples T", fontsize=9)
    figure.supylabel("test loss (each panel has an axis of its own)", fontsize=9)
    caption = (
        "Test loss of each variant, by the variant's own error, against T; the axes differ, since these errors do."
        " Dots are runs, black lines means over seeds, bars one standard error either way; dashed: a model that always"
        " answers 0, where its error is 1. Log axes, but for the absolute error, which varies by a few percent."
        f" {sizes_of(runs, ('group', 'n_examples'))}"
    )
    return {"variants": Captioned(figure, caption)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs = table_of(groups)
    return {"runs": runs, "by-variant": mean_losses(runs, ["group", "n_examples"]).rename(columns={"group": "variant"})}


STUDY = Study(
    "variants",
    "Does double descent stay with other losses and models?",
    _groups,
    _tables,
    tuple(_claim_of(name) for name in _VARIANTS),
    _figures,
    needs=("torch",),
)
