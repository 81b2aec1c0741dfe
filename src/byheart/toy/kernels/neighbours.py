"""Training from lists of the few pairs (example, feature) that can be active before the weights have moved far.

An output is positive where z = W_f . h + b_f > 0, and adds nothing to the gradient elsewhere. Once examples are
memorized that is one pair of a hundred or less, and step after step nearly all of them are the same. So each example
keeps a list of features, as the neighbour lists of molecular dynamics do (Verlet 1967, "Computer Experiments on
Classical Fluids. I"). Let h be what it was when the list was made, and W_f and b_f what they were when their distances
began, then or before. As long as (W_f, b_f) is no farther than a radius r from there, and h no farther than s,

    z <= W_f . h + b_f + r |(h, 1)| + s (|W_f| + r),

and the list has the features for which this is positive. After every step the distances of all features are looked at:
if one is beyond its radius, or after ``BEGIN_EVERY`` steps, all of them begin anew where they are now, and so does
every list. An example that is beyond its own radius has its list made anew. Radii are what the last distances would
become in ``STEPS_AHEAD`` steps. The result is that of the dense computation up to rounding, for any weights: lists only
say which products may be left out, as they are zero.

W is kept transposed. Its rows, W_f, and those of h are vectors (see ``rows``, also for ``zeros``). Steps are a row of
units, which threads share (see ``tickets``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.kernels.active import arrays, count, lowest
from byheart.toy.kernels.adamw import adamw, constants, rates_of_step
from byheart.toy.kernels.compile import empty, inner, serial
from byheart.toy.kernels.rows import FLAGS, add_scaled, copy, dot, lanes, load, row, spread, square_distance, total
from byheart.toy.kernels.tickets import Team, finish, side_by_side, stop, stopped, take, tickets, wait
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

MAX_FEATURES = 2**16  # that the numbers in lists can name
_FEATURES = 16  # per tile, where lists are made
_TILES_PER_WORD = 4  # of bits
_FEATURES_PER_WORD = _TILES_PER_WORD * _FEATURES
_WORDS_AT_ONCE = 8  # whose bounds stay in a core's nearest cache
_LISTS_AT_ONCE = 64
_FEATURES_PER_BLOCK = 1024  # that one thread takes
_EXAMPLES_PER_UNIT = 256  # that one thread takes
_EXAMPLES_PER_GROUP = 256  # at least, if there are several groups: each has a gradient of its own
_MAX_GROUPS = 8  # their copies of the gradient are added up at every step
STEPS_AHEAD = np.float32(80)  # for which distances may grow as they did until a list has to be made anew
BEGIN_EVERY = 128  # steps, at least: lists that were made while all moved faster are longer than need be
LEAST_RADIUS = np.float32(1e-6)  # times the size of what moves: beyond rounding
_LISTED_AT_MOST = 16  # features of so many; an example that has more is computed against all
_COST_OF_A_LIST = 0.2  # for each pair that is looked at, of that of a listed pair
_SERIAL_BELOW = 100_000  # pairs: one thread is faster, as most of a step is AdamW
_ZERO, _ONE = np.float32(0), np.float32(1)


class State(NamedTuple):
    """What a step reads and writes. Features go up to a whole word; as long as all is finite, the rest stays 0."""

    W: np.ndarray  # (n_features, lanes), likewise its moments
    b: np.ndarray
    first_W: np.ndarray  # moments of AdamW
    first_b: np.ndarray
    second_W: np.ndarray
    second_b: np.ndarray
    shares_W: np.ndarray  # of the gradient, by group
    shares_b: np.ndarray
    h: np.ndarray  # (n_examples, lanes)
    grad_h: np.ndarray
    W_then: np.ndarray  # when distances began
    b_then: np.ndarray
    radius: np.ndarray  # of features
    bounds: np.ndarray  # tiles of features: W_then, radius, |W_then| + radius, b_then
    began_at: np.ndarray  # step, by block of features
    moved: np.ndarray  # whether distances begin anew, as a feature is beyond its radius or for their age; by block
    finite: np.ndarray  # whether the gradient is, by block
    h_then: np.ndarray  # when each example's list was made
    reach: np.ndarray  # (n_examples, 2): |(h_then, 1)| and the radius of h
    listed_at: np.ndarray  # step, of each example's list
    lists: np.ndarray  # (n_examples, most)
    n_listed: np.ndarray  # by example; -1: all of them
    everything: np.ndarray  # 0, 1, 2, ...
    n_pairs: np.ndarray  # that were computed since they were last counted, by group


@intrinsic
def _add_listed(typing_context, zeros, features, n, W, b, h, i, share_W, share_b, grad_h):
    """Example i against n listed features: z = W_f . h + b_f; p = ReLU(z), and what it gives to the gradients."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, features, n, W, b, h, i, share_W, share_b, grad_h = arrays(context, builder, signature, args)
        vector, zero = ir.VectorType(ir.FloatType(), size), ir.FloatType()(0.0)
        hidden, sums = load(builder, h, i, size), cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [0.0] * size), sums)
        with cgutils.for_range(builder, n, intp=i.type) as loop:
            f = builder.zext(builder.load(builder.gep(features, [loop.index])), i.type)
            weights, to_b = load(builder, W, f, size), builder.gep(share_b, [f])
            z = total(builder, builder.fmul(hidden, weights, flags=FLAGS), size)
            z = builder.fadd(z, builder.load(builder.gep(b, [f])), flags=FLAGS)
            one = builder.select(builder.fcmp_ordered("<", z, zero), zero, z)  # this way round, a NaN passes through
            p = spread(builder, one, size)
            to_W = builder.fadd(load(builder, share_W, f, size), builder.fmul(p, hidden, flags=FLAGS), flags=FLAGS)
            builder.store(to_W, row(builder, share_W, f, size), align=4)
            builder.store(builder.fadd(builder.load(to_b), one, flags=FLAGS), to_b)
            to_h = builder.fadd(builder.load(sums), builder.fmul(p, weights, flags=FLAGS), flags=FLAGS)
            builder.store(to_h, sums)
        builder.store(builder.load(sums), row(builder, grad_h, i, size), align=4)
        return context.get_dummy_value()

    others = W, b, h, types.int64, share_W, share_b, grad_h
    return types.void(zeros, features, types.int64, *others), code


@intrinsic
def _reachable(typing_context, zeros, bounds, word, h, reach, i):
    """Return the bits of the features of some tiles for which the bound of z, with example i, is positive or NaN."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, bounds, word, h, reach, i = arrays(context, builder, signature, args)
        vector, bits = ir.VectorType(ir.FloatType(), _FEATURES), ir.IntType(64)
        first = builder.mul(word, word.type(_TILES_PER_WORD * (size + 3)))

        def tile_row(tile: int, k: int) -> Any:
            return load(builder, bounds, builder.add(first, first.type(tile * (size + 3) + k)), _FEATURES)

        z = [tile_row(tile, size + 2) for tile in range(_TILES_PER_WORD)]
        for k in range(size + 2):
            rows, columns, column = (h, size, k) if k < size else (reach, 2, k - size)
            place = builder.add(builder.mul(i, i.type(columns)), i.type(column))
            x = spread(builder, builder.load(builder.gep(rows, [place])), _FEATURES)
            for tile in range(_TILES_PER_WORD):
                z[tile] = builder.fadd(z[tile], builder.fmul(x, tile_row(tile, k), flags=FLAGS), flags=FLAGS)
        found = bits(0)
        for tile in range(_TILES_PER_WORD):
            above = builder.fcmp_unordered(">", z[tile], ir.Constant(vector, [0.0] * _FEATURES))
            above = builder.zext(builder.bitcast(above, ir.IntType(_FEATURES)), bits)
            found = builder.or_(found, builder.shl(above, bits(tile * _FEATURES)))
        return found

    return types.uint64(zeros, bounds, types.int64, h, reach, types.int64), code


@inner
def _find_hidden(zeros, state, starts, features, values, lo, hi):
    """h_i = W x_i."""
    state.h[lo:hi] = _ZERO
    for i in range(lo, hi):
        for entry in range(starts[i], starts[i + 1]):
            add_scaled(zeros, state.h, i, values[entry], state.W, np.int64(features[entry]))


@inner
def _find_due(zeros, state, lo, hi, step, due):
    """Find the examples that need new lists, and start their distances anew; return how many they are."""
    n = np.int64(0)
    for i in range(lo, hi):
        distance = np.sqrt(square_distance(zeros, state.h, i, state.h_then, i))
        if distance <= state.reach[i, 1] and state.listed_at[i] >= state.began_at[0]:
            continue
        steps = np.float32(max(step - state.listed_at[i], 1))
        size = np.sqrt(dot(zeros, state.h, i, state.h, i) + _ONE)
        state.reach[i, 0] = size
        state.reach[i, 1] = STEPS_AHEAD * distance / steps + LEAST_RADIUS * size
        copy(zeros, state.h_then, i, state.h, i)
        state.listed_at[i] = step
        due[n] = i
        n += 1
    return n


@inner
def _make_lists(zeros, state, due, words):
    """List the features that can be active for these examples until one of them is beyond its radius."""
    n_words, most = words.shape[1], state.lists.shape[1]
    for first in range(0, n_words, _WORDS_AT_ONCE):
        for number in range(due.shape[0]):
            for word in range(first, min(first + _WORDS_AT_ONCE, n_words)):
                words[number, word] = _reachable(zeros, state.bounds, word, state.h_then, state.reach, due[number])
    for number in range(due.shape[0]):
        n, i = np.int64(0), due[number]
        for word in range(n_words):
            bits = words[number, word]
            if n + _FEATURES_PER_WORD > most and n + count(bits) > most:
                n = np.int64(-1)
                break
            while bits != np.uint64(0):
                state.lists[i, n] = word * _FEATURES_PER_WORD + lowest(bits)
                bits &= bits - np.uint64(1)
                n += 1
        state.n_listed[i] = n


@inner
def _correct(zeros, state, starts, features, values, i, share_W, share_b, targets):
    """Take x_f W_f off grad_h, and x_f (h, 1) off the gradient, at active nonzero targets; add x_f grad_h to W_f's."""
    for entry in range(starts[i], starts[i + 1]):
        f = np.int64(features[entry])
        z = dot(zeros, state.W, f, state.h, i) + state.b[f]
        target = values[entry] if z > 0 else _ZERO
        targets[entry - starts[i]] = target
        add_scaled(zeros, state.grad_h, i, -target, state.W, f)
    for entry in range(starts[i], starts[i + 1]):
        f, target = np.int64(features[entry]), targets[entry - starts[i]]
        add_scaled(zeros, share_W, f, values[entry], state.grad_h, i)
        add_scaled(zeros, share_W, f, -target, state.h, i)
        share_b[f] -= target


@inner
def _examples(zeros, state, starts, features, values, group, lo, hi, is_first, step):
    """Some examples of one group, against the features on their lists."""
    share_W, share_b, n_all = state.shares_W[group], state.shares_b[group], state.everything.shape[0]
    if is_first:
        share_W[:] = _ZERO
        share_b[:] = _ZERO
    longest = np.int64(0)
    for i in range(lo, hi):
        longest = max(longest, starts[i + 1] - starts[i])
    targets = np.empty(longest, np.float32)
    _find_hidden(zeros, state, starts, features, values, lo, hi)
    due = np.empty(hi - lo, np.int64)
    n_due = _find_due(zeros, state, lo, hi, step, due)
    state.n_pairs[group] += np.int64(n_due * _COST_OF_A_LIST * n_all)
    if n_due > 0:
        words = np.empty((min(n_due, _LISTS_AT_ONCE), state.b.shape[0] // _FEATURES_PER_WORD), np.uint64)
        for first in range(0, n_due, _LISTS_AT_ONCE):
            _make_lists(zeros, state, due[first : min(first + _LISTS_AT_ONCE, n_due)], words)
    for i in range(lo, hi):
        n, listed = np.int64(state.n_listed[i]), state.lists[i]
        if n < 0:
            n, listed = n_all, state.everything
        state.n_pairs[group] += n
        _add_listed(zeros, listed, n, state.W, state.b, state.h, i, share_W, share_b, state.grad_h)
        _correct(zeros, state, starts, features, values, i, share_W, share_b, targets)


@inner
def any_of(answers):
    """Return whether one of them is true."""
    found = False
    for answer in answers:
        found |= answer
    return found


@inner
def _distance(zeros, state, f):
    """How far (W_f, b_f) is from where it was."""
    along_b = state.b[f] - state.b_then[f]
    return np.sqrt(square_distance(zeros, state.W, f, state.W_then, f) + along_b * along_b)


@inner
def _begin(zeros, state, lo, hi, block, step):
    """Start distances of some features anew, with the radii that those until now suggest."""
    n_lanes = len(zeros)
    steps = np.float32(max(step - state.began_at[block], 1))
    for f in range(lo, hi):
        square = dot(zeros, state.W, f, state.W, f)
        size = np.sqrt(square + state.b[f] * state.b[f])
        radius = STEPS_AHEAD * _distance(zeros, state, f) / steps + LEAST_RADIUS * size
        tile, j = divmod(f, _FEATURES)
        for k in range(n_lanes):
            state.bounds[tile, k, j] = state.W[f, k]
        state.bounds[tile, n_lanes, j] = radius
        state.bounds[tile, n_lanes + 1, j] = np.sqrt(square) + radius
        state.bounds[tile, n_lanes + 2, j] = state.b[f]
        state.radius[f] = radius
        copy(zeros, state.W_then, f, state.W, f)
        state.b_then[f] = state.b[f]
    state.began_at[block] = step


@serial
def _add_up(shares, lo, hi):
    """Add up the groups' shares of some features, in the first group's."""
    if shares.shape[0] == 1:
        return
    sums = np.zeros(shares[0, lo:hi].size)  # float64: shares cancel
    for group in range(shares.shape[0]):
        share = shares[group, lo:hi].reshape(-1)
        for j in range(sums.shape[0]):
            sums[j] += share[j]
    total = shares[0, lo:hi].reshape(-1)
    for j in range(sums.shape[0]):
        total[j] = np.float32(sums[j])


@inner
def _block_step(zeros, state, scale, learning_rate, step, constants, lo, hi, block):
    _add_up(state.shares_W, lo, hi)
    _add_up(state.shares_b, lo, hi)
    grad_W, grad_b, total = state.shares_W[0, lo:hi].reshape(-1), state.shares_b[0, lo:hi], _ZERO
    for j in range(grad_b.shape[0]):
        total += grad_b[j]
    state.finite[block] = abs(total) < np.inf  # it is not as soon as any pre-activation is not
    rates = rates_of_step(learning_rate, step, constants)
    W, first_W, second_W = state.W[lo:hi], state.first_W[lo:hi].reshape(-1), state.second_W[lo:hi].reshape(-1)
    adamw(W.reshape(-1), grad_W, first_W, second_W, scale, rates.keep_W, rates.penalty_W, rates)
    first_b, second_b = state.first_b[lo:hi], state.second_b[lo:hi]
    adamw(state.b[lo:hi], grad_b, first_b, second_b, scale, rates.keep_b, rates.penalty_b, rates)
    moved = step + 1 - state.began_at[block] >= BEGIN_EVERY
    for f in range(lo, hi):
        moved |= not _distance(zeros, state, f) <= state.radius[f]
    state.moved[block] = moved


@serial
def _run(tickets, end, zeros, state, starts, features, values, scale, learning_rates, step, constants):
    """Take units of steps that nobody else takes, up to unit ``end``.

    The units of a step: each block of features, if distances start anew; some examples of every group, and again until
    there are no more; each block's step.
    """
    n_examples, n_groups, n_blocks = state.h.shape[0], state.shares_b.shape[0], state.finite.shape[0]
    n_features, group_size = state.b.shape[0], -(-n_examples // n_groups)
    n_before = n_blocks + n_groups * -(-group_size // _EXAMPLES_PER_UNIT)
    n_units = n_before + n_blocks
    while True:
        ticket = take(tickets)
        if ticket >= end:
            return
        s, unit = ticket // n_units, ticket % n_units
        if unit >= n_before:  # what has to be done before this unit
            before = n_before
        elif unit >= n_blocks:
            before = unit - (unit - n_blocks) % n_groups
        else:
            before = np.int64(0)
        if not wait(tickets, s * n_units + before):
            return
        if unit < n_blocks or unit >= n_before:
            block = unit if unit < n_blocks else unit - n_before
            lo, hi = block * _FEATURES_PER_BLOCK, min((block + 1) * _FEATURES_PER_BLOCK, n_features)
            if unit >= n_before:
                _block_step(zeros, state, scale, learning_rates[s], step + s, constants, lo, hi, block)
            else:
                if s > 0:
                    for finite in state.finite:
                        if not finite:
                            stop(tickets, s - 1)
                            return
                if state.began_at[block] < step + s and any_of(state.moved):  # a gradient may have begun them
                    _begin(zeros, state, lo, hi, block, step + s)
        else:
            some, group = divmod(unit - n_blocks, n_groups)
            begin = group * group_size + some * _EXAMPLES_PER_UNIT
            last = min(min((group + 1) * group_size, n_examples), begin + _EXAMPLES_PER_UNIT)
            _examples(zeros, state, starts, features, values, group, min(begin, last), last, some == 0, step + s)
        finish(tickets)


class Training:
    """One model in training; see the protocol of this name.

    Args:
        before: W, and in the last row b, some steps ago: how far they went is the first guess of how far they will go.
        n_steps: How many steps ago.
        parameters: W and, in the last row, b now; likewise AdamW's moments.
        step: How many steps were taken until now.
        examples: What to train on.
        optimizer: AdamW's settings.
        reduction: Of the squared error over features.
    """

    def __init__(
        self,
        before: Float32[np.ndarray, "n_hidden_and_bias n_features"],
        n_steps: int,
        parameters: tuple[Float32[np.ndarray, "n_hidden_and_bias n_features"], ...],
        step: int,
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> None:
        csr = examples.expanded()
        n_examples, self.n_hidden, self.n_features = csr.n_examples, len(before) - 1, before.shape[1]
        self.constants, self.step = constants(optimizer), step
        self.starts, self.entries, self.values = csr.indptr.astype(np.int64), csr.indices, csr.values
        self.scale = np.float32(2 * loss_scale(self.n_features, reduction) / n_examples)
        n_rows, size = -(-self.n_features // _FEATURES_PER_WORD) * _FEATURES_PER_WORD, lanes(self.n_hidden)
        self.zeros = (np.float32(0),) * size
        n_blocks, n_groups = -(-n_rows // _FEATURES_PER_BLOCK), 1
        while n_groups < _MAX_GROUPS and n_examples >= 2 * n_groups * _EXAMPLES_PER_GROUP:
            n_groups *= 2

        def split(values: Float32[np.ndarray, "n_hidden_and_bias n_features"]) -> tuple[np.ndarray, np.ndarray]:
            W, b = empty((n_rows, size)), empty((n_rows,))
            W[:], b[:] = 0, 0
            W[: self.n_features, : self.n_hidden], b[: self.n_features] = values[:-1].T, values[-1]
            return W, b

        (W, b), first, second = (split(values) for values in parameters)
        W_then, b_then = split(before)
        self.state = State(
            W,
            b,
            *first,
            *second,
            empty((n_groups, *W.shape)),
            empty((n_groups, *b.shape)),
            h=empty((n_examples, size)),
            grad_h=empty((n_examples, size)),
            W_then=W_then,
            b_then=b_then,
            radius=empty(b.shape),
            bounds=empty((n_rows // _FEATURES, size + 3, _FEATURES)),
            began_at=np.full(n_blocks, step - n_steps, np.int64),
            moved=np.ones(n_blocks, np.bool_),
            finite=empty((n_blocks,), np.bool_),
            h_then=empty((n_examples, size)),
            reach=np.zeros((n_examples, 2), np.float32),
            listed_at=np.full(n_examples, step - n_steps, np.int64),
            lists=empty((n_examples, max(_FEATURES_PER_WORD, self.n_features // _LISTED_AT_MOST)), np.uint16),
            n_listed=empty((n_examples,), np.int32),
            everything=np.arange(self.n_features, dtype=np.uint16),
            n_pairs=np.zeros(n_groups, np.int64),
        )
        self.state.h_then[:] = csr.to_scipy() @ W_then[: self.n_features]
        group_size = -(-n_examples // n_groups)
        self.units_of_gradient = n_blocks + n_groups * -(-group_size // _EXAMPLES_PER_UNIT)
        self.units_of_step = self.units_of_gradient + n_blocks
        self.pace, self.counted_from = Pace(0), step
        self.team = Team(1 if n_examples * self.n_features < _SERIAL_BELOW else max(n_blocks, n_groups))

    def _together(self, W: np.ndarray, b: np.ndarray) -> Float32[np.ndarray, "n_hidden_and_bias n_features"]:
        return np.vstack([W[: self.n_features, : self.n_hidden].T, b[: self.n_features]])

    @property
    def parameters(self) -> tuple[Float32[np.ndarray, "n_hidden_and_bias n_features"], ...]:
        """W and, in the last row, b, now; likewise AdamW's moments."""
        state = self.state
        pairs = (state.W, state.b), (state.first_W, state.first_b), (state.second_W, state.second_b)
        return tuple(self._together(*pair) for pair in pairs)

    @property
    def listed_share(self) -> float:
        """The share of all pairs that are on lists now."""
        n_listed = np.where(self.state.n_listed < 0, self.n_features, self.state.n_listed)
        return float(n_listed.mean() / self.n_features)

    def computed_share(self) -> float:
        """Return the share of all pairs that was computed in the mean step since the last call, lists included."""
        share = self.state.n_pairs.sum() / (len(self.state.h) * self.n_features * (self.step - self.counted_from))
        self.state.n_pairs[:], self.counted_from = 0, self.step
        return float(share)

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        begin, n_units = self.step, len(learning_rates) * self.units_of_step
        for stopped_at, last in self._pieces(learning_rates, n_units):
            taken, rest = divmod(last, self.units_of_step)
            if stopped_at < 0 and rest == 0 and not self.state.finite.all():
                stopped_at = taken - 1
            self.step = begin + (taken if stopped_at < 0 else stopped_at)
            if stopped_at >= 0:
                raise DivergedError(self.step)

    def _pieces(self, learning_rates: Float64[np.ndarray, " n_steps"], n_units: int) -> Iterator[tuple[int, int]]:
        """Do so many units of these steps, and say after each piece which step was not finite, or -1, and how many."""
        data = self.zeros, self.state, self.starts, self.entries, self.values
        now = self.scale, learning_rates, self.step, self.constants
        for begin, end in self.pace.cut(0, n_units, self.team.size()):
            for first, last, n_threads in self.team.pieces(begin, end, self.units_of_step):
                numbers = tickets(first)
                side_by_side(n_threads, _run, numbers, last, *data, *now)
                yield stopped(numbers), last

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        n_pairs = self.state.n_pairs.copy()
        for _ in self._pieces(np.zeros(1), self.units_of_gradient):
            pass
        self.state.n_pairs[:] = n_pairs
        for shares in (self.state.shares_W, self.state.shares_b):
            _add_up(shares, 0, shares.shape[1])
        gradient = self._together(self.state.shares_W[0], self.state.shares_b[0]) * self.scale
        return gradient[:-1], gradient[-1]
