"""The runs of the study of attractors, and the tables made of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from byheart.attractors import OVERLAP, answers, multipliers
from byheart.studies.study import N_SEEDS, SMALLEST, Scale, setup
from byheart.toy.basins import Basins, attractors_of, find_basins, on_border, plane_of, training_examples
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
ROUGH_PATCH = 15  # up to here test loss jumps about before the peak
_MEMORIZED = 1 / 4  # squared error: the answer is nearer to the example than half its length
_N_ACROSS, _N_ACROSS_TRAINING, _N_ACROSS_SHOWN = 64, 14, 100  # cells of the grid of starting points
_N_SNAPSHOTS = 16
_FIRST_STEPS = 20  # in which weights hardly change
_OF_REPEATED = [
    *("reduction", "n_examples", "seed", "repeats", "error", "owns", "on_border", "plane", "overlap"),
    *("n_example", "n_feature", "n_mixture", "n_attractors"),
]


def groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """Every T with both reductions, and one repeated example at a T at which features are learned."""
    base = setup(scale, **(SMALLEST if scale == "quick" else {}))
    seeds = range(N_SEEDS[scale])
    followed = dataclasses.replace(base, snapshot_steps=log_spaced_steps(base.n_steps, _N_SNAPSHOTS))
    generalising = dataclasses.replace(base, n_examples=_GENERALISES[scale])
    return {
        _EVERY_T: grid(followed, {"n_examples": _T[scale], "reduction": ("sum", "mean")}, seeds),
        _REPEATED: grid(generalising, {"repeats": [(r,) for r in _R[scale]]}, seeds),
    }


def _key(run: Run) -> dict[str, Any]:
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
    features = run.W[:, represented_features(run.W, run.b)].T
    of_features = {"n_represented": len(features), "n_on_border": int(on_border(run.W, run.b, features).sum())}
    return {**_key(run), **found.counts(), "unsettled": found.unsettled, **of_features, **own}


def tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    """The runs and their attractors; of some T also what happened over training, and planes of the first dataset."""
    runs = table_of(groups)
    by_reduction = list(of_every_t(runs).groupby("reduction"))
    ends = {(r, t) for r, rows in by_reduction for t in (smallest(rows), peak(rows), largest(rows))}
    drawn = ends | {(r, t) for r, _ in by_reduction for t in _SHOWN}
    counts, attractors, training, planes, shown = [], [], [], [], []
    for run in groups.get(_EVERY_T, Runs([])):
        examples, key = training_examples(run), _key(run)
        found = attractors_of(run, examples, _N_ACROSS)
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
        "repeats": pd.DataFrame([_of_repeated(run) for run in groups.get(_REPEATED, ())], columns=_OF_REPEATED),
        "planes": pd.concat(planes, ignore_index=True),
        "vectors": pd.concat(shown, ignore_index=True),
    }


def _over_training(run: Run, examples: scipy.sparse.csr_array) -> list[dict[str, float]]:
    """The counts at the snapshots of a run, before the first step and from ``_FIRST_STEPS`` on."""
    kept = zip(*(run.snapshots[name] for name in ("step", "W", "b", "hidden")), strict=True)
    shown = [row for row in kept if not 0 < row[0] < _FIRST_STEPS]
    return [
        {"step": int(step), **find_basins(W, b, h, examples, _N_ACROSS_TRAINING, 100).counts()}
        for step, W, b, h in shown
    ]


def _of_repeated(run: Run) -> dict[str, object]:
    """Whether the first example, which is repeated, has an attractor, its basin, and how like it the likest one is."""
    examples = training_examples(run)
    found = attractors_of(run, examples, _N_ACROSS)
    own = found.table[(found.table["kind"] == "example") & (found.table["which"] == 0)]
    overlaps = (examples[:1] @ found.attractors.answers.T).ravel()
    error = float(example_losses(run, examples[:1])[0])
    border = bool(on_border(run.W, run.b, run.hidden[:1])[0])
    named = {**_key(run), "repeats": run.config.repeats[0], "error": error, "owns": len(own) > 0, "on_border": border}
    counts = {name: value for name, value in found.counts().items() if name in _OF_REPEATED}
    return {**named, "plane": float(own["plane"].sum()), "overlap": float(overlaps.max(initial=0.0)), **counts}


def of_every_t(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without repeated examples, losses summed over features."""
    return summed(runs[runs["group"] == _EVERY_T])


def peak(table: pd.DataFrame) -> float:
    """The T above the rough patch at which the mean log test loss is largest; NaN if there is none."""
    chosen = table[(table["n_examples"] > ROUGH_PATCH) & np.isfinite(table["n_examples"])]
    means = np.log(chosen["test_loss"]).groupby(chosen["n_examples"]).mean()
    return float(str(means.idxmax())) if len(means) else math.nan


def smallest(table: pd.DataFrame) -> float:
    """The smallest T of five examples or more."""
    return float(table["n_examples"][table["n_examples"] >= 5].min())


def largest(table: pd.DataFrame) -> float:
    """The largest T that is finite."""
    return float(table["n_examples"][np.isfinite(table["n_examples"])].max())
