"""Curvature of the loss in the input: how sharply the loss of an example bends around it.

A network that has an example by heart answers it in a small neighbourhood only, so that its loss bends sharply there.

Source: Garg, Ravikumar and Roy 2024, "Memorization through the lens of curvature of loss function around samples".
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from byheart.network.calling import call, device_of, to_device
from byheart.network.inputs import Batch

if TYPE_CHECKING:
    import torch
    from torch import nn

_STEP = 1e-3  # of the finite difference, times the root mean square of the batch
_N_DIRECTIONS = 4


def in_float32(model: nn.Module) -> nn.Module:
    """Return the model, or a copy in float32 if some of it is half as precise.

    A finite difference of gradients that have eight or eleven bits is their rounding.
    """
    import torch

    half = (torch.float16, torch.bfloat16)
    if any(tensor.dtype in half for tensor in (*model.parameters(), *model.buffers())):
        return copy.deepcopy(model).float()
    return model


def input_curvature(
    model: nn.Module, batch: Batch, losses_of: Callable[[Any], torch.Tensor]
) -> Float64[np.ndarray, " n_examples"]:
    """Return the mean of |H v|^2 over four random directions v of ones and minus ones, H the Hessian in the input.

    H v is a finite difference of gradients, in float32 at least. Directions depend on the index of the batch's first
    example only.

    Args:
        model: In evaluation mode, and of no half precision (see ``in_float32``).
        batch: Its inputs are one floating-point tensor.
        losses_of: One loss per example of the batch, of its outputs.

    Raises:
        ValueError: If the inputs are not.
    """
    import torch

    kind = batch.inputs.dtype if torch.is_tensor(batch.inputs) else type(batch.inputs).__name__
    if not torch.is_tensor(batch.inputs) or not batch.inputs.is_floating_point():
        raise ValueError(f"curvature: received inputs of {kind}, accepted: one floating-point tensor")
    device = device_of(model)
    inputs = to_device(batch.inputs, device)
    if inputs.element_size() < 4:
        inputs = inputs.float()
    generator = torch.Generator().manual_seed(batch.first)
    step = _STEP * float(inputs.square().mean().sqrt()) or _STEP

    def gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.detach().requires_grad_()
        with torch.enable_grad():
            losses = losses_of(call(model, at))
            (found,) = torch.autograd.grad(losses.sum(), at)
        return found

    here = gradient(inputs)
    total = torch.zeros(len(batch), dtype=torch.float64)
    for _ in range(_N_DIRECTIONS):
        signs = 2.0 * torch.randint(0, 2, inputs.shape, generator=generator) - 1
        change = (gradient(inputs + step * signs.to(inputs)) - here) / step
        total += change.double().square().reshape(len(batch), -1).sum(dim=1).cpu()
    found: Float64[np.ndarray, " n_examples"] = (total / _N_DIRECTIONS).numpy()
    return found
