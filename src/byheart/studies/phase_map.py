"""Where do more data, and a bigger model, hurt? Test loss over T and m.

Source: Henighan et al. 2023, Figure 5 (double descent along both axes; results more consistent for m > 3).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from byheart.claims import Bump, Claim, Finding, along, judged, not_run
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, SMALLEST, SMALLEST_T, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import curves, figure_of, map_of, shades
from byheart.toy.model import Reduction
from byheart.toy.reference import smaller_ridge
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import mean_losses, table_of

_AXES: dict[Scale, dict[str, tuple[int, ...]]] = {
    "quick": {"n_hidden": (2, 4, 8, 16), "n_examples": SMALLEST_T},
    "medium": {
        "n_hidden": (2, 3, 4, 6, 8, 12, 16, 32, 64, 100),
        "n_examples": (3, 5, 10, 20, 50, 100, 200, 300, 500, 1_000, 1_500, 2_000),
    },
    "paper": {  # a dataset takes hours of two cores, with more hidden units many more
        "n_hidden": (2, 3, 4, 6, 8),
        "n_examples": (3, 5, 10, 30, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000),
    },
}
# Beyond the ridge of m up to 16; with more hidden units test loss only falls by then.
_FAR_SIDE: dict[Scale, dict[str, tuple[int, ...]]] = {
    "medium": {"n_hidden": (2, 3, 4, 6, 8, 12, 16), "n_examples": (3_000, 5_000)}
}
_FIGURE_5 = "Henighan et al. 2023, Figure 5"


def _groups(reduction: Reduction, scale: Scale) -> dict[str, list[TrainConfig]]:
    base = setup(scale, reduction=reduction, **(SMALLEST if scale == "quick" else {}))
    seeds = range(N_SEEDS[scale])
    groups = {"map": grid(base, _AXES[scale], seeds)}
    return groups | ({"far side": grid(base, _FAR_SIDE[scale], seeds)} if scale in _FAR_SIDE else {})


def _bumps(runs: pd.DataFrame, along: str, across: str) -> dict[float, Bump]:
    found = {float(str(value)): Bump.along(rows, along) for value, rows in runs.groupby(across)}
    return {value: bump for value, bump in found.items() if bump is not None}


def _judge(bumps: dict[float, Bump], name: str) -> Finding:
    if not bumps:
        return not_run("three values of the axis with two seeds")
    high = {value: bump for value, bump in bumps.items() if bump.height > 3}
    best = max(bumps, key=lambda value: (bumps[value].mean > 1, bumps[value].height))
    ours = f"{len(high)} of {len(bumps)} have one; the clearest above 1, {name} = {best:g}: {bumps[best]}"
    return judged(ours, len(high) >= 3, all(bump.where == "first" for bump in bumps.values()))


def _more_data_hurts(tables: Tables) -> Finding:
    return _judge(_bumps(summed(tables["runs"]), "n_examples", "n_hidden"), "m")


def _bigger_model_hurts(tables: Tables) -> Finding:
    return _judge(_bumps(summed(tables["runs"]), "n_hidden", "n_examples"), "T")


def _ridge(runs: pd.DataFrame) -> pd.DataFrame:
    """The bumps along T that rise above 1, the test loss of answering nothing."""
    bumps = _bumps(summed(runs), "n_examples", "n_hidden")
    rows = [(m, b.at, b.mean, b.error, b.height) for m, b in bumps.items() if b.height > 3 and b.mean > 1]
    return pd.DataFrame(rows, columns=["n_hidden", "n_examples", "test_loss", "test_loss_se", "height"])


def _slope(tables: Tables) -> Finding:
    ridge = tables["ridge"]
    if len(ridge) < 4:
        return not_run(f"a bump above 1 at four m or more (found at {len(ridge)})")
    x, y = np.log(ridge["n_hidden"]), np.log(ridge["n_examples"])
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    error = float(np.sqrt(covariance[0, 0]))
    where = along(ridge.set_index("n_hidden")["n_examples"], "g", "m = ")
    ours = f"T of the peak: {where}; it grows as m^{slope:.2f} \N{PLUS-MINUS SIGN} {error:.2f}"
    return judged(ours, slope > 2 * error, slope < -2 * error)


def _consistent(tables: Tables) -> Finding:
    runs = summed(tables["runs"])
    logs = np.log(runs["test_loss"]).groupby([runs["n_hidden"], runs["n_examples"]])
    ridge = tables["ridge"].set_index("n_hidden")["n_examples"]
    spread = pd.Series({m: float(logs.get_group((m, t)).std()) for m, t in ridge.items()}, dtype=float)
    few, many = spread[spread.index <= 3], spread[spread.index > 3]
    if few.empty or many.empty:
        return not_run("a bump above 1 at some m up to 3, and at some above")
    ratio = many.mean() / few.mean()
    words = along(spread, ".2g", "m = ")
    ours = f"spread of log test loss over datasets, at the peak: {words}; ratio of the means {ratio:.2f}"
    return judged(ours, ratio < 1 / 2, ratio > 1)


_CLAIMS = (
    Claim(
        "more-data-hurts",
        "At three m or more, test loss has a bump along T (more than 3 standard errors high)",
        _FIGURE_5,
        "visible",
        _more_data_hurts,
        refuted_if="at every m test loss is highest at the smallest T",
    ),
    Claim(
        "bigger-model-hurts",
        "At three T or more, test loss has a bump along m (more than 3 standard errors high)",
        _FIGURE_5,
        "visible",
        _bigger_model_hurts,
        refuted_if="at every T test loss is highest at the smallest m",
    ),
    Claim(
        "consistent-above-3",
        "At the peak, datasets agree much more for m > 3 (less than half the spread of log test loss)",
        _FIGURE_5,
        "much more consistent",
        _consistent,
        refuted_if="the spread over datasets is larger for m > 3",
    ),
    Claim(
        "ridge",
        "The T at which test loss is highest, and above 1, grows with m",
        f"{_FIGURE_5} (the slope is not given there)",
        "a ridge",
        _slope,
        refuted_if="the slope of log T on log m is below 0 by two standard errors",
    ),
)


def _map(tables: Tables) -> Captioned:
    figure, ax = figure_of(size=(6.5, 4.6))
    table = tables["by-cell"]
    factor = float(np.exp(np.abs(np.log(table["test_loss"])).max()))
    level = LogNorm(1 / factor, factor)  # 1, the loss of answering nothing, in the middle
    mesh = map_of(table, "test_loss", "n_examples", "n_hidden", ax, norm=level, cmap="RdBu_r")
    bar = figure.colorbar(mesh, label="test loss, mean over datasets", format="%g")
    bar.set_ticks(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)) if factor > 2 else MaxNLocator(5))
    bar.minorticks_off()
    sizes, widths = sorted(set(table["n_examples"])), sorted(set(table["n_hidden"]))
    for row in tables["ridge"].itertuples():
        ax.plot(sizes.index(row.n_examples) + 0.5, widths.index(row.n_hidden) + 0.5, "ko", mfc="none", ms=8)
    ax.set(xlabel="training examples T", ylabel="hidden units m", facecolor="#bbbbbb")
    not_run = "; grey: not run" * (len(table) < len(sizes) * len(widths))
    ax.set_title(f"circles: the highest test loss along T, where it is a bump above 1{not_run}", fontsize=9)
    caption = (
        "Test loss, summed over features, by T and m, the mean over seeds: red is worse than always answering 0, blue"
        " better. Circles: the T with"
        " the highest test loss at this m, where it is a bump above 1 of more than 3 standard errors"
        f"{not_run}. {sizes_of(tables['runs'], ('n_hidden', 'n_examples'), 'cell')}"
    )
    return Captioned(figure, caption)


def _along_occurrences(tables: Tables) -> Captioned:
    """Test loss against how often a feature occurs, a line per m, and where it is highest."""
    figure, ax = figure_of(size=(6.5, 4.2))
    runs = summed(tables["runs"])
    runs = runs.assign(occurrences=runs["n_examples"] * (1 - runs["sparsity"]))
    curves(runs, "test_loss", "n_hidden", ax, "occurrences", "m = {}")
    ax.axhline(1, color="black", lw=0.8, ls="--", zorder=0)
    ax.set(xlabel="how often a feature occurs, T(1 - S)", ylabel="test loss")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    low, high = ax.get_ylim()
    if high > 2 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    colors, means = (
        shades(runs["n_hidden"]),
        runs.groupby(["n_hidden", "n_examples"])[["occurrences", "test_loss"]].mean(),
    )
    for m, n_examples in tables["ridge"][["n_hidden", "n_examples"]].itertuples(index=False):
        ax.plot(*means.loc[(m, n_examples)], "o", color=colors[m], mfc="none", ms=10)
    others = smaller_ridge()
    laid_over = others[(others["n_features"] < runs["n_features"].min()) & others["n_hidden"].isin(colors)]
    for row in laid_over.itertuples():
        ax.plot(row.occurrences, 0.98, "v", color=colors[row.n_hidden], ms=8, transform=ax.get_xaxis_transform())
    words = (
        " Triangles: where it is highest at n = 1,000 with squared errors summed (phase-map)." if len(laid_over) else ""
    )
    ax.legend(loc="upper left", fontsize=8)
    caption = (
        "Test loss, summed over features, against how often a feature occurs in the training set, T(1 - S), a line per"
        " number of hidden units m: means over seeds, bars one standard error either way. Dashed: always answering 0."
        " Circles: the highest, where it is a bump above 1 of more than 3 standard errors."
        f"{words} {sizes_of(runs, ('n_hidden', 'n_examples'))}"
    )
    return Captioned(figure, caption)


def _figures(tables: Tables) -> dict[str, Captioned]:
    return {"phase-map": _map(tables), "ridge": _along_occurrences(tables)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    return _tables_of(table_of(groups))


def _tables_of(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    by_cell = mean_losses(summed(runs), ["n_hidden", "n_examples"])
    return {"runs": runs, "by-cell": by_cell, "ridge": _ridge(runs)}


def _add(before: Tables, new: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables of all runs, from those of some and those of others."""
    runs = pd.concat([before["runs"], new["runs"]], ignore_index=True)
    return _tables_of(runs.sort_values(["group", "n_hidden", "n_examples", "seed"], ignore_index=True))


def _study(name: str, more: str, reduction: Reduction) -> Study:
    question, groups = f"Where do more data, and a bigger model, hurt{more}?", functools.partial(_groups, reduction)
    return Study(name, question, groups, _tables, _CLAIMS, _figures, add=_add)


STUDY = _study("phase-map", "", "sum")
STUDY_AVERAGED = _study("phase-map-averaged", ", with squared errors averaged over features", "mean")
