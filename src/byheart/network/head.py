"""Which layer makes a network's output: the one whose numbers the output has, not the one that was called last.

The output of a layer makes the network's if the two are equal, or if the second follows from the first by what leaves
no room for another layer: a softmax or its logarithm, a scale and shift of each unit (temperatures, batch
normalisation), an activation that never falls, or the choice of one position of each example, as language models that
classify make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from byheart.network.layers import INPUT, OfNetwork, copied, tensor_of_input, tensor_of_output
from byheart.network.layout import Layouts, rows_of

if TYPE_CHECKING:
    import torch
    from torch import nn

Kind = Literal["equal", "softmax", "scaled", "activation", "position"]
_CLOSE = 1e-4  # of the range of numbers, in float32; the same computed twice differs by less
_ROUNDING = 1e-6  # of the largest number
_FEWEST_ROWS = 8  # for a scale and shift of each unit, two numbers, to fit no tensor by chance
_MOST_NUMBERS = 2**20  # that are compared
_FEWEST_NUMBERS = 32  # for another tensor's not to be in the same order by chance


@dataclass
class Forward:
    """What one forward pass showed.

    Attributes:
        layouts: Of the tensors of all modules.
        makers: By name, modules with weights like a linear layer's whose output makes the network's, and how.
        alike: Linear layers that gave as many numbers as the network, or as many for each position.
    """

    layouts: Layouts
    makers: dict[str, Kind] = field(default_factory=dict)
    alike: list[str] = field(default_factory=list)

    def head(self, model: nn.Module) -> str | None:
        """Return the name of the layer that makes the output, or None."""
        modules = dict(model.named_modules())
        kinds = get_args(Kind)
        found = sorted(self.makers, key=lambda name: (not is_linear(modules[name]), kinds.index(self.makers[name])))
        return found[0] if found and self.layouts.n_calls(found[0]) == 1 else None


def follow(model: nn.Module, forward: Callable[[], Any], output: Any) -> Forward:
    """Call the model on a batch once more, and note what each of its modules reads and gives.

    Args:
        model: The network.
        forward: Calls it on a batch.
        output: What it returned for that batch before.
    """
    import torch

    found = Forward(Layouts())
    wrappers: dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]] = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any, given: Any) -> None:
            found.layouts.follow(name, module, args, kwargs, given)
            made = tensor_of_output(module, given)
            if made is None or not torch.is_tensor(output) or not made.ndim:
                return
            if made.is_complex() or output.is_complex():
                return
            of_positions = _may_be_at_positions(output, made)
            if made.numel() != output.numel() and not of_positions:
                return
            linear, read = is_linear(module), tensor_of_input(module, args, kwargs)
            if linear:
                found.alike.append(name)
            elif _is_linear_of_one_place(module, read, made):
                linear = True
            elif found.makers or wrappers or read is None or not _has_matrix(module, read, made):
                return  # what is around a head is none
            if made.numel() == output.numel():
                kind = how_made(output, made)
            else:
                kind = "position" if _where(output, made) is not None else None
            if linear and kind is not None:
                found.makers[name] = kind
            elif kind == "equal" and read is not None:
                wrappers[name] = module, read.detach().clone(), made.detach().clone()

        return note

    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_hook(hook(name), with_kwargs=True))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    found.makers |= {name: "equal" for name, of in wrappers.items() if _is_affine(*of)}
    return found


def find_head(
    model: nn.Module, forward: Forward, given: str | Literal[False] | None, output: Any
) -> tuple[str | None, list[str]]:
    """Return the name of the layer that makes the output, or None, and notes.

    Args:
        model: The network.
        forward: What a forward pass showed.
        given: Name of a module, which is checked; False for none; None for that which is found.
        output: What the forward pass returned.

    Raises:
        ValueError: If there is no such module, it is not called once in a forward pass, or its output is of another
            shape than the network's.
    """
    if given is None:
        found = forward.head(model)
        return found, _notes_of_head(forward, found)
    return (None, []) if given is False else (given, _check_head(model, forward, given, output))


def _notes_of_head(forward: Forward, head: str | None) -> list[str]:
    if head is None or forward.makers[head] == "equal":
        return []
    how = {
        "softmax": "goes through a softmax",
        "scaled": "goes through a scale and shift of each unit",
        "activation": "goes through an activation",
        "position": "is the network's at one position of each example, the one that counts",
    }
    return [f"The last linear layer is {head}; its output {how[forward.makers[head]]}."]


def _check_head(model: nn.Module, forward: Forward, head: str, output: Any) -> list[str]:
    """Refuse what is no head; return notes."""
    names = [name for name, _ in model.named_modules() if name]
    if head not in names:
        shown = ", ".join(name for name, module in model.named_modules() if name and is_linear(module))
        raise ValueError(f"head: received {head!r}, accepted: {shown or 'a module'}, or head=False")
    n_calls, made = forward.layouts.n_calls(head), forward.layouts.seen.get(head, [])
    if n_calls != 1 or len(made) != 1 or len(forward.layouts.seen.get(f"{head}{INPUT}", [])) != 1:
        raise ValueError(
            f"head: received {head!r}, which is called {n_calls} times in a forward pass, accepted: a module that is"
            " called once, with one tensor, and gives one; or head=False"
        )
    if head in forward.makers:
        return _notes_of_head(forward, head)
    if len(forward.layouts.seen[f"{head}{INPUT}"][0].shape) != 2 and getattr(output, "ndim", 0) == 2:
        raise ValueError(
            f"head: received {head!r}, which reads {forward.layouts.seen[f'{head}{INPUT}'][0].shape}, accepted: a layer"
            " that reads a vector of each example, or head=False"
        )
    if tuple(getattr(output, "shape", ())) != made[0].shape:
        raise ValueError(
            f"head: received {head!r} with an output of shape {made[0].shape}, accepted: one of the network's shape,"
            f" {tuple(getattr(output, 'shape', ()))}, or head=False"
        )
    note = (
        f"The network's output is not that of the head {head}: what follows it counts as part of the loss, whose"
        " gradient in the head's output is taken to be that in the network's."
    )
    return [OfNetwork(note)]


def default_layer(model: nn.Module, forward: Forward, head: str | None, notes: list[str]) -> str:
    """Return what the head reads; without a head, what the one linear layer reads that is most like one.

    Raises:
        ValueError: If several are, or the model has no layers.
    """
    if head is not None:
        return f"{head}{INPUT}"
    alike = list(dict.fromkeys(forward.alike))
    if len(alike) > 1:
        raise ValueError(
            f"head: received a {type(model).__name__} whose output none of its linear layers makes alone, accepted:"
            f" head= one of {', '.join(alike)}, or layer= the layer to look at"
        )
    if alike:
        notes.append(
            f"No linear layer alone makes the output; the layer looked at is what {alike[0]} reads, and scores of the"
            " last linear layer are left out."
        )
        return f"{alike[0]}{INPUT}"
    called = [
        name
        for name in forward.layouts.ended
        if len(forward.layouts.seen.get(name, [])) == forward.layouts.n_calls(name)
    ]
    if not called:
        raise ValueError("layer: received none of a model without submodules, accepted: nn.Sequential(model)")
    notes.append(f"No linear layer makes the output; the layer looked at is {called[-1]}.")
    return called[-1]


def how_made(output: torch.Tensor, made: torch.Tensor) -> Kind | None:
    """Return how a network's output follows from a layer's, which has as many numbers, or None if it does not."""
    import torch

    n_units = made.shape[-1]
    n_rows = max(_FEWEST_ROWS, _MOST_NUMBERS // max(n_units, 1))
    t, out = (copied(tensor.reshape(-1, n_units)[:n_rows]).double() for tensor in (made, output))
    finite = (t.isfinite() & out.isfinite()).all(dim=1)
    t, out = t[finite], out[finite]
    if not t.numel():
        return None
    exact = _exactness(output)
    if _close(out, t, exact):
        return "equal"
    if t.shape[1] > 1 and any(_close(out, after, exact) for after in (t.softmax(dim=1), t.log_softmax(dim=1))):
        return "softmax"
    if len(t) >= _FEWEST_ROWS:
        from_mean = t - t.mean(dim=0)
        slopes = (from_mean * out).sum(dim=0) / from_mean.square().sum(dim=0).clamp(min=1e-300)
        if bool((slopes != 0).all()) and _close(out - out.mean(dim=0), slopes * from_mean, exact):
            return "scaled"
    in_order = out.flatten()[t.flatten().argsort()]
    spread = float(out.max() - out.min())
    rises = bool((torch.diff(in_order) >= -_ROUNDING * spread).all()) and spread > 0
    return "activation" if t.numel() >= _FEWEST_NUMBERS and rises else None


def _may_be_at_positions(output: torch.Tensor, made: torch.Tensor) -> bool:
    """Whether a layer gave as many numbers for each position as the network gives for each example."""
    if output.ndim != 2 or made.ndim != 3 or made.shape[2] != output.shape[1]:
        return False
    return len(output) in made.shape[:2]


def _where(output: torch.Tensor, made: torch.Tensor) -> tuple[int, torch.Tensor] | None:
    """Return a layer's axis of examples, and of each the position at which its output is the network's; or None."""
    import torch

    out = copied(output).double().reshape(len(output), -1)
    for axis in (0, 1):  # the second where sequences come first
        t = copied(made).double().movedim(axis, 0)
        if len(t) == len(out):
            position = (t - out[:, None]).abs().amax(dim=2).argmin(dim=1)
            if _close(t[torch.arange(len(t)), position], out, _exactness(output)):
                return axis, position
    return None


def read_by_head(
    seen: Mapping[str, Sequence[torch.Tensor]],
    head: str,
    output: torch.Tensor,
    numbers: Int64[np.ndarray, " n_examples"],
) -> Float32[np.ndarray, "n_examples n_inputs"]:
    """Return the vector of each example that the head read to make a batch's output.

    Args:
        seen: What the head read and made (``watched``).
        head: Its name.
        output: The network's.
        numbers: The examples' indices in the dataset, for messages.

    Raises:
        ValueError: If it read no vector of each example, or some that are not finite.
    """
    import torch

    read = seen[f"{head}{INPUT}"]
    if read[0].ndim == 3:
        where = _where(output, seen[head][0])
        if where is None:
            raise ValueError(
                f"head: received {head!r}, whose output is the network's at no position, accepted: a layer"
                " that makes it"
            )
        axis, position = where
        read = [read[0].movedim(axis, 0)[torch.arange(len(position)), position]]
    elif _is_one_place(read[0]):
        read = [read[0].flatten(1)]
    return rows_of(read, f"{head}{INPUT}", "nu", numbers)[:, 0]


def _exactness(tensor: torch.Tensor) -> float:
    """How far, as a share of their range, the same numbers may be apart when computed twice."""
    import torch

    return max(_CLOSE, 4 * torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else _CLOSE


def _close(one: torch.Tensor, two: torch.Tensor, exact: float) -> bool:
    spread, largest = float(two.max() - two.min()), float(two.abs().max())
    return bool((one - two).abs().max() <= max(exact * spread, _ROUNDING * largest))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, quantised ones among them."""
    from torch import nn

    quantised = "quantized" in type(module).__module__ and hasattr(module, "in_features")
    return isinstance(module, nn.Linear) or quantised


def _is_one_place(tensor: torch.Tensor) -> bool:
    """Whether a convolution's input or output has one place, so that its channels are a vector of each example."""
    return tensor.ndim > 3 and all(size == 1 for size in tensor.shape[2:])


def _is_linear_of_one_place(module: nn.Module, read: torch.Tensor | None, made: torch.Tensor) -> bool:
    """Whether a module is a convolution of images that were pooled to one place: what it does is a linear layer's."""
    from torch import nn

    if not isinstance(module, (nn.Conv2d, nn.Conv3d)) or read is None or not _is_one_place(read):
        return False
    return _is_one_place(made) and module.groups == 1 and set(module.kernel_size) == {1}


def _has_matrix(module: nn.Module, read: torch.Tensor, made: torch.Tensor) -> bool:
    """Whether a module has a matrix from what it reads to what it gives."""
    sizes = {read.shape[-1], made.shape[-1]} if read.ndim else set()
    return any(p.ndim == 2 and set(p.shape) == sizes for p in module.parameters())


def _is_affine(module: nn.Module, read: torch.Tensor, made: torch.Tensor) -> bool:
    """Whether the mean of two inputs, the second with its units turned round, has the mean of their outputs."""
    if not read.is_floating_point():
        return False
    try:
        turned, of_mean = module(read.flip(-1)), module((read + read.flip(-1)) / 2)
    except (TypeError, RuntimeError, IndexError):
        return False
    means = [tensor_of_output(module, output) for output in (turned, of_mean)]
    if means[0] is None or means[1] is None or means[0].shape != made.shape:
        return False
    middle = (made.double() + means[0].double()) / 2
    return _close(means[1].double(), middle, _exactness(made))
