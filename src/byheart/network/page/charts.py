"""Drawings of the page as SVG: how scores are spread, and who holds a layer's dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from byheart.colors import BLUE, LIGHT_GREY, VERMILION
from byheart.network.score_table import scores_from

if TYPE_CHECKING:
    from byheart.network.audit import Audit

_FLAGGED, _OTHERS, _UNUSED = VERMILION, BLUE, LIGHT_GREY


def score_charts(audit: Audit, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how some of the scores are spread, each with a caption."""
    meanings = {"probability": "That its memorization is above 0.25."} if "held_out" in audit.evidence else {}
    for score in scores_from(audit.evidence):
        if score.name in ("loss", "maximal_dimensionality", "mean_loss"):
            meanings |= dict.fromkeys(score.columns(audit.layers), score.sentence)
    charts = []
    for name, meaning in meanings.items():
        values = audit.table[name].to_numpy(dtype=float)
        title = titles[name][0].upper() + titles[name][1:]
        picture = histogram(values, audit.table["flagged"].to_numpy())
        charts.append({"svg": picture, "caption": f"{title}. {meaning}"})
    return charts


def histogram(values: np.ndarray, flagged: np.ndarray, n_bins: int = 40) -> Markup:
    """Counts on a log scale; values that span more than two decades are binned by their logarithm."""
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low > 100
    x = np.log10(values) if log else values
    edges = np.linspace(x.min(), x.max() if x.max() > x.min() else x.min() + 1, n_bins + 1)
    every, those = (np.histogram(part, edges)[0] for part in (x, x[flagged]))
    width, height, left, bottom = 400, 190, 46, 34
    top = math.log10(max(int(every.max()), 1)) + 0.15
    step = (width - left - 8) / n_bins
    shapes = []
    for k, (total, part) in enumerate(zip(every, those, strict=True)):
        for count, color in ((total, _OTHERS), (part, _FLAGGED)):
            if count:
                tall = (math.log10(count) + 0.15) / (top + 0.15) * (height - bottom - 8)
                shapes.append(
                    f'<rect x="{left + k * step:.1f}" y="{height - bottom - tall:.1f}" width="{step - 0.8:.1f}"'
                    f' height="{tall:.1f}" fill="{color}"/>'
                )
    for power in range(math.floor(top) + 1):
        y = height - bottom - (power + 0.15) / (top + 0.15) * (height - bottom - 8)
        shapes.append(_text(left - 6, y + 4, f"{10**power:,}", "end"))
    for where in (0.0, 0.5, 1.0):
        value = edges[0] + where * (edges[-1] - edges[0])
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[where]
        shapes.append(
            _text(left + where * (width - left - 8), height - 14, f"{10**value if log else value:.3g}", anchor)
        )
    axis = f'<line x1="{left}" x2="{width - 8}" y1="{height - bottom}" y2="{height - bottom}" stroke="#5f6368"/>'
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(shapes)}{axis}</svg>')


def budget_bars(audit: Audit) -> list[dict[str, Any]]:
    """Return by layer how many of its dimensions the flagged examples hold, as a bar with a caption."""
    bars = []
    for layer, held, others, n_flagged in _rows(audit.budget):
        width = audit.width[layer]
        unused = max(width - held - others, 0.0)
        shapes, at = [], 0.0
        for value, color in ((held, _FLAGGED), (others, _OTHERS), (unused, _UNUSED)):
            length = 800 * value / width
            shapes.append(f'<rect x="{at:.1f}" y="2" width="{length:.1f}" height="26" fill="{color}"/>')
            at += length
        caption = (
            f"{layer}: of {width:,} dimensions, {n_flagged:,} memorized examples hold {held:.1f} (orange), the other"
            f" {len(audit.table) - n_flagged:,} hold {others:.1f} (blue), and {unused:.1f} are not in use (grey)."
        )
        picture = Markup(f'<svg viewBox="0 0 800 30" role="img">{"".join(shapes)}</svg>')
        bars.append({"svg": picture, "caption": caption})
    return bars


def _rows(budget: pd.DataFrame) -> list[tuple[str, float, float, int]]:
    return list(zip(*(budget[name].tolist() for name in ("layer", "flagged", "others", "n_flagged")), strict=True))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#5f6368" text-anchor="{anchor}">{words}</text>'
