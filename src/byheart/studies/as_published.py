"""Is the paper's figure that of averaged errors and the best of several initialisations?

The paper says that in some experiments it kept, of several initialisations, the one of lowest train loss, but not in
which. How many is chosen here by the pictures of Figure 2 alone: which of 1, 5 and 10 makes it likeliest that examples
are drawn as regular polygons at T = 3, 5, 6, 10 and 15, and not at T = 8. Test losses, dimensionalities and norms have
no part in that choice, and test it.

Source: Henighan et al. 2023, section "Experiment setup", Figures 2 to 4; that errors were averaged: ``discrepancy``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from byheart.claims import Claim, Finding, along, compare, judged, not_run
from byheart.colors import GREEN, VERMILION
from byheart.studies.double_descent import measured
from byheart.studies.readme import sizes_of
from byheart.studies.study import Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import FEATURES, REFERENCE, figure_of, log_axis
from byheart.toy.reference import paper_reference
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import at_paper_setup, table_of

_N_INITS = (1, 5, 10)
_COLORS = {1: FEATURES, 5: GREEN, 10: VERMILION}
_REGULAR_IN_FIGURE_2 = {3: True, 5: True, 6: True, 8: False, 10: True, 15: True}
_UNCERTAIN_T = (8, 10, 15)  # where some datasets are regular and some are not: more of them
_SMALL_T, _MORE_T = (3, 5, 6, 8, 10, 15, 30), (50, 100, 200)
_LARGE_T = (500, 1_000, 2_000, 5_000, 10_000, 20_000)  # of one initialisation: ten would take days
_FIRST_TICK, _LAST_TICK = 0.995, 1.025  # of the axis of test loss in Figure 3
_LOSS, _DIMENSION = 0.002, 0.02  # tolerances: both are several times the error of reading them off
_PEAK, _FACTOR = 30, 2.0  # where the text on Figure 4 has the largest lengths and norms, and how near counts
_FIGURE_3, _FIGURE_4 = "Henighan et al. 2023, Figure 3", "Henighan et al. 2023, Figure 4"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """The configs by number of initialisations."""
    base = setup(scale, reduction="mean")
    base = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, 24))  # runs of double-descent serve
    groups = {}
    for n_inits in (1, 5) if scale == "quick" else _N_INITS:
        sizes = _SMALL_T if scale != "paper" else _SMALL_T + _MORE_T + (_LARGE_T if n_inits == 1 else ())
        own = dataclasses.replace(base, n_inits=n_inits)
        configs = grid(own, {"n_examples": sizes}, range(2 if scale == "quick" else 4))
        if scale != "quick":
            configs += grid(own, {"n_examples": _UNCERTAIN_T}, range(4, 8))
        groups[_name(n_inits)] = configs
    return groups


def _name(n_inits: int) -> str:
    return f"best of {n_inits}"


def _likelihoods(runs: pd.DataFrame) -> pd.DataFrame:
    """How likely Figure 2 is, by number of initialisations: one dataset at each T, regular or not as drawn there.

    The share of regular polygons among n datasets is taken to be (k + 1/2) / (n + 1), so that none is impossible.
    """
    rows = []
    for n_inits, own in runs.groupby("n_inits"):
        for size, drawn in _REGULAR_IN_FIGURE_2.items():
            found = own.loc[own["n_examples"] == size, "regular"].to_numpy(dtype=bool)
            if found.size:
                share = (found.sum() + 0.5) / (found.size + 1)
                likelihood = math.log10(share if drawn else 1 - share)
                rows.append((n_inits, size, drawn, found.size, int(found.sum()), likelihood))
    names = ["n_inits", "n_examples", "regular_in_figure_2", "seeds", "regular", "log10_likelihood"]
    return pd.DataFrame(rows, columns=names)


def _chosen(tables: Tables) -> int:
    """The number of initialisations that makes Figure 2 likeliest."""
    return int(str(tables["figure-2"].groupby("n_inits")["log10_likelihood"].sum().idxmax()))


def _values(table: pd.DataFrame) -> pd.DataFrame:
    """Every value that was read off the paper beside ours with its spread, and whether both agree."""
    paper = paper_reference().set_index("n_examples")
    quantities = {
        "test loss": ("test_loss", "test_loss", _LOSS),
        "smallest dimensionality of an example": ("example_dim_min", "example_dimensionality_min", _DIMENSION),
        "largest dimensionality of an example": ("example_dim_max", "example_dimensionality_max", _DIMENSION),
        "largest dimensionality of a feature": ("feature_dim_max", "feature_dimensionality_max", _DIMENSION),
    }
    rows = []
    first_seeds = table[table["seed"] < 4]  # as many datasets as the paper's, at every T
    for key, own in first_seeds.groupby(["n_inits", "n_examples"]):
        n_inits, size = (float(str(value)) for value in key)
        for words, (theirs, ours, tolerance) in quantities.items():
            values = own[ours].to_numpy()
            if size not in paper.index or len(values) < 2:
                continue
            value = float(paper[theirs][size])
            if math.isnan(value) and theirs != "test_loss":
                continue
            verdict = _off_scale(values) if math.isnan(value) else compare(values, value, tolerance).verdict
            spread = float(values.std(ddof=1) / math.sqrt(len(values)))
            rows.append((words, size, value, tolerance, int(n_inits), len(values), values.mean(), spread, verdict))
    names = ["quantity", "n_examples", "paper", "tolerance", "n_inits", "seeds", "ours", "standard_error", "verdict"]
    return pd.DataFrame(rows, columns=names)


def _off_scale(values: np.ndarray) -> str:
    """Whether a mean test loss is off the paper's axis, as the paper's own is."""
    low, high = (values.mean() + k * 2 * values.std(ddof=1) / math.sqrt(len(values)) for k in (-1, 1))
    beyond = low > _LAST_TICK or high < _FIRST_TICK
    return "reproduced" if beyond else "differs" if low > _FIRST_TICK and high < _LAST_TICK else "inconclusive"


def _choice(tables: Tables) -> Finding:
    table = tables["figure-2"]
    if table["n_inits"].nunique() < 2 or table["n_examples"].nunique() < len(_REGULAR_IN_FIGURE_2):
        return not_run("T = 3 to 15, two numbers of initialisations")
    likelihood = table.groupby("n_inits")["log10_likelihood"].sum().sort_values(ascending=False)
    shares = {
        n: ", ".join(f"{row.regular} of {row.seeds} at {row.n_examples:g}" for row in own.itertuples())
        for n, own in table.groupby("n_inits")
    }
    words = "; ".join(f"best of {n}: {shares[n]}, likelihood 10^{likelihood[n]:.1f}" for n in likelihood.index)
    lead = float(likelihood.iloc[0] - likelihood.iloc[1])
    return judged(f"regular: {words}", likelihood.index[0] > 1 and lead >= 1, likelihood.index[0] == 1 and lead >= 1)


def _agreement(quantity: str, tables: Tables) -> Finding:
    """Judge a quantity at T up to 30 for the chosen number of initialisations; all numbers in words."""
    own = tables["values"].query("quantity == @quantity and n_examples <= 30")
    n_inits = _chosen(tables)
    if own.query("n_inits == @n_inits")["n_examples"].nunique() < 3:
        return not_run("three T up to 30, two datasets")
    words = []
    for n, rows in own.groupby("n_inits"):
        counts = rows["verdict"].value_counts()
        words.append(f"best of {n}: {counts.get('reproduced', 0)} of {len(rows)} agree, {_where(rows)}")
    chosen = own.query("n_inits == @n_inits")
    ours = f"chosen: best of {n_inits}; {'; '.join(words)}"
    verdicts = set(chosen["verdict"])
    return judged(ours, verdicts == {"reproduced"}, "differs" in verdicts)


def _where(rows: pd.DataFrame) -> str:
    differs = rows.loc[rows["verdict"] == "differs"]
    shown = (f"{r.ours:.3f} ({r.paper:.3f}) at {r.n_examples:g}" for r in differs.itertuples())
    return f"differ: {', '.join(shown)}" if len(differs) else "none differs"


def _peak(column: str, tables: Tables) -> Finding:
    """Judge the T at which the mean over datasets is largest, for the chosen number of initialisations."""
    table = tables["runs"].query("seed < 4")
    n_inits = _chosen(tables)
    found = {}
    for n, own in table.groupby("n_inits"):
        means = own.groupby("n_examples")[column].mean()
        if means.index.max() >= _PEAK * _FACTOR:  # else the end of the range is the peak
            found[int(str(n))] = means
    if n_inits not in found:
        return not_run(f"T from {_PEAK / _FACTOR:g} to beyond {_PEAK * _FACTOR:g}")
    words = "; ".join(
        f"best of {n}: largest at T = {means.idxmax():g} ({along(means.round(2), 'g')})" for n, means in found.items()
    )
    at = float(str(found[n_inits].idxmax()))
    near = _PEAK / _FACTOR <= at <= _PEAK * _FACTOR
    return judged(f"chosen: best of {n_inits}; {words}", near, not near)


_CLAIMS = (
    Claim(
        "best-of-several",
        "The pictures of few examples are of the best of several initialisations, rather than of one (ten times as"
        " likely)",
        "Henighan et al. 2023, Figure 2: regular at T = 3, 5, 6, 10 and 15, not at 8",
        "in some experiments several initialisations, the one of lowest train loss kept",
        _choice,
        refuted_if="one initialisation makes them ten times as likely as any other number does",
    ),
    *(
        Claim(
            identifier,
            f"Held back from that choice: the {quantity} at every T up to 30 (within {tolerance:g})",
            _FIGURE_3,
            value,
            functools.partial(_agreement, quantity),
            True,
            refuted_if="at some T our mean, with its interval of two standard errors, lies outside the tolerance",
        )
        for identifier, quantity, tolerance, value in (
            ("test-loss", "test loss", _LOSS, "1.0000 at T = 5 and 6, 1.0177 at 8, off its scale at 3 and 10"),
            ("examples-largest", "largest dimensionality of an example", _DIMENSION, "0.81 at T = 3, 0.10 at 30"),
            ("examples-smallest", "smallest dimensionality of an example", _DIMENSION, "0.54 at T = 3, 0.18 at 10"),
            ("features-largest", "largest dimensionality of a feature", _DIMENSION, "0.24 at T = 10, 0.05 at 30"),
        )
    ),
    *(
        Claim(
            identifier,
            f"Held back from that choice: {words} is largest near T = {_PEAK} (mean over datasets, within a factor of"
            f" {_FACTOR:g})",
            _FIGURE_4,
            f"near T = {_PEAK}",
            functools.partial(_peak, column),
            True,
            refuted_if="it is largest elsewhere",
        )
        for identifier, words, column in (
            ("longest-hidden", "the longest hidden vector", "hidden_norm_max"),
            ("norm-of-W", "the norm of W", "W_norm"),
        )
    ),
)


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    by_id = {run.id: measured(run) for runs in groups.values() for run in runs}
    return _of_runs(table_of(groups).merge(pd.DataFrame(by_id.values()), on="id"))


def _add(before: Tables, new: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables of all runs, from those of some and those of others."""
    runs = pd.concat([before["runs"], new["runs"]], ignore_index=True)
    return _of_runs(runs.sort_values(["n_inits", "n_examples", "seed"], ignore_index=True))


def _of_runs(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    table = summed(runs)
    at_paper = at_paper_setup(runs)
    values = _values(table) if at_paper else _values(table.iloc[:0])
    return {"runs": runs, "figure-2": _likelihoods(table), "values": values}


def _figures(tables: Tables) -> dict[str, Captioned]:
    table = summed(tables["runs"])
    paper = paper_reference().query("n_examples in @table['n_examples']") if at_paper_setup(table) else None
    figure, axes = figure_of(2, 2, size=(8, 6.4))
    flat: list[Axes] = list(np.ravel(axes))
    for n_inits, own in table.groupby("n_inits"):
        color, label = _COLORS[int(str(n_inits))], _name(int(str(n_inits)))
        for ax, column in ((flat[0], "test_loss"), (flat[2], "hidden_norm_max"), (flat[3], "W_norm")):
            grouped = own[own["seed"] < 4].groupby("n_examples")[column]
            options: dict[str, Any] = {"color": color, "lw": 1.3, "capsize": 2, "marker": "o", "ms": 3}
            ax.errorbar(grouped.mean().index, grouped.mean(), grouped.sem(), label=label, **options)
        shares = own.groupby("n_examples")["regular"].mean()
        flat[1].plot(shares.index, shares, "o-", color=color, ms=3, lw=1.3, label=label)
    if paper is not None:
        flat[0].plot(paper["n_examples"], paper["test_loss"], "s", mfc="none", mec=REFERENCE, ms=7, label="the paper")
        drawn = {size: float(regular) for size, regular in _REGULAR_IN_FIGURE_2.items()}
        flat[1].plot(list(drawn), list(drawn.values()), "s", mfc="none", mec=REFERENCE, ms=7, label="Figure 2")
        flat[0].set_ylim(_FIRST_TICK, _LAST_TICK)
    flat[0].axhline(1, color="black", lw=0.6, ls="--")
    for ax, words in zip(
        flat,
        ("test loss", "share of datasets with a regular polygon", "longest hidden vector", r"$\Vert W\Vert_F$"),
        strict=True,
    ):
        log_axis(ax, table["n_examples"])
        ax.set(xlabel="training examples T", ylabel=words)
    for ax in flat[2:]:
        ax.set_yscale("log")
    flat[0].legend()
    caption = (
        "The best of 1, 5 and 10 initialisations of the same datasets (lowest train loss), squared errors averaged."
        " From the top left: test loss, summed over features; the share of datasets whose hidden vectors are a regular"
        " polygon; the longest hidden vector; the norm of W, against T. Squares: the paper, missing where it is off its"
        " axis; of Figure 2, whether a polygon is regular there. Lines are means over datasets, bars one standard error"
        f" either way. {sizes_of(tables['runs'])}"
    )
    return {"as-published": Captioned(figure, caption)}


STUDY = Study(
    "as-published",
    "Do averaged errors and the best of several initialisations give every value of the paper's figures?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    add=_add,
)
