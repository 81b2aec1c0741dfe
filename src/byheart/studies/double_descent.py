"""Does test loss peak between memorizing and generalising, and do examples give way to features there?

Source: Henighan et al. 2023, Figures 2 to 4; A. Jermyn's replication in the comments on it. The quick scale has
Hobbhahn's sizes (n = 1,000, S = 0.99), the number of steps of the ARENA 3.0 exercise, and T in steps of half a decade
above the polygons, so that each T there stands for a regime of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, compare, compare_curve, judge_bump, judged, not_run, onsets, share
from byheart.geometry import example_dimensionality, feature_dimensionality, is_regular_polygon
from byheart.studies.readme import sizes_of
from byheart.studies.study import Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import double_descent, norms_and_scales, overview
from byheart.toy.model import Reduction
from byheart.toy.reference import paper_reference, reproduction_norms
from byheart.toy.runs import Run, Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import at_paper_setup, dimensionality_counts, table_of, vectors_of

_EVERY_T, _MORE_AT_10 = "every T", "more datasets at T = 10"
_PAPER_T = (3, 5, 6, 8, 10, 15, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_T: dict[Scale, tuple[int | str, ...]] = {
    "quick": (3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 100, 300, 1_000, 3_000),
    "medium": (3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, "inf"),
    "paper": (*_PAPER_T, 50_000, 100_000, 200_000, 500_000, "inf"),  # the last take 10 to 60 minutes a run
}
_ROUGH_PATCH = 15  # up to here the paper's own losses jump about, without comment
_N_SEEDS = 4
_MANY, _N_SEEDS_OF_MANY = 100_000, 2  # beyond this T a run takes half an hour or more
_FRESH = 20_480  # a step at the paper's scale, of infinite data; with 2,048 no feature is learned (study "analytic")
_N_SEEDS_AT_10 = 16  # only part of them memorize all ten examples
_GENERALISES = 20_000  # the T of the paper's figures at which features are learned
_FEW, _NEAR = 6, 0.15  # up to which T examples are on the line m/T, and how near; the paper's own within 0.14
_MEMORIZED = 1e-3  # train loss; an unmemorized example of T = 15 alone adds 1/15


def _groups(n_hidden: int, reduction: Reduction, scale: Scale) -> dict[str, list[TrainConfig]]:
    base = setup(scale, n_hidden=n_hidden, reduction=reduction)
    base = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, 24))
    n_seeds = 2 if (n_hidden, reduction) != (2, "sum") and scale == "quick" else _N_SEEDS
    every = grid(base, {"n_examples": _T[scale]}, range(n_seeds))
    if scale == "paper":
        every = [dataclasses.replace(c, batch_size=_FRESH) if c.n_examples == "inf" else c for c in every]
    groups = {_EVERY_T: [c for c in every if float(c.n_examples) <= _MANY or c.seed < _N_SEEDS_OF_MANY]}
    if n_hidden == 2:
        groups[_MORE_AT_10] = grid(base, {"n_examples": (10,)}, range(_N_SEEDS, _N_SEEDS_AT_10))
    return groups


def _table(tables: Tables) -> pd.DataFrame:
    """The runs of the seeds that every T has, losses summed over features."""
    return summed(tables["runs"].query("group == @_EVERY_T"))


def _bump(tables: Tables) -> Finding:
    missing = f"three T above {_ROUGH_PATCH}, two seeds"
    return judge_bump(_table(tables).query("n_examples > @_ROUGH_PATCH"), missing)


def _exchange(tables: Tables) -> Finding:
    table = _table(tables)
    largest = table["n_examples"].max()
    small, large = (table[table["n_examples"] == size].set_index("seed") for size in (5, largest))
    small = small.loc[small.index.isin(large.index)]
    if small.empty or largest * (1 - table["sparsity"].iloc[0]) < 19.9:
        return not_run("T = 5 and some T(1 - S) of at least 20")
    holds = small["example_dimensionality_max"] > small["feature_dimensionality_max"]
    holds &= large["example_dimensionality_max"] <= large["feature_dimensionality_max"]
    at = f"at T = {largest:g}" if math.isfinite(largest) else "with infinite data"
    return share(holds.tolist(), f"have an example on top at T = 5 and a feature on top {at}")


def _pentagon(tables: Tables) -> Finding:
    chosen = tables["runs"].query("n_examples == 5")
    if chosen.empty:
        return not_run("T = 5")
    low, high = chosen["example_dimensionality_min"], chosen["example_dimensionality_max"]
    holds = chosen["regular"] & (low >= 0.37) & (high <= 0.43)
    finding = share(holds.tolist(), "are regular, with all five within 0.03 of 0.40")
    return finding.also(f"all between {low.min():.3f} and {high.max():.3f}")


def _follows_line(tables: Tables) -> Finding:
    table = _table(tables).query("n_examples <= @_FEW")
    if table.empty:
        return not_run(f"T up to {_FEW}")
    line = table["n_hidden"] / table["n_examples"]
    off = table[["example_dimensionality_min", "example_dimensionality_max"]].sub(line, axis=0).abs().max(axis=1)
    furthest = off.groupby(table["seed"]).max()
    finding = share((furthest <= _NEAR).tolist(), f"have every example within {_NEAR} of it")
    return finding.also(f"furthest {', '.join(f'{most:.2f}' for most in furthest)}, by seed")


def _decagon(tables: Tables) -> Finding:
    chosen = summed(tables["runs"].query("n_examples == 10"))
    if chosen.empty:
        return not_run("T = 10")
    memorized = chosen[chosen["train_loss"] < _MEMORIZED]
    decagons = memorized[memorized["regular"]]
    found = f"{len(memorized)} of {len(chosen)} seeds memorize all ten, {len(decagons)} as a regular decagon"
    if decagons.empty:
        return Finding(found, "differs" if len(memorized) > 1 else "inconclusive")
    finding = compare(decagons["hidden_norm_mean"].to_numpy(), 2.29, 0.11, ".3f")
    return Finding(f"{found}; radius {finding.ours}", finding.verdict)


def _ring(tables: Tables) -> Finding:
    chosen = tables["runs"].query("n_examples == 30")
    return compare(chosen["n_longer_than_half"].to_numpy(), 21, 2, ".1f")


def _loss_at(n_examples: int, paper: float, tolerance: float) -> Claim:
    def test(tables: Tables) -> Finding:
        table = _table(tables)
        return compare(table.loc[table["n_examples"] == n_examples, "test_loss"].to_numpy(), paper, tolerance)

    statement, value = f"Test loss at T = {n_examples:,}", f"{paper:.4f} (read off to 0.0002; tolerance {tolerance:g})"
    return Claim(f"test-loss-{n_examples}", statement, "Henighan et al. 2023, Figure 3", value, test, True)


def _judge_sizes(found: pd.Series[float], expected: float, factor: float = 1) -> Finding:
    """Judge a T of each seed against the expected one, within a factor."""
    ours = ", ".join(f"{t:g}" if math.isfinite(t) else "beyond the range" for t in found)
    if len(found) < 2:
        return Finding(f"T = {ours} (one seed)", "inconclusive")
    same = found.between(expected / factor, expected * factor)
    return judged(f"T = {ours} (by seed)", bool(same.all()), not same.any())


def _generalises(tables: Tables) -> Finding:
    table = _table(tables)
    return _judge_sizes(onsets(table, table["test_loss"] < 1), 5_000)


def _middle(tables: Tables) -> Finding:
    table = _table(tables)
    in_it = table[(table["test_loss"] > 1.01) & (table["n_examples"] > 30)]
    first = in_it.groupby("seed")["n_examples"].min().reindex(sorted(set(table["seed"]))).fillna(math.inf)
    return _judge_sizes(first, 2_000)


def _height(tables: Tables) -> Finding:
    table = _table(tables).query("n_examples > @_ROUGH_PATCH")
    by_size = [rows.to_numpy() for _, rows in table.groupby("n_examples")["test_loss"]]
    return compare(max(by_size, key=np.mean), 1.015, 0.005, ".4g") if by_size else not_run("T above 15")


def _five_features(tables: Tables) -> Finding:
    chosen = tables["runs"].query("n_examples == @_GENERALISES")
    if chosen.empty:
        return not_run(f"T = {_GENERALISES:,}")
    first, fifth, sixth = (chosen[f"feature_dimensionality_{rank}"] for rank in ("max", "5", "6"))
    holds = (fifth >= 0.18) & (first <= 0.3) & (sixth < fifth / 2)
    finding = share(holds.tolist(), f"have exactly five features at 0.18 to 0.30 at T = {_GENERALISES:,}")
    both = ", ".join(f"{a:.2f} and {b:.2f}" for a, b in zip(sixth, fifth, strict=True))
    return finding.also(f"sixth and fifth: {both}")


def _largest_feature(tables: Tables) -> Finding:
    table = _table(tables).query("n_examples > @_ROUGH_PATCH and n_examples < inf")
    if table.empty:
        return not_run(f"T above {_ROUGH_PATCH}")
    paper = paper_reference().set_index("n_examples")["feature_dim_max"]
    return compare_curve(table, "feature_dimensionality_max", paper, 0.02, ".3f")


def _largest_near_30(column: str, tables: Tables) -> Finding:
    """Judge the T of the largest value of a column, by seed."""
    table = _table(tables)
    found = table.loc[table.groupby("seed")[column].idxmax()].set_index("seed")["n_examples"]
    return _judge_sizes(found, 30, factor=2)


def _plateau(tables: Tables) -> Finding:
    chosen = _table(tables).query("n_examples == @_GENERALISES")
    return compare(chosen["W_norm"].to_numpy(), math.sqrt(5), 0.15, ".3f")


_FIGURE_3 = "Henighan et al. 2023, Figure 3"
_CLAIMS = (
    Claim(
        "bump",
        "Between memorizing and generalising, test loss peaks (T above 15; more than 3 standard errors above"
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
        "T = 10: where it is memorized, a regular decagon, of the least radius at which ten unit examples can be",
        "Henighan et al. 2023, Figure 2; the radius 1/sqrt(1 - cos 36 deg) is derived",
        "2.29 (tolerance 5 %)",
        _decagon,
        refuted_if="no memorized set is regular, or the radii lie outside the tolerance",
    ),
    Claim(
        "ring",
        "T = 30: only some examples are on the circle, the others at the origin (longer than half the longest)",
        "Henighan et al. 2023, Figure 2",
        "20 to 22 (tolerance 2 about 21)",
        _ring,
        True,
    ),
    _loss_at(5, 1.0000, 0.0005),
    _loss_at(100, 1.0031, 0.0005),
    _loss_at(500, 1.0004, 0.0005),
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
    _loss_at(10_000, 0.9989, 0.0003),
    _loss_at(20_000, 0.9988, 0.0003),
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
        functools.partial(_largest_near_30, "hidden_norm_max"),
        True,
        refuted_if="no dataset has its peak there",
    ),
    Claim(
        "norm-peak",
        "The norm of W is largest at",
        "Henighan et al. 2023, Figure 4 (Jermyn: still rising to 1,000)",
        "near T = 30 (within a factor of 2)",
        functools.partial(_largest_near_30, "W_norm"),
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


def _figures(tables: Tables) -> dict[str, Captioned]:
    sizes = sizes_of(tables["runs"])
    if batches := sorted(set(tables["runs"].query("n_examples == inf")["batch_size"])):
        sizes += (
            f" \N{INFINITY}: infinite data, {' or '.join(f'{batch:,}' for batch in batches)} fresh examples a step."
        )
    spread = "Dots are runs, lines means over seeds, bars one standard error either way"
    below = (
        "vectors of the first dataset at some T: the columns of W, one for each feature, and the hidden vectors, one"
        " for each training example (beyond two hidden units in their first two principal components)"
    )
    return {
        "overview": Captioned(
            overview(tables),
            f"Top: test loss, summed over features, against T; dashed: always answering 0. {spread}. Below: {below},"
            f" each panel on a scale of its own. {sizes}",
        ),
        "double-descent": Captioned(
            double_descent(tables),
            "From the top: test loss, summed over features, against"
            f" T{', whole and in the range of the paper' * at_paper_setup(tables['runs'])}; the dimensionality of"
            " every feature and training example of all seeds, a dot each, darker where several fall together;"
            f" {below}, each panel on a scale of its own. {spread}.{_OF_THE_PAPER * at_paper_setup(tables['runs'])}"
            f" {sizes}",
        ),
        "norms": Captioned(
            norms_and_scales(tables),
            f"Top: the norms of W and b, and the length of the longest hidden vector. {spread}. Below: {below}, each"
            f" row on one scale. {sizes}",
        ),
    }


def measured(run: Run) -> dict[str, object]:
    """What is kept of a run's vectors, beside its metrics."""
    lengths, features = np.linalg.norm(run.hidden, axis=1), np.sort(feature_dimensionality(run.W))[::-1]
    planar = run.hidden.shape[1] == 2 and len(run.hidden) >= 3
    return {
        "id": run.id,
        "example_dimensionality_min": example_dimensionality(run.hidden, run.repeats).min(),
        "feature_dimensionality_5": features[4],
        "feature_dimensionality_6": features[5],
        "hidden_norm_mean": lengths.mean(),
        "hidden_norm_max": lengths.max(),
        "n_longer_than_half": (lengths > lengths.max() / 2).sum(),
        "regular": planar and is_regular_polygon(run.hidden),
    }


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    every = groups.get(_EVERY_T, Runs([]))
    vectors = pd.DataFrame([measured(run) for runs in groups.values() for run in runs])
    table = table_of(groups).merge(vectors, on="id")
    sizes = sorted({float(header.config.n_examples) for header in every.headers})
    shown = _shown(sizes, table)
    first = [next(iter(every.where(n_examples=size if math.isfinite(size) else "inf"))) for size in shown]
    counts = dimensionality_counts(run for runs in groups.values() for run in runs)
    return {"runs": table, "by-size": _by_size(table), "dimensionalities": counts, "vectors": vectors_of(first)}


def _shown(sizes: Sequence[float], runs: pd.DataFrame) -> list[float]:
    """Return the T whose vectors are drawn, of those that there are."""
    wanted = (5, 30, 200, 2_000, 20_000) if at_paper_setup(runs) else (5, 10, 30, 300, 3_000)
    return [size for size in wanted if size in sizes] or list(sizes[:5])


def _add(before: Tables, new: Tables) -> dict[str, pd.DataFrame]:
    """Return the tables of all runs, from those of some and those of others."""
    runs = pd.concat([before["runs"], new["runs"]], ignore_index=True)
    runs = runs.sort_values(["group", "n_examples", "seed"], ignore_index=True)
    counts = pd.concat([before["dimensionalities"], new["dimensionalities"]])
    counts = counts.groupby(["n_examples", "of", "dimensionality"])["count"].sum().reset_index()
    others = new["vectors"][~new["vectors"]["n_examples"].isin(before["vectors"]["n_examples"])]
    vectors = pd.concat([before["vectors"], others]).sort_values("n_examples", kind="stable", ignore_index=True)
    vectors = vectors[vectors["n_examples"].isin(_shown(sorted(set(runs["n_examples"])), runs))]
    return {"runs": runs, "by-size": _by_size(runs), "dimensionalities": counts, "vectors": vectors}


def _by_size(table: pd.DataFrame) -> pd.DataFrame:
    """Our values by T beside the paper's and, for the norms, another reproduction's (at the paper's setup)."""
    grouped = summed(table).groupby("n_examples")
    ours = grouped.agg(
        seeds=("test_loss", "size"),
        test_loss=("test_loss", "mean"),
        test_loss_se=("test_loss", "sem"),
        train_loss=("train_loss", "mean"),
        example_dim_min=("example_dimensionality_min", "min"),
        example_dim_max=("example_dimensionality_max", "max"),
        feature_dim_max=("feature_dimensionality_max", "max"),
        hidden_norm_max=("hidden_norm_max", "mean"),
        W_norm=("W_norm", "mean"),
        b_norm=("b_norm", "mean"),
        n_features_represented=("n_features_represented", "mean"),
    )
    if at_paper_setup(table):
        paper = paper_reference().set_index("n_examples").add_prefix("paper_")
        norms = reproduction_norms().set_index("n_examples").add_prefix("reproduction_")
        ours = ours.join(paper[[c for c in paper if "top5" not in str(c)]]).join(norms)
    return ours.reset_index()


_OF_THE_PAPER = (
    " Squares, pale bars and short blue dashes are the paper's, read off its Figure 3; dotted: m / T, what each example"
    " has if all have as much. Triangles: a mean above the pane, and its value."
)
_QUESTION = "Does test loss peak between memorizing and generalising, and do examples give way to features there"


def _study(name: str, more: str, n_hidden: int, reduction: Reduction, claims: Sequence[Claim] = _CLAIMS) -> Study:
    groups = functools.partial(_groups, n_hidden, reduction)
    return Study(name, f"{_QUESTION}{more}?", groups, _tables, claims, _figures, add=_add)


STUDY = _study("double-descent", "", 2, "sum")
STUDY_AVERAGED = _study("double-descent-averaged", ", with squared errors averaged over features", 2, "mean")
_WHATEVER_THE_WIDTH = [claim for claim in _CLAIMS if claim.id in ("bump", "exchange")]
STUDY_M4 = _study("double-descent-m4", ", with four hidden units", 4, "sum", _WHATEVER_THE_WIDTH)
