"""What to do about an example: one verdict each, and the evidence for it in a sentence.

People ask what a network memorized, and which labels are wrong. The two differ: a wrong label that the network did not
fit is not memorized, and a rare example that it knows by heart may be right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from byheart.network.score_table import SCORES, Evidence

if TYPE_CHECKING:
    from byheart.network.audit import Audit

Verdict = Literal["suspected wrong label", "memorized", "not learned", "copy", "ordinary"]
VERDICTS: dict[Verdict, str] = {
    "suspected wrong label": "by the evidence one of the labels most likely wrong: look whether it is right",
    "memorized": "the network answers it only because it was trained on it",
    "not learned": "the network does not answer as its label says, although it was trained on it",
    "copy": "the same input, or one that is nearly the same, is in the data more than once",
    "ordinary": "the network answers it by what it learned from all",
}
"""What each verdict means. An example has the first that applies; the columns say what else does."""
WHAT_NOW: dict[Verdict, str] = {
    "suspected wrong label": "Look whether each label is right, and mend those that are wrong.",
    "memorized": "Look at each: is it rare and right, is it private, or is it not worth knowing? More examples of its"
    " kind, or none, make the network learn from others what it now knows by heart.",
    "not learned": "These did not fit: wrong labels, hard examples, or too little training.",
    "copy": "Drop all copies but one, and keep copies on one side of a split into training and test data.",
    "ordinary": "Nothing.",
}
"""What to do about the examples with each verdict."""
SUSPECTED_SHARE = 0.02  # of the examples that may be suspected of a wrong label


def wrong_label_score(table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]) -> pd.Series[float]:
    """Return how much the evidence says that each example's label is wrong; only the order has a meaning.

    It is a mean of two ranks, by the loss averaged over training (without a log, by the loss now) and by
    ``other_class``, both as -log(1 - rank), so that the largest count most. ``other_class`` weighs a^4, where a is how
    often the own class is the likeliest by it: it is worth much where the layer tells the classes apart, and nothing
    where their examples lie among each other. With a log it weighs a^4 s^8, where s is how often it says another class
    of the two in a hundred with the largest loss: a deep network that has fitted a wrong label draws the example to its
    label's class, and only the log still tells. The exponents were decided on the first seed of the study
    wrong-labels.

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
    if "log" in evidence:
        latest = table["mean_loss"].rank(ascending=False, method="first") <= max(1, SUSPECTED_SHARE * len(table))
        weight *= float((other[latest] > 0).mean()) ** 8
    return (1 - weight) * by_loss + weight * _tail(other)


def _tail(scores: pd.Series[float]) -> pd.Series[float]:
    found: pd.Series[float] = (1 - (scores.rank() - 0.5) / len(scores)).map(np.log)
    return -found


def judge(table: pd.DataFrame, layers: Sequence[str], evidence: Collection[Evidence]) -> pd.Series[str]:
    """Return the verdict on every example, a category.

    A wrong label is suspected of the two in a hundred examples with the largest ``wrong_label``; without a log of
    losses, which ranks them by how the network learned them, only if something says another class: the network's
    answer, ``ridge_leave_one_out``, ``other_class``, or the label of a copy. Not learned are those that are answered
    wrongly, memorized those of the others that are flagged; of a regression only with a log or a held-out run, since a
    large loss alone may be of what was never learned.
    """
    found = pd.Series("ordinary", table.index, dtype=object)
    found[table["copies"] > 0] = "copy"
    if "classes" in evidence:
        wrong = table["prediction"] != table["label"]
        found[wrong] = "not learned"
        found[table["flagged"] & ~wrong] = "memorized"
    elif frozenset(evidence) & {"log", "held_out"}:  # else a large loss may be of what was never learned
        found[table["flagged"]] = "memorized"
    if "classes" in evidence:
        says_other = wrong | (_label_of_copy(table) != table["label"]) | ("log" in evidence)
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
    return reasons(audit, [index])[0]


def reasons(audit: Audit, indices: Iterable[int]) -> list[str]:
    """Return for each of some examples in a sentence what speaks for its verdict.

    Args:
        audit: What was found.
        indices: Of the examples, in the dataset's order.
    """
    in_order = {
        name: np.sort(audit.table[name].to_numpy()) for name in ("loss", "mean_loss", "score") if name in audit.table
    }
    columns = {str(name): column.to_numpy() for name, column in audit.table.items()}
    found = []
    for index in indices:
        words = "; ".join(_parts(audit, columns, in_order, index)) or "nothing stands out"
        found.append(words[0].upper() + words[1:] + ".")
    return found


def _parts(
    audit: Audit, columns: Mapping[str, np.ndarray], in_order: Mapping[str, np.ndarray], index: int
) -> Iterator[str]:
    """What speaks for the verdict on an example, in the order of importance."""
    row = {name: values[index] for name, values in columns.items()}

    def share_below(name: str) -> str:
        per_mille = 1000 * int(np.searchsorted(in_order[name], row[name])) // len(in_order[name])
        return f"{per_mille / 10:.1f}%"  # rounded down, since none is above all

    if "classes" in audit.evidence:
        names = dict(enumerate(audit.label_names))
        label, answer = (names.get(int(row[c]), int(row[c])) for c in ("label", "prediction"))
        if row["prediction"] != row["label"]:
            yield f"labelled {label}, but the network answers {answer}"
        if row["verdict"] == "suspected wrong label":
            loss, when = ("mean_loss", "averaged over training") if "log" in audit.evidence else ("loss", "now")
            yield f"its error (loss) {when} is larger than that of {share_below(loss)} of all examples"
            if "log" in audit.evidence and row["mean_loss"] > np.log(2):
                yield "over training it gave other classes more than the label"
            if "class_moments" in audit.evidence:
                of_layers = [row[column] for column in SCORES["other_class"].columns(audit.layers)]
                if np.mean(of_layers) > 0:
                    yield "to the network it is more like the examples of another class"
            if row["copy_of"] >= 0 and columns["label"][row["copy_of"]] != row["label"]:
                copy_label = int(columns["label"][row["copy_of"]])
                yield f"its copy, number {row['copy_of']}, is labelled {names.get(copy_label, copy_label)}"
        if row["verdict"] in ("suspected wrong label", "memorized") and row["prediction"] == row["label"]:
            other = int(row.get("other_label", -1))
            if other >= 0 and row.get("ridge_leave_one_out", -1) > 0:
                yield f"fitted to all other examples, the last layer answers {names.get(other, other)}"
    if row["flagged"]:
        if "probability" in row:
            yield f"known by heart with a probability of {row['probability']:.0%}"
        else:
            yield f"its score of memorization is larger than that of {share_below('score')} of all examples"
    if row["copies"] > 0:
        others = f" and {row['copies'] - 1} more" if row["copies"] > 1 else ""
        yield f"a copy, or nearly so, of example number {row['copy_of']}{others}"
