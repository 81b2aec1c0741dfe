"""Two audits compared: what is memorized that was not before, and whether that is more than another seed changes.

Two trainings that differ by nothing but the seed memorize other examples, so that a count of changes says little by
itself. Further trainings of the first kind, the noise, say how many changes there are when nothing has changed. Two
questions are asked of the examples that have the same label in all audits:

- Are other examples memorized? As many of the largest scores are taken in every audit as the first flags. An example
  that is among them in some of the noise and the second audit, but not in the first, is equally likely to be so in each
  of these if they differ by the seed alone: the sign test, or McNemar's, for more than two trainings. Equally many are
  taken because the calibration by one held-out run moves the flags of all examples together.
- Are more memorized? Twice the square root of the number that is flagged is compared with that of the first audit and
  the noise by Student's t, whose deviation is at least 1, that of counts of independent examples. Only audits with
  held-out runs know how many are memorized.

The p-value is twice the smaller of the two. Source: McNemar 1947; Anscombe 1948 (the square root). How often it is
small without a change, and with one, is measured in docs/audit.md (benchmarks/gate.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from scipy.special import stdtr

from byheart.network.audit import Audit
from byheart.network.ids import ID

NEWLY, NO_LONGER, ADDED, REMOVED, RELABELLED = KINDS = (
    "newly memorized",
    "no longer",
    "added",
    "removed",
    "relabelled",
)
"""What can have changed of an example."""
SHOWN = ("probability", "score", "loss")
"""Columns of an audit's table that a table of changes has of both sides."""
_OF_ONE_KIND = ("probability", "mean_loss", "ridge_leave_one_out")  # what scores are made from
_MOST_RELABELLED = 0.2  # by position; more are taken for another order of the examples
_LEVEL = 0.05  # below this p-value noise does not explain the changes, in words


@dataclass(frozen=True)
class Noise:
    """How much further trainings of the first kind change.

    Attributes:
        newly: How many examples are flagged in one training of the first kind and not in another, of all ordered pairs
            of them.
        p_which: Of the hypothesis that the examples memorized in the second audit are no others than in the noise.
        p_number: Of the hypothesis that no more are; None without held-out runs, where the number is fixed.
    """

    newly: tuple[int, ...]
    p_which: float
    p_number: float | None

    @property
    def expected(self) -> float:
        """The number of newly memorized examples if nothing but the seed changes."""
        return float(np.mean(self.newly))

    @property
    def deviation(self) -> float:
        """The standard deviation of that number over the pairs; of one pair at least that of independent examples."""
        found = float(np.std(self.newly, ddof=1))
        return max(found, float(np.sqrt(self.expected))) if len(self.newly) == 2 else found

    @property
    def p_value(self) -> float:
        """Of the hypothesis that nothing but the seed changed, against more or other examples memorized."""
        return self.p_which if self.p_number is None else min(1.0, 2 * min(self.p_which, self.p_number))


@dataclass(frozen=True, eq=False)
class Changes:
    """What differs between two audits.

    Attributes:
        table: A row per example that changed: id (if both audits have ids), example (its number in the second audit,
            of a removed one in the first), change (one of ``KINDS``), then of both sides, ending in _before and _after,
            label, flagged, probability, score and loss, as far as the audits have them; apart: whether the two 95 %
            intervals do not even touch. What one side does not have is missing.
        newly, no_longer: How many examples with the same label are flagged in the second audit only, or the first.
        added, removed, relabelled: How many examples are in one audit only, or have another label.
        n_after: How many examples the second audit has.
        noise: What further trainings of the first kind say, if there are any.
        p_value_new: Of the hypothesis that added and relabelled examples are flagged no more often than the others; 1
            if there are none.
    """

    table: pd.DataFrame
    newly: int
    no_longer: int
    added: int
    removed: int
    relabelled: int
    n_after: int
    noise: Noise | None
    p_value_new: float

    @property
    def numbers(self) -> dict[str, float]:
        """The counts and p-values by name; excess is the number of newly memorized examples less that of the noise."""
        names = ("newly", "no_longer", "added", "removed", "relabelled", "p_value_new")
        found = {name: float(getattr(self, name)) for name in names}
        if self.noise is not None:
            found |= {"excess": self.newly - self.noise.expected, "p_value": self.noise.p_value}
        return found

    def __str__(self) -> str:
        """Return the counts in words, and what the noise says of them."""
        words = [f"{self.newly:,} newly memorized, {self.no_longer:,} no longer"]
        if self.noise is not None:
            expected, p_value = f"{self.noise.expected:.0f} ± {self.noise.deviation:.0f}", self.noise.p_value
            verdict = "within noise" if p_value >= _LEVEL else "more than noise explains"
            words.append(f"two seeds of the same training differ by about {expected}: {verdict} (p = {p_value:.2g})")
        others = [(self.added, ADDED), (self.removed, REMOVED), (self.relabelled, RELABELLED)]
        if there := [f"{count:,} {kind}" for count, kind in others if count]:
            of_new = f" (memorized more often than the others with p = {self.p_value_new:.2g})"
            words.append(", ".join(there) + (of_new if self.added or self.relabelled else ""))
        return "; ".join(words)


def changes(
    before: Audit | pd.DataFrame, after: Audit | pd.DataFrame, noise: Sequence[Audit | pd.DataFrame] = ()
) -> Changes:
    """Compare two audits, example by example.

    Examples are matched by their ids where both audits have them, else by position. Labels are compared by the names of
    the classes where both sides have them: audits, and tables as they are saved, with a column label_name.

    Args:
        before: An audit, or its table.
        after: Another one, from the same kind of evidence.
        noise: Audits of further trainings of the first kind, with other seeds for the network and any held-out run,
            on the same examples and labels. One tells roughly how large the noise is, three or more how it varies.

    Raises:
        ValueError: If a table lacks score, flagged or finite scores, the scores are of two kinds, examples cannot be
            matched, or the noise is of other examples or labels, or no other training.
    """
    first, second = _Side.of(before, "before"), _Side.of(after, "after")
    others = [_Side.of(one, f"noise {number}") for number, one in enumerate(noise, 1)]
    for other in (second, *others):
        _check_evidence(first, other)
    matched = _match(first, second)
    same = matched.same_label
    table = _rows(first, second, matched, _labels(first, second))
    counts = {kind: int((table["change"] == kind).sum()) for kind in KINDS}
    return Changes(
        table,
        counts[NEWLY],
        counts[NO_LONGER],
        counts[ADDED],
        counts[REMOVED],
        counts[RELABELLED],
        len(second.table),
        _noise(first, second, others, matched.before[same], matched.after[same]) if others else None,
        _p_value_new(second.flagged, matched),
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the audits."""

    name: str
    table: pd.DataFrame
    flagged: Bool[np.ndarray, " n_examples"]
    label_names: dict[int, str]
    """Of the classes, by their numbers; empty if it does not say them."""
    ids: list[str] | None

    @classmethod
    def of(cls, given: Audit | pd.DataFrame, name: str) -> _Side:
        table = given.table if isinstance(given, Audit) else given
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"{name}: received {type(table).__name__}, accepted: an Audit, or its table")
        for column, kinds in (("score", "iuf"), ("flagged", "b")):
            if column not in table or table[column].dtype.kind not in kinds:
                raise ValueError(
                    f"{name}: received a table without {column} of every example, accepted: as Audit.table has them, or"
                    " byheart audit --table writes them"
                )
        if not np.isfinite(table["score"]).all() or not len(table):
            raise ValueError(f"{name}: received {len(table)} examples, not all with a finite score, accepted: all with")
        label_names = dict(enumerate(given.label_names)) if isinstance(given, Audit) else _label_names(table)
        ids = table[ID].astype(str).tolist() if ID in table else None
        if ids is not None and len(set(ids)) < len(ids):
            raise ValueError(f"{name}: received an id twice in the column {ID}, accepted: each once")
        return cls(name, table.reset_index(drop=True), table["flagged"].to_numpy(dtype=bool), label_names, ids)


@dataclass(frozen=True, eq=False)
class _Matched:
    """Which examples are the same."""

    before: Int64[np.ndarray, " n_both"]
    """Positions in the first audit of the examples that both have."""
    after: Int64[np.ndarray, " n_both"]
    same_label: Bool[np.ndarray, " n_both"]
    removed: Int64[np.ndarray, " n_removed"]
    added: Int64[np.ndarray, " n_added"]


def _labels(first: _Side, second: _Side) -> tuple[np.ndarray, np.ndarray] | None:
    """The labels of both; by name where their names are numbered otherwise, as a class more or less changes them."""
    if "label" not in first.table or "label" not in second.table:
        return None
    one, two = (side.table["label"].to_numpy() for side in (first, second))
    if first.label_names and second.label_names and not _numbered_alike(first.label_names, second.label_names):
        one, two = (
            np.array([side.label_names[number] for number in values.tolist()], dtype=object)
            for side, values in ((first, one), (second, two))
        )
    return one, two


def _label_names(table: pd.DataFrame) -> dict[int, str]:
    """The names of the classes that a saved table has beside their numbers; none if some are missing or no words."""
    if not {"label", "label_name"} <= set(table):
        return {}
    found = dict(zip(table["label"].tolist(), table["label_name"].tolist(), strict=True))
    return found if all(isinstance(name, str) and name for name in found.values()) else {}


def _numbered_alike(one: dict[int, str], two: dict[int, str]) -> bool:
    """Whether no number has two names, and no name two numbers."""
    both = one.items() | two.items()
    return one == two or len(both) == len({number for number, _ in both}) == len({name for _, name in both})


def _match(first: _Side, second: _Side) -> _Matched:
    n_before, n_after = len(first.table), len(second.table)
    by_id = first.ids is not None and second.ids is not None
    if first.ids is not None and second.ids is not None:
        _check_ids(first, second)
        found = pd.Index(first.ids).get_indexer(pd.Index(second.ids))
        if not (found >= 0).any():
            raise ValueError(
                f"ids: received {first.name} and {second.name} without one in common, accepted: ids that stay"
            )
    elif n_before != n_after:
        raise ValueError(
            f"{first.name}, {second.name}: received {n_before} and {n_after} examples, accepted: equally many in the"
            " same order, or ids in both: bh.audit(..., ids=...)"
        )
    else:
        found = np.arange(n_after)
    after = np.flatnonzero(found >= 0)
    before = found[after].astype(np.int64)
    same = np.ones(len(after), dtype=bool)
    if (labels := _labels(first, second)) is not None:
        same = labels[0][before] == labels[1][after]
    if not by_id and (~same).mean() > _MOST_RELABELLED:
        raise ValueError(
            f"{first.name}, {second.name}: received {(~same).sum()} of {n_after} examples with other labels, accepted:"
            " the same order, or ids in both: bh.audit(..., ids=...)"
        )
    removed = np.setdiff1d(np.arange(n_before), before)
    return _Matched(before, after, same, removed, np.flatnonzero(found < 0))


def _check_ids(first: _Side, second: _Side) -> None:
    """Refuse ids that a program has made numbers on one side only: 7 is no longer 007."""
    for numbers, words in ((first, second), (second, first)):
        if numbers.table[ID].dtype.kind in "iuf" and words.table[ID].dtype.kind not in "iuf":
            lost = [word for word in words.ids or () if word.isdecimal() and str(int(word)) != word]
            if lost:
                raise ValueError(
                    f"ids: received numbers of {numbers.name} and words such as {lost[0]!r} of {words.name}, accepted:"
                    " words of both, as pandas.read_csv reads them with dtype={'id': str}"
                )


def _check_evidence(first: _Side, second: _Side) -> None:
    for name in _OF_ONE_KIND:
        if (name in first.table) != (name in second.table):
            which = first.name if name in first.table else second.name
            raise ValueError(
                f"{first.name}, {second.name}: received only {which} with {name}, so that their scores are of two"
                " kinds, accepted: audits from the same evidence"
            )


def _rows(first: _Side, second: _Side, matched: _Matched, labels: tuple[np.ndarray, np.ndarray] | None) -> pd.DataFrame:
    """The examples that changed, in the order of ``KINDS``."""
    was, is_now = first.flagged[matched.before], second.flagged[matched.after]
    same = matched.same_label
    places = {  # in the first audit and in the second, -1 where there is none
        **{kind: (matched.before[rows], matched.after[rows])
           for kind, rows in ((NEWLY, same & ~was & is_now), (NO_LONGER, same & was & ~is_now), (RELABELLED, ~same))},
        ADDED: (np.full(len(matched.added), -1), matched.added),
        REMOVED: (matched.removed, np.full(len(matched.removed), -1)),
    }  # fmt: skip
    before, after = (np.concatenate([places[kind][side] for kind in KINDS]) for side in (0, 1))
    found: dict[str, Any] = {}
    if first.ids is not None and second.ids is not None:
        found[ID] = [second.ids[b] if b >= 0 else first.ids[a] for a, b in zip(before, after, strict=True)]
    found["example"] = np.where(after >= 0, after, before)
    found["change"] = np.repeat(KINDS, [len(places[kind][0]) for kind in KINDS])
    columns = [(name, first.table[name], second.table[name]) for name in SHOWN if name in first.table]
    columns = [("flagged", pd.Series(first.flagged), pd.Series(second.flagged)), *columns]
    if labels is not None:
        columns = [("label", pd.Series(labels[0]), pd.Series(labels[1])), *columns]
    for name, one, two in columns:
        found[f"{name}_before"] = one.convert_dtypes().reindex(before).array
        found[f"{name}_after"] = two.convert_dtypes().reindex(after).array
    if {"low", "high"} <= set(first.table) & set(second.table):
        (low, high), (low_now, high_now) = (
            side.table[["low", "high"]].reindex(at).to_numpy(dtype=float).T
            for side, at in ((first, before), (second, after))
        )
        found["apart"] = (low_now > high) | (high_now < low)
    return pd.DataFrame(found)


def _noise(first: _Side, second: _Side, others: list[_Side], at: np.ndarray, at_second: np.ndarray) -> Noise:
    """Ask both questions of the module's first lines, of the examples that stand there in the two audits."""
    sides, places = [first, second], [at, at_second]
    for number, other in enumerate(others):
        matched = _match(first, other)
        if len(matched.added) or len(matched.removed) or not matched.same_label.all():
            raise ValueError(
                f"{other.name}: received {len(matched.added)} examples more than before, {len(matched.removed)} less,"
                f" {(~matched.same_label).sum()} with other labels, accepted: another training on the same"
            )
        sides.append(other)
        places.append(matched.after[np.argsort(matched.before)][at])
        for earlier, there in ((0, at), *((k + 2, places[k + 2]) for k in range(number))):
            if np.array_equal(sides[earlier].table["score"].to_numpy()[there], _scores(other, places[-1])):
                raise ValueError(
                    f"{other.name}: received the same scores as {sides[earlier].name}, accepted: a training with"
                    " another seed"
                )
    flagged = [side.flagged[there] for side, there in zip(sides, places, strict=True)]
    n_most = int(flagged[0].sum())
    most = [_largest(_scores(side, there), n_most) for side, there in zip(sides, places, strict=True)]
    alike = [flagged[0], *flagged[2:]]
    newly = tuple(int((~one & other).sum()) for one, other in itertools.permutations(alike, 2))
    p_number = None
    if "probability" in first.table:
        p_number = _p_value_of_count(int(flagged[1].sum()), [int(one.sum()) for one in alike])
    return Noise(newly, _p_value_of_others(most[1][~most[0]], [one[~most[0]] for one in most[2:]]), p_number)


def _scores(side: _Side, at: Int64[np.ndarray, " n_chosen"]) -> np.ndarray:
    scores: np.ndarray = side.table["score"].to_numpy(dtype=float)[at]
    return scores


def _largest(scores: np.ndarray, n: int) -> Bool[np.ndarray, " n_examples"]:
    """Mark the n largest scores, of equal ones the first."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:n]] = True
    return chosen


def _p_value_of_others(
    one: Bool[np.ndarray, " n_examples"], others: Sequence[Bool[np.ndarray, " n_examples"]]
) -> float:
    """Return how likely so many marks of one training are, if each example's marks fall on all trainings alike.

    With one other training this is the exact one-sided sign test (McNemar 1947). Examples are taken as independent.
    """
    from scipy.stats import binom  # slow to import

    n_others = len(others)
    marks = one.astype(int) + np.sum(others, axis=0)
    distribution = np.ones(1)  # of the marks of the one training, among the examples that not all have marked
    for n in range(1, n_others + 1):
        n_such = int((marks == n).sum())
        distribution = np.convolve(distribution, binom.pmf(np.arange(n_such + 1), n_such, n / (n_others + 1)))
    found = int((one & (marks <= n_others)).sum())
    return float(min(1.0, distribution[found:].sum()))


def _p_value_of_count(count: int, counts: Sequence[int]) -> float:
    """Return how likely so large a count is among others like these, roots of which are taken as normal.

    Twice the root of a count of independent examples has deviation 1 (Anscombe 1948); trainings differ by more.
    """
    root, roots = 2 * np.sqrt(count + 3 / 8), 2 * np.sqrt(np.array(counts) + 3 / 8)
    deviation = max(1.0, float(roots.std(ddof=1))) * np.sqrt(1 + 1 / len(roots))
    return float(stdtr(len(roots) - 1, -(root - roots.mean()) / deviation))


def _p_value_new(flagged: Bool[np.ndarray, " n_after"], matched: _Matched) -> float:
    """Return how likely so many flags fall on added and relabelled examples by chance (Fisher's exact test)."""
    from scipy.stats import hypergeom  # slow to import

    new = np.concatenate([matched.added, matched.after[~matched.same_label]])
    return float(hypergeom.sf(int(flagged[new].sum()) - 1, len(flagged), int(flagged.sum()), len(new)))
