"""One function per figure: draws tables (see ``toy.tables``) on the axes it is given and returns them.

Blue is for features, vermilion for examples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
from cycler import cycler
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from byheart.colors import BLUE, GREEN, GREY, LIGHT_BLUE, ORANGE, PURPLE, VERMILION
from byheart.toy.basins import KINDS, filled
from byheart.toy.model import Reduction
from byheart.toy.reference import paper_reference
from byheart.toy.runs import summed
from byheart.toy.tables import at_paper_setup

FEATURES, EXAMPLES, REFERENCE = BLUE, VERMILION, GREY
OF_KIND = dict(zip(KINDS, (EXAMPLES, FEATURES, GREEN, GREY), strict=True)) | {"unsettled": "black"}
_TINTS = (0.78, 0.45, 0.64, 0.3)  # shares of white in the colours of basins, in turn, so that neighbours differ
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.formatter.min_exponent": 5,  # 2 and 1000 rather than 2 x 10^0 and 10^3
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.prop_cycle": cycler(color=[BLUE, VERMILION, GREEN, PURPLE, LIGHT_BLUE, ORANGE]),
    "pdf.fonttype": 42,  # fonts whose text can be found and copied
    "savefig.dpi": 200,
    "figure.dpi": 120,
}
_TOP = 1.025  # of the test losses that the paper's axis has
_MANY_VECTORS = 60  # beyond so many, vectors are drawn as points without spokes


def runs_and_mean(
    table: pd.DataFrame,
    value: str,
    ax: Axes,
    color: str,
    label: str,
    *,
    at: Mapping[float, float] | None = None,
) -> Axes:
    """Draw a column against T: a dot per run, and the mean over seeds with its standard error.

    Args:
        table: A row per run.
        value: The column drawn.
        ax: Where to draw.
        color: Color of the dots.
        label: Words for the mean in the legend.
        at: Where each T stands on the axis; default at itself.
    """
    grouped = table.groupby("n_examples")[value]
    mean, error = grouped.mean(), grouped.sem()
    x = at or {t: t for t in mean.index}
    ax.plot([x[t] for t in table["n_examples"]], table[value], "o", ms=3.5, color=color, alpha=0.5, mew=0)
    options: dict[str, Any] = {"color": color, "lw": 1.3, "capsize": 2, "label": label}
    ax.errorbar([x[t] for t in mean.index], mean, yerr=error, **options)
    return ax


def losses(runs: pd.DataFrame, ax: Axes) -> Axes:
    """Draw test loss, summed over features, against T: every seed, the mean with its standard error, the level 1."""
    table = summed(runs)
    x = positions(table["n_examples"])
    ax.axhline(1, color="black", lw=0.8, ls="--", label="always answering 0")
    if at_paper_setup(runs):
        paper = paper_reference().query("n_examples in @x")
        hollow: dict[str, Any] = {"ms": 7, "mfc": "none", "mec": REFERENCE, "mew": 1.3}
        at = [x[t] for t in paper["n_examples"]]
        ax.plot(at, paper["test_loss"], "s", label="the paper's (read off; missing: off its scale)", **hollow)
    words = "ours: datasets (dots), their mean and its standard error"
    runs_and_mean(table, "test_loss", ax, "black", words, at=x)
    ax.set_ylabel("test loss")
    _log_axis(ax, x)
    return ax


def dimensionalities(runs: pd.DataFrame, counts: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the dimensionality of features and training examples against T, with the line m/T of regular T-gons.

    Args:
        runs: A row per run.
        counts: A table of ``dimensionality_counts``.
        ax: Where to draw.
    """
    x = positions(runs["n_examples"])
    for of, label, side, color in (
        ("feature", "features", 0.97, FEATURES),
        ("example", "training examples", 1.03, EXAMPLES),
    ):
        own = counts[counts["of"] == of]
        opacity = 1 - 0.5 ** np.minimum(own["count"], 6)  # as if so many were drawn on top of each other
        colors = [matplotlib.colors.to_rgba(color, alpha) for alpha in opacity]
        at = np.array([side * x[t] for t in own["n_examples"]])
        ax.scatter(at, own["dimensionality"], s=4, c=colors, lw=0, rasterized=True)
        ax.plot([], [], "o", ms=4, color=color, label=label)
    if at_paper_setup(runs):
        paper = paper_reference().query("n_examples in @x")
        at = np.array([x[t] for t in paper["n_examples"]])
        wide: dict[str, Any] = {"color": EXAMPLES, "lw": 4, "alpha": 0.3}
        low, high = paper["example_dim_min"], paper["example_dim_max"]
        ax.vlines(at * 1.1, low, high, label="the paper's range of examples (read off)", **wide)
        largest: dict[str, Any] = {"color": FEATURES, "ms": 8, "alpha": 0.6, "label": "the paper's largest feature"}
        ax.plot(at * 0.9, paper["feature_dim_max"], "_", **largest)
    n_hidden = int(runs["n_hidden"].iloc[0])
    finite = np.array([t for t in x if math.isfinite(t)])
    if len(finite):
        line = np.geomspace(max(finite.min(), n_hidden), finite.max(), 200)
        ax.plot(line, n_hidden / line, ":", color="black", lw=1, label="m / T, if all examples have as much")
    ax.set_ylim(-0.02, 1)
    ax.set_ylabel("dimensionality")
    _log_axis(ax, x)
    return ax


def norms(runs: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the norms of W and b and the longest hidden vector against T: every seed, and the mean over seeds.

    References:
        Henighan et al. 2023, Figure 4.
    """
    x = positions(runs["n_examples"])
    for column, label, color in (
        ("W_norm", r"$\Vert W\Vert_F$", FEATURES),
        ("b_norm", r"$\Vert b\Vert_2$", GREEN),
        ("hidden_norm_max", "longest hidden vector", EXAMPLES),
    ):
        runs_and_mean(runs, column, ax, color, label, at=x)
    ax.set_yscale("log")
    ax.set_ylabel("norm")
    ax.legend()
    _log_axis(ax, x)
    return ax


def vectors(
    points: Float[np.ndarray, "n_vectors 2"], ax: Axes, color: str, limit: float | None = None, spokes: bool = True
) -> Axes:
    """Draw planar vectors from the origin.

    Args:
        points: Columns of W (transposed) or hidden vectors, one per row.
        ax: Where to draw.
        color: Color of the vectors.
        limit: Half the width of the view; default the longest vector.
        spokes: Whether few vectors have larger dots, and lines from the origin.
    """
    few = spokes and len(points) <= _MANY_VECTORS
    if few:
        ax.plot(*np.stack([points, 0 * points]).transpose(2, 0, 1), color=color, lw=0.6, alpha=0.5)
    ax.plot(*points.T, "o", color=color, ms=3 if few else 1.5, mew=0, rasterized=True)
    reach = 1.2 * (limit or float(np.linalg.norm(points, axis=1).max()) or 1.0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def basins(plane: pd.DataFrame, attractors: pd.DataFrame, vectors_shown: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a disc coloured by what it flows to, with attractors (diamonds), hidden vectors and columns of W on top.

    Attractors beyond the disc are hollow, at its rim. Columns of W beyond are not shown.

    Args:
        plane: A table of ``basins.plane_of``, of one run.
        attractors: The attractors of that run, as ``basins.find_basins`` has them.
        vectors_shown: Its table of ``vectors_of``.
        ax: Where to draw.
    """
    flows = plane.drop_duplicates("attractor").sort_values("angle")
    cells = filled(plane)
    image = np.zeros((*cells.shape, 4))  # transparent outside of the disc
    shades = {kind: itertools.cycle(_TINTS) for kind in KINDS} | {"unsettled": itertools.repeat(0)}
    for attractor, kind in zip(flows["attractor"], flows["kind"], strict=True):
        tint = next(shades[kind])
        image[cells == attractor] = [*((1 - tint) * np.array(matplotlib.colors.to_rgb(OF_KIND[kind])) + tint), 1]
    radius = float(plane["radius"].iloc[0])
    ax.imshow(image, origin="lower", extent=(-radius, radius, -radius, radius), interpolation="nearest")
    for of, dots in (("feature", FEATURES), ("example", EXAMPLES)):
        own = vectors_shown[vectors_shown["of"] == of]
        ax.plot(own["x"], own["y"], "o", color=dots, ms=2.2 if len(own) <= _MANY_VECTORS else 1.2, mew=0, alpha=0.9)
    rim, reach = 1.12 * radius, 1.22 * radius
    for x, y, kind in zip(attractors["x"], attractors["y"], attractors["kind"], strict=True):
        inside, color = math.hypot(x, y) <= rim, OF_KIND[kind]
        shrunk = 1 if inside else rim / math.hypot(x, y)
        fill: dict[str, Any] = {"mfc": color, "mec": "black", "mew": 0.8}
        hollow: dict[str, Any] = {"mfc": "white", "mec": color, "mew": 1.3}
        ax.plot(x * shrunk, y * shrunk, "D", ms=5, zorder=3, **(fill if inside else hollow))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def geometry(vectors_shown: pd.DataFrame, axes: np.ndarray, common_scale: bool = False) -> np.ndarray:
    """Draw columns of W (top row of axes) and hidden vectors (bottom row), a T per column of axes.

    Args:
        vectors_shown: A table of ``vectors_of``.
        axes: Two rows of axes.
        common_scale: Whether all vectors of a row of axes have one scale.
    """
    features = "feature", FEATURES, "features\n(columns of W)"
    sides = features, ("example", EXAMPLES, "training examples\n(hidden vectors)")
    for row, (of, color, label) in zip(axes, sides, strict=True):
        own = vectors_shown[vectors_shown["of"] == of]
        limit = float(np.hypot(own["x"], own["y"]).max()) if common_scale else None
        for ax, (n_examples, points) in zip(row, own.groupby("n_examples"), strict=True):
            vectors(points[["x", "y"]].to_numpy(), ax, color, limit, spokes=of == "example")
            if of == "feature":
                ax.set_title(f"T = {_tick(float(str(n_examples)))}", fontsize=9)
        row[0].set_ylabel(label)
    return axes


def double_descent(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the paper's main figure: test loss, dimensionalities, and the geometry at some T (first seed).

    At the paper's setup the test loss is drawn twice: its whole range, and the range of the paper's axis.

    Args:
        tables: The tables "runs", "dimensionalities" (see ``dimensionality_counts``) and "vectors" (``vectors_of``).
    """
    runs = tables["runs"]
    with style():
        zoomed = at_paper_setup(runs)
        figure = Figure(figsize=(8.5, 11.5 if zoomed else 9.5), layout="constrained")
        heights = [0.8, 1, 1, 1.25] if zoomed else [1, 1, 1.25]
        panes = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        top = figure.add_subplot(panes[0])
        losses(runs, top)
        log_losses(top)
        top.legend()
        if zoomed:
            close = figure.add_subplot(panes[1], sharex=top)
            losses(runs, close)
            close.set_ylim(0.995, _TOP)
            close.set_ylabel("test loss,\nthe paper's range")
            _mark_above(summed(runs), close, _TOP)
        middle = figure.add_subplot(panes[len(heights) - 2], sharex=top)
        dimensionalities(runs, tables["dimensionalities"], middle)
        middle.legend(loc="upper right")
        middle.set_xlabel("training examples T")
        _geometry_panes(figure, panes[len(heights) - 1], tables["vectors"], common_scale=False)
    return figure


def _mark_above(runs: pd.DataFrame, ax: Axes, top: float) -> None:
    """Point up where the mean test loss is above the pane."""
    x, mean = positions(runs["n_examples"]), runs.groupby("n_examples")["test_loss"].mean()
    above = [t for t in mean.index if mean[t] > top]
    ax.plot([x[t] for t in above], [top] * len(above), "^", color="black", ms=5, clip_on=False)
    for number, t in enumerate(above):  # on two levels, as neighbours are near each other
        place = 0, 4 + 8 * (number % 2)
        ax.annotate(f"{mean[t]:.4g}", (x[t], top), place, textcoords="offset points", ha="center", fontsize=7)


def overview(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the main figure for a reader who has not seen the paper: test loss, and the geometry at some T below it."""
    runs = tables["runs"]
    with style():
        figure = Figure(figsize=(8.5, 7), layout="constrained")
        panes = figure.add_gridspec(2, 1, height_ratios=[1, 1.7])
        top = figure.add_subplot(panes[0])
        x = positions(runs["n_examples"])
        runs_and_mean(summed(runs), "test_loss", top, "black", "mean", at=x)
        top.axhline(1, color="black", lw=0.8, ls="--")
        top.set(ylabel="error on new data", xlabel="number of training examples")
        log_losses(top)
        _log_axis(top, x)
        _geometry_panes(figure, panes[1], tables["vectors"], common_scale=False)
    return figure


def norms_and_scales(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the paper's Figure 4: norms against T, and the geometry at some T on one common scale.

    Args:
        tables: The tables "runs", with a column hidden_norm_max, and "vectors" (see ``vectors_of``).
    """
    with style():
        figure = Figure(figsize=(8.5, 6.5), layout="constrained")
        panes = figure.add_gridspec(2, 1, height_ratios=[1, 1.2])
        ax = norms(tables["runs"], figure.add_subplot(panes[0]))
        ax.set_xlabel("training examples T")
        _geometry_panes(figure, panes[1], tables["vectors"], common_scale=True)
    return figure


def curves(
    table: pd.DataFrame,
    value: str,
    by: str,
    ax: Axes,
    axis: str = "n_examples",
    label: str = "{}",
    apart: float = 1.0,
) -> Axes:
    """Draw a column against an axis, a line per value of another: means over seeds with their standard errors.

    Args:
        table: A row per run.
        value: The column drawn.
        by: The column whose values are the lines.
        ax: Where to draw.
        axis: The column along x, on a log scale.
        label: Of a line, made from its value.
        apart: Factor on the axis from a line to the next, so that their bars do not lie on top of each other.
    """
    groups = shades(table[by])
    for k, (group, color) in enumerate(groups.items()):
        grouped = table[table[by] == group].groupby(axis)[value]
        mean, error = grouped.mean(), grouped.sem()
        x = mean.index.to_numpy() * apart ** (k - (len(groups) - 1) / 2)
        ax.errorbar(x, mean, yerr=error, color=color, lw=1.3, capsize=2, marker="o", ms=3, label=label.format(group))
    ax.set_xscale("log")
    ax.set_ylabel(value.replace("_", " "))
    return ax


def shades(values: Iterable[Any]) -> dict[Any, Any]:
    """Return a colour for each of these values, darker for the smaller."""
    groups = sorted(set(values))
    return dict(zip(groups, matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups))), strict=True))


def losses_by(table: pd.DataFrame, by: str, label: str, titles: Mapping[Reduction, str]) -> Figure:
    """Draw test loss against T, a line per value of another column (``label`` is made from it), and the level 1.

    One panel per reduction of the loss, with these titles.
    """
    figure, axes = figure_of(1, len(titles), size=(4 * len(titles), 3.8), sharey=True, squeeze=False)
    for ax, (reduction, title) in zip(axes[0], titles.items(), strict=True):
        curves(table[table["reduction"] == reduction], "test_loss", by, ax, label=label, apart=1.02)
        ax.axhline(1, color="black", lw=0.8, ls="--", zorder=0)
        ax.set(xlabel="training examples T", title=title)
        log_axis(ax, table["n_examples"], apart=1.5)
    log_losses(axes[0, 0])
    axes[0, 0].set_ylabel("test loss (dashed: always answering 0)")
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    axes[0, 0].legend(loc="upper left")
    return figure


def map_of(table: pd.DataFrame, value: str, x: str, y: str, ax: Axes, **options: Any) -> QuadMesh:
    """Draw the mean over seeds of a column over two others, one cell per pair of values, and return the mesh."""
    mean = table.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    mesh = ax.pcolormesh(np.arange(mean.shape[1] + 1), np.arange(mean.shape[0] + 1), mean.to_numpy(), **options)
    ax.set_xticks(np.arange(mean.shape[1]) + 0.5, [_tick(float(t)) for t in mean.columns], fontsize=8)
    ax.set_yticks(np.arange(mean.shape[0]) + 0.5, [_tick(t) for t in mean.index], fontsize=8)
    return mesh


def style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws in the style of this module."""
    return matplotlib.rc_context(_STYLE)


def figure_of(
    n_rows: int = 1, n_columns: int = 1, size: tuple[float, float] = (6.5, 3.6), **options: Any
) -> tuple[Figure, Any]:
    """Return a figure in the style of this module, and its axes."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(n_rows, n_columns, **options)


def training_history(history: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the lines of a table of ``history_of``: features, repeated examples, and the largest other example.

    References:
        A. Jermyn, comment on repeated data points in Henighan et al. 2023.
    """
    options: dict[str, dict[str, Any]] = {
        "feature": {"color": FEATURES, "lw": 1, "alpha": 0.8, "label": "features"},
        "example": {"color": "black", "lw": 1.6, "label": "repeated examples"},
        "largest": {"color": EXAMPLES, "lw": 1, "ls": "--", "label": "largest other example"},
    }
    for line, rows in history.groupby("line", sort=False):
        chosen = options[str(line).split()[0]]
        ax.plot(rows["step"], rows["dimensionality"], **chosen)
        chosen["label"] = None  # once in the legend
    ax.set_xscale("log")
    ax.set(xlabel="step", ylabel="dimensionality")
    return ax


def _geometry_panes(figure: Figure, place: SubplotSpec, vectors_shown: pd.DataFrame, common_scale: bool) -> None:
    n_columns = vectors_shown["n_examples"].nunique()
    grid = place.subgridspec(2, n_columns)
    axes = np.array([[figure.add_subplot(grid[i, j]) for j in range(n_columns)] for i in range(2)])
    geometry(vectors_shown, axes, common_scale)


def log_axis(ax: Axes, n_examples: Iterable[float], apart: float = 1.0) -> None:
    """Make x a log axis with a tick at every T, and a label at those that are this factor beyond the last label."""
    _log_axis(ax, positions(n_examples), apart)


def positions(n_examples: Iterable[float]) -> dict[float, float]:
    """Where each T stands on the log axis; infinity stands half a decade beyond the largest finite T."""
    n_examples = set(n_examples)
    finite = [float(t) for t in n_examples if math.isfinite(t)]
    beyond = 4 * max(finite, default=1.0)
    return {float(t): float(t) if math.isfinite(t) else beyond for t in sorted(n_examples)}


def _log_axis(ax: Axes, x: Mapping[float, float], apart: float = 1.0) -> None:
    labelled: list[float] = []
    for t in x:
        if not labelled or x[t] >= apart * x[labelled[-1]]:
            labelled.append(t)
    ax.set_xscale("log")
    ax.set_xticks([x[t] for t in labelled], [_tick(t) for t in labelled], fontsize=8)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks([x[t] for t in x if t not in labelled], minor=True)


def log_losses(ax: Axes) -> None:
    """Draw losses on a log scale if some are large, with the fewer labels in a decade the more there are."""
    if ax.get_ylim()[1] > 2:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        labelled = {6: (1, 1.5, 2, 3, 4, 5, 7), 40: (1, 2, 5), 300: (1, 3), math.inf: (1,)}
        ax.yaxis.set_major_locator(
            LogLocator(subs=next(subs for ratio, subs in labelled.items() if high < ratio * low))
        )
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _tick(t: float) -> str:
    if math.isinf(t):
        return "\N{INFINITY}"
    return f"{t / 1000:.3g}k" if t >= 1000 else f"{t:g}"
