"""Variants of the model in PyTorch, on the CPU, as the equations say: dense, by automatic differentiation.

Slower than the other kernels by far, and made for small questions: other losses, a ReLU after the hidden layer, untied
weights. Untied weights are one matrix of 2 n_hidden rows: the encoder's, then the decoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.model import Reduction, Variant, loss_scale

_ROWS_PER_BLOCK = 1024


def _errors(variant: Variant, parameters: Sequence[torch.Tensor], X: torch.Tensor) -> torch.Tensor:
    """The error of each example, summed over features."""
    W, b = parameters
    n_hidden = len(W) if variant.tied else len(W) // 2
    h = X @ W[:n_hidden].T
    if variant.hidden_relu:
        h = torch.relu(h)
    difference = torch.relu(h @ W[-n_hidden:] + b) - X
    if variant.loss == "absolute":
        return difference.abs().sum(dim=1)
    return difference.pow(2 if variant.loss == "squared" else 4).sum(dim=1)


class Training:
    """One model in training; see the protocol of this name."""

    def __init__(
        self,
        variant: Variant,
        W: np.ndarray,
        b: np.ndarray,
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> None:
        torch.set_num_threads(numba.get_num_threads())
        self.variant, self.scale, self.step = variant, loss_scale(W.shape[1], reduction), 0
        self.parameters = [torch.tensor(p, dtype=torch.float32, requires_grad=True) for p in (W, b)]
        rule: Any = torch.optim.Adam if optimizer.decay_in_gradient else torch.optim.AdamW
        self.optimizer = rule(
            [
                {"params": self.parameters[:1], "weight_decay": optimizer.weight_decay},
                {"params": self.parameters[1:], "weight_decay": optimizer.weight_decay * optimizer.decay_bias},
            ],
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
        )
        self.set_examples(examples)

    @property
    def W(self) -> Float32[np.ndarray, "n_rows n_features"]:
        """The weights, now."""
        return self.parameters[0].detach().numpy().copy()  # type: ignore[no-any-return]

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        """The bias, now."""
        return self.parameters[1].detach().numpy().copy()  # type: ignore[no-any-return]

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        self.X = torch.from_numpy(examples.to_scipy().toarray())
        weights = examples.repeats / examples.repeats.sum()
        self.weights = torch.tensor(weights * self.scale, dtype=torch.float32)

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        for rate in learning_rates.tolist():
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            loss = (_errors(self.variant, self.parameters, self.X) * self.weights).sum()
            if not torch.isfinite(loss):
                raise DivergedError(self.step)
            loss.backward()
            self.optimizer.step()
            self.step += 1


@dataclass(frozen=True)
class TorchKernel:
    """The kernel of one variant of the model."""

    variant: Variant

    def start(
        self,
        W: Float[np.ndarray, "n_rows n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> Training:
        """Begin training from these weights; the arrays given are left as they are."""
        return Training(self.variant, W, b, examples, optimizer, reduction)

    def example_losses(
        self,
        W: Float[np.ndarray, "n_rows n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
    ) -> Float64[np.ndarray, " n_examples"]:
        """Return the error of each distinct example, summed over features."""
        weights = [torch.as_tensor(p, dtype=torch.float32) for p in (W, b)]
        X = examples.to_scipy()
        losses = [np.zeros(0)]
        with torch.no_grad():
            for start in range(0, examples.n_examples, _ROWS_PER_BLOCK):
                rows = torch.from_numpy(X[start : start + _ROWS_PER_BLOCK].toarray())
                losses.append(_errors(self.variant, weights, rows).numpy().astype(np.float64))
        return np.concatenate(losses)

    def loss_and_gradient(
        self,
        W: Float[np.ndarray, "n_rows n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        reduction: Reduction,
    ) -> tuple[float, Float32[np.ndarray, "n_rows n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
        training = self.start(W, b, examples, AdamW(), reduction)
        loss = (_errors(self.variant, training.parameters, training.X) * training.weights).sum()
        gradients = torch.autograd.grad(loss, training.parameters)
        return (float(loss.detach()), *(gradient.numpy() for gradient in gradients))
