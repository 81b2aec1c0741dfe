"""Training with up to eight hidden units, where all that is known of a pair fits in registers.

A step has two parts. Of the examples: each group of them adds its share of the gradient to a copy of its own. Of the
features: each block of them adds up the groups' shares and takes the step of AdamW. A few examples make one group; the
blocks of features go side by side instead. Steps, one after the other, are a row of units, which threads share (see
``tickets``); Ctrl-C is answered between any two units.

The weights are kept in tiles of features (see ``dense``), 64 of which make a block. If pairs are skipped (see
``skipping``), features and examples are in the order of their tiles. A nonzero entry of an example holds the place of
its feature in the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError, skipping
from byheart.toy.kernels.adamw import adamw, constants, rates_of_step
from byheart.toy.kernels.compile import empty, in_order, inlined, inner, serial
from byheart.toy.kernels.dense import FEATURES, add_scaled, dense, preactivation, row
from byheart.toy.kernels.skipping import Tiles
from byheart.toy.kernels.tickets import Team, finish, side_by_side, stop, stopped, take, tickets, wait
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

MAX_HIDDEN = 8
_TILES_PER_BLOCK = 64  # of features
_CHUNK = skipping.EXAMPLES * skipping.TILES  # of examples
_CHUNKS_PER_SUM = 32  # that are added in float32 before they are added to the rest
_MAX_GROUPS = 8  # their copies of the gradient are added up at every step
_EXAMPLES_PER_GROUP = _CHUNK  # at least, if there are several groups
_CHECK_ORDER_EVERY = 32  # steps
# dense steps that were lost to more cut tiles than at its best: at the paper's sizes a new order takes about one
_RENEW_ORDER_AFTER = 1.0
# Multiples of _CHECK_ORDER_EVERY: what is decided only there does not depend on how calls cut the steps.
_RENEW_ORDER_EVERY = 32 * _CHECK_ORDER_EVERY
_SKIP_BELOW_SHARE = 0.6  # of cut tiles
_TRY_AGAIN_AFTER = 8 * _CHECK_ORDER_EVERY  # without skipping, where it did not pay
_SERIAL_BELOW = 150_000  # multiplications per step with W: a second thread gains nothing at 100,000, a fifth at 200,000
_SHORT = 5e7  # likewise: the first step is taken in one call if it is short on any machine; later ones are timed
_WORK_PER_UNIT = 5e7  # multiplications with W, at most, unless a chunk takes more
_ZERO = np.float32(0)


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
    h: np.ndarray
    grad_h: np.ndarray
    cut: np.ndarray  # tiles, by group
    finite: np.ndarray  # whether the gradient is, by block
    chunks_per_unit: int


def _places(
    n_hidden: int, features: Int32[np.ndarray, " n_features"]
) -> Int64[np.ndarray, "n_hidden_and_bias n_features"]:
    """Return where W, and in the last row b, of every feature is kept in tiles that have features in this order."""
    tiles, lanes = np.divmod(np.arange(len(features)), FEATURES)
    places = np.empty((n_hidden + 1, len(features)), np.int64)
    places[:, features] = tiles * ((n_hidden + 1) * FEATURES) + lanes
    return places + FEATURES * np.arange(n_hidden + 1)[:, None]


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


@inner
def _tiles_of(block, n_tiles):
    return block * _TILES_PER_BLOCK, min((block + 1) * _TILES_PER_BLOCK, n_tiles)


@inlined
def _group(zeros, rows, state, many, skips, tiles, group, first_chunk, last_chunk):
    """Some chunks of one group of examples, against all features; every n_groups-th chunk is of this group."""
    n_examples, n_groups = state.h.shape[0], state.shares.shape[0]
    in_parts = many.shape[0] > 0
    share = many[group] if in_parts else state.shares[group]
    if first_chunk == 0:
        share[:] = _ZERO
        if in_parts:
            state.shares[group] = _ZERO
        state.cut[group] = 0
        if tiles is not None and skips:
            tiles.sums[group] = 0.0
    step = n_groups * _CHUNK
    for chunk in range(first_chunk, min(last_chunk, -(-n_examples // step))):
        lo = min(chunk * step + group * _CHUNK, n_examples)
        hi = min(lo + _CHUNK, n_examples)
        h, grad_h, starts = state.h[lo:hi], state.grad_h[lo:hi], rows.starts[lo : hi + 1]
        _hidden(zeros, state.theta, starts, rows.places, rows.values, h)
        grad_h[:] = _ZERO
        if tiles is not None and skips:
            state.cut[group] += skipping.skip(zeros, h, state.theta, tiles, tiles.sums[group], share, grad_h)
        if not skips:
            for block in range(state.finite.shape[0]):
                first, last = _tiles_of(block, state.tiles.shape[0])
                dense(zeros, h, state.theta, share, grad_h, state.tiles[first:last])
        _correct(zeros, state.theta, starts, rows.places, rows.values, h, grad_h, share)
        if in_parts and ((chunk + 1) % _CHUNKS_PER_SUM == 0 or (chunk + 1) * step >= n_examples):
            total = state.shares[group]
            for j in range(total.shape[0]):
                total[j] += share[j]
                share[j] = _ZERO


@inlined
def _block(zeros, state, few, block):
    """All examples, which make one group, against one block of features."""
    first, last = _tiles_of(block, state.tiles.shape[0])
    size = (len(zeros) + 1) * FEATURES
    state.shares[0, first * size : last * size] = _ZERO
    grad_h = few[block]
    grad_h[:] = _ZERO
    dense(zeros, state.h, state.theta, state.shares[0], grad_h, state.tiles[first:last])


@inlined
def _add_up_blocks(zeros, rows, state, few):
    for i in range(state.h.shape[0]):
        for k in range(len(zeros)):
            total = _ZERO
            for block in range(state.finite.shape[0]):
                total += few[block, i, k]
            state.grad_h[i, k] = total
    _correct(zeros, state.theta, rows.starts, rows.places, rows.values, state.h, state.grad_h, state.shares[0])


@serial
def _block_gradient(state, skips, tiles, block):
    """Add up the groups' shares of one block, in the first group's; return where the block is."""
    first, last = _tiles_of(block, state.tiles.shape[0])
    size = state.theta.shape[0] // state.tiles.shape[0]
    lo, hi = first * size, last * size
    grad = state.shares[0, lo:hi]
    if state.shares.shape[0] > 1:
        sums = np.zeros(hi - lo)  # float64: shares, and what is linear, cancel
        for group in range(state.shares.shape[0]):
            share = state.shares[group, lo:hi]
            for j in range(sums.shape[0]):
                sums[j] += share[j]
        if tiles is not None and skips:
            skipping.add_linear_to_features(state.theta, tiles, first, last, sums)
        for j in range(sums.shape[0]):
            grad[j] = np.float32(sums[j])
    total = _ZERO
    for j in range(grad.shape[0]):
        total += grad[j]
    state.finite[block] = abs(total) < np.inf  # the bias's gradient is not as soon as any pre-activation is not
    return lo, hi


@inner
def _block_step(state, skips, tiles, scale, learning_rate, step, constants, block):
    rates = rates_of_step(learning_rate, step, constants)
    lo, hi = _block_gradient(state, skips, tiles, block)
    theta, gradient = state.theta[lo:hi], state.shares[0, lo:hi]
    keep, penalty = rates.keep_W, rates.penalty_W
    if rates.keep_b != keep or rates.penalty_b != penalty:  # only W decays
        size = state.theta.shape[0] // state.tiles.shape[0]
        for start in range(0, theta.shape[0], size):
            for j in range(start, start + size - FEATURES):
                gradient[j] += penalty / scale * theta[j]
                theta[j] *= keep
        keep, penalty = np.float32(1), _ZERO
    adamw(theta, gradient, state.first[lo:hi], state.second[lo:hi], scale, keep, penalty, rates)


@inlined
def _unit_of_few(zeros, rows, state, few, unit):
    n_blocks = state.finite.shape[0]
    if unit == 0:
        _hidden(zeros, state.theta, rows.starts, rows.places, rows.values, state.h)
    elif unit <= n_blocks:
        _block(zeros, state, few, unit - 1)
    else:
        _add_up_blocks(zeros, rows, state, few)


@inlined
def _unit_of_many(zeros, rows, state, many, skips, tiles, scales, unit, n_described):
    if unit >= n_described:
        some, group = divmod(unit - n_described, state.shares.shape[0])
        first_chunk = some * state.chunks_per_unit
        _group(zeros, rows, state, many, skips, tiles, group, first_chunk, first_chunk + state.chunks_per_unit)
    elif tiles is not None:
        first, last = _tiles_of(unit, state.tiles.shape[0])
        skipping.describe(state.theta, scales, tiles, first, last)


@inner
def _all(answers):
    n_true = 0
    for answer in answers:
        n_true += answer
    return n_true == answers.shape[0]


@serial
def _run(tickets, end, zeros, rows, state, few, many, skips, tiles, scales, scale, learning_rates, step, constants):
    """Take units of steps that nobody else takes, up to unit ``end``.

    The units of a step: of few examples, which make one group, all hidden vectors; each block against all examples;
    what the blocks give the examples; each block's step. Of more, each tile's bounds if pairs are skipped; some chunks
    of every group, and again until there are no more; each block's step.
    """
    n_examples, n_groups, n_blocks = state.h.shape[0], state.shares.shape[0], state.finite.shape[0]
    n_chunks = -(-n_examples // (n_groups * _CHUNK))
    n_described = n_blocks if skips else np.int64(0)
    n_before = n_blocks + 2 if few is not None else n_described + n_groups * -(-n_chunks // state.chunks_per_unit)
    n_units = n_before + n_blocks
    while True:
        ticket = take(tickets)
        if ticket >= end:
            return
        s, unit = ticket // n_units, ticket % n_units
        if unit >= n_before:  # what has to be done before this unit
            before = n_before
        elif few is not None:
            before = np.int64(unit > 0) + np.int64(unit > n_blocks) * n_blocks
        elif unit < n_described:
            before = np.int64(0)
        else:
            before = unit - (unit - n_described) % n_groups
        if not wait(tickets, s * n_units + before):
            return
        if before == 0 and s > 0 and not _all(state.finite):
            stop(tickets, s - 1)
            return
        if unit >= n_before:
            _block_step(state, skips, tiles, scale, learning_rates[s], step + s, constants, unit - n_before)
        else:  # what is None is not compiled
            if few is not None:
                _unit_of_few(zeros, rows, state, few, unit)
            if many is not None:
                _unit_of_many(zeros, rows, state, many, skips, tiles, scales, unit, n_described)
        finish(tickets)


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
        self.places = _places(self.n_hidden, self.features)
        size = -(-self.n_features // FEATURES) * (self.n_hidden + 1) * FEATURES
        self.in_tiles: tuple[np.ndarray, np.ndarray, np.ndarray] = (empty((size,)), empty((size,)), empty((size,)))
        for in_tiles, values in zip(self.in_tiles, rows, strict=True):
            in_tiles[:] = 0  # also beyond the last feature, where all stays 0
            in_tiles[self.places] = values

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        if self.step > 0:
            self._set(*(in_tiles[self.places] for in_tiles in self.in_tiles))
        csr = examples.expanded()
        n_examples, n_features, n_hidden = csr.n_examples, self.n_features, self.n_hidden
        n_tiles, n_groups = -(-n_features // FEATURES), 1
        n_blocks = -(-n_tiles // _TILES_PER_BLOCK)
        while n_groups < _MAX_GROUPS and n_examples >= 2 * n_groups * _EXAMPLES_PER_GROUP:
            n_groups *= 2
        self.work = n_examples * n_features * n_hidden
        self.is_short = self.work <= _SHORT
        self.pace: Pace | None = None  # in units
        self.team = Team(1 if self.work < _SERIAL_BELOW else max(n_blocks, n_groups))
        self.scale = np.float32(2 * loss_scale(n_features, self.reduction) / n_examples)
        self.state = State(
            *self.in_tiles,
            np.arange(n_tiles),
            empty((n_groups, self.in_tiles[0].size)),
            empty((n_examples, n_hidden)),
            empty((n_examples, n_hidden)),
            np.zeros(n_groups, np.int64),
            empty((n_blocks,), np.bool_),
            max(1, int(_WORK_PER_UNIT / (_CHUNK * n_features * n_hidden))),
        )
        # Of few examples, the gradients of h by block. Of many, shares of the gradient from some chunks, if they are so
        # many that rounding errors would add up.
        n_summed = n_groups if n_examples > n_groups * _CHUNKS_PER_SUM * _CHUNK else 0
        self.few = empty((n_blocks, n_examples, n_hidden)) if n_groups == 1 else None
        self.many = empty((n_summed, self.in_tiles[0].size)) if n_groups > 1 else None
        self.source = Rows(csr.indptr, csr.indices, csr.values)
        self.rows = Rows(
            np.empty(n_examples + 1, np.int64), np.empty(csr.indices.size, np.uint32), np.empty_like(csr.values)
        )
        self.examples: Int32[np.ndarray, " n_examples"] = np.arange(n_examples, dtype=np.int32)
        self._arrange()
        # Examples that come fresh at every step would need new orders at every step.
        self.skippable = self.skipping and self.step == 0 and n_groups > 1
        self.tiles: Tiles | None = skipping.tiles(n_hidden, n_features, n_groups) if self.skippable else None
        self.scales = np.ones(n_hidden, np.float32)
        self.try_from, self.renewed_at, self.least_share, self.lost = 0, -1, 0.0, 0.0

    @property
    def W(self) -> Float32[np.ndarray, "n_hidden n_features"]:
        """The weights, now."""
        W: Float32[np.ndarray, "n_hidden n_features"] = self.state.theta.take(self.places[:-1])
        return W

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        """The bias, now."""
        b: Float32[np.ndarray, " n_features"] = self.state.theta.take(self.places[-1])
        return b

    @property
    def W_transposed(self) -> Float32[np.ndarray, "n_features n_hidden"]:
        """The weights, transposed."""
        return self.W.T

    @property
    def parameters(self) -> tuple[Float32[np.ndarray, "n_hidden_and_bias n_features"], ...]:
        """W and, in the last row, b, now; likewise AdamW's moments."""
        return tuple(in_tiles.take(self.places) for in_tiles in self.in_tiles)

    def resume(self, parameters: tuple[Float32[np.ndarray, "n_hidden_and_bias n_features"], ...], step: int) -> None:
        """Go on from these ``parameters``, after so many steps."""
        for in_tiles, values in zip(self.in_tiles, parameters, strict=True):
            in_tiles[self.places] = values
        self.step, self.renewed_at = step, -1

    @property
    def cut_share(self) -> float:
        """Of all tiles, the share that the last step computed pair by pair as they are cut; 0 if it did not skip."""
        n_tiles = len(self.state.tiles) * -(-len(self.examples) // skipping.EXAMPLES)
        return float(self.state.cut.sum() / n_tiles)

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        last = self.step + len(learning_rates)
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
        n_units, begin = sum(self._units(skips)), self.step
        for stopped_at, last in self._pieces(learning_rates, skips, len(learning_rates) * n_units):
            taken, rest = divmod(last, n_units)
            if stopped_at < 0 and rest == 0 and not self.state.finite.all():
                stopped_at = taken - 1
            self.step = begin + (taken if stopped_at < 0 else stopped_at)
            if stopped_at >= 0:
                raise DivergedError(self.step)

    def _pieces(
        self, learning_rates: Float64[np.ndarray, " n_steps"], skips: bool, n_units: int
    ) -> Iterator[tuple[int, int]]:
        """Do so many units of these steps, and say after each piece which step was not finite, or -1, and how many."""
        if self.pace is None:
            self.pace = Pace(sum(self._units(skips)) if self.is_short else 0)
        examples = self.zeros, self.rows, self.state, self.few, self.many, skips, self.tiles, self.scales, self.scale
        now = learning_rates, self.step, self.constants
        for begin, end in self.pace.cut(0, n_units, self.team.size()):
            for first, last, n_threads in self.team.pieces(begin, end, sum(self._units(skips))):
                numbers = tickets(first)
                side_by_side(n_threads, _run, numbers, last, *examples, *now)
                yield stopped(numbers), last

    def _units(self, skips: bool) -> tuple[int, int]:
        """How many units of a step are before those that take the step of AdamW, and how many these are."""
        n_groups, n_blocks = len(self.state.shares), len(self.state.finite)
        if self.few is not None:
            return n_blocks + 2, n_blocks
        n_chunks = -(-len(self.examples) // (n_groups * _CHUNK))
        return skips * n_blocks + n_groups * -(-n_chunks // self.state.chunks_per_unit), n_blocks

    def _arrange(self) -> None:
        """Put the examples in their order, with the places of features now."""
        self.rows.starts[0], places = 0, self.places[0].astype(np.uint32)
        for first, last in Pace(_CHUNK).cut(0, len(self.examples)):
            _arrange(self.source, places, self.examples, self.rows, first, last)

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        skips = self._prepare()
        for _ in self._pieces(np.zeros(1), skips, self._units(skips)[0]):
            pass
        for block in range(len(self.state.finite)):
            _block_gradient(self.state, skips, self.tiles, block)
        gradient = self.state.shares[0][self.places] * self.scale
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
        rows = tuple(in_tiles[self.places] for in_tiles in self.in_tiles)
        for first, last in Pace(_CHUNK).cut(0, len(self.examples)):
            starts, h = self.rows.starts[first : last + 1], self.state.h[first:last]
            _hidden(self.zeros, self.state.theta, starts, self.rows.places, self.rows.values, h)
        if not (np.isfinite(rows[0]).all() and np.isfinite(self.state.h).all()):
            return False
        self.scales = skipping.spread(self.state.h)
        self.features, order = skipping.compact_orders(rows[0], self.state.h, self.scales)
        self.places = _places(self.n_hidden, self.features)
        self.examples = self.examples[order]
        for in_tiles, values in zip(self.in_tiles, rows, strict=True):
            in_tiles[self.places] = values
        self._arrange()
        self.renewed_at = self.step
        return True

    def _judge_order(self) -> None:
        """Stop skipping for a while if it does not pay; have the order renewed if it has become worse."""
        if self.step == self.renewed_at + 1:
            self.least_share, self.lost = self.cut_share, 0.0
            if self.least_share > _SKIP_BELOW_SHARE:
                self.renewed_at, self.try_from = -1, self.renewed_at + _TRY_AGAIN_AFTER
        elif self.step % _CHECK_ORDER_EVERY == 0:
            self.least_share = min(self.least_share, self.cut_share)  # a better time before earns no credit
            self.lost += _CHECK_ORDER_EVERY * (self.cut_share - self.least_share)
            if self.lost > _RENEW_ORDER_AFTER:
                self.renewed_at = -1
