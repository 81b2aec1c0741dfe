"""Where the plane of a trained model of two hidden units flows: attractors with their basins, and a map of them.

Basins are measured in two ways: as shares of a disc about the origin, as large as the longest hidden vector of the
examples, on a square grid; and as shares of the examples themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from jaxtyping import Bool, Float

from byheart.attractors import Attractors, disc, find_attractors, what_they_are
from byheart.toy.config import TrainConfig
from byheart.toy.runs import Run
from byheart.toy.train import draw_examples

KINDS = ("example", "feature", "mixture", "origin")
_OUTSIDE = -2  # of the disc


@dataclass(frozen=True, eq=False)
class Basins:
    """The attractors of weights, and what ends in them.

    Attributes:
        attractors: What was found, from all starting points.
        table: A row per attractor: what ``what_they_are`` says; the two largest features of its answer (first, second)
            and their share of its squared norm (share_of_two); multiplier; x, y; and the shares of the disc (plane) and
            of the examples (examples) that end in it.
        plane: Which starting points are of the disc.
        examples: Which are hidden vectors of examples.
    """

    attractors: Attractors
    table: pd.DataFrame
    plane: slice
    examples: slice

    @property
    def unsettled(self) -> float:
        """The share of the disc that ends in no attractor."""
        return float((self.attractors.reached[self.plane] < 0).mean())

    def counts(self) -> dict[str, float]:
        """Return how many attractors of each kind there are, and which share of the disc ends in them.

        ``n_attractors`` counts all but the origin.
        """
        numbers, shares = self.table["kind"].value_counts(), self.table.groupby("kind")["plane"].sum()
        counted = {f"n_{kind}": int(numbers.get(kind, 0)) for kind in KINDS}
        filled = {f"plane_{kind}": float(shares.get(kind, 0.0)) for kind in KINDS}
        return {**counted, "n_attractors": sum(counted.values()) - counted["n_origin"], **filled}


def attractors_of(run: Run, examples: Any = None, n_across: int = 64) -> Basins:
    """Find the attractors of a trained model of two hidden units, and what ends in them.

    Args:
        run: A trained model with tied weights and no ReLU after the hidden layer.
        examples: Its training examples, one per row of a scipy.sparse matrix or an array, if they are your own; others
            are drawn again.
        n_across: Cells from one side of the disc to the other, at least 1.

    Raises:
        ValueError: If the model is another one, or was trained on your own examples and these are missing.
    """
    config = run.config
    if not has_plane(config):
        received = f"n_hidden {config.n_hidden}, tied {config.tied}, hidden_relu {config.hidden_relu}"
        raise ValueError(f"run: received {received}, accepted: n_hidden 2, tied True, hidden_relu False")
    if run.data_digest and examples is None:
        raise ValueError("examples: received none for a run with data of your own, accepted: its training examples")
    rows = training_examples(run) if examples is None else scipy.sparse.csr_array(examples)
    return find_basins(run.W, run.b, run.hidden, rows, n_across)


def has_plane(config: TrainConfig) -> bool:
    """Return whether a model can be fed its own answers, and has a plane in which to draw where that ends."""
    return config.n_hidden == 2 and config.tied and not config.hidden_relu


def find_basins(
    W: Float[np.ndarray, "2 n_features"],
    b: Float[np.ndarray, " n_features"],
    hidden: Float[np.ndarray, "n_examples 2"],
    examples: scipy.sparse.csr_array,
    n_across: int,
    most_examples: int = 1_000,
) -> Basins:
    """Find the attractors of weights from a grid of the disc, from examples, and from the longest columns of W.

    Args:
        W: Weights.
        b: Bias.
        hidden: Hidden vectors of the examples.
        examples: The training examples that attractors may be, one per row; none if it has no row.
        n_across: Cells of the grid from one side of the disc to the other.
        most_examples: How many hidden vectors, at most, are starting points, and a tenth as many columns of W.
    """
    around = disc(radius_of(hidden), n_across)
    asked = hidden[:most_examples]
    features = W.T[np.argsort(-np.linalg.norm(W, axis=0))[: most_examples // 10]]
    found = find_attractors(W, b, np.concatenate([around, asked, features]))
    plane, own = slice(0, len(around)), slice(len(around), len(around) + len(asked))
    first, second = np.argsort(-found.answers, axis=1)[:, :2].T
    table = what_they_are(found, examples, hidden[: examples.shape[0]]).assign(
        first=first,
        second=second,
        share_of_two=np.square(np.sort(found.answers, axis=1)[:, -2:]).sum(axis=1),
        multiplier=found.multipliers,
        x=found.hidden[:, 0],
        y=found.hidden[:, 1],
        plane=found.basins(plane),
        examples=found.basins(own),
    )
    return Basins(found, table, plane, own)


def on_border(
    W: Float[np.ndarray, "2 n_features"],
    b: Float[np.ndarray, " n_features"],
    points: Float[np.ndarray, "n_points 2"],
    degrees: float = 3.0,
) -> Bool[np.ndarray, " n_points"]:
    """Return which points lie on the border of two basins: turned by so many degrees either way, they end elsewhere."""
    if not len(points):
        return np.zeros(0, dtype=bool)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    one, other = find_attractors(W, b, np.concatenate([points @ turn, points @ turn.T])).reached.reshape(2, -1)
    return np.asarray(one != other)


def training_examples(run: Run) -> scipy.sparse.csr_array:
    """Return the examples that a run was trained on, drawn again; none where T is infinite."""
    if run.config.n_examples == "inf":
        return scipy.sparse.csr_array((0, run.config.n_features))
    return draw_examples(run.config).to_scipy()


def plane_of(run: Run, examples: scipy.sparse.csr_array, n_across: int) -> pd.DataFrame:
    """Return where a fine grid of the disc ends, in stretches of cells of a row that end in the same attractor.

    The columns are row, first, last, attractor (-1 for none), its kind and angle, and n_across and radius of the grid.
    """
    radius = radius_of(run.hidden)
    around = disc(radius, n_across)
    columns, rows = np.round((around / radius + 1) * n_across / 2 - 0.5).astype(int).T
    found = find_attractors(run.W, run.b, around)
    reached = np.full((n_across, n_across), _OUTSIDE)
    reached[rows, columns] = found.reached
    stretches = []
    for y, row in enumerate(reached):
        starts = np.flatnonzero(np.diff(row, prepend=_OUTSIDE - 1))
        stretches += [(y, a, b, row[a]) for a, b in zip(starts, np.append(starts[1:], len(row)) - 1, strict=True)]
    table = pd.DataFrame(stretches, columns=["row", "first", "last", "attractor"])
    table = table[table["attractor"] != _OUTSIDE]
    kinds = [*what_they_are(found, examples, run.hidden[: examples.shape[0]])["kind"], "unsettled"]
    angles = np.append(np.arctan2(found.hidden[:, 1], found.hidden[:, 0]).round(3), 0)
    which = table["attractor"].to_numpy()
    of_grid = {"n_across": n_across, "radius": float(f"{radius:.4g}")}
    return table.assign(kind=[kinds[k] for k in which], angle=angles[which], **of_grid)


def radius_of(hidden: Float[np.ndarray, "n_examples 2"]) -> float:
    """Return the radius of the disc in which basins are measured: the longest hidden vector's length."""
    return float(np.linalg.norm(hidden, axis=1).max()) or 1.0


def filled(plane: pd.DataFrame) -> np.ndarray:
    """Return the attractor of every cell of a table of ``plane_of``, rows from below; -2 outside of the disc."""
    n_across = int(plane["n_across"].iloc[0])
    cells = np.full((n_across, n_across), _OUTSIDE)
    for row, first, last, attractor in plane[["row", "first", "last", "attractor"]].itertuples(index=False):
        cells[row, first : last + 1] = attractor
    return cells
