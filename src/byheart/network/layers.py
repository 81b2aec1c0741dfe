"""Looking into a user's own network: layers by name, their activations, and leaving everything as it was found."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import random
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn


INPUT = ".input"  # behind a module's name: what it reads, in place of what it gives


class OfNetwork(str):
    """A note on the network itself, which says nothing to those who gave what it made in place of it."""

    __slots__ = ()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel or torch.compile; any other as it is.

    These call copies of the layers, or compiled code without hooks.
    """
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def find_layers(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the modules that a name or a glob pattern such as ``"blocks.*.mlp"`` means.

    With ``".input"`` behind it, a name means what the module reads.

    Raises:
        ValueError: If there is none, and the message lists those that exist; or if it is part of a TorchScript module.
    """
    import torch

    modules = {name: module for name, module in model.named_modules() if name}
    names = list(modules)
    if pattern not in modules and pattern.removesuffix(INPUT) in modules:
        found = [pattern]
    else:
        found = [pattern] if pattern in modules else fnmatch.filter(names, pattern)
    if not found:
        shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
        near = difflib.get_close_matches(pattern, [*names, *(f"{name}{INPUT}" for name in names)], n=1)
        meant = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(
            f"layer: received {pattern!r}, accepted: {shown or 'none, the model has no submodules'}{meant}"
        )
    for name in found:
        if isinstance(modules[name.removesuffix(INPUT)], torch.jit.ScriptModule):
            raise ValueError(f"layer: received {name!r} of {SCRIPTED}")
    return found


SCRIPTED = (
    "a TorchScript module (scripted, traced or frozen), whose layers take no hooks, accepted: the torch module that it"
    " was made from"
)


def tensor_of_output(module: nn.Module, output: Any) -> torch.Tensor | None:
    """Return the one tensor of activations that a module gives, or None.

    Of recurrent layers and attention these are the vectors of all positions, the first of what they return; packed
    sequences are padded with zeros; of outputs with names, ``last_hidden_state``, or else ``logits``.
    """
    import torch
    from torch.nn.utils import rnn

    if torch.is_tensor(output):
        return output
    if isinstance(output, rnn.PackedSequence):
        return rnn.pad_packed_sequence(output, batch_first=bool(getattr(module, "batch_first", True)))[0]
    if isinstance(output, Mapping):
        return tensor_of_output(module, output.get("last_hidden_state", output.get("logits")))
    if isinstance(output, (tuple, list)) and output:
        if isinstance(module, (torch.nn.RNNBase, torch.nn.LSTMCell, torch.nn.MultiheadAttention)):
            return tensor_of_output(module, output[0])
        floats = [part for part in output if torch.is_tensor(part) and part.is_floating_point()]
        return floats[0] if len(floats) == 1 else None
    return None


def tensor_of_input(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the first tensor that a module is called with, or None."""
    import torch

    given = [*args, *kwargs.values()]
    found = next((part for part in given if torch.is_tensor(part)), None)
    return found if found is not None else tensor_of_output(module, given[0] if given else None)


@contextlib.contextmanager
def watched(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Yield a dict that the model's calls fill: by name a tensor for each call of a module, copied to the CPU.

    Each is copied when the module is called, since what follows may overwrite it in place; floating-point ones become
    float32, quantised ones too. A name that ends in ".input" stands for what the module reads.

    Raises:
        ValueError: From the model's call, if a module gives or reads no single tensor.
    """
    seen: dict[str, list[torch.Tensor]] = {}
    modules = dict(model.named_modules())

    def keep(name: str, tensor: torch.Tensor | None, given: Any) -> None:
        if tensor is None:
            raise ValueError(
                f"layer {name}: received {type(given).__name__}, accepted: a layer that gives one floating-point tensor"
            )
        seen.setdefault(name, []).append(copied(tensor))

    def output_hook(name: str) -> Any:
        return lambda module, _, output: keep(name, tensor_of_output(module, output), output)

    def input_hook(name: str) -> Any:
        return lambda module, args, kwargs: keep(name, tensor_of_input(module, args, kwargs), args)

    handles = []
    for name in names:
        module = modules.get(name)
        if module is not None:
            handles.append(module.register_forward_hook(output_hook(name)))
        else:
            module = modules[name.removesuffix(INPUT)]
            handles.append(module.register_forward_pre_hook(input_hook(name), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU, in float32 if it has floating-point or quantised numbers."""
    import torch

    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.to("cpu", torch.float32 if tensor.is_floating_point() else None, copy=True)


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients; give back each module's mode and all random states afterwards.

    Compiled parts run as they are written and attention layer by layer, since neither calls hooks otherwise. All is
    computed as precisely as the weights are, without autocast, also that which accelerate has put around ``forward``.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    precise = contextlib.ExitStack()
    for device in ("cpu", "cuda", "mps", "xpu"):
        if torch.is_autocast_enabled(device):
            precise.enter_context(torch.autocast(device, enabled=False))
    prepared = {m: vars(m)["forward"] for m in model.modules() if {"forward", "_original_forward"} <= vars(m).keys()}
    compiled = "torch._dynamo" in sys.modules  # else nothing is compiled, and asking would load it
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    for module in prepared:
        module.forward = module._original_forward
    try:
        with (
            precise,
            torch.no_grad(),
            torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext(),
        ):
            yield
    finally:
        for module, forward in prepared.items():
            module.forward = forward
        for module, training in modes.items():
            module.training = training
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
