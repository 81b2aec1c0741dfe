"""How many bits can the toy hold, and does test loss peak where the training set takes more?

Memorized bits are those that a model saves in writing its training examples down, beyond what it saves on fresh ones
(``toy.codes``); its capacity is the most that it holds of any training set. A set fills the capacity where its
examples, written without a model, take as many bits.

Source: Morris et al. 2025, arXiv 2505.24832: 3.6 bits a parameter in language models, and double descent from where the
data exceed the capacity. The claims were written after a look at one dataset for m = 2 and 4, in which capacity was
762 and 3,953 bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from byheart.claims import Bump, Claim, Finding, along, judged, lies_within, not_run, one_digit
from byheart.studies.readme import sizes_of
from byheart.studies.study import FEW_STEPS, N_SEEDS, SMALLEST, Captioned, Scale, Study, Tables, setup
from byheart.toy.codes import code, memorized_bits
from byheart.toy.config import TrainConfig
from byheart.toy.figures import figure_of, log_axis
from byheart.toy.runs import Runs
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of
from byheart.toy.train import draw_examples, draw_test_examples

_WIDTHS, _SIZES = "widths", "sizes"
_M: dict[Scale, tuple[int, ...]] = {
    "quick": (2, 4, 8),
    "medium": (1, 2, 3, 4, 6, 8),
    "paper": (1, 2, 3, 4, 6, 8, 12, 16),
}
_QUICK_T = (5, 10, 20, 40, 80, 160, 320, 640, 1_280)
_T = (5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 1_500, 2_000, 3_000, 5_000)
_N = (250, 500, 2_000)  # beside 1,000, at ten features an example; with m = 4 hidden units
_M_OF_SIZES, _LARGEST_OF_SIZES = 4, 1_000  # beyond this T no more is memorized
_N_FRESH = 1_000
_OF_LANGUAGE_MODELS = 3.6  # bits a parameter
_EXPONENT, _FACTOR = 0.25, 1.5  # tolerances, of exponents and of the ratio over m
_MORRIS = "Morris et al. 2025, arXiv 2505.24832"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    few = SMALLEST if scale == "quick" else FEW_STEPS if scale == "medium" else {}
    base = setup("quick" if scale == "quick" else "medium", n_test=_N_FRESH, **few)
    sizes: tuple[int, ...] = _QUICK_T if scale == "quick" else _T
    seeds = range(N_SEEDS[scale])
    groups = {_WIDTHS: grid(base, {"n_hidden": _M[scale], "n_examples": sizes}, seeds)}
    if scale != "quick":
        base = dataclasses.replace(base, n_hidden=_M_OF_SIZES)
        sizes = tuple(size for size in sizes if size <= _LARGEST_OF_SIZES)
        groups[_SIZES] = [
            config
            for n in _N
            for config in grid(
                dataclasses.replace(base, n_features=n, sparsity=1 - 10 / n), {"n_examples": sizes}, seeds
            )
        ]
    return groups


def _bits(runs: Runs) -> pd.DataFrame:
    """Memorized bits of each run, and how many its examples take, written without a model."""
    rows = []
    for run in runs:
        config = run.config
        train = code(run.W, run.b, draw_examples(config), config.sparsity)
        fresh = code(run.W, run.b, draw_test_examples(config), config.sparsity)
        saved = train.saved.mean(), fresh.saved.mean()
        rows.append((run.id, memorized_bits(train, fresh), train.without.sum(), *saved))
    names = ["id", "memorized_bits", "bits_without", "saved_per_example", "saved_per_fresh_example"]
    return pd.DataFrame(rows, columns=names)


def _capacities(runs: pd.DataFrame) -> pd.DataFrame:
    """By n, m and seed: the most bits held, of how many examples, and how many examples would fill that."""
    rows = []
    for key, own in runs.drop_duplicates("id").groupby(["n_features", "n_hidden", "seed"]):
        n, m, seed = (int(str(value)) for value in key)
        best = own.nlargest(1, "memorized_bits").iloc[0]
        capacity = float(best["memorized_bits"])
        filled = capacity * float(own["n_examples"].sum() / own["bits_without"].sum())
        inside = bool(own["n_examples"].min() < best["n_examples"] < own["n_examples"].max())
        rows.append((n, m, seed, capacity, capacity / ((m + 1) * n), int(best["n_examples"]), filled, inside))
    names = ["n_features", "n_hidden", "seed", "capacity", "bits_per_parameter", "n_examples", "filled_by", "inside"]
    return pd.DataFrame(rows, columns=names)


def _peaks(runs: pd.DataFrame, capacities: pd.DataFrame) -> pd.DataFrame:
    """By m: the T of the highest test loss, where it is a bump above 1, beside what the capacity would be filled by."""
    rows = []
    for m, own in runs.query("group == @_WIDTHS").groupby("n_hidden"):
        bump = Bump.along(own, "n_examples")
        held = capacities.query("n_hidden == @m and n_features == @own.n_features.iloc[0]")
        if bump is not None and bump.height > 3 and bump.mean > 1:
            filled, most = held["filled_by"].mean(), held["n_examples"].median()
            rows.append((m, bump.at, bump.mean, filled, most, bump.at / filled, bump.at / most))
    names = ["n_hidden", "peak", "test_loss", "filled_by", "most_held_at", "peak_to_filled", "peak_to_most_held"]
    return pd.DataFrame(rows, columns=names)


def _exponent(capacities: pd.DataFrame, by: str) -> Finding | tuple[float, float, str]:
    """The power of m or n that capacity grows with, with the standard error of its mean over seeds, and in words."""
    inside = capacities[capacities["inside"]]
    by_seed = inside.pivot_table(index=by, columns="seed", values="capacity").dropna()
    if len(by_seed) < 3 or by_seed.shape[1] < 2:
        return not_run(f"three {by}, two seeds, with the most bits inside the range of T")
    slopes = np.polyfit(np.log(by_seed.index.to_numpy(float)), np.log(by_seed.to_numpy()), 1)[0]
    error = float(slopes.std(ddof=1) / math.sqrt(len(slopes)))
    where = along(by_seed.mean(axis=1).round(), "g", "m = " if by == "n_hidden" else "n = ")
    slope = float(slopes.mean())
    return slope, error, f"bits: {where}; exponent {slope:.2f} \N{PLUS-MINUS SIGN} {one_digit(error)}"


def _proportional(by: str, group: str, tables: Tables) -> Finding:
    found = _exponent(_of_group(tables, group), by)
    if isinstance(found, Finding):
        return found
    slope, error, words = found
    within = lies_within(slope, error, 1 - _EXPONENT, 1 + _EXPONENT)
    return judged(words, within is True, within is False)


def _of_group(tables: Tables, group: str) -> pd.DataFrame:
    capacities = tables["capacities"]
    if group == _WIDTHS:
        sizes = tables["runs"].query("group == @_WIDTHS")["n_features"]
        return capacities[capacities["n_features"].isin(sizes)]
    return capacities.query("n_hidden == @_M_OF_SIZES")


def _per_parameter(tables: Tables) -> Finding:
    held = _of_group(tables, _WIDTHS)
    held = held[held["inside"]]
    if held["seed"].nunique() < 2:
        return not_run("two seeds with the most bits inside the range of T")
    means = held.groupby("n_hidden")["bits_per_parameter"].mean()
    ours = f"bits a parameter: {along(means, '.2f', 'm = ')}"
    return judged(ours, bool((means <= _OF_LANGUAGE_MODELS).all()), bool((means > _OF_LANGUAGE_MODELS).all()))


def _beyond(tables: Tables) -> Finding:
    peaks = tables["peaks"].set_index("n_hidden")
    if len(peaks) < 2:
        return not_run("a bump above 1 at two m")
    ours = f"T of the peak over the T that fills the capacity: {along(peaks['peak_to_filled'], '.1f', 'm = ')}"
    return judged(ours, bool((peaks["peak_to_filled"] > 1).all()), bool((peaks["peak_to_filled"] <= 1).any()))


def _lines_up(column: str, tables: Tables) -> Finding:
    peaks = tables["peaks"].set_index("n_hidden")
    if len(peaks) < 3:
        return not_run("a bump above 1 at three m")
    ratio = peaks[column]
    spread = float(ratio.max() / ratio.min())
    ours = f"{along(ratio, '.1f', 'm = ')}; largest over smallest {spread:.2f}"
    return judged(ours, spread <= _FACTOR, spread > _FACTOR**2)


_CLAIMS = (
    Claim(
        "per-parameter",
        "The toy holds no more bits a parameter than language models do",
        _MORRIS,
        f"{_OF_LANGUAGE_MODELS} in language models trained for very long",
        _per_parameter,
        refuted_if="at every m it holds more",
    ),
    Claim(
        "grows-with-m",
        f"Capacity is proportional to m (exponent within {_EXPONENT:g} of 1)",
        f"{_MORRIS}: so many bits a parameter",
        "1",
        functools.partial(_proportional, "n_hidden", _WIDTHS),
        refuted_if="the exponent, two standard errors either way, lies outside",
    ),
    Claim(
        "grows-with-n",
        "Capacity is proportional to n, at ten features an example"
        f" (m = {_M_OF_SIZES}; exponent within {_EXPONENT:g} of 1)",
        f"{_MORRIS}: so many bits a parameter",
        "1",
        functools.partial(_proportional, "n_features", _SIZES),
        refuted_if="the exponent, two standard errors either way, lies outside",
    ),
    Claim(
        "peak-beyond-capacity",
        "At every m test loss peaks where the training set takes more bits than the capacity",
        f"{_MORRIS}: double descent begins where the data exceed the capacity",
        "above 1",
        _beyond,
        refuted_if="at some m it peaks before",
    ),
    Claim(
        "ridge-in-capacities",
        "In units of the T that fills the capacity, test loss peaks at the same T for all m (within"
        f" {_FACTOR:g} times)",
        "new",
        "the same",
        functools.partial(_lines_up, "peak_to_filled"),
        refuted_if=f"they differ by more than {_FACTOR**2:g} times",
    ),
    Claim(
        "ridge-in-most-held",
        f"In units of the T of which most bits are held, test loss peaks at the same T for all m (within {_FACTOR:g}"
        " times)",
        "new",
        "the same",
        functools.partial(_lines_up, "peak_to_most_held"),
        refuted_if=f"they differ by more than {_FACTOR**2:g} times",
    ),
)


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    by_id = {header.id: header for runs in groups.values() for header in runs.headers}
    runs = table_of(groups).merge(_bits(Runs(list(by_id.values()))), on="id")
    capacities = _capacities(runs)
    return {"runs": runs, "capacities": capacities, "peaks": _peaks(runs, capacities)}


def _figures(tables: Tables) -> dict[str, Captioned]:
    runs = tables["runs"].query("group == @_WIDTHS")
    figure, axes = figure_of(2, 2, size=(8, 6.2))
    held, loss, in_units, growth = (ax for ax in np.ravel(axes))
    fills = _of_group(tables, _WIDTHS).groupby("n_hidden")["filled_by"].mean()
    for m, own in runs.groupby("n_hidden"):
        label = f"m = {m}"
        bits = own.groupby("n_examples")["memorized_bits"]
        held.errorbar(bits.mean().index, bits.mean(), bits.sem(), capsize=2, lw=1.3, label=label)
        means = np.exp(np.log(own["test_loss"]).groupby(own["n_examples"]).mean())
        loss.plot(means.index, means, "o-", ms=3, lw=1.3, label=label)
        in_units.plot(means.index / fills[m], means, "o-", ms=3, lw=1.3, label=label)
    _draw_growth(tables, growth)
    for ax in (held, loss):
        log_axis(ax, runs["n_examples"], apart=2)
        ax.set_xlabel("training examples T")
    held.set(ylabel="memorized bits")
    in_units.set(xscale="log", xlabel="T over the T that fills the capacity")
    for ax in (loss, in_units):
        ax.set(yscale="log", ylabel="test loss")
        ax.axhline(1, color="black", lw=0.6, ls="--")
    held.legend()
    caption = (
        "From the top left: bits that the model holds of its training set; test loss; the same test losses with T in"
        " units of the training set that takes as many bits, without a model, as the most that are held at this m; the"
        " most bits held against m (n fixed) and against n (m fixed), each over its smallest. Lines are means over"
        " datasets, of test loss geometric ones; bars one standard error either way."
        f" {sizes_of(runs, ('n_hidden', 'n_examples'))}"
    )
    return {"capacity": Captioned(figure, caption)}


def _draw_growth(tables: Tables, ax: Axes) -> None:
    for group, by, label in ((_WIDTHS, "n_hidden", "m"), (_SIZES, "n_features", "n")):
        held = _of_group(tables, group)
        means = held[held["inside"]].groupby(by)["capacity"].mean()
        if len(means) > 1:
            ax.plot(means.index / means.index[0], means / means.iloc[0], "o-", ms=4, lw=1.3, label=f"with {label}")
    line = np.array([1, max(ax.get_xlim()[1], 2)])
    ax.plot(line, line, ":", color="black", lw=1, label="in proportion")
    ax.set(xscale="log", yscale="log", xlabel="m or n, over the smallest", ylabel="most bits held, over the first")
    ax.legend()


STUDY = Study(
    "capacity",
    "How many bits can the toy hold, and does test loss peak where the training set takes more?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
