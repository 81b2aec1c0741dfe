"""What happens to training examples that occur several times: when are they memorized, and at whose cost?

Source: A. Jermyn's comment "Repeated data points" in Henighan et al. 2023 (m = 2).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, along, compare, not_run, onsets, share
from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.figures import figure_of, log_axis, training_history
from byheart.toy.measures import example_losses
from byheart.toy.runs import Run, Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import history_of, table_of
from byheart.toy.train import draw_examples

_R = (1, 2, 3, 5, 10, 20)
_SEVERAL = (2, 3, 5, 8)  # examples, each repeated _SEVERAL_R times
_SEVERAL_R = 20
_UP_TO_FIVE = (1, 2, 3, 5)
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
_ONE, _SEVERAL_EXAMPLES, _OTHERS = "one example", "several examples", "one example at another T"
_JERMYN = "A. Jermyn, comment in Henighan et al. 2023"
_Test = Callable[[Tables], Finding]
_Holds = Callable[[int, int, int], bool]  # of k, stored examples, stored features
_STORED = 3 / 4  # squared error of what is stored, an example or a feature; answering 0 has 1


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """One and several repeated examples at the main size, T = 3 n, and one at others."""
    base, seeds, main = setup(scale), range(N_SEEDS[scale]), 30_000 if scale == "paper" else 3_000
    followed = dataclasses.replace(base, n_examples=main, snapshot_steps=log_spaced_steps(base.n_steps, 30))
    counts = [(r,) for r in _BOUNDARY_R[scale]]
    others = [size for size in _SIZES[scale] if size != main]
    return {
        _ONE: grid(followed, {"repeats": sorted({(r,) for r in _R} | set(counts))}, seeds),
        _SEVERAL_EXAMPLES: grid(followed, {"repeats": [(_SEVERAL_R,) * k for k in _SEVERAL]}, seeds),
        _OTHERS: grid(base, {"n_examples": others, "repeats": counts}, seeds),
    }


def _is_memorized(run: Run) -> bool:
    """Whether the first example is among the 0.1 % with the largest dimensionality (each example counted once)."""
    dims = example_dimensionality(run.hidden)
    return bool((dims > dims[0]).sum() < max(1, len(dims) / 1_000))


def _boundary(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """The runs with one repeated example: T, R, seed, represented features, and whether the example is memorized."""
    rows = [
        (label, run.config.n_examples, run.config.repeats[0], run.config.seed, _n_features(run), _is_memorized(run))
        for label in (_ONE, _OTHERS)
        for run in groups.get(label, ())
    ]
    return pd.DataFrame(rows, columns=["group", "n_examples", "repeats", "seed", "n_features", "memorized"])


def _n_features(run: Run) -> int:
    return int(run.metrics["n_features_represented"] or 0)


def _stored(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """At the main size: how many repeated examples are stored, answered with an error below ``_STORED``, and features.

    With the mean dimensionality of the repeated examples, and those of the five largest features.
    """
    rows = []
    for run in itertools.chain(*(groups.get(label, ()) for label in (_ONE, _SEVERAL_EXAMPLES))):
        n_repeated = len(run.config.repeats)
        n_stored = int((example_losses(run, draw_examples(run.config))[:n_repeated] < _STORED).sum())
        features = np.sort(feature_dimensionality(run.W))[::-1][:5]
        examples = float(example_dimensionality(run.hidden)[:n_repeated].mean())
        keys = (n_repeated, run.config.repeats[0], run.config.seed)
        rows.append((*keys, n_stored, _n_features(run), examples, *features))
    names = ["n_repeated", "repeats", "seed", "n_stored", "n_features", "example_dimensionality"]
    columns = [*names, *(f"feature_dimensionality_{k}" for k in range(1, 6))]
    return pd.DataFrame(rows, columns=columns).sort_values(names[:3])


def _stored_by(tables: Tables, n_repeated: int, repeats: int = _SEVERAL_R) -> list[tuple[int, int]]:
    """The numbers of stored examples and features by seed, where ``n_repeated`` examples occur ``repeats`` times."""
    table = tables["stored"].query("n_repeated == @n_repeated and repeats == @repeats")
    return list(zip(table["n_stored"].tolist(), table["n_features"].tolist(), strict=True))


def _store(what: str, holds: _Holds, counts: Sequence[int], words: str, repeats: int = _SEVERAL_R) -> _Test:
    """Return a test of how many examples and features each run stores, where k examples are repeated."""

    def test(tables: Tables) -> Finding:
        stored = {k: found for k in counts if (found := _stored_by(tables, k, repeats))}
        if len(stored) < min(len(counts), 2):
            return not_run(f"{', '.join(map(str, counts))} examples repeated {repeats} times")
        by_count = {k: ", ".join(map(str, found)) for k, found in stored.items()}
        shown = "; ".join(f"{k}: {found}" if len(counts) > 1 else found for k, found in by_count.items())
        of = "runs" if len(counts) > 1 else "seeds"
        finding = share([holds(k, *pair) for k, found in stored.items() for pair in found], what, of)
        return finding.also(f"{words}: {shown}") if words else finding

    return test


def _few_repeats_change_nothing(tables: Tables) -> Finding:
    table = tables["boundary"].query("group == @_ONE")
    memorized = {int(str(r)): found.tolist() for r, found in table.groupby("repeats")["memorized"]}
    if not {2, 3} <= set(memorized):
        return not_run("one example repeated 2 and 3 times")
    finding = share([not m for r in (2, 3) for m in memorized[r]], "do not memorize it at R = 2 or 3", "runs")
    finding = finding.also(f"memorized: {', '.join(f'{sum(m)} of {len(m)} at {r}' for r, m in memorized.items())}")
    ever = any(any(found) for r, found in memorized.items() if r > 3)  # or else the claim says nothing
    return finding if ever else dataclasses.replace(finding, verdict="inconclusive")


def _thresholds(boundary: pd.DataFrame) -> pd.DataFrame:
    """By T and seed: the R from which on the repeated example is memorized (midway between the two R of the grid)."""
    rows = []
    for n_examples, group in boundary.groupby("n_examples"):
        grid_of_r = [0.0, *sorted(set(group["repeats"]))]
        for seed, first in onsets(group, group["memorized"], "repeats").items():
            before = [r for r in grid_of_r if r < first][-1]
            # Memorized at the smallest R of the grid already: the boundary is there or below.
            rows.append((n_examples, seed, first if before == 0 else (before + first) / 2))
    return pd.DataFrame(rows, columns=["n_examples", "seed", "threshold"])


def _n(tables: Tables) -> int:
    return int(tables["runs"]["n_features"].iloc[0])


def _law(tables: Tables) -> Finding:
    """Of the largest T: the law is one of large T/n. What c is at the others is told."""
    found = tables["thresholds"]
    found = found[found["n_examples"] >= 3 * _n(tables)]
    if found["n_examples"].nunique() < 2 or np.isinf(found["threshold"]).any():
        return not_run("a boundary inside the grid of R, at two T of at least 3 n")
    ratio = found["threshold"] * _n(tables) / found["n_examples"]
    finding = compare(ratio[found["n_examples"] == found["n_examples"].max()].to_numpy(), 0.4, 0.15, ".2f")
    return finding.also(f"by T: {along(ratio.groupby(found['n_examples']).mean(), '.2f', '')}")


def _more_at_small_t(tables: Tables) -> Finding:
    found = tables["thresholds"]
    small = found[found["n_examples"] <= _n(tables)]["threshold"]
    if small.empty:
        return not_run("T up to n")
    finding = share((small > 1).tolist(), "need more than one occurrence, the law's T/n = 1 at most")
    return finding.also(f"at T <= n the boundary is at R = {', '.join(f'{r:g}' for r in small)} (by seed)")


_ERROR = "stored: error below 3/4"
_CLAIMS = (
    Claim(
        "few-repeats",
        "An example that occurs 2 or 3 times is not memorized, one that occurs more often is (T = 3 n)",
        _JERMYN,
        "nothing new at 2 to 3",
        _few_repeats_change_nothing,
        refuted_if="all datasets memorize it",
    ),
    Claim(
        "replaces-one-feature",
        f"An example that occurs 5 times is stored beside four features, in place of the fifth (T = 3 n; {_ERROR})",
        _JERMYN,
        "one example, four features",
        _store(
            "store the repeated example and four features",
            lambda k, examples, features: (examples, features) == (1, 4),
            (1,),
            "(examples, features) stored",
            5,
        ),
        refuted_if="no dataset stores one example and four features",
    ),
    Claim(
        "each-is-stored",
        f"Of 1, 2, 3 or 5 examples that occur {_SEVERAL_R} times each is stored (T = 3 n; {_ERROR})",
        _JERMYN,
        "k examples",
        _store("store all k repeated examples", lambda k, examples, _: examples == k, _UP_TO_FIVE, ""),
        refuted_if="in no run all are stored",
    ),
    Claim(
        "each-replaces-one",
        f"Of 1, 2, 3 or 5 examples that occur {_SEVERAL_R} times each replaces one feature (T = 3 n; {_ERROR})",
        _JERMYN,
        "k examples, 5 - k features",
        _store(
            "store k examples and 5 - k features",
            lambda k, examples, features: (examples, features) == (k, 5 - k),
            _UP_TO_FIVE,
            "(examples, features) by k",
        ),
        refuted_if="no run stores k examples and 5 - k features",
    ),
    Claim(
        "five-of-many",
        f"Of more than five repeated examples five are stored, and no feature (T = 3 n; {_ERROR})",
        _JERMYN,
        "five examples, no feature",
        _store(
            "store five of eight repeated examples and no feature",
            lambda k, examples, features: (examples, features) == (5, 0),
            (8,),
            "(examples, features)",
        ),
        refuted_if="no dataset stores five examples and no feature",
    ),
    Claim(
        "law",
        "At the largest T a repeated example is memorized from R = c T/n on (among the top 0.1 % by dimensionality)",
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
        refuted_if="all datasets memorize an example that occurs once at T <= n",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    figures = {}
    shown = dict(list(tables["histories"].groupby("panel", sort=False)))
    if shown:
        n_rows = -(-len(shown) // 2)
        figure, axes = figure_of(n_rows, 2, size=(7, 2.7 * n_rows), sharex=True, sharey=True, squeeze=False)
        for ax, (panel, history) in zip(axes.flat, shown.items(), strict=False):
            training_history(history, ax)
            ax.set_title(panel)
            ax.label_outer()
        axes[0, 0].legend()
        main = tables["runs"].query("group in [@_ONE, @_SEVERAL_EXAMPLES]")
        caption = (
            f"How dimensionality grows in one run for each panel, whose title says how often which of its"
            f" T = {main['n_examples'].iloc[0]:,} training examples occur; a line for each of the eight features that"
            f" are ever largest. No means and no bars. {sizes_of(main, ('id',), 'panel')}"
        )
        figures["histories"] = Captioned(figure, caption)
    return {**figures, "boundary": _draw_boundary(tables)}


def _draw_boundary(tables: Tables) -> Captioned:
    """The share of datasets that memorize a repeated example, by T and R on log axes, where the law is straight."""
    boundary = tables["boundary"]
    common = sorted(set.intersection(*(set(rows["repeats"]) for _, rows in boundary.groupby("n_examples"))))
    shown = boundary[boundary["repeats"].isin(common)].astype({"memorized": float})
    share = shown.pivot_table(index="repeats", columns="n_examples", values="memorized", aggfunc="mean")
    runs = tables["runs"].query("group in [@_ONE, @_OTHERS]")
    sizes, counts = (np.array(axis, dtype=float) for axis in (share.columns, share.index))
    figure, ax = figure_of(size=(6.5, 4.4))
    mesh = ax.pcolormesh(_edges(sizes), _edges(counts), share.to_numpy(), cmap="Oranges", vmin=0, vmax=1.2)
    figure.colorbar(
        mesh, label="share of datasets that memorize it", boundaries=np.linspace(0, 1, 200), ticks=np.linspace(0, 1, 5)
    )
    ax.plot(
        _edges(sizes),
        0.4 * _edges(sizes) / _n(tables),
        color="black",
        lw=1.3,
        ls="--",
        label="Jermyn's law, R = 0.4 T/n",
    )
    found = tables["thresholds"].groupby("n_examples")["threshold"]
    inside = found.agg(["mean", "sem"])[np.isfinite(found.max())]  # at others it lies beyond the R that were run
    label = "the R from which on it is memorized"
    ax.errorbar(inside.index, inside["mean"], inside["sem"], fmt="ko-", ms=4, lw=1.3, capsize=2, label=label)
    log_axis(ax, sizes)
    ax.set_yscale("log")
    ax.set_yticks(counts, [f"{count:g}" for count in counts])
    ax.minorticks_off()
    ax.set(xlim=_edges(sizes)[[0, -1]], ylim=_edges(counts)[[0, -1]])
    ax.set(xlabel="training examples T", ylabel="occurrences R of one example")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    caption = (
        "Colour: the share of datasets in which an example that occurs R times among T is memorized (among the 0.1 % of"
        " examples with the largest dimensionality), each cell around its R and T, both on log axes. Black: the R from"
        " which on it is, midway between two that were run; dots are means over seeds, bars one standard error either"
        f" way. Dashed: the law of the comment. {sizes_of(runs, ('repeats', 'n_examples'), 'cell')}"
    )
    return Captioned(figure, caption)


def _edges(values: np.ndarray) -> np.ndarray:
    """Where the cells around increasing values end on a log axis: midway, and as far beyond the first and last."""
    logs = np.log(values)
    half = np.diff(logs) / 2 if len(values) > 1 else np.array([0.5])
    return np.asarray(
        np.exp(np.concatenate([[logs[0] - half[0]], logs[:-1] + half[: len(logs) - 1], [logs[-1] + half[-1]]]))
    )


def _histories(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """How dimensionalities grow in one dataset of some of the runs at the main size, each a panel of the figure."""
    parts = []
    for label, repeats in ((_ONE, (1,)), (_ONE, (3,)), (_ONE, (5,)), (_SEVERAL_EXAMPLES, (_SEVERAL_R,) * 3)):
        for run in itertools.islice(groups.get(label, Runs([])).where(repeats=repeats), 1):
            counts = "one example" if len(repeats) == 1 else f"{len(repeats)} examples"
            panel = f"{counts}, {f'{repeats[0]} times' if repeats[0] > 1 else 'once'}"
            parts.append(history_of(run, range(len(repeats))).assign(panel=panel))
    return pd.concat(parts) if parts else pd.DataFrame(columns=["line", "step", "dimensionality", "panel"])


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs, boundary = table_of(groups), _boundary(groups)
    thresholds = _thresholds(boundary)
    ratio = thresholds["threshold"] * runs["n_features"].iloc[0] / thresholds["n_examples"]
    over_size = ratio.replace(math.inf, np.nan).groupby(thresholds["n_examples"])
    return {
        "runs": runs,
        "boundary": boundary,
        "thresholds": thresholds,
        "law": over_size.agg(seeds="size", ratio="mean", ratio_se="sem").reset_index(),
        "stored": _stored(groups),
        "histories": _histories(groups),
    }


STUDY = Study(
    "repeats",
    "When are repeated training examples memorized, and what do they replace?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
