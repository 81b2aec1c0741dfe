"""What does a trained network fall into when it is fed its own answers: examples, features, or something else?

One notion for both kinds of feature, the last open question of Henighan et al. 2023: what is an attractor of the
network's own iteration (see ``byheart.attractors``). Expectations are of two kinds. Those of the question: examples at
small T, features at large T, neither where test loss peaks. And those derived for ideal solutions, which contradict a
part of them: the iteration restores the norm of an answer, so it prefers several neighbours at once wherever they are
not silenced by their bias. On a regular T-gon of radius R, an example is an attractor if R exceeds the least radius;
the middle of two neighbours is one too, from T = 8 on at any R. On a pentagon of features without bias the features
are unstable (multiplier 1.52), and the five middles of neighbours are attractors (multiplier 0.53).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import scipy.sparse

from byheart.attractors import OVERLAP, answers, multipliers
from byheart.claims import Claim, Finding, compare, judged, not_run, share
from byheart.studies.study import N_SEEDS, SMALLEST, Scale, Study, Tables, setup
from byheart.toy.basins import Basins, find_basins, plane_of, training_examples
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.measures import example_losses, represented_features
from byheart.toy.runs import Run, Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of, vectors_of

_EVERY_T, _REPEATED = "every T", "one repeated example"
_T: dict[Scale, tuple[int | str, ...]] = {
    "quick": (5, 10, 40, 160, 640),
    "medium": (3, 5, 8, 10, 15, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, "inf"),
    "paper": (3, 5, 8, 10, 15, 30, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000),
}
_R: dict[Scale, tuple[int, ...]] = {"quick": (1, 5, 20), "medium": (1, 2, 3, 5, 10, 20), "paper": (1, 3, 5, 10, 20)}
_GENERALISES: dict[Scale, int] = {"quick": 640, "medium": 3_000, "paper": 30_000}  # T of the repeats
_SHOWN = (5, 10, 30)  # T of planes that are drawn, beside the peak and the largest
_SMALL = 10  # up to which T examples are expected to be attractors
_ROUGH_PATCH = 15  # up to here test loss jumps about before the peak
_MEMORIZED = 1 / 4  # squared error: the answer is nearer to the example than half its length
_N_ACROSS, _N_ACROSS_TRAINING, _N_ACROSS_SHOWN = 64, 32, 100  # cells of the grid of starting points
_N_SNAPSHOTS = 16


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    base = setup(scale, **(SMALLEST if scale == "quick" else {}))
    seeds = range(N_SEEDS[scale])
    followed = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, _N_SNAPSHOTS))
    generalising = dataclasses.replace(base, n_examples=_GENERALISES[scale])
    return {
        _EVERY_T: grid(followed, {"n_examples": _T[scale], "reduction": ("sum", "mean")}, seeds),
        _REPEATED: grid(generalising, {"repeats": [(r,) for r in _R[scale]]}, seeds),
    }


def _key(run: Run) -> dict[str, object]:
    return {"reduction": run.config.reduction, "n_examples": float(run.config.n_examples), "seed": run.config.seed}


def _of_run(run: Run, found: Basins, examples: scipy.sparse.csr_array) -> dict[str, object]:
    """Counts of a run, and of its examples: memorized, stable by the closed form, recalled from themselves."""
    own: dict[str, object] = {"n_memorized": 0, "n_stable": 0, "n_recalled": 0, "n_asked": 0}
    if examples.shape[0]:
        ends = found.attractors.reached[found.examples]
        asked = run.hidden[: len(ends)]
        to_own = np.asarray(examples[: len(asked)].multiply(answers(run.W, run.b, asked)).sum(axis=1)).ravel()
        stable = (multipliers(run.W, run.b, asked) < 1) & (to_own >= OVERLAP)
        which = found.table["which"].where(found.table["kind"] == "example", -1).to_numpy()
        recalled = (ends >= 0) & (np.append(which, -1)[ends] == np.arange(len(asked)))
        own = {
            "n_memorized": int((example_losses(run, examples) < _MEMORIZED).sum()),
            "n_stable": int(stable.sum()),
            "n_recalled": int(recalled.sum()),
            "n_asked": len(asked),
        }
    represented = len(represented_features(run.W, run.b))
    return {**_key(run), **found.counts(), "unsettled": found.unsettled, "n_represented": represented, **own}


def _peak(table: pd.DataFrame) -> float:
    """The T above the rough patch at which the mean log test loss is largest; NaN if there is none."""
    chosen = table[(table["n_examples"] > _ROUGH_PATCH) & np.isfinite(table["n_examples"])]
    means = np.log(chosen["test_loss"]).groupby(chosen["n_examples"]).mean()
    return float(str(means.idxmax())) if len(means) else math.nan


def _smallest(table: pd.DataFrame) -> float:
    """The smallest T of five examples or more."""
    return float(table["n_examples"][table["n_examples"] >= 5].min())


def _largest(table: pd.DataFrame) -> float:
    return float(table["n_examples"][np.isfinite(table["n_examples"])].max())


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    runs = table_of(groups)
    by_reduction = list(summed(runs[runs["group"] == _EVERY_T]).groupby("reduction"))
    ends = {(r, t) for r, rows in by_reduction for t in (_smallest(rows), _peak(rows), _largest(rows))}
    drawn = ends | {(r, t) for r, _ in by_reduction for t in _SHOWN}
    counts, attractors, training, planes, shown = [], [], [], [], []
    for run in groups.get(_EVERY_T, Runs([])):
        examples, key = training_examples(run), _key(run)
        found = find_basins(run.W, run.b, run.hidden, examples, _N_ACROSS)
        counts.append(_of_run(run, found, examples))
        attractors.append(found.table.assign(**key))
        if (key["reduction"], key["n_examples"]) in ends:
            training += [{**key, **row} for row in _over_training(run, examples)]
        if (key["reduction"], key["n_examples"]) in drawn and run.config.seed == 0:
            planes.append(plane_of(run, examples, _N_ACROSS_SHOWN).assign(**key))
            shown.append(vectors_of([run]).assign(**key))
    return {
        "runs": runs,
        "counts": pd.DataFrame(counts),
        "attractors": pd.concat(attractors, ignore_index=True),
        "training": pd.DataFrame(training),
        "repeats": pd.DataFrame([_of_repeated(run) for run in groups.get(_REPEATED, ())]),
        "planes": pd.concat(planes, ignore_index=True),
        "vectors": pd.concat(shown, ignore_index=True),
    }


def _over_training(run: Run, examples: scipy.sparse.csr_array) -> list[dict[str, float]]:
    """The counts at every snapshot of a run."""
    kept = zip(*(run.snapshots[name] for name in ("step", "W", "b", "hidden")), strict=True)
    return [
        {"step": int(step), **find_basins(W, b, h, examples, _N_ACROSS_TRAINING).counts()} for step, W, b, h in kept
    ]


def _of_repeated(run: Run) -> dict[str, object]:
    """Whether the first example, which is repeated, has an attractor, its basin, and how like it the likest one is."""
    examples = training_examples(run)
    found = find_basins(run.W, run.b, run.hidden, examples, _N_ACROSS)
    own = found.table[(found.table["kind"] == "example") & (found.table["which"] == 0)]
    overlaps = (examples[:1] @ found.attractors.answers.T).ravel()
    error = float(example_losses(run, examples[:1])[0])
    named = {**_key(run), "repeats": run.config.repeats[0], "error": error, "owns": len(own) > 0}
    return {**named, "plane": float(own["plane"].sum()), "overlap": float(overlaps.max(initial=0.0)), **found.counts()}


def _chosen(tables: Tables, at: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    """The counts at a T that each reduction has for itself."""
    runs = summed(tables["runs"].query("group == @_EVERY_T"))
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
        counts = _chosen(tables, _largest)
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
    counts = _chosen(tables, _peak)
    if counts.empty:
        return not_run(f"T above {_ROUGH_PATCH}")
    holds = (counts["n_attractors"] < 5) & (counts["n_example"] + counts["n_feature"] == 0)
    finding = share(holds.tolist(), "have fewer than five, none an example or a feature", "runs")
    rows = counts.groupby(["reduction", "n_examples"])[["n_attractors", "n_example", "n_feature"]]
    shown = "; ".join(
        f"{r}, T = {t:g}: {', '.join('/'.join(map(str, row)) for row in own.to_numpy())}" for (r, t), own in rows
    )
    return finding.also(f"attractors/examples/features by dataset: {shown}")


def _fewest_at_the_peak(tables: Tables) -> Finding:
    keys = ["reduction", "seed"]
    peak, largest = (_chosen(tables, at).set_index(keys)["n_attractors"] for at in (_peak, _largest))
    ten = tables["counts"].query("n_examples == 10").set_index(keys)["n_attractors"]
    both = pd.DataFrame({"ten": ten, "peak": peak, "largest": largest}).dropna()
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
    counts, largest = tables["counts"], _chosen(tables, _largest)
    small = counts[(counts["n_examples"] <= _SMALL) & (counts["n_memorized"] == counts["n_examples"])]
    if small.empty or (largest["n_examples"] <= _SMALL).any():
        return not_run("a memorized set and a large T")
    of_small, of_large = small["n_origin"] > 0, largest["n_origin"] > 0
    words = f"{of_small.sum()} of {len(small)} memorized sets have it, {of_large.sum()} of {len(largest)} runs at the"
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
    found = pd.concat([_over_steps(tables, at) for at in (_smallest, _largest)])
    if found.empty:
        return not_run("snapshots")
    finding = share(
        (found["last"] > found["first"]).tolist(), "have more attractors at the end than at the start", "runs"
    )
    return finding.also(f"on average {found['first'].mean():.3g} at the start, {found['last'].mean():.3g} at the end")


def _basins_merge(tables: Tables) -> Finding:
    found = _over_steps(tables, _peak)
    if found.empty:
        return not_run(f"snapshots at T above {_ROUGH_PATCH}")
    finding = share((found["max"] > found["last"]).tolist(), "have fewer at the end than at some time before", "runs")
    return finding.also(f"on average {found['max'].mean():.3g} at most, {found['last'].mean():.3g} at the end")


_ASKED, _DERIVED = "the question, before any derivation", "derived before the runs"
_CLAIMS = (
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
        f"Where test loss peaks (T above {_ROUGH_PATCH}) there are fewer than five attractors, none an example or a"
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
)


STUDY = Study(
    "attractors",
    "What does a network fall into when it is fed its own answers: examples, features, or something else?",
    _groups,
    _tables,
    _CLAIMS,
    lambda tables: {},
)
