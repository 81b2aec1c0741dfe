"""The score of an audit and what is flagged by it: an estimate with a held-out run, else the best ranking there is.

The exponent was decided on the first half of the leaderboard's tasks: ranks are crowded near 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
from scipy.special import expit

from byheart.network.calibration import MEMORIZED, calibrate
from byheart.network.counterfactual import Counterfactual
from byheart.network.score_table import SCORES, Evidence

_UNCALIBRATED_SHARE = 0.01  # of the examples that are flagged where nothing says how many are memorized


def best_score(
    table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]
) -> tuple[str, pd.Series[float]]:
    """Return the best ranking that scores allow without a held-out run, and its name; see ``audit``.

    Args:
        table: Scores of the examples, as ``Audit.table`` has them.
        layers: Layers that the scores of layers are of.
        evidence: What the scores are made from.
    """
    held = SCORES["maximal_dimensionality"].values(table, layers)
    answered, words = pd.Series(1.0, table.index), ""
    if "classes" in evidence:  # what the network does not answer now, it does not know by heart
        answered, words = (2 * pd.Series(expit(table["margin"]), table.index)).clip(upper=1), ", if answered"
    if "log" in evidence:
        return f"mean_loss x maximal_dimensionality{words}", table["mean_loss"] * held * answered
    if "head" in evidence:
        names = ["ridge_leave_one_out", "gradient_dimensionality"]
        names += SCORES["other_class"].columns(layers) if "class_moments" in evidence else []
        mean = table[names].rank(pct=True).sum(axis=1) / len(names)
        return f"mean rank by {', '.join(names)}{words}", mean * answered**0.25
    return f"loss x maximal_dimensionality{words}", table["loss"] * held * answered


def flagged(
    table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence], held_out: Counterfactual | None
) -> tuple[str, pd.DataFrame, list[str]]:
    """Return the name of the score, the table with it and what is flagged by it, and what a reader must know of both.

    Args:
        table: Scores of the examples, as ``Audit.table`` has them.
        layers: Layers that the scores of layers are of.
        evidence: What the scores are made from.
        held_out: Models that were trained on a part of the data, which turn the ranking into an estimate.
    """
    score_name, score = best_score(table, layers, evidence)
    table = table.assign(score=score)
    if held_out is None:
        n_flagged = max(1, round(_UNCALIBRATED_SHARE * len(table)))
        table["flagged"] = table["score"].rank(ascending=False, method="first") <= n_flagged
        note = (
            f"The ranking is uncalibrated: no model was trained without some of the examples. The {n_flagged} with the"
            " largest scores are flagged, however many are memorized."
        )
        return score_name, table, [note]
    table[["estimate", "low", "high", "probability"]] = calibrate(table, layers, evidence, held_out)
    table["score"], table["flagged"] = table["estimate"], table["probability"] > 0.5
    n_runs = len(held_out.train_mask)
    note = (
        f"Probabilities that memorization is above {MEMORIZED:g} come from {n_runs} held-out"
        f" run{'s' if n_runs > 1 else ''}; flagged are those above 1/2."
    )
    return "estimate of memorization", table, [note]
