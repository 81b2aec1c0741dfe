"""Why does Jermyn's replication differ from the paper? One thing at a time that the paper leaves open.

Paper: test loss up to about 1.01 in the middle regime, features from T = 5,000. Jermyn: up to 5,000, from T = 20,000.
Both at n = 10,000 and S = 0.999; other sizes are compared by T(1 - S), how often a feature occurs.

Source: Henighan et al. 2023, section "Experiment setup" and Figure 3; A. Jermyn's replication in the comments there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter

from byheart.claims import Bump, Claim, Finding, along, compare, compare_curve, judged, not_run, onsets
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import EXAMPLES, REFERENCE, figure_of, log_axis, runs_and_mean
from byheart.toy.reference import paper_reference
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import at_paper_setup, mean_losses, table_of

_T = (10, 30, 50, 100, 200, 300, 500, 1_000, 2_000)
_QUICK_T, _QUICK_SCANNED_T = (100, 300, 1_000), (300,)
_PAPER_T = (10, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_EPS_T = (500, 2_000, 5_000)  # below, at and above the peak
_BACK_T = (*_EPS_T, 10_000, 20_000)  # and from where on it generalises
_LOW_T = (1_000, 2_000, 5_000)
_SCANNED_T = (1_000,)  # one T can tell that a change does not have the paper's numbers: they are 1.0006 here
_AS_STATED = "as stated"
_MEAN = "mean over features"
_LARGE_EPS = "eps times n"
_MEAN_SMALL_EPS = "mean over features, eps over n"
_KEY = (_AS_STATED, _MEAN, _LARGE_EPS, _MEAN_SMALL_EPS)
_GRADIENT_DECAY, _LARGE_DECAY = "decay in the gradient", "decay not times the peak rate"
_LOW_AT_SMALL_N = (_GRADIENT_DECAY, _LARGE_DECAY)  # at n = 1,000 these lower the peak too, so that one T cannot tell
_ROUGH_PATCH = 15  # up to here all test losses jump about, the paper's too
_PEAK_T, _N_SEEDS_AT_PEAK = 2_000, 16  # averaged, datasets differ most there
_LINEAR = 1e-3  # around 0, where figures are no longer logarithmic
_TICKS = (-_LINEAR, 0, _LINEAR, 0.01, 0.1, 1, 10, 100)
_LEVEL = 1.5  # norms that differ by no more than this factor are level
_SAME = 0.002  # test losses within this are the same; they are read off the paper's figure to 0.0003
_PAPER_PEAK, _JERMYN_PEAK = 1.1, 3.0  # highest test loss: the paper's is below the one, Jermyn's above the other
_LIKE_THE_PAPER = f"test loss up to {_PAPER_PEAK:g}, and below 1 from T(1 - S) = 2.5 to 5 on"
_LIKE_JERMYN = f"test loss above {_JERMYN_PEAK:g}, and below 1 only from T(1 - S) above 5 on"


def _changes(n_features: int) -> dict[str, dict[str, Any]]:
    """What is changed, by name. AdamW with eps on n times the loss is AdamW with eps / n: the first three rows."""
    return {
        _AS_STATED: {},
        _MEAN: {"reduction": "mean"},
        _LARGE_EPS: {"eps": 1e-8 * n_features},
        _MEAN_SMALL_EPS: {"reduction": "mean", "eps": 1e-8 / n_features},
        "eps 1e-6": {"eps": 1e-6},
        "beta1 0.8": {"beta1": 0.8},
        "beta2 0.99": {"beta2": 0.99},
        "b does not decay": {"decay_bias": False},
        "no weight decay": {"weight_decay": 0.0},
        _GRADIENT_DECAY: {"weight_decay_in_gradient": True},
        _LARGE_DECAY: {"weight_decay": 10.0},  # 1e-2 / 1e-3
        "Xavier uniform": {"initialization": "xavier_uniform"},
        "b drawn uniformly": {"bias_initialization": "uniform"},
        "no warm-up": {"warmup_steps": 0},
        "empty examples kept": {"keep_empty": True},
        "best of 5 initialisations": {"n_inits": 5},
    }


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """The configs by what is changed."""
    base = setup(scale)
    base = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, 24))  # runs of double-descent serve
    groups = {
        name: grid(dataclasses.replace(base, **change), {"n_examples": _sizes(scale, name)}, range(N_SEEDS[scale]))
        for name, change in _changes(base.n_features).items()
    }
    if scale == "paper":
        more = range(N_SEEDS[scale], _N_SEEDS_AT_PEAK)
        groups[_MEAN] += grid(dataclasses.replace(base, reduction="mean"), {"n_examples": (_PEAK_T,)}, more)
    return groups


def _sizes(scale: Scale, name: str) -> tuple[int, ...]:
    if scale == "quick":
        return _QUICK_T if name in _KEY else _QUICK_SCANNED_T
    if scale == "medium":
        return _T
    if name in (_AS_STATED, _MEAN):
        return _PAPER_T
    if name == _MEAN_SMALL_EPS:
        return _BACK_T
    return _EPS_T if name == _LARGE_EPS else _LOW_T if name in _LOW_AT_SMALL_N else _SCANNED_T


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """By change and seed: highest test loss, T(1 - S) from which on test loss is below 1, largest norms, and whose.

    Of the seeds that every T has. The T(1 - S) is unknown (nan) where the T that were run do not reach 5.
    """
    rows = []
    table = table[(table["n_examples"] > _ROUGH_PATCH) & (table["seed"] < N_SEEDS["paper"])]
    for name, group in table.groupby("group", sort=False):
        onset, per_feature = onsets(group, group["test_loss"] < 1), 1 - float(group["sparsity"].iloc[0])
        for seed, own in group.groupby("seed"):
            occurrences = onset[seed] * per_feature if own["n_examples"].max() * per_feature > 4.99 else math.nan
            peak = float(own["test_loss"].max())
            norms = own["W_norm"].max(), own["b_norm"].max()
            rows.append((name, seed, peak, occurrences, *norms, _whose(peak, occurrences)))
    names = ["change", "seed", "peak", "onset", "W_norm", "b_norm", "whose"]
    return pd.DataFrame(rows, columns=names)


def _whose(peak: float, onset: float) -> str:
    """Whose numbers these are: the paper's, Jermyn's, neither's, or unknown for want of larger T."""
    if peak < _PAPER_PEAK:
        return "unknown" if math.isnan(onset) else "paper" if 2.5 <= onset <= 5.001 else "neither"
    if peak > _JERMYN_PEAK:
        return "not the paper" if math.isnan(onset) else "Jermyn" if onset > 5.001 else "neither"
    return "neither"


def _at_papers_sizes(tables: Tables, name: str) -> pd.DataFrame:
    """A table, without any row unless all runs are at the paper's setup."""
    return tables[name] if at_paper_setup(tables["runs"]) else tables[name].iloc[:0]


def _with(tables: Tables, change: str) -> pd.DataFrame:
    """The runs with this change at the paper's setup, losses summed over features."""
    return summed(_at_papers_sizes(tables, "runs").query("group == @change"))


def _claim_of(identifier: str, statement: str, name: str, whose: str, paper: str) -> Claim:
    def test(tables: Tables) -> Finding:
        numbers = _at_papers_sizes(tables, "numbers").query("change == @name")
        if len(numbers) < 2:
            return not_run(f"{name} at n = 10,000, two seeds")
        same = (numbers["whose"] == whose).to_numpy()
        ours = (
            f"{same.sum()} of {len(same)} seeds; highest test loss {', '.join(f'{p:.4g}' for p in numbers['peak'])};"
            f" below 1 from T(1 - S) = {', '.join(map(_onset_words, numbers['onset']))} on"
        )
        return judged(ours, bool(same.all()), not same.any())

    return Claim(identifier, statement, "new", paper, test, refuted_if="no seed has these numbers")


def _onset_words(onset: float) -> str:
    return f"{onset:.3g}" if math.isfinite(onset) else "beyond the range"


def _nothing_else(tables: Tables) -> Finding:
    others = _at_papers_sizes(tables, "numbers").query("change not in @_KEY")
    if others.empty:
        return not_run("other changes at n = 10,000")
    names = {
        whose: ", ".join(sorted(set(others.loc[others["whose"] == whose, "change"])))
        for whose in ("paper", "unknown", "neither")
    }
    ours = (
        f"of {others['change'].nunique()} other changes, with the paper's numbers in some seed:"
        f" {names['paper'] or 'none'}; unknown: {names['unknown'] or 'none'};"
        f" with neither the paper's nor Jermyn's: {names['neither'] or 'none'}"
    )
    return judged(ours, not names["paper"] and not names["unknown"], bool(names["paper"]))


def _averaging_lowers_the_peak(tables: Tables) -> Finding:
    peaks = tables["numbers"].pivot_table(index="seed", columns="change", values="peak")
    if not {_AS_STATED, _MEAN} <= set(peaks) or len(peaks) < 2:
        return not_run(f"{_AS_STATED} and {_MEAN}, two seeds")
    ratio = (peaks[_AS_STATED] / peaks[_MEAN]).dropna()
    ours = f"lower by a factor of {', '.join(f'{r:.3g}' for r in ratio)}, by seed"
    return judged(ours, bool((ratio > 1).all()), bool((ratio <= 1).all()))


def _same_curves(tables: Tables) -> Finding:
    by_change = summed(tables["runs"]).set_index(["n_examples", "seed"])
    pair = [by_change.loc[by_change["group"] == name, "test_loss"] for name in (_MEAN, _LARGE_EPS)]
    if any(part.empty for part in pair):
        return not_run(f"{_MEAN}, and {_LARGE_EPS}")
    ratio = (pair[0] / pair[1]).dropna()
    medians = ratio.groupby("n_examples").median()
    worst = float(np.abs(np.log(medians)).max())
    return judged(f"ratio of test losses, median over seeds: {along(medians, '.4f')}", worst < 0.02, worst > 0.1)


def _beside_the_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """Averaged over features: our mean test loss with its standard error beside the paper's, where it can be read."""
    own = runs.query("group == @_MEAN").groupby("n_examples")["test_loss"].agg(["mean", "sem", "size"])
    paper = paper_reference().set_index("n_examples")["test_loss"].rename("paper")
    return own.join(paper, how="inner").dropna().query("n_examples >= 30").reset_index()


def _same_curve_as_the_paper(tables: Tables) -> Finding:
    table = _at_papers_sizes(tables, "beside-the-paper")
    if len(table) < 4 or table["size"].min() < 2:
        return not_run("n = 10,000, the paper's, at four T")
    return compare_curve(_with(tables, _MEAN), "test_loss", table.set_index("n_examples")["paper"], _SAME)


def _level_and_rising(tables: Tables) -> Finding:
    """How much the norm of W varies over T = 100 to 1,000, by dataset: largest over smallest."""
    table = pd.concat([_with(tables, name) for name in (_AS_STATED, _MEAN)])
    table = table[table["n_examples"].between(100, 1_000) & (table["seed"] < N_SEEDS["paper"])]
    sizes = table.groupby("group")["n_examples"].nunique()
    if len(sizes) < 2 or sizes.min() < 4:
        return not_run(f"{_AS_STATED} and {_MEAN} at four T from 100 to 1,000, n = 10,000")
    norms = table.pivot_table(index=["group", "seed"], columns="n_examples", values="W_norm")
    ratio, rises = norms.max(axis=1) / norms.min(axis=1), (norms.diff(axis=1).iloc[:, 1:] > 0).all(axis=1)
    level, rising = ratio[_MEAN] < _LEVEL, rises[_AS_STATED] & (ratio[_AS_STATED] > _LEVEL)
    words = ", ".join(f"{name} {', '.join(f'{r:.2f}' for r in ratio[name])}" for name in (_MEAN, _AS_STATED))
    ours = f"largest over smallest norm of W, by seed: {words}; as stated it rises at every T in {rising.sum()}"
    return judged(ours, bool(level.all() and rising.all()), not level.any() or not rising.any())


def _ratio_of_b(tables: Tables) -> Finding:
    norms = _at_papers_sizes(tables, "numbers").pivot_table(index="seed", columns="change", values="b_norm")
    if not {_AS_STATED, _MEAN} <= set(norms):
        return not_run(f"{_AS_STATED} and {_MEAN} at n = 10,000")
    ratio = (norms[_AS_STATED] / norms[_MEAN]).dropna()
    finding = compare(np.log2(ratio.to_numpy(dtype=float)), math.log2(3), 1, ".2f")  # a factor of 2 is 1
    return Finding(f"{', '.join(f'{r:.2f}' for r in ratio)}, by seed; log2 {finding.ours}", finding.verdict)


def _averaged_bump(tables: Tables) -> Finding:
    table = _with(tables, _MEAN).query("n_examples >= 500")  # the paper's own curve is rough below
    bump = Bump.along(table, "n_examples")
    if bump is None:
        return not_run(f"{_MEAN} at three T of at least 500, two seeds, n = 10,000")
    peaks = table[table["n_examples"] == bump.at].sort_values("seed")["test_loss"]
    ours = f"{bump}; by seed {', '.join(f'{peak:.4f}' for peak in peaks)}"
    return judged(ours, bump.where == "inside" and bump.height > 3, bump.where == "first")


def _norm_peak(tables: Tables) -> Finding:
    peaks = {}
    for name in (_AS_STATED, _MEAN):
        norms = _with(tables, name).groupby("n_examples")["W_norm"].mean()
        if len(norms) < 5:
            return not_run(f"{name} at five T, n = 10,000")
        peaks[name] = (float(str(norms.idxmax())), norms.max())
    ours = "; ".join(f"{name}: {norm:.3g} at T = {t:g}" for name, (t, norm) in peaks.items())
    at = peaks[_MEAN][0]
    return judged(f"largest norm of W, {ours}", 15 <= at <= 60, not 15 <= at <= 60)


_CLAIMS = (
    _claim_of(
        "as-stated-is-jermyns",
        f"The setup as stated (squared errors summed, eps 1e-8) gives numbers like Jermyn's: {_LIKE_JERMYN}",
        _AS_STATED,
        "Jermyn",
        "Jermyn: up to 5,000, from T(1 - S) = 20 on",
    ),
    _claim_of(
        "mean-is-the-papers",
        "Averaging the squared error over features, which leaves everything but Adam's eps as it is, gives numbers"
        f" like the paper's: {_LIKE_THE_PAPER}",
        _MEAN,
        "paper",
        "paper: up to 1.015, from T(1 - S) = 5 on",
    ),
    _claim_of(
        "eps-is-the-papers",
        f"So does eps alone, n times larger, with squared errors summed: {_LIKE_THE_PAPER}",
        _LARGE_EPS,
        "paper",
        "paper: up to 1.015, from T(1 - S) = 5 on",
    ),
    _claim_of(
        "small-eps-is-jermyns",
        f"And back: averaging with eps n times smaller gives numbers like Jermyn's: {_LIKE_JERMYN}",
        _MEAN_SMALL_EPS,
        "Jermyn",
        "Jermyn: up to 5,000, from T(1 - S) = 20 on",
    ),
    Claim(
        "the-papers-curve",
        "Averaging gives the paper's mean test loss at ten T from 30 to 20,000 (within 0.002)",
        "Henighan et al. 2023, Figure 3; decided on after a first probe of one seed",
        "1.0075 at T = 30, 1.0004 at 500, 1.0150 at 2,000, 0.9988 at 20,000",
        _same_curve_as_the_paper,
        refuted_if="at some T our mean, with its interval of two standard errors, lies outside",
    ),
    Claim(
        "averaged-bump",
        "Averaged, test loss still has a bump (T of 500 and more; more than 3 standard errors high)",
        "Henighan et al. 2023, Figure 3",
        "1.0150 at T = 2,000, 1.0006 and 0.9994 beside it",
        _averaged_bump,
        refuted_if="test loss is highest at T = 500",
    ),
    Claim(
        "norm-peak",
        "Averaging also moves the largest norm of W to where the paper has it",
        "Henighan et al. 2023, Figure 4",
        "near T = 30 (within a factor of 2)",
        _norm_peak,
        refuted_if="it lies elsewhere",
    ),
    Claim(
        "level-norm",
        f"Averaged, the norm of W is level from T = 100 to 1,000 (within a factor of {_LEVEL:g}); as stated it rises",
        "A. Jermyn, comment in Henighan et al. 2023; decided on after the runs",
        "the paper's: more of a plateau; Jermyn's: still rising",
        _level_and_rising,
        refuted_if="in no dataset it is level averaged, or in no dataset it rises as stated",
    ),
    Claim(
        "norm-of-b",
        "The largest norm of b as stated, over that of averaging",
        "A. Jermyn, comment in Henighan et al. 2023; decided on after the runs",
        "Jermyn's is about 3 times the paper's (within a factor of 2: 1.5 to 6)",
        _ratio_of_b,
    ),
    Claim(
        "averaging-lowers-the-peak",
        "Averaging over features lowers the highest test loss",
        "new",
        "lower",
        _averaging_lowers_the_peak,
        refuted_if="it is lower in no dataset",
    ),
    Claim(
        "same-curves",
        "Averaging, and eps n times larger, have the same test loss at every T (within 2 %)",
        "derived: AdamW does not see the scale of the loss but through eps",
        "equal",
        _same_curves,
        refuted_if="they differ by more than 10 % at some T",
    ),
    Claim(
        "nothing-else",
        "No other change has numbers like the paper's",
        "new",
        "none",
        _nothing_else,
        refuted_if="another change has the paper's numbers in some seed",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    """Curves of the changes that were run at several T, and all others side by side at one."""
    table = summed(tables["runs"])
    reference = paper_reference().query("n_examples >= 30 and n_examples <= 20_000")
    paper = reference.query("test_loss > 0") if at_paper_setup(table) else None
    by_change = {str(name): rows for name, rows in table.groupby("group")}
    figure = Figure(figsize=(8, 9), layout="constrained")
    panes = figure.add_gridspec(2, 1, height_ratios=[1.3, 1])
    grid_of_curves = panes[0].subgridspec(2, 3)
    curves = [figure.add_subplot(grid_of_curves[k // 3, k % 3]) for k in range(6)]
    _draw_curves(by_change, curves, paper)
    figure.legend(*curves[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    size = _side_by_side(table, figure.add_subplot(panes[1]), paper)
    axes = (
        f"Axes show test loss, summed over features, less 1, that of always answering 0 (dashed); within"
        f" {_LINEAR:g} of 0 they are linear, beyond logarithmic"
    )
    caption = (
        f"{axes}. Top: along T, for each change that was run at several T, beside our runs as stated (grey) and the"
        " paper's values (squares). Dots are runs, lines means over seeds, bars one standard error either way."
        f" Below: every change at T = {size:,.0f}, a dot for each run. {sizes_of(table, ('group', 'n_examples'))}"
    )
    figures = {"discrepancy": Captioned(figure, caption)}
    if paper is None or tables["beside-the-paper"].empty:
        return figures
    closer = (
        "Our mean test loss, summed over features, as stated (grey) and averaged over features, beside the paper's, on"
        " the axis of the paper's figure; grey leaves it between T = 100 and 10,000. Bars are one standard error either"
        f" way. {sizes_of(table.query('group in [@_AS_STATED, @_MEAN] and n_examples >= 30'), ('group', 'n_examples'))}"
    )
    return {**figures, "in-the-papers-range": Captioned(_in_the_papers_range(by_change, reference), closer)}


def _draw_curves(by_change: Mapping[str, pd.DataFrame], axes: list[Axes], paper: pd.DataFrame | None) -> None:
    """Draw test loss along T, a panel for each change that was run at several T, beside the runs as stated."""
    sizes = set().union(*(rows["n_examples"] for rows in by_change.values()))
    stated = by_change[_AS_STATED].groupby("n_examples")["test_loss"].mean() - 1
    for k, (ax, name) in enumerate(zip(axes, (*_KEY, *_LOW_AT_SMALL_N), strict=True)):
        ax.plot(stated.index, stated, color=REFERENCE, lw=1.3, label="our mean, as stated")
        above = by_change[name].assign(test_loss=by_change[name]["test_loss"] - 1)
        runs_and_mean(above, "test_loss", ax, EXAMPLES, "ours with the change in the title")
        if paper is not None:
            loss = paper["test_loss"] - 1
            ax.plot(
                paper["n_examples"], loss, "s", mfc="none", mec="black", ms=6, mew=0.9, label="the paper (read off)"
            )
        log_axis(ax, sizes, apart=4)
        _signed_log(ax, "y", max(float(rows["test_loss"].max()) for rows in by_change.values()))
        ax.axhline(0, color="black", lw=0.6, ls="--")
        ax.set_title(name)
        ax.tick_params(labelleft=k % 3 == 0, labelbottom=k >= 3)
        if k % 3 == 0:
            ax.set_ylabel("test loss - 1")
        if k >= 3:
            ax.set_xlabel("training examples T")


def _side_by_side(table: pd.DataFrame, ax: Axes, paper: pd.DataFrame | None) -> float:
    """Draw a row per change, at the T in common with the largest loss as stated, and return this T."""
    order = _changes(int(table["n_features"].iloc[0]))
    names = [name for name in order if name in set(table["group"]) and name not in _KEY[2:]]
    at = table[table["group"].isin(names)].groupby("n_examples")["group"].nunique()
    common = table[table["n_examples"].isin(at.index[at == len(names)])]
    size = common[common["group"] == _AS_STATED].groupby("n_examples")["test_loss"].mean().idxmax()
    for row, name in enumerate(names):
        losses = common.loc[(common["group"] == name) & (common["n_examples"] == size), "test_loss"]
        ax.plot(losses - 1, np.full(len(losses), row), "o", ms=4.5, color=EXAMPLES, alpha=0.6, mew=0)
    if paper is not None and size in set(paper["n_examples"]):
        loss = float(paper.loc[paper["n_examples"] == size, "test_loss"].iloc[0]) - 1
        ax.axvline(loss, color="black", lw=4, alpha=0.2, label=f"the paper (read off), {loss:.4f}")
        ax.legend(loc="center", bbox_to_anchor=(0.62, 0.6))
    ax.axvline(0, color="black", lw=0.6, ls="--")
    ax.set_yticks(range(len(names)), names)
    _signed_log(ax, "x", float(common["test_loss"].max()))
    ax.set(xlabel="test loss - 1", title=f"each change, T = {size:,.0f}")
    ax.invert_yaxis()
    return float(str(size))


def _signed_log(ax: Axes, name: Literal["x", "y"], most: float) -> None:
    """Make an axis of test loss less 1 linear near 0 and logarithmic beyond, up to this test loss."""
    ax.set(**{f"{name}lim": (-5 * _LINEAR, 2 * most)})
    axis = ax.xaxis if name == "x" else ax.yaxis
    (ax.set_xscale if name == "x" else ax.set_yscale)("symlog", linthresh=_LINEAR)
    axis.set(major_locator=FixedLocator(_TICKS), major_formatter=StrMethodFormatter("{x:g}"))


def _in_the_papers_range(by_change: Mapping[str, pd.DataFrame], paper: pd.DataFrame) -> Figure:
    """Test loss averaged over features, and as stated, beside the paper's, on the axis of the paper's figure."""
    figure, ax = figure_of(size=(6.5, 3.6))
    ax.plot(paper["n_examples"], paper["test_loss"], "s", mfc="none", mec="black", ms=7, label="the paper (read off)")
    for name, color in ((_AS_STATED, REFERENCE), (_MEAN, EXAMPLES)):
        grouped = by_change[name].query("n_examples >= 30").groupby("n_examples")["test_loss"]
        ax.errorbar(grouped.mean().index, grouped.mean(), grouped.sem(), color=color, capsize=2, lw=1.3, label=name)
    ax.axhline(1, color="black", lw=0.6, ls="--")
    log_axis(ax, paper["n_examples"])
    ax.set(ylim=(0.995, 1.025), xlabel="training examples T", ylabel="test loss, summed over features")
    ax.legend(loc="upper left", bbox_to_anchor=(0.23, 1))
    return figure


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs = table_of(groups)
    table = summed(runs)
    keys = ["group", "n_examples"]
    norms = table.groupby(keys)[["W_norm", "b_norm"]].mean().reset_index()
    by_change = mean_losses(table, keys).merge(norms, on=keys).rename(columns={"group": "change"})
    return {
        "runs": runs,
        "numbers": _numbers(table),
        "by-change": by_change,
        "beside-the-paper": _beside_the_paper(table),
    }


STUDY = Study(
    "discrepancy", "Why does Jermyn's replication differ from the paper?", _groups, _tables, _CLAIMS, _figures
)
