"""Which solution has the lower train loss, the memorizing or the generalising one, and where do they cross?

Source: Jermyn, Olah and Henighan, "Finite Data Intermediate Regime", July 2023 update: scanning learning rates, the
memorizing solution wins up to about 500,000 examples, T (1 - S) = 500; from about 1,000 on it keeps clusters of
correlated examples instead of single ones. Here solutions are also started from one built by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.ticker import NullFormatter

from byheart.claims import Claim, Finding, along, judged, not_run, onsets
from byheart.geometry import neighbour_overlap
from byheart.studies.readme import sizes_of
from byheart.studies.study import Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import EXAMPLES, FEATURES, figure_of, log_axis, runs_and_mean, vectors
from byheart.toy.runs import Run, Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of, vectors_of
from byheart.toy.train import draw_examples

_T: dict[Scale, tuple[int, ...]] = {
    "quick": (30, 100, 300, 1_000, 3_000),
    "medium": (30, 100, 300, 1_000, 3_000, 10_000, 30_000),
    "paper": (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
}
_RATES: dict[Scale, tuple[float, ...]] = {
    "quick": (1e-3, 1e-2),
    "medium": (1e-3, 3e-3, 1e-2, 3e-2),
    "paper": (1e-3, 3e-3, 1e-2, 3e-2),
}
_POLYGON_UP_TO = 300  # examples: beyond, those that share features break a T-gon (train loss of 1e9 at T = n = 1,000)
_MEMORIZING = "train_loss < 1 <= test_loss"
_GENERALISING = "test_loss < 1 and n_features_represented >= 3"  # a broken polygon may end just below 1 with none
_JULY = "Jermyn, Olah, Henighan, July 2023 update"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    seeds, rates = range(4 if scale == "paper" else 2), _RATES[scale]
    axes = {"n_examples": _T[scale], "learning_rate": rates, "initialization": ("xavier_normal", "pentagon")}
    built = {"n_examples": [t for t in _T[scale] if t <= _POLYGON_UP_TO], "learning_rate": rates}
    polygons = grid(setup(scale, initialization="polygon"), built, seeds)
    return {"drawn or from a pentagon": grid(setup(scale), axes, seeds), "from a polygon": polygons}


def _families(runs: pd.DataFrame) -> pd.DataFrame:
    """By T and seed: the lowest train loss of memorizing and of generalising solutions.

    A memorizing one is worse than no answer on test data, and better on training data; a generalising one is better on
    test data, and represents at least three features.
    """
    families = {"generalising": _GENERALISING, "memorizing": _MEMORIZING}
    chosen = [runs.query(query).assign(family=family) for family, query in families.items()]
    lowest = pd.concat(chosen).pivot_table(
        index=["n_examples", "seed"], columns="family", values="train_loss", aggfunc="min"
    )
    return lowest.reindex(columns=["generalising", "memorizing"]).reset_index()


def _crossing(tables: Tables) -> Finding:
    table = tables["families"]
    if table["n_examples"].nunique() < 3:
        return not_run("three T")
    per_feature = 1 - tables["runs"]["sparsity"].iloc[0]
    largest = table["n_examples"].max()
    if largest * per_feature < 100:
        return not_run("T(1 - S) of 100 or more")
    memorizing = table["memorizing"].fillna(-math.inf)  # none found is not a worse one
    found = onsets(table, table["generalising"].fillna(math.inf) < memorizing)
    words = ", ".join(
        f"T = {t:g} (T(1 - S) = {t * per_feature:g})"
        if math.isfinite(t)
        else f"beyond {largest:g} (T(1 - S) = {largest * per_feature:g})"
        for t in found
    )
    inside = [100 <= t * per_feature <= 2_500 for t in found]
    ours = f"generalising solutions have the lower train loss from {words} on, by seed"
    if all(math.isinf(t) for t in found):
        return Finding(ours, "inconclusive" if largest * per_feature < 2_500 else "differs")
    return judged(ours, all(inside), not any(inside))


def _beyond_the_usual_rate(tables: Tables) -> Finding:
    table = tables["runs"]
    middle = table[(table["n_examples"] * (1 - table["sparsity"])).between(0.999, 5)]
    if middle["learning_rate"].nunique() < 2 or not (middle["initialization"] == "xavier_normal").any():
        return not_run("two learning rates at T(1 - S) of 1 to 5")
    drawn = middle[middle["initialization"] == "xavier_normal"]
    usual = drawn[drawn["learning_rate"] == 1e-3].groupby(["n_examples", "seed"])["train_loss"].min()
    best = middle.groupby(["n_examples", "seed"])["train_loss"].min().loc[usual.index]
    words = "; ".join(
        f"T = {t:g}: {usual[t].mean():.3g} at 1e-3, {best[t].mean():.3g} at best"
        for t in sorted({i[0] for i in usual.index})
    )
    holds = (best < usual * 0.9).tolist()
    return judged(f"train loss: {words}", all(holds), not any(holds))


def _coexist(tables: Tables) -> Finding:
    if tables["runs"]["n_examples"].nunique() < 3:
        return not_run("three T")
    both = sorted(set(tables["families"].dropna()["n_examples"]))
    ours = f"both kinds are found at T = {', '.join(f'{t:g}' for t in both)}" if both else "no T has both kinds"
    return judged(ours, len(both) > 1, not both)


def _best_memorizing(groups: Mapping[str, Runs]) -> list[Run]:
    """The runs of lowest train loss among the memorizing ones, by T and seed."""
    files = {header.id: runs for runs in groups.values() for header in runs.headers}
    memorizing = table_of(groups).query(_MEMORIZING)
    best = memorizing.loc[memorizing.groupby(["n_examples", "seed"])["train_loss"].idxmin(), "id"]
    return [files[run_id][run_id] for run_id in best]


def _clusters(best: Sequence[Run]) -> pd.DataFrame:
    """By T and seed, in the best memorizing run: how much more alike neighbours by angle are than any two examples."""
    rows = [
        (run.config.n_examples, run.config.seed, neighbour_overlap(run.hidden, draw_examples(run.config).to_scipy()))
        for run in best
    ]
    return pd.DataFrame(rows, columns=["n_examples", "seed", "neighbour_overlap"])


def _clusters_grow(tables: Tables) -> Finding:
    table = tables["clusters"]
    large = table[table["n_examples"] >= tables["runs"]["n_features"].iloc[0] / 3]
    if large.empty:
        return not_run("a memorizing solution at T of at least n/3")
    words = along(table.groupby("n_examples")["neighbour_overlap"].mean(), ".3g")
    low, high = large["neighbour_overlap"].min(), large["neighbour_overlap"].max()
    return judged(f"neighbours overlap as {words} times any two", low > 2, high < 1.2)


_CLAIMS = (
    Claim(
        "optimisation-failure",
        "In the middle regime, T(1 - S) from 1 to 5, the usual rate and start miss a train loss lower by 10 %",
        _JULY,
        "an optimisation artefact",
        _beyond_the_usual_rate,
        refuted_if="no other rate or start lowers the train loss by 10 %",
    ),
    Claim(
        "crossing",
        "Memorizing solutions have the lower train loss up to a T at which generalising ones take over",
        _JULY,
        "T about 500,000: T(1 - S) = 500 (within a factor of 5)",
        _crossing,
        refuted_if="they take over elsewhere in all datasets",
    ),
    Claim(
        "sudden",
        "Both kinds of solution are stable at two T or more (some runs start from one), as a sudden change needs",
        _JULY,
        "first-order",
        _coexist,
        refuted_if="at no T both kinds are found",
    ),
    Claim(
        "clusters",
        "From T = n/3 on, memorizing solutions put correlated examples side by side (overlap twice that of any two)",
        _JULY,
        "clusters, from about T = 1,000 at n = 10,000",
        _clusters_grow,
        refuted_if="neighbours overlap less than 1.2 times as much as any two examples",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    table, shown = tables["families"], tables["vectors"]
    figure, axes = figure_of(1, 2, size=(8, 3.9), width_ratios=[1.35, 1])
    gain = table.assign(memorizing=1 - table["memorizing"], generalising=1 - table["generalising"])
    sizes = sorted(set(table["n_examples"]))
    for name, color, side in (("memorizing", EXAMPLES, 0.98), ("generalising", FEATURES, 1.02)):
        runs_and_mean(gain, name, axes[0], color, f"{name} solutions", at={t: side * t for t in sizes})
    log_axis(axes[0], sizes)
    axes[0].set(yscale="log", xlabel="training examples T", ylabel="1 - lowest train loss (higher is better)")
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in ticks if low <= tick <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend()
    caption = (
        "Left: by how much the best of all runs at this T (learning rates and starts) lowers the train loss below 1,"
        " that of always answering 0; a memorizing solution has a test loss above 1, a generalising one below 1, with"
        " three features or more. Where a colour is missing, no run ended in such a solution. Dots are datasets,"
        " lines means over them, bars one standard error either way."
    )
    if shown.empty:
        axes[1].axis("off")
    else:
        vectors(shown[["x", "y"]].to_numpy(), axes[1], EXAMPLES)
        n_shown = shown["n_examples"].iloc[0]
        axes[1].set_title(f"best memorizing solution, T = {n_shown:,.0f}")
        caption += f" Right: the hidden vectors of the T = {n_shown:,.0f} training examples in one of them."
    caption = f"{caption} {sizes_of(tables['runs'])}"
    return {"middle-regime": Captioned(figure, caption)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs, best = table_of(groups), _best_memorizing(groups)
    large = [run for run in best if int(run.config.n_examples) >= run.config.n_features / 3]
    shown = min(large, key=lambda run: (run.config.n_examples, run.metrics["train_loss"]), default=None)
    return {
        "runs": runs,
        "families": _families(runs),
        "clusters": _clusters(best),
        "vectors": vectors_of([shown] if shown else [], ["example"]),
    }


STUDY = Study(
    "middle-regime",
    "Between memorizing and generalising, which solution has the lower train loss, and where do they cross?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
