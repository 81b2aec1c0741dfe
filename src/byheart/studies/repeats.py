"""What happens to training examples that occur several times: when are they memorised, and at whose cost?

Source: A. Jermyn's comment "Repeated data points" in Henighan et al. 2023 (m = 2).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.studies.study import N_SEEDS, Claim, Finding, Scale, Study, compare, not_run, onsets, setup, share
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import figure_of, map_of, training_history
from byheart.toy.measures import example_losses
from byheart.toy.runs import Run, Runs
from byheart.toy.sweep import grid
from byheart.toy.train import draw_examples

_R = (1, 2, 3, 5, 10, 20)
_SEVERAL = (1, 2, 3, 5, 8)  # examples, each repeated _SEVERAL_R times
_SEVERAL_R = 20
_SIZES: dict[Scale, tuple[int, ...]] = {
    "quick": (1_000, 3_000),
    "medium": (1_000, 2_000, 3_000, 5_000, 8_000, 12_000),
    "paper": (10_000, 20_000, 30_000, 50_000),
}
_BOUNDARY_R: dict[Scale, tuple[int, ...]] = {
    "quick": (1, 2, 3, 5, 10),
    "medium": (1, 2, 3, 4, 5, 6, 8, 10),
    "paper": (1, 2, 3, 4, 6, 8, 10),
}
_JERMYN = "A. Jermyn, comment in Henighan et al. 2023"
_STORED = 3 / 4  # squared error of what is stored, an example or a feature; answering 0 has 1


def _main_size(scale: Scale) -> int:
    return 30_000 if scale == "paper" else 3_000


def _configs(scale: Scale) -> list[TrainConfig]:
    base, seeds = setup(scale), range(N_SEEDS[scale])
    base = setup(scale, snapshot_steps=log_spaced_steps(base.n_steps, 30))
    main = {"n_examples": (_main_size(scale),)}
    one = grid(base, {**main, "repeats": [(r,) for r in _R]}, seeds)
    several = grid(base, {**main, "repeats": [(_SEVERAL_R,) * k for k in _SEVERAL]}, seeds)
    counts = [(r,) for r in _BOUNDARY_R[scale]]
    others = [size for size in _SIZES[scale] if size != _main_size(scale)]
    boundary = grid(base, {**main, "repeats": counts}, seeds)
    boundary += grid(setup(scale), {"n_examples": others, "repeats": counts}, seeds)
    return list(dict.fromkeys(one + several + boundary))


def _stored(run: Run) -> tuple[int, int]:
    """How many repeated examples, and how many features, are answered with an error below ``_STORED``."""
    losses = example_losses(run, draw_examples(run.config))[: len(run.config.repeats)]
    return int((losses < _STORED).sum()), _n_features(run)


def _n_features(run: Run) -> int:
    return int(run.metrics["n_features_represented"] or 0)


def _is_memorised(run: Run) -> bool:
    """Whether the first example is among the 0.1 % with the largest dimensionality (each example counted once)."""
    dims = example_dimensionality(run.hidden)
    return bool((dims > dims[0]).sum() < max(1, len(dims) / 1_000))


def _alone(runs: Runs) -> pd.DataFrame:
    """The runs with one repeated example: T, R, seed, represented features, and whether the example is memorised."""
    rows = [
        (float(run.config.n_examples), run.config.repeats[0], run.config.seed, _n_features(run), _is_memorised(run))
        for header in runs.headers
        if len(header.config.repeats) == 1
        for run in [runs[header.id]]
    ]
    return pd.DataFrame(rows, columns=["n_examples", "repeats", "seed", "n_features", "memorised"])


def _largest_with(runs: Runs, repeats: tuple[int, ...]) -> Runs:
    """The runs with these repeats and snapshots: those at the main size."""
    return Runs([h for h in runs.where(repeats=repeats).headers if h.config.snapshot_steps])


def _replaces_one(runs: Runs) -> Finding:
    stored = [_stored(run) for run in _largest_with(runs, (5,))]
    if not stored:
        return not_run("one example repeated 5 times")
    finding = share([s == (1, 4) for s in stored], "store the repeated example and four features")
    return Finding(f"{finding.ours}; (examples, features) stored: {', '.join(map(str, stored))}", finding.verdict)


def _few_repeats_change_nothing(runs: Runs) -> Finding:
    memorised = {r: [_is_memorised(run) for run in _largest_with(runs, (r,))] for r in (*_R, *_BOUNDARY_R["medium"])}
    if not memorised[2] or not memorised[3]:
        return not_run("one example repeated 2 and 3 times")
    finding = share([not m for r in (2, 3) for m in memorised[r]], "do not memorise it at R = 2 or 3", "runs")
    words = ", ".join(f"{sum(found)} of {len(found)} at {r}" for r, found in sorted(memorised.items()) if found)
    ever = any(any(found) for r, found in memorised.items() if r > 3)  # or else the claim says nothing
    return Finding(f"{finding.ours}; memorised: {words}", finding.verdict if ever else "inconclusive")


def _stored_of_up_to_five(runs: Runs) -> dict[int, list[tuple[int, int]]]:
    stored = {k: [_stored(run) for run in _largest_with(runs, (_SEVERAL_R,) * k)] for k in (1, 2, 3, 5)}
    return {k: found for k, found in stored.items() if found}


def _each_is_stored(runs: Runs) -> Finding:
    stored = _stored_of_up_to_five(runs)
    if len(stored) < 2:
        return not_run(f"one and more examples repeated {_SEVERAL_R} times")
    return share([s[0] == k for k, found in stored.items() for s in found], "store all k repeated examples", "runs")


def _each_replaces_one(runs: Runs) -> Finding:
    stored = _stored_of_up_to_five(runs)
    if len(stored) < 2:
        return not_run(f"one and more examples repeated {_SEVERAL_R} times")
    holds = [s == (k, 5 - k) for k, found in stored.items() for s in found]
    words = "; ".join(f"{k}: {', '.join(map(str, found))}" for k, found in stored.items())
    finding = share(holds, "store k examples and 5 - k features", "runs")
    return Finding(f"{finding.ours}; (examples, features) by k: {words}", finding.verdict)


def _five_of_many(runs: Runs) -> Finding:
    stored = [_stored(run) for run in _largest_with(runs, (_SEVERAL_R,) * 8)]
    if not stored:
        return not_run(f"8 examples repeated {_SEVERAL_R} times")
    finding = share([s == (5, 0) for s in stored], "store five of eight repeated examples and no feature")
    return Finding(f"{finding.ours}; (examples, features): {', '.join(map(str, stored))}", finding.verdict)


def _thresholds(runs: Runs) -> pd.DataFrame:
    """By T and seed: the R from which on the repeated example is memorised (midway between the two R of the grid)."""
    rows = []
    for n_examples, group in _alone(runs).groupby("n_examples"):
        grid_of_r = [0.0, *sorted(set(group["repeats"]))]
        for seed, first in onsets(group, group["memorised"], "repeats").items():
            before = [r for r in grid_of_r if r < first][-1]
            # Memorised at the smallest R of the grid already: the boundary is there or below.
            rows.append((n_examples, seed, first if before == 0 else (before + first) / 2))
    return pd.DataFrame(rows, columns=["n_examples", "seed", "threshold"])


def _law(runs: Runs) -> Finding:
    """Of the largest T: the law is one of large T/n. What c is at the others is told."""
    n_features = runs.headers[0].config.n_features
    found = _thresholds(runs)
    found = found[found["n_examples"] >= 3 * n_features]
    if found["n_examples"].nunique() < 2 or np.isinf(found["threshold"]).any():
        return not_run("a boundary inside the grid of R, at two T of at least 3 n")
    ratio = found["threshold"] * n_features / found["n_examples"]
    finding = compare(ratio[found["n_examples"] == found["n_examples"].max()].to_numpy(), 0.4, 0.15, ".2f")
    by_size = ratio.groupby(found["n_examples"]).mean()
    return Finding(
        f"{finding.ours}; by T: {', '.join(f'{c:.2f} at {t:g}' for t, c in by_size.items())}", finding.verdict
    )


def _more_at_small_t(runs: Runs) -> Finding:
    n_features = runs.headers[0].config.n_features
    found = _thresholds(runs)
    small = found[found["n_examples"] <= n_features]["threshold"]
    if small.empty:
        return not_run("T up to n")
    ours = f"at T <= n the boundary is at R = {', '.join(f'{r:g}' for r in small)} (by seed)"
    finding = share((small > 1).tolist(), "need more than one occurrence, the law's T/n = 1 at most")
    return Finding(f"{finding.ours}; {ours}", finding.verdict)


_ERROR = "stored: error below 3/4"
_CLAIMS = (
    Claim(
        "few-repeats",
        "An example that occurs 2 or 3 times is not memorised, one that occurs more often is (T = 3 n)",
        _JERMYN,
        "nothing new at 2 to 3",
        _few_repeats_change_nothing,
        refuted_if="all datasets memorise it",
    ),
    Claim(
        "replaces-one-feature",
        f"An example that occurs 5 times is stored beside four features, in place of the fifth (T = 3 n; {_ERROR})",
        _JERMYN,
        "one example, four features",
        _replaces_one,
        refuted_if="no dataset stores one example and four features",
    ),
    Claim(
        "each-is-stored",
        f"Of 1, 2, 3 or 5 examples that occur {_SEVERAL_R} times each is stored (T = 3 n; {_ERROR})",
        _JERMYN,
        "k examples",
        _each_is_stored,
        refuted_if="in no run all are stored",
    ),
    Claim(
        "each-replaces-one",
        f"Of 1, 2, 3 or 5 examples that occur {_SEVERAL_R} times each replaces one feature (T = 3 n; {_ERROR})",
        _JERMYN,
        "k examples, 5 - k features",
        _each_replaces_one,
        refuted_if="no run stores k examples and 5 - k features",
    ),
    Claim(
        "five-of-many",
        f"Of more than five repeated examples five are stored, and no feature (T = 3 n; {_ERROR})",
        _JERMYN,
        "five examples, no feature",
        _five_of_many,
        refuted_if="no dataset stores five examples and no feature",
    ),
    Claim(
        "law",
        "At the largest T a repeated example is memorised from R = c T/n on (among the top 0.1 % by dimensionality)",
        _JERMYN,
        "c = 0.4 (tolerance 0.15)",
        _law,
    ),
    Claim(
        "more-at-small-T",
        "At low T/n more repeats than that are needed",
        _JERMYN,
        "more than T/n",
        _more_at_small_t,
        refuted_if="all datasets memorise an example that occurs once at T <= n",
    ),
)


def _figures(runs: Runs) -> dict[str, Figure]:
    shown = [r for r in ((1,), (3,), (5,), (_SEVERAL_R,) * 3) if len(_largest_with(runs, r))]
    figures = {}
    if shown:
        figure, axes = figure_of(1, len(shown), size=(3.1 * len(shown), 3.0), sharey=True, squeeze=False)
        for ax, repeats in zip(axes[0], shown, strict=True):
            run = next(iter(_largest_with(runs, repeats)))
            training_history(run, ax, range(len(repeats)))
            counts = f"{len(repeats)} examples" if len(repeats) > 1 else "one example"
            ax.set_title(f"{counts}, {f'{repeats[0]} times' if repeats[0] > 1 else 'once'}")
            ax.label_outer()
        axes[0, 0].legend(fontsize=7)
        figure.suptitle(f"one dataset each, T = {run.config.n_examples:,}", fontsize=9)
        figures["histories"] = figure
    alone = _alone(runs)
    sizes = sorted(set(alone["n_examples"]))
    grid_runs = alone[alone["repeats"].isin(_common(alone))]
    figure, ax = figure_of(size=(5.5, 3.8))
    mesh = map_of(grid_runs.astype({"memorised": float}), "memorised", "n_examples", "repeats", ax, vmin=0, vmax=1)
    figure.colorbar(mesh, label="share of datasets that memorise it")
    n_features = runs.headers[0].config.n_features
    counts_shown = np.array(_common(alone), dtype=float)
    law = np.array([0.4 * t / n_features for t in sizes])
    law = np.where((law >= counts_shown[0]) & (law <= counts_shown[-1]), law, np.nan)  # where it is inside the map
    ax.plot(
        np.arange(len(sizes)) + 0.5,
        np.interp(law, counts_shown, np.arange(len(counts_shown)) + 0.5),
        color="white",
        lw=1.5,
        ls="--",
    )
    ax.set(xlabel="training examples T", ylabel="occurrences R of one example")
    ax.set_title("dashed: R = 0.4 T/n", fontsize=9)
    return {**figures, "boundary": figure}


def _common(alone: pd.DataFrame) -> list[int]:
    """The R that every T has."""
    by_size = [set(rows["repeats"]) for _, rows in alone.groupby("n_examples")]
    return sorted(set.intersection(*by_size))


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    thresholds, n_features = _thresholds(runs).replace(math.inf, np.nan), runs.headers[0].config.n_features
    over_size = (thresholds["threshold"] * n_features / thresholds["n_examples"]).groupby(thresholds["n_examples"])
    return {
        "boundary": _alone(runs),
        "thresholds": thresholds,
        "law": over_size.agg(seeds="size", ratio="mean", ratio_se="sem").reset_index(),
        "stored": _stored_at_main_size(runs),
    }


def _stored_at_main_size(runs: Runs) -> pd.DataFrame:
    """What is stored, the mean dimensionality of the repeated examples, and those of the five largest features."""
    rows = []
    for header in runs.headers:
        if header.config.snapshot_steps:
            run, repeated = runs[header.id], header.config.repeats
            features = np.sort(feature_dimensionality(run.W))[::-1][:5]
            examples = float(example_dimensionality(run.hidden)[: len(repeated)].mean())
            rows.append((len(repeated), repeated[0], header.config.seed, *_stored(run), examples, *features))
    names = ["n_repeated", "repeats", "seed", "n_stored", "n_features", "example_dimensionality"]
    columns = [*names, *(f"feature_dimensionality_{k}" for k in range(1, 6))]
    return pd.DataFrame(rows, columns=columns).sort_values(names[:3])


STUDY = Study(
    "repeats",
    "When are repeated training examples memorised, and what do they replace?",
    _configs,
    _CLAIMS,
    _figures,
    _tables,
)
