"""Who is timed: byheart, and what a competent user would write in PyTorch and JAX for the same steps.

The peers keep X dense (T x n, float32) for the residual. Where it says "sparse X", they compute h = W x from the
nonzeros only. All take the same AdamW steps on the full batch at a constant learning rate.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, Training, cpu


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and weights, the same for all contenders."""

    W: Float32[np.ndarray, "n_hidden n_features"]
    b: Float32[np.ndarray, " n_features"]
    examples: SparseExamples

    def save(self, path: Path) -> None:
        """Write the problem as a NumPy archive."""
        e = self.examples
        np.savez(path, W=self.W, b=self.b, indptr=e.indptr, indices=e.indices, values=e.values, repeats=e.repeats)

    @classmethod
    def load(cls, path: Path) -> Problem:
        """Read what ``save`` wrote."""
        with np.load(path) as a:
            W, b = a["W"], a["b"]
            return cls(W, b, SparseExamples(a["indptr"], a["indices"], a["values"], len(b), a["repeats"]))


Weights = tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]


class Contender(Protocol):
    """One way to train, made for one problem."""

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Return loss and gradient at the problem's weights, by the code that is timed."""

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        """Go back to the problem's weights and to step 0."""

    def advance(self, n_steps: int) -> None:
        """Take the steps, and return when they are done."""

    def weights(self) -> Weights:
        """Return W and b, now."""


class Byheart:
    """The package's own kernel; with ``skipping`` off, every pair is computed."""

    def __init__(self, problem: Problem, skipping: bool) -> None:
        self.problem, self.skipping = problem, skipping
        self.training: Training

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Return loss and gradient at the problem's weights."""
        p = self.problem
        loss, grad_W, grad_b = cpu.loss_and_gradient(p.W, p.b, p.examples, "sum", skipping=self.skipping)
        return loss, (grad_W, grad_b)

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        """Go back to the problem's weights and to step 0."""
        p = self.problem
        self.training = cpu.start(p.W, p.b, p.examples, optimizer, "sum", skipping=self.skipping)
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
    load: Callable[[], Callable[[Problem], Contender]]
    """Import the library, and return what makes the contender of a problem."""
    keeps_memory: bool = True
    """Whether the C library is told to keep freed memory: fresh pages at every step cost PyTorch much of its time."""


def _torch(compiled: bool, sparse: bool) -> Callable[[], Callable[[Problem], Contender]]:
    def load() -> Callable[[Problem], Contender]:
        from benchmarks.with_torch import Torch

        return functools.partial(Torch, compiled=compiled, sparse=sparse)

    return load


def _jax(sparse: bool) -> Callable[[], Callable[[Problem], Contender]]:
    def load() -> Callable[[Problem], Contender]:
        from benchmarks.with_jax import Jax

        return functools.partial(Jax, sparse=sparse)

    return load


CONTENDERS: dict[str, Entry] = {
    "byheart": Entry("byheart", "", lambda: functools.partial(Byheart, skipping=True), keeps_memory=False),
    "byheart-dense": Entry(
        "byheart, no skipping", "", lambda: functools.partial(Byheart, skipping=False), keeps_memory=False
    ),
    "torch-eager": Entry("PyTorch eager", "torch", _torch(False, False), keeps_memory=False),
    "torch-eager-sparse": Entry("PyTorch eager, sparse X, memory kept", "torch", _torch(False, True)),
    "torch-compile": Entry("torch.compile", "torch", _torch(True, False)),
    "torch-compile-sparse": Entry("torch.compile, sparse X", "torch", _torch(True, True)),
    "jax": Entry("JAX jit", "jax", _jax(False)),
    "jax-sparse": Entry("JAX jit, sparse X", "jax", _jax(True)),
}
OURS = ("byheart", "byheart-dense")
EAGER = ("torch-eager", "torch-eager-sparse")
COMPILED = tuple(name for name in CONTENDERS if name not in (*OURS, *EAGER))


def check_contenders(names: Sequence[str]) -> None:
    """Raise a ValueError that says what is accepted if a contender is unknown or named twice."""
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise ValueError(f"contenders: received {', '.join(unknown)}, accepted: {', '.join(CONTENDERS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"contenders: received {', '.join(names)}, accepted: each contender once")


def check_installed(names: Sequence[str]) -> None:
    """Raise a ValueError that says what is accepted if a contender's library is not installed."""
    for name in names:
        library = CONTENDERS[name].library
        if library and importlib.util.find_spec(library) is None:
            raise ValueError(
                f"contenders: received {name} without {library} installed,"
                f" accepted: after pip install 'byheart[bench]', or --contenders {' '.join(OURS)}"
            )
