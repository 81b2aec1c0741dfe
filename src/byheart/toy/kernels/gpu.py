"""The GPU kernel: float32, in Triton, many models of one shape per launch; the programs are in ``gpu_programs``.

The T x n matrix of outputs never exists. Per step:

1. ``hidden``: h_i = W x_i, from the nonzeros of x.
2. As if every target were 0, d_if = ReLU(W_f . h_i + b_f) and its sums over examples and over features. For up to 15
   hidden units ``sums_over_examples`` and ``sums_over_features`` each compute d in registers. Beyond, d of a thousand
   rows or so is kept, for matrix products on the tensor cores (tf32x3: near float32, where tf32 has half the digits).
3. ``hidden_gradient``, ``weight_gradient``: what the nonzero targets change, at the nonzeros only.
4. ``adamw``, with its settings of up to 1,024 steps ahead already on the device.

A step is recorded once as a CUDA graph and then replayed; the host looks at the result twice a second. How sums are cut
depends on a model's own sizes only, so a model gets the same bits alone and together with others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.sparse
import torch
import triton
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.kernels import gpu_programs as programs
from byheart.toy.model import Reduction, loss_scale
from byheart.toy.pace import Pace

Precision = Literal["tf32x3", "tf32", "ieee"]

_FEW_UNITS = 15  # more do not fit in registers
_PADDING = 64  # a model's rows and columns are padded to a multiple of this
_MAX_PARTS = 32  # of a sum
_EXAMPLES_PER_PART, _FEATURES_PER_PART = 128, 256  # at least
_ENOUGH_PIECES = 640  # keep a large GPU busy
_OWNED, _STREAMED = 256, 16  # a piece's own examples or features; of the others, how many at a time
_ENTRIES_OF_A_LONG_COLUMN = 512
_OUTPUTS_AT_ONCE = 2**24  # of d in a pass: 64 MiB
_STEPS_AHEAD = 1024
_SECONDS_PER_LOOK = 0.5  # Ctrl-C is answered and divergence noticed this often


def device() -> torch.device:
    """Return the GPU, or the CPU in Triton's interpreter (TRITON_INTERPRET=1, for tests).

    Raises:
        ValueError: If there is no GPU that these programs run on.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        raise ValueError('kernel: received "gpu", but no CUDA device was found (accepted: compute capability >= 8.0)')
    return torch.device("cuda", torch.cuda.current_device())


def device_name() -> str:
    """Return what the kernel runs on, in words."""
    return "Triton's interpreter" if device().type == "cpu" else torch.cuda.get_device_name()


def _empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device())


def _on_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device())


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _cut(length: int, n_parts: int) -> range:
    """The starts of at most that many parts, each at a multiple of what is streamed at a time."""
    return range(0, length, _up(-(-length // n_parts), _STREAMED))


def _pieces(blocks: list[tuple[int, int]], parts: list[tuple[int, int]]) -> list[tuple[int, int, int, int, int]]:
    """(part, first, last, begin, end) of every block with every part of what is summed over."""
    return [(part, *block, *bounds) for block in blocks for part, bounds in enumerate(parts)]


def _bounds(starts: range, offset: int) -> list[tuple[int, int]]:
    return [(offset + start, offset + min(start + starts.step, starts.stop)) for start in starts]


class _Weights:
    """The weights of all models, as float32 arrays on the device in the layout that suits their width."""

    def __init__(self, W: Sequence[Float[np.ndarray, "n_hidden n_features"]], b: Sequence[np.ndarray]) -> None:
        self.n_models, (self.n_hidden, self.n_features) = len(W), W[0].shape
        if any(w.shape != W[0].shape for w in W):
            raise ValueError(
                f"models: received W of shapes {sorted({w.shape for w in W})}, accepted: one shape for all"
            )
        self.few = self.n_hidden <= _FEW_UNITS
        self.units = self.n_hidden if self.few else _up(self.n_hidden, 16)
        self.width = _up(self.n_features, _PADDING)  # of a model
        self.n_columns = self.n_models * self.width
        padding = ((0, 0), (0, self.units - self.n_hidden), (0, self.width - self.n_features))
        stacked = np.pad(np.stack(W).astype(np.float32), padding).transpose((1, 0, 2) if self.few else (0, 2, 1))
        self.W = _on_device(stacked.reshape(self.shape(self.n_columns)))
        self.b = _on_device(np.pad(np.stack(b).astype(np.float32), (padding[0], padding[2])).reshape(-1))

    def shape(self, n: int) -> tuple[int, int]:
        """Of an array with a row of hidden units for each of n examples or features."""
        return (self.units, n) if self.few else (n, self.units)

    def steps(self, n: int) -> tuple[int, int]:
        """In such an array, from one of n to the next and from one hidden unit to the next."""
        return (1, n) if self.few else (self.units, 1)

    def tile(self) -> tuple[int, int, int]:
        """Rows or columns, nonzeros of each, and hidden units that a sparse program handles at a time."""
        units = triton.next_power_of_2(self.units)
        entries = max(1, min(16, 4096 // units))
        return max(1, 1024 // (entries * units)), entries, units

    def model(self, W: torch.Tensor, b: torch.Tensor, model: int) -> tuple[np.ndarray, np.ndarray]:
        """Copy one model's part of two arrays laid out like W and b to the host."""
        columns = slice(model * self.width, model * self.width + self.n_features)
        part = W[: self.n_hidden, columns] if self.few else W[columns, : self.n_hidden].T
        return part.contiguous().cpu().numpy(), b[columns].cpu().numpy()


class _Rows:
    """The examples of all models on the device, row by row, and their hidden vectors."""

    def __init__(self, weights: _Weights, examples: Sequence[SparseExamples]) -> None:
        self.n_examples = [e.n_examples for e in examples]
        self.first_rows = np.cumsum([0, *(_up(n, _PADDING) for n in self.n_examples)])
        self.n_rows = int(self.first_rows[-1])
        if max(self.n_rows, weights.n_columns) >= 2**31 - _OWNED:
            raise ValueError(f"n_examples: received {self.n_rows} in all models, accepted: fewer than 2**31")
        present = np.zeros(self.n_rows, np.float32)
        counts = np.zeros(self.n_rows, np.int64)
        for first, n, e in zip(self.first_rows, self.n_examples, examples, strict=False):
            present[first : first + n] = 1
            counts[first : first + n] = np.diff(e.indptr)
        self.host_indptr = np.concatenate([[0], np.cumsum(counts)])
        self.host_indices = np.concatenate([e.indices + np.int32(j * weights.width) for j, e in enumerate(examples)])
        self.host_values = np.concatenate([e.values for e in examples])
        self.indptr, self.present = _on_device(self.host_indptr), _on_device(present)
        self.indices, self.values = _on_device(self.host_indices), _on_device(self.host_values)
        self.models = _on_device(
            np.repeat(np.arange(len(examples)), np.diff(self.first_rows) // _PADDING).astype(np.int32)
        )
        self.h = _empty(weights.shape(self.n_rows))
        self.pass_rows = max(_PADDING, min(4096, _OUTPUTS_AT_ONCE // weights.width // _PADDING * _PADDING))

    def find_hidden(self, weights: _Weights, position: torch.Tensor) -> None:
        """Set h, and count the step."""
        at_once, entries, units = weights.tile()
        programs.hidden[(self.n_rows // at_once,)](
            weights.W, self.indptr, self.indices, self.values, self.h, position, weights.units,
            *weights.steps(weights.n_columns), *weights.steps(self.n_rows),
            ROWS=at_once, ENTRIES=entries, UNITS=units,
        )  # fmt: skip

    def find_activations(self, weights: _Weights, d: torch.Tensor, start: int, stop: int, precision: Precision) -> None:
        """Set d of the rows from start to stop."""
        programs.activations[((stop - start) // _PADDING, triton.cdiv(weights.width, 128))](
            weights.W, weights.b, self.h, self.present, self.models, d, 1.0, start, self.n_rows, weights.width,
            weights.units, *weights.steps(weights.n_columns), *weights.steps(self.n_rows),
            EXAMPLES=_PADDING, FEATURES=128, UNITS=16 if weights.units <= 16 else 32, PRECISION=precision, num_warps=8,
        )  # fmt: skip

    def passes(self) -> list[tuple[int, int]]:
        """First and last row of each pass."""
        return [(start, min(start + self.pass_rows, self.n_rows)) for start in range(0, self.n_rows, self.pass_rows)]


class _Problem:
    """The examples by rows and by columns, how sums over them are cut, and scratch memory."""

    def __init__(self, weights: _Weights, examples: Sequence[SparseExamples], reduction: Reduction) -> None:
        expanded = [e.expanded() for e in examples]
        self.rows = _Rows(weights, expanded)
        self._by_columns(weights)
        scales = [2 * loss_scale(weights.n_features, reduction) / e.n_examples for e in expanded]
        self.scales = _on_device(np.array(scales, np.float32))
        n_rows, width = self.rows.n_rows, weights.width
        if weights.few:
            groups, splits = self._cut_into_pieces(weights)
        else:
            n_splits = max(1, min(512 // weights.units, 8, width // 512))  # enough programs for narrow models
            groups, splits = [1] * weights.n_models, [n_splits] * weights.n_models
            self.first_rows = _on_device(self.rows.first_rows.astype(np.int32))
            self.d = _empty((min(self.rows.pass_rows, n_rows), width))
        self.n_groups, self.n_splits = (_on_device(np.array(n, np.int32)) for n in (groups, splits))
        self.most_splits = max(splits)
        self.parts_W = _empty((max(groups), *weights.shape(weights.n_columns)))
        self.parts_b = _empty((max(groups), weights.n_columns))
        self.parts_h = _empty((max(splits), *weights.shape(n_rows)))
        self.grad_h = _empty(weights.shape(n_rows))
        self.grad_W, self.grad_b = _empty(weights.shape(weights.n_columns)), _empty((weights.n_columns,))

    def _cut_into_pieces(self, weights: _Weights) -> tuple[list[int], list[int]]:
        """Make the lists of pieces; return each model's number of groups of examples and of splits of features."""
        width, groups, splits, over_examples, over_features = weights.width, [], [], [], []
        for j, n in enumerate(self.rows.n_examples):
            first_row, last_row = self.rows.first_rows[j : j + 2].tolist()
            n_splits = min(_MAX_PARTS, -(-_ENOUGH_PIECES // -(-n // _OWNED)), max(1, width // _FEATURES_PER_PART))
            group = _cut(_up(n, _STREAMED), min(_MAX_PARTS, max(1, n // _EXAMPLES_PER_PART)))
            split = _cut(width, n_splits)
            feature_blocks, example_blocks = range(0, width, _OWNED), range(0, last_row - first_row, _OWNED)
            over_examples += _pieces(_bounds(feature_blocks, j * width), _bounds(group, first_row))
            over_features += _pieces(_bounds(example_blocks, first_row), _bounds(split, j * width))
            groups.append(len(group))
            splits.append(len(split))
        self.over_examples, self.over_features = (
            _on_device(np.array(pieces, np.int32)) for pieces in (over_examples, over_features)
        )
        return groups, splits

    def _by_columns(self, weights: _Weights) -> None:
        rows = self.rows
        csr = scipy.sparse.csr_array(
            (rows.host_values, rows.host_indices, rows.host_indptr), shape=(rows.n_rows, weights.n_columns)
        )
        csc = scipy.sparse.csc_array(csr)
        self.column_ptr, self.column_values = _on_device(csc.indptr.astype(np.int64)), _on_device(csc.data)
        self.column_rows = _on_device(csc.indices.astype(np.int32))
        # A column that is in most examples gets a program of its own, with more entries at a time.
        long = np.diff(csc.indptr) > _ENTRIES_OF_A_LONG_COLUMN
        columns = np.arange(weights.n_columns, dtype=np.int32)
        self.short_columns = _on_device(np.where(long, np.int32(-1), columns))
        self.long_columns = _on_device(columns[long])

    def find_gradient(self, weights: _Weights, position: torch.Tensor, precision: Precision) -> None:
        """Set grad_W and grad_b."""
        rows = self.rows
        rows.find_hidden(weights, position)
        if weights.few:
            self._sum_in_registers(weights)
        else:
            self._sum_by_products(weights, precision)
        steps = (*weights.steps(weights.n_columns), *weights.steps(rows.n_rows))
        at_once, entries, units = weights.tile()
        programs.hidden_gradient[(rows.n_rows // at_once,)](
            weights.W, weights.b, rows.h, rows.indptr, rows.indices, rows.values, self.parts_h, rows.models,
            self.n_splits, self.scales, self.grad_h, rows.n_rows, weights.units, *steps,
            ROWS=at_once, ENTRIES=entries, UNITS=units, PARTS=8,
        )  # fmt: skip
        several, one = (self.short_columns, at_once, entries), (self.long_columns, 1, max(1, min(256, 8192 // units)))
        for columns, at_once, entries in (several, one):
            if len(columns):
                programs.weight_gradient[(len(columns) // at_once,)](
                    weights.W, weights.b, rows.h, self.grad_h, self.column_ptr, self.column_rows, self.column_values,
                    self.parts_W, self.parts_b, columns, self.n_groups, self.scales, self.grad_W, self.grad_b,
                    weights.n_columns, weights.width, weights.units, *steps,
                    COLUMNS=at_once, ENTRIES=entries, UNITS=units, PARTS=8,
                )  # fmt: skip

    def _sum_in_registers(self, weights: _Weights) -> None:
        arrays, sizes = (weights.W, weights.b, self.rows.h), (self.rows.n_rows, weights.n_columns)
        n_warps = 2 if weights.units <= 4 else 4  # four or two examples or features per thread
        programs.sums_over_examples[(len(self.over_examples),)](
            *arrays, self.rows.present, self.over_examples, self.parts_W, self.parts_b, *sizes,
            N_HIDDEN=weights.units, FEATURES=_OWNED, EXAMPLES=_STREAMED, num_warps=n_warps,
        )  # fmt: skip
        programs.sums_over_features[(len(self.over_features),)](
            *arrays, self.over_features, self.parts_h, *sizes,
            N_HIDDEN=weights.units, EXAMPLES=_OWNED, FEATURES=_STREAMED, num_warps=n_warps,
        )  # fmt: skip

    def _sum_by_products(self, weights: _Weights, precision: Precision) -> None:
        rows, unit_blocks = self.rows, triton.cdiv(weights.units, 64)
        units = min(64, triton.next_power_of_2(weights.units))
        self.parts_W.zero_()
        self.parts_b.zero_()
        for start, stop in rows.passes():
            rows.find_activations(weights, self.d, start, stop, precision)
            first_model = int(np.searchsorted(rows.first_rows, start, "right")) - 1
            last_model = int(np.searchsorted(rows.first_rows, stop, "left"))
            grid = triton.cdiv(weights.width, 128), unit_blocks, last_model - first_model
            programs.add_products_with_examples[grid](
                rows.h, self.d, self.first_rows, self.parts_W, self.parts_b, 1.0, start, stop, first_model,
                weights.width, weights.units, FEATURES=128, UNITS=units, EXAMPLES=32, PRECISION=precision, num_warps=8,
            )  # fmt: skip
            programs.products_with_features[((stop - start) // _PADDING, unit_blocks, self.most_splits)](
                weights.W, self.d, rows.models, self.parts_h, 1.0, start, rows.n_rows, weights.width, weights.units,
                self.most_splits, EXAMPLES=_PADDING, UNITS=units, FEATURES=32, PRECISION=precision,
            )  # fmt: skip


class Batch:
    """Models in training side by side, a step of all of them at a time.

    Attributes:
        step: Steps taken.
        diverged: Per model, the step at which its gradient was no longer finite, or None.
    """

    def __init__(
        self,
        W: Sequence[Float[np.ndarray, "n_hidden n_features"]],
        b: Sequence[Float[np.ndarray, " n_features"]],
        examples: Sequence[SparseExamples],
        optimizer: AdamW,
        reduction: Reduction,
        precision: Precision = "tf32x3",
    ) -> None:
        if optimizer.decay_in_gradient:
            raise ValueError("weight_decay_in_gradient: received True on a GPU, accepted: False, or the kernel cpu")
        self.weights = _Weights(W, b)
        self.optimizer, self.reduction, self.precision = optimizer, reduction, precision
        self.moments = [torch.zeros_like(p) for p in (self.weights.W, self.weights.W, self.weights.b, self.weights.b)]
        self.step, self.diverged = 0, [None] * self.weights.n_models  # type: tuple[int, list[int | None]]
        self.settings = _empty((self.weights.n_models, _STEPS_AHEAD, 4))
        self.position = _on_device(np.array([-1], np.int32))
        self.flags = _on_device(np.full(self.weights.n_models, -1, np.int32))
        self.set_examples(examples)

    def set_examples(self, examples: Sequence[SparseExamples]) -> None:
        """Train on these examples, one set per model, from the next step on."""
        self.problem = _Problem(self.weights, examples, self.reduction)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.compiled = False

    def model(
        self, model: int
    ) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return (W, b) of one model, now."""
        return self.weights.model(self.weights.W, self.weights.b, model)

    def advance(self, learning_rates: Float64[np.ndarray, "n_models n_steps"]) -> None:
        """Take ``n_steps`` steps of every model; see ``diverged`` for those whose weights are then of no use."""
        for first, last in Pace(seconds=_SECONDS_PER_LOOK, most=_STEPS_AHEAD).cut(0, learning_rates.shape[1]):
            self._take(learning_rates[:, first:last])

    def _take(self, rates: np.ndarray) -> None:
        o, n_steps = self.optimizer, rates.shape[1]
        step = np.arange(self.step + 1, self.step + 1 + n_steps)
        decays = (o.weight_decay, o.weight_decay if o.decay_bias else 0.0)
        numbers = [rates / (1 - o.beta1**step), np.broadcast_to(1 / np.sqrt(1 - o.beta2**step), rates.shape)]
        settings = np.stack([*numbers, *(1 - rates * decay for decay in decays)], axis=2)
        self.settings[:, :n_steps] = torch.from_numpy(settings.astype(np.float32)).to(self.settings.device)
        self.position.fill_(-1)
        self.flags.fill_(-1)
        for _ in range(n_steps):
            self._step()
        for model, position in enumerate(self.flags.tolist()):  # waits for the steps
            if position >= 0 and self.diverged[model] is None:
                self.diverged[model] = self.step + position
        self.step += n_steps

    def _step(self) -> None:
        if self.graph is None and self.compiled and self.settings.is_cuda:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._launch()
        if self.graph is not None:
            self.graph.replay()
        else:
            self._launch()
            self.compiled = True

    def _launch(self) -> None:
        weights, problem, o = self.weights, self.problem, self.optimizer
        problem.find_gradient(weights, self.position, self.precision)
        units = triton.next_power_of_2(weights.units)
        columns = max(1, min(256, 1024 // units))
        # 1 - beta in float64: 1 - float32(0.999) is off by 5e-5.
        programs.adamw[(triton.cdiv(weights.n_columns, columns),)](
            weights.W, weights.b, problem.grad_W, problem.grad_b, *self.moments,
            self.settings, self.position, self.flags, 1 - o.beta1, 1 - o.beta2, o.eps, _STEPS_AHEAD,
            weights.n_columns, weights.width, weights.n_features, weights.n_hidden, *weights.steps(weights.n_columns),
            COLUMNS=columns, UNITS=units,
        )  # fmt: skip


class _Training:
    """One model, alone."""

    def __init__(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> None:
        self.batch = Batch([W], [b], [examples], optimizer, reduction)
        self.step = 0

    @property
    def W(self) -> Float32[np.ndarray, "n_hidden n_features"]:
        return self.batch.model(0)[0]

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        return self.batch.model(0)[1]

    def set_examples(self, examples: SparseExamples) -> None:
        self.batch.set_examples([examples])

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        self.batch.advance(learning_rates[None])
        diverged = self.batch.diverged[0]
        self.step = self.batch.step if diverged is None else diverged
        if diverged is not None:
            raise DivergedError(diverged)


start = _Training


def example_losses(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], examples: SparseExamples
) -> Float64[np.ndarray, " n_examples"]:
    """Return the squared error of each distinct example, summed over features."""
    weights = _Weights([W], [b])
    rows = _Rows(weights, [examples])
    rows.find_hidden(weights, _empty((1,), torch.int32))
    r = _empty((min(rows.pass_rows, rows.n_rows), weights.width))
    row_of = np.repeat(np.arange(rows.n_rows), np.diff(rows.host_indptr))
    losses = _empty((rows.n_rows,), torch.float64)
    for start, stop in rows.passes():
        rows.find_activations(weights, r, start, stop, "ieee")
        lo, hi = rows.host_indptr[[start, stop]].tolist()
        r[_on_device(row_of[lo:hi] - start), rows.indices[lo:hi]] -= rows.values[lo:hi]
        losses[start:stop] = r[: stop - start].square_().sum(dim=1, dtype=torch.float64)
    return np.asarray(losses[: examples.n_examples].cpu().numpy())


def loss_and_gradient(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    reduction: Reduction,
) -> tuple[float, Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
    """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
    batch = Batch([W], [b], [examples], AdamW(), reduction)
    batch.problem.find_gradient(batch.weights, batch.position, batch.precision)
    loss = loss_scale(len(b), reduction) * float(np.average(example_losses(W, b, examples), weights=examples.repeats))
    return loss, *batch.weights.model(batch.problem.grad_W, batch.problem.grad_b, 0)
