"""Where a network ends that is fed its own answers: attractors, their basins, and what each of them stands for.

The toy model answers a hidden vector h with x' = ReLU(W^T h + b). Scaled to unit norm, as training examples are, the
answer x^ = x'/|x'| is an input again, whose hidden vector is W x^; where nothing is active, x^ = 0 and the next hidden
vector is the origin. An *attractor* is a hidden vector that this iteration h -> W x^ comes back to from all around, its
*basin* what ends there. It is one notion for whatever the weights keep: a training example, a feature, or neither.

**Nothing goes round in circles.** Of all x >= 0 with |x| <= 1, x^ has the largest inner product with W^T W x + b, which
is the gradient of the energy F(x) = |W x|^2/2 + b.x. F is convex, so it never falls along the iteration, and stays the
same only where x does: there are no cycles, and attractors are local maxima of F, as in a Hopfield network.

**Stability.** With A the active features, the derivative of the map at h is (W_A W_A^T - h' h'^T)/|x'|, h' = W x^. It
is symmetric, with eigenvalues >= 0, so a fixed point is an attractor if the largest, its *multiplier*, is below 1.

Source: the iteration is that of autoencoders as memories (Radhakrishnan, Belkin and Uhler 2020, "Overparameterized
neural networks implement associative memory"; arXiv 2505.22785), on the unit sphere as the toy's examples are; why F
never falls, Journee, Nesterov, Richtarik and Sepulchre 2010, "Generalized power method for sparse principal component
analysis". The derivative and the bounds are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from jaxtyping import Float, Float64, Int64

from byheart.arrays import finite_array

OVERLAP = 0.9
"""Cosine from which on an attractor's answer is that of an example, or of a feature alone."""
NEAR = 0.5
"""How far an attractor may be from the hidden vector of its example, in lengths of the latter."""
MAX_STEPS = 3_000
_SETTLED = 1e-9  # a step that is so short, in lengths of the longest start, is none
_SAME = 1e-3  # ends that are so near are one; a point that settles at a multiplier of 0.999 is within 1e-6 of its end
_LEAP_EVERY = 8  # steps
_LEAP = 0.02  # how far at most, in lengths of the longest start
_LEVEL = 1e-6  # where the height curves less than this, there is no step of Newton
_VALUES_PER_BLOCK = 100_000  # of x' at a time: they stay in the cache, seven times as fast as 500,000


@dataclass(frozen=True, eq=False)
class Attractors:
    """What the iteration ends in, largest basin first.

    Attributes:
        hidden: Hidden vectors, one row per attractor.
        answers: Their answers x^, of norm 1, or 0 at an origin where nothing is active.
        multipliers: By how much a small displacement is multiplied per step at most; below 1.
        reached: The attractor that each starting point ends in; -1 if it was still moving after ``MAX_STEPS``, or ended
            in a fixed point that is no attractor.
    """

    hidden: Float64[np.ndarray, "n_attractors n_hidden"]
    answers: Float64[np.ndarray, "n_attractors n_features"]
    multipliers: Float64[np.ndarray, " n_attractors"]
    reached: Int64[np.ndarray, " n_starts"]

    def basins(self, starts: slice = slice(None)) -> Float64[np.ndarray, " n_attractors"]:
        """Return the share of starting points, or of a slice of them, that end in each attractor."""
        reached = self.reached[starts]
        counts = np.bincount(reached[reached >= 0], minlength=len(self.hidden))
        return counts / max(len(reached), 1)


def find_attractors(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    starts: Float[np.ndarray, "n_starts n_hidden"],
) -> Attractors:
    """Iterate h -> W x^ from every starting point until it stands still, and return what it ends in.

    Ends nearer to each other than a thousandth of the longest starting point are one. Takes O(n_starts n_features
    n_hidden) time a step; features that are active nowhere within reach are left out first.

    Raises:
        ValueError: If an array is not finite, or their shapes do not fit.
    """
    W, b, starts = _checked(W, b, starts)
    unit = float(np.linalg.norm(starts, axis=1).max(initial=0)) or 1.0
    reach = max(unit, float(np.linalg.norm(W, 2)))  # |W x| for |x| <= 1
    live = np.linalg.norm(W, axis=0) * reach + b > 0
    W_live, b_live = W[:, live], b[live]
    ends, settled = _iterate(W_live, b_live, starts, _SETTLED * unit)
    groups = _near_each_other(ends, settled, _SAME * unit)
    firsts = np.array([np.flatnonzero(groups == k)[0] for k in range(groups.max() + 1)], dtype=np.int64)
    found = multipliers(W_live, b_live, ends[firsts]) if len(firsts) else np.zeros(0)
    sizes = np.bincount(groups[groups >= 0], minlength=len(firsts))
    order = [k for k in np.argsort(-sizes, kind="stable") if found[k] < 1]
    place = np.full(len(firsts) + 1, -1)  # one more for those that did not settle
    place[order] = np.arange(len(order))
    hidden = ends[firsts[order]]
    return Attractors(hidden, answers(W, b, hidden), found[order], place[groups])


def answers(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    hidden: Float[np.ndarray, "n_points n_hidden"],
) -> Float64[np.ndarray, "n_points n_features"]:
    """Return x^ = ReLU(W^T h + b), scaled to unit norm, of every hidden vector; 0 where nothing is active.

    Raises:
        ValueError: If an array is not finite, or their shapes do not fit.
    """
    W, b, hidden = _checked(W, b, hidden)
    outputs, lengths, _ = _step(W, b, hidden)
    return outputs / np.where(lengths > 0, lengths, 1)[:, None]


def energy(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    inputs: Float[np.ndarray, "n_points n_features"],
) -> Float64[np.ndarray, " n_points"]:
    """Return F(x) = |W x|^2/2 + b.x of every input, which never falls from one answer to the next.

    Raises:
        ValueError: If an array is not finite, or their shapes do not fit.
    """
    inputs = finite_array(inputs, "inputs").astype(np.float64)
    W, b, hidden = _checked(W, b, inputs @ np.asarray(W, dtype=np.float64).T)
    return np.asarray(np.square(hidden).sum(axis=1) / 2 + inputs @ b)


def multipliers(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    hidden: Float[np.ndarray, "n_points n_hidden"],
) -> Float64[np.ndarray, " n_points"]:
    """Return the largest eigenvalue of the map's derivative, (W_A W_A^T - h' h'^T)/|x'|, at every hidden vector.

    A fixed point is an attractor if it is below 1. Where nothing is active it is 0; where nothing is, but some feature
    would be after an arbitrarily small step, it is infinite.

    Raises:
        ValueError: If an array is not finite, or their shapes do not fit.
    """
    W, b, hidden = _checked(W, b, hidden)
    found = np.empty(len(hidden))
    for rows in _blocks(len(hidden), W.shape[1]):
        found[rows] = np.linalg.eigvalsh(_derivative(W, b, hidden[rows]))[:, -1]
        before = hidden[rows] @ W[:, W.any(axis=0)] + b[W.any(axis=0)]
        found[rows][(before <= 0).all(axis=1) & (before == 0).any(axis=1)] = np.inf
    return found


def what_they_are(found: Attractors, examples: Any, hidden: Float[np.ndarray, "n_examples n_hidden"]) -> pd.DataFrame:
    """Return what each attractor is, a row for each: kind, which, overlap_example, overlap_feature, n_effective.

    The kind is "origin" where nothing is active; else "example", if the answer has a cosine of at least ``OVERLAP``
    with a training example, and the attractor is within ``NEAR`` of its hidden vector; else "feature", if it has this
    cosine with one feature alone; else "mixture". If it is both, the larger cosine decides. ``which`` is the number of
    that example, else of the answer's largest feature, -1 for an origin. ``n_effective``, 1/sum x^_j^4, is how many
    equal features would be as spread out, 1 for one alone.

    Args:
        found: Attractors.
        examples: Training examples, a scipy.sparse matrix or an array of shape (n_examples, n_features); they may have
            no row.
        hidden: Their hidden vectors.
    """
    rows = scipy.sparse.csr_array(examples)
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    table = []
    for place, answer in zip(found.hidden, found.answers, strict=True):
        if not answer.any():
            table.append(("origin", -1, 0.0, 0.0, 0.0))
            continue
        feature = int(answer.argmax())
        cosines = rows @ answer / np.maximum(lengths, np.finfo(float).tiny)
        example = int(cosines.argmax()) if len(cosines) else -1
        to_example, to_feature = float(cosines[example]) if len(cosines) else 0.0, float(answer[feature])
        is_example = to_example >= max(OVERLAP, to_feature) and np.linalg.norm(
            place - hidden[example]
        ) <= NEAR * np.linalg.norm(hidden[example])
        kind = "example" if is_example else "feature" if to_feature >= OVERLAP else "mixture"
        which = example if is_example else feature
        table.append((kind, which, to_example, to_feature, float(1 / (answer**4).sum())))
    return pd.DataFrame(table, columns=["kind", "which", "overlap_example", "overlap_feature", "n_effective"])


def disc(radius: float, n_across: int) -> Float64[np.ndarray, "n_points 2"]:
    """Return the centres of a square grid's cells that lie within a disc about the origin, by rows from below.

    Args:
        radius: Of the disc, above 0.
        n_across: Cells from one side to the other, at least 1.
    """
    if not radius > 0 or n_across < 1:
        raise ValueError(f"disc: received radius {radius} and {n_across} cells, accepted: a radius > 0, cells >= 1")
    centres = radius * ((2 * np.arange(n_across) + 1) / n_across - 1)
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    return np.asarray(points[np.linalg.norm(points, axis=1) <= radius])


def _iterate(
    W: Float64[np.ndarray, "n_hidden n_features"],
    b: Float64[np.ndarray, " n_features"],
    starts: Float64[np.ndarray, "n_starts n_hidden"],
    still: float,
) -> tuple[Float64[np.ndarray, "n_starts n_hidden"], np.ndarray]:
    """Return where starting points are once they move less than ``still`` a step, and whether they do."""
    ends, settled = starts.copy(), np.zeros(len(starts), dtype=bool)
    for rows in _blocks(len(starts), W.shape[1]):
        moving = np.arange(len(starts))[rows]
        for step in range(1, MAX_STEPS + 1):
            now = ends[moving]
            after = _step(W, b, now)[2]
            done = np.linalg.norm(after - now, axis=1) <= still
            ends[moving] = after if step % _LEAP_EVERY else _leap(W, b, now, after, _LEAP / _SETTLED * still)
            settled[moving[done]] = True
            moving = moving[~done]
            if not len(moving):
                break
    return ends, settled


def _leap(W: np.ndarray, b: np.ndarray, now: np.ndarray, after: np.ndarray, most: float) -> np.ndarray:
    """Return Newton's step to a fixed point that is no further than ``most``, where it leads up to one; else ``after``.

    The iteration is gradient ascent, with steps of 1, on |ReLU(W^T h + b)| - |h|^2/2, the energy of the best input of
    h. A step is taken if this is concave at both of its ends and no lower at the second than after the plain step.
    """
    derivative, unit = _derivative(W, b, now), np.eye(len(W))
    concave = np.linalg.eigvalsh(derivative)[:, -1] < 1 - _LEVEL
    move = np.linalg.solve(np.where(concave[:, None, None], unit - derivative, unit), (after - now)[:, :, None])[..., 0]
    there = now + move
    concave &= (np.linalg.norm(move, axis=1) <= most) & (_height(W, b, there) >= _height(W, b, after))
    concave[concave] = np.linalg.eigvalsh(_derivative(W, b, there[concave]))[:, -1] < 1 - _LEVEL
    return np.where(concave[:, None], there, after)


def _height(W: np.ndarray, b: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(np.maximum(hidden @ W + b, 0), axis=1)
    return np.asarray(lengths - np.square(hidden).sum(axis=1) / 2)


def _derivative(W: np.ndarray, b: np.ndarray, hidden: np.ndarray) -> Float64[np.ndarray, "n_points n_hidden n_hidden"]:
    """Return (W_A W_A^T - h' h'^T)/|x'| at every hidden vector, 0 where nothing is active."""
    outputs, lengths, after = _step(W, b, hidden)
    products = (W[:, None] * W[None]).reshape(len(W) ** 2, -1)
    squares = ((outputs > 0) @ products.T).reshape(-1, len(W), len(W))
    found = squares - after[:, :, None] * after[:, None, :]
    found[lengths == 0] = 0
    return np.asarray(found / np.where(lengths > 0, lengths, 1)[:, None, None])


def _step(W: np.ndarray, b: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x', |x'| and W x^ of every hidden vector; of few at a time, so that x' stays in the cache."""
    outputs = hidden @ W
    outputs += b
    np.maximum(outputs, 0, out=outputs)
    lengths = np.sqrt(np.einsum("ij,ij->i", outputs, outputs))
    return outputs, lengths, (outputs @ W.T) / np.where(lengths > 0, lengths, 1)[:, None]


def _near_each_other(ends: np.ndarray, settled: np.ndarray, tolerance: float) -> Int64[np.ndarray, " n_points"]:
    """Return a group's number for each settled end, -1 for others: all within the tolerance of the group's first."""
    groups = np.full(len(ends), -1)
    left, n_groups = np.flatnonzero(settled), 0
    while len(left):
        same = np.linalg.norm(ends[left] - ends[left[0]], axis=1) <= tolerance
        groups[left[same]] = n_groups
        left, n_groups = left[~same], n_groups + 1
    return groups


def _blocks(n_points: int, n_features: int) -> list[slice]:
    size = max(1, _VALUES_PER_BLOCK // max(n_features, 1))
    return [slice(start, start + size) for start in range(0, n_points, size)]


def _checked(W: Any, b: Any, points: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    W, b, points = (finite_array(array, name).astype(np.float64) for array, name in ((W, "W"), (b, "b"), (points, "h")))
    if W.ndim != 2 or b.shape != W.shape[1:] or points.ndim != 2 or points.shape[1] != len(W):
        raise ValueError(
            f"W, b, h: received shapes {W.shape}, {b.shape}, {points.shape},"
            " accepted: (n_hidden, n_features), (n_features,), (n_points, n_hidden)"
        )
    return W, b, points
