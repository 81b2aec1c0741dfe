"""Memorization and influence of training examples, from many models that were each trained without some of them.

mem(i) = E[score of i | trained on i] - E[score of i | not trained on i], where the score is whether the model answers
example i correctly (or any number that says how well). infl(i, j) is the same difference in the score of another
example j. mem is 0 for an example that the others explain, and near 1 for one that is answered only if it was seen,
such as one with a wrong label.

Source: Feldman 2020; Feldman and Zhang 2020, "What neural networks memorize and why" (subset estimator).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from byheart.arrays import as_array

_ENOUGH_POWER = 0.8  # below this an estimate is called underpowered


@dataclass(frozen=True, eq=False)
class Memorization:
    """Estimates of memorization, one per training example.

    Attributes:
        mem: mem(i), in [-1, 1] for scores in [0, 1].
        standard_error: Of ``mem``, over the draw of the models.
        n_in: How many models were trained on the example.
        n_out: How many were not.
        centre: Middle of the interval; for scores of 0 and 1 it is drawn in from ``mem`` (Agresti and Caffo 2000).
    """

    mem: Float64[np.ndarray, " n_examples"]
    standard_error: Float64[np.ndarray, " n_examples"]
    n_in: Int64[np.ndarray, " n_examples"]
    n_out: Int64[np.ndarray, " n_examples"]
    centre: Float64[np.ndarray, " n_examples"]

    def interval(
        self, level: float = 0.95
    ) -> tuple[Float64[np.ndarray, " n_examples"], Float64[np.ndarray, " n_examples"]]:
        """Return the lower and upper ends of two-sided intervals that cover mem(i) with this probability.

        Raises:
            ValueError: If ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: received {level}, accepted: between 0 and 1")
        from scipy.special import ndtri  # slow to import

        half = float(ndtri((1 + level) / 2)) * self.standard_error
        return self.centre - half, self.centre + half

    def power(self, effect: float = 0.25) -> float:
        """Return with what probability these numbers of models tell an effect from 0 (see ``power``)."""
        return power(int(np.median(self.n_in)), int(np.median(self.n_out)), effect)

    def headline(self, above: float = 0.25) -> str:
        """Say how many examples have more memorization than that, or why it cannot be said."""
        n_models, found = int(np.median(self.n_in + self.n_out)), self.power(above)
        told = f"{n_models} models tell a memorization of {above:g} from 0 with probability {found:.2f}"
        if found < _ENOUGH_POWER:
            return f"Underpowered: {told}; at least {_ENOUGH_POWER:g} is needed to count memorized examples."
        count, surely = int((self.mem > above).sum()), int((self.interval()[0] > above).sum())
        return (
            f"{count} of {len(self.mem)} examples have a memorization above {above:g}, {surely} of them with the whole"
            f" 95 % interval; {told}."
        )


def memorization(
    scores: Float[np.ndarray, "n_models n_examples"], train_mask: Bool[np.ndarray, "n_models n_examples"]
) -> Memorization:
    """Estimate mem(i) of every training example, with standard errors.

    For scores of 0 and 1 the standard error is Agresti and Caffo's, which is not 0 where all models agree; for others
    it is Welch's.

    Args:
        scores: How well each model answers each example, whether trained on it or not: correct (0 or 1), a probability,
            a margin.
        train_mask: Which model was trained on which example.

    Raises:
        ValueError: If the shapes differ, a score is not finite, or an example is in, or left out of, fewer than two
            training sets.

    References:
        Feldman and Zhang 2020, section 3; Agresti and Caffo 2000.
    """
    scores, inside = _checked(scores, train_mask)
    n_in, n_out = inside.sum(axis=0), (~inside).sum(axis=0)
    mean_in, mean_out = _mean(scores, inside, n_in), _mean(scores, ~inside, n_out)
    if np.isin(scores, (0, 1)).all():
        p, q = (mean_in * n_in + 1) / (n_in + 2), (mean_out * n_out + 1) / (n_out + 2)
        error = np.sqrt(p * (1 - p) / (n_in + 2) + q * (1 - q) / (n_out + 2))
        return Memorization(mean_in - mean_out, error, n_in, n_out, p - q)
    mem = mean_in - mean_out
    variances = [_variance(scores, rows, n) / n for rows, n in ((inside, n_in), (~inside, n_out))]
    return Memorization(mem, np.sqrt(variances[0] + variances[1]), n_in, n_out, mem)


def smoothed_memorization(
    margins: Float[np.ndarray, "n_models n_examples"], train_mask: Bool[np.ndarray, "n_models n_examples"]
) -> Memorization:
    """Estimate mem(i) of correctness from margins, which takes fewer models than counting right answers.

    A margin is above 0 where the answer is right. If the margins of models of one kind are normal, a share
    Phi(mean / deviation) of them is right. The deviation of an example is estimated with eight further degrees of
    freedom at the median deviation of all examples, since its own few models say little about it. With eight models
    left out, 95 % intervals cover about 91 %.

    Args:
        margins: Logit of the right answer less the largest other one, of each model on each example.
        train_mask: Which model was trained on which example.

    Raises:
        ValueError: As ``memorization``.
    """
    from scipy.special import ndtr  # slow to import

    margins, inside = _checked(margins, train_mask)
    parts = []
    for rows in (inside, ~inside):
        n = rows.sum(axis=0)
        variance = _variance(margins, rows, n)
        variance = ((n - 1) * variance + 8 * np.median(variance)) / (n + 7)
        z = _mean(margins, rows, n) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
        error = np.sqrt(1 / n + z**2 / (2 * (n + 7)))
        # A step to either side: the slope at z alone is too small an error where nearly all are right, or wrong.
        parts.append((ndtr(z), np.square((ndtr(z + error) - ndtr(z - error)) / 2), n))
    (p, var_in, n_in), (q, var_out, n_out) = parts
    return Memorization(p - q, np.sqrt(var_in + var_out), n_in, n_out, p - q)


def influence(
    scores: Float[np.ndarray, "n_models n_targets"], train_mask: Bool[np.ndarray, "n_models n_examples"]
) -> tuple[Float64[np.ndarray, "n_targets n_examples"], Float64[np.ndarray, "n_targets n_examples"]]:
    """Estimate how much training on each example changes the score of each target, with Welch's standard errors.

    Args:
        scores: How well each model answers each target (test inputs, or other training examples).
        train_mask: Which model was trained on which example.

    Returns:
        The influence, and its standard error.

    Raises:
        ValueError: If the numbers of models differ, a score is not finite, or an example is in, or left out of, fewer
            than two training sets.

    References:
        Feldman and Zhang 2020, section 3.
    """
    inside = _checked_mask(train_mask)
    scores = _checked_scores(scores, len(inside), "n_targets")
    n_in, n_out = inside.sum(axis=0), (~inside).sum(axis=0)
    centred = scores - scores.mean(axis=0)  # for the squares below
    means, variances = [], []
    for rows, n in ((inside, n_in), (~inside, n_out)):
        mean = centred.T @ rows / n
        means.append(mean)
        variances.append(np.maximum(np.square(centred).T @ rows / n - mean**2, 0) / (n - 1))
    return means[0] - means[1], np.sqrt(variances[0] + variances[1])


def power(n_in: int, n_out: int, effect: float = 0.25, p_in: float = 1.0) -> float:
    """Return the probability that the one-sided 95 % interval of mem lies above 0, if mem is ``effect``.

    Exact, for scores of 0 and 1. Models trained on the example answer it with probability ``p_in`` (default always, as
    where training accuracy is 100 %; the hardest case is (1 + effect) / 2).

    Args:
        n_in: Models trained on the example.
        n_out: Models that were not.
        effect: mem, above 0 and at most ``p_in``.
        p_in: Probability of a right answer of a model trained on the example.

    Raises:
        ValueError: If a number lies outside its range.
    """
    from scipy.special import ndtri
    from scipy.stats import binom  # slow to import

    if n_in < 2 or n_out < 2:
        raise ValueError(f"n_in, n_out: received {n_in}, {n_out}, accepted: at least 2")
    if not 0 < effect <= p_in <= 1:
        raise ValueError(f"effect, p_in: received {effect}, {p_in}, accepted: 0 < effect <= p_in <= 1")
    k_in, k_out = np.arange(n_in + 1)[:, None], np.arange(n_out + 1)[None, :]
    p, q = (k_in + 1) / (n_in + 2), (k_out + 1) / (n_out + 2)
    error = np.sqrt(p * (1 - p) / (n_in + 2) + q * (1 - q) / (n_out + 2))
    told = p - q - ndtri(0.95) * error > 0
    chance = binom.pmf(k_in, n_in, p_in) * binom.pmf(k_out, n_out, p_in - effect)
    return float(chance[told].sum())


def balanced_subsets(
    n_examples: int, n_models: int, fraction: float = 0.6, seed: int = 0, fewest: int = 2
) -> Bool[np.ndarray, "n_models n_examples"]:
    """Draw who is trained on what: each example is in a fixed share of every block of models.

    With a fraction of 3/5, each example is in exactly three of models 0 to 4, of models 5 to 9, and so on; which three
    is drawn for each example anew.

    Args:
        n_examples: Size of the dataset.
        n_models: At least enough that each example is in ``fewest`` training sets and left out of as many.
        fraction: Share of the examples that a model is trained on, taken as the nearest a/b with b of at most 20.
        seed: Of the draw.
        fewest: Memorization takes 2; for single held-out runs 0.

    Returns:
        The mask of training examples.

    Raises:
        ValueError: If a number lies outside its range.
    """
    share = Fraction(fraction).limit_denominator(20)
    if not 0 < share < 1:
        raise ValueError(f"fraction: received {fraction}, accepted: between 0.05 and 0.95")
    if n_examples < 1 or n_models < 1:
        raise ValueError(f"n_examples, n_models: received {n_examples}, {n_models}, accepted: at least 1")
    rng, block = np.random.default_rng(seed), share.denominator
    n_blocks = -(-n_models // block)
    ranks = rng.random((n_blocks, block, n_examples)).argsort(axis=1)
    mask: Bool[np.ndarray, "n_models n_examples"] = (ranks < share.numerator).reshape(-1, n_examples)[:n_models]
    if int(np.minimum(mask.sum(axis=0), (~mask).sum(axis=0)).min()) < fewest:
        raise ValueError(
            f"n_models: received {n_models}, accepted: enough to have each example in and out of {fewest} training sets"
            f" (with fraction {fraction:g}, {_enough(share, fewest)} are)"
        )
    return mask


def _enough(share: Fraction, fewest: int) -> int:
    """Whole blocks of models in which each example is in so many training sets, and out of as many."""
    return -(-fewest // min(share.numerator, share.denominator - share.numerator)) * share.denominator


def _mean(scores: np.ndarray, rows: np.ndarray, n: np.ndarray) -> np.ndarray:
    mean: np.ndarray = np.where(rows, scores, 0).sum(axis=0) / n
    return mean


def _variance(scores: np.ndarray, rows: np.ndarray, n: np.ndarray) -> np.ndarray:
    variance: np.ndarray = np.where(rows, (scores - _mean(scores, rows, n)) ** 2, 0).sum(axis=0) / (n - 1)
    return variance


def _checked(scores: np.ndarray, train_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _checked_mask(train_mask)
    scores = _checked_scores(scores, len(inside), "n_examples")
    if scores.shape != inside.shape:
        raise ValueError(f"scores: received shape {scores.shape}, accepted: that of train_mask, {inside.shape}")
    return scores, inside


def _checked_scores(scores: np.ndarray, n_models: int, columns: str) -> np.ndarray:
    scores = as_array(scores, "scores").astype(np.float64)
    if scores.ndim != 2 or len(scores) != n_models:
        raise ValueError(f"scores: received shape {scores.shape}, accepted: ({n_models} models, {columns})")
    if not np.isfinite(scores).all():
        model, example = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"scores: received {scores[model, example]} of model {model} on example {example}, accepted: finite"
        )
    return scores


def _checked_mask(train_mask: np.ndarray) -> np.ndarray:
    mask = as_array(train_mask, "train_mask")
    if mask.ndim != 2 or mask.size == 0 or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"train_mask: received shape {mask.shape}, accepted: a matrix (models, examples) of bools")
    inside = mask.astype(bool)
    fewest = np.minimum(inside.sum(axis=0), (~inside).sum(axis=0))
    if fewest.min() < 2:
        example = int(fewest.argmin())
        raise ValueError(
            f"train_mask: received example {example} in {inside[:, example].sum()} of {len(inside)} training sets,"
            " accepted: each in at least two and left out of at least two"
        )
    return inside
