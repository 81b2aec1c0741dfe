"""Training with more than eight hidden units: products by BLAS, everything else on tiles that stay in cache.

A step has three parallel parts. ``_dense``: each piece, a group of examples against a block of features, adds its share
of the gradients of W, b and h as if every target were 0. ``_correct_hidden`` takes off what the nonzero targets change
for h. ``_gradient`` adds up the shares and does the same for W and b; ``_update`` takes the step of AdamW. All that is
parallel is independent, so in how many calls it is done changes no bit of the result.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.kernels.adamw import Constants, adamw, constants, rates_of_step
from byheart.toy.kernels.blas import one_blas_thread
from byheart.toy.kernels.compile import empty, in_turn, parallel, relu, serial, threads
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

_FEATURES_PER_BLOCK = 1280  # columns of a BLAS product
_EXAMPLES_PER_CHUNK = 256  # rows handled at a time where work is per example
_FEATURES_PER_CHUNK = 128  # columns handled at a time where work is per feature
_EXAMPLES_PER_PIECE = 1024  # at most, of one group in one pass
_MAX_GROUPS = 4
_SERIAL_BELOW = 2_000_000  # multiplications per step with W: less work than this is over before a thread wakes up
_SHORT = 5e8  # likewise: the first step is taken in one call if it is short on any machine; later ones are timed
_WHOLE, _BEGIN, _HIDDEN, _DENSE, _ADD_UP, _CORRECT, _GRADIENT, _UPDATE = range(8)  # steps, or parts of them
_NONE = np.zeros(1)  # learning rates
_ZERO = np.float32(0)
_TUPLES = (Constants,)  # the compiler looks for the names of tuples that cross into other threads


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

    W: np.ndarray
    b: np.ndarray
    first_W: np.ndarray  # moments of AdamW
    first_b: np.ndarray
    second_W: np.ndarray
    second_b: np.ndarray
    grad_W: np.ndarray
    grad_b: np.ndarray
    W_t: np.ndarray  # W transposed: what belongs to one feature is contiguous
    h: np.ndarray
    grad_h: np.ndarray
    shares_W: np.ndarray  # of the gradient, by group
    shares_b: np.ndarray
    shares_h: np.ndarray  # by block of features, for one pass
    W_blocks: np.ndarray  # contiguous copies, by block
    d: np.ndarray  # by thread, outputs of one piece
    products: np.ndarray  # by thread
    hidden_products: np.ndarray  # by thread
    corrections: np.ndarray  # by thread


@serial
def _transpose(W, W_t):
    for f in range(W.shape[1]):
        for k in range(W.shape[0]):
            W_t[f, k] = W[k, f]


@serial
def _hidden(W_t, starts, features, values, h):
    """h_i = W x_i."""
    for i in range(h.shape[0]):
        h[i] = _ZERO
        for entry in range(starts[i], starts[i + 1]):
            f, x = features[entry], values[entry]
            for k in range(h.shape[1]):
                h[i, k] += x * W_t[f, k]


@serial
def _piece(h, W_block, bias, share_W, share_b, share_h, d, product, hidden_product):
    """Some examples against one block of features; adds to share_W and share_b, sets share_h."""
    d_piece = d.reshape(-1)[: h.shape[0] * bias.shape[0]].reshape(h.shape[0], bias.shape[0])
    np.dot(h, W_block, d_piece)
    for i in range(d_piece.shape[0]):
        for f in range(d_piece.shape[1]):
            p = relu(d_piece[i, f] + bias[f])
            d_piece[i, f] = p
            share_b[f] += p
    product_piece = product.reshape(-1)[: W_block.size].reshape(W_block.shape)
    np.dot(h.T, d_piece, product_piece)
    for k in range(W_block.shape[0]):
        for f in range(W_block.shape[1]):
            share_W[k, f] += product_piece[k, f]
    hidden_piece = hidden_product[: h.shape[0]]
    np.dot(d_piece, W_block.T, hidden_piece)
    share_h[:] = hidden_piece


@serial
def _block(state, block):
    """The columns of a block, and the contiguous copy of W there."""
    n_hidden, n_features = state.W.shape
    left, right = block * _FEATURES_PER_BLOCK, min((block + 1) * _FEATURES_PER_BLOCK, n_features)
    return left, right, state.W_blocks[block].reshape(-1)[: n_hidden * (right - left)].reshape(n_hidden, right - left)


@serial
def _group_against_block(state, start, stop, group, block, thread):
    size = -(-(stop - start) // state.shares_W.shape[0])
    lo, hi = min(start + group * size, stop), min(start + (group + 1) * size, stop)
    left, right, W_block = _block(state, block)
    _piece(
        state.h[lo:hi],
        W_block,
        state.b[left:right],
        state.shares_W[group, :, left:right],
        state.shares_b[group, left:right],
        state.shares_h[block, lo - start : hi - start],
        state.d[thread],
        state.products[thread],
        state.hidden_products[thread],
    )


@serial
def _add_up_blocks(shares_h, grad_h):
    for i in range(grad_h.shape[0]):
        for k in range(grad_h.shape[1]):
            total = _ZERO
            for block in range(shares_h.shape[0]):
                total += shares_h[block, i, k]
            grad_h[i, k] = total


@parallel
def _dense(state, start, stop, first, last):
    """The examples of one pass, in their groups, against blocks of features."""
    for piece in numba.prange(first, last):
        group, block = divmod(np.int64(piece), np.int64(state.shares_h.shape[0]))
        _group_against_block(state, start, stop, group, block, numba.get_thread_id())


@parallel
def _add_up(state, start, stop, first, last):
    for chunk in numba.prange(first, last):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, stop - start)
        _add_up_blocks(state.shares_h[:, lo:hi], state.grad_h[start + lo : start + hi])


@serial
def _begin_block(state, block):
    left, right, W_block = _block(state, block)
    W_block[:] = state.W[:, left:right]
    _transpose(W_block, state.W_t[left:right])
    state.shares_W[:, :, left:right] = _ZERO
    state.shares_b[:, left:right] = _ZERO


@parallel
def _begin(state, first, last):
    """What the passes of a step need, by block."""
    for block in numba.prange(first, last):
        _begin_block(state, np.int64(block))


@parallel
def _find_hidden(state, examples, first, last):
    for chunk in numba.prange(first, last):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, state.h.shape[0])
        _hidden(state.W_t, examples.starts[lo : hi + 1], examples.features, examples.values, state.h[lo:hi])


@serial
def _correct_rows(state, examples, lo, hi):
    n_hidden = state.W.shape[0]
    W_t, h, grad_h = state.W_t, state.h, state.grad_h
    for i in range(lo, hi):
        for entry in range(examples.starts[i], examples.starts[i + 1]):
            f, x = examples.features[entry], examples.values[entry]
            z = state.b[f]
            for k in range(n_hidden):
                z += W_t[f, k] * h[i, k]
            if z > 0:
                for k in range(n_hidden):
                    grad_h[i, k] -= x * W_t[f, k]


@parallel
def _correct_hidden(state, examples, first, last):
    """Take x_f W_f off grad_h_i at each active nonzero target."""
    for chunk in numba.prange(first, last):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, state.h.shape[0])
        _correct_rows(state, examples, lo, hi)


@serial
def _column(state, examples, f, correction):
    """Set ``correction`` to the sum of x_f grad_h_i, less x_f h_i at active targets; return that of x_f at those."""
    n_hidden = state.W.shape[0]
    W_t, h, grad_h = state.W_t, state.h, state.grad_h
    correction[:] = _ZERO
    correction_b = np.float64(0)
    for entry in range(examples.column_starts[f], examples.column_starts[f + 1]):
        i, x = examples.rows[entry], examples.column_values[entry]
        z = state.b[f]
        for k in range(n_hidden):
            z += W_t[f, k] * h[i, k]
            correction[k] += x * grad_h[i, k]
        if z > 0:
            correction_b += x
            for k in range(n_hidden):
                correction[k] -= x * h[i, k]
    return correction_b


@serial
def _gradient_columns(state, examples, scale, lo, hi, correction):
    grad_W, grad_b = state.grad_W[:, lo:hi], state.grad_b[lo:hi]
    grad_W[:] = state.shares_W[0, :, lo:hi]
    grad_b[:] = state.shares_b[0, lo:hi]
    for group in range(1, state.shares_b.shape[0]):
        grad_W += state.shares_W[group, :, lo:hi]
        grad_b += state.shares_b[group, lo:hi]
    for f in range(lo, hi):
        if examples.column_starts[f] < examples.column_starts[f + 1]:
            grad_b[f - lo] -= _column(state, examples, f, correction)
            for k in range(grad_W.shape[0]):
                grad_W[k, f - lo] += correction[k]
    grad_W *= scale
    grad_b *= scale


@parallel
def _gradient(state, examples, scale, first, last):
    """Add up the groups' shares, and what the nonzero targets change."""
    for chunk in numba.prange(first, last):
        lo, hi = chunk * _FEATURES_PER_CHUNK, min((chunk + 1) * _FEATURES_PER_CHUNK, state.W.shape[1])
        _gradient_columns(state, examples, scale, lo, hi, state.corrections[numba.get_thread_id()])


@serial
def _is_finite(grad_b):
    """Return whether the gradient is; that of b is NaN or infinite as soon as any pre-activation is."""
    total = _ZERO
    for f in range(grad_b.shape[0]):
        total += grad_b[f]
    return abs(total) < np.inf


@serial
def _update_row(state, learning_rate, step, constants, k):
    rates, one = rates_of_step(learning_rate, step, constants), np.float32(1)
    adamw(state.W[k], state.grad_W[k], state.first_W[k], state.second_W[k], one, rates.keep_W, rates.penalty_W, rates)
    if k == 0:
        adamw(state.b, state.grad_b, state.first_b, state.second_b, one, rates.keep_b, rates.penalty_b, rates)


@parallel
def _update(state, learning_rate, step, constants, first, last):
    for k in numba.prange(first, last):
        _update_row(state, learning_rate, step, constants, np.int64(k))


@serial
def _run(state, examples, scale, learning_rates, step, constants, part, start, first, last):
    """Do these units of one part of a step, in the pass from ``start`` on; or all parts of all steps, if none is named.

    Whole steps and their pieces are one compiled function: in two, the compiler might round in different ways.

    Returns:
        How many whole steps were taken before the gradient stopped being finite.
    """
    n_examples, (n_blocks, pass_size, _) = state.h.shape[0], state.shares_h.shape
    if part == _WHOLE:
        n_groups, n_hidden, n_features = state.shares_W.shape
        n_chunks = -(-n_examples // _EXAMPLES_PER_CHUNK)
        for s in range(learning_rates.shape[0]):
            _begin(state, 0, n_blocks)
            _find_hidden(state, examples, 0, n_chunks)
            for begin in range(0, n_examples, pass_size):
                stop = min(begin + pass_size, n_examples)
                _dense(state, begin, stop, 0, n_groups * n_blocks)
                _add_up(state, begin, stop, 0, -(-(stop - begin) // _EXAMPLES_PER_CHUNK))
            _correct_hidden(state, examples, 0, n_chunks)
            _gradient(state, examples, scale, 0, -(-n_features // _FEATURES_PER_CHUNK))
            if not _is_finite(state.grad_b):
                return s
            _update(state, learning_rates[s], step + s, constants, 0, n_hidden)
        return learning_rates.shape[0]
    stop = min(start + pass_size, n_examples)
    if part == _BEGIN:
        _begin(state, first, last)
    elif part == _HIDDEN:
        _find_hidden(state, examples, first, last)
    elif part == _DENSE:
        _dense(state, start, stop, first, last)
    elif part == _ADD_UP:
        _add_up(state, start, stop, first, last)
    elif part == _CORRECT:
        _correct_hidden(state, examples, first, last)
    elif part == _GRADIENT:
        _gradient(state, examples, scale, first, last)
    else:
        _update(state, learning_rates[0], step, constants, first, last)
    return 0


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
        self.W: Float32[np.ndarray, "n_hidden n_features"] = np.array(W, dtype=np.float32, order="C")
        self.b: Float32[np.ndarray, " n_features"] = np.array(b, dtype=np.float32)
        self.moments = np.zeros_like(self.W), np.zeros_like(self.b), np.zeros_like(self.W), np.zeros_like(self.b)
        self.constants, self.reduction = constants(optimizer), reduction
        self.step = 0
        self.set_examples(examples)

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        csr = examples.expanded()
        csc = scipy.sparse.csc_array(csr.to_scipy())
        n_examples, (n_hidden, n_features) = csr.n_examples, self.W.shape
        self.examples = Examples(
            csr.indptr, csr.indices, csr.values, csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data
        )
        self.work = n_examples * n_features * n_hidden
        self.pace = Pace(1 if self.work <= _SHORT else 0)  # in steps
        self.paces = [Pace() for _ in range(8)]  # of the parts
        self.scale = np.float32(2 * loss_scale(n_features, self.reduction) / n_examples)
        n_blocks = -(-n_features // _FEATURES_PER_BLOCK)
        n_groups = max(1, min(_MAX_GROUPS, n_examples // 2048), min(8 // n_blocks, n_examples // 128))
        pass_size = min(n_examples, _EXAMPLES_PER_PIECE * n_groups)
        piece_size, block_size = -(-pass_size // n_groups), min(n_features, _FEATURES_PER_BLOCK)
        n_threads = numba.config.NUMBA_NUM_THREADS
        self.state = State(
            self.W,
            self.b,
            *self.moments,
            empty(self.W.shape),
            empty(self.b.shape),
            empty((n_features, n_hidden)),
            empty((n_examples, n_hidden)),
            empty((n_examples, n_hidden)),
            empty((n_groups, n_hidden, n_features)),
            empty((n_groups, n_features)),
            empty((n_blocks, pass_size, n_hidden)),
            empty((n_blocks, n_hidden, block_size)),
            empty((n_threads, piece_size, block_size)),
            empty((n_threads, n_hidden, block_size)),
            empty((n_threads, piece_size, n_hidden)),
            empty((n_threads, n_hidden), np.float64),
        )

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        with threads(1 if self.work < _SERIAL_BELOW else None), one_blas_thread():
            for first, last in self.pace.cut(0, len(learning_rates)):
                rates = learning_rates[first:last]
                if self.pace.size < 1:
                    taken = int(self._set_gradient())
                    if taken:
                        self._run_in_pieces(_UPDATE, len(self.W), rates)
                else:
                    taken = self._run(rates, _WHOLE, 0, 0, 0)
                self.step += taken
                if taken < last - first:
                    raise DivergedError(self.step)

    def _run(
        self, learning_rates: Float64[np.ndarray, " n_steps"], part: int, start: int, first: int, last: int
    ) -> int:
        now = self.step, self.constants, part, start, first, last
        with in_turn():
            return int(_run(self.state, self.examples, self.scale, learning_rates, *now))

    def _run_in_pieces(
        self, part: int, n_units: int, learning_rates: Float64[np.ndarray, " n_steps"] = _NONE, start: int = 0
    ) -> None:
        for first, last in self.paces[part].cut(0, n_units, numba.get_num_threads()):
            self._run(learning_rates, part, start, first, last)

    def _set_gradient(self) -> bool:
        """Set the gradient, in pieces; return whether it is finite."""
        (n_groups, _, n_features), (n_blocks, pass_size, _) = self.state.shares_W.shape, self.state.shares_h.shape
        n_examples = len(self.state.h)
        n_chunks = -(-n_examples // _EXAMPLES_PER_CHUNK)
        self._run_in_pieces(_BEGIN, n_blocks)
        self._run_in_pieces(_HIDDEN, n_chunks)
        for start in range(0, n_examples, pass_size):
            self._run_in_pieces(_DENSE, n_groups * n_blocks, start=start)
            self._run_in_pieces(_ADD_UP, -(-min(pass_size, n_examples - start) // _EXAMPLES_PER_CHUNK), start=start)
        self._run_in_pieces(_CORRECT, n_chunks)
        self._run_in_pieces(_GRADIENT, -(-n_features // _FEATURES_PER_CHUNK))
        return bool(_is_finite(self.state.grad_b))

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        with one_blas_thread():
            self._set_gradient()
        return self.state.grad_W.copy(), self.state.grad_b.copy()
