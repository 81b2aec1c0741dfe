"""Training with more than eight hidden units: outputs by BLAS, and their gradients from the few that are active.

W is kept transposed, so that all that belongs to a feature is contiguous. A step has four parts. Chunks of examples get
their hidden vectors. Pieces, groups of examples against blocks of features, add their shares of the gradients of W, b
and h as if every target were 0, in tiles that stay in cache: the outputs are one product; where few of them are active,
the gradients are sums over these (``active``), else two more products. Chunks of examples add up what blocks of
features gave to them, and take off what nonzero targets change. Chunks of features do the same and take the step of
AdamW at once, so that the parameters are passed over once. Steps are a row of units, which threads share (see
``tickets``); Ctrl-C is answered between any two units.

``Listed`` computes outputs only where they can be active (see ``wide_lists``). Two more parts of a step come after the
hidden vectors: each chunk of examples, and of features, may begin its distances anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.kernels.active import BITS, activate, add_active, add_listed, add_scaled, dot
from byheart.toy.kernels.adamw import adamw, constants, rates_of_step
from byheart.toy.kernels.blas import one_blas_thread
from byheart.toy.kernels.compile import empty, inner, relu, serial
from byheart.toy.kernels.neighbours import BEGIN_EVERY, any_of
from byheart.toy.kernels.tickets import Team, finish, side_by_side, stop, stopped, take, tickets, wait
from byheart.toy.kernels.wide_lists import Lists, begin_examples, begin_features, far_examples, far_features
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

_FEATURES_PER_BLOCK = 512  # that one thread takes
_EXAMPLES_PER_PIECE = 1024  # at most, that are summed in float32 before they are added to the rest
_EXAMPLES_PER_GROUP = 256  # at least, if there are several groups
_PIECES = 8  # at least, if there are so many examples
_EXAMPLES_AT_ONCE = 256  # a tile of outputs is that many examples
_WEIGHTS_AT_ONCE = 2**17  # by so many features that their weights, half a megabyte, stay in a core's cache
_DENSE_FROM = 0.15  # share of active outputs from which on whole products are faster
_COST_OF_A_LIST = 0.05  # for each pair that is looked at, of that of a listed pair (measured at m = 32 and 128)
_ENTRIES_PER_SUM = 64  # that are added in float32 before they are added to the rest
_EXAMPLES_PER_CHUNK = 256  # where work is per example
_FEATURES_PER_CHUNK = 128  # where work is per feature
_SERIAL_BELOW = 2_000_000  # multiplications per step with W: less work than this is over before a thread wakes up
_SHORT = 5e8  # likewise: the first step is taken in one call if it is short on any machine; later ones are timed
_ZERO = np.float32(0)


class Examples(NamedTuple):
    """The nonzeros of the examples, by rows and by columns."""

    starts: np.ndarray
    features: np.ndarray
    values: np.ndarray
    column_starts: np.ndarray
    rows: np.ndarray
    column_values: np.ndarray


class State(NamedTuple):
    """What a step reads and writes."""

    W: np.ndarray  # transposed: a row for each feature; likewise its moments and shares
    b: np.ndarray
    first_W: np.ndarray  # moments of AdamW
    first_b: np.ndarray
    second_W: np.ndarray
    second_b: np.ndarray
    h: np.ndarray
    grad_h: np.ndarray
    shares_W: np.ndarray  # of the gradient, by group
    shares_b: np.ndarray
    shares_h: np.ndarray  # by block of features, for one pass
    finite: np.ndarray  # whether a share is, by group and block


class Scratch(NamedTuple):
    """Memory of one thread."""

    z: np.ndarray  # a tile of outputs
    words: np.ndarray  # which of them are active
    sum_W: np.ndarray  # of the gradients of the features at once
    sum_b: np.ndarray
    product_W: np.ndarray
    product_h: np.ndarray
    grad_W: np.ndarray  # of a chunk of features
    grad_b: np.ndarray
    correction: np.ndarray


@inner
def _scratch(n_hidden, n_examples, at_once):
    rows, columns = min(_EXAMPLES_AT_ONCE, n_examples), _FEATURES_PER_CHUNK
    return Scratch(
        np.empty((rows, at_once), np.float32),
        np.empty((rows, -(-at_once // BITS)), np.uint64),
        np.empty((at_once, n_hidden), np.float32),
        np.empty(at_once, np.float32),
        np.empty((at_once, n_hidden), np.float32),
        np.empty((rows, n_hidden), np.float32),
        np.empty((columns, n_hidden), np.float32),
        np.empty(columns, np.float32),
        np.empty(n_hidden, np.float32),
    )


@inner
def _clear(sums):
    """Set all to 0.

    This is a loop, as are the next two: what NumPy does with whole arrays takes seconds to compile. All of their
    arrays are contiguous, and as large as each other, which is not checked.
    """
    sums = sums.reshape(-1)
    for j in range(sums.shape[0]):
        sums[j] = _ZERO


@inner
def _copy(to, values):
    """Set all to these values."""
    to, values = to.reshape(-1), values.reshape(-1)
    for j in range(to.shape[0]):
        to[j] = values[j]


@inner
def _add(sums, values):
    """Add these values."""
    sums, values = sums.reshape(-1), values.reshape(-1)
    for j in range(sums.shape[0]):
        sums[j] += values[j]


@inner
def _find_hidden(state, examples, lo, hi):
    """h_i = W x_i."""
    n_hidden = np.int64(state.h.shape[1])
    W, h = state.W.reshape(-1), state.h.reshape(-1)
    starts, features, values = examples.starts, examples.features, examples.values
    _clear(state.h[lo:hi])
    for i in range(lo, hi):
        for entry in range(starts[i], starts[i + 1]):
            add_scaled(h, i * n_hidden, values[entry], W, features[entry] * n_hidden, n_hidden)


@inner
def _part(scratch, n_rows, n_columns):
    """The beginning of a matrix's memory, as one of this shape."""
    return scratch.reshape(-1)[: n_rows * n_columns].reshape(n_rows, n_columns)


@inner
def _listed_tile(state, lists, lo, hi, f, last, begins, sum_W, sum_b, share_h, scratch):
    """Add what some examples give against some features by their lists, which are made if distances begin now.

    Returns:
        How many outputs are on the lists.
    """
    words = lists.words[lo:hi, f // BITS : -(-last // BITS)]
    if begins:
        z = _part(scratch.z, hi - lo, last - f)
        np.dot(lists.h_then[lo:hi], lists.W_then[f:last].T, z)
        activate(z, lists.b_then[f:last], words)
    return add_listed(words, state.h[lo:hi], state.W[f:last], state.b[f:last], sum_b, sum_W, share_h)


@inner
def _tile(h, W, b, sum_W, sum_b, share_h, scratch):
    """Add what some examples give against some features, all targets being 0."""
    (n_rows, n_hidden), n_features = h.shape, b.shape[0]
    z, words = _part(scratch.z, n_rows, n_features), _part(scratch.words, n_rows, -(-n_features // BITS))
    np.dot(h, W.T, z)
    if activate(z, b, words) < _DENSE_FROM * z.size:
        add_active(z, words, h, W, sum_b, sum_W, share_h)
        return
    for i in range(n_rows):
        for f in range(n_features):
            p = relu(z[i, f])
            z[i, f] = p
            sum_b[f] += p
    product_W, product_h = _part(scratch.product_W, n_features, n_hidden), scratch.product_h[:n_rows]
    np.dot(z.T, h, product_W)
    np.dot(z, W, product_h)
    _add(sum_W, product_W)
    _add(share_h, product_h)


@inner
def _piece(state, lists, start, lo, hi, group, block, step, scratch):
    """Examples lo, ..., hi - 1 of a pass that begins with ``start``, one group, against one block of features."""
    n_features, n_hidden = state.W.shape
    left, right = block * _FEATURES_PER_BLOCK, min((block + 1) * _FEATURES_PER_BLOCK, n_features)
    at_once = scratch.z.shape[1]
    _clear(state.shares_h[block, lo - start : hi - start])
    for f in range(left, right, at_once):
        last = min(f + at_once, right)
        share_W, share_b = state.shares_W[group, f:last], state.shares_b[group, f:last]
        sum_W, sum_b = share_W, share_b
        if start > 0:
            sum_W, sum_b = _part(scratch.sum_W, last - f, n_hidden), scratch.sum_b[: last - f]
        _clear(sum_W)
        _clear(sum_b)
        for i in range(lo, hi, _EXAMPLES_AT_ONCE):
            end = min(i + _EXAMPLES_AT_ONCE, hi)
            share_h = state.shares_h[block, i - start : end - start]
            if lists is None:
                _tile(state.h[i:end], state.W[f:last], state.b[f:last], sum_W, sum_b, share_h, scratch)
            else:
                begins = lists.began_at[0] == step
                n_pairs = _listed_tile(state, lists, i, end, f, last, begins, sum_W, sum_b, share_h, scratch)
                n_pairs += np.int64(begins * _COST_OF_A_LIST * (end - i) * (last - f))
                lists.n_pairs[group, block] += n_pairs
        if start > 0:
            _add(share_W, sum_W)
            _add(share_b, sum_b)
    total = _ZERO
    for f in range(left, right):
        total += state.shares_b[group, f]
    state.finite[group, block] = abs(total) < np.inf  # it is not as soon as any pre-activation is not


@inner
def _add_up_rows(state, examples, start, lo, hi):
    """Add up what blocks give the examples; take x_f W_f off grad_h_i at each active nonzero target."""
    n_hidden = np.int64(state.h.shape[1])
    grad_h = state.grad_h[lo:hi]
    _copy(grad_h, state.shares_h[0, lo - start : hi - start])
    for block in range(1, state.shares_h.shape[0]):
        _add(grad_h, state.shares_h[block, lo - start : hi - start])
    flat, W, h, b = grad_h.reshape(-1), state.W.reshape(-1), state.h.reshape(-1), state.b
    starts, features, values = examples.starts, examples.features, examples.values
    for i in range(lo, hi):
        for entry in range(starts[i], starts[i + 1]):
            f = np.int64(features[entry])
            if b[f] + dot(W, f * n_hidden, h, i * n_hidden, n_hidden) > 0:
                add_scaled(flat, (i - lo) * n_hidden, -values[entry], W, f * n_hidden, n_hidden)


@serial
def _gradient_of_features(state, examples, lo, hi, grad_W, grad_b, correction):
    """Add up the groups' shares of some features, and what the nonzero targets change."""
    _copy(grad_W, state.shares_W[0, lo:hi])
    _copy(grad_b, state.shares_b[0, lo:hi])
    for group in range(1, state.shares_b.shape[0]):
        _add(grad_W, state.shares_W[group, lo:hi])
        _add(grad_b, state.shares_b[group, lo:hi])
    n_hidden = np.int64(state.h.shape[1])
    W, h, grad_h, b = state.W.reshape(-1), state.h.reshape(-1), state.grad_h.reshape(-1), state.b
    starts, rows, values = examples.column_starts, examples.rows, examples.column_values
    for f in range(lo, hi):
        correction_b = np.float64(0)
        for first in range(starts[f], starts[f + 1], _ENTRIES_PER_SUM):
            _clear(correction)
            for entry in range(first, min(first + _ENTRIES_PER_SUM, starts[f + 1])):
                i, x = rows[entry] * n_hidden, values[entry]
                add_scaled(correction, 0, x, grad_h, i, n_hidden)
                if b[f] + dot(W, f * n_hidden, h, i, n_hidden) > 0:
                    correction_b += x
                    add_scaled(correction, 0, -x, h, i, n_hidden)
            _add(grad_W[f - lo], correction)
        grad_b[f - lo] -= correction_b


@inner
def _step_of_features(state, examples, scale, learning_rate, step, constants, lo, hi, scratch):
    grad_W, grad_b = scratch.grad_W[: hi - lo], scratch.grad_b[: hi - lo]
    _gradient_of_features(state, examples, lo, hi, grad_W, grad_b, scratch.correction)
    rates = rates_of_step(learning_rate, step, constants)
    W, first_W, second_W = (
        state.W[lo:hi].reshape(-1),
        state.first_W[lo:hi].reshape(-1),
        state.second_W[lo:hi].reshape(-1),
    )
    adamw(W, grad_W.reshape(-1), first_W, second_W, scale, rates.keep_W, rates.penalty_W, rates)
    b, first_b, second_b = state.b[lo:hi], state.first_b[lo:hi], state.second_b[lo:hi]
    adamw(b, grad_b, first_b, second_b, scale, rates.keep_b, rates.penalty_b, rates)


@inner
def _begin(state, lists, chunk, n_of_examples, step):
    """Start distances of one chunk of examples, or of features, anew."""
    steps = np.float32(max(step - lists.began_at[chunk], 1))
    lists.began_at[chunk] = step
    if chunk < n_of_examples:
        lo = chunk * _EXAMPLES_PER_CHUNK
        begin_examples(state, lists, lo, min(lo + _EXAMPLES_PER_CHUNK, state.h.shape[0]), steps)
    else:
        lo = (chunk - n_of_examples) * _FEATURES_PER_CHUNK
        begin_features(state, lists, lo, min(lo + _FEATURES_PER_CHUNK, state.b.shape[0]), steps)


@serial
def _run(tickets, end, state, lists, examples, scale, learning_rates, step, constants, at_once):
    """Take units of steps that nobody else takes, up to unit ``end``.

    The units of a step: each chunk of examples' hidden vectors; if there are lists, each chunk of examples and of
    features, where distances begin anew; for each pass over the examples all pieces, then its chunks of examples; each
    chunk of features.
    """
    (n_features, n_hidden), n_examples = state.W.shape, state.h.shape[0]
    n_groups, n_blocks = state.finite.shape
    pass_size = state.shares_h.shape[1]
    n_pieces, n_chunks = n_groups * n_blocks, -(-pass_size // _EXAMPLES_PER_CHUNK)
    n_hidden_units = -(-n_examples // _EXAMPLES_PER_CHUNK)
    n_prepared = n_hidden_units
    if lists is not None:
        n_prepared += lists.moved.shape[0]
    n_before = n_prepared + -(-n_examples // pass_size) * (n_pieces + n_chunks)
    n_units = n_before + -(-n_features // _FEATURES_PER_CHUNK)
    group_size = -(-pass_size // n_groups)
    scratch = _scratch(n_hidden, n_examples, at_once)
    while True:
        ticket = take(tickets)
        if ticket >= end:
            return
        s, unit = ticket // n_units, ticket % n_units
        of_pass, within = divmod(unit - n_prepared, n_pieces + n_chunks)
        before = np.int64(0)  # what has to be done before this unit
        if unit >= n_before:
            before = n_before
        elif unit >= n_hidden_units and unit < n_prepared:
            before = n_hidden_units
        elif unit >= n_prepared:
            before = unit - within + (n_pieces if within >= n_pieces else 0)
        if not wait(tickets, s * n_units + before):
            return
        start = of_pass * pass_size
        stop_at = min(start + pass_size, n_examples)
        if unit < n_hidden_units:
            lo = unit * _EXAMPLES_PER_CHUNK
            hi = min(lo + _EXAMPLES_PER_CHUNK, n_examples)
            _find_hidden(state, examples, lo, hi)
            if lists is not None:
                lists.moved[unit] = far_examples(state, lists, lo, hi)
        elif unit < n_prepared:
            if lists is not None:  # noqa: SIM102 - what is None is not compiled
                if lists.began_at[unit - n_hidden_units] < step + s and any_of(lists.moved):
                    _begin(state, lists, unit - n_hidden_units, n_hidden_units, step + s)
        elif unit >= n_before:
            for finite in state.finite.reshape(-1):
                if not finite:
                    stop(tickets, s)
                    return
            lo = (unit - n_before) * _FEATURES_PER_CHUNK
            hi = min(lo + _FEATURES_PER_CHUNK, n_features)
            _step_of_features(state, examples, scale, learning_rates[s], step + s, constants, lo, hi, scratch)
            if lists is not None:
                chunk = n_hidden_units + unit - n_before
                is_old = step + s + 1 - lists.began_at[chunk] >= BEGIN_EVERY
                lists.moved[chunk] = is_old or far_features(state, lists, lo, hi)
        elif within < n_pieces:
            group, block = divmod(within, n_blocks)
            lo = min(start + group * group_size, stop_at)
            _piece(state, lists, start, lo, min(lo + group_size, stop_at), group, block, step + s, scratch)
        else:
            lo = min(start + (within - n_pieces) * _EXAMPLES_PER_CHUNK, stop_at)
            _add_up_rows(state, examples, start, lo, min(lo + _EXAMPLES_PER_CHUNK, stop_at))
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
    ) -> None:
        self.weights = empty(W.T.shape), empty(b.shape)
        self.weights[0][:], self.weights[1][:] = W.T, b
        W, b = self.weights
        self.moments = np.zeros_like(W), np.zeros_like(b), np.zeros_like(W), np.zeros_like(b)
        self.constants, self.reduction = constants(optimizer), reduction
        self.step = 0
        self.set_examples(examples)

    @property
    def W(self) -> Float32[np.ndarray, "n_hidden n_features"]:
        """The weights, now."""
        return np.ascontiguousarray(self.weights[0].T)

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        """The bias, now."""
        return self.weights[1].copy()

    @property
    def W_transposed(self) -> Float32[np.ndarray, "n_features n_hidden"]:
        """The weights, transposed: no copy, to be read only."""
        return self.weights[0]

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        csr = examples.expanded()
        csc = scipy.sparse.csc_array(csr.to_scipy())
        n_examples, (n_features, n_hidden) = csr.n_examples, self.weights[0].shape
        self.examples = Examples(
            csr.indptr, csr.indices, csr.values, csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data
        )
        self.work = n_examples * n_features * n_hidden
        self.scale = np.float32(2 * loss_scale(n_features, self.reduction) / n_examples)
        n_blocks = -(-n_features // _FEATURES_PER_BLOCK)
        n_groups = max(1, min(-(-_PIECES // n_blocks), n_examples // _EXAMPLES_PER_GROUP))
        pass_size = min(n_examples, _EXAMPLES_PER_PIECE * n_groups)
        at_once = max(BITS, _WEIGHTS_AT_ONCE // n_hidden // BITS * BITS)
        self.at_once = np.int64(min(at_once, n_features, _FEATURES_PER_BLOCK))
        self.state = State(
            *self.weights,
            *self.moments,
            empty((n_examples, n_hidden)),
            empty((n_examples, n_hidden)),
            empty((n_groups, n_features, n_hidden)),
            empty((n_groups, n_features)),
            empty((n_blocks, pass_size, n_hidden)),
            empty((n_groups, n_blocks), np.bool_),
        )
        n_of_pass = n_groups * n_blocks + -(-pass_size // _EXAMPLES_PER_CHUNK)
        self.units_of_gradient = -(-n_examples // _EXAMPLES_PER_CHUNK) + -(-n_examples // pass_size) * n_of_pass
        self.units_of_step = self.units_of_gradient + -(-n_features // _FEATURES_PER_CHUNK)
        self.lists: Lists | None = None
        self.pace = Pace(self.units_of_step if self.work <= _SHORT else 0)
        self.team = Team(1 if self.work < _SERIAL_BELOW else max(n_groups * n_blocks, 2))

    @property
    def parameters(self) -> tuple[Float32[np.ndarray, "n_hidden_and_bias n_features"], ...]:
        """W and, in the last row, b, now; likewise AdamW's moments."""
        together = (*self.weights, *self.moments)
        return tuple(np.vstack([W.T, b]) for W, b in zip(together[::2], together[1::2], strict=True))

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        begin = self.step
        for stopped_at, last in self._pieces(learning_rates, len(learning_rates) * self.units_of_step):
            self.step = begin + (last // self.units_of_step if stopped_at < 0 else stopped_at)
            if stopped_at >= 0:
                raise DivergedError(self.step)

    def _pieces(self, learning_rates: Float64[np.ndarray, " n_steps"], n_units: int) -> Iterator[tuple[int, int]]:
        """Do so many units of these steps, and say after each piece which step was not finite, or -1, and how many."""
        now = self.scale, learning_rates, self.step, self.constants, self.at_once
        with one_blas_thread():
            for begin, end in self.pace.cut(0, n_units, self.team.size()):
                for first, last, n_threads in self.team.pieces(begin, end, self.units_of_step):
                    numbers = tickets(first)
                    side_by_side(n_threads, _run, numbers, last, self.state, self.lists, self.examples, *now)
                    yield stopped(numbers), last

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        n_pairs = None if self.lists is None else self.lists.n_pairs.copy()
        for _ in self._pieces(np.zeros(1), self.units_of_gradient):
            pass
        if self.lists is not None:
            self.lists.n_pairs[:] = n_pairs
        grad_W, grad_b = np.empty_like(self.weights[0]), np.empty_like(self.weights[1])
        correction = empty((grad_W.shape[1],))
        for lo in range(0, len(grad_b), _FEATURES_PER_CHUNK):
            some = slice(lo, lo + _FEATURES_PER_CHUNK)
            hi = min(lo + _FEATURES_PER_CHUNK, len(grad_b))
            _gradient_of_features(self.state, self.examples, lo, hi, grad_W[some], grad_b[some], correction)
        return np.ascontiguousarray(grad_W.T) * self.scale, grad_b * self.scale


class Listed(Training):
    """Training by lists of the outputs that can be active.

    Args:
        before: W, and in the last row b, some steps ago: how far they went is the first guess of how far they will go.
        n_steps: How many steps ago.
        tiled: Training until now, whose weights and moments change with this one's, as they are the same arrays.
    """

    def __init__(
        self, before: Float32[np.ndarray, "n_hidden_and_bias n_features"], n_steps: int, tiled: Training
    ) -> None:
        vars(self).update(vars(tiled))
        self.team = Team(tiled.team.most)
        step, (n_examples, n_hidden) = self.step, self.state.h.shape
        n_features = len(self.state.b)
        n_moved = -(-n_examples // _EXAMPLES_PER_CHUNK) + -(-n_features // _FEATURES_PER_CHUNK)
        self.lists = Lists(
            empty((n_examples, -(-n_features // BITS)), np.uint64),
            np.zeros((n_features, n_hidden + 2), np.float32),
            before[-1].astype(np.float32),
            np.zeros((n_examples, n_hidden + 2), np.float32),
            np.full(n_moved, step - n_steps, np.int64),
            np.ones(n_moved, np.bool_),
            np.zeros(self.state.finite.shape, np.int64),
        )
        self.lists.W_then[:, :n_hidden] = before[:-1].T
        nonzeros = self.examples.values, self.examples.features, self.examples.starts
        self.lists.h_then[:, :n_hidden] = scipy.sparse.csr_array(nonzeros, (n_examples, n_features)) @ before[:-1].T
        self.units_of_gradient += n_moved
        self.units_of_step += n_moved
        self.pace = Pace(self.units_of_step if self.work <= _SHORT else 0)
        self.counted_from = step

    @property
    def listed_share(self) -> float:
        """The share of all pairs that are on lists now."""
        assert self.lists is not None
        n_listed = sum(int(np.bitwise_count(words).sum()) for words in self.lists.words)
        return n_listed / (len(self.state.h) * len(self.state.b))

    def computed_share(self) -> float:
        """Return the share of all pairs that was computed in the mean step since the last call, lists included."""
        assert self.lists is not None
        n_pairs = self.lists.n_pairs.sum() / (self.step - self.counted_from)
        self.lists.n_pairs[:], self.counted_from = 0, self.step
        return float(n_pairs / (len(self.state.h) * len(self.state.b)))
