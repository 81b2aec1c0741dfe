"""Does test loss peak between memorising and generalising, and do examples give way to features there?

Source: Henighan et al. 2023, Figures 2 to 4; A. Jermyn's replication in the comments on it. The quick scale has
Hobbhahn's sizes (n = 1,000, S = 0.99), the number of steps of the ARENA 3.0 exercise, and T in steps of half a decade
above the polygons, so that each T there stands for a regime of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byheart.geometry import example_dimensionality, feature_dimensionality, is_regular_polygon
from byheart.studies.study import (
    Claim,
    Finding,
    Scale,
    Study,
    compare,
    compare_curve,
    judge_bump,
    judged,
    not_run,
    onsets,
    setup,
    share,
)
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import double_descent, is_paper_setup, norms_and_scales, paper_reference, reproduction_norms
from byheart.toy.model import Reduction
from byheart.toy.runs import Run, Runs, summed
from byheart.toy.sweep import grid

_PAPER_T = (3, 5, 6, 8, 10, 15, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_T: dict[Scale, tuple[int | str, ...]] = {
    "quick": (3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 100, 300, 1_000, 3_000),
    "medium": (3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, "inf"),
    "paper": (*_PAPER_T, 50_000, 100_000, 200_000, 500_000, "inf"),  # the last take 10 to 60 minutes a run
}
_ROUGH_PATCH = 15  # up to here the paper's own losses jump about, without comment
_N_SEEDS = 4
_N_SEEDS_AT_10 = 16  # only part of them memorise all ten examples
_GENERALISES = 20_000  # the T of the paper's figures at which features are learned
_FEW, _NEAR = 6, 0.15  # up to which T examples are on the line m/T, and how near; the paper's own within 0.14
_MEMORISED = 1e-3  # train loss; an unmemorised example of T = 15 alone adds 1/15


def _configs(n_hidden: int, reduction: Reduction, scale: Scale) -> list[TrainConfig]:
    base = setup(scale, n_hidden=n_hidden, reduction=reduction)
    base = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, 24))
    more = grid(base, {"n_examples": (10,)}, range(_N_SEEDS, _N_SEEDS_AT_10)) if n_hidden == 2 else []
    n_seeds = 2 if (n_hidden, reduction) != (2, "sum") and scale == "quick" else _N_SEEDS
    return grid(base, {"n_examples": _T[scale]}, range(n_seeds)) + more


def _at_size(runs: Runs, size: float) -> Runs:
    return runs.where(n_examples="inf" if math.isinf(size) else size)


def _table(runs: Runs) -> pd.DataFrame:
    """The runs of the seeds that every T has, losses summed over features."""
    return summed(runs.table[runs.table["seed"] < _N_SEEDS])


def _bump(runs: Runs) -> Finding:
    missing = f"three T above {_ROUGH_PATCH}, two seeds"
    return judge_bump(_table(runs).query("n_examples > @_ROUGH_PATCH"), missing)


def _exchange(runs: Runs) -> Finding:
    largest = float(runs.table["n_examples"].max())
    small, large = (_at_size(runs, size) for size in (5, largest))
    if not len(small) or largest * (1 - small.headers[0].config.sparsity) < 19.9:
        return not_run("T = 5 and some T(1 - S) of at least 20")

    def examples_lead(run: Run) -> bool:
        return bool(example_dimensionality(run.hidden, run.repeats).max() > feature_dimensionality(run.W).max())

    holds = [examples_lead(a) and not examples_lead(b) for a, b in zip(small, large, strict=True)]
    return share(holds, f"have an example on top at T = 5 and a feature on top at T = {largest:g}")


def _pentagon(runs: Runs) -> Finding:
    chosen = runs.where(n_examples=5)
    if not len(chosen):
        return not_run("T = 5")
    values = [example_dimensionality(run.hidden) for run in chosen]
    regular = [is_regular_polygon(run.hidden) for run in chosen]
    holds = [alike and bool(np.abs(v - 0.4).max() <= 0.03) for alike, v in zip(regular, values, strict=True)]
    finding = share(holds, "are regular, with all five within 0.03 of 0.40")
    spread = f"; all between {min(v.min() for v in values):.3f} and {max(v.max() for v in values):.3f}"
    return Finding(finding.ours + spread, finding.verdict)


def _follows_line(runs: Runs) -> Finding:
    furthest: dict[int, float] = {}
    for run in runs:
        if run.config.n_examples != "inf" and run.config.n_examples <= _FEW:
            off = np.abs(example_dimensionality(run.hidden) - run.config.n_hidden / run.config.n_examples).max()
            furthest[run.config.seed] = max(furthest.get(run.config.seed, 0.0), float(off))
    if not furthest:
        return not_run(f"T up to {_FEW}")
    finding = share([off <= _NEAR for off in furthest.values()], f"have every example within {_NEAR} of it")
    words = ", ".join(f"{off:.2f}" for off in furthest.values())
    return Finding(f"{finding.ours}; furthest {words}, by seed", finding.verdict)


def _decagon(runs: Runs) -> Finding:
    chosen = runs.where(n_examples=10)
    if not len(chosen):
        return not_run("T = 10")
    losses = summed(chosen.table).set_index("id")["train_loss"]
    memorised = [run.hidden for run in chosen if losses[run.id] < _MEMORISED]
    decagons = [hidden for hidden in memorised if is_regular_polygon(hidden)]
    found = f"{len(memorised)} of {len(chosen)} seeds memorise all ten, {len(decagons)} as a regular decagon"
    if not decagons:
        return Finding(found, "differs" if len(memorised) > 1 else "inconclusive")
    finding = compare([float(np.linalg.norm(hidden, axis=1).mean()) for hidden in decagons], 2.29, 0.11, ".3f")
    return Finding(f"{found}; radius {finding.ours}", finding.verdict)


def _ring(runs: Runs) -> Finding:
    lengths = [np.linalg.norm(run.hidden, axis=1) for run in runs.where(n_examples=30)]
    return compare([float((r > r.max() / 2).sum()) for r in lengths], 21, 2, ".1f")


def _at(n_examples: int, column: str, paper: float, tolerance: float) -> Claim:
    def test(runs: Runs) -> Finding:
        table = _table(runs)
        return compare(table.loc[table["n_examples"] == n_examples, column].to_numpy(), paper, tolerance)

    return Claim(
        f"{column.replace('_', '-')}-{n_examples}",
        f"{column.replace('_', ' ').capitalize()} at T = {n_examples:,}",
        "Henighan et al. 2023, Figure 3",
        f"{paper:.4f} (read off to 0.0002; tolerance {tolerance:g})",
        test,
        True,
    )


def _judge_sizes(found: pd.Series[float], expected: float, factor: float = 1) -> Finding:
    """Judge a T of each seed against the expected one, within a factor."""
    ours = ", ".join(f"{t:g}" if math.isfinite(t) else "beyond the range" for t in found)
    if len(found) < 2:
        return Finding(f"T = {ours} (one seed)", "inconclusive")
    same = found.between(expected / factor, expected * factor)
    return judged(f"T = {ours} (by seed)", bool(same.all()), not same.any())


def _largest_at(table: pd.DataFrame, values: pd.Series[float]) -> pd.Series[float]:
    """The T of the largest value, by seed."""
    return table.loc[values.groupby(table["seed"]).idxmax()].set_index("seed")["n_examples"]


def _generalises(runs: Runs) -> Finding:
    table = _table(runs)
    return _judge_sizes(onsets(table, table["test_loss"] < 1), 5_000)


def _middle(runs: Runs) -> Finding:
    table = _table(runs)
    in_it = table[(table["test_loss"] > 1.01) & (table["n_examples"] > 30)]
    first = in_it.groupby("seed")["n_examples"].min().reindex(sorted(set(table["seed"]))).fillna(math.inf)
    return _judge_sizes(first, 2_000)


def _height(runs: Runs) -> Finding:
    table = _table(runs).query("n_examples > @_ROUGH_PATCH")
    by_size = [rows.to_numpy() for _, rows in table.groupby("n_examples")["test_loss"]]
    return compare(max(by_size, key=np.mean), 1.015, 0.005, ".4g") if by_size else not_run("T above 15")


def _five_features(runs: Runs) -> Finding:
    chosen = _at_size(runs, _GENERALISES)
    if not len(chosen):
        return not_run(f"T = {_GENERALISES:,}")
    values = [np.sort(feature_dimensionality(run.W))[::-1] for run in chosen]
    finding = share(
        [bool(v[4] >= 0.18 and v[0] <= 0.3 and v[5] < v[4] / 2) for v in values],
        f"have exactly five features at 0.18 to 0.30 at T = {_GENERALISES:,}",
    )
    return Finding(
        finding.ours + "; sixth and fifth: " + ", ".join(f"{v[5]:.2f} and {v[4]:.2f}" for v in values), finding.verdict
    )


def _largest_feature(runs: Runs) -> Finding:
    table = _table(runs).query("n_examples > @_ROUGH_PATCH and n_examples < inf")
    if not len(table):
        return not_run(f"T above {_ROUGH_PATCH}")
    paper = paper_reference().set_index("n_examples")["feature_dim_max"]
    return compare_curve(table, "feature_dimensionality_max", paper, 0.02, ".3f")


def _norm_peak(runs: Runs) -> Finding:
    table = _table(runs)
    return _judge_sizes(_largest_at(table, table["W_norm"]), 30, factor=2)


def _hidden_peak(runs: Runs) -> Finding:
    table = _table(runs)
    longest = {run.id: float(np.linalg.norm(run.hidden, axis=1).max()) for run in runs}
    return _judge_sizes(_largest_at(table, table["id"].map(longest)), 30, factor=2)


def _plateau(runs: Runs) -> Finding:
    table = _table(runs)
    chosen = table.loc[table["n_examples"] == _GENERALISES, "W_norm"]
    return compare(chosen.to_numpy(), math.sqrt(5), 0.15, ".3f")


_FIGURE_3 = "Henighan et al. 2023, Figure 3"
_CLAIMS = (
    Claim(
        "bump",
        "Between memorising and generalising, test loss peaks (T above 15; more than 3 standard errors above"
        " the lowest mean on either side)",
        _FIGURE_3,
        "1.0150 at T = 2,000, 1.0006 and 0.9994 beside it",
        _bump,
        refuted_if="test loss is highest at the smallest T of the range",
    ),
    Claim(
        "exchange",
        "At small T training examples have the largest dimensionality, at large T features do",
        _FIGURE_3,
        "examples to about T = 1,000, features from 10,000",
        _exchange,
        refuted_if="no dataset shows it",
    ),
    Claim(
        "pentagon",
        "T = 5: the hidden vectors form a regular pentagon, dimensionalities 2/5",
        "Henighan et al. 2023, Figure 2",
        "0.38 to 0.41",
        _pentagon,
        refuted_if="no dataset does",
    ),
    Claim(
        "m-over-T",
        f"At small T the dimensionality of every example is m/T (T up to {_FEW}, within {_NEAR})",
        _FIGURE_3,
        "within 0.14 (T = 3: 0.54 to 0.81)",
        _follows_line,
        refuted_if="no dataset does",
    ),
    Claim(
        "decagon",
        "T = 10: where it is memorised, a regular decagon, of the least radius at which ten unit examples can be",
        "Henighan et al. 2023, Figure 2; the radius 1/sqrt(1 - cos 36 deg) is derived",
        "2.29 (tolerance 5 %)",
        _decagon,
        refuted_if="no memorised set is regular, or the radii lie outside the tolerance",
    ),
    Claim(
        "ring",
        "T = 30: only some examples are on the circle, the others at the origin (longer than half the longest)",
        "Henighan et al. 2023, Figure 2",
        "20 to 22 (tolerance 2 about 21)",
        _ring,
        True,
    ),
    _at(5, "test_loss", 1.0000, 0.0005),
    _at(100, "test_loss", 1.0031, 0.0005),
    _at(500, "test_loss", 1.0004, 0.0005),
    Claim(
        "middle-onset",
        "Onset of the middle regime (first T above 30 whose test loss exceeds 1.01)",
        f"{_FIGURE_3} (Jermyn: about 100)",
        "2,000 on this grid (regime drawn from 700)",
        _middle,
        True,
        refuted_if="no dataset begins there",
    ),
    Claim(
        "peak-height",
        "Largest mean test loss above T = 15",
        f"{_FIGURE_3} (Jermyn: up to 5,000)",
        "1.0150 (tolerance 0.005)",
        _height,
        True,
    ),
    Claim(
        "generalising-onset",
        "Onset of the generalising regime (T from which on test loss stays below 1)",
        f"{_FIGURE_3} (Jermyn: 20,000)",
        "5,000",
        _generalises,
        True,
        refuted_if="no dataset begins there",
    ),
    _at(10_000, "test_loss", 0.9989, 0.0003),
    _at(20_000, "test_loss", 0.9988, 0.0003),
    Claim(
        "largest-feature",
        f"The largest dimensionality of a feature, at every T above {_ROUGH_PATCH}",
        _FIGURE_3,
        "0.05 at T = 30, 0.01 at 500, 0.10 at 5,000, 0.25 at 10,000 (read off to 0.01; tolerance 0.02)",
        _largest_feature,
        True,
        refuted_if="at some T our mean, with its interval of two standard errors, lies outside the tolerance",
    ),
    Claim(
        "five-features",
        f"At T = {_GENERALISES:,} exactly five features stand out, below the ideal 2/5",
        _FIGURE_3,
        "five at 0.21 to 0.27",
        _five_features,
        True,
        refuted_if="no dataset does",
    ),
    Claim(
        "hidden-peak",
        "The longest hidden vector is largest at",
        "Henighan et al. 2023, Figure 4",
        "near T = 30 (within a factor of 2)",
        _hidden_peak,
        True,
        refuted_if="no dataset has its peak there",
    ),
    Claim(
        "norm-peak",
        "The norm of W is largest at",
        "Henighan et al. 2023, Figure 4 (Jermyn: still rising to 1,000)",
        "near T = 30 (within a factor of 2)",
        _norm_peak,
        True,
        refuted_if="no dataset has its peak there",
    ),
    Claim(
        "plateau",
        f"At T = {_GENERALISES:,} the norm of W is close to that of a pentagon of unit features",
        "Henighan et al. 2023, Figure 4",
        "sqrt(5) = 2.236 (tolerance 0.15)",
        _plateau,
        True,
    ),
)


def _figures(runs: Runs) -> dict[str, Figure]:
    sizes = sorted(set(runs.table["n_examples"]))
    wanted = (5, 30, 200, 2_000, 20_000) if is_paper_setup(runs) else (5, 10, 30, 300, 3_000)
    shown = [size for size in wanted if size in sizes] or sizes[:5]
    return {"double-descent": double_descent(runs, shown), "norms": norms_and_scales(runs, shown)}


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    """Our values by T beside the paper's and, for the norms, another reproduction's (at the paper's setup)."""
    grouped = summed(runs.table).groupby("n_examples")
    ours = grouped["test_loss"].agg(seeds="size", test_loss="mean", test_loss_se="sem")
    ours["train_loss"] = grouped["train_loss"].mean()
    extremes = pd.DataFrame(
        [
            (
                float(run.config.n_examples),
                *_range(example_dimensionality(run.hidden, run.repeats)),
                feature_dimensionality(run.W).max(),
                np.linalg.norm(run.hidden, axis=1).max(),
            )
            for run in runs
        ],
        columns=["n_examples", "example_dim_min", "example_dim_max", "feature_dim_max", "hidden_norm_max"],
    ).groupby("n_examples")
    ours["example_dim_min"] = extremes["example_dim_min"].min()
    ours["example_dim_max"] = extremes["example_dim_max"].max()
    ours["feature_dim_max"] = extremes["feature_dim_max"].max()
    ours["hidden_norm_max"] = extremes["hidden_norm_max"].mean()
    for column in ("W_norm", "b_norm", "n_features_represented"):
        ours[column] = grouped[column].mean()
    if is_paper_setup(runs):
        paper = paper_reference().set_index("n_examples").add_prefix("paper_")
        norms = reproduction_norms().set_index("n_examples").add_prefix("reproduction_")
        ours = ours.join(paper[[c for c in paper if "top5" not in str(c)]]).join(norms)
    return {"by-size": ours.reset_index()}


_QUESTION = "Does test loss peak between memorising and generalising, and do examples give way to features there"
STUDY = Study("double-descent", f"{_QUESTION}?", functools.partial(_configs, 2, "sum"), _CLAIMS, _figures, _tables)
STUDY_AVERAGED = Study(
    "double-descent-averaged",
    f"{_QUESTION}, with squared errors averaged over features?",
    functools.partial(_configs, 2, "mean"),
    _CLAIMS,
    _figures,
    _tables,
)
STUDY_M4 = Study(
    "double-descent-m4",
    f"{_QUESTION}, with four hidden units?",
    functools.partial(_configs, 4, "sum"),
    [claim for claim in _CLAIMS if claim.id in ("bump", "exchange")],
    _figures,
    _tables,
)
