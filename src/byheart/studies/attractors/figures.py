"""The figures of the study of attractors."""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from byheart.studies.attractors.runs import largest, of_every_t, peak, smallest
from byheart.studies.readme import sizes_of
from byheart.studies.study import WORDS_OF_REDUCTION, Captioned, Tables
from byheart.toy.basins import KINDS
from byheart.toy.figures import OF_KIND, basins, figure_of, log_axis, log_losses, losses, positions, runs_and_mean
from byheart.toy.model import Reduction

_WORDS_OF_KIND = {
    "example": "an example",
    "feature": "a feature",
    "mixture": "a mixture",
    "origin": "the origin (no answer)",
}


def figures(tables: Tables) -> dict[str, Captioned]:
    """Counts and shares against T, planes by where they flow, and the counts over training."""
    every = of_every_t(tables["runs"])
    drawn = {"counts": _draw_counts(tables, every), "planes": _draw_planes(tables, every)}
    if len(tables["training"]):
        drawn["training"] = _draw_training(tables, every)
    return drawn


def _reductions(every: pd.DataFrame) -> list[Reduction]:
    return [reduction for reduction in WORDS_OF_REDUCTION if reduction in set(every["reduction"])]


def _draw_counts(tables: Tables, every: pd.DataFrame) -> Captioned:
    """Test loss, the number of attractors of each kind, and the shares of the plane, against T."""
    names = _reductions(every)
    figure, axes = figure_of(3, len(names), size=(4 * len(names) + 0.5, 7.6), sharex=True, sharey="row", squeeze=False)
    for column, name in zip(axes.T, names, strict=True):
        losses(tables["runs"].merge(every.loc[every["reduction"] == name, ["group", "id"]]), column[0])
        column[0].set_title(WORDS_OF_REDUCTION[name])
        own = tables["counts"].query("reduction == @name").sort_values("n_examples")
        sizes = sorted(set(own["n_examples"]))
        at = positions(sizes)
        for kind in KINDS[:3]:
            runs_and_mean(own, f"n_{kind}", column[1], OF_KIND[kind], f"{kind}s", at=at)
        column[1].plot(
            at.values(),
            own.groupby("n_examples")["n_memorized"].mean(),
            ":",
            color="black",
            lw=1,
            label="memorized examples",
        )
        shares = own.groupby("n_examples")[[f"plane_{kind}" for kind in KINDS]].mean()
        colors = [OF_KIND[kind] for kind in KINDS]
        column[2].stackplot(list(at.values()), shares.T, colors=colors, labels=KINDS, alpha=0.8)
        column[2].set(ylim=(0, 1), xlabel="training examples T")
        for ax in column:
            log_axis(ax, sizes, apart=1.5)
    log_losses(axes[0, 0])
    axes[1, 0].set(ylabel="attractors", ylim=(-0.5, None))
    axes[2, 0].set_ylabel("share of the plane")
    for ax in axes[0]:
        ax.set_xlabel("")
    axes[1, -1].legend()
    axes[2, -1].legend(loc="center right", frameon=True, framealpha=1)
    caption = (
        "From the top: test loss, summed over features; the number of attractors that are examples, features and"
        " mixtures, beside that of memorized examples (squared error below 1/4); and the shares of the plane that flow"
        " to each kind, means over datasets. Dots are runs, lines means over seeds, bars one standard error either way."
        f" {sizes_of(every, ('reduction', 'n_examples'))}"
    )
    return Captioned(figure, caption)


def _draw_planes(tables: Tables, every: pd.DataFrame) -> Captioned:
    """The plane of the first dataset at some T, coloured by where it flows: a row per reduction."""
    names, keys = _reductions(every), ["reduction", "n_examples"]
    sizes = {name: sorted(set(tables["planes"].query("reduction == @name")["n_examples"])) for name in names}
    n_columns = max(map(len, sizes.values()))
    shown = {key: tables[key] for key in ("planes", "attractors", "vectors")}
    figure, axes = figure_of(len(names), n_columns, size=(2.1 * n_columns, 2.35 * len(names) + 0.7), squeeze=False)
    for row, name in zip(axes, names, strict=True):
        for ax, size in itertools.zip_longest(row, sizes[name]):
            if size is None:
                ax.axis("off")
                continue
            own = {k: t[(t["reduction"] == name) & (t["n_examples"] == size)] for k, t in shown.items()}
            basins(own["planes"], own["attractors"].query("seed == 0"), own["vectors"], ax)
            is_peak = size == peak(every[every["reduction"] == name])
            ax.set_title(f"T = {size:,.0f}{' (peak)' * is_peak}")
        row[0].set_ylabel(WORDS_OF_REDUCTION[name])
    handles = [Patch(facecolor=OF_KIND[kind], label=words) for kind, words in _WORDS_OF_KIND.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="flows to")
    caption = (
        "The hidden plane of one network for each T, coloured by where its points flow when the network is fed its own"
        " answers, shades telling attractors of a kind apart. Diamonds: the attractors; hollow ones lie beyond, in that"
        " direction. Vermilion dots: the"
        " hidden vectors of the training examples; blue dots: the columns of W, one for each feature. The disc reaches"
        " to the longest hidden vector. No means and no bars: the first dataset."
        f" {sizes_of(every[every['seed'] == 0], keys, 'panel')}"
    )
    return Captioned(figure, caption)


def _draw_training(tables: Tables, every: pd.DataFrame) -> Captioned:
    """The number of attractors over training, at the smallest T, the peak and the largest T."""
    names = _reductions(every)
    figure, axes = figure_of(len(names), 3, size=(8, 2.4 * len(names) + 0.4), sharex=True, sharey="row", squeeze=False)
    for row, name in zip(axes, names, strict=True):
        runs = every[every["reduction"] == name]
        for ax, at, words in zip(row, (smallest, peak, largest), ("", " (peak)", ""), strict=True):
            size = at(runs)
            own = tables["training"].query("reduction == @name and n_examples == @size")
            own = own.assign(step=own["step"].clip(lower=0.5))
            for kind in KINDS[:3]:
                grouped = own.groupby("step")[f"n_{kind}"]
                ax.errorbar(
                    grouped.mean().index,
                    grouped.mean(),
                    grouped.sem(),
                    color=OF_KIND[kind],
                    lw=1.3,
                    capsize=2,
                    label=f"{kind}s",
                )
            ax.set(xscale="log", title=f"T = {size:,.0f}{words}")
            ax.set_xticks([0.5, *(10.0**k for k in range(5))], ["0", *(f"{10**k:,}" for k in range(5))], fontsize=8)
            ax.xaxis.set_minor_formatter(NullFormatter())
        row[0].set_ylabel(f"attractors\n({WORDS_OF_REDUCTION[name]})")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    axes[0, 0].legend()
    chosen = every[every["n_examples"].isin(tables["training"]["n_examples"])]
    caption = (
        "The number of attractors of each kind over training. Lines are means over seeds, bars one standard error"
        f" either way. {sizes_of(chosen, ('reduction', 'n_examples'), 'panel')}"
    )
    return Captioned(figure, caption)
