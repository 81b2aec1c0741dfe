"""An audit as one figure for a paper: how memorization is spread, beside the worst examples."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from byheart.colors import BLUE, LIGHT_GREY, VERMILION
from byheart.network.page.summary import worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from byheart.network.audit import Audit

_FLAGGED, _OTHERS = VERMILION, BLUE
_N_COLUMNS = 6
_SIZE = 8  # points


class NotebookFigure(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def draw(audit: Audit) -> Figure:
    """Return the figure; see ``Audit.plot``."""
    figure = NotebookFigure(figsize=(7.2, 2.9), layout="constrained", dpi=150)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.35), wspace=0.02).flat
    axes = left.subplots()
    flagged = audit.table["flagged"].to_numpy()
    if "held_out" in audit.evidence:
        _estimates(axes, audit)
    else:
        _histogram(axes, audit.table["score"].to_numpy(dtype=float), flagged)
    axes.tick_params(labelsize=_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=_SIZE - 1, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    lists = [box for box in worst(audit, audit.label_names) if box["examples"]]
    for part, box in zip(right.subfigures(max(len(lists), 1), 1, squeeze=False).flat, lists, strict=False):
        _examples(part, audit, box)
    return figure


def _estimates(axes: Axes, audit: Audit) -> None:
    """Every example's estimate with its interval, from the largest on."""
    table = audit.table.sort_values("estimate", ascending=False)
    places = np.arange(1, len(table) + 1)
    axes.fill_between(places, table["low"], table["high"], color=LIGHT_GREY, lw=0, label="95 % interval")
    for those, color, words in ((~table["flagged"], _OTHERS, "others"), (table["flagged"], _FLAGGED, "memorized")):
        named = f"{words} ({those.sum():,})"
        axes.plot(places[those], table["estimate"][those], ".", ms=2.5, color=color, label=named, rasterized=True)
    axes.set_xscale("log")
    axes.set_xlabel("examples, the most memorized first", fontsize=_SIZE)
    axes.set_ylabel("memorization (estimate)", fontsize=_SIZE)


def _histogram(axes: Axes, values: Float[np.ndarray, " n"], flagged: Bool[np.ndarray, " n"]) -> None:
    """Counts of scores, on a log scale; the scores on one too if they span more than two decades."""
    log = values.min() > 0 and values.max() / values.min() > 100
    edges = np.histogram_bin_edges(np.log10(values) if log else values, 40)
    edges = 10**edges if log else edges
    names = [f"memorized ({flagged.sum():,} likeliest)", f"others ({(~flagged).sum():,})"]
    parts = [values[flagged], values[~flagged]]
    axes.hist(parts, edges.tolist(), stacked=True, color=[_FLAGGED, _OTHERS], label=names)
    axes.set_yscale("log")
    if log:
        axes.set_xscale("log")
    axes.set_xlabel("score of memorization", fontsize=_SIZE)
    axes.set_ylabel("examples", fontsize=_SIZE)


def _examples(part: SubFigure, audit: Audit, box: dict[str, Any]) -> None:
    """The first examples of a list in a row, or below each other if they are texts."""
    part.suptitle(box["heading"], fontsize=_SIZE, x=0.01, ha="left")
    pictures = {index: _picture_of(audit.shown[index]) for index in (each["index"] for each in box["examples"])}
    if all(picture is not None for picture in pictures.values()):
        for axes, each in zip(part.subplots(1, _N_COLUMNS).flat, box["examples"], strict=False):
            axes.imshow(pictures[each["index"]], cmap="gray", vmin=0, vmax=255)
            axes.set_title(_cut(each["caption"].replace(", may be ", "\nmay be "), 18), fontsize=_SIZE - 2, pad=2)
        for axes in part.axes:
            axes.set_axis_off()
        return
    axes = part.subplots()
    axes.set_axis_off()
    words = [f"{each['caption']}: {each['text']}" for each in box["examples"][: _N_COLUMNS - 1]]
    lines = "\n".join(textwrap.shorten(line.replace("$", r"\$"), 84, placeholder=" ...") for line in words)
    axes.text(0, 1, lines, fontsize=_SIZE - 2, va="top", linespacing=1.5, transform=axes.transAxes)


def _picture_of(shown: Any) -> np.ndarray | None:
    picture = shown[0] if isinstance(shown, tuple) else shown
    return None if isinstance(picture, str) else picture


def _cut(words: str, width: int) -> str:
    lines = [line if len(line) <= width else f"{line[: width - 3]}..." for line in words.splitlines()]
    return "\n".join(lines).replace("$", r"\$")
