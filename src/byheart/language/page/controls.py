"""Controls of the page: what is measured where nothing was learned, what masking does nearby, and reliability."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from byheart.language.design import Design
    from byheart.language.estimates import Estimates

_BITS = 1 / math.log(2)  # in a nat
_QUANTILE = 1.96  # standard errors in half of a 95 % interval
_SCORES = {"log_probability": "bits per token", "accuracy": "tokens right"}


def controls(design: Design, estimates: Estimates) -> list[dict[str, Any]]:
    """Return the controls that there are data for, each with a heading, words, and perhaps a table."""
    found = [_chance(design, estimates), _probes(estimates), _rest(estimates), _reliability(estimates)]
    return [control for control in found if control]


def _chance(design: Design, estimates: Estimates) -> dict[str, Any] | None:
    table = estimates.chance[estimates.chance["n_spans"] > 0]
    if not len(table):
        return None
    names = {"probe": "probes", "canary, off": "canaries that are off"}
    return {
        "heading": "What models say of text they never learned",
        "words": (
            "Probes are passages of the planted kind that no model ever trains on. Canaries that are off should look"
            " just like them: if they were more probable, something of them would leak into models that should not"
            " learn them. Models that know nothing would spread their guesses evenly over all"
            f" {design.documents.vocabulary:,} tokens, which costs {math.log2(design.documents.vocabulary):.1f} bits"
            " per token; trained models are often worse than that on random words, since they expect real ones."
        ),
        "columns": ["passages", "number", "cost, bits per token", "spread over passages", "tokens right"],
        "rows": [
            [
                names.get(row["what"], row["what"]),
                f"{row['n_spans']:,}",
                _number(-row["log_probability"] * _BITS),
                _number(row["log_probability_spread"] * _BITS),
                _percent(row["accuracy"]),
            ]
            for row in table.to_dict("records")
        ],
    }


def _probes(estimates: Estimates) -> dict[str, Any] | None:
    table = estimates.spans[(estimates.spans["kind"] == "probe") & estimates.spans["bits_se"].notna()]
    if not len(table):
        return None
    outside = (table["bits"].abs() > _QUANTILE * table["bits_se"]).mean()
    return {
        "heading": "Memorization of what was never trained on",
        "words": (
            "Probes are switched on and off like other spans, which changes nothing, so that their memorization should"
            f" be 0. Of {len(table):,} probes, {100 * outside:.0f} % have a 95 % interval without 0, where about 5 %"
            f" are expected; their mean is {_number(table['bits'].mean())} bits."
        ),
        "columns": [],
        "rows": [],
    }


def _rest(estimates: Estimates) -> dict[str, Any] | None:
    values = estimates.rest["rest"].dropna() * _BITS
    if not len(values):
        return None
    low, high = np.percentile(values, [5, 95])
    return {
        "heading": "What a span does to the words around it",
        "words": (
            "Switching a span off should not change how well the rest of its documents is learned. Over"
            f" {len(values):,} spans, switching one on changes the other tokens of its documents by"
            f" {_number(values.median())} bits per token in the median ({_number(low)} to {_number(high)} for nine"
            " spans in ten)."
        ),
        "columns": [],
        "rows": [],
    }


def _reliability(estimates: Estimates) -> dict[str, Any] | None:
    table = estimates.reliability[estimates.reliability["reliability"].notna()]
    if not len(table):
        return None
    return {
        "heading": "Would other models say the same?",
        "words": (
            "Reliability compares two halves of the models: 1 means that another set of as many models would rank"
            " documents or spans in the same way, 0 that it would rank them in a way that has nothing to do with this"
            " one. The last column divides the standard errors on this page by those that the halves show: near 1 they"
            " are right, well below 1 they are too small."
        ),
        "columns": ["what", "measured in", "number", "reliability", "stated error / error seen"],
        "rows": [
            [
                row["unit"],
                _SCORES.get(row["score"], row["score"]),
                f"{row['n_units']:,.0f}",
                _number(row["reliability"]),
                _number(row["error_ratio"]),
            ]
            for row in table.to_dict("records")
        ],
    }


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    return (
        f"{value:.2f}".replace("-", "\u2212")
        if abs(value) >= 0.01 or value == 0
        else f"{value:.1g}".replace("-", "\u2212")
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "n/a"
