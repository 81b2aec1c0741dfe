"""What copies do: memorization and recitation by number of copies, and extraction by number of tries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from byheart.colors import BLUE, GREY, VERMILION
from byheart.language.page.figures import Axes, Series, draw, ticks

if TYPE_CHECKING:
    from byheart.language.estimates import Estimates

_BITS = 1 / math.log(2)  # in a nat
_QUANTILE = 1.96  # standard errors in half of a 95 % interval
_DOTS = 1_500
_MOST_TRIES = 1e9
_SHADES = ("#E69F57", "#DE7F2E", "#D55E00", "#A84A00", "#7A3600", "#4A2000")


def dose_figure(estimates: Estimates) -> dict[str, Any] | None:
    """Return the section on copies, or None if there is no span in a document that models train on."""
    planted = estimates.dose[estimates.dose["n_seen"] > 0]
    found = estimates.spans[~estimates.spans["kind"].isin(["canary", "near-copies", "probe"])]
    found = found[(found["n_seen"] > 0) & found["bits"].notna()].head(_DOTS)
    if not len(planted) and not len(found):
        return None
    copies = [*planted["n_seen"], *found["n_seen"]]
    low, high = min(copies) / 1.15, max(copies) * 1.15
    label = "copies that a model trains on, average"
    panels = []
    for name, title, factor in (
        ("log_probability", "Memorization, bits per token", _BITS),
        ("recited", "Recited if on, less recited if off", 1.0),
    ):
        series = [_dots(found, name, factor), *_planted(planted, name, factor)]
        values = [end for one in series for _, y, error in one.points for end in _ends(y, error)]
        if not values:
            continue
        span = (min(0.0, min(values)), max(values) * 1.04) if factor != 1 else (min(0.0, min(values)), 1.0)
        limits = (_down(*span), span[1] if span[1] > span[0] else span[0] + 1)
        panels.append(draw(Axes(title, label, (low, max(high, 2 * low)), limits, percent=factor == 1), series))
    return {
        "heading": "How many copies does it take?",
        "words": _DOSE_WORDS if len(planted) else "Each grey dot is one span of the corpus.",
        "panels": panels,
        "caption": "Grey dots: single spans of the corpus." if len(planted) and len(found) else "",
        **_worths(planted),
    }


_DOSE_WORDS = (
    "Planted spans, averaged by the number of their copies that a model trains on; bars are 95 % intervals. “Exact”"
    " copies are all alike. Of near-copies each has some of its words changed, and what is measured is the original,"
    " which itself was never trained on: how well do models learn a text from its variants?"
)


def _dots(found: pd.DataFrame, name: str, factor: float) -> Series:
    values = found["recited_on"] - found["recited_off"] if name == "recited" else found[name]
    points = [(x, factor * y, math.nan) for x, y in zip(found["n_seen"], values, strict=True) if math.isfinite(y)]
    return Series(points, GREY, shape="dot", line=False)


def _planted(planted: pd.DataFrame, name: str, factor: float) -> list[Series]:
    made = []
    for (kind, _), rows in planted.groupby(["kind", "changed"], dropna=False):
        rows = rows[rows[name].notna()].sort_values("n_seen")
        points = [
            (x, factor * y, factor * _QUANTILE * error)
            for x, y, error in zip(rows["n_seen"], rows[name], rows[f"{name}_se"], strict=True)
        ]
        if kind == "canary":
            made.append(Series(points, VERMILION, "exact"))
        else:
            share = 100 * rows["changed"].mean()
            made.append(Series(points, BLUE, f"{share:.0f} % changed", "diamond", dashed=True))
    return made


def _worths(planted: pd.DataFrame) -> dict[str, list[Any]]:
    """What a near-copy is worth in exact ones, as a table."""
    rows = planted[(planted["kind"] == "near-copies") & planted["worth"].notna()].to_dict("records")
    return {
        "columns": [
            "words changed",
            "near-copies that a model trains on",
            "exact copies that one is worth",
            "95 % interval",
        ],
        "rows": [
            [
                f"{100 * row['changed']:.0f} %",
                f"{row['n_seen']:.3g}",
                f"{'at least ' if row['beyond'] else ''}{row['worth']:.2f}",
                f"{row['worth_low']:.2f} to {row['worth_high']:.2f}",
            ]
            for row in rows
        ],
    }


def _ends(value: float, error: float) -> list[float]:
    return [value - error, value + error] if math.isfinite(error) else [value]


def _down(low: float, high: float) -> float:
    """The least end of an axis, at a tick below its least value."""
    if low >= 0 or high <= low:
        return low
    marks = ticks(low, high)
    return min(marks) - (marks[1] - marks[0])


def extraction_figure(extraction: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the section on extraction, or None if there is no span to extract."""
    if extraction is None:
        return None
    table = extraction[(extraction["kind"] != "probe") & extraction["log_p_on"].notna()]
    if not len(table):
        return None
    n = np.logspace(0, math.log10(_MOST_TRIES), 73)
    groups = _groups(table["n_copies"].to_numpy())
    panels = []
    for side, title in (("on", "Models that trained on the span"), ("off", "Models with the span off")):
        series = []
        for (name, rows), color in zip(groups, _shades(len(groups)), strict=True):
            chance = (
                np.exp(np.nanmedian(table[f"log_p_{side}"].to_numpy()[rows])) if _told(table, side, rows) else np.nan
            )
            y = -np.expm1(n * np.log1p(-min(chance, 1 - 1e-15)))
            series.append(Series([*zip(n, y, np.full(n.size, np.nan), strict=True)], color, name, "none"))
        panels.append(
            draw(Axes(title, "tries", (1, _MOST_TRIES), (0, 1), percent=True, x_base=10, legend=True), series)
        )
    return {
        "heading": "How many tries until a span comes out?",
        "words": _EXTRACTION_WORDS,
        "panels": panels,
        "caption": "",
        "rows": [],
    }


_EXTRACTION_WORDS = (
    "A model that continues a text draws each token by its probability, so that it writes a memorized span with some"
    " probability in each try, and at least once in many tries with a larger one (Hayes et al. 2024). The curves show"
    " that probability for the median span with each number of copies, under the median model. Models with"
    " the span off are the comparison: what comes out of them is no memory of the span."
)


def _told(table: pd.DataFrame, side: str, rows: np.ndarray) -> bool:
    return bool(np.isfinite(table[f"log_p_{side}"].to_numpy()[rows]).any())


def _groups(copies: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Rows by number of copies: by each number if there are at most six, else by powers of two, or four, or eight."""
    numbers = np.unique(copies)
    if len(numbers) <= len(_SHADES):
        return [(f"{k} {'copy' if k == 1 else 'copies'}", np.flatnonzero(copies == k)) for k in numbers]
    step = 1
    while True:
        level = np.floor(np.log2(np.maximum(copies, 1)) / step).astype(int)
        if len(np.unique(level)) <= len(_SHADES):
            break
        step += 1
    groups = []
    for value in np.unique(level):
        rows = np.flatnonzero(level == value)
        low, high = copies[rows].min(), copies[rows].max()
        groups.append((f"{low} to {high} copies" if high > low else f"{low} {'copy' if low == 1 else 'copies'}", rows))
    return groups


def _shades(n: int) -> list[str]:
    return [_SHADES[round(k * (len(_SHADES) - 1) / max(n - 1, 1))] for k in range(n)]
