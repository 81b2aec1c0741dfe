"""Who is timed: byheart, and what a competent user would write in PyTorch and JAX for the same steps.

The peers keep X dense (T x n, float32) for the residual. Where it says "sparse X", they compute h = W x from the
nonzeros only. All take the same AdamW steps on the full batch at a constant learning rate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.problem import Contender, Problem, Weights
from byheart.toy.kernels import AdamW, cpu


class Byheart:
    """The package's own kernel; the option ``skipping=False`` lets the CPU's compute every pair."""

    def __init__(self, problem: Problem, kernel: Any = cpu, **options: bool) -> None:
        self.problem, self.kernel, self.options = problem, kernel, options

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Return loss and gradient at the problem's weights."""
        p = self.problem
        loss, *gradient = self.kernel.loss_and_gradient(p.W, p.b, p.examples, "sum", **self.options)
        return loss, tuple(gradient)

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        """Go back to the problem's weights and to step 0."""
        p = self.problem
        self.training = self.kernel.start(p.W, p.b, p.examples, optimizer, "sum", **self.options)
        self.learning_rate = learning_rate

    def advance(self, n_steps: int) -> None:
        """Take the steps."""
        self.training.advance(np.full(n_steps, self.learning_rate))

    def weights(self) -> Weights:
        """Return W and b, now."""
        return self.training.W, self.training.b


@dataclass(frozen=True)
class Entry:
    """A contender's name in tables, what it needs, and how it is made."""

    title: str
    library: str
    """The module it needs beside byheart; empty if none."""
    options: dict[str, bool]
    keeps_memory: bool = True
    """Whether the C library is told to keep freed memory: fresh pages at every step cost PyTorch much of its time."""

    def load(self) -> Callable[[Problem], Contender]:
        """Import the library, and return what makes the contender of a problem."""
        make: Callable[..., Contender] = Byheart
        if self.library == "torch":
            from benchmarks.with_torch import Torch as make
        elif self.library == "jax":
            from benchmarks.with_jax import Jax as make
        return functools.partial(make, **self.options)


CONTENDERS = {
    "byheart": Entry("byheart", "", {"skipping": True}, keeps_memory=False),
    "byheart-dense": Entry("byheart, no skipping", "", {"skipping": False}, keeps_memory=False),
    "torch-eager": Entry("PyTorch eager", "torch", {"compiled": False, "sparse": False}, keeps_memory=False),
    "torch-eager-sparse": Entry("PyTorch eager, sparse X, memory kept", "torch", {"compiled": False, "sparse": True}),
    "torch-compile": Entry("torch.compile", "torch", {"compiled": True, "sparse": False}),
    "torch-compile-sparse": Entry("torch.compile, sparse X", "torch", {"compiled": True, "sparse": True}),
    "jax": Entry("JAX jit", "jax", {"sparse": False}),
    "jax-sparse": Entry("JAX jit, sparse X", "jax", {"sparse": True}),
}
OURS = ("byheart", "byheart-dense")
PEERS = tuple(name for name in CONTENDERS if name not in OURS)
NEAR = 1.5
"""Peers are timed at trained weights where they are less than so many times slower than the fastest at the start."""
NOT_EVERYWHERE = ("torch-eager", "torch-compile")
"""With dense X, PyTorch was the fastest nowhere in earlier tables: it is timed at the smallest width only."""
