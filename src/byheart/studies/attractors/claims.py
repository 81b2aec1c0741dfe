"""What was expected of attractors before the runs, by the question and by theory; and two claims added after them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from byheart.claims import Claim, Finding, compare, judged, not_run, share
from byheart.studies.attractors.runs import ROUGH_PATCH, largest, of_every_t, peak, smallest
from byheart.studies.study import Tables

_SMALL = 10  # up to which T examples are expected to be attractors


def _chosen(tables: Tables, at: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    """The counts at a T that each reduction has for itself."""
    runs = of_every_t(tables["runs"])
    sizes = {reduction: at(rows) for reduction, rows in runs.groupby("reduction")}
    counts = tables["counts"]
    return counts[counts["n_examples"] == counts["reduction"].map(sizes)]


def _ratio_to_memorized(column: str) -> Callable[[Tables], Finding]:
    """Compare a number of attractors with that of memorized examples, up to T = 10, by reduction and dataset."""

    def test(tables: Tables) -> Finding:
        small = tables["counts"].query("n_examples <= @_SMALL")
        sums = small.groupby(["reduction", "seed"])[[column, "n_memorized"]].sum().query("n_memorized > 0")
        finding = compare((sums[column] / sums["n_memorized"]).to_numpy(), 1, 0.1, ".2f", "datasets of both reductions")
        means = small.groupby("n_examples")[[column, "n_memorized"]].mean()
        by_size = ", ".join(
            f"{row[column]:.3g} of {row['n_memorized']:.3g} at T = {t:g}" for t, row in means.iterrows()
        )
        return finding.also(f"attractors of memorized examples, on average: {by_size}")

    return test


def _middles_at_eight(tables: Tables) -> Finding:
    chosen = tables["counts"].query("n_examples == 8 or n_examples == 10")
    if chosen.empty:
        return not_run("T = 8 or 10")
    return share((chosen["n_mixture"] > 0).tolist(), "have a mixture among the attractors", "runs")


def _of_largest(holds: Callable[[pd.DataFrame, pd.Series], bool], what: str) -> Callable[[Tables], Finding]:
    """Judge what the attractors of each run at the largest T are, but the origin."""

    def test(tables: Tables) -> Finding:
        counts = _chosen(tables, largest)
        if (counts["n_examples"] * (1 - tables["runs"]["sparsity"].iloc[0]) < 19.9).any():
            return not_run("T(1 - S) of at least 20")
        own = tables["attractors"].query("kind != 'origin'")
        keys = ["reduction", "n_examples", "seed"]
        every = [(own[(own[keys] == row[keys]).all(axis=1)], row) for _, row in counts.iterrows()]
        found = ", ".join(str(row["n_attractors"]) for _, row in every)
        sizes = " and ".join(f"{t:g}" for t in sorted(set(counts["n_examples"])))
        finding = share([holds(*pair) for pair in every], f"{what} at T = {sizes}", "runs")
        return finding.also(f"attractors by run: {found}")

    return test


def _are_middles(own: pd.DataFrame, counts: pd.Series) -> bool:
    """Whether five mixtures have more than half of their squared norm on two features each, each feature in two."""
    uses = pd.concat([own["first"], own["second"]]).value_counts()
    mixed = (own["kind"] == "mixture").all() and (own["share_of_two"] > 1 / 2).all()
    return bool(len(own) == 5 and mixed and len(uses) == 5 and (uses == 2).all())


def _neither_at_the_peak(tables: Tables) -> Finding:
    counts = _chosen(tables, peak)
    if counts.empty:
        return not_run(f"T above {ROUGH_PATCH}")
    holds = (counts["n_attractors"] < 5) & (counts["n_example"] + counts["n_feature"] == 0)
    finding = share(holds.tolist(), "have fewer than five, none an example or a feature", "runs")
    rows = counts.groupby(["reduction", "n_examples"])[["n_attractors", "n_example", "n_feature"]]
    shown = "; ".join(
        f"{r}, T = {t:g}: {', '.join('/'.join(map(str, row)) for row in own.to_numpy())}" for (r, t), own in rows
    )
    return finding.also(f"attractors/examples/features by dataset: {shown}")


def _fewest_at_the_peak(tables: Tables) -> Finding:
    keys = ["reduction", "seed"]
    at_peak, at_largest = (_chosen(tables, at).set_index(keys)["n_attractors"] for at in (peak, largest))
    ten = tables["counts"].query("n_examples == 10").set_index(keys)["n_attractors"]
    both = pd.DataFrame({"ten": ten, "peak": at_peak, "largest": at_largest}).dropna()
    if both.empty:
        return not_run("T = 10, a peak and a larger T")
    means = ", ".join(
        f"{both[name].mean():.3g} {words}"
        for name, words in (("ten", "at T = 10"), ("peak", "at the peak"), ("largest", "at the largest T"))
    )
    holds = (both["peak"] < both["ten"]) & (both["peak"] < both["largest"])
    return share(holds.tolist(), "have fewer at the peak than at T = 10 and at the largest T", "runs").also(
        f"on average {means}"
    )


def _closed_form(tables: Tables) -> Finding:
    small = tables["counts"].query("n_examples <= @_SMALL")
    finding = share(
        (small["n_example"] == small["n_stable"]).tolist(), "have as many attractors that are examples", "runs"
    )
    return finding.also(
        f"{small['n_example'].sum()} attractors, {small['n_stable'].sum()} examples stable by the closed form"
    )


def _settles(tables: Tables) -> Finding:
    unsettled = tables["counts"]["unsettled"]
    finding = share((unsettled <= 0.01).tolist(), "have 99 % of the plane settle in an attractor", "runs")
    return finding.also(f"at most {unsettled.max():.2%} do not")


def _origin(tables: Tables) -> Finding:
    counts, at_largest = tables["counts"], _chosen(tables, largest)
    small = counts[(counts["n_examples"] <= _SMALL) & (counts["n_memorized"] == counts["n_examples"])]
    if small.empty or (at_largest["n_examples"] <= _SMALL).any():
        return not_run("a memorized set and a large T")
    of_small, of_large = small["n_origin"] > 0, at_largest["n_origin"] > 0
    words = (
        f"{of_small.sum()} of {len(small)} memorized sets have it, {of_large.sum()} of {len(at_largest)} runs at the"
    )
    holds, refuted = of_small.all() and not of_large.any(), not of_small.any() or of_large.all()
    return judged(f"{words} largest T", bool(holds), bool(refuted))


def _repeated_owns(tables: Tables) -> Finding:
    table = tables["repeats"]
    by_count = table.groupby("repeats")["owns"].agg(["sum", "size"])
    if len(by_count) < 2 or by_count["size"].min() < 2:
        return not_run("two R, two datasets")
    overlaps = table.groupby("repeats")["overlap"].mean()
    words = ", ".join(f"{row['sum']} of {row['size']} at R = {r}" for r, row in by_count.iterrows())
    shown = ", ".join(f"{value:.2f} at R = {r}" for r, value in overlaps.items())
    once, often = (table[table["repeats"] == r]["owns"] for r in (by_count.index.min(), by_count.index.max()))
    finding = judged(f"owns an attractor in {words}", bool(often.all() and not once.any()), not often.any())
    return finding.also(f"cosine of the likest attractor with it {shown}")


def _over_steps(tables: Tables, at: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    """By run at a T of each reduction: attractors before the first step, at most, and in the end."""
    chosen = _chosen(tables, at)[["reduction", "n_examples", "seed"]]
    table = tables["training"].merge(chosen).sort_values("step") if len(tables["training"]) else pd.DataFrame()
    if table.empty:
        return table
    return table.groupby(["reduction", "seed"])["n_attractors"].agg(["first", "max", "last"])


def _basins_split(tables: Tables) -> Finding:
    found = pd.concat([_over_steps(tables, at) for at in (smallest, largest)])
    if found.empty:
        return not_run("snapshots")
    finding = share(
        (found["last"] > found["first"]).tolist(), "have more attractors at the end than at the start", "runs"
    )
    return finding.also(f"on average {found['first'].mean():.3g} at the start, {found['last'].mean():.3g} at the end")


def _basins_merge(tables: Tables) -> Finding:
    found = _over_steps(tables, peak)
    if found.empty:
        return not_run(f"snapshots at T above {ROUGH_PATCH}")
    finding = share((found["max"] > found["last"]).tolist(), "have fewer at the end than at some time before", "runs")
    return finding.also(f"on average {found['max'].mean():.3g} at most, {found['last'].mean():.3g} at the end")


def _features_on_borders(tables: Tables) -> Finding:
    counts = _chosen(tables, largest)
    counts = counts[counts["n_represented"] > 0]
    words = f"have all features on borders: {counts['n_on_border'].sum()} of {counts['n_represented'].sum()}"
    return share((counts["n_on_border"] == counts["n_represented"]).tolist(), words, "runs")


def _repeats_on_borders(tables: Tables) -> Finding:
    often = tables["repeats"].query("repeats >= 5")
    if often.empty:
        return not_run("an example that occurs five times")
    by_count = often.groupby("repeats")["on_border"].agg(["sum", "size"])
    words = ", ".join(f"{row['sum']} of {row['size']} at R = {r}" for r, row in by_count.iterrows())
    return share(often["on_border"].tolist(), "have it on a border", "runs").also(words)


_ASKED, _DERIVED = "the question, before any derivation", "derived before the runs"
_AFTER = "added after the runs had been seen"
CLAIMS = (
    Claim(
        "examples-are-attractors",
        f"At small T (up to {_SMALL}) as many attractors are examples as examples are memorized (squared error below"
        " 1/4)",
        _ASKED,
        "ratio 1 (tolerance 0.1)",
        _ratio_to_memorized("n_example"),
    ),
    Claim(
        "nothing-else-attracts",
        f"At small T (up to {_SMALL}) there are as many attractors in all, the origin aside, as memorized examples",
        _ASKED,
        "ratio 1 (tolerance 0.1)",
        _ratio_to_memorized("n_attractors"),
    ),
    Claim(
        "middles-of-examples",
        "At T = 8 and 10 mixtures of neighbours attract too, as on an ideal T-gon from T = 8 on",
        _DERIVED,
        "a mixture in every run",
        _middles_at_eight,
        refuted_if="no run has one",
    ),
    Claim(
        "five-features",
        "At the largest T there are five attractors, each a feature",
        _ASKED,
        "five features",
        _of_largest(lambda own, counts: len(own) == 5 and bool((own["kind"] == "feature").all()), "have five features"),
        refuted_if="no run has five attractors that are features",
    ),
    Claim(
        "five-middles",
        "At the largest T there are five attractors, each a mixture of two neighbouring features, each feature in two"
        " (more than half of the squared norm), as on a pentagon without bias",
        _DERIVED,
        "five mixtures of two",
        _of_largest(_are_middles, "have five mixtures of two features"),
        refuted_if="no run has them",
    ),
    Claim(
        "neither-at-the-peak",
        f"Where test loss peaks (T above {ROUGH_PATCH}) there are fewer than five attractors, none an example or a"
        " feature",
        _ASKED,
        "fewer than five, neither kind",
        _neither_at_the_peak,
        refuted_if="no run shows it",
    ),
    Claim(
        "fewest-at-the-peak",
        "Attractors are fewer where test loss peaks than at T = 10 and than at the largest T",
        _ASKED,
        "fewer",
        _fewest_at_the_peak,
        refuted_if="no run shows it",
    ),
    Claim(
        "closed-form",
        f"Up to T = {_SMALL} the closed form, at the hidden vectors of the examples, tells how many of them are"
        " attractors",
        _DERIVED,
        "equal in every run",
        _closed_form,
        refuted_if="in no run the two are equal",
    ),
    Claim(
        "no-cycles",
        "Nothing goes round in circles: what starts in the plane settles in an attractor, as the energy never falls",
        _DERIVED,
        "at least 99 % of every plane",
        _settles,
        refuted_if="in no run it does",
    ),
    Claim(
        "nothing-is-an-attractor",
        f"The origin, where the network answers nothing, is an attractor of memorized sets (up to T = {_SMALL}), and"
        " of no network at the largest T, whose biases are the means of its features",
        _DERIVED,
        "all, none",
        _origin,
        refuted_if="no memorized set has it, or all runs at the largest T do",
    ),
    Claim(
        "repeated-example",
        "An example that occurs 20 times, at a T at which features are learned, owns an attractor; one that occurs once"
        " does not",
        _ASKED,
        "all at R = 20, none at R = 1",
        _repeated_owns,
        refuted_if="no dataset has it at the largest R",
    ),
    Claim(
        "basins-split",
        "At the smallest T (five or more) and the largest, training divides basins: more attractors at the end than at"
        " random weights",
        _DERIVED,
        "one or two at random weights, about five at the end",
        _basins_split,
        refuted_if="no run has more at the end",
    ),
    Claim(
        "basins-merge",
        "Where test loss peaks, basins merge again: fewer attractors at the end than at some time before",
        _ASKED,
        "fewer at the end",
        _basins_merge,
        refuted_if="no run has fewer at the end",
    ),
    Claim(
        "features-on-borders",
        "At the largest T features lie on the borders of basins: turned by 3 degrees either way, they end elsewhere",
        _AFTER,
        "all",
        _features_on_borders,
        refuted_if="in no run all do",
    ),
    Claim(
        "repeats-on-borders",
        "So do examples that occur five times or more, at a T at which features are learned",
        _AFTER,
        "all",
        _repeats_on_borders,
        refuted_if="none does",
    ),
)
