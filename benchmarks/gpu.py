"""The GPU kernel beside PyTorch, eager and compiled, on the same GPU: ``python -m benchmarks.gpu --out DIR``.

A step is loss, gradient and AdamW on the full batch, at n = 10,000 and S = 0.999. Nothing is timed at a width m before
loss and gradient agree there with the reference kernel in float64. Beside the times stand ceilings of the same GPU,
measured in the same run. A step needs 6 m floating-point operations per (example, feature) pair, without recomputation.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW, choose, reference
from byheart.toy.model import initial_weights
from byheart.toy.train import _provenance as provenance

N_FEATURES, SPARSITY, LEARNING_RATE = 10_000, 0.999, 1e-3
WIDTHS, EXAMPLES = (2, 8, 32, 128, 512), (1_000, 10_000, 100_000)
FULL_EXAMPLES, FULL_STEPS = 1_000_000, 50_000
_TRIES, _SECONDS_PER_TRY = 3, 0.5
_CHECKED_EXAMPLES = 1_000
_RELATIVE = 1e-5  # of the largest entry, beside twice the error of NumPy in float32


Answer = tuple[float, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Row:
    """The median time of a step, and what it means; no seconds where there was not enough memory."""

    contender: str
    n_hidden: int
    n_examples: int
    seconds: float | None

    @property
    def pairs_per_second(self) -> float | None:
        """(example, feature) pairs per second."""
        return None if self.seconds is None else self.n_examples * N_FEATURES / self.seconds

    @property
    def flops(self) -> float | None:
        """Useful floating-point operations per second."""
        return None if self.pairs_per_second is None else 6 * self.n_hidden * self.pairs_per_second


def problem(n_hidden: int, n_examples: int) -> tuple[np.ndarray, np.ndarray, SparseExamples]:
    """Return initial weights and drawn examples."""
    rng = np.random.default_rng(0)
    W, b = initial_weights(n_hidden, N_FEATURES, "xavier_normal", rng)
    return W, b, sample_examples(n_examples, N_FEATURES, SPARSITY, rng)


def check(n_hidden: int) -> None:
    """Raise an ArithmeticError if a contender's loss or gradient is off by more than is tolerated."""
    W, b, examples = problem(n_hidden, _CHECKED_EXAMPLES)
    exact = reference.loss_and_gradient(W.astype(np.float64), b.astype(np.float64), examples, "sum")
    numpy32 = reference.loss_and_gradient(W, b, examples, "sum")
    for name, make in CONTENDERS.items():
        answers = (map(np.asarray, answer) for answer in (exact, numpy32, make(W, b, examples)[0]()))
        for truth, theirs, result in zip(*answers, strict=True):
            error, numpys = (float(np.abs(array.astype(np.float64) - truth).max()) for array in (result, theirs))
            multiple = error / (2 * numpys + _RELATIVE * float(np.abs(truth).max()))
            print(f"m = {n_hidden}, {name}: error {multiple:.2g} times what is tolerated", file=sys.stderr)
            if not multiple <= 1:
                raise ArithmeticError(f"m = {n_hidden}: {name} disagrees with the reference; nothing is timed")


def median_seconds(take: Callable[[int], None]) -> float:
    """Return the median time of a step; ``take`` takes that many and returns when they are done."""
    take(3)  # compiles, and records the graph
    began = time.perf_counter()
    take(3)
    n_steps = max(3, int(3 * _SECONDS_PER_TRY / (time.perf_counter() - began)))
    tries = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        take(n_steps)
        tries.append((time.perf_counter() - began) / n_steps)
    return statistics.median(tries)


def byheart_steps(
    W: np.ndarray, b: np.ndarray, examples: SparseExamples
) -> tuple[Callable[[], Answer], Callable[[int], None]]:
    """Return what computes loss and gradient with our kernel, and what takes steps."""
    kernel = choose("gpu")
    training = kernel.start(W, b, examples, AdamW(), "sum")
    return (
        lambda: kernel.loss_and_gradient(W, b, examples, "sum"),
        lambda n_steps: training.advance(np.full(n_steps, LEARNING_RATE)),
    )


def torch_steps(
    W: np.ndarray, b: np.ndarray, examples: SparseExamples, compiled: bool
) -> tuple[Callable[[], Answer], Callable[[int], None]]:
    """Return the same for PyTorch: h from the nonzeros, the residual from a dense X, a fused AdamW."""
    import torch
    from torch.nn.functional import embedding_bag

    def on_gpu(array: np.ndarray) -> Any:
        return torch.from_numpy(array).cuda()

    indices, values, indptr = (
        on_gpu(examples.indices.astype(np.int64)),
        on_gpu(examples.values),
        on_gpu(examples.indptr),
    )
    rows = on_gpu(np.repeat(np.arange(examples.n_examples), np.diff(examples.indptr)))
    X = torch.zeros(examples.n_examples, N_FEATURES, device="cuda")
    X[rows, indices] = values
    weights, bias = on_gpu(W).requires_grad_(), on_gpu(b).requires_grad_()
    optimizer = torch.optim.AdamW([weights, bias], lr=LEARNING_RATE, fused=True)

    def loss(W: Any, b: Any) -> Any:
        h = embedding_bag(indices, W.T, indptr, mode="sum", per_sample_weights=values, include_last_offset=True)
        return (torch.relu(torch.addmm(b, h, W)) - X).square().sum() / examples.n_examples

    chosen = torch.compile(loss, fullgraph=True) if compiled else loss

    def answer() -> Answer:
        optimizer.zero_grad()
        value = chosen(weights, bias)
        value.backward()
        return value.item(), weights.grad.cpu().numpy(), bias.grad.cpu().numpy()

    def take(n_steps: int) -> None:
        for _ in range(n_steps):
            optimizer.zero_grad()
            chosen(weights, bias).backward()
            optimizer.step()
        torch.cuda.synchronize()

    return answer, take


CONTENDERS: dict[str, Callable[..., tuple[Callable[[], Answer], Callable[[int], None]]]] = {
    "byheart": byheart_steps,
    "PyTorch eager": functools.partial(torch_steps, compiled=False),
    "torch.compile": functools.partial(torch_steps, compiled=True),
}


def measure() -> list[Row]:
    """Time every contender at every size.

    Raises:
        ArithmeticError: If a contender does not agree with the reference.
    """
    import torch

    rows = []
    for n_hidden in WIDTHS:
        check(n_hidden)
        for n_examples in EXAMPLES:
            given = problem(n_hidden, n_examples)
            for name, make in CONTENDERS.items():
                try:
                    rows.append(Row(name, n_hidden, n_examples, median_seconds(make(*given)[1])))
                except torch.cuda.OutOfMemoryError:
                    rows.append(Row(name, n_hidden, n_examples, None))
                torch.cuda.empty_cache()
                print(rows[-1], file=sys.stderr)
    return rows


def long_run(all_steps: bool) -> tuple[float, str]:
    """Return the hours of the longest run, and how they were found: by running it, or from a few hundred steps."""
    _, take = byheart_steps(*problem(2, FULL_EXAMPLES))
    if not all_steps:
        return median_seconds(take) * FULL_STEPS / 3600, "EXTRAPOLATED from a few hundred measured steps"
    began = time.perf_counter()
    take(FULL_STEPS)
    return (time.perf_counter() - began) / 3600, "measured, all steps"


def page(rows: list[Row], limits: dict[str, float], hours: float, how: str, device: str) -> str:
    """Return the results in Markdown."""
    lines = [
        f"GPU: {device}; n = {N_FEATURES:,}, S = {SPARSITY}; medians of {_TRIES} tries of {_SECONDS_PER_TRY} s.",
        "",
    ]
    lines += [
        f"- ceiling, {name}: {value / 1e12:.3g} T{'B' if name == 'copy' else 'FLOP'}/s"
        for name, value in limits.items()
    ]
    lines += ["", "| m | T | contender | ms per step | pairs/s | byheart is | of fp32 FMA | of tf32 product |"]
    lines += ["|--:|--:|---|--:|--:|--:|--:|--:|"]
    ours = {(row.n_hidden, row.n_examples): row.seconds for row in rows if row.contender == "byheart"}
    for row in rows:
        start = f"| {row.n_hidden} | {row.n_examples:,} | {row.contender} |"
        if row.seconds is None or row.flops is None:
            lines.append(f"{start} out of memory | | | | |")
            continue
        ratio = row.seconds / (ours[row.n_hidden, row.n_examples] or float("nan"))
        shares = [f"{100 * row.flops / limits[name]:.0f} %" for name in ("fp32 multiply-adds", "tf32 matrix product")]
        numbers = f"{1e3 * row.seconds:.4g} | {row.pairs_per_second:.3g} | {ratio:.2f} x"
        lines.append(f"{start} {numbers} | {' | '.join(shares)} |")
    lines += ["", f"{FULL_STEPS:,} steps at T = {FULL_EXAMPLES:,}, m = 2: {hours:.3g} hours ({how})."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, and write gpu.json and gpu.md; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="directory of gpu.json and gpu.md")
    parser.add_argument("--full-run", action="store_true", help="take all steps of the longest run")
    options = parser.parse_args()
    try:
        if choose("gpu").device().type != "cuda":  # type: ignore[attr-defined]
            raise ValueError("TRITON_INTERPRET: received 1, accepted: unset, on a CUDA device")
        from benchmarks.gpu_ceilings import ceilings

        made_by = provenance("gpu")
        limits, rows = ceilings(), measure()
    except (ValueError, ArithmeticError) as error:
        print(f"byheart: {error}", file=sys.stderr)
        return 2
    hours, how = long_run(options.full_run)
    text = page(rows, limits, hours, how, made_by["device"])
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"made_by": made_by, "ceilings": limits, "rows": [dataclasses.asdict(row) for row in rows]}
    record["long_run"] = {"hours": hours, "how": how}
    (options.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "gpu.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
