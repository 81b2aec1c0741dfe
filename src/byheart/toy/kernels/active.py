"""Outputs that are active, which are few at trained weights: found in whole vectors, and listed as bits.

An output is inactive where its pre-activation z is not above 0, and adds nothing to the gradient then. What is NaN
counts as active, so that it is not lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from byheart.toy.kernels.compile import serial

_LANES = 16  # of a vector
_VECTORS = 4  # whose bits make a word
BITS = _LANES * _VECTORS  # outputs of a word
_FLAGS = ("contract", "nsz", "reassoc")


def arrays(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """The data of arguments that are arrays, the others as they are."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


@intrinsic
def _activate_word(typing_context, z, at, bias, f):
    """Add bias[f:] to z[at:], of one word of outputs; return the bits of those that are active."""

    def code(context, builder, signature, args):
        z, at, bias, f = arrays(context, builder, signature, args)
        vector, word = ir.VectorType(ir.FloatType(), _LANES), ir.IntType(64)
        found = word(0)
        for v in range(_VECTORS):
            here = builder.gep(z, [builder.add(at, at.type(v * _LANES))])
            there = builder.gep(bias, [builder.add(f, f.type(v * _LANES))])
            here, there = (builder.bitcast(pointer, vector.as_pointer()) for pointer in (here, there))
            value = builder.fadd(builder.load(here, align=4), builder.load(there, align=4))
            builder.store(value, here, align=4)
            above = builder.fcmp_unordered(">", value, ir.Constant(vector, [0.0] * _LANES))
            bits = builder.zext(builder.bitcast(above, ir.IntType(_LANES)), word)
            found = builder.or_(found, builder.shl(bits, word(v * _LANES)))
        return found

    return types.uint64(z, types.int64, bias, types.int64), code


@intrinsic
def count(typing_context, word):
    """Return how many bits are set."""
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


@intrinsic
def lowest(typing_context, word):
    """Return the place of the lowest bit that is set."""

    def code(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), code


@intrinsic
def add_scaled(typing_context, to, at, p, source, start, size):
    """Add p times source[start:] to to[at:], so many numbers; they are no parts of each other."""

    def code(context, builder, signature, args):
        to, at, p, source, start, size = arrays(context, builder, signature, args)
        vector, index = ir.VectorType(ir.FloatType(), _LANES), size.type

        def add(place: Any, p: Any, kind: Any) -> None:
            here, there = builder.gep(to, [builder.add(at, place)]), builder.gep(source, [builder.add(start, place)])
            if kind is vector:
                here, there = (builder.bitcast(pointer, vector.as_pointer()) for pointer in (here, there))
            product = builder.fmul(p, builder.load(there, align=4), flags=_FLAGS)
            builder.store(builder.fadd(builder.load(here, align=4), product, flags=_FLAGS), here, align=4)

        one = builder.insert_element(ir.Constant(vector, ir.Undefined), p, index(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        spread = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)
        whole = builder.and_(size, index(-_LANES))
        for first, last, step, value, kind in ((index(0), whole, _LANES, spread, vector), (whole, size, 1, p, None)):
            _loop(builder, first, last, step, lambda place, value=value, kind=kind: add(place, value, kind))
        return context.get_dummy_value()

    return types.void(to, types.int64, types.float32, source, types.int64, types.int64), code


@intrinsic
def dot(typing_context, a, i, b, j, size):
    """Return the sum of a[i + k] b[j + k], of so many numbers."""

    def code(context, builder, signature, args):
        a, i, b, j, size = arrays(context, builder, signature, args)
        vector, index, single = ir.VectorType(ir.FloatType(), _LANES), size.type, ir.FloatType()
        whole = builder.and_(size, index(-_LANES))
        total = None
        for first, last, step, kind in ((index(0), whole, _LANES, vector), (whole, size, 1, single)):
            sums = cgutils.alloca_once(builder, kind)
            builder.store(ir.Constant(kind, [0.0] * _LANES if kind is vector else 0.0), sums)

            def add(place: Any, kind: Any = kind, sums: Any = sums) -> None:
                here, there = builder.gep(a, [builder.add(i, place)]), builder.gep(b, [builder.add(j, place)])
                here, there = (builder.bitcast(pointer, kind.as_pointer()) for pointer in (here, there))
                product = builder.fmul(builder.load(here, align=4), builder.load(there, align=4), flags=_FLAGS)
                builder.store(builder.fadd(builder.load(sums), product, flags=_FLAGS), sums)

            _loop(builder, first, last, step, add)
            found = builder.load(sums)
            if kind is vector:
                add_up = ir.FunctionType(single, [single, vector])
                name = f"llvm.vector.reduce.fadd.v{_LANES}f32"
                function = cgutils.get_or_insert_function(builder.module, add_up, name)
                found = builder.call(function, [single(0.0), found], fastmath=_FLAGS)
            total = found if total is None else builder.fadd(total, found, flags=_FLAGS)
        return total

    return types.float32(a, types.int64, b, types.int64, types.int64), code


def _loop(builder: Any, first: Any, last: Any, step: int, body: Any) -> None:
    """Write a loop over ``range(first, last, step)``."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    place = builder.phi(first.type)
    place.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", place, last), inside, after)
    builder.position_at_end(inside)
    body(place)
    place.add_incoming(builder.add(place, first.type(step)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


@serial
def activate(z, bias, words):
    """Add the bias to products z; set ``words`` to the bits of what is active in each row, and return how many are."""
    n_rows, n_features = z.shape
    flat, n_active = z.reshape(-1), np.int64(0)
    for i in range(n_rows):
        start = np.int64(i * n_features)
        for word in range(words.shape[1]):
            f = np.int64(word * BITS)
            bits = np.uint64(0)
            if f + BITS <= n_features:
                bits = _activate_word(flat, start + f, bias, f)
            else:
                for j in range(f, n_features):
                    flat[start + j] += bias[j]
                    if not flat[start + j] <= 0:  # so that NaN is active
                        bits |= np.uint64(1) << np.uint64(j - f)
            words[i, word] = bits
            n_active += count(bits)
    return n_active


@serial
def add_active(z, words, h, W, bias_gradient, W_gradient, h_gradient):
    """Add to the gradients what active outputs z, listed in ``words``, give with hidden vectors h and weights W.

    z is (n_rows, n_features), h (n_rows, n_hidden), W (n_features, n_hidden); gradients have the shapes of what they
    are of. Rows come one after the other, and their features in order.
    """
    n_hidden = np.int64(h.shape[1])
    h, W = h.reshape(-1), W.reshape(-1)
    W_gradient, h_gradient = W_gradient.reshape(-1), h_gradient.reshape(-1)
    for i in range(z.shape[0]):
        of_row = np.int64(i * n_hidden)
        for word in range(words.shape[1]):
            bits = words[i, word]
            while bits != np.uint64(0):
                f = np.int64(word * BITS) + lowest(bits)
                bits &= bits - np.uint64(1)
                p, of_feature = z[i, f], np.int64(f * n_hidden)
                bias_gradient[f] += p
                add_scaled(W_gradient, of_feature, p, h, of_row, n_hidden)
                add_scaled(h_gradient, of_row, p, W, of_feature, n_hidden)


@serial
def add_listed(words, h, W, b, bias_gradient, W_gradient, h_gradient):
    """Add to the gradients what outputs listed in ``words`` give, where they are active; shapes as in ``add_active``.

    Returns:
        How many are listed.
    """
    n_hidden, n_listed = np.int64(h.shape[1]), np.int64(0)
    h, W = h.reshape(-1), W.reshape(-1)
    W_gradient, h_gradient = W_gradient.reshape(-1), h_gradient.reshape(-1)
    for i in range(words.shape[0]):
        of_row = np.int64(i * n_hidden)
        for word in range(words.shape[1]):
            bits = words[i, word]
            n_listed += count(bits)
            while bits != np.uint64(0):
                f = np.int64(word * BITS) + lowest(bits)
                bits &= bits - np.uint64(1)
                of_feature = np.int64(f * n_hidden)
                p = b[f] + dot(W, of_feature, h, of_row, n_hidden)
                if not p <= 0:  # so that NaN is active
                    bias_gradient[f] += p
                    add_scaled(W_gradient, of_feature, p, h, of_row, n_hidden)
                    add_scaled(h_gradient, of_row, p, W, of_feature, n_hidden)
    return n_listed
