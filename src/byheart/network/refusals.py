"""Arrays of a user that show that they are something else: scores that are no margins, masks of the others, and logs.

Each would give plausible verdicts that are wrong. Refused is what all but rules out a right input; what only makes one
unlikely becomes a note (``byheart.network.doubts``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64
from scipy.special import stdtr

if TYPE_CHECKING:
    from byheart.network.log import TrainingLog

_SURELY = 4.0  # standard errors; one in 30,000 by chance
_BY_CHANCE = 3e-5  # how often a normal number is so many below its mean
_FEWEST = 10  # scores of which so much can be said
_FEWEST_PATTERNS = 5  # of models that were trained on an example, for a standard error over them
_MARGINS = "margins, above 0 where the answer is right"


def refuse_no_margins(
    scores: Float[np.ndarray, "n_models n_examples"], inside: Bool[np.ndarray, "n_models n_examples"], name: str
) -> None:
    """Refuse probabilities, their logarithms, and losses in place of margins, where numbers and mask show it.

    Probabilities lie between 0 and 1 and in both halves, where margins would call all answers right. Logarithms
    and minus losses are never above 0, not even of examples trained on. Losses are never below 0, and smaller by four
    standard errors of examples trained on.

    Raises:
        ValueError: If it shows.
    """
    if scores.size < _FEWEST or np.isin(scores, (0, 1)).all():  # right and wrong answers
        return
    low, high = float(scores.min()), float(scores.max())
    if low >= 0 and high <= 1 + 1e-6 and low <= 0.5 < high:
        raise ValueError(
            f"{name}: received numbers from {low:.4g} to {high:.4g} alone, as probabilities are, accepted: {_MARGINS}"
            " (log p - log(1 - p) of a probability p; True and False; if they are margins, 10 times these)"
        )
    if inside.sum() >= _FEWEST and not (scores[inside] > 0).any():
        raise ValueError(
            f"{name}: received none above 0, not even of examples trained on, as of log-probabilities or minus losses,"
            f" accepted: {_MARGINS} (log p - log(1 - p) of a probability p; of numbers a tolerance less the error)"
        )
    if low >= 0 and worse_inside(scores, inside) < -_SURELY:
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


def worse_inside(scores: np.ndarray, inside: np.ndarray) -> float:
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


def refuse_shared_states(states: Sequence[Any]) -> None:
    """Refuse checkpoints that share their tensors, as the dicts of ``state_dict()`` do: all are the last one.

    Raises:
        ValueError: If some do.
    """
    import torch

    tensors = [
        [value for value in state.values() if torch.is_tensor(value) and value.numel()]
        for state in states
        if isinstance(state, Mapping)
    ]
    places = [tuple(value.data_ptr() for value in values) for values in tensors if values]
    n_same = max((places.count(place) for place in places), default=1)
    if n_same > 1:
        raise ValueError(
            f"checkpoints: received {n_same} with the same weights; state_dict() returns the live tensors, accepted:"
            " copies (copy.deepcopy(model.state_dict()))"
        )


def refuse_log_unlike_losses(log: TrainingLog, mean_loss: Float64[np.ndarray, " n_examples"], loss: Any) -> None:
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
            " large where an answer is wrong (log-likelihoods are minus these), or loss= as a function if yours may be"
            " below 0"
        )
