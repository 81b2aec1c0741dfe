"""The fast kernel: float32, compiled by numba, on all the threads numba is given.

The T x n matrix of outputs never exists. Per step, with raw sums that are scaled at the end:

1. ``_hidden``: h_i = W x_i, from the nonzeros of x.
2. ``_dense``: as if every target were 0, d_if = ReLU(W_f . h_i + b_f) and its sums over examples (for W_f and b_f) and
   over features (for h_i), in tiles that stay in registers or cache.
   Or, for two hidden units and many examples, ``skip``: the same sums with most pairs skipped, exactly.
3. ``_hidden_correction``, ``_weight_gradient``: what the nonzero targets change, at the nonzeros only.
4. ``_adamw``.

Work is cut into fixed pieces (blocks of features x groups of examples) whose sums are added in a fixed order, so the
result has the same bits whatever the number of threads. Reassociation is allowed so that loops can be vectorised; NaN
and infinity are honoured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numba
import numpy as np
import scipy.sparse
import threadpoolctl
from jaxtyping import Float, Float32, Float64

from byheart.data import SparseExamples
from byheart.kernels import AdamW, DivergedError
from byheart.kernels.compile import parallel, relu, serial
from byheart.kernels.dense import dense_pair, dense_tiles
from byheart.kernels.skipping import reorder, skip
from byheart.kernels.skipping import scratch as skipping_scratch
from byheart.model import Reduction, loss_scale

_FEATURES_PER_BLOCK = 1024  # six float32 arrays of this length fit in a 32 KiB first-level cache
_EXAMPLES_PER_TILE = 128  # rows of a BLAS product
_EXAMPLES_PER_CHUNK = 256  # rows handled at a time where work is per example
_FEATURES_PER_CHUNK = 128  # columns handled at a time where work is per feature
_SKIP_FROM_EXAMPLES = 1_000  # below, the tests of tiles cost more than the tiles
_SKIP_BELOW_SHARE = 0.45  # of tiles computed pair by pair
_STEPS_PER_ORDER = 64
_SERIAL_BELOW = 2_000_000  # multiplications per step with W: less work than this is over before a thread wakes up
_SMALL_N_HIDDEN = 8  # up to here scalar loops evaluate the loss faster than BLAS

_ZERO = np.float32(0)


@serial
def _n_hidden(unrolled, W_t):  # type: ignore[no-untyped-def]
    """The hidden width; a compile-time constant, so that loops over it unroll, where ``unrolled`` has that length."""
    return len(unrolled) if len(unrolled) > 0 else W_t.shape[1]


@serial
def _hidden_rows(unrolled, W_t, indptr, indices, values, h):  # type: ignore[no-untyped-def]
    n_hidden = _n_hidden(unrolled, W_t)
    for i in range(h.shape[0]):
        h[i] = _ZERO
        for entry in range(indptr[i], indptr[i + 1]):
            f, x = indices[entry], values[entry]
            for k in range(n_hidden):
                h[i, k] += x * W_t[f, k]


@parallel
def _hidden(unrolled, W_t, indptr, indices, values, h):  # type: ignore[no-untyped-def]
    """h_i = W x_i."""
    for chunk in numba.prange(-(-h.shape[0] // _EXAMPLES_PER_CHUNK)):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, h.shape[0])
        _hidden_rows(unrolled, W_t, indptr[lo : hi + 1], indices, values, h[lo:hi])


@parallel
def _transpose(W, W_t):  # type: ignore[no-untyped-def]
    for block in numba.prange(-(-W.shape[1] // _FEATURES_PER_BLOCK)):
        for f in range(block * _FEATURES_PER_BLOCK, min((block + 1) * _FEATURES_PER_BLOCK, W.shape[1])):
            for k in range(W.shape[0]):
                W_t[f, k] = W[k, f]


@parallel
def _dense(W, b, h, grad_W, grad_b, grad_h, d, weights, products, hidden_products):  # type: ignore[no-untyped-def]
    """Add to grad_W and grad_b (one part per group of examples), and set grad_h (one part per block of features)."""
    n_hidden, n_features = W.shape
    n_groups, n_blocks = grad_W.shape[0], grad_h.shape[0]
    n_examples = h.shape[0]
    group_size = -(-n_examples // n_groups)
    block_size = -(-n_features // n_blocks)
    for piece in numba.prange(n_groups * n_blocks):
        group, block = piece // n_blocks, piece % n_blocks
        lo, hi = min(group * group_size, n_examples), min((group + 1) * group_size, n_examples)
        left, right = min(block * block_size, n_features), min((block + 1) * block_size, n_features)
        if n_hidden == 2:
            dense_pair(
                h[lo:hi],
                W[0, left:right],
                W[1, left:right],
                b[left:right],
                grad_W[group, 0, left:right],
                grad_W[group, 1, left:right],
                grad_b[group, left:right],
                grad_h[block, lo:hi],
            )
        else:
            thread = numba.get_thread_id()
            dense_tiles(
                h[lo:hi],
                W[:, left:right],
                b[left:right],
                grad_W[group, :, left:right],
                grad_b[group, left:right],
                grad_h[block, lo:hi],
                d[thread],
                weights[thread],
                products[thread],
                hidden_products[thread],
            )


@parallel
def _sum_blocks(parts, grad_h):  # type: ignore[no-untyped-def]
    for chunk in numba.prange(-(-grad_h.shape[0] // _EXAMPLES_PER_CHUNK)):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, grad_h.shape[0])
        grad_h[lo:hi] = parts[0, lo:hi]
        for block in range(1, parts.shape[0]):
            grad_h[lo:hi] += parts[block, lo:hi]


@serial
def _correct_rows(unrolled, W_t, b, h, indptr, indices, values, grad_h):  # type: ignore[no-untyped-def]
    n_hidden = _n_hidden(unrolled, W_t)
    for i in range(h.shape[0]):
        for entry in range(indptr[i], indptr[i + 1]):
            f, x = indices[entry], values[entry]
            z = b[f]
            for k in range(n_hidden):
                z += W_t[f, k] * h[i, k]
            if z > 0:
                for k in range(n_hidden):
                    grad_h[i, k] -= x * W_t[f, k]


@parallel
def _hidden_correction(unrolled, W_t, b, h, indptr, indices, values, grad_h):  # type: ignore[no-untyped-def]
    """Take x_f W_f off grad_h_i at each active nonzero target."""
    for chunk in numba.prange(-(-h.shape[0] // _EXAMPLES_PER_CHUNK)):
        lo, hi = chunk * _EXAMPLES_PER_CHUNK, min((chunk + 1) * _EXAMPLES_PER_CHUNK, h.shape[0])
        _correct_rows(unrolled, W_t, b, h[lo:hi], indptr[lo : hi + 1], indices, values, grad_h[lo:hi])


@serial
def _add_column_corrections(  # type: ignore[no-untyped-def]
    unrolled, W_t, b, h, grad_h, column_ptr, rows, values, grad_W, grad_b, correction
):
    n_hidden = _n_hidden(unrolled, W_t)
    for f in range(column_ptr.shape[0] - 1):
        if column_ptr[f] == column_ptr[f + 1]:
            continue
        correction[:] = _ZERO
        correction_b = np.float64(0)
        for entry in range(column_ptr[f], column_ptr[f + 1]):
            i, x = rows[entry], values[entry]
            z = b[f]
            for k in range(n_hidden):
                z += W_t[f, k] * h[i, k]
                correction[k] += x * grad_h[i, k]
            if z > 0:
                correction_b += x
                for k in range(n_hidden):
                    correction[k] -= x * h[i, k]
        grad_b[f] -= correction_b
        for k in range(n_hidden):
            grad_W[k, f] += correction[k]


@parallel
def _weight_gradient(  # type: ignore[no-untyped-def]
    unrolled, W_t, b, h, grad_h, column_ptr, rows, values, parts_W, parts_b, scale, corrections, grad_W, grad_b
):
    """Sum the groups' parts, add x_f grad_h_i, and take x_f h_i off at each active nonzero target; then scale."""
    n_features, n_groups = parts_b.shape[1], parts_b.shape[0]
    for chunk in numba.prange(-(-n_features // _FEATURES_PER_CHUNK)):
        lo, hi = chunk * _FEATURES_PER_CHUNK, min((chunk + 1) * _FEATURES_PER_CHUNK, n_features)
        g_W, g_b = grad_W[:, lo:hi], grad_b[lo:hi]
        g_W[:] = parts_W[0, :, lo:hi]
        g_b[:] = parts_b[0, lo:hi]
        for group in range(1, n_groups):
            g_W += parts_W[group, :, lo:hi]
            g_b += parts_b[group, lo:hi]
        correction = corrections[numba.get_thread_id()]
        _add_column_corrections(
            unrolled, W_t[lo:hi], b[lo:hi], h, grad_h, column_ptr[lo : hi + 1], rows, values, g_W, g_b, correction
        )
        g_W *= scale
        g_b *= scale


@serial
def _gradient(unrolled, examples, W, b, scale, scratch, skipping, renew, skips, grad_W, grad_b):  # type: ignore[no-untyped-def]
    """Set the gradient of the scaled loss; return the share of tiles computed pair by pair.

    If ``skips``, most pairs are skipped (on orders made anew if ``renew``); otherwise all examples go through the dense
    computation, in passes, so that the parts of grad_h stay small.
    """
    indptr, indices, values, column_ptr, rows, column_values = examples
    W_t, h, grad_h, parts_W, parts_b, parts_h, d, weights, products, hidden_products, corrections = scratch
    if len(unrolled) == 0:
        _transpose(W, W_t)
    _hidden(unrolled, W_t, indptr, indices, values, h)
    share = 1.0
    n_groups = parts_b.shape[0]
    if skips:
        features, order, w, boxes, moments, marks, parts, sums, cut = skipping
        if renew:
            reorder(W, b, h, features, order)
        n_groups = 1
        share = skip(
            W, b, h, features, order, w, boxes, moments, marks, parts, sums, cut, parts_W[0], parts_b[0], grad_h
        )
    else:
        parts_W[:] = _ZERO
        parts_b[:] = _ZERO
        pass_size = parts_h.shape[1]
        for start in range(0, h.shape[0], pass_size):
            stop = min(start + pass_size, h.shape[0])
            parts_pass = parts_h[:, : stop - start]
            _dense(W, b, h[start:stop], parts_W, parts_b, parts_pass, d, weights, products, hidden_products)
            _sum_blocks(parts_pass, grad_h[start:stop])
    _hidden_correction(unrolled, W_t, b, h, indptr, indices, values, grad_h)
    _weight_gradient(
        unrolled,
        W_t,
        b,
        h,
        grad_h,
        column_ptr,
        rows,
        column_values,
        parts_W[:n_groups],
        parts_b[:n_groups],
        scale,
        corrections,
        grad_W,
        grad_b,
    )
    return share


@serial
def _adamw_block(p, g, m, v, keep, step_size, root_bias2, constants):  # type: ignore[no-untyped-def]
    one_less_beta1, one_less_beta2, eps = constants
    for j in range(p.shape[0]):
        m[j] += one_less_beta1 * (g[j] - m[j])
        v[j] += one_less_beta2 * (g[j] * g[j] - v[j])
        p[j] = p[j] * keep - step_size * (m[j] / (np.sqrt(v[j]) * root_bias2 + eps))


@parallel
def _adamw(p, g, m, v, keep, step_size, root_bias2, constants):  # type: ignore[no-untyped-def]
    for block in numba.prange(-(-p.size // _FEATURES_PER_BLOCK)):
        lo, hi = block * _FEATURES_PER_BLOCK, min((block + 1) * _FEATURES_PER_BLOCK, p.size)
        _adamw_block(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi], keep, step_size, root_bias2, constants)


@serial
def _steps(  # type: ignore[no-untyped-def]
    unrolled, examples, W, b, moments, scale, scratch, skipping, pays, grads, learning_rates, step, betas, eps, decays
):
    """Take all the steps; return how many were taken before the gradient stopped being finite.

    ``pays`` holds whether skipping pays; it is tried anew whenever the orders are renewed, at fixed steps.
    """
    grad_W, grad_b = grads
    m_W, v_W, m_b, v_b = moments
    # 1 - beta in float64: 1 - float32(0.999) is off by 5e-5.
    constants = np.float32(1 - betas[0]), np.float32(1 - betas[1]), eps
    skippable = pays.shape[0] > 0
    for s in range(learning_rates.shape[0]):
        renew = skippable and (step + s) % _STEPS_PER_ORDER == 0
        skips = renew or (skippable and pays[0])
        share = _gradient(unrolled, examples, W, b, scale, scratch, skipping, renew, skips, grad_W, grad_b)
        if renew:
            pays[0] = share < _SKIP_BELOW_SHARE
        total = _ZERO
        for f in range(b.shape[0]):
            total += grad_b[f]  # NaN or infinite as soon as any pre-activation is
        if not abs(total) < np.inf:  # as isfinite may be folded away where reassociation is allowed
            return s
        rate = learning_rates[s]
        step_size = np.float32(rate / (1 - betas[0] ** (step + s + 1)))
        root_bias2 = np.float32(1 / np.sqrt(1 - betas[1] ** (step + s + 1)))
        keep_W, keep_b = np.float32(1 - rate * decays[0]), np.float32(1 - rate * decays[1])
        _adamw(W.reshape(-1), grad_W.reshape(-1), m_W, v_W, keep_W, step_size, root_bias2, constants)
        _adamw(b, grad_b, m_b, v_b, keep_b, step_size, root_bias2, constants)
    return learning_rates.shape[0]


@parallel
def _example_losses(W, b, h, indptr, indices, values, outputs, losses):  # type: ignore[no-untyped-def]
    n_hidden, n_features = W.shape
    rows = outputs.shape[1]
    for chunk in numba.prange(-(-h.shape[0] // rows)):
        lo, hi = chunk * rows, min((chunk + 1) * rows, h.shape[0])
        z = outputs[numba.get_thread_id(), : hi - lo]
        if n_hidden > _SMALL_N_HIDDEN:
            np.dot(h[lo:hi], W, z)
        else:
            for i in range(lo, hi):
                z[i - lo] = h[i, 0] * W[0]
                for k in range(1, n_hidden):
                    z[i - lo] += h[i, k] * W[k]
        for i in range(lo, hi):
            x_out = z[i - lo]
            for f in range(n_features):
                x_out[f] = relu(x_out[f] + b[f])
            for entry in range(indptr[i], indptr[i + 1]):
                x_out[indices[entry]] -= values[entry]
            loss = np.float64(0)
            for left in range(0, n_features, _FEATURES_PER_BLOCK):
                part = _ZERO
                for f in range(left, min(left + _FEATURES_PER_BLOCK, n_features)):
                    part += x_out[f] * x_out[f]
                loss += part
            losses[i] = loss


def _single_threaded_blas(unrolled: tuple[int, ...]) -> AbstractContextManager[object]:
    """BLAS is called from threads of ours, and must not add its own; looking for it costs a millisecond."""
    return nullcontext() if unrolled else threadpoolctl.threadpool_limits(1, user_api="blas")


@contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _empty(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    return np.empty(shape, dtype)


class _Problem:
    """The examples as the compiled code wants them (by rows and by columns), and its scratch memory."""

    def __init__(
        self, W: Float32[np.ndarray, "n_hidden n_features"], examples: SparseExamples, skippable: bool
    ) -> None:
        n_hidden = len(W)
        csr = examples.expanded()
        csc = scipy.sparse.csc_array(csr.to_scipy())
        n_examples, n_features = csr.n_examples, csr.n_features
        self.n_examples = n_examples
        self.arrays = (
            csr.indptr,
            csr.indices,
            csr.values,
            csc.indptr.astype(np.int64),
            csc.indices.astype(np.int32),
            csc.data,
        )
        self.n_threads = 1 if n_examples * n_features * n_hidden < _SERIAL_BELOW else numba.get_num_threads()
        n_threads = numba.config.NUMBA_NUM_THREADS
        blas = n_hidden != 2
        self.unrolled = () if blas else (0, 0)
        n_blocks = -(-n_features // _FEATURES_PER_BLOCK)
        n_groups = max(1, min(4, n_examples // 2048), min(8 // n_blocks, n_examples // 128))
        pass_size = min(n_examples, (512 if blas else 2048) * n_groups)
        tile = (n_threads, n_hidden * min(n_features, _FEATURES_PER_BLOCK)) if blas else (0, 0)
        skippable = skippable and n_hidden == 2 and n_examples >= _SKIP_FROM_EXAMPLES
        self.pays = np.ones(int(skippable), np.bool_)
        self.skipping = skipping_scratch(*(n_examples, n_features) if skippable else (0, 0))
        self.scratch = (
            _empty((n_features, n_hidden)) if blas else W.T,  # a transposed copy, or a view of the weights themselves
            _empty((n_examples, n_hidden)),
            _empty((n_examples, n_hidden)),
            _empty((n_groups, n_hidden, n_features)),
            _empty((n_groups, n_features)),
            _empty((n_blocks, pass_size, n_hidden)),
            _empty((n_threads, _EXAMPLES_PER_TILE, min(n_features, _FEATURES_PER_BLOCK)) if blas else (0, 0, 0)),
            _empty(tile),
            _empty(tile),
            _empty((n_threads, _EXAMPLES_PER_TILE, n_hidden) if blas else (0, 0, 0)),
            _empty((n_threads, n_hidden), np.float64),
        )


class _Training:
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
        self.moments = tuple(np.zeros(size, np.float32) for size in (W.size, W.size, b.size, b.size))
        self.gradients = (_empty(W.shape), _empty(b.shape))
        self.optimizer, self.reduction = optimizer, reduction
        self.step = 0
        self.set_examples(examples)

    def set_examples(self, examples: SparseExamples) -> None:
        # Examples that come fresh at every step would need new orders at every step.
        self.problem = _Problem(self.W, examples, skippable=self.step == 0)
        self.scale = np.float32(2 * loss_scale(self.W.shape[1], self.reduction) / self.problem.n_examples)

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        o = self.optimizer
        with _threads(self.problem.n_threads), _single_threaded_blas(self.problem.unrolled):
            taken = _steps(
                self.problem.unrolled,
                self.problem.arrays,
                self.W,
                self.b,
                self.moments,
                self.scale,
                self.problem.scratch,
                self.problem.skipping,
                self.problem.pays,
                self.gradients,
                learning_rates,
                self.step,
                (o.beta1, o.beta2),
                np.float32(o.eps),
                (o.weight_decay, o.weight_decay if o.decay_bias else 0.0),
            )
        self.step += taken
        if taken < len(learning_rates):
            raise DivergedError(self.step)


start = _Training


def example_losses(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], examples: SparseExamples
) -> Float64[np.ndarray, " n_examples"]:
    """Return the squared error of each distinct example, summed over features."""
    W, b = np.ascontiguousarray(W, np.float32), np.ascontiguousarray(b, np.float32)
    h, losses = _empty((examples.n_examples, len(W))), _empty((examples.n_examples,), np.float64)
    outputs = _empty((numba.config.NUMBA_NUM_THREADS, min(32, examples.n_examples), len(b)))
    with _single_threaded_blas(() if len(W) > _SMALL_N_HIDDEN else (0,)):
        _hidden((), np.ascontiguousarray(W.T), examples.indptr, examples.indices, examples.values, h)
        _example_losses(W, b, h, examples.indptr, examples.indices, examples.values, outputs, losses)
    return losses


def loss_and_gradient(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    reduction: Reduction,
) -> tuple[float, Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
    """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
    training = _Training(W, b, examples, AdamW(), reduction)
    with _single_threaded_blas(training.problem.unrolled):
        _gradient(
            training.problem.unrolled,
            training.problem.arrays,
            training.W,
            training.b,
            training.scale,
            training.problem.scratch,
            training.problem.skipping,
            len(training.problem.pays) > 0,
            len(training.problem.pays) > 0,
            *training.gradients,
        )
    losses = example_losses(training.W, training.b, examples)
    loss = loss_scale(len(b), reduction) * float(np.average(losses, weights=examples.repeats))
    return loss, *training.gradients
