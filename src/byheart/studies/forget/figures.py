"""The figure of the study: what each arm recites at what cost, and whether spans are gone or hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from byheart.colors import BLUE, GREEN, GREY, LIGHT_BLUE, ORANGE, PURPLE, VERMILION
from byheart.studies.forget.claims import DECAYS, FORGOTTEN, KFAC, ORACLE, OTHER, RISE, mean_and_error, of_arm
from byheart.studies.forget.runs import ARMS, ASCENT, ASCENT_EARLY, ASCENT_RETAINING, SINKS
from byheart.studies.study import Captioned, Tables
from byheart.toy.figures import figure_of

_LOOKS: dict[str, tuple[str, str]] = {
    "plain": ("black", "*"),
    ORACLE: (GREY, "s"),
    OTHER: (GREY, "D"),
    "deduplication": (GREEN, "o"),
    "near-deduplication": (GREEN, "^"),
    "goldfish loss": (ORANGE, "o"),
    **dict.fromkeys(DECAYS, (PURPLE, "o")),
    **dict.fromkeys(SINKS, (LIGHT_BLUE, "s")),
    ASCENT: (VERMILION, "o"),
    ASCENT_RETAINING: (VERMILION, "^"),
    ASCENT_EARLY: (VERMILION, "v"),
    **dict.fromkeys(KFAC, (BLUE, "o")),
}


def figures(tables: Tables) -> dict[str, Captioned]:
    """Draw recitation against cost, and steps until a span is back against the distance to the oracle."""
    figure, (left, right) = figure_of(1, 2, size=(9.5, 4.2))
    units = of_arm(tables, OTHER, "distance").mean()
    right.axhline(1, color="black", lw=0.8, ls="--")
    for arm in ARMS:
        color, marker = _LOOKS[arm]
        several = {KFAC: "K-FAC edit, by share kept", DECAYS: "weight decay 0.3, 1", tuple(SINKS): "sinks, by share"}
        label = next((words for arms, words in several.items() if arm == arms[0]), arm)
        label = "_" + label if any(arm in arms[1:] for arms in several) else label
        look: dict[str, Any] = {"fmt": marker, "color": color, "ms": 5, "lw": 1, "label": label, "alpha": 0.85}
        rise, recited, steps, distance = (
            _mean_and_bar(values)
            for values in (
                100 * of_arm(tables, arm, "rise"),
                100 * of_arm(tables, arm, "recited_on"),
                of_arm(tables, arm, "steps_on") / of_arm(tables, arm, "steps_off"),
                of_arm(tables, arm, "distance") / units,
            )
        )
        left.errorbar(rise[0], recited[0], recited[1], rise[1], **look)
        if arm != ORACLE:  # it is at no distance from itself
            right.errorbar(distance[0], steps[0], steps[1], distance[1], **look)
    for arms, color, place in ((KFAC, BLUE, (3, 3)), (DECAYS, PURPLE, (3, 3)), (tuple(SINKS), LIGHT_BLUE, (-16, 5))):
        rises, shares = ([100 * of_arm(tables, arm, name).mean() for arm in arms] for name in ("rise", "recited_on"))
        left.plot(rises, shares, "-", color=color, lw=0.8, alpha=0.6)
        for arm, at, height in zip(arms, rises, shares, strict=True):
            left.annotate(arm.split()[-1], (at, height), place, textcoords="offset points", fontsize=7, color=color)
    left.set_xscale("symlog", linthresh=10)
    limits = left.get_xlim()
    left.fill_between([-99, 100 * RISE], -10, 100 * FORGOTTEN, color=LIGHT_BLUE, alpha=0.25, lw=0)
    left.set(xlabel="rise of held-out perplexity (%)", ylabel="learned spans recited (%)", xlim=limits, ylim=(-4, 106))
    right.set_xscale("log")
    right.set(
        xlabel="distance to the oracle (1: that of another oracle)",
        ylabel="steps until a learned span is recited\n(1: those of one that was never learned)",
        ylim=(-0.1, None),
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    n_seeds = tables["arms"]["seed"].nunique()
    caption = (
        "Left: what each arm recites of the spans that the plain model learned, at what cost; shaded: at most 5 % at a"
        " rise of at most 15 %. Right: how far its log-probabilities of these spans lie from those of a model that"
        " never received their loss, and how many steps of training on a span alone bring it back. Gone is at the"
        " dashed line near 1, hidden is below it; what is recited takes no step. Means of"
        f" {n_seeds} seeds, {n_seeds * len(ARMS)} models in all; bars are two standard errors either way."
    )
    return {"forget": Captioned(figure, caption)}


def _mean_and_bar(values: pd.Series[float]) -> tuple[float, float]:
    """The mean and two standard errors; of one seed there is no bar."""
    mean, error = mean_and_error(values)
    return mean, 2 * error if np.isfinite(error) else 0.0
