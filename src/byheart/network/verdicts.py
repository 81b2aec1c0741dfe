"""What to do about an example: one verdict each, and the evidence for it in a sentence.

People ask what a network memorized, and which labels are wrong. The two differ: a wrong label that the network did not
fit is not memorized, and a rare example that it knows by heart may be right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from byheart.network.score_table import SCORES, Evidence

if TYPE_CHECKING:
    from byheart.network.audit import Audit

Verdict = Literal["suspected wrong label", "memorized", "not learned", "copy", "ordinary"]
VERDICTS: dict[Verdict, str] = {
    "suspected wrong label": "the evidence points to another class than its label: look whether the label is right",
    "memorized": "the network answers it only because it was trained on it",
    "not learned": "the network does not answer as its label says, although it was trained on it",
    "copy": "the same input, or one that is nearly the same, is in the data more than once",
    "ordinary": "the network answers it by what it learned from all",
}
"""What each verdict means. An example has the first that applies; the columns say what else does."""
SUSPECTED_SHARE = 0.02  # of the examples that may be suspected of a wrong label


def wrong_label_score(table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]) -> pd.Series[float]:
    """Return how much the evidence says that each example's label is wrong; only the order has a meaning.

    It is a mean of two ranks, by the loss averaged over training (without a log, by the loss now) and by
    ``other_class``, both as -log(1 - rank), so that the largest count most. ``other_class`` weighs a^4, where a is how
    often the own class is the likeliest by it: it is worth much where the layer tells the classes apart, and nothing
    where their examples lie among each other.

    Args:
        table: Scores of the examples of a classification, as ``Audit.table`` has them.
        layers: Layers that the scores of layers are of.
        evidence: What the scores are made from.
    """
    by_loss = _tail(table["mean_loss" if "log" in evidence else "loss"])
    if "class_moments" not in evidence:
        return by_loss
    other = SCORES["other_class"].values(table, layers)
    weight = float((other < 0).mean()) ** 4
    return (1 - weight) * by_loss + weight * _tail(other)


def _tail(scores: pd.Series[float]) -> pd.Series[float]:
    found: pd.Series[float] = (1 - (scores.rank() - 0.5) / len(scores)).map(np.log)
    return -found


def judge(table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]) -> pd.Series[str]:
    """Return the verdict on every example, a category.

    A wrong label is suspected of the two in a hundred examples with the largest ``wrong_label``, if something says
    another class: the network's answer, ``ridge_leave_one_out``, ``other_class`` or the label of a copy. Memorized are
    those that are flagged, not learned those that are answered wrongly.
    """
    found = pd.Series("ordinary", table.index, dtype=object)
    found[table["copies"] > 0] = "copy"
    if "classes" in evidence:
        wrong = table["prediction"] != table["label"]
        found[wrong] = "not learned"
    found[table["flagged"]] = "memorized"
    if "classes" in evidence:
        says_other = wrong | (_label_of_copy(table) != table["label"])
        if "head" in evidence:
            says_other |= table["ridge_leave_one_out"] > 0
        if "class_moments" in evidence:
            says_other |= SCORES["other_class"].values(table, layers) > 0
        first = table["wrong_label"].rank(ascending=False, method="first") <= max(1, SUSPECTED_SHARE * len(table))
        found[first & says_other] = "suspected wrong label"
    return pd.Series(pd.Categorical(found, categories=get_args(Verdict)), table.index)


def _label_of_copy(table: pd.DataFrame) -> pd.Series[int]:
    """The label of the copy that is named, or the example's own."""
    copy_of, index = table["copy_of"].to_numpy(), np.arange(len(table))
    return pd.Series(table["label"].to_numpy()[np.where(copy_of >= 0, copy_of, index)], table.index)


def reason(audit: Audit, index: int) -> str:
    """Return in a sentence what speaks for the verdict on an example.

    Args:
        audit: What was found.
        index: Of the example, in the dataset's order.
    """
    table, row = audit.table, audit.table.iloc[index]
    verdict = row["verdict"]
    parts = []
    if "classes" in audit.evidence:
        names = dict(enumerate(audit.label_names))
        label, answer, other = (names.get(int(row[c]), int(row[c])) for c in ("label", "prediction", "other_label"))
        if row["prediction"] != row["label"]:
            parts.append(f"labelled {label}, but the network answers {answer}")
        if verdict == "suspected wrong label":
            loss = "mean_loss" if "log" in audit.evidence else "loss"
            times = "averaged over training" if loss == "mean_loss" else "now"
            parts.append(f"its loss {times} is larger than that of {_share_below(table[loss], index)} of all examples")
            if row["prediction"] == row["label"] and row["other_label"] >= 0 and row.get("ridge_leave_one_out", -1) > 0:
                parts.append(f"without it, its last layer's other examples answer {other}")
            if row["copy_of"] >= 0 and table["label"][row["copy_of"]] != row["label"]:
                copy_label = int(table["label"][row["copy_of"]])
                parts.append(f"its copy {row['copy_of']} is labelled {names.get(copy_label, copy_label)}")
    if row["flagged"]:
        if "probability" in table:
            parts.append(f"known by heart with a probability of {row['probability']:.0%}")
        else:
            parts.append(f"its score is larger than that of {_share_below(table['score'], index)} of all examples")
    if row["copies"] > 0:
        others = f" and {row['copies'] - 1} more" if row["copies"] > 1 else ""
        parts.append(f"a copy, or nearly so, of example {row['copy_of']}{others}")
    words = "; ".join(parts) or "nothing stands out"
    return words[0].upper() + words[1:] + "."


def _share_below(values: pd.Series[float], index: int) -> str:
    return f"{(values < values.iloc[index]).mean():.1%}"
