"""What numbers that a user brings show of themselves: scores that are no margins, masks of the others, logs of others.

Each of these gives plausible verdicts that are wrong. What all but rules out a right input is refused; what only makes
one unlikely becomes a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64
from scipy.special import fdtrc, stdtr

if TYPE_CHECKING:
    import torch

    from byheart.network.counterfactual import Counterfactual
    from byheart.network.log import TrainingLog

_SURELY = 4.0  # standard errors; one in 30,000 by chance
_OF_A_RUN = 3.0  # standard errors from which a note says so: one in 700 by chance, if nothing is memorized
_BY_CHANCE = 3e-5  # how often a normal number is so many below its mean
_FEWEST = 10  # scores of which so much can be said
_FEWEST_PATTERNS = 5  # of models that were trained on an example, for a standard error over them
_FEWEST_RANKED = 100  # examples of which ranks are compared; usual rank correlations are 0.2 to 0.9
_FEWEST_HARD = 5  # examples that a classifier misses, or would: without any, its ranks are noise
_UNRELATED = 0.05  # p-value above which two rankings have nothing to do with each other
_MARGINS = "margins, above 0 where the answer is right"


def refuse_no_margins(
    scores: Float[np.ndarray, "n_models n_examples"], inside: Bool[np.ndarray, "n_models n_examples"], name: str
) -> None:
    """Refuse probabilities, their logarithms, and losses in place of margins, where numbers and mask show it.

    Probabilities lie between 0 and 1, some in the lower half, where margins would call all answers right. Logarithms
    and minus losses are never above 0, not even of examples trained on. Losses are never below 0, and smaller by four
    standard errors of examples trained on.

    Raises:
        ValueError: If it shows.
    """
    if scores.size < _FEWEST:
        return
    low, high = float(scores.min()), float(scores.max())
    if low >= 0 and high <= 1 + 1e-6 and low <= 0.5 and not np.isin(scores, (0, 1)).all():
        raise ValueError(
            f"{name}: received numbers from {low:.4g} to {high:.4g} alone, as probabilities are, accepted: {_MARGINS}"
            " (log p - log(1 - p) of a probability p; or True and False)"
        )
    if inside.sum() >= _FEWEST and not (scores[inside] > 0).any():
        raise ValueError(
            f"{name}: received none above 0, not even of examples trained on, as of log-probabilities or minus losses,"
            f" accepted: {_MARGINS} (log p - log(1 - p) of a probability p; of numbers a tolerance less the error)"
        )
    if low >= 0 and not np.isin(scores, (0, 1)).all() and _worse_inside(scores, inside) < -_SURELY:
        raise ValueError(
            f"{name}: received none below 0, and smaller ones of examples trained on ({scores[inside].mean():.4g} in"
            f" the mean) than of others ({scores[~inside].mean():.4g}), as losses are, accepted: {_MARGINS}"
        )


def refuse_inverted(
    scores: Float[np.ndarray, "n_models n_examples"], inside: Bool[np.ndarray, "n_models n_examples"]
) -> None:
    """Refuse a mask by which the same examples are answered worse by models trained on them than by others.

    What differs between models and between examples is taken off; examples with the same models count once, since these
    may be left out together. The mean difference is below 0 as surely as four standard errors are (Student's t). A
    single run, whose held-out examples may be easier ones, gets a note from ``notes_on_held_out``.

    Raises:
        ValueError: If it is so.
    """
    both = np.flatnonzero(inside.any(axis=0) & ~inside.all(axis=0))
    if not len(both):
        return
    mask, centred = inside[:, both], (scores - scores.mean(axis=1, keepdims=True))[:, both]
    n_in = mask.sum(axis=0)
    differences = (centred * mask).sum(axis=0) / n_in - (centred * ~mask).sum(axis=0) / (len(mask) - n_in)
    _, pattern = np.unique(mask, axis=1, return_inverse=True)
    by_pattern = np.bincount(pattern.ravel(), differences) / np.bincount(pattern.ravel())
    n = len(by_pattern)
    if len(mask) < 2 or n < _FEWEST_PATTERNS or not by_pattern.std() > 0:
        return
    t = by_pattern.mean() / (by_pattern.std(ddof=1) / np.sqrt(n))
    if stdtr(n - 1, t) < _BY_CHANCE:
        raise ValueError(
            "train_mask: received one by which examples are answered worse by the models that were trained on them than"
            f" by the others (margins {by_pattern.mean():.4g} lower in the mean), accepted: True where a model was"
            " trained on the example, and margins above 0 where its answer is right"
        )


def _worse_inside(scores: np.ndarray, inside: np.ndarray) -> float:
    """How many standard errors scores trained on lie above others, by ranks in each run or by right answers.

    The lower number of the two. Examples are independent; all scores of one are taken together.
    """
    n_in, n_out = int(inside.sum()), int((~inside).sum())
    if min(n_in, n_out) < _FEWEST:
        return 0.0
    found = [0.0]
    for values in (pd.DataFrame(scores).rank(axis=1).to_numpy(), (scores > 0).astype(np.float64)):
        mean_in, mean_out = values[inside].mean(), values[~inside].mean()
        shares = (inside * (values - mean_in) / n_in - ~inside * (values - mean_out) / n_out).sum(axis=0)
        error = float(np.sqrt(np.square(shares).sum()))
        found.append(float((mean_in - mean_out) / error) if error > 0 else 0.0)
    return min(found)


def refuse_same_states(states: Sequence[Mapping[str, Any]]) -> None:
    """Refuse checkpoints that are one: state dicts that share their memory, or that all have the same weights.

    Raises:
        ValueError: If it is so.
    """
    import torch

    tensors = [[value for value in state.values() if torch.is_tensor(value) and value.numel()] for state in states]
    if len(states) < 2 or not all(tensors):
        return
    places = [tuple(value.data_ptr() for value in values) for values in tensors]
    n_same = max(places.count(place) for place in places)
    if n_same == 1 and all(_equal(values, tensors[0]) for values in tensors[1:]):
        n_same = len(states)
    if n_same > 1:
        raise ValueError(
            f"checkpoints: received {n_same} with the same weights, as those of state_dict() are, which go on changing,"
            " accepted: different ones, kept as copies (copy.deepcopy(model.state_dict()))"
        )


def _equal(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(
        a.shape == b.shape and bool((a.cpu() == b.cpu()).all()) for a, b in zip(one, two, strict=True)
    )


def refuse_log_of_no_losses(log: TrainingLog, mean_loss: Float64[np.ndarray, " n_examples"], loss: Any) -> None:
    """Refuse a log of likelihoods or margins where losses are known to be at least 0, and one of means over batches.

    Args:
        log: What was recorded.
        mean_loss: Its averages.
        loss: Name of the audit's loss, or the user's own function.

    Raises:
        ValueError: If it is one.
    """
    if log.alike_in_batches:
        raise ValueError(
            "log: received one loss for all examples of each batch, as a mean over the batch is, accepted: each"
            ' example\'s own (reduction="none")'
        )
    least = int(mean_loss.argmin())
    named = isinstance(loss, str) and loss != "mse"  # numbers may be trained with likelihoods that have any sign
    if named and mean_loss[least] < -1e-3 * np.abs(mean_loss).max():
        raise ValueError(
            f"log: received a mean of {mean_loss[least]:.4g} (example {least}), which no {loss} has, accepted: losses,"
            " large where an answer is wrong; log-likelihoods are minus these"
        )


def notes_on_log(log: TrainingLog, table: pd.DataFrame) -> list[str]:
    """Say what speaks against a log: other epochs of some examples, means over batches, other examples than these.

    Args:
        log: What was recorded.
        table: What the network says now, with ``mean_loss``.
    """
    notes = []
    means, losses, counts = table["mean_loss"], table["loss"], pd.Series(log.counts)
    same = (np.diff(means) == 0) & (np.diff(losses) != 0)
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
    elif unrelated(means, table):
        notes.append(
            "Nothing that the network says of the examples now, and no label, goes with the losses in the log (rank"
            f" correlation with the losses now {found:.2f}): is it of these examples, in the dataset's order?"
        )
    return notes


def notes_on_held_out(held_out: Counterfactual, table: pd.DataFrame) -> list[str]:
    """Say what speaks against held-out runs: that they know what they were not trained on better, or other examples.

    Args:
        held_out: The runs.
        table: What the network says now.
    """
    notes, inside, right = [], held_out.train_mask, held_out.margins > 0
    if _worse_inside(held_out.margins.astype(np.float64), inside) < -_OF_A_RUN:
        notes.append(
            f"Held-out runs answer {right[inside].mean():.0%} of the examples that they were trained on and"
            f" {right[~inside].mean():.0%} of the others, which have the larger margins: is train_mask True where a"
            " model was trained on the example? If so, what was held out is easier, and estimates are too low."
        )
    margins = pd.Series(held_out.margins.mean(axis=0))
    fewest = min(right.any(axis=0).sum(), (~right).any(axis=0).sum())
    found = _correlation(margins, table["margin"])
    if len(table) >= _FEWEST_RANKED and found < -_SURELY / np.sqrt(len(table) - 1):
        notes.append(
            "Margins of the held-out runs are in the reverse order of the network's own (rank correlation"
            f" {found:.2f}): are they above 0 where an answer is right, and no losses?"
        )
    elif (margins.nunique() > len(margins) / 2 or fewest >= _FEWEST) and unrelated(margins, table):
        notes.append(
            "Nothing that the network says of the examples, and no label, goes with the margins of the held-out runs"
            f" (rank correlation with its own margins {found:.2f}): are they of these"
            " examples, in the dataset's order?"
        )
    return notes


def unrelated(values: pd.Series[float], table: pd.DataFrame) -> bool:
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
