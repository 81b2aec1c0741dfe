"""What the page shows of each run, thinned out so that a page of a hundred runs stays below 25 MB.

Curves and dimensionalities are complete. Of many vectors the longest third of the allowance is drawn, and a random
sample of the others; the page says how many.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from byheart.attractors import disc
from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.page.encoding import Encoded, encode, quantise
from byheart.toy.basins import attractors_of, has_plane, radius_of
from byheart.toy.config import TrainConfig, is_paper_setup
from byheart.toy.model import encoder, loss_scale
from byheart.toy.runs import Header, Run, Runs, load_run

# Vectors drawn per set of a run, and per snapshot: the first allowance whose bytes fit.
_VECTORS = (1_500, 1_000, 500, 250, 100)
_VECTORS_BYTES = 5e6
_SNAPSHOT_VECTORS = (600, 450, 300, 200, 100, 50)
_SNAPSHOT_BYTES = 12e6
_SNAPSHOTS_PER_RUN = 48
_CURVES = 100  # dimensionality over steps: so many examples, a fifth as many features
_ACROSS = 64  # cells from one side of a plane to the other
# What stands along x: a symbol, and words for the axis; of other fields their names.
_X_WORDS = {
    "n_examples": ("T", "training examples T"),
    "n_hidden": ("m", "hidden units m"),
    "n_features": ("n", "features n"),
    "sparsity": ("S", "sparsity S"),
}
_DIMENSIONALITY_STEP = 1e-3  # less than half a pixel of the main figure


def collect(runs: Runs, basins: bool = False) -> dict[str, Any]:
    """Return what page.js draws, as JSON values; with ``basins``, also where the planes of two hidden units flow.

    Keys: ``x`` (what the figures over all runs have along x), ``axes`` (swept fields other than that and the seed, with
    their values as text), ``runs``, ``n_vectors`` and ``n_snapshot_vectors`` (the allowances).
    """
    x = x_axis(runs)
    axes = _other_axes(runs, x)
    groups = [tuple(read(header) for _, read in axes) for header in runs.headers]
    values = [sorted(set(column), key=_natural_order) for column in zip(*groups, strict=True)]
    labels = ["; ".join(f"{name} {v}" for (name, _), v in zip(axes, g, strict=True)) for g in groups]
    ranks = [[column.index(value) for column, value in zip(values, group, strict=True)] for group in groups]
    order = sorted(range(len(runs)), key=lambda i: (ranks[i], *_x_then_seed(runs.headers[i], x)))

    n_vectors, n_snapshot_vectors = allowances(runs.headers)
    collected = []
    for i in order:
        try:
            run = load_run(runs.headers[i].path)
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=1)
            continue
        drawn = collect_run(run, n_vectors, n_snapshot_vectors)
        drawn["basins"] = collect_basins(run) if basins and has_plane(run.config) and not run.data_digest else None
        value = getattr(run.config, x)
        drawn["x"] = None if value == "inf" else value
        collected.append(drawn | {"group": ranks[i], "group_label": labels[i]})
    short, title = _X_WORDS.get(x, (x.replace("_", " "),) * 2)
    return {
        "x": {"name": x, "short": short, "title": title},
        "axes": [{"name": name, "values": column} for (name, _), column in zip(axes, values, strict=True)],
        "runs": collected,
        "n_vectors": n_vectors,
        "n_snapshot_vectors": n_snapshot_vectors,
    }


def x_axis(runs: Runs) -> str:
    """Return the config field that belongs on the x axis.

    It is T if T varies; else, of the swept fields that are numbers, the one with the most values, of several with as
    many the first in ``TrainConfig``; and T if there is none.
    """
    n_values = {name: len({getattr(header.config, name) for header in runs.headers}) for name in runs.axes}
    if "n_examples" in n_values:
        return "n_examples"
    numbers = [name for name in runs.axes if name != "seed" and all(map(_is_number, _values(runs, name)))]
    return max(numbers, key=lambda name: n_values[name], default="n_examples")


def _values(runs: Runs, name: str) -> list[object]:
    return [getattr(header.config, name) for header in runs.headers]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def allowances(headers: list[Header]) -> tuple[int, int]:
    """Return how many vectors of a set may be drawn per run, and per snapshot, so that all runs fit on a page."""
    configs = [header.config for header in headers]
    return (
        _fit(_VECTORS, _VECTORS_BYTES, lambda count: sum(_vector_bytes(c, count) for c in configs)),
        _fit(_SNAPSHOT_VECTORS, _SNAPSHOT_BYTES, lambda count: sum(_snapshot_bytes(c, count) for c in configs)),
    )


def data_source(header: Header | Run) -> str:
    """Return where a run's examples and initial weights came from, in words."""
    return f"own data or weights {header.data_digest[:8]}" if header.data_digest else "drawn from the seed"


def as_text(value: object) -> str:
    """Return a config value as the page writes it."""
    if isinstance(value, tuple):
        runs = [(count, len(list(same))) for count, same in itertools.groupby(value)]
        return ", ".join(f"{n} example{'s' * (n > 1)} {count} times" for count, n in runs) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _other_axes(runs: Runs, x: str) -> list[tuple[str, Callable[[Header], str]]]:
    def reader(name: str) -> Callable[[Header], str]:
        return lambda header: as_text(getattr(header.config, name))

    axes = [(name, reader(name)) for name in runs.axes if name not in (x, "seed")]
    if len({header.data_digest for header in runs.headers}) > 1:
        axes.append(("data", data_source))
    return axes


def _natural_order(text: str) -> tuple[float, str]:
    number = re.match(r"[-+.e\d]+", text.replace(",", ""))
    return float(number[0]) if number else -math.inf, text


def _x_then_seed(header: Header, x: str) -> tuple[float, int, str]:
    return float(getattr(header.config, x)), header.config.seed, header.id


def _fit(allowances: tuple[int, ...], budget: float, cost: Callable[[int], float]) -> int:
    return next((allowance for allowance in allowances if cost(allowance) <= budget), allowances[-1])


def _n_viewed(config: TrainConfig) -> int:
    return config.n_test if config.n_examples == "inf" else config.n_examples


def _vector_bytes(config: TrainConfig, count: int) -> float:
    return 14 * 4 / 3 * (min(count, config.n_features) + min(count, _n_viewed(config)))


def _snapshot_bytes(config: TrainConfig, count: int) -> float:
    frames = min(len(config.snapshot_steps), _SNAPSHOTS_PER_RUN)
    return 4 * 4 / 3 * frames * (min(count, config.n_features) + min(count, _n_viewed(config)))


def collect_run(run: Run, n_vectors: int, n_snapshot_vectors: int) -> dict[str, Any]:
    """Return what page.js draws of one run, as JSON values; arrays are encoded."""
    config = run.config
    # At infinite T the hidden vectors are of test examples, which no one trained on: each counts once.
    repeats = run.repeats
    W = encoder(run.W, run.config.variant)
    features, examples = feature_dimensionality(W), example_dimensionality(run.hidden, repeats)
    axes, share = principal_axes(run.hidden)
    return {
        "id": run.id,
        "T": None if config.n_examples == "inf" else config.n_examples,
        "seed": config.seed,
        "data": data_source(run),
        "n_features": config.n_features,
        "n_hidden": config.n_hidden,
        "n_shown_examples": len(run.hidden),
        "n_steps": config.n_steps,
        "paper_setup": is_paper_setup(config.to_dict()) and config.reduction == "sum" and not run.data_digest,
        "zero_loss": None if run.data_digest else loss_scale(config.n_features, config.reduction),
        "metrics": run.metrics
        | {
            "hidden_norm": float(np.linalg.norm(run.hidden, axis=1).mean()),
            "wall_seconds": run.provenance.get("wall_seconds"),
        },
        "share": share,
        "features": _vectors(W.T, axes, features, n_vectors, None),
        "examples": _vectors(run.hidden, axes, examples, n_vectors, repeats),
        "feature_dims": _distinct(features),
        "example_dims": _distinct(examples),
        "history": {name: encode(run.history[name], "f4") for name in ("step", "train_loss")},
        "snapshots": _snapshots(run, axes, repeats, n_snapshot_vectors) if len(run.snapshots) else None,
    }


def collect_basins(run: Run) -> dict[str, Any]:
    """Return which attractor every cell of a square around the disc flows to, rows from below, and the attractors.

    Of the cells, 0 is outside of the disc, 1 ends in no attractor, and k + 2 in attractor k.
    """
    found = attractors_of(run, n_across=_ACROSS)
    radius = radius_of(run.hidden)
    columns, rows = np.round((disc(radius, _ACROSS) / radius + 1) * _ACROSS / 2 - 0.5).astype(int).T
    cells = np.zeros((_ACROSS, _ACROSS), dtype=int)
    cells[rows, columns] = found.attractors.reached[found.plane] + 2
    shown = found.table[["kind", "which", "first", "second", "x", "y", "plane", "examples"]]
    return {
        "cells": encode(cells, "u2"),
        "n_across": _ACROSS,
        "radius": radius,
        "unsettled": found.unsettled,
        "attractors": json.loads(shown.to_json(orient="records", double_precision=6)),
    }


def principal_axes(hidden: Float[np.ndarray, "n_examples n_hidden"]) -> tuple[Float64[np.ndarray, "n_hidden 2"], float]:
    """Return the plane on which vectors are drawn, and the share in [0, 1] of the hidden vectors' squared length in it.

    At n_hidden = 2 it is the hidden space itself; else the first two principal components about the origin.
    """
    n_hidden = hidden.shape[1]
    if n_hidden <= 2:
        return np.eye(n_hidden, 2), 1.0
    wide = hidden.astype(np.float64)
    values, vectors = np.linalg.eigh(wide.T @ wide)
    plane = vectors[:, [-1, -2]]
    signs = np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])  # eigenvectors come with either sign
    total = float(values.sum())
    return plane * signs, float(values[-2:].sum()) / total if total > 0 else 1.0


def pick(
    norms: Float[np.ndarray, " size"], count: int, always: Int64[np.ndarray, " kept"] | None = None
) -> Int64[np.ndarray, " picked"]:
    """Return up to ``count`` indices in order: ``always``, the largest third of the allowance, random others."""
    if len(norms) <= count:
        return np.arange(len(norms))
    chosen = np.zeros(len(norms), dtype=bool)
    chosen[np.argsort(-norms, kind="stable")[: count // 3]] = True
    if always is not None:
        chosen[always[: count // 3]] = True
    others = np.flatnonzero(~chosen)
    n_more = count - int(chosen.sum())
    chosen[np.random.default_rng(0).choice(others, n_more, replace=False)] = True
    return np.flatnonzero(chosen)


def _vectors(
    rows: Float[np.ndarray, "size n_hidden"],
    axes: Float64[np.ndarray, "n_hidden 2"],
    dimensionality: Float64[np.ndarray, " size"],
    count: int,
    repeats: Int64[np.ndarray, " size"] | None,
) -> dict[str, Any]:
    norms = np.linalg.norm(rows, axis=1)
    repeated = np.flatnonzero(repeats > 1) if repeats is not None else np.array([], dtype=np.int64)
    index = pick(norms, count, repeated)
    return {
        "index": encode(index, "u4"),
        "xy": quantise(rows[index] @ axes),
        "norm": encode(norms[index], "f4"),
        "dimensionality": _dimensionality(dimensionality[index]),
        "repeats": {int(i): int(repeats[i]) for i in repeated if i in index} if repeats is not None else {},
    }


def _dimensionality(values: Float64[np.ndarray, "*shape"]) -> Encoded:
    return encode(np.rint(values * 65_535), "u2") | {"scale": 1 / 65_535}


def _distinct(values: Float64[np.ndarray, " size"]) -> dict[str, Encoded]:
    rounded, counts = np.unique(np.rint(values / _DIMENSIONALITY_STEP), return_counts=True)
    return {"value": encode(rounded, "u2") | {"scale": _DIMENSIONALITY_STEP}, "count": encode(counts, "u4")}


def _snapshots(
    run: Run, axes: Float64[np.ndarray, "n_hidden 2"], repeats: Int64[np.ndarray, " n_examples"] | None, count: int
) -> dict[str, Any]:
    taken = run.snapshots
    n_taken = len(taken["step"])
    frames = np.unique(np.linspace(0, n_taken - 1, min(n_taken, _SNAPSHOTS_PER_RUN)).round().astype(int))
    repeated = np.flatnonzero(repeats > 1) if repeats is not None else None
    features = pick(np.linalg.norm(encoder(run.W, run.config.variant), axis=0), count)
    examples = pick(np.linalg.norm(run.hidden, axis=1), count, repeated)
    feature_dims = np.array([feature_dimensionality(taken["W"][f]) for f in frames])
    example_dims = np.array([example_dimensionality(taken["hidden"][f], repeats) for f in frames])
    example_curves = pick(example_dims.max(axis=0), _CURVES, repeated)
    feature_curves = pick(feature_dims.max(axis=0), _CURVES // 5)
    return {
        "n_taken": n_taken,
        "step": encode(taken["step"][frames], "u4"),
        "feature_index": encode(features, "u4"),
        "example_index": encode(examples, "u4"),
        "features": [quantise(taken["W"][f].T[features] @ axes) for f in frames],
        "examples": [quantise(taken["hidden"][f][examples] @ axes) for f in frames],
        "feature_curve_index": encode(feature_curves, "u4"),
        "example_curve_index": encode(example_curves, "u4"),
        "feature_curves": _dimensionality(feature_dims[:, feature_curves].T),
        "example_curves": _dimensionality(example_dims[:, example_curves].T),
    }


def provenance_of(runs: Runs) -> dict[str, str]:
    """Return what the runs say of where they come from, one line per key, and their cost."""
    result = {}
    for key in ("byheart", "git_revision", "kernel", "device", "n_threads", "python", "numpy", "numba"):
        found = sorted({str(h.provenance[key]) for h in runs.headers if h.provenance.get(key) is not None})
        result[key.replace("_", " ")] = "; ".join(found) or "not recorded"
    started = sorted(str(h.provenance["started"]) for h in runs.headers if h.provenance.get("started"))
    result["started"] = " to ".join(dict.fromkeys([started[0], started[-1]])) if started else "not recorded"
    seconds = sum(float(h.provenance.get("wall_seconds") or 0) for h in runs.headers)
    result["cost"] = f"{as_duration(seconds)} of wall time, summed over {len(runs)} run{'s' * (len(runs) != 1)}"
    return result


def as_duration(seconds: float) -> str:
    """Return a duration with a unit that suits it."""
    for unit, size in (("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def shared_config(runs: Runs) -> dict[str, str]:
    """Return the config values that all runs have in common, as text."""
    first = runs.headers[0].config
    swept = {*runs.axes, "snapshot_steps"}
    shared = {f.name: as_text(getattr(first, f.name)) for f in dataclasses.fields(first) if f.name not in swept}
    sources = {data_source(header) for header in runs.headers}
    return shared | ({"data": sources.pop()} if len(sources) == 1 else {})
