"""What a training kernel is, and choosing one.

A kernel computes the loss of the ReLU-output model, its gradient, and AdamW steps on the full batch. ``reference`` is
the definition (NumPy, float64); every other kernel must agree with it and exists only because it is faster.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.model import Reduction, Variant

KernelName = Literal["cpu", "gpu", "reference", "torch"]


@dataclass(frozen=True)
class KernelInfo:
    """What there is to know of a kernel before it is loaded."""

    module: str
    """Name of its module in this package."""
    meaning: str
    dtype: type
    """Type of the weights that it trains."""
    device: Literal["cpu", "cuda"] = "cpu"
    trains_variants: bool = False
    """Whether it trains models that differ from the paper's (``Variant``)."""
    extra: str | None = None
    """Optional dependencies that it needs: ``pip install "byheart[extra]"``."""


KERNELS: Mapping[str, KernelInfo] = {
    "cpu": KernelInfo("cpu", "compiled, on all cores", np.float32),
    "gpu": KernelInfo("gpu", "Triton, on a CUDA device", np.float32, "cuda", extra="gpu"),
    "reference": KernelInfo("reference", "the equations in NumPy", np.float64),
    "torch": KernelInfo(
        "with_torch", "PyTorch, any variant of the model", np.float32, trains_variants=True, extra="torch"
    ),
}


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


def kernel_for(variant: Variant, asked: str | None = None) -> str:
    """Return the name of the kernel that is asked for, or by default of the fastest on the CPU for this variant."""
    return asked or ("cpu" if variant == Variant() else "torch")


def choose(name: str, variant: Variant = Variant()) -> Kernel:  # noqa: B008  (it is immutable)
    """Return the kernel of that name, for a variant of the model.

    Raises:
        ValueError: If there is no such kernel, nothing here that it runs on, or it cannot train the variant.
    """
    if name not in KERNELS:
        raise ValueError(f"kernel: received {name!r}, accepted: {', '.join(KERNELS)}")
    info = KERNELS[name]
    if variant != Variant() and not info.trains_variants:
        able = ", ".join(name for name, other in KERNELS.items() if other.trains_variants)
        raise ValueError(f"kernel: received {name!r} for {variant}, accepted: {able}")
    try:
        module: Any = importlib.import_module(f"{__name__}.{info.module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f'kernel: received "{name}" without {error.name}; run pip install "byheart[{info.extra}]"'
        ) from None
    if info.device == "cuda":
        module.device()
    kernel: Kernel = module.TorchKernel(variant) if info.trains_variants else module
    return kernel
