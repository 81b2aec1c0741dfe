"""The Triton programs of the GPU kernel.

The models of a launch are laid end to end: the examples of all models are rows 0 to n_rows, their features columns 0 to
n_columns. A model begins at a multiple of 64 of both; zeros in between let inner loops go without masks.
``W_row`` and ``W_unit`` are the steps in memory from one column's weights to the next and from one hidden unit to the
next; ``h_row`` and ``h_unit`` likewise. Every sum has a fixed order (parts, no atomics), so the bits never change.
"""

import triton
import triton.language as tl


@triton.jit
def _relu(z):
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)  # one instruction, and NaN passes


@triton.jit
def hidden(
    W, indptr, indices, values, h, position, n_hidden, W_row, W_unit, h_row, h_unit,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """h_i = W x_i; the first program also counts the step."""
    if tl.program_id(0) == 0:
        tl.store(position, tl.load(position) + 1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, UNITS)[None, :]
    begin, end = tl.load(indptr + i), tl.load(indptr + i + 1)
    total = tl.zeros((ROWS, UNITS), tl.float32)
    for offset in range(0, tl.max(end - begin, 0), ENTRIES):
        entry = begin[:, None] + offset + tl.arange(0, ENTRIES)[None, :]
        inside = (entry < end[:, None])[:, :, None]
        f = tl.load(indices + entry[:, :, None], inside, 0).to(tl.int64)
        x = tl.load(values + entry[:, :, None], inside, 0.0)
        total += tl.sum(x * tl.load(W + f * W_row + k[None] * W_unit, inside & (k < n_hidden)[None], 0.0), 1)
    tl.store(h + i.to(tl.int64)[:, None] * h_row + k * h_unit, total, k < n_hidden)


@triton.jit
def sums_over_examples(
    W, b, h, present, pieces, parts_W, parts_b, n_rows, n_columns,
    N_HIDDEN: tl.constexpr, FEATURES: tl.constexpr, EXAMPLES: tl.constexpr,
):  # fmt: skip
    """For few hidden units: one part of sum_i d_if h_i and sum_i d_if, where d_if = relu(W_f . h_i + b_f)."""
    piece = pieces + tl.program_id(0) * 5
    part, first, last = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2)
    begin, end = tl.multiple_of(tl.load(piece + 3), EXAMPLES), tl.load(piece + 4)
    n_rows, n_columns = n_rows.to(tl.int64), n_columns.to(tl.int64)
    f = first + tl.arange(0, FEATURES)
    inside = f < last
    bias = tl.load(b + f, inside, 0.0)[None, :]
    sum_b = tl.zeros((FEATURES,), tl.float32)
    weights, sums = (), ()
    for k in tl.static_range(N_HIDDEN):
        weights = weights + (tl.load(W + k * n_columns + f, inside, 0.0)[None, :],)
        sums = sums + (tl.zeros((FEATURES,), tl.float32),)
    for start in range(begin, end, EXAMPLES):
        i = start + tl.arange(0, EXAMPLES)
        z, units, added = bias, (), ()
        for k in tl.static_range(N_HIDDEN):
            units = units + (tl.load(h + k * n_rows + i)[:, None],)
            z = z + units[k] * weights[k]
        d = _relu(z)
        for k in tl.static_range(N_HIDDEN):
            added = added + (sums[k] + tl.sum(d * units[k], 0),)
        sums = added
        sum_b += tl.sum(d * tl.load(present + i)[:, None], 0)  # a row of padding answers relu(b)
    for k in tl.static_range(N_HIDDEN):
        tl.store(parts_W + (part * N_HIDDEN + k) * n_columns + f, sums[k], inside)
    tl.store(parts_b + part * n_columns + f, sum_b, inside)


@triton.jit
def sums_over_features(
    W, b, h, pieces, parts_h, n_rows, n_columns,
    N_HIDDEN: tl.constexpr, EXAMPLES: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """For few hidden units: one part of sum_f d_if W_f. Computing d again is cheaper than keeping it."""
    piece = pieces + tl.program_id(0) * 5
    part, first, last = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2)
    begin, end = tl.multiple_of(tl.load(piece + 3), FEATURES), tl.load(piece + 4)
    n_rows, n_columns = n_rows.to(tl.int64), n_columns.to(tl.int64)
    i = first + tl.arange(0, EXAMPLES)
    inside = i < last
    units, sums = (), ()
    for k in tl.static_range(N_HIDDEN):
        units = units + (tl.load(h + k * n_rows + i, inside, 0.0)[None, :],)
        sums = sums + (tl.zeros((EXAMPLES,), tl.float32),)
    for start in range(begin, end, FEATURES):
        f = start + tl.arange(0, FEATURES)
        z, weights, added = tl.load(b + f)[:, None], (), ()
        for k in tl.static_range(N_HIDDEN):
            weights = weights + (tl.load(W + k * n_columns + f)[:, None],)
            z = z + units[k] * weights[k]
        d = _relu(z)
        for k in tl.static_range(N_HIDDEN):
            added = added + (sums[k] + tl.sum(d * weights[k], 0),)
        sums = added
    for k in tl.static_range(N_HIDDEN):
        tl.store(parts_h + (part * N_HIDDEN + k) * n_rows + i, sums[k], inside)


@triton.jit
def activations(
    W, b, h, present, models, d, one, start, n_rows, n_features, n_hidden, W_row, W_unit, h_row, h_unit,
    EXAMPLES: tl.constexpr, FEATURES: tl.constexpr, UNITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For many hidden units: d_if of the rows from ``start`` on; 0 in rows of padding.

    ``one`` is 1, unknown to the compiler: so each short product is added in float32, rounded to nearest, and not inside
    the tensor cores, whose additions truncate.
    """
    row = tl.program_id(0) * EXAMPLES + tl.arange(0, EXAMPLES).to(tl.int64)[:, None]
    i = start + row
    f = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)[None, :]
    column = tl.load(models + start // EXAMPLES + tl.program_id(0)).to(tl.int64) * n_features + f
    z = tl.zeros((EXAMPLES, FEATURES), tl.float32)
    for first in range(0, n_hidden, UNITS):
        k = first + tl.arange(0, UNITS)
        units = tl.load(h + i * h_row + k[None, :] * h_unit, (i < n_rows) & (k < n_hidden)[None, :], 0.0)
        weights = tl.load(W + column * W_row + k[:, None] * W_unit, (f < n_features) & (k < n_hidden)[:, None], 0.0)
        z += one * tl.dot(units, weights, input_precision=PRECISION)
    z += tl.load(b + column, f < n_features, 0.0)
    real = tl.load(present + i, i < n_rows, 0.0) > 0
    tl.store(d + row * n_features + f, tl.where(real, _relu(z), 0.0), f < n_features)


@triton.jit(do_not_specialize=["first_model"])
def add_products_with_examples(
    h, d, first_rows, sums_W, sums_b, one, start, stop, first_model, n_features, n_hidden,
    FEATURES: tl.constexpr, UNITS: tl.constexpr, EXAMPLES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For many hidden units: add sum_i d_if h_i and sum_i d_if over a model's rows from ``start`` to ``stop``."""
    model = first_model + tl.program_id(2)
    begin = tl.maximum(start, tl.load(first_rows + model))
    end = tl.minimum(stop, tl.load(first_rows + model + 1))
    f = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    k = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    column = model.to(tl.int64) * n_features + f
    place, inside = column[:, None] * n_hidden + k[None, :], (f < n_features)[:, None] & (k < n_hidden)[None, :]
    total, total_b = tl.load(sums_W + place, inside, 0.0), tl.load(sums_b + column, f < n_features, 0.0)
    for first in range(begin, end, EXAMPLES):
        i = first + tl.arange(0, EXAMPLES).to(tl.int64)[:, None]
        d_tile = tl.load(d + (i - start) * n_features + f[None, :], (i < end) & (f < n_features)[None, :], 0.0)
        units = tl.load(h + i * n_hidden + k[None, :], (i < end) & (k < n_hidden)[None, :], 0.0)
        total += one * tl.dot(tl.trans(d_tile), units, input_precision=PRECISION)
        total_b += tl.sum(d_tile, 0)
    tl.store(sums_W + place, total, inside)
    if tl.program_id(1) == 0:
        tl.store(sums_b + column, total_b, f < n_features)


@triton.jit
def products_with_features(
    W, d, models, parts_h, one, start, n_rows, n_features, n_hidden, n_parts,
    EXAMPLES: tl.constexpr, UNITS: tl.constexpr, FEATURES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For many hidden units: one part of sum_f d_if W_f of the rows from ``start`` on."""
    row = tl.program_id(0) * EXAMPLES + tl.arange(0, EXAMPLES).to(tl.int64)[:, None]
    k = tl.program_id(1) * UNITS + tl.arange(0, UNITS)[None, :]
    part = tl.program_id(2)
    first_column = tl.load(models + start // EXAMPLES + tl.program_id(0)).to(tl.int64) * n_features
    size = tl.cdiv(tl.cdiv(n_features, n_parts), FEATURES) * FEATURES
    end = tl.minimum((part + 1) * size, n_features)
    total = tl.zeros((EXAMPLES, UNITS), tl.float32)
    for first in range(part * size, end, FEATURES):
        f = first + tl.arange(0, FEATURES)
        d_tile = tl.load(d + row * n_features + f[None, :], (start + row < n_rows) & (f < end)[None, :], 0.0)
        weights = tl.load(W + (first_column + f[:, None]) * n_hidden + k, (f < end)[:, None] & (k < n_hidden), 0.0)
        total += one * tl.dot(d_tile, weights, input_precision=PRECISION)
    i = part.to(tl.int64) * n_rows + start + row
    tl.store(parts_h + i * n_hidden + k, total, (start + row < n_rows) & (k < n_hidden))


@triton.jit
def hidden_gradient(
    W, b, h, indptr, indices, values, parts_h, models, n_parts, scales, grad_h,
    n_rows, n_hidden, W_row, W_unit, h_row, h_unit,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, UNITS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Sum the parts, take x_f W_f off at each active nonzero target, and scale."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, UNITS)[None, :]
    model = tl.load(models + tl.program_id(0) * ROWS // 64)
    begin, end = tl.load(indptr + i), tl.load(indptr + i + 1)
    place = i.to(tl.int64)[:, None] * h_row + k * h_unit
    units = tl.load(h + place, k < n_hidden, 0.0)
    total = tl.zeros((ROWS, UNITS), tl.float32)
    last = tl.load(n_parts + model)
    for first in range(0, last, PARTS):
        part = first + tl.arange(0, PARTS).to(tl.int64)[:, None, None]
        there = (part < last) & (k[None] < n_hidden)
        total += tl.sum(tl.load(parts_h + part * n_rows * n_hidden + place[None], there, 0.0), 0)
    for offset in range(0, tl.max(end - begin, 0), ENTRIES):
        entry = begin[:, None] + offset + tl.arange(0, ENTRIES)[None, :]
        inside = entry < end[:, None]
        f = tl.load(indices + entry, inside, 0).to(tl.int64)
        x = tl.load(values + entry, inside, 0.0)
        there = inside[:, :, None] & (k < n_hidden)[None]
        w = tl.load(W + f[:, :, None] * W_row + k[None] * W_unit, there, 0.0)
        z = tl.sum(w * units[:, None, :], 2) + tl.load(b + f)
        total -= tl.sum(tl.where(z > 0, x, 0.0)[:, :, None] * w, 1)
    tl.store(grad_h + place, total * tl.load(scales + model), k < n_hidden)


@triton.jit
def weight_gradient(
    W, b, h, grad_h, column_ptr, rows, values, parts_W, parts_b, columns, n_parts, scales, grad_W, grad_b,
    n_columns, n_features, n_hidden, W_row, W_unit, h_row, h_unit,
    COLUMNS: tl.constexpr, ENTRIES: tl.constexpr, UNITS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Sum the parts, take x_f h_i off at each active nonzero target, scale, and add x_f times the gradient of h_i.

    ``columns`` lists the columns to compute, -1 where there is none; those of a program belong to one model.
    """
    column = tl.load(columns + tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))
    model = tl.maximum(tl.max(column, 0), 0) // n_features
    k = tl.arange(0, UNITS)[None, :]
    f = tl.maximum(column, 0).to(tl.int64)
    begin = tl.load(column_ptr + f)
    end = tl.where(column >= 0, tl.load(column_ptr + f + 1), begin)
    place = f[:, None] * W_row + k * W_unit
    weights, bias = tl.load(W + place, k < n_hidden, 0.0), tl.load(b + f)[:, None]
    total, total_b = tl.zeros((COLUMNS, UNITS), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    last = tl.load(n_parts + model)
    for first in range(0, last, PARTS):
        part = first + tl.arange(0, PARTS).to(tl.int64)[:, None]
        total_b += tl.sum(tl.load(parts_b + part * n_columns + f[None, :], part < last, 0.0), 0)
        parts = parts_W + (part * n_columns * n_hidden)[:, :, None] + place[None]
        total += tl.sum(tl.load(parts, (part < last)[:, :, None] & (k < n_hidden)[None], 0.0), 0)
    through_h = tl.zeros((COLUMNS, UNITS), tl.float32)
    targets = tl.zeros((COLUMNS,), tl.float64)  # all of one sign, so in float32 the last would hardly count
    for offset in range(0, tl.max(end - begin, 0), ENTRIES):
        entry = begin[:, None] + offset + tl.arange(0, ENTRIES)[None, :]
        inside = entry < end[:, None]
        i = tl.load(rows + entry, inside, 0).to(tl.int64)[:, :, None] * h_row + k[None] * h_unit
        x = tl.load(values + entry, inside, 0.0)
        there = inside[:, :, None] & (k < n_hidden)[None]
        units = tl.load(h + i, there, 0.0)
        x_active = tl.where(tl.sum(weights[:, None, :] * units, 2) + bias > 0, x, 0.0)
        total -= tl.sum(x_active[:, :, None] * units, 1)
        through_h += tl.sum(x[:, :, None] * tl.load(grad_h + i, there, 0.0), 1)
        targets += tl.sum(x_active.to(tl.float64), 1)
    scale = tl.load(scales + model)
    tl.store(grad_W + place, total * scale + through_h, (column >= 0)[:, None] & (k < n_hidden))
    tl.store(grad_b + f, ((total_b - targets) * scale).to(tl.float32), column >= 0)


@triton.jit
def _adamw_tile(p, g, m, v, there, keep, step_size, root_bias2, one_less_beta1, one_less_beta2, eps):
    old, grad = tl.load(p, there, 0.0), tl.load(g, there, 0.0)
    first, second = tl.load(m, there, 0.0), tl.load(v, there, 0.0)
    first += one_less_beta1 * (grad - first)
    second += one_less_beta2 * (grad * grad - second)
    update = tl.div_rn(first, tl.sqrt_rn(second) * root_bias2 + eps)
    tl.store(m, first, there)
    tl.store(v, second, there)
    tl.store(p, old * keep - step_size * update, there)


@triton.jit
def adamw(
    W, b, grad_W, grad_b, m_W, v_W, m_b, v_b, settings, position, diverged,
    one_less_beta1, one_less_beta2, eps, n_settings, n_columns, n_features, n_real_features, n_hidden, W_row, W_unit,
    COLUMNS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """One step; ``settings`` holds its numbers per model and position, ``diverged`` its first bad position or -1."""
    f = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, UNITS)[None, :]
    model, now = f // n_features, tl.load(position)
    real = (f < n_columns) & (f % n_features < n_real_features)
    grad = tl.load(grad_b + f, real, 0.0)
    bad = real & ((tl.abs(grad) < float("inf")) == 0)  # NaN or infinite as soon as any pre-activation is
    tl.store(diverged + model, now, bad & (tl.load(diverged + model, real, 0) < 0))  # all programs write the same
    row = settings + (model * n_settings + now) * 4
    step_size, root_bias2 = tl.load(row, real, 0.0), tl.load(row + 1, real, 0.0)
    keep_W, keep_b = tl.load(row + 2, real, 0.0), tl.load(row + 3, real, 0.0)
    _adamw_tile(
        b + f, grad_b + f, m_b + f, v_b + f, real,
        keep_b, step_size, root_bias2, one_less_beta1, one_less_beta2, eps,
    )  # fmt: skip
    place = f.to(tl.int64)[:, None] * W_row + k * W_unit
    _adamw_tile(
        W + place, grad_W + place, m_W + place, v_W + place, real[:, None] & (k < n_hidden),
        keep_W[:, None], step_size[:, None], root_bias2[:, None], one_less_beta1, one_less_beta2, eps,
    )  # fmt: skip
