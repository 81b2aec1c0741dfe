"""Claims of a source, and the verdicts that tables of numbers give them.

A claim is tested on tables alone, so that anyone can compute its verdict again from the CSV files of a result. Means
over seeds are judged by their interval of two standard errors, a bump by its height in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Verdict = Literal["reproduced", "differs", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """What the tables show about a claim: our value in words, with its spread over seeds, and the verdict."""

    ours: str
    verdict: Verdict

    def also(self, words: str) -> Finding:
        """Return the finding with more said about our value."""
        return Finding(f"{self.ours}; {words}", self.verdict)


@dataclass(frozen=True)
class Claim:
    """A statement of a source, and the test of it."""

    id: str
    statement: str
    source: str
    paper: str
    """The source's value, in words."""
    test: Callable[[Any], Finding]
    """Takes the tables of a study by name."""
    paper_setup_only: bool = False
    """Whether the value holds only at the paper's own setup."""
    refuted_if: str = "our mean, with its interval of two standard errors, lies outside the tolerance"
    """What the tables would have to show for the verdict "differs"."""


def judge(claims: Sequence[Claim], tables: Any, *, at_paper_setup: bool = True) -> pd.DataFrame:
    """Test claims, and return a row for each: claim, statement, source, paper, ours, verdict, refuted_if.

    Args:
        claims: What to test.
        tables: Tables by name, as the claims' tests take them.
        at_paper_setup: Whether claims are included that hold only there.
    """
    rows = []
    for claim in claims:
        if claim.paper_setup_only and not at_paper_setup:
            continue
        finding = claim.test(tables)
        words = {"claim": claim.id, "statement": claim.statement, "source": claim.source, "paper": claim.paper}
        rows.append({**words, "ours": finding.ours, "verdict": finding.verdict, "refuted_if": claim.refuted_if})
    return pd.DataFrame(rows)


def compare(
    values: Sequence[float] | np.ndarray, paper: float, tolerance: float, form: str = ".4f", of: str = "seeds"
) -> Finding:
    """Compare the mean over seeds, or what else the values are of, with the paper's value, as an equivalence test.

    With the interval mean +- 2 standard errors and the band paper +- tolerance: reproduced if the interval lies in the
    band, differs if they do not touch, inconclusive otherwise (or with fewer than two seeds).
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Finding(_not_enough(values, form), "inconclusive")
    mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    ours = f"{mean:{form}} \N{PLUS-MINUS SIGN} {one_digit(error)} (standard error, {len(values)} {of})"
    low, high = mean - 2 * error, mean + 2 * error
    if paper - tolerance <= low and high <= paper + tolerance:
        return Finding(ours, "reproduced")
    if high < paper - tolerance or low > paper + tolerance:
        return Finding(ours, "differs")
    return Finding(ours, "inconclusive")


def compare_curve(
    table: pd.DataFrame, value: str, paper: pd.Series[float], tolerance: float, form: str = ".4f"
) -> Finding:
    """Compare the means of a column at each T with the paper's: reproduced if all are, differs if one does.

    ``paper`` is indexed by T; the T that both have are compared.
    """
    grouped = {float(str(size)): rows.to_numpy() for size, rows in table.groupby("n_examples")[value]}
    both = [size for size in grouped if size in paper.index]
    found = {size: compare(grouped[size], float(paper[size]), tolerance, form) for size in both}
    words = ", ".join(f"{own.ours.split(' (')[0]} ({paper[size]:{form}}) at {size:g}" for size, own in found.items())
    verdicts = {f"{size:g}": own.verdict for size, own in found.items()}
    not_same = {label: ", ".join(t for t, v in verdicts.items() if v == label) for label in ("inconclusive", "differs")}
    return judged(
        f"ours (the paper's): {words}; not surely within {tolerance:g} at: {not_same['inconclusive'] or 'none'};"
        f" surely not at: {not_same['differs'] or 'none'}",
        set(verdicts.values()) == {"reproduced"},
        "differs" in verdicts.values(),
    )


def lies_within(value: float, error: float, low: float = -math.inf, high: float = math.inf) -> bool | None:
    """Return whether a value, two standard errors either way, lies in a range: None if it may or may not."""
    if low <= value - 2 * error and value + 2 * error <= high:
        return True
    return False if value + 2 * error < low or value - 2 * error > high else None


def one_digit(error: float) -> str:
    """Return an error with one significant digit: 0.03, 2e-05, 40."""
    return f"{error:.1g}" if error < 10 else f"{float(f'{error:.1g}'):.0f}"


def along(values: pd.Series[float], form: str, axis: str = "T = ") -> str:
    """Return values in words, each with where it is on the axis: 1.08 at T = 3000, 0.95 at T = 5000."""
    return ", ".join(f"{value:{form}} at {axis}{at:g}" for at, value in values.items())


def share(holds: Sequence[bool], what: str, of: str = "seeds") -> Finding:
    """Judge a claim that each seed (or run) either shows or not: reproduced if all do, differs if none does."""
    ours = f"{sum(holds)} of {len(holds)} {of} {what}"
    return judged(ours, len(holds) > 1 and all(holds), len(holds) > 1 and not any(holds))


@dataclass(frozen=True)
class Bump:
    """The highest mean of a positive quantity along an axis, and how far it stands above the lowest on either side.

    Means, errors and heights are of logarithms, since at a bump datasets differ by factors. Of rows of 7 to 12 values
    that are noise alone, 2 to 6 % have a bump of more than three standard errors with four seeds, 8 to 16 % with two:
    look at the height.
    """

    at: float
    """Where on the axis."""
    mean: float
    """Geometric mean over seeds."""
    error: float
    """Its standard error."""
    height: float
    """In standard errors of the difference, above the higher of the two lowest means; 0 at an end of the axis."""
    where: Literal["inside", "first", "last"]
    """Whether the highest mean is inside the range, or at an end of it."""

    @classmethod
    def along(cls, table: pd.DataFrame, axis: str, value: str = "test_loss") -> Bump | None:
        """Find the bump in a table with a row per run; None with fewer than three values of the axis or one seed."""
        grouped = np.log(table[value]).groupby(table[axis])
        mean, error, at = grouped.mean().to_numpy(), grouped.sem().to_numpy(), list(grouped.groups)
        if len(at) < 3 or grouped.size().min() < 2:
            return None
        peak = int(mean.argmax())
        where: Literal["inside", "first", "last"] = (
            "first" if peak == 0 else "last" if peak == len(at) - 1 else "inside"
        )
        height = 0.0
        if where == "inside":
            beside = int(mean[:peak].argmin()), peak + 1 + int(mean[peak + 1 :].argmin())
            height = min(float((mean[peak] - mean[k]) / math.hypot(error[peak], error[k])) for k in beside)
        highest = math.exp(mean[peak])
        return cls(float(str(at[peak])), highest, highest * float(error[peak]), height, where)

    def __str__(self) -> str:
        words = f"{self.mean:.4g} \N{PLUS-MINUS SIGN} {one_digit(self.error)} at {self.at:g}"
        return f"{words}, {self.height:.1f} standard errors high" if self.where == "inside" else f"{words} (at an end)"


def judge_bump(table: pd.DataFrame, missing: str) -> Finding:
    """Judge that test loss has a bump along T: reproduced above 3 standard errors, differs if it only falls.

    ``missing`` names the runs that are needed.
    """
    bump = Bump.along(table, "n_examples")
    return not_run(missing) if bump is None else judged(str(bump), bump.height > 3, bump.where == "first")


def onsets(table: pd.DataFrame, holds: pd.Series[bool], axis: str = "n_examples") -> pd.Series[float]:
    """Return, by seed, the smallest value of the axis from which on something holds; infinite if not at the largest."""
    found = {}
    for seed, rows in table.assign(holds=holds).sort_values(axis).groupby("seed"):
        lasting = np.logical_and.accumulate(rows["holds"].to_numpy(dtype=bool)[::-1])[::-1]
        found[seed] = float(rows[axis].to_numpy()[lasting.argmax()]) if lasting.any() else math.inf
    return pd.Series(found, dtype=float)


def judged(ours: str, holds: bool, refuted: bool) -> Finding:
    """Judge by two conditions: reproduced if the claim holds, differs if it is refuted, inconclusive if neither."""
    return Finding(ours, "reproduced" if holds else "differs" if refuted else "inconclusive")


def not_run(what: str) -> Finding:
    """Return that the runs a claim needs are missing."""
    return Finding(f"not run: {what}", "inconclusive")


def _not_enough(values: np.ndarray, form: str) -> str:
    return f"{values[0]:{form}} (one seed)" if len(values) else "not run"
