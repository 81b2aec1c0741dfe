"""Which axis of a layer's tensor holds examples, which units, and which positions.

Axes are written with a letter each, in their order: n for examples, u for units, any other letter for positions. A 1-d
convolution has "nup", its channels being the units; a linear layer on sequences "npu", or "pnu" where sequences come
first. Units follow from the documented layout of the module's type, or else of the modules that made or read the same
tensor; examples from the type or from sizes, compared with the batch's. What stays open is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from byheart.network.layers import INPUT, tensor_of_input, tensor_of_output

if TYPE_CHECKING:
    import torch
    from torch import nn

_LETTERS = "n for examples, u for units, any other letter for positions"
_CHANNELS_FIRST = {"GroupNorm", "LocalResponseNorm", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Upsample"}
_CHANNELS_FIRST |= {"Fold", "Unfold"}
_UNITS_LAST = {"Linear", "Bilinear", "LayerNorm", "RMSNorm", "Embedding", "EmbeddingBag", "RNNBase"}
_UNITS_LAST |= {"MultiheadAttention", "Transformer"}
_UNITS_LAST |= {f"Transformer{part}{kind}" for part in ("Encoder", "Decoder") for kind in ("", "Layer")}
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_N_UNITS = ("num_features", "num_channels", "normalized_shape", "embedding_dim")
_N_READ, _N_MADE = ("in_features", "in_channels"), ("out_features", "out_channels")


class NotFinite(ValueError):
    """A layer's NaN or infinity of an example.

    Attributes:
        name: Of the layer.
        row: The example's place in its batch.
        number: Its index in the dataset.
    """

    def __init__(self, name: str, row: int, number: int) -> None:
        super().__init__(f"layer {name}: received NaN or infinite activations of example {number}, accepted: finite")
        self.name, self.row, self.number = name, row, number


@dataclass
class Tensor:
    """What is known of a tensor that a module made or read.

    Attributes:
        shape: Its axes' lengths.
        units: Axes that hold its units, by the documented layouts of all that made or read it.
    """

    shape: tuple[int, ...]
    units: set[int] = field(default_factory=set)


class Layouts:
    """Follows a forward pass: the tensors of every module by name, those it reads under NAME.input."""

    def __init__(self) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self.seen: dict[str, list[Tensor]] = {}
        self.ended: list[str] = []  # names of the modules, in the order in which their calls ended
        self._known: Any = WeakIdKeyDictionary()

    def follow(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note a call of a module."""
        self.ended.append(name)
        read, made = tensor_of_input(module, args, kwargs), tensor_of_output(module, output)
        before = None if read is None else self._note(f"{name}{INPUT}", read)
        after = None if made is None else self._note(name, made)
        if before is not None and read is not None and read.is_floating_point():
            before.units |= _axes(documented_units(module, before.shape, _N_READ))
        if after is None:
            return
        documented = documented_units(module, after.shape)
        if documented is None and before is not None and _is_elementwise(module) and before.shape == after.shape:
            self._known[made] = before  # one and the same from now on: who reads it tells of both
            self.seen[name][-1] = before
        after.units |= _axes(documented)

    def n_calls(self, name: str) -> int:
        """Return how often a module was called."""
        return self.ended.count(name.removesuffix(INPUT))

    def _note(self, name: str, tensor: torch.Tensor) -> Tensor:
        found: Tensor = self._known.setdefault(tensor, Tensor(tuple(tensor.shape)))
        self.seen.setdefault(name, []).append(found)
        return found

    def units(self, name: str, module: nn.Module, n_examples: int) -> int | None:
        """Return the axis of a layer's units, or None where it is open."""
        tensor = self.seen[name][0]
        if len(tensor.shape) == 2:
            return 1
        own = None if name.endswith(INPUT) else documented_units(module, tensor.shape)
        if own is not None:
            return own
        found = set(tensor.units)
        if not found:  # of a block, what its parts with the same shape say
            parts = [part for other in self.seen if other.startswith(f"{name}.") for part in self.seen[other]]
            found = {axis for part in parts if part.shape == tensor.shape for axis in part.units}
            others = list(tensor.shape)
            if n_examples in others:
                others.remove(n_examples)
            if any(others.count(tensor.shape[axis]) > 1 for axis in found):
                return None  # the axes could change places unseen
        return found.pop() if len(found) == 1 else None


def documented_units(module: nn.Module, shape: Sequence[int], declared: Sequence[str] = _N_MADE) -> int | None:
    """Return the axis of units in a tensor with three axes or more, by the module's type, or None.

    A type that has its own ``forward`` is held to the number of units that it declares, of what it makes or reads.
    """
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.split(".")[0] in ("torch", "torchvision")]
    names = {kind.__name__ for kind in kinds}
    spatial = next((int(name[-2]) for name in names if re.search("[123]d$", name)), None)
    n_axes = len(shape)
    axis = None
    if spatial is not None:
        axis = 1 if n_axes == spatial + 2 else None
    elif names & _CHANNELS_FIRST:
        axis = 1
    elif names & _UNITS_LAST and len(getattr(module, "normalized_shape", (1,))) == 1:
        axis = n_axes - 1
    if axis is not None and _overridden(module):
        number = next((getattr(module, name) for name in (*declared, *_N_UNITS) if hasattr(module, name)), None)
        number = number[-1] if isinstance(number, (tuple, list)) else number
        fitting = [place for place in range(1, n_axes) if shape[place] == number]  # axis 0 is not of units
        return fitting[0] if len(fitting) == 1 else None
    return axis


def documented_examples(module: nn.Module) -> int | None:
    """Return the axis of examples by the module's type, or None where sizes must tell."""
    inner: Any = module
    if not any(kind.__module__.startswith("torch.") and kind.__name__ in _UNITS_LAST for kind in type(module).__mro__):
        return None
    while not hasattr(inner, "batch_first") and any(hasattr(inner, part) for part in ("layers", "self_attn")):
        inner = inner.self_attn if hasattr(inner, "self_attn") else inner.layers[0]  # of torch's transformers
    first = getattr(inner, "batch_first", None)
    return None if first is None else 0 if first else 1


Axes = str | Mapping[str, str] | None


def axes_of_layers(
    model: nn.Module,
    layouts: Layouts,
    names: Collection[str],
    given: Axes,
    n_examples: int,
    fewer: Callable[[], tuple[Layouts, int]],
) -> dict[str, str]:
    """Return the axes of layers, those that are given first.

    Raises:
        ValueError: If the model does not use a layer, or its axes stay open or are not those that are given.
    """
    seen, found = layouts.seen, {}
    if isinstance(given, Mapping) and (unknown := [name for name in given if name not in names]):
        raise ValueError(f"axes: received those of {unknown[0]!r}, accepted: of {', '.join(names)}")
    for name in names:
        if not layouts.n_calls(name):
            raise ValueError(f"layer: received {name!r}, which the model does not use, accepted: one it calls")
        axes = given.get(name) if isinstance(given, Mapping) else given
        if name not in seen:
            found[name] = axes or "nu"  # no tensor, which watching refuses
        elif axes is not None:
            check_axes(name, axes, seen[name][0].shape)
            found[name] = axes
        else:
            found[name] = settle(name, model, layouts, n_examples, fewer)
    return found


def settle(
    name: str, model: nn.Module, layouts: Layouts, n_examples: int, fewer: Callable[[], tuple[Layouts, int]]
) -> str:
    """Return the axes of a layer's tensors, a letter each.

    Args:
        name: Of the layer.
        model: The network that has it.
        layouts: Of a forward pass of the first batch.
        n_examples: In that batch.
        fewer: Returns the layouts of a pass with fewer examples, and their number; called where sizes do not tell.

    Raises:
        ValueError: If the axes stay open, the calls of the layer differ in them, or no axis has the batch's examples.
    """
    module = dict(model.named_modules())[name.removesuffix(INPUT)]
    shapes = [tensor.shape for tensor in layouts.seen[name]]
    first = shapes[0]
    if len(first) < 2 or any(len(shape) != len(first) for shape in shapes):
        words = (
            f"{first}" if len(first) < 2 else f"calls with tensors of {' and '.join(map(str, dict.fromkeys(shapes)))}"
        )
        raise ValueError(
            f"layer {name}: received {words}, accepted: a layer whose output is one floating-point tensor with an axis"
            " of examples and one of units"
        )
    if len(first) == 2 and (documented_examples(module) is not None or type(module).__name__.endswith("Conv1d")):
        raise _open(name, first, f"whether {type(module).__name__} was given one example or many")
    units = layouts.units(name, module, n_examples)
    if units is None:
        raise _open(name, first, "which axis holds the units")
    examples = 0 if len(first) == 2 or units == 1 else documented_examples(module)
    if examples is None:
        places = [place for place in range(len(first)) if place != units]
        found = [place for place in places if first[place] == n_examples]
        if len(found) > 1 and n_examples > 1:
            others, n_fewer = fewer()
            shape = others.seen[name][0].shape if name in others.seen else first
            found = [place for place in found if shape[place] == n_fewer] or found
        if len(found) > 1 and n_examples > 1:
            raise _open(name, first, "which axis holds the examples")
        examples = found[0] if found else places[0]
    return "".join("n" if place == examples else "u" if place == units else "p" for place in range(len(first)))


def _open(name: str, shape: tuple[int, ...], what: str) -> ValueError:
    return ValueError(
        f"layer {name}: received {shape}, whose module and sizes leave open {what}, accepted: with axes=, such as"
        f" {'n' + 'p' * (len(shape) - 2) + 'u'!r} ({_LETTERS})"
    )


def check_axes(name: str, axes: str, shape: tuple[int, ...]) -> None:
    """Refuse axes that are none of a layer.

    Raises:
        ValueError: If there is not one letter per axis of the layer, one n and at least one u among them.
    """
    if len(axes) != len(shape) or axes.count("n") != 1 or "u" not in axes or not axes.isalpha():
        raise ValueError(
            f"axes: received {axes!r} for the {shape} of layer {name}, accepted: a letter for each axis ({_LETTERS})"
        )


def rows_of(
    calls: Sequence[torch.Tensor],
    name: str,
    axes: str,
    numbers: Int64[np.ndarray, " n_examples"],
    counted: np.ndarray | None = None,
    *,
    exact: bool = False,
) -> Float32[np.ndarray, "n_examples n_positions n_units"]:
    """Return a layer's vectors of a batch; those of further calls are further positions.

    Args:
        calls: What the layer gave, call by call.
        name: Its name, for messages.
        axes: Of its tensors, a letter each.
        numbers: The examples' indices in the dataset.
        counted: Which positions count, of shape (n_examples, n_positions), or how many of each example; vectors of
            others become zero, so that they hold nothing and no moment changes.
        exact: Whether these must be as many positions as the layer has, as those that a user gives.

    Raises:
        ValueError: If the rows are not the batch's examples, calls differ in units, the mask is of other positions, or
            a number that counts is not finite.
    """
    n_examples, parts = len(numbers), []
    example_axis = axes.index("n")
    order = [
        example_axis,
        *(i for i, a in enumerate(axes) if a not in "nu"),
        *(i for i, a in enumerate(axes) if a == "u"),
    ]
    n_unit_axes = axes.count("u")
    for tensor in calls:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            raise ValueError(f"layer {name}: received {tensor.dtype} numbers, accepted: floating-point ones")
        if tensor.ndim != len(axes) or shape[example_axis] != n_examples:
            raise ValueError(
                f"layer {name}: received {shape} for a batch of {n_examples} examples, read as {axes!r}, accepted:"
                f" {n_examples} along n (axes= says what each axis holds: {_LETTERS})"
            )
        part = tensor.permute(order)
        n_units = int(np.prod(part.shape[len(axes) - n_unit_axes :]))
        n_positions = int(np.prod(part.shape[1 : len(axes) - n_unit_axes]))
        parts.append(part.reshape(n_examples, n_positions, n_units).numpy())
    widths = list(dict.fromkeys(part.shape[2] for part in parts))
    if len(widths) > 1:
        raise ValueError(
            f"layer {name}: received calls with {' and '.join(map(str, widths))} units in one forward pass, accepted: a"
            " layer all of whose calls have the same number of units"
        )
    found = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if counted is not None:
        counts = _positions(counted, [part.shape[1] for part in parts], name, exact=exact)
        if counts is not None:
            found = np.where(counts[:, :, None], found, np.float32(0))
    finite = np.isfinite(found).reshape(n_examples, -1).all(axis=1)
    if not finite.all():
        raise NotFinite(name, int(finite.argmin()), int(numbers[finite.argmin()]))
    return found


def _positions(counted: np.ndarray, sizes: list[int], name: str, *, exact: bool) -> np.ndarray | None:
    """Return which of a layer's positions count, of shape (n_examples, n_positions); None if all do.

    Args:
        counted: The mask, or numbers of positions.
        sizes: How many positions each call of the layer has.
        name: Of the layer, for messages.
        exact: Whether no position may be missing or left over, in one call or in all of them.
    """
    n_calls, total = len(sizes), sum(sizes)
    if counted.ndim == 1:
        counted = np.arange(max(int(counted.max(initial=0)), sizes[0] if total > n_calls else total)) < counted[:, None]
    counted = counted.reshape(len(counted), -1).astype(bool)
    fits = counted.shape[1] == total or (set(sizes) == {counted.shape[1]})
    if (total == n_calls and counted.shape[1] != total) or (counted.all() and (fits or not exact)):
        return None  # one vector per example and call is of all its positions
    if exact and not fits:
        raise _misfit(counted, sizes, name)
    if counted.shape[1] == total or (n_calls == 1 and counted.shape[1] > total and not counted[:, total:].any()):
        return counted[:, :total]
    each = sizes[0]
    if total > n_calls and set(sizes) == {each} and counted.shape[1] >= each and not counted[:, each:].any():
        return np.tile(counted[:, :each], (1, n_calls))
    raise _misfit(counted, sizes, name)


def _misfit(counted: np.ndarray, sizes: list[int], name: str) -> ValueError:
    words = " and ".join(map(str, dict.fromkeys(sizes)))
    return ValueError(
        f"layer {name}: received {words} positions and a mask of {counted.shape[1]}, accepted: as many (mask= says"
        " which positions of the layer count; mask=False counts all)"
    )


def _axes(axis: int | None) -> set[int]:
    return set() if axis is None else {axis}


def _overridden(module: nn.Module) -> bool:
    """Whether a type's ``forward`` is not torch's own, so that what torch documents need not hold."""
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return owner.__module__.split(".")[0] not in ("torch", "torchvision")


def _is_elementwise(module: nn.Module) -> bool:
    return type(module).__module__ in _ELEMENTWISE or type(module).__name__ == "Identity"
