"""The best ranking of the training examples that the evidence allows, where no held-out run turns it into an estimate.

The exponent was decided on the first half of the leaderboard's tasks: ranks are crowded near 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
from scipy.special import expit

from byheart.network.score_table import SCORES, Evidence


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
