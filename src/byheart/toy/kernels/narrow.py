"""Training with up to eight hidden units, where all that is known of a pair fits in registers.

A step has two parallel parts. ``_examples_part``: each group of examples adds its share of the gradient to a copy of
its own. ``_features_part``: each block of features adds up the groups' shares and takes the step of AdamW. A few
examples make one group; the blocks of features go side by side instead. A long step is taken in pieces: chunks of
every group, or blocks.

The weights are kept in tiles of features (see ``dense``), 64 of which make a block. If pairs are skipped (see
``skipping``), features and examples are in the order of their tiles. A nonzero entry of an example holds the place of
its feature in the tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError, skipping
from byheart.toy.kernels.adamw import Constants, adamw, constants, rates_of_step
from byheart.toy.kernels.compile import empty, in_order, parallel, serial, threads
from byheart.toy.kernels.dense import FEATURES, add_scaled, dense, place, preactivation, row
from byheart.toy.kernels.skipping import Tiles
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

MAX_HIDDEN = 8
_TILES_PER_BLOCK = 64  # of features
_CHUNK = skipping.EXAMPLES * skipping.TILES  # of examples
_CHUNKS_PER_SUM = 32  # that are added in float32 before they are added to the rest
_MAX_GROUPS = 8  # their copies of the gradient are added up at every step
_EXAMPLES_PER_GROUP = _CHUNK  # at least, if there are several groups
_CHECK_ORDER_EVERY = 64  # steps
_RENEW_ORDER_ABOVE = 1.1  # times the share of cut tiles just after it was made
_RENEW_ORDER_EVERY = 1024  # steps
_SKIP_BELOW_SHARE = 0.6  # of cut tiles
_TRY_AGAIN_AFTER = 256  # steps without skipping, where it did not pay
_SERIAL_BELOW = 100_000  # multiplications per step with W: less work than this is over before a thread wakes up
_SHORT = 5e7  # likewise: the first step is taken in one call if it is short on any machine; later ones are timed
_WHOLE, _DESCRIBE, _EXAMPLES, _FEATURES = range(4)  # steps, or parts of them
_ZERO = np.float32(0)
_TUPLES = Constants, Tiles  # the compiler looks for the names of tuples that cross into other threads


class Rows(NamedTuple):
    """Examples, one after the other: where each starts, and the place and the value of each nonzero."""

    starts: np.ndarray
    places: np.ndarray
    values: np.ndarray


class State(NamedTuple):
    """What a step reads and writes."""

    theta: np.ndarray  # W and b, in tiles; likewise the moments of AdamW
    first: np.ndarray
    second: np.ndarray
    tiles: np.ndarray  # 0, 1, 2, ...
    shares: np.ndarray  # of the gradient: by group, in tiles
    sums: np.ndarray  # likewise, of some chunks: for many examples, or rounding errors would add up
    h: np.ndarray
    grad_h: np.ndarray
    grad_h_of_blocks: np.ndarray  # for one group
    cut: np.ndarray  # tiles, by group
    finite: np.ndarray  # whether the gradient is, by block


@serial
def _to_rows(zeros, in_tiles, features):
    """Return what is in tiles as rows, features in their own order."""
    rows = np.empty((len(zeros) + 1, features.shape[0]), np.float32)
    for position in range(features.shape[0]):
        at = place(zeros, position)
        for k in range(len(zeros) + 1):
            rows[k, features[position]] = in_tiles[at + k * FEATURES]
    return rows


@serial
def _to_tiles(zeros, rows, features, in_tiles):
    for position in range(features.shape[0]):
        at = place(zeros, position)
        for k in range(len(zeros) + 1):
            in_tiles[at + k * FEATURES] = rows[k, features[position]]


@serial
def _places(zeros, features):
    places = np.empty(features.shape[0], np.uint32)
    for position in range(features.shape[0]):
        places[features[position]] = place(zeros, position)
    return places


@serial
def _arrange(source, places, examples, rows, first, last):
    """Put these of the examples in this order; their features, numbers in ``source``, become places."""
    at = rows.starts[first]
    for i in range(first, last):
        for entry in range(source.starts[examples[i]], source.starts[examples[i] + 1]):
            rows.places[at] = places[source.places[entry]]
            rows.values[at] = source.values[entry]
            at += 1
        rows.starts[i + 1] = at


@in_order
def _hidden(zeros, theta, starts, places, values, h):
    """h_i = W x_i."""
    for i in range(h.shape[0]):
        total = zeros
        for entry in range(np.uint64(starts[i]), np.uint64(starts[i + 1])):
            total = add_scaled(total, values[entry], theta, np.uint64(places[entry]))
        for k in range(len(zeros)):
            h[i, k] = total[k]


@in_order
def _correct(zeros, theta, starts, places, values, h, grad_h, share):
    """Take x_f W_f off grad_h_i and x_f off d_if at active nonzero targets; add x_f grad_h_i to the gradient of W_f."""
    n_hidden, longest = len(zeros), np.int64(0)
    for i in range(h.shape[0]):
        longest = max(longest, starts[i + 1] - starts[i])
    targets = np.empty(longest, np.float32)
    for i in range(h.shape[0]):
        hidden, grad = row(zeros, h, i), row(zeros, grad_h, i)
        start, n = np.uint64(starts[i]), np.uint64(starts[i + 1] - starts[i])
        for j in range(n):
            at, x = np.uint64(places[start + j]), values[start + j]
            target = x if preactivation(hidden, theta, at) > 0 else _ZERO
            targets[j] = target
            grad = add_scaled(grad, -target, theta, at)
        for j in range(n):
            at, x, target = np.uint64(places[start + j]), values[start + j], targets[j]
            for k in range(n_hidden):
                share[at + np.uint64(k * FEATURES)] += x * grad[k] - target * hidden[k]
            share[at + np.uint64(n_hidden * FEATURES)] -= target


@serial
def _tiles_of(block, n_tiles):
    return block * _TILES_PER_BLOCK, min((block + 1) * _TILES_PER_BLOCK, n_tiles)


@serial
def _group(zeros, rows, state, skips, tiles, group, first_chunk, last_chunk):
    """Some chunks of one group of examples, against all features; every n_groups-th chunk is of this group."""
    n_examples, n_groups = state.h.shape[0], state.shares.shape[0]
    many = state.sums.shape[0] > 0
    share = state.sums[group] if many else state.shares[group]
    if first_chunk == 0:
        share[:] = _ZERO
        if many:
            state.shares[group] = _ZERO
        state.cut[group] = 0
        if skips:
            tiles.sums[group] = 0.0
    step = n_groups * _CHUNK
    for chunk in range(first_chunk, min(last_chunk, -(-n_examples // step))):
        lo = min(chunk * step + group * _CHUNK, n_examples)
        hi = min(lo + _CHUNK, n_examples)
        h, grad_h, starts = state.h[lo:hi], state.grad_h[lo:hi], rows.starts[lo : hi + 1]
        _hidden(zeros, state.theta, starts, rows.places, rows.values, h)
        grad_h[:] = _ZERO
        if skips:
            state.cut[group] += skipping.skip(zeros, h, state.theta, tiles, tiles.sums[group], share, grad_h)
        else:
            for block in range(state.finite.shape[0]):
                first, last = _tiles_of(block, state.tiles.shape[0])
                dense(zeros, h, state.theta, share, grad_h, state.tiles[first:last])
        _correct(zeros, state.theta, starts, rows.places, rows.values, h, grad_h, share)
        if many and ((chunk + 1) % _CHUNKS_PER_SUM == 0 or (chunk + 1) * step >= n_examples):
            total = state.shares[group]
            for j in range(total.shape[0]):
                total[j] += share[j]
                share[j] = _ZERO


@serial
def _block(zeros, state, block):
    """All examples, which make one group, against one block of features."""
    first, last = _tiles_of(block, state.tiles.shape[0])
    size = (len(zeros) + 1) * FEATURES
    state.shares[0, first * size : last * size] = _ZERO
    grad_h = state.grad_h_of_blocks[block]
    grad_h[:] = _ZERO
    dense(zeros, state.h, state.theta, state.shares[0], grad_h, state.tiles[first:last])


@serial
def _add_up_blocks(zeros, rows, state):
    for i in range(state.h.shape[0]):
        for k in range(len(zeros)):
            total = _ZERO
            for block in range(state.finite.shape[0]):
                total += state.grad_h_of_blocks[block, i, k]
            state.grad_h[i, k] = total
    _correct(zeros, state.theta, rows.starts, rows.places, rows.values, state.h, state.grad_h, state.shares[0])


@parallel
def _examples_part(zeros, rows, state, skips, tiles, first, last):
    """Each group's share of the gradient, without scale, from these chunks of it; of one group, from these blocks."""
    n_groups, n_blocks = state.shares.shape[0], state.finite.shape[0]
    if n_groups > 1:
        for piece in numba.prange(n_groups):
            _group(zeros, rows, state, skips, tiles, np.int64(piece), first, last)
    else:
        if first == 0:
            _hidden(zeros, state.theta, rows.starts, rows.places, rows.values, state.h)
        for block in numba.prange(first, last):
            _block(zeros, state, np.int64(block))
        if last == n_blocks:
            _add_up_blocks(zeros, rows, state)


@serial
def _block_gradient(zeros, state, skips, tiles, block):
    """Add up the groups' shares of one block, in the first group's; return where the block is."""
    first, last = _tiles_of(block, state.tiles.shape[0])
    size = (len(zeros) + 1) * FEATURES
    lo, hi = first * size, last * size
    grad = state.shares[0, lo:hi]
    if state.shares.shape[0] > 1:
        sums = np.zeros(hi - lo)  # float64: shares, and what is linear, cancel
        for group in range(state.shares.shape[0]):
            share = state.shares[group, lo:hi]
            for j in range(sums.shape[0]):
                sums[j] += share[j]
        if skips:
            skipping.add_linear_to_features(zeros, state.theta, tiles, first, last, sums)
        for j in range(sums.shape[0]):
            grad[j] = np.float32(sums[j])
    total = _ZERO
    for j in range(grad.shape[0]):
        total += grad[j]
    state.finite[block] = abs(total) < np.inf  # the bias's gradient is not as soon as any pre-activation is not
    return lo, hi


@parallel
def _gradient(zeros, state, skips, tiles, first, last):
    for block in numba.prange(first, last):
        _block_gradient(zeros, state, skips, tiles, np.int64(block))


@serial
def _block_step(zeros, state, skips, tiles, scale, learning_rate, step, constants, block):
    rates = rates_of_step(learning_rate, step, constants)
    lo, hi = _block_gradient(zeros, state, skips, tiles, block)
    theta, gradient = state.theta[lo:hi], state.shares[0, lo:hi]
    keep, penalty = rates.keep_W, rates.penalty_W
    if rates.keep_b != keep or rates.penalty_b != penalty:  # only W decays
        size = (len(zeros) + 1) * FEATURES
        for start in range(0, theta.shape[0], size):
            for j in range(start, start + size - FEATURES):
                gradient[j] += penalty / scale * theta[j]
                theta[j] *= keep
        keep, penalty = np.float32(1), _ZERO
    adamw(theta, gradient, state.first[lo:hi], state.second[lo:hi], scale, keep, penalty, rates)


@parallel
def _features_part(zeros, state, skips, tiles, scale, learning_rate, step, constants, first, last):
    """Of these blocks, add up the groups' shares of the gradient and take the step of AdamW."""
    for block in numba.prange(first, last):
        _block_step(zeros, state, skips, tiles, scale, learning_rate, step, constants, np.int64(block))


@parallel
def _describe(zeros, state, scales, tiles, first, last):
    """Set boxes and moments of the tiles of features."""
    for block in numba.prange(first, last):
        first, last = _tiles_of(np.int64(block), state.tiles.shape[0])
        skipping.describe(zeros, state.theta, scales, tiles, first, last)


@serial
def _run(zeros, rows, state, skips, scales, tiles, scale, learning_rates, step, constants, part, first, last):
    """Do these units of one part of a step; or all units, from 0 on, of all parts of all steps.

    Each part is called in one place: the compiler may make another copy for every call, each rounding in its own way.

    Returns:
        How many whole steps were taken before the gradient stopped being finite.
    """
    n_examples, n_groups, n_blocks = state.h.shape[0], state.shares.shape[0], state.finite.shape[0]
    whole = part == _WHOLE
    n_units = n_blocks if n_groups == 1 else -(-n_examples // (n_groups * _CHUNK))
    for s in range(learning_rates.shape[0] if whole else 1):
        if part == _DESCRIBE or (whole and skips):
            _describe(zeros, state, scales, tiles, first, n_blocks if whole else last)
        if part == _EXAMPLES or whole:
            _examples_part(zeros, rows, state, skips, tiles, first, n_units if whole else last)
        if part == _FEATURES or whole:
            end = n_blocks if whole else last
            _features_part(zeros, state, skips, tiles, scale, learning_rates[s], step + s, constants, first, end)
        if whole and not state.finite.all():
            return s
    return learning_rates.shape[0] if whole else 0


class Training:
    """One model in training; see the protocol of this name."""

    def __init__(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
        skipping: bool,
    ) -> None:
        self.n_hidden, self.n_features = W.shape
        self.zeros = (np.float32(0),) * self.n_hidden
        self.constants, self.reduction, self.skipping = constants(optimizer), reduction, skipping
        self.step = 0
        weights = np.vstack([W, b]).astype(np.float32)
        self._set(weights, np.zeros_like(weights), np.zeros_like(weights))
        self.set_examples(examples)

    def _set(self, *rows: Float32[np.ndarray, "n_hidden_and_bias n_features"]) -> None:
        """Take W and b, and the moments of AdamW, with features in their own order."""
        self.features: Int32[np.ndarray, " n_features"] = np.arange(self.n_features, dtype=np.int32)
        size = -(-self.n_features // FEATURES) * (self.n_hidden + 1) * FEATURES
        self.in_tiles: tuple[np.ndarray, np.ndarray, np.ndarray] = (empty((size,)), empty((size,)), empty((size,)))
        for in_tiles, values in zip(self.in_tiles, rows, strict=True):
            in_tiles[:] = 0  # also beyond the last feature, where all stays 0
            _to_tiles(self.zeros, values, self.features, in_tiles)

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        if self.step > 0:
            self._set(*(_to_rows(self.zeros, in_tiles, self.features) for in_tiles in self.in_tiles))
        csr = examples.expanded()
        n_examples, n_features, n_hidden = csr.n_examples, self.n_features, self.n_hidden
        n_tiles, n_groups = -(-n_features // FEATURES), 1
        n_blocks = -(-n_tiles // _TILES_PER_BLOCK)
        while n_groups < _MAX_GROUPS and n_examples >= 2 * n_groups * _EXAMPLES_PER_GROUP:
            n_groups *= 2
        self.work = n_examples * n_features * n_hidden
        self.pace = Pace(1 if self.work <= _SHORT else 0)  # in steps
        self.paces = [Pace() for _ in range(4)]  # of the parts, in chunks of all groups or in blocks
        self.scale = np.float32(2 * loss_scale(n_features, self.reduction) / n_examples)
        self.state = State(
            *self.in_tiles,
            np.arange(n_tiles),
            empty((n_groups, self.in_tiles[0].size)),
            empty((n_groups if n_examples > n_groups * _CHUNKS_PER_SUM * _CHUNK else 0, self.in_tiles[0].size)),
            empty((n_examples, n_hidden)),
            empty((n_examples, n_hidden)),
            empty((n_blocks if n_groups == 1 else 0, n_examples, n_hidden)),
            np.zeros(n_groups, np.int64),
            empty((n_blocks,), np.bool_),
        )
        self.source = Rows(csr.indptr, csr.indices, csr.values)
        self.rows = Rows(
            np.empty(n_examples + 1, np.int64), np.empty(csr.indices.size, np.uint32), np.empty_like(csr.values)
        )
        self.examples: Int32[np.ndarray, " n_examples"] = np.arange(n_examples, dtype=np.int32)
        self._arrange()
        # Examples that come fresh at every step would need new orders at every step.
        self.skippable = self.skipping and self.step == 0 and n_groups > 1
        self.tiles: Tiles = skipping.tiles(n_hidden, n_features if self.skippable else 0, n_groups)
        self.scales = np.ones(n_hidden, np.float32)
        self.try_from, self.renewed_at, self.share_when_new = 0, -1, 0.0

    @property
    def W(self) -> Float32[np.ndarray, "n_hidden n_features"]:
        """The weights, now."""
        return np.ascontiguousarray(_to_rows(self.zeros, self.state.theta, self.features)[:-1])

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        """The bias, now."""
        return np.ascontiguousarray(_to_rows(self.zeros, self.state.theta, self.features)[-1])

    @property
    def cut_share(self) -> float:
        """Of all tiles, the share that the last step computed pair by pair as they are cut; 0 if it did not skip."""
        n_tiles = len(self.state.tiles) * -(-len(self.examples) // skipping.EXAMPLES)
        return float(self.state.cut.sum() / n_tiles)

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        last = self.step + len(learning_rates)
        with threads(1 if self.work < _SERIAL_BELOW else None):
            while self.step < last:
                # What is decided here depends on the steps taken and the weights, not on how calls cut the steps.
                skips = self._prepare()
                stop = last
                if self.skippable:
                    stop = min(last, (self.step // _CHECK_ORDER_EVERY + 1) * _CHECK_ORDER_EVERY)
                if skips and self.step == self.renewed_at:
                    stop = self.step + 1
                self._take(learning_rates[len(learning_rates) - (last - self.step) :][: stop - self.step], skips)
                if skips:
                    self._judge_order()

    def _take(self, learning_rates: Float64[np.ndarray, " n_steps"], skips: bool) -> None:
        for first, last in self.pace.cut(0, len(learning_rates)):
            rates = learning_rates[first:last]
            if self.pace.size < 1:
                self._run_examples_part(rates, skips)
                self._run_in_pieces(_FEATURES, rates, skips)
                taken = int(self.state.finite.all())
            else:
                taken = self._run(rates, skips, _WHOLE, 0, 0)
            self.step += taken
            if taken < last - first:
                raise DivergedError(self.step)

    def _run(
        self, learning_rates: Float64[np.ndarray, " n_steps"], skips: bool, part: int, first: int, last: int
    ) -> int:
        examples = self.zeros, self.rows, self.state, skips, self.scales, self.tiles, self.scale
        return int(_run(*examples, learning_rates, self.step, self.constants, part, first, last))

    def _run_in_pieces(self, part: int, learning_rates: Float64[np.ndarray, " n_steps"], skips: bool) -> None:
        n_examples, n_groups, n_units, at_once = len(self.examples), len(self.state.shares), len(self.state.finite), 0
        if part == _EXAMPLES and n_groups > 1:  # side by side are the groups
            n_units, at_once = -(-n_examples // (n_groups * _CHUNK)), 1
        for first, last in self.paces[part].cut(0, n_units, at_once or numba.get_num_threads()):
            self._run(learning_rates, skips, part, first, last)

    def _run_examples_part(self, learning_rates: Float64[np.ndarray, " n_steps"], skips: bool) -> None:
        if skips:
            self._run_in_pieces(_DESCRIBE, learning_rates, skips)
        self._run_in_pieces(_EXAMPLES, learning_rates, skips)

    def _arrange(self) -> None:
        """Put the examples in their order, with the places of features now."""
        self.rows.starts[0], places = 0, _places(self.zeros, self.features)
        for first, last in Pace(_CHUNK).cut(0, len(self.examples)):
            _arrange(self.source, places, self.examples, self.rows, first, last)

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        skips = self._prepare()
        self._run_examples_part(np.zeros(1), skips)
        for first, last in Pace().cut(0, len(self.state.finite), numba.get_num_threads()):
            _gradient(self.zeros, self.state, skips, self.tiles, first, last)
        gradient = _to_rows(self.zeros, self.state.shares[0], self.features) * self.scale
        return gradient[:-1], gradient[-1]

    def _prepare(self) -> bool:
        """Return whether to skip in the next step, with an order for it."""
        if not self.skippable or self.step < self.try_from:
            return False
        if self.renewed_at < 0 or self.step - self.renewed_at >= _RENEW_ORDER_EVERY:
            return self._renew_order()
        return True

    def _renew_order(self) -> bool:
        """Order features and examples by tiles; return whether the weights are finite, or there is no such order."""
        rows = tuple(_to_rows(self.zeros, in_tiles, self.features) for in_tiles in self.in_tiles)
        for first, last in Pace(_CHUNK).cut(0, len(self.examples)):
            starts, h = self.rows.starts[first : last + 1], self.state.h[first:last]
            _hidden(self.zeros, self.state.theta, starts, self.rows.places, self.rows.values, h)
        if not (np.isfinite(rows[0]).all() and np.isfinite(self.state.h).all()):
            return False
        self.scales = np.abs(self.state.h).max(axis=0)
        self.features, order = skipping.compact_orders(rows[0], self.state.h, self.scales)
        self.examples = self.examples[order]
        for in_tiles, values in zip(self.in_tiles, rows, strict=True):
            _to_tiles(self.zeros, values, self.features, in_tiles)
        self._arrange()
        self.renewed_at = self.step
        return True

    def _judge_order(self) -> None:
        """Stop skipping for a while if it does not pay; have the order renewed if it has become worse."""
        if self.step == self.renewed_at + 1:
            self.share_when_new = self.cut_share
            if self.share_when_new > _SKIP_BELOW_SHARE:
                self.renewed_at, self.try_from = -1, self.renewed_at + _TRY_AGAIN_AFTER
        elif self.step % _CHECK_ORDER_EVERY == 0 and self.cut_share > _RENEW_ORDER_ABOVE * self.share_when_new:
            self.renewed_at = -1
