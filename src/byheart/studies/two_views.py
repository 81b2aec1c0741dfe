"""Messy seen as features, clean seen as examples: which of the two holds the hidden space?

The budget of a set of vectors is the sum of the dimensionalities of those that the model answers well: features shown
alone with an error below 3/4, training examples with a loss below 1/4. Both are at most m.

Source: Henighan et al. 2023, Figures 2 and 3, and open question 4; A. Jermyn's comment on repeated data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from byheart.claims import Claim, Finding, judged, not_run
from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import EXAMPLES, FEATURES, figure_of, log_axis, runs_and_mean
from byheart.toy.measures import example_losses, represented_features
from byheart.toy.runs import Run, Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of
from byheart.toy.train import draw_examples

_T = (3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 3_000)
_PAPER_T = (3, 5, 10, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_REPEATED = (20, 20)
_ONCE = "every T"
_WELL = 0.25  # train loss of an example that is known by heart; a pentagon's best example is at 0.3 or more


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    base, seeds = setup(scale), range(N_SEEDS[scale])
    sizes = _PAPER_T if scale == "paper" else _T
    repeated = grid(base, {"n_examples": sizes[-1:], "repeats": (_REPEATED,)}, seeds)
    return {_ONCE: grid(base, {"n_examples": sizes}, seeds), "repeated": repeated}


def _budget(run: Run) -> dict[str, object]:
    known = example_losses(run, draw_examples(run.config)) < _WELL  # by heart
    represented, examples = represented_features(run.W, run.b), example_dimensionality(run.hidden)
    n_repeated = len(run.config.repeats)
    return {
        "n_examples": run.config.n_examples,
        "seed": run.config.seed,
        "n_repeated": n_repeated,
        "n_on_top": int((np.argsort(-examples)[:n_repeated] < n_repeated).sum()),
        "features": float(feature_dimensionality(run.W)[represented].sum()),
        "examples": float(examples[known].sum()),
        "n_features": len(represented),
        "n_known": int(known.sum()),
        "train_loss": run.metrics["train_loss"],
        "test_loss": run.metrics["test_loss"],
    }


def _once(tables: Tables) -> pd.DataFrame:
    """The budgets of the models whose examples all occur once."""
    return tables["budgets"].query("n_repeated == 0")


def _exchange(tables: Tables) -> Finding:
    table = _once(tables)
    sizes = sorted(set(table["n_examples"]))
    if len(sizes) < 3 or sizes[0] > 10:
        return not_run("small and large T")
    m = tables["runs"]["n_hidden"].iloc[0]
    small, large = table[table["n_examples"] <= 6], table[table["n_examples"] == sizes[-1]]
    ours = (
        f"at T <= 6 examples hold {small['examples'].mean():.2f} and features {small['features'].mean():.2f} of {m};"
        f" at T = {sizes[-1]} examples hold {large['examples'].mean():.2f} and features {large['features'].mean():.2f}"
    )
    holds = [*(small["examples"] > small["features"]), *(large["features"] > large["examples"])]
    return judged(ours, all(holds), not any(holds))


def _overfit_reads_better_as_examples(tables: Tables) -> Finding:
    table = _once(tables)
    if table["n_examples"].nunique() < 5:
        return not_run("five T")
    ranks = table.assign(gap=table["test_loss"] - table["train_loss"]).groupby("seed")[["gap", "examples", "features"]]
    if (ranks.nunique() < 2).any(axis=None):
        return not_run("budgets that differ between T")
    by_seed = [
        tuple(float(spearmanr(own["gap"], own[name])[0]) for name in ("examples", "features")) for _, own in ranks
    ]
    words = ", ".join(f"{a:+.2f} and {b:+.2f}" for a, b in by_seed)
    holds = [a > 0.3 and b < -0.3 for a, b in by_seed]
    ours = "rank correlation of overfitting (test less train loss) with the budgets of examples and features, by seed"
    return judged(f"{ours}: {words}", all(holds), not any(holds))


def _middle_is_empty(tables: Tables) -> Finding:
    table = _once(tables)
    both = (table["examples"] + table["features"]).groupby(table["n_examples"]).mean()
    if len(both) < 5 or table["seed"].nunique() < 2:
        return not_run("five T, two seeds")
    m, worst = tables["runs"]["n_hidden"].iloc[0], both.idxmin()
    ends = f"{both.iloc[0]:.2f} and {both.iloc[-1]:.2f}"
    ours = f"both together hold least at T = {worst:g}: {both.min():.2f} of {m}; at the ends {ends}"
    inside = both.index[0] < worst < both.index[-1]
    return judged(ours, inside and both.min() < 0.25 * m, worst == both.index[0])


def _told_apart(tables: Tables) -> Finding:
    chosen = tables["budgets"].query("n_repeated > 0")
    if chosen.empty:
        return not_run("runs with repeated examples")
    holds = (chosen["n_on_top"] == chosen["n_repeated"]) & (chosen["n_features"] > 0)
    words = (
        f"{run.n_on_top} of {run.n_repeated} on top, {run.n_known} known, {run.n_features} features"
        for run in chosen.itertuples()
    )
    return judged("; ".join(words), bool(holds.all()), not holds.any())


_CLAIMS = (
    Claim(
        "exchange",
        "Few examples hold the hidden space, many give it to features (budgets of what the model answers well)",
        "Henighan et al. 2023, Figures 2 and 3; the measure is new",
        "examples, then features",
        _exchange,
        refuted_if="no run has the larger budget where the claim has it",
    ),
    Claim(
        "empty-middle",
        "Between them neither view explains the hidden space (together below a quarter of m)",
        "new; Henighan et al. 2023, Figure 3, shows blobs there",
        "shapeless blobs at T = 2,000",
        _middle_is_empty,
        refuted_if="the least explained T is the smallest",
    ),
    Claim(
        "overfit-is-readable",
        "The more overfit a model, the more its space is held by examples, the less by features (correlation > 0.3)",
        "new; C. Olah: more overfit networks seem harder to understand",
        "harder as features, easier as examples",
        _overfit_reads_better_as_examples,
        refuted_if="no dataset shows both",
    ),
    Claim(
        "told-apart",
        "Two repeated examples at the largest T have the largest D_X of all, beside represented features",
        "A. Jermyn, comment in Henighan et al. 2023; the test is new",
        "single-example and generalising features co-occur",
        _told_apart,
        refuted_if="no dataset shows it",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    once, n_hidden = _once(tables), tables["runs"]["n_hidden"].iloc[0]
    figure, ax = figure_of()
    for name, color in (("examples", EXAMPLES), ("features", FEATURES)):
        runs_and_mean(once, name, ax, color, f"{name} answered well")
    ax.axhline(n_hidden, color="black", lw=0.8, ls="--", zorder=0, label=f"all there are, m = {n_hidden}")
    log_axis(ax, once["n_examples"])
    ax.set(xlabel="training examples T", ylabel="dimensions held")
    ax.legend(loc="center left", bbox_to_anchor=(0.35, 0.62))
    caption = (
        "How many of the m hidden dimensions are held by training examples, and how many by features, that the model"
        " answers well (budgets.csv). Dots are runs, lines means over seeds, bars one standard error either way."
        f" {sizes_of(tables['runs'].query('group == @_ONCE'))}"
    )
    return {"two-views": Captioned(figure, caption)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    budgets = pd.DataFrame([_budget(run) for runs in groups.values() for run in runs])
    return {"runs": table_of(groups), "budgets": budgets}


STUDY = Study(
    "two-views",
    "Which holds the hidden space, examples or features, and can both be told apart in one model?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
