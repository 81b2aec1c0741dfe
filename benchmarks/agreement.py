"""Agreement before speed: what every contender computes, against the reference kernel in float64.

Checked are loss and gradient at the given weights, and the weights after three AdamW steps. A float32 result may be off
by 1e-4 of the largest entry (about a thousand roundings; half precision would be off by ten times more, a missing term
by far more), or by four times what NumPy in float32 is off, where that is more; at trained weights by one rounding of
the terms of its sums besides, as in the kernels' tests: near a minimum the gradient is what is left of large terms that
cancel.

For the three steps eps is a hundredth of the largest gradient, so that rounding in a gradient near zero does not come
out as a whole step, but a gradient's error of 1e-4 of the largest as at most 1e-2 of a step: that much is tolerated.
One entry in a thousand may be off by more: of 100,000 pre-activations at nonzero targets, one may round to the other
side of zero at a later step, which changes the weights of its feature. The weight decay is large enough to show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import threadpoolctl
from jaxtyping import Float

from benchmarks.problem import Contender, Problem
from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, reference

LEARNING_RATE = 1e-3
CHECK_STEPS = 3
STEPS_UP_TO = 1.5e9  # m T n, where the reference takes seconds; AdamW does not depend on T
_CHECK_DECAY = 10.0  # times the learning rate: 1 % per step
_ROWS_PER_CHUNK = 64  # few enough to stay in cache, in float64 and at n = 10,000
_RELATIVE = 1e-4
_RELATIVE_STEPS = 1e-2
_TIMES_NUMPY = 4


@dataclass(frozen=True, eq=False)
class Answer:
    """What a contender computes for a problem."""

    loss: Float[np.ndarray, ""]
    grad_W: Float[np.ndarray, "n_hidden n_features"]
    grad_b: Float[np.ndarray, " n_features"]
    change_W: Float[np.ndarray, "n_hidden n_features"]
    """Change of the weights over the steps; zero where none are checked."""
    change_b: Float[np.ndarray, " n_features"]

    def save(self, path: Path) -> None:
        """Write the answer as a NumPy archive."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, path: Path) -> Answer:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def check_steps(problem: Problem) -> int:
    """Return how many AdamW steps are checked; none where the reference would take minutes."""
    return CHECK_STEPS if problem.examples.n_examples * float(problem.W.size) <= STEPS_UP_TO else 0


def check_optimizer(exact_grad_W: np.ndarray) -> AdamW:
    """Return the settings of the steps that are checked."""
    return AdamW(eps=1e-2 * float(np.abs(exact_grad_W).max()) + 1e-30, weight_decay=_CHECK_DECAY)


def ask(contender: Contender, problem: Problem, optimizer: AdamW, n_steps: int) -> Answer:
    """Let a contender answer."""
    loss, gradient = contender.loss_and_gradient()
    grad_W, grad_b = (array.astype(np.float64) for array in gradient)
    contender.restart(optimizer, LEARNING_RATE)
    contender.advance(n_steps)
    changes = [
        after.astype(np.float64) - before
        for after, before in zip(contender.weights(), (problem.W, problem.b), strict=True)
    ]
    return Answer(np.array(loss), grad_W, grad_b, *changes)


def answer(problem: Problem, dtype: type[np.floating], optimizer: AdamW | None, n_threads: int) -> Answer:
    """Return the reference's answer, in this precision; ``optimizer`` None chooses ``check_optimizer``."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        try:
            contender = _Reference(problem, dtype, pool)
            n_steps = check_steps(problem)
            if optimizer is None:
                optimizer = check_optimizer(contender.loss_and_gradient()[1][0]) if n_steps else AdamW()
            return ask(contender, problem, optimizer, n_steps)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # on Ctrl-C


def terms(problem: Problem) -> dict[str, float]:
    """Return how large the largest entries of the gradient would be if none of their terms cancelled."""
    W, b, X = problem.W, problem.b, problem.examples.to_scipy()
    grad_W, grad_b = np.zeros(W.shape), np.zeros(b.shape)
    for start in range(0, problem.examples.n_examples, _ROWS_PER_CHUNK):
        rows = X[start : start + _ROWS_PER_CHUNK]
        h = rows @ W.T
        d = np.maximum(h @ W + b, 0)
        grad_W += np.abs(h).T @ d + (rows.T @ (d @ np.abs(W).T)).T
        grad_b += d.sum(axis=0)
    scale = 2 / problem.examples.n_examples
    return {"grad_W": scale * float(grad_W.max()), "grad_b": scale * float(grad_b.max())}


def errors(
    result: Answer, exact: Answer, numpy32: Answer, sizes_of_terms: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """Return the largest error of each quantity as a multiple of what is tolerated (see the module); NaN counts as inf.

    Args:
        result: Answer of a contender.
        exact: Answer of the reference in float64.
        numpy32: Answer of the reference in float32.
        sizes_of_terms: Size that the largest entry of a quantity would have if no terms cancelled; 0 where not given.
    """
    multiples = {}
    for field in dataclasses.fields(Answer):
        value, truth, theirs = (np.asarray(getattr(a, field.name)) for a in (result, exact, numpy32))
        relative = _RELATIVE_STEPS if field.name.startswith("change") else _RELATIVE
        rounding = np.finfo(np.float32).eps * sizes_of_terms.get(field.name, 0.0)
        tolerated = max(relative * np.abs(truth).max(), _TIMES_NUMPY * np.abs(theirs - truth).max() + rounding)
        error = _largest(np.abs(value - truth), field.name) if value.shape == truth.shape else np.inf
        multiple = 0.0 if error == 0 else float(error / tolerated) if tolerated > 0 else np.inf
        multiples[field.name] = multiple if multiple == multiple else np.inf
    return multiples


def _largest(error: np.ndarray, name: str) -> float:
    """The largest error; of the weights after three steps, the largest but for one entry in a thousand."""
    return float(np.quantile(error, 0.999, method="lower") if name.startswith("change") else error.max())


def disagreement(multiples: dict[str, float]) -> str:
    """Return in words what is off by more than is tolerated; empty if nothing is."""
    off = [f"{name} off by {m:.2g} times what is tolerated" for name, m in multiples.items() if m > 1]
    return "disagrees: " + ", ".join(off) if off else ""


class _Reference:
    """The reference kernel over a few examples at a time, and AdamW, in one precision."""

    def __init__(self, problem: Problem, dtype: type[np.floating], pool: ThreadPoolExecutor) -> None:
        self.problem, self.dtype, self.pool = problem, dtype, pool
        X = problem.examples.to_scipy()
        starts = range(0, problem.examples.n_examples, _ROWS_PER_CHUNK)
        self.chunks = [SparseExamples.from_matrix(X[start : start + _ROWS_PER_CHUNK]) for start in starts]
        self.restart(AdamW(), 0.0)

    def loss_and_gradient(self) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
        W, b = self.W, self.b
        total: list[np.ndarray] = [np.zeros((), self.dtype), np.zeros_like(W), np.zeros_like(b)]
        parts = self.pool.map(lambda chunk: reference.loss_and_gradient(W, b, chunk, "sum"), self.chunks)
        for chunk, part in zip(self.chunks, parts, strict=True):
            share = chunk.n_examples / self.problem.examples.n_examples
            for sums, values in zip(total, part, strict=True):
                sums += share * np.asarray(values)
        return float(total[0]), (total[1], total[2])

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        self.W, self.b = self.problem.W.astype(self.dtype), self.problem.b.astype(self.dtype)
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in (self.W, self.b)]
        self.optimizer, self.learning_rate, self.step = optimizer, learning_rate, 0

    def advance(self, n_steps: int) -> None:
        o = self.optimizer
        for _ in range(n_steps):
            _, gradient = self.loss_and_gradient()
            self.step += 1
            for p, g, (m, v) in zip((self.W, self.b), gradient, self.moments, strict=True):
                m += (1 - o.beta1) * (g - m)
                v += (1 - o.beta2) * (g * g - v)
                root = np.sqrt(v / (1 - o.beta2**self.step))
                p *= 1 - self.learning_rate * o.weight_decay
                p -= self.learning_rate * (m / (1 - o.beta1**self.step)) / (root + o.eps)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        return self.W, self.b
