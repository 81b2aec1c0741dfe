"""The GPU kernel beside PyTorch, eager and compiled, on the same GPU: ``python -m benchmarks.gpu --out DIR``.

A step is loss, gradient and AdamW on the full batch, at n = 10,000 and S = 0.999. Nothing is timed at a width m before
loss and gradient agree there with the reference kernel in float64. Beside the times stand ceilings of the same GPU,
measured in the same run. A step needs 6 m floating-point operations per (example, feature) pair, without recomputation.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.agreement import LEARNING_RATE
from benchmarks.contenders import Byheart
from benchmarks.problem import Contender, Problem
from benchmarks.results import Measurement, Size
from benchmarks.table import MARK, table, write_page
from byheart.own import write_json
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, choose, reference
from byheart.toy.model import initial_weights
from byheart.toy.train import kernel_provenance

N_FEATURES, SPARSITY = 10_000, 0.999
WIDTHS, EXAMPLES = (2, 8, 32, 128, 512), (1_000, 10_000, 100_000)
FULL_EXAMPLES, FULL_STEPS = 1_000_000, 50_000
_TRIES, _SECONDS_PER_TRY = 3, 0.5
_CHECKED_EXAMPLES = 1_000
_RELATIVE = 1e-5  # of the largest entry, beside twice the error of NumPy in float32

Contenders = dict[str, Callable[[Problem], Contender]]


def contenders() -> Contenders:
    """Return what makes each contender; PyTorch takes h from the nonzeros and the residual from a dense X."""
    from benchmarks.with_torch import Torch

    return {
        "byheart": functools.partial(Byheart, kernel=choose("gpu")),
        "PyTorch eager": functools.partial(Torch, compiled=False, sparse=True, device="cuda"),
        "torch.compile": functools.partial(Torch, compiled=True, sparse=True, device="cuda"),
    }


def draw(n_hidden: int, n_examples: int) -> Problem:
    """Return initial weights and drawn examples."""
    rng = np.random.default_rng(0)
    W, b = initial_weights(n_hidden, N_FEATURES, "xavier_normal", rng)
    return Problem(W, b, sample_examples(n_examples, N_FEATURES, SPARSITY, rng))


def check(n_hidden: int, makers: Contenders) -> None:
    """Raise an ArithmeticError if a contender's loss or gradient is off by more than is tolerated."""
    given = draw(n_hidden, _CHECKED_EXAMPLES)
    W, b = given.W, given.b
    exact = reference.loss_and_gradient(W.astype(np.float64), b.astype(np.float64), given.examples, "sum")
    numpy32 = reference.loss_and_gradient(W, b, given.examples, "sum")
    for name, make in makers.items():
        loss, gradient = make(given).loss_and_gradient()
        answers = ([np.asarray(a, np.float64) for a in answer] for answer in (exact, numpy32, (loss, *gradient)))
        for truth, theirs, result in zip(*answers, strict=True):
            error, numpys = float(np.abs(result - truth).max()), float(np.abs(theirs - truth).max())
            multiple = error / (2 * numpys + _RELATIVE * float(np.abs(truth).max()))
            print(f"m = {n_hidden}, {name}: error {multiple:.2g} times what is tolerated", file=sys.stderr)
            if not multiple <= 1:
                raise ArithmeticError(f"m = {n_hidden}: {name} disagrees with the reference; nothing is timed")


def time_steps(contender: Contender) -> tuple[int, tuple[float, ...]]:
    """Return how many steps a try takes, and the time per step of each try."""
    contender.restart(AdamW(), LEARNING_RATE)
    contender.advance(3)  # compiles, and records the graph
    began = time.perf_counter()
    contender.advance(3)
    n_steps = max(3, int(3 * _SECONDS_PER_TRY / (time.perf_counter() - began)))
    seconds = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        contender.advance(n_steps)
        seconds.append((time.perf_counter() - began) / n_steps)
    return n_steps, tuple(seconds)


def measure(makers: Contenders) -> list[Measurement]:
    """Time every contender at every size.

    Raises:
        ArithmeticError: If a contender does not agree with the reference.
    """
    import torch

    found = []
    for n_hidden in WIDTHS:
        check(n_hidden, makers)
        for n_examples in EXAMPLES:
            given, measured = draw(n_hidden, n_examples), Size(n_hidden, n_examples, N_FEATURES, SPARSITY)
            for name, make in makers.items():
                try:
                    n_steps, seconds = time_steps(make(given))
                    found.append(Measurement(measured, name, seconds, n_steps))
                except torch.cuda.OutOfMemoryError:
                    found.append(Measurement(measured, name, problem="out of memory"))
                torch.cuda.empty_cache()
                print(found[-1], file=sys.stderr)
    return found


def long_run(make: Callable[[Problem], Contender], all_steps: bool) -> tuple[float, str]:
    """Return the hours of the longest run, and how they were found: by running it, or from a few hundred steps."""
    given = draw(2, FULL_EXAMPLES)
    if not all_steps:
        seconds = float(np.median(time_steps(make(given))[1]))
        return seconds * FULL_STEPS / 3600, "EXTRAPOLATED from a few hundred measured steps"
    contender = make(given)
    contender.restart(AdamW(), LEARNING_RATE)
    began = time.perf_counter()
    contender.advance(FULL_STEPS)
    return (time.perf_counter() - began) / 3600, "measured, all steps"


def page(found: list[Measurement], limits: dict[str, float], hours: float, how: str, device: str) -> str:
    """Return the results in Markdown."""
    ours = {m.size: m.median for m in found if m.contender == "byheart"}
    rows = []
    for m in found:
        cells = [m.problem, "", "", "", ""]
        if m.median is not None:
            slower = m.median / (ours[m.size] or float("nan"))
            rate = m.size.product_flop / m.median
            shares = [f"{100 * rate / limits[name]:.0f} %" for name in ("fp32 multiply-adds", "tf32 matrix product")]
            cells = [f"{1e3 * m.median:.4g}", f"{m.size.pairs / m.median:.3g}", f"{slower:.2f} x", *shares]
        rows.append([f"{m.size.n_hidden}", f"{m.size.n_examples:,}", m.contender, *cells])
    units = {name: "TB/s" if name == "copy" else "TFLOP/s" for name in limits}
    header = ["m", "T", "contender", "ms per step", "pairs/s", "byheart is", "of fp32 FMA", "of tf32 product"]
    parts = [
        f"GPU: {device}; n = {N_FEATURES:,}, S = {SPARSITY}; medians of {_TRIES} tries of {_SECONDS_PER_TRY} s.",
        "\n".join(f"- ceiling, {name}: {value / 1e12:.3g} {units[name]}" for name, value in limits.items()),
        table(header, rows),
        f"{FULL_STEPS:,} steps at T = {FULL_EXAMPLES:,}, m = 2: {hours:.3g} hours ({how}).",
    ]
    return "\n\n".join(parts) + "\n"


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

        makers, made_by, limits = contenders(), kernel_provenance("gpu"), ceilings()
        found = measure(makers)
    except (ValueError, ArithmeticError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    hours, how = long_run(makers["byheart"], options.full_run)
    text = f"{MARK}\n" + page(found, limits, hours, how, made_by["device"])
    record = {"made_by": made_by, "ceilings": limits, "measurements": [dataclasses.asdict(m) for m in found]}
    record["long_run"] = {"hours": hours, "how": how}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "gpu.json", record)
    write_page(options.out / "gpu.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
