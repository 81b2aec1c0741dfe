"""One part of the documents stays out of each epoch, another each time, and what the loss of those left out tells.

At the end of an epoch, documents that were in it are compared with documents that were left out of it, by the same
model. The parts are drawn at random, so that the difference, the *gap*, is what one exposure memorized: the height of
the step that the training loss takes where an epoch ends, since just before it the documents that come up have not been
in that epoch yet, and just after it they have. The rest of the drop, that of the documents left out, is general: what
other documents taught, less what was forgotten.

Documents differ far more in difficulty than by one exposure. So each is measured before and after the epoch that it is
left out of, and before and after the one before, which it is in: it serves on both sides, and its loss before is taken
into account (analysis of covariance, with one slope for both sides; Lin 2013 on why a random draw makes that valid).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

FEWEST = 40
"""Documents."""
MOST = 1000
"""Documents of a part that are measured, at most."""
_DRAWS = 1000  # of the bootstrap
_LEVEL = 0.95
_FEWEST_RARE = 10  # documents of a part from which on rarity is adjusted for

Measured = Mapping[int, Mapping[int, float]]
"""At the end of so many epochs (0: before the first), the loss of some documents in nats per token, by number."""


@dataclass(frozen=True)
class Rotation:
    """Which documents are left out of which epoch, and which are measured when.

    Attributes:
        n_documents: Number of documents, at least 40.
        share: Of the documents, how many are left out of each epoch, above 0 and at most 1/4; at least two.
        cost: Work of measuring over that of training, a forward pass being a third of a step; at most ``share``. Two
            documents of each part are measured at least, which is more below 2 / ``cost`` documents, and 1,000 at most.
        seed: Of the random parts.

    Raises:
        ValueError: If a number is out of range.
    """

    n_documents: int
    share: float = 0.05
    cost: float = 0.024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_documents < FEWEST:
            raise ValueError(f"documents: received {self.n_documents}, accepted: at least {FEWEST}")
        if self.seed < 0:
            raise ValueError(f"seed: received {self.seed}, accepted: an integer >= 0")
        if not 0 < self.share <= 0.25:
            raise ValueError(f"share: received {self.share}, accepted: above 0, at most 0.25")
        if not 0 < self.cost <= self.share:
            raise ValueError(f"cost: received {self.cost}, accepted: above 0, at most the share left out, {self.share}")

    @property
    def n_out(self) -> int:
        """Documents that each epoch leaves out, the same number in all."""
        return max(2, round(self.share * self.n_documents))

    @property
    def n_parts(self) -> int:
        """Epochs after which the same documents are left out again; a rest smaller than a part is never left out."""
        return self.n_documents // self.n_out

    @property
    def n_probes(self) -> int:
        """Documents of each part that are measured."""
        return min(self.n_out, MOST, max(2, int(self.cost * self.n_documents)))

    @cached_property
    def _order(self) -> Int64[np.ndarray, " n_documents"]:
        return np.random.default_rng([self.seed, 5]).permutation(self.n_documents)

    def out(self, epoch: int) -> Int64[np.ndarray, " n_out"]:
        """Return the documents that an epoch, from 0 on, leaves out."""
        first = epoch % self.n_parts * self.n_out
        return self._order[first : first + self.n_out]

    def kept(self, epoch: int) -> Int64[np.ndarray, " n_kept"]:
        """Return the documents that are in an epoch, in order."""
        kept = np.ones(self.n_documents, dtype=bool)
        kept[self.out(epoch)] = False
        return np.flatnonzero(kept)

    def probes(self, epoch: int) -> Int64[np.ndarray, " n_probes"]:
        """Return the documents that stand for those an epoch leaves out."""
        return self.out(epoch)[: self.n_probes]

    def measured_after(self, n_done: int, last: bool = False) -> Int64[np.ndarray, " n_measured"]:
        """Return the documents to measure once so many epochs are done: those of the last epoch and the next two.

        Args:
            n_done: Epochs done; 0 before the first.
            last: Whether no epoch follows.
        """
        epochs = range(max(n_done - 1, 0), n_done + (1 if last else 2))
        return np.concatenate([self.probes(epoch) for epoch in epochs])


@dataclass(frozen=True, eq=False)
class Staircase:
    """How much lower the loss of a document is for having been in an epoch.

    Attributes:
        epochs: A row per epoch: epoch (from 0), memorized with standard_error, low and high (95 %), general, and drop,
            their sum: by how much the loss of documents in it fell; loss_before, loss_seen, loss_left_out, at the mean
            loss before; n_seen and n_left_out, documents. In nats per token, documents counting alike.
        memorized: Mean over the epochs, in nats per token: what one exposure memorized.
        standard_error: Its standard error, over documents and runs.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    epochs: pd.DataFrame
    memorized: float
    standard_error: float
    low: float
    high: float

    def headline(self) -> str:
        """Say what one exposure memorized, and what the last epoch's drop was made of."""
        last = self.epochs.iloc[-1]
        return (
            f"What one exposure memorized: {self.memorized:z.3f} nats per token ({self.low:z.3f} to {self.high:z.3f},"
            f" mean of {len(self.epochs)} epochs). In epoch {int(last['epoch']) + 1}, the loss of documents in it fell"
            f" by {last['drop']:z.3f}: {last['memorized']:z.3f} memorized, {last['general']:z.3f} without seeing them."
        )


def rarity(tokens: Mapping[int, Any]) -> dict[int, float]:
    """Return how rare the tokens of each document are in the others: mean of -log of their shares, in nats.

    Args:
        tokens: Numbers of each document's tokens, at least 0.
    """
    rows = {document: np.asarray(own, dtype=np.int64) for document, own in tokens.items()}
    counts = np.bincount(np.concatenate(list(rows.values())))
    found = {}
    for document, own in rows.items():
        kinds, n = np.unique(own, return_counts=True)
        shares = (counts[kinds] - n + 1) / (counts.sum() - len(own) + len(counts))
        found[document] = -float(n @ np.log(shares)) / len(own)
    return found


def estimate(
    rotation: Rotation,
    measured: Measured,
    rare: Mapping[int, float] | None = None,
    seed: int = 0,
    between_runs: float = 0.06,
) -> Staircase:
    """Estimate what one exposure memorized, from losses before and after epochs.

    Intervals are of a bootstrap over documents, with Student's t for few. How much a run memorizes differs between
    runs, by order and parts, which one run cannot tell; it is taken from elsewhere, 6 % in the study "staircase".

    Args:
        rotation: Who was left out of which epoch.
        measured: Losses after each number of epochs, of ``measured_after`` at least; an epoch counts if it is measured
            on both ends.
        rare: ``rarity`` of the documents; default not adjusted for, nor with fewer than ten documents of a part.
        seed: Of the bootstrap.
        between_runs: Standard deviation of memorization between runs, over its mean, at least 0; at 0, intervals are
            for this one run.

    Raises:
        ValueError: If no epoch has been measured on both ends.

    References:
        MacKinnon and White 1985 (HC3, errors of regressions on few data).
    """
    from scipy.stats import t  # slow to import

    epochs = [done for done in sorted(measured) if done + 1 in measured]
    if not epochs:
        raise ValueError("staircase: received no epoch that began and ended, accepted: at least one")
    rng = np.random.default_rng(seed)
    n, weights = rotation.n_probes, {}
    for part in sorted({epoch % rotation.n_parts for e in epochs for epoch in (e, e + 1)}):
        drawn = rng.multinomial(n, np.full(n, 1 / n), _DRAWS)
        weights[part] = np.concatenate([np.ones((1, n)), drawn]) / n  # the first row: as it is
    adjusted = 1 if rare is None or n < _FEWEST_RARE else 2
    degrees = 2 * n - 2 - adjusted
    wider = 2 * n / degrees  # residuals are smaller than errors: as HC3, on average
    rows, gaps = [], []
    for epoch in epochs:
        sides = []
        for other in (epoch, epoch + 1):  # left out of this epoch; in it, as it is left out of the next
            documents = [int(document) for document in rotation.probes(other)]
            before, after = (np.array([measured[at][d] for d in documents]) for at in (epoch, epoch + 1))
            given = [before] if adjusted == 1 else [before, np.array([(rare or {})[d] for d in documents])]
            sides.append((np.stack(given, axis=1), after, weights[other % rotation.n_parts]))
        start, left_out, seen = _adjusted(*sides)
        gaps.append(left_out - seen)
        row: dict[str, Any] = {"epoch": epoch, "memorized": gaps[-1][0]}
        row |= _interval(gaps[-1], t.ppf((1 + _LEVEL) / 2, degrees), wider, between_runs)
        row |= {"general": start - left_out[0], "drop": start - seen[0]}
        row |= {"loss_before": start, "loss_seen": seen[0], "loss_left_out": left_out[0]}
        rows.append(row | {"n_seen": n, "n_left_out": n})
    mean = np.mean(gaps, axis=0)
    ends = _interval(mean, t.ppf((1 + _LEVEL) / 2, max(len(weights) * (n - 1) - adjusted, 1)), wider, between_runs)
    return Staircase(pd.DataFrame(rows), float(mean[0]), **ends)


_Side = tuple[np.ndarray, np.ndarray, np.ndarray]


def _adjusted(left_out: _Side, seen: _Side) -> tuple[float, Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Mean loss before, and those after of both sides, at the same values of what is adjusted for, in every draw.

    Slopes are those of the documents as they are: they hardly matter for the spread, and few documents tell none.

    Args:
        left_out: What is adjusted for (n_documents, n_covariates; the first is the loss before), the loss after, and
            the weights of every draw (n_draws, n_documents).
        seen: The same.
    """
    common = (left_out[0].mean(axis=0) + seen[0].mean(axis=0)) / 2
    apart = np.concatenate([given - given.mean(axis=0) for given, _, _ in (left_out, seen)])
    after = np.concatenate([values - values.mean() for _, values, _ in (left_out, seen)])
    slopes = np.linalg.lstsq(apart, after, rcond=None)[0]
    ends = [weights @ (values - (given - common) @ slopes) for given, values, weights in (left_out, seen)]
    return float(common[0]), ends[0], ends[1]


def _interval(drawn: np.ndarray, quantile: float, wider: float, between_runs: float) -> dict[str, float]:
    """Standard error of the first number, from the others, and the ends of its interval."""
    error = float(np.hypot(drawn[1:].std(ddof=1) * wider, between_runs * drawn[0]))
    half = quantile * error
    return {"standard_error": error, "low": float(drawn[0] - half), "high": float(drawn[0] + half)}
