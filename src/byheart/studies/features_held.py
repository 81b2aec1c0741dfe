"""How many features are held once they are learned, and does this number set how T of the jump grows with sparsity?

A feature is held if its dimensionality D is above half of the largest; beside this number stands one without a
threshold, the participation number: the sum of D squared, over the sum of the squares of D. It is k if k features have
the same D and all others none. The jump is where test loss falls below 1, the loss of an answer that is always 0: the
T from which on it stays below, between two T of the grid on a straight line in logarithms. It grows as (1 - S)^-q with
sparsity S; q is 1 if only how often a feature occurs, T(1 - S), matters. Another mark of the jump is half of the gain:
where test loss is half as far below 1 as at the last T.

Source: A. Jermyn's comment "What sets the generalization scale?" in Henighan et al. 2023, where curves collapse less
cleanly for larger m, and the look at it in results/LOG.md (2026-11-28), which made the predictions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from byheart.claims import Claim, Finding, judged, lies_within, not_run, one_digit
from byheart.geometry import feature_dimensionality
from byheart.studies.readme import sizes_of
from byheart.studies.study import N_SEEDS, SMALLEST, Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import curves, figure_of, shades
from byheart.toy.runs import Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of

_BEFORE, _LAST = 100, 300  # occurrences T(1 - S) between which D may fall; at the last all is measured
_OCCURRENCES: dict[int, tuple[int, ...]] = {  # by m: to both sides of where the look had the jump, then these two
    2: (3, 5, 7, 10, 15, 30, _BEFORE, _LAST),
    3: (5, 7, 10, 15, 20, 30, 50, _BEFORE, _LAST),
    4: (7, 10, 15, 20, 30, 50, 70, _BEFORE, _LAST),
    6: (10, 15, 20, 30, 50, 70, _BEFORE, _LAST),
    8: (15, 20, 30, 50, 70, _BEFORE, 150, _LAST),
}
_M: dict[Scale, tuple[int, ...]] = {"quick": (2, 4, 8), "medium": (2, 3, 4, 6, 8), "paper": (2, 3, 4, 6, 8)}
_ACTIVE: dict[Scale, tuple[float, ...]] = {  # features of an example: n(1 - S), half as many from one to the next
    "quick": (25, 12.5, 6.25),
    "medium": (30, 15, 7.5, 3.75),
    "paper": (30, 15, 7.5, 3.75),
}
_SIZES: dict[Scale, dict[str, int]] = {"quick": {}, "medium": {"n_features": 300}, "paper": {"n_features": 1_000}}
_SAME = 0.1  # an exponent so near 0 is none: 1.23 times from S = 0.9 to 0.9875
_OF_PRODUCT, _LOW, _HIGH = (4, 8), 1.0, 1.4
_MEASURES = {"held": "held", "participation_number": "participation"}
_ALL, _STEPS_OF_HALF_GAIN = "all", "steps-of-half-gain"
_MUCH = 0.25  # of the variance of q
_JERMYN = "A. Jermyn, comment in Henighan et al. 2023"
_LOOK = "predicted by a look (LOG, 2026-11-28)"
_GUESS = "a guess of that look (LOG, 2026-11-28)"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    base = setup("quick" if scale == "quick" else "medium", **(SMALLEST if scale == "quick" else _SIZES[scale]))
    n = base.n_features
    configs = [
        config
        for n_hidden in _M[scale]
        for active in _ACTIVE[scale]
        for config in grid(
            dataclasses.replace(base, n_hidden=n_hidden, sparsity=1 - active / n),
            {"n_examples": [round(x * n / active) for x in _OCCURRENCES[n_hidden]]},
            range(N_SEEDS[scale]),
        )
    ]
    return {_ALL: configs}


def _numbers(runs: Runs) -> pd.DataFrame:
    """By run: how many features have more than half of the largest D, and the participation number of all."""
    rows = []
    for run in runs:
        own = feature_dimensionality(run.W)
        squares = float(np.square(own).sum())
        participation = float(own.sum()) ** 2 / squares if squares > 0 else 0.0
        rows.append((run.id, int((own > own.max() / 2).sum()), participation))
    return pd.DataFrame(rows, columns=["id", *_MEASURES])


def _stays_below(level: float, sizes: np.ndarray, losses: np.ndarray) -> float:
    """Return the T from which on test loss stays below a level: infinite if it does not, and NaN if it always is.

    In the latter case there is no jump, or it lies before the smallest T of the grid.
    """
    above = np.flatnonzero(~(losses < level))
    if not len(above):
        return math.nan
    k = int(above[-1])
    if k + 1 == len(losses):
        return math.inf
    x, y = np.log(sizes[k : k + 2]), np.log(losses[k : k + 2] / level)
    return float(np.exp(x[0] + (x[1] - x[0]) * y[0] / (y[0] - y[1])))


def _below_one(sizes: np.ndarray, losses: np.ndarray) -> float:
    return _stays_below(1, sizes, losses)


def _half_gain(sizes: np.ndarray, losses: np.ndarray) -> float:
    """Return the T of half of the gain; infinite if there is none at the last T."""
    return _stays_below((1 + losses[-1]) / 2, sizes, losses) if losses[-1] < 1 else math.inf


def _cells(runs: pd.DataFrame, mark: Callable[[np.ndarray, np.ndarray], float]) -> pd.DataFrame:
    """By m, S and seed: T of the jump, and what is held at T(1 - S) = 300 where the jump is at half of that at most.

    The change of the largest D is its value at 300 over that at 100, where the jump is at 50 at most.
    """
    rows: list[tuple[Any, ...]] = []
    for key, own in runs.groupby(["n_features", "n_hidden", "sparsity", "seed"]):
        own, sparsity = own.sort_values("n_examples"), float(str(key[2]))
        jump = mark(own["n_examples"].to_numpy(float), own["test_loss"].to_numpy(float))
        occurrences, measured = jump * (1 - sparsity), [math.nan] * 4
        x = (own["n_examples"] * (1 - sparsity)).round().to_numpy()
        largest = own["feature_dimensionality_max"].to_numpy(float)
        if _LAST in x and occurrences <= _LAST / 2:
            before = _BEFORE in x and occurrences <= _BEFORE / 2
            change = float((largest[x == _LAST] / largest[x == _BEFORE])[0]) if before else math.nan
            measured = [
                *(float(own[name].to_numpy()[x == _LAST][0]) for name in _MEASURES),
                largest[x == _LAST][0],
                change,
            ]
        rows.append((*key, jump, occurrences, *measured))
    names = ["n_features", "n_hidden", "sparsity", "seed", "jump", "occurrences", *_MEASURES]
    return pd.DataFrame(rows, columns=[*names, "largest", "change"])


def _steps(cells: pd.DataFrame) -> pd.DataFrame:
    """By m, seed and two neighbouring S: q from one to the other, and the geometric means of what is held at both."""
    rows = []
    for key, own in cells.groupby(["n_hidden", "seed"]):
        own = own.sort_values("sparsity")
        for (_, one), (_, two) in zip(own.iloc[:-1].iterrows(), own.iloc[1:].iterrows(), strict=True):
            if not np.isfinite([one["jump"], two["jump"], one["held"], two["held"]]).all():
                continue
            sparser = (1 - one["sparsity"]) / (1 - two["sparsity"])
            means = [math.sqrt(one[name] * two[name]) for name in _MEASURES]
            q = math.log(two["jump"] / one["jump"]) / math.log(sparser)
            rows.append((*key, one["sparsity"], two["sparsity"], q, *means))
    return pd.DataFrame(rows, columns=["n_hidden", "seed", "sparsity", "next_sparsity", "q", *_MEASURES])


def _exponents(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """By m, a column per seed: the power of 1/(1 - S) that a column grows with, where it is known at three S."""
    rows = []
    for (m, seed), own in cells[np.isfinite(cells[column])].groupby(["n_hidden", "seed"]):
        if own["sparsity"].nunique() >= 3:
            rows.append((m, seed, np.polyfit(-np.log(1 - own["sparsity"]), np.log(own[column]), 1)[0]))
    return _by_seed(pd.DataFrame(rows, columns=["n_hidden", "seed", "value"]))


def _by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """A row per m and a column per seed."""
    return table.pivot_table(index="n_hidden", columns="seed", values="value")


def _mean(over_seeds: pd.Series[float] | np.ndarray) -> tuple[float, float]:
    """The mean over seeds and its standard error, infinite of fewer than two."""
    values = np.asarray(over_seeds, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values.mean()) if len(values) else math.nan), math.inf
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _in_words(mean: float, error: float) -> str:
    return f"{mean:.2f} \N{PLUS-MINUS SIGN} {one_digit(error)}" if math.isfinite(error) else f"{mean:.2f} (one seed)"


def _growth(cells: pd.DataFrame, widths: Sequence[int]) -> dict[int, dict[str, tuple[float, float]]]:
    """By m, where known: the exponents of both numbers, with standard errors."""
    found = {name: _exponents(cells, name) for name in _MEASURES}
    return {
        m: {k: _mean(own.loc[m].to_numpy()) for k, own in found.items()} for m in widths if m in found["held"].index
    }


def _growth_in_words(growth: Mapping[int, Mapping[str, tuple[float, float]]]) -> str:
    words = [
        f"m = {m}: " + ", ".join(f"{_MEASURES[name]} {_in_words(*own)}" for name, own in both.items())
        for m, both in growth.items()
    ]
    return "exponents: " + "; ".join(words)


def _same_at_two(tables: Tables) -> Finding:
    cells = tables["cells"]
    growth = _growth(cells, (2,))
    if not growth:
        return not_run("m = 2 after the jump at three sparsities")
    within = [lies_within(*own, -_SAME, _SAME) for own in growth[2].values()]
    held = cells.query("n_hidden == 2").groupby("sparsity")["held"].mean()
    numbers = ", ".join(f"{value:.1f} at S = {at:g}" for at, value in held.items())
    words = f"held {numbers}; {_growth_in_words(growth)}"
    return judged(words, all(one is True for one in within), all(one is False for one in within))


def _grows_above_two(tables: Tables) -> Finding:
    widths = [m for m in sorted(set(tables["cells"]["n_hidden"])) if m > 2]
    growth = _growth(tables["cells"], widths)
    if not growth or len(growth) < len(widths):
        return not_run("every m above 2 after the jump at three sparsities")
    grows = {m: [lies_within(*own, low=_SAME) for own in both.values()] for m, both in growth.items()}
    all_grow = all(one is True for both in grows.values() for one in both)
    return judged(_growth_in_words(growth), all_grow, any(all(one is False for one in both) for both in grows.values()))


def _product(tables: Tables) -> Finding:
    cells = tables["cells"].query("n_hidden in @_OF_PRODUCT")
    products = cells.assign(product=cells["largest"] * cells["held"] / cells["n_hidden"]).dropna(subset="product")
    found = {key: _mean(own.to_numpy()) for key, own in products.groupby(["n_hidden", "sparsity"])["product"]}
    if any(sum(width == m for width, _ in found) < 3 for m in _OF_PRODUCT):
        return not_run("m = 4 and 8 after the jump at three sparsities")
    within = [lies_within(*own, _LOW, _HIGH) for own in found.values()]
    words = "; ".join(
        f"m = {m}: " + ", ".join(f"{_in_words(*own)} at S = {s:g}" for (width, s), own in found.items() if width == m)
        for m in _OF_PRODUCT
    )
    return judged(f"over m: {words}", all(one is True for one in within), any(one is False for one in within))


def _q_grows(tables: Tables) -> Finding:
    by_seed = _exponents(tables["cells"], "jump")
    by_seed = by_seed.dropna(axis=1) if len(by_seed) else by_seed
    if len(by_seed) < 3 or by_seed.shape[1] < 2:
        return not_run("the jumps of three m at three sparsities, two seeds")
    trend = _mean(np.polyfit(np.log(by_seed.index.to_numpy(float)), by_seed.to_numpy(), 1)[0])
    rises = [_mean(change) for change in np.diff(by_seed.to_numpy(), axis=0)]
    q = ", ".join(f"{_in_words(*_mean(own.to_numpy()))} at m = {m}" for m, own in by_seed.iterrows())
    up = lies_within(*trend, low=0)
    falls = any(lies_within(*own, low=0) is False for own in rises)
    return judged(
        f"q: {q}; per factor e in m {_in_words(*trend)}",
        up is True and all(mean > 0 for mean, _ in rises),
        up is False or falls,
    )


def _q_rises_at_fixed_m(tables: Tables) -> Finding:
    steps = tables["steps"].query("n_hidden > 2")
    rows = []
    for (m, seed), own in steps.groupby(["n_hidden", "seed"]):
        if len(own) >= 2:
            x = -np.log((1 - own["sparsity"]) * (1 - own["next_sparsity"])) / (2 * math.log(2))
            rows.append((m, seed, np.polyfit(x, own["q"], 1)[0]))
    if not rows:
        return not_run("the jumps of an m above 2 at three sparsities")
    by_seed = _by_seed(pd.DataFrame(rows, columns=["n_hidden", "seed", "value"]))
    overall = _mean(by_seed.mean(axis=0).to_numpy())
    words = ", ".join(f"{_in_words(*_mean(own.to_numpy()))} at m = {m}" for m, own in by_seed.iterrows())
    up = lies_within(*overall, low=0)
    return judged(f"q per halving of 1 - S: {words}; mean {_in_words(*overall)}", up is True, up is False)


_EXPLAIN: dict[str, Callable[[pd.DataFrame], Any]] = {
    "m": lambda steps: np.log(steps["n_hidden"]),
    "held": lambda steps: np.log(steps["held"]),
    "participation": lambda steps: np.log(steps["participation_number"]),
    "held over m": lambda steps: np.log(steps["held"] / steps["n_hidden"]),
    "participation over m": lambda steps: np.log(steps["participation_number"] / steps["n_hidden"]),
    "S": lambda steps: -np.log((1 - steps["sparsity"]) * (1 - steps["next_sparsity"])),
}


def _explained(steps: pd.DataFrame) -> pd.DataFrame:
    """By seed: the share of the variance of q over steps that a line over the logarithm of each of these explains.

    It is negative if the line falls: q was guessed to grow with each.
    """
    rows = {}
    for seed, own in steps.groupby("seed"):
        if len(own) >= 6 and own["n_hidden"].nunique() >= 3:
            correlations = {name: float(np.corrcoef(of(own), own["q"])[0, 1]) for name, of in _EXPLAIN.items()}
            rows[seed] = {name: r * abs(r) for name, r in correlations.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_EXPLAIN))


def _follows(these: Sequence[str], those: Sequence[str], tables: Tables) -> Finding:
    """Whether q follows these better than those, pair by pair, in the mean over seeds of the difference."""
    explained = _explained(tables["steps"])
    if len(explained) < 2:
        return not_run("six steps in S of three m, two seeds")
    better = [
        lies_within(*_mean((explained[a] - explained[b]).to_numpy()), low=0) for a, b in zip(these, those, strict=True)
    ]
    shares = ", ".join(f"{name} {_in_words(*_mean(explained[name].to_numpy()))}" for name in _EXPLAIN)
    words = f"share of the variance of q over {len(tables['steps']) / len(explained):g} steps: {shares}"
    return judged(words, all(one is True for one in better), all(one is False for one in better))


def _either_mark(tables: Tables) -> Finding:
    """Whether both numbers explain much of q, by whichever mark of the jump."""
    words, enough = [], []
    for mark, name in (("test loss below 1", "steps"), ("half of the gain", _STEPS_OF_HALF_GAIN)):
        explained = _explained(tables[name])
        if len(explained) < 2:
            return not_run(f"six steps in S of three m, two seeds ({mark})")
        shares = {number: _mean(explained[number].to_numpy()) for number in ("held", "participation")}
        enough.append([lies_within(*share, low=_MUCH) for share in shares.values()])
        in_words = ", ".join(f"{number} {_in_words(*share)}" for number, share in shares.items())
        n_steps = sorted({*tables[name].groupby("seed").size()})
        words.append(f"{mark}: {in_words} ({' or '.join(map(str, n_steps))} steps)")
    return judged(
        f"share of the variance of q, by the mark of the jump: {'; '.join(words)}",
        all(one is True for both in enough for one in both),
        any(all(one is False for one in both) for both in enough),
    )


def _falls(tables: Tables) -> Finding:
    cells = tables["cells"].dropna(subset="change")
    logs = _by_seed(cells.assign(value=np.log(cells["change"])))
    if not len(logs) or logs.shape[1] < 2:
        return not_run(f"T(1 - S) = {_BEFORE} and {_LAST} after the jump, two seeds")
    falls, words = [], []
    for m, own in logs.iterrows():
        mean, error = _mean(own.to_numpy())
        falls.append(lies_within(mean, error, high=0))
        n_sparsities = cells.query("n_hidden == @m")["sparsity"].nunique()
        words.append(f"{_in_words(math.exp(mean), math.exp(mean) * error)} at m = {m} ({n_sparsities} S)")
    ours = f"largest D at {_LAST} over that at {_BEFORE}: {', '.join(words)}"
    return judged(ours, all(one is True for one in falls), any(one is False for one in falls))


_CLAIMS = (
    Claim(
        "same-number-at-m2",
        f"m = 2: the number of features held after the jump does not depend on S (exponent within {_SAME:g} of 0)",
        f"{_LOOK}; Henighan et al. 2023: five, a pentagon",
        "0",
        _same_at_two,
        refuted_if="both exponents, two standard errors either way, lie outside",
    ),
    Claim(
        "number-grows-with-sparsity",
        f"At every m above 2 the number of features held after the jump grows with S (exponent above {_SAME:g})",
        _LOOK,
        "about 0.4 at m = 4",
        _grows_above_two,
        refuted_if=f"at some m both exponents, two standard errors either way, lie below {_SAME:g}",
    ),
    Claim(
        "largest-times-number",
        f"m = 4 and 8: the largest D times the number held is {_LOW:g} to {_HIGH:g} m, at every S with a jump",
        _LOOK,
        f"{_LOW:g} to {_HIGH:g}",
        _product,
        refuted_if="at some m and S it lies outside, two standard errors either way",
    ),
    Claim(
        "q-grows-with-m",
        "The jump is at T ~ (1 - S)^-q, with a q that grows with m, from each m to the next",
        f"{_LOOK}; {_JERMYN} (curves collapse less cleanly for larger m)",
        "1 at m = 2",
        _q_grows,
        refuted_if="the slope of q over log m is below 0, or q falls from an m to the next, by two standard errors",
    ),
    Claim(
        "q-rises-at-fixed-m",
        "In the mean over m above 2, q is larger between sparser S, as it must be if the number held sets it",
        "derived from that guess, before any run",
        "above 0",
        _q_rises_at_fixed_m,
        refuted_if="the slope of q over S, a mean over m, lies below 0 by two standard errors",
    ),
    Claim(
        "q-follows-number",
        "From S to S and m to m, q follows the number held better than it follows m",
        _GUESS,
        "a larger share of the variance",
        functools.partial(_follows, ("held", "participation"), ("m", "m")),
        refuted_if="m explains the larger share, by two standard errors, for both numbers",
    ),
    Claim(
        "q-follows-number-per-unit",
        "q follows the number held per hidden unit better than the number held",
        "new, before any run",
        "a larger share of the variance",
        functools.partial(_follows, ("held over m", "participation over m"), ("held", "participation")),
        refuted_if="the number held explains the larger share, by two standard errors, for both numbers",
    ),
    Claim(
        "q-follows-number-by-either-mark",
        f"The number held explains {100 * _MUCH:g} % of the variance of q or more, by either mark of the jump",
        "new, added after the tables had been looked at",
        f"{_MUCH:g} or more",
        _either_mark,
        refuted_if="by one of the marks it is less for both numbers, by two standard errors",
    ),
    Claim(
        "falls-after-the-jump",
        f"After the jump the largest D falls as T grows (from T(1 - S) = {_BEFORE} to {_LAST}), at every m",
        _JERMYN,
        "falls slowly",
        _falls,
        refuted_if="at some m, in the mean over S, it rises by two standard errors",
    ),
)


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    by_id = {header.id: header for runs in groups.values() for header in runs.headers}
    runs = table_of(groups).merge(_numbers(Runs(list(by_id.values()))), on="id")
    cells, of_half_gain = _cells(runs, _below_one), _cells(runs, _half_gain)
    return {"runs": runs, "cells": cells, "steps": _steps(cells), _STEPS_OF_HALF_GAIN: _steps(of_half_gain)}


def _figures(tables: Tables) -> dict[str, Captioned]:
    runs = tables["runs"].assign(occurrences=(tables["runs"]["n_examples"] * (1 - tables["runs"]["sparsity"])).round())
    cells = tables["cells"].assign(sparser=1 / (1 - tables["cells"]["sparsity"]))
    shown = sorted(set(runs["sparsity"]))[-2:][0]
    figure, axes = figure_of(2, 2, size=(8, 6.6))
    held, jump, largest, q = (ax for ax in np.ravel(axes))
    for ax, table, column, axis in (
        (held, cells, "held", "sparser"),
        (jump, cells, "occurrences", "sparser"),
        (largest, runs[runs["sparsity"] == shown], "feature_dimensionality_max", "occurrences"),
    ):
        known = table.assign(
            **{column: table[column].where(np.isfinite(table[column]))}
        )  # an m without keeps its colour
        if known[column].notna().any():
            curves(known, column, "n_hidden", ax, axis, "m = {}", apart=1.015)
        ax.set(yscale="log")
    held.set(title="features held", ylabel="number")
    jump.set(title="the jump", ylabel="T(1 - S)")
    sparsities = sorted(set(cells["sparsity"]))
    for ax in (held, jump):
        ax.set_xticks([1 / (1 - s) for s in sparsities], [f"{s:g}" for s in sparsities])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("sparsity S, spaced as 1/(1 - S)")
    largest.set(title=f"largest dimensionality, S = {shown:g}", ylabel="D", xlabel="T(1 - S)")
    steps = tables["steps"]
    for m, color in shades(runs["n_hidden"]).items():
        by = steps[steps["n_hidden"] == m].groupby("sparsity")[["held", "q"]]
        mean, error = by.mean(), by.sem()
        q.errorbar(mean["held"], mean["q"], error["q"], error["held"], "o-", color=color, lw=0.8, ms=4, capsize=2)
    q.set(xscale="log", title="q, from a sparsity to the next", xlabel="features held", ylabel="q")
    q.axhline(1, color="black", lw=0.6, ls="--")
    for axis in (held.yaxis, jump.yaxis, largest.xaxis, largest.yaxis, q.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3) if axis is largest.xaxis else (1, 2, 3, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    figure.legend(*largest.get_legend_handles_labels(), loc="outside upper center", ncols=runs["n_hidden"].nunique())
    caption = (
        f"From the top left, colours are m: how many features have more than half of the largest dimensionality D, at"
        f" T(1 - S) = {_LAST}; how often a feature occurs, T(1 - S), where test loss falls below 1 for good: level if"
        " occurrences alone mattered; the largest D against how often a feature occurs; and q, the power of 1/(1 - S)"
        " that T of the jump grows with from a sparsity to the next (1, dashed: occurrences alone), against the number"
        " held, its geometric mean at both. Dots are means over seeds, bars one standard error either way; lines stand"
        " a little apart so that bars can be told."
        f" {sizes_of(runs, ('n_hidden', 'sparsity', 'n_examples'))}"
    )
    return {"features-held": Captioned(figure, caption)}


STUDY = Study(
    "features-held",
    "How many features are held once they are learned, and does it set how the T of the jump grows with sparsity?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
