"""The dense part of a step, as if every target were 0, in registers: for up to eight hidden units.

Weights and their gradients are kept in tiles of ``FEATURES`` features, one vector register wide: the rows
W_0, ..., W_{m-1}, b of a tile follow each other, and so do tiles.

``zeros`` is a tuple of n_hidden zeros: as its length is known to the compiler, loops over hidden units are unrolled,
and tuples like it are kept in registers. The innermost loop is written in the compiler's own instructions, since no
loop that numba accepts keeps the accumulators of several examples in vector registers while it follows a list of tiles.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import intrinsic

from byheart.toy.kernels.compile import instructions, serial

FEATURES = 16  # per tile
_LOOK_FROM = 4  # hidden units, from which on a look at the signs saves more at trained weights than it costs at others
_MINUS_INFINITY = int(np.float32(-np.inf).view(np.int32))
# Vectors of 16 that fit in the registers, beside what else is needed.
_ACCUMULATORS = 24 if "avx512f" in instructions() else 5


@serial
def row(zeros, h, i):
    """Return h[i] as a tuple."""
    for k in range(len(zeros)):
        zeros = tuple_setitem(zeros, k, h[i, k])
    return zeros


@serial
def preactivation(h, theta, at):
    """Return W_f . h + b_f of the feature at this place."""
    z = theta[at + np.uint64(len(h) * FEATURES)]
    for k in range(len(h)):
        z += h[k] * theta[at + np.uint64(k * FEATURES)]
    return z


@serial
def add_scaled(total, x, theta, at):
    """Return total + x W_f for the feature at this place."""
    for k in range(len(total)):
        total = tuple_setitem(total, k, total[k] + x * theta[at + np.uint64(k * FEATURES)])
    return total


def _against_tiles(n_at_once: int) -> Any:
    """Return the innermost loop: examples i, ..., i + n_at_once - 1 against a list of tiles of features.

    For each tile: z = W^T h + b; p = ReLU(z); grad_W += h p^T; grad_b += p; grad_h += W p, summed over features. From
    ``_LOOK_FROM`` hidden units on, where z is finite and negative for all of these examples and a tile, nothing else is
    done, as all would be zero.
    """

    @intrinsic
    def loop(typing_context, zeros, h, i, theta, grad, grad_h, which):
        n_hidden = len(zeros)

        def code(context, builder, signature, args):
            _, h, i, theta, grad, grad_h, which = (
                context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, args, strict=True)
            )
            index = i.type
            vector, lanes = ir.VectorType(ir.FloatType(), FEATURES), ir.IntType(FEATURES)
            zero = ir.Constant(vector, [0.0] * FEATURES)
            integers = ir.VectorType(ir.IntType(32), FEATURES)
            # As integers, negative numbers and -0 are below minus infinity; it, NaN, 0 and positive numbers are not.
            infinite = ir.Constant(integers, [_MINUS_INFINITY] * FEATURES)
            flags = ("contract", "nsz", "reassoc")

            def at(pointer: Any, *offsets: Any) -> Any:
                for offset in offsets:
                    pointer = builder.gep(pointer, [offset if hasattr(offset, "type") else index(offset)])
                return pointer

            def load(pointer: Any) -> Any:
                return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)

            def store(value: Any, pointer: Any) -> None:
                builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=4)

            def spread(pointer: Any) -> Any:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), builder.load(pointer), index(0))
                first = ir.Constant(integers, [0] * FEATURES)
                return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), first)

            def add_product(total: Any, x: Any, y: Any) -> Any:
                return builder.fadd(total, builder.fmul(x, y, flags=flags), flags=flags)

            first = builder.mul(i, index(n_hidden))
            examples, units = range(n_at_once), range(n_hidden)
            hidden = [[at(h.data, first, e * n_hidden + k) for k in units] for e in examples]
            totals = [[cgutils.alloca_once(builder, vector) for _ in units] for _ in examples]
            for e in examples:
                for k in units:
                    builder.store(zero, totals[e][k])

            with cgutils.for_range(builder, builder.extract_value(which.shape, 0), intp=index) as loop:
                tile = builder.load(at(which.data, loop.index))
                start = builder.mul(tile, index((n_hidden + 1) * FEATURES))
                w = [at(theta.data, start, k * FEATURES) for k in range(n_hidden + 1)]
                g = [at(grad.data, start, k * FEATURES) for k in range(n_hidden + 1)]
                z = [load(w[n_hidden]) for _ in examples]
                for k in units:
                    x = load(w[k])
                    for e in examples:
                        z[e] = add_product(z[e], spread(hidden[e][k]), x)
                bits = [builder.bitcast(z[e], integers) for e in examples]
                counts = functools.reduce(builder.or_, (builder.icmp_signed(">=", x, infinite) for x in bits))
                some = builder.icmp_unsigned("!=", builder.bitcast(counts, lanes), lanes(0))
                with builder.if_then(some) if n_hidden >= _LOOK_FROM else nullcontext():
                    # this way round, a NaN passes through
                    p = [builder.select(builder.fcmp_ordered("<", z[e], zero), zero, z[e]) for e in examples]
                    for k in units:
                        x, total = load(w[k]), load(g[k])
                        for e in examples:
                            builder.store(add_product(builder.load(totals[e][k]), p[e], x), totals[e][k])
                            total = add_product(total, p[e], spread(hidden[e][k]))
                        store(total, g[k])
                    total = load(g[n_hidden])
                    for e in examples:
                        total = builder.fadd(total, p[e], flags=flags)
                    store(total, g[n_hidden])

            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), vector])
            name = f"llvm.vector.reduce.fadd.v{FEATURES}f32"
            add_up = cgutils.get_or_insert_function(builder.module, kind, name)
            for e in examples:
                for k in units:
                    to = at(grad_h.data, first, e * n_hidden + k)
                    total = builder.call(add_up, [builder.load(to), builder.load(totals[e][k])], fastmath=flags)
                    builder.store(total, to)
            return context.get_dummy_value()

        return types.void(zeros, h, i, theta, grad, grad_h, which), code

    return loop


_one, _two, _three, _four = (_against_tiles(n) for n in (1, 2, 3, 4))


@serial
def dense(zeros, h, theta, grad, grad_h, which):
    """Add to grad and grad_h the sums over all examples, and these tiles of features.

    ``which`` (int64) lists the tiles; h and grad_h are (n_examples, n_hidden), theta and grad in tiles.
    """
    i, n = np.int64(0), h.shape[0]
    if 4 * len(zeros) <= _ACCUMULATORS:
        while i + 4 <= n:
            _four(zeros, h, i, theta, grad, grad_h, which)
            i += 4
    if 3 * len(zeros) <= _ACCUMULATORS:
        while i + 3 <= n:
            _three(zeros, h, i, theta, grad, grad_h, which)
            i += 3
    while i + 2 <= n:
        _two(zeros, h, i, theta, grad, grad_h, which)
        i += 2
    while i < n:
        _one(zeros, h, i, theta, grad, grad_h, which)
        i += 1
