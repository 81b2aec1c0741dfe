"""What a training kernel is, and choosing one.

A kernel computes the loss of the ReLU-output model, its gradient, and AdamW steps on the full batch. ``reference`` is
the definition (NumPy, float64); every other kernel must agree with it and exists only because it is faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.model import Reduction, Variant

KERNELS = ("cpu", "gpu", "reference", "torch")


@dataclass(frozen=True)
class AdamW:
    """Settings of AdamW with decoupled weight decay, exactly as ``torch.optim.AdamW`` applies it.

    With ``decay_in_gradient`` the decay is added to the gradient instead, as ``torch.optim.Adam`` applies it.

    References:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    decay_bias: bool = True
    decay_in_gradient: bool = False


class DivergedError(ArithmeticError):
    """The loss, or a weight it depends on, became NaN or infinite.

    Attributes:
        step: The step (from 0) at whose weights the loss was no longer finite.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss became NaN or infinite at step {step}; a smaller learning_rate may help")
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return DivergedError, (self.step,)


class Training(Protocol):
    """One model in training: its weights, the state of AdamW, and the examples it is trained on."""

    step: int

    @property
    def W(self) -> Float[np.ndarray, "n_hidden n_features"]:
        """The weights, now."""

    @property
    def b(self) -> Float[np.ndarray, " n_features"]:
        """The bias, now."""

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take ``len(learning_rates)`` steps, step s at ``learning_rates[s]``.

        Raises:
            DivergedError: If the loss is NaN or infinite; the weights are then of no use.
        """


class Kernel(Protocol):
    """The three things every kernel module provides."""

    def start(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> Training:
        """Begin training from these weights; the arrays given are left as they are."""

    def example_losses(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
    ) -> Float64[np.ndarray, " n_examples"]:
        """Return the squared error of each distinct example, summed over features."""

    def loss_and_gradient(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        reduction: Reduction,
    ) -> tuple[float, Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]:
        """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""


def choose(name: str, variant: Variant = Variant()) -> Kernel:  # noqa: B008  (it is immutable)
    """Return the kernel of that name, for a variant of the model.

    Raises:
        ValueError: If there is no such kernel, nothing here that it runs on, or it cannot train the variant.
    """
    if name == "torch":
        try:
            from byheart.toy.kernels.with_torch import TorchKernel
        except ModuleNotFoundError as error:
            raise ValueError(
                f'kernel: received "torch" without {error.name}; run pip install "byheart[torch]"'
            ) from None
        return TorchKernel(variant)
    if variant != Variant():
        raise ValueError(f"kernel: received {name!r} for {variant}, accepted: torch")
    if name == "cpu":
        from byheart.toy.kernels import cpu

        return cpu
    if name == "gpu":
        try:
            from byheart.toy.kernels import gpu
        except ModuleNotFoundError as error:
            raise ValueError(f'kernel: received "gpu" without {error.name}; run pip install "byheart[gpu]"') from None
        gpu.device()
        return gpu
    if name == "reference":
        from byheart.toy.kernels import reference

        return reference
    raise ValueError(f"kernel: received {name!r}, accepted: {', '.join(KERNELS)}")
