"""What sets the T from which on features are learned: weight decay, or how often a feature occurs?

Source: A. Jermyn's comment "What sets the generalization scale?" in Henighan et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, judged, not_run, onsets
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import curves, figure_of
from byheart.toy.runs import Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of

_OCCURRENCES = (2, 3, 5, 7, 10, 15, 20, 30)  # T (1 - S): how often each feature occurs
_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_QUICK_OCCURRENCES, _QUICK_DECAYS = _OCCURRENCES[:-1], _DECAYS[::2]
_SPARSITIES: dict[Scale, tuple[float, ...]] = {
    "quick": (0.97, 0.98, 0.99),
    "medium": (0.97, 0.98, 0.99, 0.995, 0.998),
    "paper": (0.997, 0.998, 0.999, 0.9995),
}
_BY_DECAY = "weight decays, m = 2"
_JERMYN = "A. Jermyn, comment in Henighan et al. 2023"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """The sparsities at each m, and the weight decays at m = 2, which share runs."""
    seeds, groups = range(N_SEEDS[scale]), {}
    occurrences, decays = (_QUICK_OCCURRENCES, _QUICK_DECAYS) if scale == "quick" else (_OCCURRENCES, _DECAYS)
    for n_hidden in (2,) if scale == "quick" else (2, 4, 8):
        groups[f"m = {n_hidden}"] = [
            config
            for sparsity in _SPARSITIES[scale]
            for config in grid(setup(scale, n_hidden=n_hidden, sparsity=sparsity), _sizes(occurrences, sparsity), seeds)
        ]
    base = setup(scale)
    groups[_BY_DECAY] = grid(base, {"weight_decay": decays, **_sizes(occurrences, base.sparsity)}, seeds)
    return groups


def _sizes(occurrences: Sequence[int], sparsity: float) -> dict[str, list[int]]:
    return {"n_examples": [round(k / (1 - sparsity)) for k in occurrences]}


def _with_occurrences(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with T (1 - S) as ``occurrences``, rounded as the grid has it."""
    return runs.assign(occurrences=(runs["n_examples"] * (1 - runs["sparsity"])).round(1))


def _jumps(runs: pd.DataFrame) -> pd.DataFrame:
    """By group, sparsity and weight decay, and seed: the T (1 - S) at which the largest feature dimensionality jumps.

    From there on it stays above half of its value at the largest T. Infinite where that is not three times its value at
    the smallest T: nothing jumps up to T (1 - S) = ``up_to``.
    """
    rows = []
    for key, group in _with_occurrences(runs).groupby(["group", "n_hidden", "sparsity", "weight_decay"]):
        if group["occurrences"].nunique() < 3 or group["occurrences"].max() < 20:
            continue  # too few runs to tell
        by_seed = group.pivot_table(index="occurrences", columns="seed", values="feature_dimensionality_max")
        first, last = by_seed.iloc[0], by_seed.iloc[-1]
        half = group["seed"].map(last / 2)
        found = onsets(group, group["feature_dimensionality_max"] > half, "occurrences")
        up_to = by_seed.index[-1]
        rows += [(*key, seed, jump, up_to) for seed, jump in found.where(last >= 3 * first, math.inf).items()]
    return pd.DataFrame(rows, columns=["group", "n_hidden", "sparsity", "weight_decay", "seed", "jump", "up_to"])


def _means(jumps: pd.DataFrame, by: str) -> pd.DataFrame:
    """The geometric mean of the jump over seeds by a column, two standard errors either way, and all of it in words."""
    rows = {}
    for value, found in jumps.groupby(by):
        jump = found["jump"]
        if none := int(np.isinf(jump).sum()):
            words = "none" if none == len(jump) else f"{none} of {len(jump)} none"
            low = math.inf if none == len(jump) else 0.0  # datasets that disagree tell nothing
            rows[value] = (math.inf, low, math.inf, f"{words} up to {found['up_to'].max():g}")
            continue
        mean, error = float(np.log(jump).mean()), float(np.log(jump).sem())
        mean, low, high = math.exp(mean), math.exp(mean - 2 * error), math.exp(mean + 2 * error)
        rows[value] = (mean, low, high, f"{mean:.3g} ({jump.min():g} to {jump.max():g})")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "words"])


def _decay_does_not_matter(tables: Tables) -> Finding:
    means = _means(tables["jumps"].query("group == @_BY_DECAY"), "weight_decay")
    if len(means) < 3:
        return not_run("three weight decays")
    if np.isinf(means["mean"]).any():
        return Finding(f"T(1 - S) of the jump (seeds): {_in_words(means)}", "inconclusive")
    ratio = means["mean"].max() / means["mean"].min()
    ours = f"T(1 - S) of the jump (seeds): {_in_words(means)}; ratio {ratio:.2f}"
    return judged(ours, ratio < 1.5, ratio > 2)


def _in_words(means: pd.DataFrame, name: str = "") -> str:
    return ", ".join(f"{words} at {name}{value:g}" for value, words in means["words"].items())


def _ten_occurrences(n_hidden: int) -> Claim:
    def test(tables: Tables) -> Finding:
        jumps = tables["jumps"]
        means = _means(jumps[jumps["group"] == f"m = {n_hidden}"], "sparsity")
        if len(means) < 3:
            return not_run(f"m = {n_hidden} at three sparsities")
        ours = f"T(1 - S) of the jump (seeds): {_in_words(means, 'S = ')}"
        jumped = means[np.isfinite(means["mean"])]
        ratio = jumped["mean"].max() / jumped["mean"].min() if len(jumped) else 1.0
        near = bool(((means["low"] >= 5) & (means["high"] <= 20)).all())
        far = bool(((means["high"] < 5) | (means["low"] > 20)).all()) or ratio > 4
        return judged(f"{ours}; ratio {ratio:.2f}" if len(jumped) else ours, near and ratio < 2, far)

    return Claim(
        f"ten-occurrences-m{n_hidden}",
        f"m = {n_hidden}: whatever S, features are learned once each occurs about 10 times (5 to 20; ratio below 2)",
        _JERMYN if n_hidden == 2 else f"{_JERMYN} (curves collapse less cleanly for larger m)",
        "about 10",
        test,
        refuted_if="the jumps at all S lie outside 5 to 20, or differ by a factor of 4",
    )


_CLAIMS = (
    Claim(
        "weight-decay-does-not-matter",
        "The T of the jump does not depend on weight decay (ratio below 1.5; from 1e-4 to 1)",
        _JERMYN,
        "the same T",
        _decay_does_not_matter,
        refuted_if="the largest and smallest differ by more than a factor of 2",
    ),
    *(_ten_occurrences(n_hidden) for n_hidden in (2, 4, 8)),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    runs = _with_occurrences(tables["runs"])
    by_group = {str(label): rows for label, rows in runs.groupby("group")}
    labels = sorted(by_group, key=lambda label: (label != _BY_DECAY, label))
    n_rows = -(-len(labels) // 2)
    figure, axes = figure_of(n_rows, 2, size=(7, 3 * n_rows), sharex=True, sharey=True, squeeze=False)
    with_legend = set(labels[:1] + labels[-1:])  # all sparsities have the same lines, and the last panel has room
    for ax, label in zip(axes.flat, labels, strict=False):
        rows = by_group[label]
        by, words = ("weight_decay", "weight decay {:g}") if label == _BY_DECAY else ("sparsity", "S = {:g}")
        curves(rows, "feature_dimensionality_max", by, ax, "occurrences", words, apart=1.015)
        ax.set(title=f"{label}, S = {rows['sparsity'].iloc[0]:g}" if label == _BY_DECAY else f"sparsities, {label}")
        ax.set(ylabel="", xticks=[2, 5, 10, 20, 30], xticklabels=["2", "5", "10", "20", "30"])
        ax.minorticks_off()
        if label in with_legend:
            ax.legend(loc="lower right" if label == _BY_DECAY else "upper right")
    figure.supxlabel("T (1 - S): how often each feature occurs among the T training examples", fontsize=9)
    figure.supylabel("largest feature dimensionality", fontsize=9)
    caption = (
        "The largest dimensionality of any feature, near 0 while none is learned, against how often each feature"
        " occurs: top left for weight decays, else for sparsities (the lines of the last panel's legend). Dots are"
        " means over seeds, bars one standard error either way; lines stand a little apart so that bars can be told."
        f" {sizes_of(runs, ('group', 'weight_decay', 'sparsity', 'n_examples'))}"
    )
    return {"generalisation-scale": Captioned(figure, caption)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs = table_of(groups)
    return {"runs": runs, "jumps": _jumps(runs)}


STUDY = Study(
    "generalisation-scale",
    "What sets the T from which on features are learned: weight decay, or how often a feature occurs?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
