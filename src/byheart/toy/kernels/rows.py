"""Rows of 4 or 8 numbers, each of them one vector of the processor: sums and products of two.

A row is as long as a vector that processors have; what is beyond n_hidden is 0. ``zeros`` is a tuple of as many zeros,
as its length is known to the compiler.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from byheart.toy.kernels.active import arrays

FLAGS = ("contract", "nsz", "reassoc")


def lanes(n_hidden: int) -> int:
    """Return how long a row is: a vector of a length that processors have."""
    return 4 if n_hidden <= 4 else 8


def row(builder: Any, rows: Any, i: Any, size: int) -> Any:
    """Point to row i, as a vector."""
    return builder.bitcast(
        builder.gep(rows, [builder.mul(i, i.type(size))]), ir.VectorType(ir.FloatType(), size).as_pointer()
    )


def load(builder: Any, rows: Any, i: Any, size: int) -> Any:
    """Return row i, as a vector."""
    return builder.load(row(builder, rows, i, size), align=4)


def total(builder: Any, vector: Any, size: int) -> Any:
    """Add up the lanes of a vector."""
    kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), ir.VectorType(ir.FloatType(), size)])
    add_up = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{size}f32")
    return builder.call(add_up, [ir.FloatType()(0.0), vector], fastmath=FLAGS)


def spread(builder: Any, value: Any, size: int) -> Any:
    """Return a vector that has the value in every lane."""
    vector, lane = ir.VectorType(ir.FloatType(), size), ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, lane(0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(lane, size), [0] * size)
    )


@intrinsic
def dot(typing_context, zeros, a, i, b, j):
    """Return a[i] . b[j]."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, a, i, b, j = arrays(context, builder, signature, args)
        product = builder.fmul(load(builder, a, i, size), load(builder, b, j, size), flags=FLAGS)
        return total(builder, product, size)

    return types.float32(zeros, a, types.int64, b, types.int64), code


@intrinsic
def square_distance(typing_context, zeros, a, i, b, j):
    """Return |a[i] - b[j]|^2."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, a, i, b, j = arrays(context, builder, signature, args)
        difference = builder.fsub(load(builder, a, i, size), load(builder, b, j, size), flags=FLAGS)
        return total(builder, builder.fmul(difference, difference, flags=FLAGS), size)

    return types.float32(zeros, a, types.int64, b, types.int64), code


@intrinsic
def add_scaled(typing_context, zeros, to, i, p, source, j):
    """Add p source[j] to to[i]."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, to, i, p, source, j = arrays(context, builder, signature, args)
        product = builder.fmul(spread(builder, p, size), load(builder, source, j, size), flags=FLAGS)
        both = builder.fadd(load(builder, to, i, size), product, flags=FLAGS)
        builder.store(both, row(builder, to, i, size), align=4)
        return context.get_dummy_value()

    return types.void(zeros, to, types.int64, types.float32, source, types.int64), code


@intrinsic
def copy(typing_context, zeros, to, i, source, j):
    """Set to[i] to source[j]."""
    size = len(zeros)

    def code(context, builder, signature, args):
        _, to, i, source, j = arrays(context, builder, signature, args)
        builder.store(load(builder, source, j, size), row(builder, to, i, size), align=4)
        return context.get_dummy_value()

    return types.void(zeros, to, types.int64, source, types.int64), code
