"""Looking into a user's own network: layers by name, their activations, and leaving everything as it was found."""

from __future__ import annotations

import contextlib
import fnmatch
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    import torch
    from torch import nn


def find_layers(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the modules that a name or a glob pattern such as ``"blocks.*.mlp"`` means.

    Raises:
        ValueError: If there is none; the message lists those that exist.
    """
    names = [name for name, _ in model.named_modules() if name]
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
        shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
        raise ValueError(f"layer: received {pattern!r}, accepted: {shown or 'none, the model has no submodules'}")
    return found


def find_head(model: nn.Module, forward: Any) -> str | None:
    """Return the name of the linear layer that makes the model's output, or None.

    Args:
        model: The network.
        forward: Calls it on a batch and returns its output.
    """
    import torch

    made: list[tuple[str, torch.Tensor]] = []
    linear = {name: module for name, module in model.named_modules() if name and isinstance(module, torch.nn.Linear)}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: made.append((name, output)))
        for name, module in linear.items()
    ]
    try:
        output = forward()
    finally:
        for handle in handles:
            handle.remove()
    same = [name for name, tensor in made if isinstance(output, torch.Tensor) and tensor.shape == output.shape]
    return same[-1] if same and made[-1][0] == same[-1] else None


@contextlib.contextmanager
def watched(model: nn.Module, outputs_of: list[str], inputs_of: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a dict that each call of the model fills: a module's output under its name, its input under NAME.input."""
    seen: dict[str, Any] = {}
    modules = dict(model.named_modules())

    def keep_output(name: str) -> Any:
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    def keep_input(name: str) -> Any:
        return lambda _module, inputs: seen.__setitem__(f"{name}.input", inputs[0])

    handles = [modules[name].register_forward_hook(keep_output(name)) for name in outputs_of]
    handles += [modules[name].register_forward_pre_hook(keep_input(name)) for name in inputs_of]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients; give back each module's mode and all random states afterwards."""
    import torch

    modes = {module: module.training for module in model.modules()}
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def vectors(activations: Any, layer: str, indices: Int64[np.ndarray, " n_examples"]) -> np.ndarray:
    """Return a layer's activations as float32 rows of shape (n_examples, n_positions, n_hidden).

    A matrix has one row per example. Of a convolution (n_examples, n_channels, height, width, ...) each place is a
    position. Of anything with three axes, (n_examples, n_positions, n_hidden), as of a transformer.

    Args:
        activations: What the layer returned.
        layer: Its name, for messages.
        indices: Of the batch's examples in the dataset, for messages.

    Raises:
        ValueError: If this is not a tensor of floating point numbers with two axes or more, or not all are finite.
    """
    import torch

    if not isinstance(activations, torch.Tensor) or activations.ndim < 2 or not activations.is_floating_point():
        kind = tuple(activations.shape) if isinstance(activations, torch.Tensor) else type(activations).__name__
        raise ValueError(
            f"layer {layer}: received {kind}, accepted: a layer whose output is one floating-point tensor with an axis"
            " of examples and one of units"
        )
    rows = activations.detach()
    if rows.ndim == 2:
        rows = rows[:, None]
    elif rows.ndim > 3:
        rows = rows.flatten(2).transpose(1, 2)
    found: np.ndarray = rows.to("cpu", torch.float32).numpy()
    finite = np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"layer {layer}: received NaN or infinite activations of example {indices[int(finite.argmin())]}, accepted:"
            " finite"
        )
    return found
