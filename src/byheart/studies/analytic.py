"""Does the theory hold: the level of infinite data, the pentagon, the norms of memorizing solutions, Adam's reach?

Source: Henighan et al. 2023 (pentagon; memorizing needs larger weights for larger T), S. Jain 2025; derived from it: on
a T-gon ||W|| = sqrt(T) r and ||b|| = sqrt(T) r^2 cos(2 pi/T) with r^2 = 1/(1 - cos(2 pi/T)), so they grow as T^1.5 and
T^2.5, and Adam moves no parameter farther than the sum of its learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from byheart.claims import Claim, Finding, along, compare, judged, not_run
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, WORDS_OF_REDUCTION, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig, learning_rates
from byheart.toy.figures import EXAMPLES, FEATURES, figure_of, log_axis, log_losses
from byheart.toy.model import Reduction
from byheart.toy.runs import Runs, summed
from byheart.toy.solutions import feature_polygon_loss_change, infinite_data_loss, polygon_norms, polygon_radius
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of
from byheart.toy.train import draw_test_examples

_GROWTH_T = (4, 5, 6, 7, 8, 10, 12)
_REACH_T = (6, 8, 10, 15, 20, 30, 40, 60, 80, 120)
_RATES = (3e-4, 1e-3, 3e-3)
_MEMORIZED = 1e-3  # train loss
_SHOWN = 1e-7  # smaller ones are drawn here
_LARGEST_ENTRY = 0.4  # of an example with ten active features, typically: the largest bias is that times r^2 cos
_GROWTH, _REACH, _INFINITE = "growth", "reach", "infinite data"
_DERIVED = "derived from Henighan et al. 2023"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    seeds = range({"quick": 4, "medium": 8, "paper": 8}[scale])
    rates = _RATES if scale != "quick" else _RATES[::2]
    growth = grid(setup(scale), {"n_examples": _GROWTH_T}, seeds)
    reach = grid(setup(scale), {"n_examples": _REACH_T, "learning_rate": rates}, range(N_SEEDS[scale]))
    steps = {"n_steps": 3_000} if scale == "quick" else {}
    infinite = grid(
        setup(scale, n_examples="inf", batch_size=1_024 if scale == "quick" else 2_048, **steps),
        {"reduction": list(WORDS_OF_REDUCTION)},
        range(2),
    )
    return {_GROWTH: growth, _REACH: reach, _INFINITE: infinite}


def _infinite(reduction: Reduction) -> tuple[Claim, Claim]:
    """The two claims on infinite data, of the runs with this reduction."""

    def chosen(tables: Tables) -> pd.DataFrame:
        runs = summed(tables["runs"])
        return runs[(runs["group"] == _INFINITE) & (runs["reduction"] == reduction)]

    def level(tables: Tables) -> Finding:
        runs = chosen(tables)
        if runs.empty:
            return not_run("T = infinity")
        theory = tables["theory"].iloc[0]
        expected = float(theory["test_loss"])
        finding = compare(runs["test_loss"].to_numpy(), expected, 0.25 * (1 - expected), ".5f")
        return finding.also(f"theory {expected:.5f}, without features {theory['without_features']:.5f}")

    def five(tables: Tables) -> Finding:
        runs = chosen(tables)
        if runs.empty:
            return not_run("T = infinity")
        best = int(tables["theory"]["n_features_represented"].iloc[0])
        counts = runs["n_features_represented"].astype(int).to_list()
        holds = [count == best for count in counts]
        return judged(f"theory: {best} features; trained, by seed: {counts}", all(holds), not any(holds))

    words = WORDS_OF_REDUCTION[reduction]
    return (
        Claim(
            f"infinite-data-{reduction}",
            f"Infinite data, {words}: test loss is 1 - 5/n - (n - 5) E[x]^2"
            " (tolerance: a quarter of its distance from 1)",
            "derived; Henighan et al. 2023, Figure 3, reads 0.9987",
            "0.9988 at the paper's sizes",
            level,
        ),
        Claim(
            f"five-features-{reduction}",
            f"Infinite data, {words}: as many features are represented as the theory of unit polygons has it",
            "Henighan et al. 2023, notebook; S. Jain 2025",
            "5",
            five,
            refuted_if="no seed represents that many",
        ),
    )


def _theory(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """What theory has for infinite data: test loss, that of representing no feature, and how many are best."""
    rows = []
    if _INFINITE in groups:
        config = groups[_INFINITE].headers[0].config
        mean = float(draw_test_examples(config).to_scipy().mean())
        losses = (infinite_data_loss(config.n_features, mean, n) for n in (5, 0))
        best = min(range(3, 10), key=lambda n: feature_polygon_loss_change(n, config.sparsity))
        rows.append((*losses, best))
    return pd.DataFrame(rows, columns=["test_loss", "without_features", "n_features_represented"])


def _memorized(runs: pd.DataFrame) -> pd.DataFrame:
    """Memorized runs at the usual learning rate, with the norms a regular T-gon would have."""
    table = runs.query("learning_rate == 0.001 and train_loss < @_MEMORIZED and 4 <= n_examples < inf")
    table = table.drop_duplicates("id")
    norms = [polygon_norms(int(size)) for size in table["n_examples"]]
    return table.assign(W_theory=[W for W, _ in norms], b_theory=[b for _, b in norms])


def _growth(column: str, exponent: float) -> Claim:
    def test(tables: Tables) -> Finding:
        table = tables["norms"]
        chosen = table[table["n_examples"] >= (5 if column == "b_norm" else 4)]
        slopes = [
            float(np.polyfit(np.log(rows["n_examples"]), np.log(rows[column] / rows[theory]), 1)[0])
            for _, rows in chosen.groupby("seed")
            if rows["n_examples"].nunique() >= 3
        ]
        if len(slopes) < 2:
            return not_run("three memorized T in two seeds")
        return compare(slopes, 0, 0.25, ".2f")

    theory = column.replace("norm", "theory")
    return Claim(
        f"growth-{column[0]}",
        f"The norm of {column[0]} of memorized sets grows with T as a T-gon's (T^{exponent}): excess exponent",
        _DERIVED,
        "0 (tolerance 0.25)",
        test,
    )


def _size_of_W(tables: Tables) -> Finding:
    table = tables["norms"]
    if table["seed"].nunique() < 2:
        return not_run("memorized sets of two seeds")
    ratio = table["W_norm"] / table["W_theory"]
    finding = compare(ratio.groupby(table["seed"]).mean().to_numpy(), 1, 0.1, ".3f")
    return finding.also(along(ratio.groupby(table["n_examples"]).mean(), ".3f"))


def _needed_bias(n_examples: int) -> float:
    return _LARGEST_ENTRY * polygon_radius(n_examples) ** 2 * math.cos(2 * math.pi / n_examples)


def _reach(runs: Runs) -> pd.DataFrame:
    """By learning rate: the T up to which half of the datasets are memorized, and that which Adam cannot reach.

    The latter's T-gon needs a bias, 0.4 r^2 cos(2 pi/T), above the sum of rates.
    """
    rows = []
    for rate in sorted({header.config.learning_rate for header in runs.headers}):
        own = runs.where(learning_rate=rate)
        total = float(learning_rates(own.headers[0].config).sum())
        memorized = own.table.groupby("n_examples")["train_loss"].median() < _MEMORIZED
        largest = float(memorized.index.to_numpy(dtype=float)[memorized.cummin()].max(initial=-math.inf))
        limit = next(t for t in range(5, 100_000) if _needed_bias(t) > total)
        rows.append((rate, total, largest, limit))
    return pd.DataFrame(rows, columns=["learning_rate", "sum_of_rates", "largest_memorized", "predicted"])


def _reach_grows(tables: Tables) -> Finding:
    table = tables["reach"]
    if len(table) < 2:
        return not_run("two learning rates")
    ours = "; ".join(
        f"{row.largest_memorized:g} at {row.learning_rate:g} (beyond Adam's reach: {row.predicted})"
        for row in table.itertuples()
    )
    ours = f"half of the datasets are memorized up to T = {ours}"
    largest = table["largest_memorized"]
    if np.isinf(largest).any():
        return Finding(f"{ours}; -inf: none of the grid", "inconclusive")
    grows, ratio = bool((largest.diff().iloc[1:] > 0).all()), largest / table["predicted"]
    holds = grows and ratio.max() <= 1.5 and ratio.min() >= 1 / 4
    return judged(ours, holds, largest.iloc[-1] <= largest.iloc[0] or ratio.max() < 1 / 4)


_CLAIMS = (
    *_infinite("sum"),
    *_infinite("mean"),
    Claim(
        "norm-of-W",
        "The norm of W of memorized sets is that of a regular T-gon of least radius (ratio)",
        _DERIVED,
        "1 (tolerance 0.1)",
        _size_of_W,
    ),
    _growth("W_norm", 1.5),
    _growth("b_norm", 2.5),
    Claim(
        "reach",
        "The largest T that half of the datasets memorize grows with Adam's reach, the sum of rates: 1/4 to 3/2 of it",
        _DERIVED,
        "at 1e-3 and 50,000 steps, T about 35 to 50",
        _reach_grows,
        refuted_if="it is no larger at the largest rate than at the smallest, or below 1/4 of the reach at all",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    figure, (left, right) = figure_of(1, 2, size=(8, 3.8))
    _draw_norms(tables["norms"], left)
    finite = tables["runs"].query("group != @_INFINITE")
    _draw_reach(finite, tables["reach"], right)
    caption = (
        "Left: the norms of W (circles) and b (triangles) of memorized sets, one marker for each run at a learning"
        " rate of 0.001, beside those of a regular T-gon of least radius (lines); a square needs no b. Right: train"
        " loss, a dot for each run, and the median over seeds (lines), those below 1e-7 drawn there; a set is called"
        " memorized below the dashed line. Dotted: the T from which on a T-gon is beyond Adam's reach at the rate of"
        f" this colour. {sizes_of(finite, ('learning_rate', 'n_examples'))}"
    )
    return {"analytic": Captioned(figure, caption)}


def _draw_norms(table: pd.DataFrame, ax: Axes) -> None:
    sizes = np.arange(4, max(int(table["n_examples"].max()) if len(table) else 12, 12) + 1)
    norms = np.array([polygon_norms(int(t)) for t in sizes])
    for name, norm, color, form, side in (
        ("W", norms[:, 0], FEATURES, "o", 0.985),
        ("b", norms[:, 1], EXAMPLES, "^", 1.015),
    ):
        ax.plot(sizes, np.where(norm > 1e-9, norm, np.nan), color=color, lw=1, label=f"{name} of a T-gon")
        at = side * table["n_examples"]  # side by side, since both norms are alike in the middle
        ax.plot(at, table[f"{name}_norm"], form, ms=4, color=color, alpha=0.5, mew=0, label=f"{name} of memorized sets")
    log_axis(ax, sizes)
    log_losses(ax)
    ax.set(xlabel="training examples T", ylabel="norm")
    ax.legend()


def _draw_reach(runs: pd.DataFrame, reach: pd.DataFrame, ax: Axes) -> None:
    rates = sorted(set(runs["learning_rate"]))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(rates)))
    limits = reach.set_index("learning_rate")["predicted"]
    for k, (rate, color) in enumerate(zip(rates, colors, strict=True)):
        rows = runs[runs["learning_rate"] == rate]
        side = 1.03 ** (k - (len(rates) - 1) / 2)
        ax.plot(
            side * rows["n_examples"], np.maximum(rows["train_loss"], _SHOWN), "o", ms=3, color=color, alpha=0.4, mew=0
        )
        loss = rows.groupby("n_examples")["train_loss"].median()
        ax.plot(
            side * loss.index.to_numpy(), np.maximum(loss, _SHOWN), "-", lw=1.3, color=color, label=f"rate {rate:g}"
        )
        if rate in limits.index:
            ax.axvline(limits[rate], 0.35, color=color, lw=1, ls=":")
    ax.axhline(_MEMORIZED, color="black", lw=0.8, ls="--", zorder=0)
    log_axis(ax, runs["n_examples"], apart=1.4)
    powers = range(-7, 1)
    labels = [f"$10^{{{power}}}$" for power in powers]
    ax.set(yscale="log", xlabel="training examples T", ylabel="train loss")
    ax.set_yticks([10.0**power for power in powers], [f"< {labels[0]}", *labels[1:]])
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.08))


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs = table_of(groups)
    columns = ["n_examples", "seed", "W_norm", "W_theory", "b_norm", "b_theory", "train_loss"]
    reach = _reach(groups.get(_REACH, Runs([])))
    return {"runs": runs, "norms": _memorized(runs)[columns], "reach": reach, "theory": _theory(groups)}


STUDY = Study(
    "analytic",
    "Does the theory hold: the level of infinite data, the norms of memorizing solutions, Adam's reach?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
