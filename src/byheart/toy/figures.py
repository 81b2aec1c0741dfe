"""One function per figure: draws a result on the axes it is given and returns them.

Colours are Okabe and Ito's, which stay apart for colour-blind readers: blue for features, vermilion for examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.toy.model import Reduction
from byheart.toy.runs import Run, Runs, summed

FEATURES, EXAMPLES, REFERENCE = "#0072B2", "#D55E00", "#999999"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.formatter.min_exponent": 5,  # 2 and 1000 rather than 2 x 10^0 and 10^3
    "legend.frameon": False,
    "savefig.dpi": 200,
    "figure.dpi": 120,
}
_MANY_VECTORS = 60  # beyond so many, vectors are drawn as points without spokes


def paper_reference() -> pd.DataFrame:
    """Return the values read off the paper's main figure, one row per T; NaN where a value is off scale or not given.

    References:
        Henighan et al. 2023, Figure 3 (m = 2, n = 10,000, S = 0.999).
    """
    with resources.files("byheart.toy").joinpath("henighan2023_double_descent.csv").open() as file:
        table = pd.read_csv(file, comment="#")
    return pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in table})


def reproduction_norms() -> pd.DataFrame:
    """Return ||W|| and ||b|| by T of a public reproduction of the paper's setup (one seed), read off its plot."""
    with resources.files("byheart.toy").joinpath("exact_setup_norms.csv").open() as file:
        return pd.read_csv(file, comment="#")


def is_paper_setup(runs: Runs) -> bool:
    """Whether the paper's values may be drawn behind these runs: its sizes, and drawn examples."""
    return len(runs) > 0 and all(h.config.has_paper_sizes and not h.data_digest for h in runs.headers)


def losses(runs: Runs, ax: Axes) -> Axes:
    """Draw test loss, summed over features, against T: every seed, the mean with its standard error, the level 1."""
    table = summed(runs.table)
    grouped = table.groupby("n_examples")["test_loss"]
    x = _positions(table["n_examples"])
    mean, error = grouped.mean(), grouped.sem()
    ax.axhline(1, color="black", lw=0.8, ls="--", label="always answering 0")
    if is_paper_setup(runs):
        paper = paper_reference()
        paper = paper[paper["n_examples"].isin(table["n_examples"])]
        ax.plot(
            [x[t] for t in paper["n_examples"]],
            paper["test_loss"],
            "s",
            ms=7,
            mfc="none",
            mec=REFERENCE,
            mew=1.3,
            label="the paper (read off; missing: off its scale)",
        )
    ax.plot(
        [x[t] for t in table["n_examples"]],
        table["test_loss"],
        "o",
        ms=4,
        color=EXAMPLES,
        alpha=0.6,
        mew=0,
        label="each seed",
    )
    ax.errorbar(
        [x[t] for t in mean.index],
        mean,
        yerr=error,
        color="black",
        lw=1.2,
        capsize=2,
        marker="o",
        ms=3.5,
        label="mean and its standard error",
    )
    ax.set_ylabel("test loss")
    _log_axis(ax, x)
    return ax


def dimensionalities(runs: Runs, ax: Axes) -> Axes:
    """Draw the dimensionality of every feature and training example against T, with the line m/T of regular T-gons."""
    x = _positions(runs.table["n_examples"])
    for run in runs:
        t = x[_n_examples(run)]
        for values, side, color in (
            (feature_dimensionality(run.W), 0.97, FEATURES),
            (example_dimensionality(run.hidden, run.repeats), 1.03, EXAMPLES),
        ):
            ax.plot(np.full(len(values), t * side), values, "o", ms=2, color=color, alpha=0.5, mew=0, rasterized=True)
    if is_paper_setup(runs):
        paper = paper_reference()
        paper = paper[paper["n_examples"].isin(x)]
        at = np.array([x[t] for t in paper["n_examples"]])
        ax.vlines(
            at * 1.1,
            paper["example_dim_min"],
            paper["example_dim_max"],
            color=EXAMPLES,
            lw=4,
            alpha=0.3,
            label="range of examples in the paper (read off)",
        )
        ax.plot(at * 0.9, paper["feature_dim_max"], "_", color=FEATURES, ms=8, alpha=0.6, label="largest feature there")
    for color, label in ((FEATURES, "features"), (EXAMPLES, "training examples")):
        ax.plot([], [], "o", ms=4, color=color, label=label)
    n_hidden = runs.headers[0].config.n_hidden
    finite = np.array([t for t in x if math.isfinite(t)])
    if len(finite):
        line = np.geomspace(max(finite.min(), n_hidden), finite.max(), 200)
        ax.plot(line, n_hidden / line, ":", color="black", lw=1, label="m / T")
    ax.set_ylim(-0.02, 1)
    ax.set_ylabel("dimensionality")
    _log_axis(ax, x)
    return ax


def norms(runs: Runs, ax: Axes) -> Axes:
    """Draw the norms of W and b and the longest hidden vector against T: every seed, and the median over seeds.

    References:
        Henighan et al. 2023, Figure 4.
    """
    table = runs.table.set_index("id")
    longest = {run.id: float(np.linalg.norm(run.hidden, axis=1).max()) for run in runs}
    table["hidden_norm"] = [longest[run_id] for run_id in table.index]
    x = _positions(table["n_examples"])
    for column, label, color in (
        ("W_norm", r"$\Vert W\Vert_F$", FEATURES),
        ("b_norm", r"$\Vert b\Vert_2$", "#009E73"),
        ("hidden_norm", "longest hidden vector", EXAMPLES),
    ):
        median = table.groupby("n_examples")[column].median()
        ax.plot([x[t] for t in table["n_examples"]], table[column], "o", ms=3.5, color=color, alpha=0.5, mew=0)
        ax.plot([x[t] for t in median.index], median, color=color, lw=1.4, label=label)
    ax.set_yscale("log")
    ax.set_ylabel("norm")
    ax.legend()
    _log_axis(ax, x)
    return ax


def vectors(points: Float[np.ndarray, "n_vectors n_hidden"], ax: Axes, color: str, limit: float | None = None) -> Axes:
    """Draw vectors from the origin; of more than two dimensions, their first two principal components.

    Args:
        points: Columns of W (transposed) or hidden vectors, one per row.
        ax: Where to draw.
        color: Of the vectors.
        limit: Half the width of the view; default the longest vector.
    """
    if points.shape[1] == 1:
        points = np.hstack([points, np.zeros_like(points)])
    elif points.shape[1] > 2:
        points = points @ np.linalg.svd(points, full_matrices=False)[2][:2].T
    if len(points) <= _MANY_VECTORS:
        ax.plot(*np.stack([points, 0 * points]).transpose(2, 0, 1), color=color, lw=0.6, alpha=0.5)
    ax.plot(*points.T, "o", color=color, ms=3 if len(points) <= _MANY_VECTORS else 1.5, mew=0, rasterized=True)
    reach = 1.2 * (limit or float(np.linalg.norm(points, axis=1).max()) or 1.0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def geometry(runs: Sequence[Run], axes: np.ndarray, common_scale: bool = False) -> np.ndarray:
    """Draw columns of W (top row of axes) and hidden vectors (bottom row) of several runs, one per column."""
    sides = (
        [(run.W.T, FEATURES, "features\n(columns of W)") for run in runs],
        [(run.hidden, EXAMPLES, "training examples\n(hidden vectors)") for run in runs],
    )
    for row, side in zip(axes, sides, strict=True):
        limit = max(float(np.linalg.norm(points, axis=1).max()) for points, _, _ in side) if common_scale else None
        for ax, (points, color, label) in zip(row, side, strict=True):
            vectors(points, ax, color, limit)
            if ax is row[0]:
                ax.set_ylabel(label)
    for ax, run in zip(axes[0], runs, strict=True):
        ax.set_title(f"T = {_tick(_n_examples(run))}", fontsize=9)
    return axes


def double_descent(runs: Runs, shown: Sequence[float]) -> Figure:
    """Draw the paper's main figure: test loss, dimensionalities, and the geometry at the T ``shown`` (first seed).

    At the paper's setup the test loss is drawn twice: its whole range, and the range of the paper's axis.
    """
    with style():
        zoomed = is_paper_setup(runs)
        figure = Figure(figsize=(8.5, 11.5 if zoomed else 9.5), layout="constrained")
        heights = [0.8, 1, 1, 1.25] if zoomed else [1, 1, 1.25]
        panes = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        top = figure.add_subplot(panes[0])
        losses(runs, top)
        if top.get_ylim()[1] > 2:
            top.set_yscale("log")
            top.yaxis.set_major_locator(LogLocator(subs=(1,) if zoomed else (1, 2, 5)))
            top.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            top.yaxis.set_minor_formatter(NullFormatter())
        top.legend(fontsize=7.5)
        if zoomed:
            close = figure.add_subplot(panes[1], sharex=top)
            losses(runs, close)
            close.set_ylim(0.995, 1.025)
            close.set_ylabel("test loss,\nthe paper's range")
        middle = figure.add_subplot(panes[len(heights) - 2], sharex=top)
        dimensionalities(runs, middle)
        middle.legend(fontsize=7.5, loc="upper right")
        middle.set_xlabel("training examples T")
        _geometry_panes(figure, panes[len(heights) - 1], runs, shown, common_scale=False)
    return figure


def norms_and_scales(runs: Runs, shown: Sequence[float]) -> Figure:
    """Draw the paper's Figure 4: norms against T, and the geometry at the T ``shown`` on one common scale."""
    with style():
        figure = Figure(figsize=(8.5, 6.5), layout="constrained")
        panes = figure.add_gridspec(2, 1, height_ratios=[1, 1.2])
        ax = norms(runs, figure.add_subplot(panes[0]))
        ax.set_xlabel("training examples T")
        _geometry_panes(figure, panes[1], runs, shown, common_scale=True)
    return figure


def curves(table: pd.DataFrame, value: str, by: str, ax: Axes, axis: str = "n_examples", label: str = "{}") -> Axes:
    """Draw a column against an axis, a line per value of another: means over seeds with their standard errors.

    Args:
        table: A row per run.
        value: The column drawn.
        by: The column whose values are the lines.
        ax: Where to draw.
        axis: The column along x, on a log scale.
        label: Of a line, made from its value.
    """
    groups = sorted(set(table[by]))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups)))
    for group, color in zip(groups, colors, strict=True):
        grouped = table[table[by] == group].groupby(axis)[value]
        mean, error = grouped.mean(), grouped.sem()
        ax.errorbar(
            mean.index, mean, yerr=error, color=color, lw=1.3, capsize=2, marker="o", ms=3, label=label.format(group)
        )
    ax.set_xscale("log")
    ax.set_ylabel(value.replace("_", " "))
    return ax


def losses_by(table: pd.DataFrame, by: str, label: str, titles: Mapping[Reduction, str]) -> Figure:
    """Draw test loss against T, a line per value of another column (``label`` is made from it), and the level 1.

    One panel per reduction of the loss, with these titles.
    """
    figure, axes = figure_of(1, len(titles), size=(4.4 * len(titles), 3.6), sharey=True, squeeze=False)
    for ax, (reduction, title) in zip(axes[0], titles.items(), strict=True):
        curves(table[table["reduction"] == reduction], "test_loss", by, ax, label=label)
        ax.axhline(1, color="black", lw=0.8, ls="--")
        ax.set(xlabel="training examples T", yscale="log", title=title)
        ax.label_outer()
    axes[0, 0].legend(fontsize=8)
    return figure


def map_of(table: pd.DataFrame, value: str, x: str, y: str, ax: Axes, **options: Any) -> QuadMesh:
    """Draw the mean over seeds of a column over two others, one cell per pair of values, and return the mesh."""
    mean = table.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    mesh = ax.pcolormesh(np.arange(mean.shape[1] + 1), np.arange(mean.shape[0] + 1), mean.to_numpy(), **options)
    ax.set_xticks(np.arange(mean.shape[1]) + 0.5, [_tick(float(t)) for t in mean.columns], fontsize=7.5)
    ax.set_yticks(np.arange(mean.shape[0]) + 0.5, [_tick(t) for t in mean.index], fontsize=7.5)
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


def training_history(run: Run, ax: Axes, followed: Sequence[int] = (0,), n_features: int = 8) -> Axes:
    """Draw the dimensionality of the best features and of some examples over the snapshots of a run.

    Args:
        run: A run with snapshots.
        ax: Where to draw.
        followed: Examples that are drawn, in black.
        n_features: How many features, those that are ever the largest, are drawn.

    References:
        A. Jermyn, comment on repeated data points in Henighan et al. 2023.
    """
    steps = np.maximum(run.snapshots["step"], 1)
    features = np.array([feature_dimensionality(W) for W in run.snapshots["W"]])
    examples = np.array([example_dimensionality(hidden) for hidden in run.snapshots["hidden"]])
    for f in np.argsort(-features.max(axis=0))[:n_features]:
        ax.plot(steps, features[:, f], color=FEATURES, lw=1, alpha=0.8)
    others = np.delete(examples, list(followed), axis=1)
    if others.shape[1]:
        ax.plot(steps, others.max(axis=1), color=EXAMPLES, lw=1, ls="--", label="largest other example")
    ax.plot(steps, examples[:, list(followed)], color="black", lw=1.6)
    ax.plot([], [], color=FEATURES, lw=1, label="features")
    ax.plot([], [], color="black", lw=1.6, label="repeated examples")
    ax.set_xscale("log")
    ax.set(xlabel="step", ylabel="dimensionality")
    return ax


def _geometry_panes(figure: Figure, place: SubplotSpec, runs: Runs, shown: Sequence[float], common_scale: bool) -> None:
    chosen = [next(iter(runs.where(n_examples="inf" if math.isinf(t) else t))) for t in shown]
    grid = place.subgridspec(2, len(chosen))
    axes = np.array([[figure.add_subplot(grid[i, j]) for j in range(len(chosen))] for i in range(2)])
    geometry(chosen, axes, common_scale)


def _n_examples(run: Run) -> float:
    return math.inf if run.config.n_examples == "inf" else float(run.config.n_examples)


def _positions(n_examples: pd.Series[float]) -> dict[float, float]:
    """Where each T stands on the log axis; infinity stands half a decade beyond the largest finite T."""
    finite = [float(t) for t in n_examples if math.isfinite(t)]
    beyond = 4 * max(finite, default=1.0)
    return {float(t): float(t) if math.isfinite(t) else beyond for t in sorted(set(n_examples))}


def _log_axis(ax: Axes, x: dict[float, float]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(list(x.values()), [_tick(t) for t in x], fontsize=7.5)
    ax.minorticks_off()


def _tick(t: float) -> str:
    if math.isinf(t):
        return "\N{INFINITY}"
    return f"{t / 1000:g}k" if t >= 1000 else f"{t:g}"
