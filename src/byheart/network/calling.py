"""How a model is called with a batch: on its device, in its own types, with keywords or positional arguments."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from byheart.network.inputs import are_words
from byheart.network.layout import NotFinite


def call(model: Any, inputs: Any) -> Any:
    """Call a model on a batch's inputs and return its answers: a tensor, or whatever else it returns.

    Inputs are moved to the model's device, a dict is given as keywords and a tuple as positional arguments. Of an
    output with ``logits``, as an object or a dict, these are the answers.

    Raises:
        ValueError: If the model raises, as of inputs of another shape than it takes.
    """
    moved = to_device(inputs, device_of(model), _floats_of(model))
    try:
        if isinstance(moved, tuple) and not hasattr(moved, "to"):
            output = model(list(moved)) if are_words(moved) else model(*moved)
        else:
            output = model(**moved) if isinstance(moved, dict) else model(moved)
    except (TypeError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
        words = " ".join(str(error).split())
        if isinstance(error, NotImplementedError) and 'missing the required "forward"' in words:
            names = ", ".join(name for name, _ in model.named_children()) or "none"
            raise ValueError(
                f"model: received a {type(model).__name__} without a forward, accepted: one that has it, such as def"
                f" forward(self, x): return self.net(x), or the network inside it (its modules: {names})"
            ) from error
        whole = _whole_numbers_of(moved)
        if isinstance(error, RuntimeError) and whole and "type" in words:
            raise ValueError(
                f"inputs: received {whole}, on which the model raises: {words}, accepted: floating-point numbers, on"
                " the scale that it was trained on"
            ) from error
        raise ValueError(f"inputs: received some on which the model raises {type(error).__name__}: {words}") from error
    if hasattr(output, "detach"):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if logits is None or not hasattr(logits, "detach") else logits


def _whole_numbers_of(inputs: Any) -> str:
    """Return the type of inputs that are one tensor of whole numbers; else nothing."""
    import torch

    whole = torch.is_tensor(inputs) and not inputs.is_floating_point() and not inputs.is_complex()
    return str(inputs.dtype) if whole else ""


def described(output: Any) -> str:
    """Return what an output that is no tensor has in it, in words."""
    if isinstance(output, (tuple, list)):
        parts: list[tuple[Any, Any]] = list(enumerate(output))
    else:
        parts = list(output.items()) if isinstance(output, Mapping) else []
    words = [f"{name!r} {tuple(p.shape) if hasattr(p, 'shape') else type(p).__name__}" for name, p in parts[:8]]
    more = ", ..." if len(parts) > 8 else ""
    return f"{type(output).__name__}" + (f" of {', '.join(words)}{more}" if words else "")


def copied_inputs(inputs: Any) -> Any:
    """Return a batch's inputs once more, since a model may write into them."""
    import torch

    if torch.is_tensor(inputs):
        return inputs.detach().clone()
    if isinstance(inputs, dict):
        return {name: copied_inputs(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(copied_inputs(value) for value in inputs)
    return copy.deepcopy(inputs)


def part_of(inputs: Any, n_examples: int, start: int, stop: int) -> Any:
    """Return what some examples of a batch have of its inputs, as they were put together with the others.

    Examples lie along the first axis that is as long as the batch; what has no such axis is of all of them.

    Args:
        inputs: Of a batch.
        n_examples: In the batch.
        start: The first of the examples.
        stop: The one behind the last.

    Raises:
        TypeError: If there are objects of other types among the inputs, such as packed sequences.
    """
    if isinstance(inputs, Mapping):
        return {name: part_of(value, n_examples, start, stop) for name, value in inputs.items()}
    if hasattr(inputs, "shape") and hasattr(inputs, "__getitem__"):
        if n_examples not in inputs.shape:
            return inputs
        return inputs[(slice(None),) * tuple(inputs.shape).index(n_examples) + (slice(start, stop),)]
    if are_words(inputs) and len(inputs) == n_examples:
        return inputs[start:stop]
    if isinstance(inputs, (tuple, list)) and not hasattr(inputs, "to"):
        parts = tuple(part_of(value, n_examples, start, stop) for value in inputs)
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else parts
    if inputs is None or isinstance(inputs, (bool, int, float, str)):
        return inputs
    raise TypeError(f"inputs: received {type(inputs).__name__}, accepted: tensors, arrays, words, and dicts of these")


def of_input(error: NotFinite, inputs: Any, n_examples: int) -> ValueError:
    """Return an error that says where an example's input has NaN or infinity that a layer has; else the error itself.

    Args:
        error: What a layer has.
        inputs: Of the batch.
        n_examples: In the batch.
    """
    found = _not_finite(inputs, n_examples, error.row)
    if not found:
        return error
    return ValueError(
        f"inputs: received {found} of example {error.number}, accepted: finite numbers; layer {error.name} has NaN or"
        " infinite activations of it"
    )


def _not_finite(inputs: Any, n_examples: int, row: int) -> str:
    """In words the first number of an example that is NaN or infinite, and its place; "" if none is."""
    import torch

    if isinstance(inputs, Mapping):
        named = {name: _not_finite(value, n_examples, row) for name, value in inputs.items()}
        return next((f"{found} of {name!r}" for name, found in named.items() if found), "")
    if isinstance(inputs, (tuple, list)):
        return next(filter(None, (_not_finite(value, n_examples, row) for value in inputs)), "")
    if not torch.is_tensor(inputs) or not inputs.is_floating_point() or tuple(inputs.shape[:1]) != (n_examples,):
        return ""
    wrong = (~inputs[row].isfinite()).nonzero()
    place = wrong[0].tolist() if len(wrong) else []
    where = f" in column {place[0]}" if len(place) == 1 else f" at {place}" if place else ""
    return f"{inputs[(row, *place)].item()}{where}" if len(wrong) else ""


def device_of(model: Any) -> Any:
    """The device of a model's first parameter or buffer; the CPU's if it has none."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _floats_of(model: Any) -> tuple[Any, ...]:
    """The types of a model's floating parameters and buffers; torch's default if it has none, as quantised ones."""
    import torch

    found = {tensor.dtype: None for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    return tuple(found) or (torch.get_default_dtype(),)


def to_device(inputs: Any, device: Any, floats: tuple[Any, ...] = ()) -> Any:
    """Move tensors, also in tuples, lists and mappings, and what moves itself.

    Args:
        inputs: Of a batch.
        device: Where to.
        floats: The model's own types: all floating-point numbers become the only one; of several the first, but
            float32 stays, and half-precise numbers do if that has no more bits.
    """
    import torch

    if torch.is_tensor(inputs):
        half = inputs.dtype in (torch.float16, torch.bfloat16) and floats[:1] in ((torch.float32,), (torch.float64,))
        changes = half or inputs.dtype == torch.float64 or (inputs.dtype == torch.float32 and len(floats) == 1)
        return inputs.to(device, floats[0] if floats and changes else None)
    if isinstance(inputs, Mapping):
        return {name: to_device(value, device, floats) for name, value in inputs.items()}
    if callable(getattr(inputs, "to", None)):  # such as packed sequences, which are tuples too
        return inputs.to(device)
    if isinstance(inputs, (tuple, list)):
        moved = tuple(to_device(value, device, floats) for value in inputs)
        return type(inputs)(*moved) if hasattr(inputs, "_fields") else moved
    return inputs
