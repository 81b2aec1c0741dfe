"""What contenders are given, and what they must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW

Weights = tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]


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
