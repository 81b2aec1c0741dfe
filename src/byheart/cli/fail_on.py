"""When a check in continuous integration fails: conditions on an audit's examples, or on the changes between two."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from byheart.network.changes import KINDS, NEWLY, SHOWN
from byheart.network.score_table import SCORES, Evidence
from byheart.network.verdicts import VERDICTS

What = Literal["audit", "diff"]
_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_EXAMPLES = {
    "audit": '"other_class>0 share>0.02"',
    "diff": '"p_value<0.01" or "change==added flagged_after>0 count>10"',
}
_FROM_HELD_OUT = ("probability", "estimate", "low", "high")
_PLAIN = (
    "score",
    *_FROM_HELD_OUT,
    "flagged",
    "label",
    "target",
    "prediction",
    "other_label",
    "copies",
)  # beside the scores by name
_COLUMNS: Mapping[What, tuple[str, ...]] = {
    "audit": (*_PLAIN, *(score.name for score in SCORES.values() if "inputs" not in score.evidence)),
    "diff": (*(f"{name}_{when}" for name in ("label", "flagged", *SHOWN) for when in ("before", "after")), "apart"),
}
_WORDS: Mapping[What, Mapping[str, tuple[str, ...]]] = {
    "audit": {"verdict": tuple(VERDICTS)},
    "diff": {"change": KINDS},
}
_OF_ROWS = ("count", "share")  # of the examples that meet the conditions
_FROM_NOISE = ("excess", "p_value")
_NUMBERS: Mapping[What, tuple[str, ...]] = {
    "audit": (),
    "diff": ("newly", "no_longer", "added", "removed", "relabelled", *_FROM_NOISE, "p_value_new"),
}
_RANGES = {
    **dict.fromkeys(("probability", "probability_before", "probability_after", "flagged", "flagged_before"), (0, 1)),
    **dict.fromkeys(("flagged_after", "apart", "share", "p_value", "p_value_new"), (0, 1)),
    **dict.fromkeys(("estimate", "low", "high"), (-1, 1)),
    **dict.fromkeys((*_OF_ROWS[:1], "newly", "no_longer", "added", "removed", "relabelled"), (0, np.inf)),
}
_EVIDENCE: Mapping[Evidence, str] = {
    "held_out": "a held-out run",
    "log": "a log or checkpoints",
    "checkpoints": "checkpoints",
    "curvature": "curvature=True",
}
"""What an audit's columns may need that its function returns, in words."""


@dataclass(frozen=True)
class Condition:
    """A comparison with a number, or with a word."""

    name: str
    comparison: str
    value: float | str

    def holds(self, values: pd.Series | float) -> np.ndarray:
        """Return where it holds; a missing value meets no condition."""
        if isinstance(self.value, str):
            is_word: np.ndarray = np.asarray(values, dtype=object) == self.value
            return is_word if self.comparison == "==" else ~is_word
        numbers = np.asarray(values)
        if isinstance(values, pd.Series):
            numbers = values.astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        found: np.ndarray = ~np.isnan(numbers) & _OPERATORS[self.comparison](numbers, self.value)
        return found


@dataclass(frozen=True)
class FailOn:
    """When a check fails: if all conditions hold.

    Attributes:
        text: As it was given.
        what: What it is about: an audit, or the changes between two.
        of_examples: Conditions on columns; an example counts that meets all.
        of_counts: On how many examples count, and their share of all; at least one must count if there are none.
        of_numbers: On what two audits say as a whole, such as p_value.
    """

    text: str
    what: What
    of_examples: tuple[Condition, ...]
    of_counts: tuple[Condition, ...]
    of_numbers: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: str, what: What = "audit") -> FailOn:
        """Read conditions such as ``"other_class>0 share>0.02"``, which are checked as far as words can be.

        ``NAME:layer`` is a column if NAME is. In words, _ stands for a space.

        Raises:
            ValueError: If it is no such text, a column cannot be, or a condition holds always or never.
        """
        conditions = [cls._condition(part, text, what) for part in text.split()]
        of_counts = tuple(condition for condition in conditions if condition.name in _OF_ROWS)
        of_numbers = tuple(condition for condition in conditions if condition.name in _NUMBERS[what])
        of_examples = tuple(c for c in conditions if c not in of_counts and c not in of_numbers)
        if not (of_examples or of_numbers) or (of_counts and not of_examples):
            raise ValueError(f"fail_on: received {text!r}, accepted: a condition on a column, {_EXAMPLES[what]}")
        return cls(text, what, of_examples, of_counts, of_numbers)

    @staticmethod
    def _condition(part: str, text: str, what: What) -> Condition:
        found = re.fullmatch(r"([A-Za-z_][\w:.]*)(>=|<=|==|!=|>|<)([^\s<>=!]+)", part)
        if found is None:
            raise ValueError(f"fail_on: received {text!r}, accepted: conditions such as {_EXAMPLES[what]}")
        name, comparison, given = found[1], found[2], found[3]
        if (words := _WORDS[what].get(name)) is not None:
            value = given.replace("_", " ")
            if value not in words or comparison not in ("==", "!="):
                accepted = ", ".join(f"{name}=={word.replace(' ', '_')}" for word in words)
                raise ValueError(f"fail_on: received {part!r}, accepted: {accepted}, or with !=")
            return Condition(name, comparison, value)
        known = (*_COLUMNS[what], *_WORDS[what], *_NUMBERS[what], *_OF_ROWS)
        if name.split(":")[0] not in known:
            raise ValueError(f"fail_on: received {name!r}, accepted: {', '.join(known)}")
        if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", given) is None:
            raise ValueError(f"fail_on: received {part!r}, accepted: {name}{comparison} and a number")
        low, high = _RANGES.get(name, (-np.inf, np.inf))
        condition = Condition(name, comparison, float(given))
        if np.isfinite(low) and comparison not in ("==", "!="):
            ends = bool(condition.holds(low)), bool(condition.holds(high))
            if ends[0] == ends[1]:
                raise ValueError(
                    f"fail_on: received {part!r}, which {'always' if ends[0] else 'never'} holds, accepted: a number"
                    f" from {low:g} to {high:g}"
                )
        return condition

    def check_evidence(self, evidence: Collection[Evidence], where: str = "") -> None:
        """Refuse conditions on what cannot be had from this evidence, before anything is computed.

        Args:
            evidence: What there is of "held_out", "log", "checkpoints" and "curvature".
            where: What the evidence is of, for the message.

        Raises:
            ValueError: If there is such a condition.
        """
        for condition in self.of_examples:
            name = re.sub("_(before|after)$", "", condition.name.split(":")[0])
            from_held_out = name in _FROM_HELD_OUT or name == "apart"
            needed = {"held_out"} if from_held_out else SCORES[name].evidence if name in SCORES else set()
            for missing in _EVIDENCE.keys() & needed - set(evidence):
                raise ValueError(
                    f"fail_on: received {condition.name!r}, but {where or 'the audit'} has no"
                    f" {_EVIDENCE[missing].removeprefix('a ')}, accepted: with {_EVIDENCE[missing]}"
                )

    def check_noise(self, n_noise: int) -> None:
        """Refuse conditions on what only further trainings tell, if there are none.

        Raises:
            ValueError: If there is such a condition.
        """
        for condition in self.of_numbers:
            if condition.name in _FROM_NOISE and not n_noise:
                raise ValueError(f"fail_on: received {condition.name!r} without --noise, accepted: with it")

    def failing(self, table: pd.DataFrame, numbers: Mapping[str, float], n_examples: int) -> str | None:
        """Return in words what was found if the check fails, else None.

        Args:
            table: Of an audit, or of changes; of changes those count that are newly memorized, unless there is a
                condition on ``change``.
            numbers: What two audits say as a whole, by name.
            n_examples: Of the (second) audit, of which the share is.

        Raises:
            ValueError: If the table lacks a column.
        """
        found = [f"{c.name} {numbers[c.name]:.3g}" for c in self.of_numbers]
        if not all(c.holds(numbers[c.name]) for c in self.of_numbers):
            return None
        if self.of_examples:
            rows = np.ones(len(table), dtype=bool)
            if self.what == "diff" and "change" not in [c.name for c in self.of_examples]:
                rows = table["change"].to_numpy() == NEWLY
            for condition in self.of_examples:
                rows &= condition.holds(self._column(table, condition.name))
            count = int(rows.sum())
            values = {"count": float(count), "share": count / n_examples}
            if not (all(c.holds(values[c.name]) for c in self.of_counts) if self.of_counts else count):
                return None
            found = [f"{count} examples ({count / n_examples:.2%} of {n_examples:,})", *found]
        return f"{', '.join(found)}, {self.text}"

    def _column(self, table: pd.DataFrame, name: str) -> pd.Series:
        if name in table and (name in _WORDS[self.what] or table[name].dtype.kind in "biuf"):
            return table[name]
        known = [str(c) for c in table if table[c].dtype.kind in "biuf" or c in _WORDS[self.what]]
        raise ValueError(f"fail_on: received {name!r}, accepted: {', '.join(known)}")
