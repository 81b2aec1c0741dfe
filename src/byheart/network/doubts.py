"""What speaks against a log, held-out runs or a loss that a user brings: they may be of other examples or numbers.

Each would give plausible verdicts that are wrong, but is not sure: a note says it. What is sure is refused
(``byheart.network.refusals``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from byheart.network.refusals import worse_inside

if TYPE_CHECKING:
    from byheart.network.counterfactual import Counterfactual
    from byheart.network.log import TrainingLog

_SURELY = 4.0  # standard errors; one in 30,000 by chance
_OF_A_RUN = 3.0  # standard errors from which a note says so: one in 400 by chance, if nothing is memorized
_FEWEST = 10  # examples of which something can be said
_FEWEST_RANKED = 100  # examples of which ranks are compared; usual rank correlations are 0.2 to 0.9
_FEWEST_HARD = 5  # examples that a classifier misses, or would: without any, its ranks are noise
_UNRELATED = 0.05  # p-value above which two rankings have nothing to do with each other
_LEAST_AGREEMENT = 0.75  # share of pairs in which a loss is larger for the wrong answer; of a cross-entropy nearly 1
_ENOUGH_TO_COMPARE = 5


def notes_on_log(log: TrainingLog, table: pd.DataFrame) -> list[str]:
    """Say what speaks against a log: other epochs of some examples, means over batches, other examples than these.

    Args:
        log: What was recorded.
        table: What the network says now, with ``mean_loss``.
    """
    notes = []
    means, losses, counts = table["mean_loss"], table["loss"], pd.Series(log.counts)
    same = (np.diff(means) == 0) & (np.diff(losses) != 0) & (means.to_numpy()[1:] != 0)  # 0 is what rounding leaves
    if len(table) > _FEWEST and same.mean() >= 0.5:
        notes.append(
            "In the log most examples have the same mean loss as the next one, although the network's losses differ:"
            ' is it a mean over each batch? Losses of single examples are those with reduction="none".'
        )
    drift = _correlation(counts, pd.Series(log.mean_time))
    if counts.max() >= 2 * counts.min() and abs(drift) * np.sqrt(len(table) - 1) > _SURELY:
        notes.append(
            f"The log has the losses of some examples {counts.min():,} times and of others {counts.max():,} times,"
            f" those that it has less often from {'earlier' if drift > 0 else 'later'} in training: means over other"
            " epochs are not comparable."
        )
    found = _correlation(means, losses)
    if len(table) >= _FEWEST_RANKED and found < -_SURELY / np.sqrt(len(table) - 1):
        notes.append(
            f"The log ranks the examples in the reverse order of the losses now (rank correlation {found:.2f}): are"
            " they losses, large where an answer is wrong?"
        )
    elif _unrelated(means, table):
        notes.append(
            "The log is unrelated to everything that the network and the labels say about these examples (rank"
            f" correlation with the losses now {found:.2f}): was it recorded on this dataset, in this order?"
        )
    return notes


def notes_on_held_out(held_out: Counterfactual, table: pd.DataFrame) -> list[str]:
    """Say what speaks against held-out runs: that they know what they were not trained on better, or other examples.

    Args:
        held_out: The runs.
        table: What the network says now.
    """
    notes, inside, right = [], held_out.train_mask, held_out.margins > 0
    if worse_inside(held_out.margins.astype(np.float64), inside) < -_OF_A_RUN:
        notes.append(
            f"Held-out runs answer {right[inside].mean():.0%} of the examples that they were trained on and"
            f" {right[~inside].mean():.0%} of the others: is train_mask True where a"
            " model was trained on the example? If so, what was held out is easier, and estimates are too low."
        )
    margins = pd.Series(held_out.margins.astype(np.float64).mean(axis=0))
    if (
        len(np.unique(held_out.margins)) == 2
    ):  # whether a run was trained on an example may be all that its answer tells
        seen_out = (~inside).any(axis=0)
        table = table.iloc[np.flatnonzero(seen_out)].reset_index(drop=True)
        out = np.ma.array(held_out.margins, mask=inside, dtype=np.float64)[:, seen_out]
        margins = pd.Series(out.mean(axis=0).filled(0))
    fewest = min((margins > 0).sum(), (margins <= 0).sum())
    found = _correlation(margins, table["margin"])
    if len(table) >= _FEWEST_RANKED and found < -_SURELY / np.sqrt(len(table) - 1):
        notes.append(
            "Margins of the held-out runs are in the reverse order of the network's own (rank correlation"
            f" {found:.2f}): are they above 0 where an answer is right, and no losses?"
        )
    elif (margins.nunique() > len(margins) / 2 or fewest >= _FEWEST) and _unrelated(margins, table):
        notes.append(
            "The held-out runs are unrelated to everything that the network and the labels say about these examples"
            f" (rank correlation with its own margins {found:.2f}): are their margins of this dataset, in this order?"
        )
    return notes


def notes_on_own_loss(table: pd.DataFrame) -> list[str]:
    """Say so if a user's loss does not tell wrong answers from right ones: targets may be numbers, and no classes.

    Args:
        table: What the network says now.
    """
    larger = _agreement(table)
    if larger is None or larger >= _LEAST_AGREEMENT:
        return []
    return [
        "Targets are whole numbers and taken for classes of the outputs, but your loss is larger for a wrong answer"
        f" than for a right one in {larger:.0%} of pairs only: if the targets are numbers, labels, predictions, margins"
        " and verdicts mean nothing. Floating-point targets are taken for numbers."
    ]


def _agreement(table: pd.DataFrame) -> float | None:
    """How often, of a wrong and a right answer to a class, the wrong one has the larger loss; None of few pairs."""
    n_larger = n_pairs = n_wrong = 0.0
    for _, own in table.groupby("label"):  # classes may have weights
        wrongly = own["prediction"] != own["label"]
        wrong, right = int(wrongly.sum()), int((~wrongly).sum())
        n_larger += own["loss"].rank()[wrongly].sum() - wrong * (wrong + 1) / 2
        n_pairs += wrong * right
        n_wrong += wrong * (right > 0)
    return n_larger / n_pairs if n_wrong >= _ENOUGH_TO_COMPARE and n_pairs >= _ENOUGH_TO_COMPARE**2 else None


def _unrelated(values: pd.Series[float], table: pd.DataFrame) -> bool:
    """Return whether what examples are like says nothing of these values, although it should.

    The ranks of the values are regressed on the ranks of what the network says now (losses, margins, scores) and on the
    targets; nothing is said where the F test has a p-value above 0.05. On small trainings of MLPs, CNNs and linear
    models, overfitted ones and those of random labels too, it was below 1e-10; on classes that are far apart, where no
    example is hard and ranks are noise, up to 0.5, and of regressions with several outputs up to 0.9: these are passed
    over. Of the same values in another order 95 % are found.

    Args:
        values: One per example, such as means of a log.
        table: Scores of the examples, as ``Audit.table`` has them.
    """
    n, of_classes = len(table), "label" in table
    if n < _FEWEST_RANKED or not (of_classes or "target" in table) or values.nunique() < 2:
        return False
    names = [
        "loss",
        "margin",
        "ridge_leave_one_out",
        "other_class",
        "gradient_dimensionality",
        "maximal_dimensionality",
    ]
    columns = [table[name].rank().to_numpy() for name in names if name in table]
    if of_classes:
        hard = table["prediction"] != table["label"]
        if "ridge_leave_one_out" in table:
            hard |= table["ridge_leave_one_out"] > 0
        if hard.sum() < _FEWEST_HARD:
            return False
        labels = table["label"].to_numpy()
        frequent = np.flatnonzero(np.bincount(labels) >= n / 20)
        columns += [(labels == label).astype(float) for label in frequent]
    else:
        away = (table["target"] - table["target"].mean()).abs()
        columns += [table["target"].rank().to_numpy(), away.rank().to_numpy()]
    explaining = np.stack(columns, axis=1)
    explaining = explaining - explaining.mean(axis=0)
    explaining /= np.maximum(explaining.std(axis=0), 1e-12)
    basis, lengths, _ = np.linalg.svd(explaining, full_matrices=False)
    basis = basis[:, lengths > 1e-6 * lengths[0]]
    ranks = values.rank().to_numpy()
    ranks = ranks - ranks.mean()
    explained, k = float(np.square(basis.T @ ranks).sum()), basis.shape[1]
    rest = max(float(np.square(ranks).sum()) - explained, 1e-12)
    return bool(k) and float(fdtrc(k, n - 1 - k, explained / k / (rest / (n - 1 - k)))) > _UNRELATED


def _correlation(one: pd.Series[float], two: pd.Series[float]) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    if one.nunique() < 2 or two.nunique() < 2:
        return 0.0
    return float(np.corrcoef(one.rank(), two.rank())[0, 1])
