"""The audit as one HTML page that needs no network: for a reader who decides, and one who looks at every example."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from byheart import page
from byheart.network.listed import Picture
from byheart.network.score_table import scores_from

if TYPE_CHECKING:
    from byheart.network.audit import Audit

_FLAGGED, _OTHERS, _UNUSED = "#D55E00", "#0072B2", "#d9dce1"
_RESULTS = {  # what the scores are turned into
    "score": "The ranking of this page; larger means more memorized.",
    "probability": "That its memorization is above 0.25: models trained without it miss it that much more often.",
}


def write_page(
    audit: Audit,
    path: str | Path,
    *,
    title: str,
    label_names: Sequence[str] = (),
) -> Path:
    """Write the page of an audit, and return its path.

    Args:
        audit: What was found.
        path: Of the page, replaced if it exists.
        title: Its heading.
        label_names: Of the classes; default their numbers.

    Raises:
        OSError: If the page cannot be written.
    """
    table = audit.table
    ranks = table["score"].rank(ascending=False, method="first").astype(int)
    scores = scores_from(audit.evidence)
    columns = {column for score in scores for column in score.columns(audit.layers)}
    sortable = ["score", *(name for name in table if name in columns or name == "probability")]
    examples = [
        _example(audit, int(i))
        | {
            "rank": int(ranks[i]),
            "flagged": bool(table["flagged"][i]),
            "scores": {name: _finite(table[name][i]) for name in sortable},
            **{name: _cell(table, name, i) for name in ("prediction", "probability", "estimate", "low", "high")},
            "nearest": [_example(audit, int(j)) for j in near],
        }
        for i, near in zip(audit.listed, audit.neighbours, strict=True)
    ]
    data = {
        "n_examples": len(table),
        "label_names": [str(name) for name in label_names],
        "sortable": sortable,
        "examples": examples,
    }
    meanings = _results(audit) | {score.name: score.sentence for score in scores}
    settings = {"score": audit.score_name, **audit.provenance}
    return page.write_page(
        Path(path),
        "network/page/page.html",
        style=page.asset("network/page/page.css"),
        scripts=[page.asset("network/page/page.js")],
        data=data,
        kind="byheart audit",
        title=title,
        summary=_summary(audit),
        facts=_facts(audit),
        charts=_charts(audit),
        budget=_budget(audit),
        shown_note=(
            f"{len(audit.listed):,} of {len(table):,} examples are on this page: those with the largest scores"
            f" ({audit.score_name.replace('_', ' ')}), and all that are flagged."
        ),
        notes=[*audit.notes, *_LIMITS],
        tables={"What each score means": meanings, "Versions and settings": settings},
    )


_LIMITS = (
    "The audit looks at one trained network. Training again, with another seed, memorizes other examples: memorization"
    " is a property of the training procedure on these data, and one network shows one draw of it.",
    "A high score does not say why: wrong labels, rare kinds and hard examples all stand out. Look at the examples.",
    "That an example is memorized does not say that it can be extracted from the network.",
)


def _summary(audit: Audit) -> list[str]:
    table, n = audit.table, len(audit.table)
    flagged = int(table["flagged"].sum())
    first = (
        f"This network was trained on {n:,} examples. Some it answers by what it learned from all others, some only"
        " because it saw them: those it knows by heart."
    )
    if "held_out" in audit.evidence:
        p = table["probability"].to_numpy(dtype=float)
        expected, spread = p.sum(), 2 * math.sqrt((p * (1 - p)).sum())
        low, high = max(expected - spread, 0), expected + spread
        second = (
            f"About {expected:,.0f} of them are known by heart ({low:,.0f} to {high:,.0f} if the probabilities are"
            f" right), and {flagged:,} are flagged below as more likely so than not."
        )
    else:
        second = (
            f"The {flagged:,} flagged below are the most likely ones. This is a ranking: how many are memorized cannot"
            " be told without models trained without some of the examples."
        )
    return [first, second]


def _facts(audit: Audit) -> list[tuple[str, str, str]]:
    table = audit.table
    facts = [("training examples", f"{len(table):,}", "")]
    facts.append(("flagged", f"{int(table['flagged'].sum()):,}", f"{table['flagged'].mean():.1%} of all"))
    if "classes" in audit.evidence:
        wrong = int((table["prediction"] != table["label"]).sum())
        facts.append(("answered wrongly now", f"{wrong:,}", f"{wrong / len(table):.1%} of all"))
    for layer, held, others, _ in _rows(audit.budget):
        share = held / max(held + others, 1e-12)
        facts.append((f"dimensions that flagged hold, {layer}", f"{held:.1f}", f"{share:.1%} of those in use"))
    return facts


def _results(audit: Audit) -> dict[str, str]:
    return _RESULTS if "held_out" in audit.evidence else {"score": _RESULTS["score"]}


def _charts(audit: Audit) -> list[dict[str, Any]]:
    meanings = dict(_results(audit))
    for score in scores_from(audit.evidence):
        if score.name in ("loss", "maximal_dimensionality", "mean_loss"):
            meanings |= dict.fromkeys(score.columns(audit.layers), score.sentence)
    charts = []
    for name, meaning in meanings.items():
        values = audit.table[name].to_numpy(dtype=float)
        caption = f"{name.replace('_', ' ')}: {meaning} Orange: flagged. Counts on a log scale."
        charts.append({"svg": _histogram(values, audit.table["flagged"].to_numpy()), "caption": caption})
    return charts


def _histogram(values: np.ndarray, flagged: np.ndarray, n_bins: int = 40) -> Markup:
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


def _budget(audit: Audit) -> list[dict[str, Any]]:
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
            f"{layer}: of {width:,} dimensions, {n_flagged:,} flagged examples hold {held:.1f} (orange), the other"
            f" {len(audit.table) - n_flagged:,} hold {others:.1f} (blue), and {unused:.1f} are not in use (grey)."
        )
        picture = Markup(f'<svg viewBox="0 0 800 30" role="img">{"".join(shapes)}</svg>')
        bars.append({"svg": picture, "caption": caption})
    return bars


def _rows(budget: pd.DataFrame) -> list[tuple[str, float, float, int]]:
    return list(zip(*(budget[name].tolist() for name in ("layer", "flagged", "others", "n_flagged")), strict=True))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#5f6368" text-anchor="{anchor}">{words}</text>'


def _example(audit: Audit, index: int) -> dict[str, Any]:
    """An example's number, label, and picture or text."""
    shown = audit.shown[index]
    look = {"text": shown} if isinstance(shown, str) else {"image": _png(shown)}
    return {"index": index, "label": _cell(audit.table, "label", index), **look}


def _png(pixels: Picture) -> str:
    """An image as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _cell(table: pd.DataFrame, name: str, index: int) -> float | int | None:
    if name not in table:
        return None
    value = table[name][index]
    return int(value) if isinstance(value, (int, np.integer)) else _finite(value)


def _finite(value: Any) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
