"""Copies among the inputs of a dataset: those that are the same, and those that differ by next to nothing.

Inputs are compared, not what a layer makes of them: a network that fits its data draws all examples of a class
together. What is kept of an example is a digest and 64 numbers, so that the data need not stay in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.spatial
from jaxtyping import Bool, Float32, Float64, Int64

from byheart.arrays import as_array

if TYPE_CHECKING:
    from byheart.network.inputs import Inputs

Kind = Literal["numbers", "columns", "tokens", "others"]
"""What inputs are: all numbers of one unit, as pixels; a row of columns, each of its own unit; whole numbers in a row,
as a text's tokens; or what is only found to be the same or not."""

_SIZE = 64  # numbers that are kept of an input
_COARSE = 6  # of them that a tree is made of
_NEAR: dict[Kind, float] = {"numbers": 0.1, "columns": 0.1, "tokens": 0.4}  # distance of copies, by the spread of all
_OF_TYPICAL = 0.5  # times the distance to others around: where all lie densely, near is no copy
_N_FEW, _N_AROUND = 4, 20  # the so-manieth nearest lie around an example: of few copies, and of many
_BY_CHANCE = 1e-4  # share of examples that may lie as near to another one by chance
_WIDER = 1.25  # radius among the first numbers, whose distances scatter about those among all
_N_TYPICAL = 200  # examples that typical distances are taken of
_MOST_PAIRS = 2**22  # that are looked at
_MOST_COMPARED = 4_000  # examples that are compared with all others
_AT_ONCE = 200
_WIDEST = 2**20  # numbers of an input that are drawn together into the few that are kept
_NO_TEXT = ("attention_mask", "token_type_ids", "position_ids")  # what the other inputs of a text say already
_SHORTEST_TEXT = 16  # tokens; of fewer, one changed is no small change


class CopyFinder:
    """Finds copies in two passes over the inputs: the first learns the units of columns, the second compares."""

    def __init__(self, n_examples: int) -> None:
        self._digests = np.array([f"{i:x}" for i in range(n_examples)], dtype="S16")
        self._sketches = np.zeros((n_examples, _SIZE), dtype=np.float32)
        self._kind: Kind | None = None
        self._projection = np.zeros((0, _SIZE), dtype=np.float32)
        self._sums = np.zeros((2, 0))  # of the columns, and of their squares

    def look(self, inputs: Any) -> None:
        """See a batch's inputs in the first pass."""
        parts = _parts(inputs)
        kind, width = _kind_of(parts)
        if self._kind is None:
            self._kind = kind
            self._projection = np.random.default_rng(0).normal(size=(width, _SIZE)).astype(np.float32) / _SIZE**0.5
            self._sums = np.zeros((2, width))
        elif (kind, width) != (self._kind, len(self._projection)):
            self._kind = "others"
        if self._kind == "columns":
            values = parts[0].astype(np.float64)
            self._sums += values.sum(axis=0), np.square(values).sum(axis=0)

    def add(self, inputs: Any, indices: Int64[np.ndarray, " n_examples"]) -> None:
        """See a batch's inputs in the second pass, and which examples they are."""
        parts = _parts(inputs)
        if parts:
            self._digests[indices] = _digests(parts)
        if self._kind == "tokens":
            self._sketches[indices] = _of_tokens(parts[0])
        elif self._kind in ("numbers", "columns"):
            values = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
            if self._kind == "columns":
                mean, square = self._sums / len(self._digests)
                deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
                values = (values - mean) / np.where(deviation > 0, deviation, 1)
            self._sketches[indices] = values.astype(np.float32) @ self._projection

    def finish(
        self, labels: Int64[np.ndarray, " n_examples"] | None = None
    ) -> tuple[Int64[np.ndarray, " n_examples"], Int64[np.ndarray, " n_examples"], list[str]]:
        """Return how many copies each example has among the others, one of them (-1 for none), and notes.

        With labels a copy with another label is named, if there is one. Of copies that are the same the first other one
        is named, else the nearest.
        """
        n = len(self._digests)
        _, first, group, sizes = np.unique(self._digests, return_index=True, return_inverse=True, return_counts=True)
        is_first = np.arange(n) == first[group]
        second = _first_of(group, len(first), ~is_first)
        one, other, notes = self._near(first)
        copies = sizes[group] - 1 + np.bincount(one, sizes[other], len(first)).astype(np.int64)[group]
        nearest = np.full(len(first), -1)
        nearest[one] = first[other]  # the nearest is written last
        of_same = np.where(is_first, second[group], first[group])
        copy_of = np.where(of_same >= 0, of_same, nearest[group])
        if labels is not None:
            differs = labels != labels[first[group]]
            odd = _first_of(group, len(first), differs)  # the first with another label than the first has
            of_near = np.where(labels[first[one]] != labels[first[other]], first[other], odd[other])
            nearest_odd = np.full(len(first), -1)
            nearest_odd[one[of_near >= 0]] = of_near[of_near >= 0]
            other_label = np.where(differs, first[group], np.where(odd[group] >= 0, odd[group], nearest_odd[group]))
            copy_of = np.where(other_label >= 0, other_label, copy_of)
        if copies.any():
            notes.append(
                f"{(copies > 0).sum():,} of {n:,} examples have copies among the others, the same or nearly so (column"
                " copies). A network that is trained on one of them knows the others, so that none need look memorized."
            )
        return copies, copy_of, notes

    def _near(
        self, first: Int64[np.ndarray, " n_distinct"]
    ) -> tuple[Int64[np.ndarray, " n_links"], Int64[np.ndarray, " n_links"], list[str]]:
        """The places of distinct inputs that are nearly the same, both ways, the nearest last; and notes."""
        none = np.zeros(0, dtype=np.int64)
        rows = self._sketches[first]
        if self._kind not in _NEAR or len(rows) <= _N_AROUND:
            return none, none, []
        spread, typical, n_dimensions = _scale(rows)
        radius = min(_NEAR[self._kind] * spread, _OF_TYPICAL * typical)
        pairs = _pairs_within(rows, radius)
        here = none if pairs is None else np.unique(pairs)
        if pairs is None or len(here) > _MOST_COMPARED:
            return none, none, ["Only copies that are the same were looked for: too many inputs are much alike."]
        distances = np.linalg.norm(rows[pairs[:, 0]] - rows[pairs[:, 1]], axis=1)
        of_here, around = _distances(rows, here, _N_AROUND), np.zeros(len(rows))
        # in a small cluster the nearest lie as everywhere, and more than a few copies lie nearer to each other
        around[here] = np.clip(typical, of_here[:, _N_FEW - 1], of_here[:, -1])
        share = min(_OF_TYPICAL, (_BY_CHANCE / _N_FEW) ** (1 / n_dimensions))
        is_near = distances <= share * around[pairs].min(axis=1)
        one, other = pairs[is_near][np.argsort(-distances[is_near], kind="stable")].T
        return np.ravel([one, other], order="F"), np.ravel([other, one], order="F"), []


def groups_of_copies(inputs: Inputs) -> Int64[np.ndarray, " n_examples"]:
    """Return a number for each example, the same for those that are copies of each other, from 0 on.

    Groups without copies are in the order of the examples.

    Raises:
        ValueError: As going through the data does.
    """
    finder = CopyFinder(inputs.n_examples)
    for batch in inputs:
        finder.look(batch.inputs)
    for batch in inputs:
        finder.add(batch.inputs, batch.indices)
    _, copy_of, _ = finder.finish()
    here = np.flatnonzero(copy_of >= 0)
    links = scipy.sparse.coo_array((np.ones(len(here)), (here, copy_of[here])), shape=(len(copy_of),) * 2)
    _, groups = scipy.sparse.csgraph.connected_components(links, directed=False)
    return np.asarray(groups, dtype=np.int64)


def _first_of(
    group: Int64[np.ndarray, " n_examples"], n_groups: int, chosen: Bool[np.ndarray, " n_examples"]
) -> Int64[np.ndarray, " n_groups"]:
    """Of each group the first example that is chosen, or -1."""
    found = np.full(n_groups, -1)
    later = np.flatnonzero(chosen)[::-1]
    found[group[later]] = later  # the first is written last
    return found


def _parts(inputs: Any) -> list[np.ndarray]:
    """A batch's inputs as arrays with a row for each example, padding left out; none if they are something else."""
    if isinstance(inputs, Mapping):
        mask = inputs.get("attention_mask")
        counted = None if mask is None else as_array(mask, "attention_mask").astype(bool)
        of_text = [name for name in sorted(inputs) if not str(name).endswith(_NO_TEXT)]
        arrays = [part for name in of_text for part in _parts(inputs[name])]
        if counted is None:
            return arrays
        return [np.where(counted, a, -1) if a.shape == counted.shape and a.dtype.kind in "iu" else a for a in arrays]
    if isinstance(inputs, (tuple, list)) and not hasattr(inputs, "to"):
        if inputs and isinstance(inputs[0], str):
            return [np.array(inputs, dtype=object)]
        return [array for part in inputs for array in _parts(part)]
    try:
        array = as_array(inputs, "inputs")
    except ValueError:
        return []
    return [array] if array.ndim and array.dtype.kind in "biufc" else []


def _kind_of(parts: list[np.ndarray]) -> tuple[Kind, int]:
    """What the inputs of a batch are, and how many numbers each has, 0 of tokens."""
    if parts and all(part.dtype.kind == "f" and np.isfinite(part).all() for part in parts):
        width = sum(part[0].size for part in parts)
        if width > _WIDEST:
            return "others", 0
        return ("columns" if len(parts) == 1 and parts[0].ndim == 2 else "numbers"), width
    if len(parts) == 1 and parts[0].dtype.kind in "iu" and parts[0].ndim == 2 and parts[0].shape[1] >= _SHORTEST_TEXT:
        return "tokens", 0
    return "others", 0


def _digests(parts: list[np.ndarray]) -> list[bytes]:
    """A digest of each example."""
    rows = zip(*map(_bytes_of, parts), strict=True)
    return [hashlib.blake2b(b"".join(row), digest_size=16).digest() for row in rows]


def _bytes_of(part: np.ndarray) -> list[bytes]:
    """The bytes of each row; its repeated last numbers count once, since batches of texts are padded differently."""
    if part.dtype.kind == "O":
        return [f"{len(text)} {text}".encode(errors="surrogatepass") for text in part]
    part = np.ascontiguousarray(part + part.dtype.type(0))  # 0 for -0
    if part.ndim == 2 and part.shape[1] and part.dtype.kind in "iu":
        lengths = part.shape[1] - np.argmax((part != part[:, -1:])[:, ::-1], axis=1) + 1
        lengths = np.where((part == part[:, -1:]).all(axis=1), 1, np.minimum(lengths, part.shape[1]))
        return [b"%d " % n + row[:n].tobytes() for row, n in zip(part, lengths.tolist(), strict=True)]
    shape = repr(part.shape[1:]).encode()
    return [shape + row.tobytes() for row in part]


def _of_tokens(rows: Int64[np.ndarray, "n_examples n_tokens"]) -> Float32[np.ndarray, "n_examples n_kept"]:
    """Counts of all pairs of neighbouring tokens, drawn together into 64 numbers by random signs."""
    last = rows[:, -1:]
    padding = np.logical_and.accumulate((rows == last)[:, ::-1], axis=1)[:, ::-1]  # the last token and its repeats
    tokens = rows.astype(np.uint64)
    with np.errstate(over="ignore"):
        pairs = tokens[:, :-1] * np.uint64(0x9E3779B97F4A7C15) + tokens[:, 1:] * np.uint64(0xC2B2AE3D27D4EB4F)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's
            pairs = (pairs ^ (pairs >> np.uint64(shift))) * np.uint64(factor)
        pairs ^= pairs >> np.uint64(31)
    found = np.zeros((len(rows), _SIZE), dtype=np.float32)
    for bit in range(_SIZE):
        signs = ((pairs >> np.uint64(bit)) & np.uint64(1)).astype(np.float32) * 2 - 1
        found[:, bit] = np.where(padding[:, :-1], 0, signs).sum(axis=1) / _SIZE**0.5
    return found


def _scale(rows: Float32[np.ndarray, "n_distinct n_kept"]) -> tuple[float, float, float]:
    """The spread of all inputs, the median distance to the fourth nearest, and of how many dimensions they are.

    These are what the distances to the second and the fourth nearest say: in d dimensions their median ratio is 2^(1/d)
    (after Facco et al. 2017). Further ones would lie outside of small clusters.
    """
    spread = float(np.sqrt(np.square(rows - rows.mean(axis=0), dtype=np.float64).sum(axis=1).mean()))
    chosen = np.random.default_rng(0).permutation(len(rows))[:_N_TYPICAL]
    nearest = _distances(rows, chosen, _N_FEW)
    far, half = nearest[:, -1], nearest[:, _N_FEW // 2 - 1]  # beyond an example's copy
    apart = half > 0
    ratio = float(np.median(np.log(far[apart] / half[apart]))) if apart.any() else 1.0
    return spread, float(np.median(far)), np.log(2) / max(ratio, 1e-6)


def _distances(
    rows: Float32[np.ndarray, "n_distinct n_kept"], chosen: Int64[np.ndarray, " n_chosen"], n_nearest: int
) -> Float64[np.ndarray, "n_chosen n_nearest"]:
    """Of chosen rows, the distances to the nearest others, from the least on."""
    squares, found = np.square(rows).sum(axis=1), np.zeros((len(chosen), n_nearest))
    for start in range(0, len(chosen), _AT_ONCE):
        some = chosen[start : start + _AT_ONCE]
        distances = squares[some, None] + squares - 2 * rows[some] @ rows.T
        distances[np.arange(len(some)), some] = np.inf
        nearest = np.argpartition(distances, n_nearest - 1, axis=1)[:, :n_nearest]
        exact = np.linalg.norm(rows[some, None] - rows[nearest], axis=2)  # differences of squares round
        found[start : start + _AT_ONCE] = np.sort(exact, axis=1)
    return found


def _pairs_within(
    rows: Float32[np.ndarray, "n_distinct n_kept"], radius: float
) -> Int64[np.ndarray, "n_pairs 2"] | None:
    """All pairs of rows that are no further apart, or None if there are too many to look at."""
    if radius <= 0:
        return np.zeros((0, 2), dtype=np.int64)
    coarse = rows[:, :_COARSE].astype(np.float64) * np.sqrt(_SIZE / _COARSE)
    tree = scipy.spatial.cKDTree(coarse)
    some = coarse[np.random.default_rng(0).permutation(len(rows))[:_N_TYPICAL]]
    n_around = tree.query_ball_point(some, _WIDER * radius, return_length=True).mean() - 1
    if n_around * len(rows) > 2 * _MOST_PAIRS:
        return None
    pairs = tree.query_pairs(_WIDER * radius, output_type="ndarray")
    chunks = np.array_split(pairs, len(pairs) // 2**16 + 1)
    distances = [np.linalg.norm(rows[chunk[:, 0]] - rows[chunk[:, 1]], axis=1) for chunk in chunks]
    return np.asarray(pairs[np.concatenate(distances) <= radius], dtype=np.int64)
