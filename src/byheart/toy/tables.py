"""Tables made from runs: numbers by run, and of their vectors what figures show, to be kept when the runs are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.toy.config import is_paper_setup
from byheart.toy.runs import Run, Runs

_FEW_VECTORS = 300  # of more, one in each cell of a grid is kept
_CELLS = 48  # from the origin to the longest vector: about the dots of a figure
_STEP = 0.005  # dimensionalities are counted in steps of it


def table_of(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """Return a row per group and run in it: group, id, config, metrics and wall time."""
    members = [(label, header.id) for label, runs in groups.items() for header in runs.headers]
    every = {header.id: header for runs in groups.values() for header in runs.headers}
    table = Runs(list(every.values())).table.drop(columns=["snapshot_steps", "data_digest"])
    return pd.DataFrame(members, columns=["group", "id"]).merge(table, on="id")


def at_paper_setup(table: pd.DataFrame) -> bool:
    """Whether the paper's values may stand beside all runs of a table."""
    return all(is_paper_setup({str(name): value for name, value in row.items()}) for row in table.to_dict("records"))


def mean_losses(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean test loss over seeds with its standard error, a row per combination of these columns."""
    grouped = table.groupby(list(by))["test_loss"]
    return grouped.agg(seeds="size", test_loss="mean", test_loss_se="sem").reset_index()


def dimensionality_counts(runs: Iterable[Run]) -> pd.DataFrame:
    """Return how many features and examples have which dimensionality, by T, in steps of 0.005.

    The columns are n_examples, of ("feature" or "example"), dimensionality, count.
    """
    parts = []
    for run in runs:
        of = {"feature": feature_dimensionality(run.W), "example": example_dimensionality(run.hidden, run.repeats)}
        for name, values in of.items():
            steps, counts = np.unique(np.round(values / _STEP), return_counts=True)
            rows = {
                "n_examples": float(run.config.n_examples),
                "of": name,
                "dimensionality": np.round(steps * _STEP, 3),
            }
            parts.append(pd.DataFrame({**rows, "count": counts}))
    return pd.concat(parts).groupby(["n_examples", "of", "dimensionality"])["count"].sum().reset_index()


def vectors_of(runs: Iterable[Run], of: Sequence[str] = ("feature", "example")) -> pd.DataFrame:
    """Return the columns of W and the hidden vectors of each run in the plane of most variance, for figures.

    The columns are n_examples, of ("feature" or "example"), x, y. Of more than 300 vectors only one is kept in each
    cell of a grid, 1/48 of the longest vector wide: dots of others would lie on top of its dot.
    """
    parts = []
    for run in runs:
        for name in of:
            chosen = _apart(plane(run.W.T if name == "feature" else run.hidden))
            x, y = ([float(f"{value:.4g}") for value in column] for column in chosen.T)
            parts.append(pd.DataFrame({"n_examples": float(run.config.n_examples), "of": name, "x": x, "y": y}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["n_examples", "of", "x", "y"])


def plane(points: Float[np.ndarray, "n_vectors n_hidden"]) -> Float[np.ndarray, "n_vectors 2"]:
    """Return planar vectors as they are, longer ones in their first two principal components."""
    if points.shape[1] > 2:
        return np.asarray(points @ np.linalg.svd(points, full_matrices=False)[2][:2].T)
    return points if points.shape[1] == 2 else np.hstack([points, np.zeros_like(points)])


def _apart(points: np.ndarray) -> np.ndarray:
    width = np.linalg.norm(points, axis=1).max() / _CELLS
    if len(points) <= _FEW_VECTORS or width == 0:
        return points
    _, first = np.unique(np.round(points / width), axis=0, return_index=True)
    return np.asarray(points[np.sort(first)])


def history_of(run: Run, followed: Sequence[int] = (0,), n_features: int = 8) -> pd.DataFrame:
    """Return the dimensionality of the best features and of some examples over the snapshots of a run.

    The columns are line ("feature 17", "example 0", "largest other example"), step, dimensionality.

    Args:
        run: A run with snapshots.
        followed: Examples that have a line of their own; of the others the largest has.
        n_features: Number of features, those that are ever the largest.
    """
    features = np.array([feature_dimensionality(W) for W in run.snapshots["W"]])
    examples = np.array([example_dimensionality(hidden) for hidden in run.snapshots["hidden"]])
    best = np.argsort(-features.max(axis=0))[:n_features]
    lines = {f"feature {f}": features[:, f] for f in best}
    others = np.delete(examples, list(followed), axis=1)
    if others.shape[1]:
        lines["largest other example"] = others.max(axis=1)
    lines |= {f"example {i}": examples[:, i] for i in followed}
    steps = np.maximum(run.snapshots["step"], 1)
    parts = [pd.DataFrame({"line": line, "step": steps, "dimensionality": values}) for line, values in lines.items()]
    return pd.concat(parts, ignore_index=True)
