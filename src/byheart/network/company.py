"""Whether a network answers an example otherwise among other examples: then its losses are those of certain batches.

A batch normalisation without running statistics does, and a ``forward`` that takes a mean over its batch. The first
examples of the first batch are asked once more without the others. Rounding is no such answer: it differs between
batches of different sizes, and quantised layers take their scale from the whole batch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from byheart.network.calling import call, copied_inputs, part_of
from byheart.network.inputs import Batch
from byheart.network.layers import left_as_found

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

_FEWEST = 4  # examples of a batch, of which half are asked again
_MOST_ASKED = 8  # the fewer, the more their company matters
_ROUNDING = 1e-3  # of the largest number, in float32 on the CPU: a hundred times what many layers add up to
_COARSE = 3e-2  # in fewer bits, as on accelerators too: a number of bfloat16 is rounded by 4e-3
_QUANTISED = 1e-1  # measured up to 3e-2, of layers whose scale is the batch's
_OF_QUANTISED = re.compile(r"\b(quantized|quantization|bitsandbytes|torchao)\b")
_LEAST_LOSS = 1e-3  # losses below are all rounding


def notes_of_company(
    model: nn.Module, batch: Batch, output: Any, losses: Callable[[Batch, Any], torch.Tensor] | None
) -> list[str]:
    """Return a note if the answers to a batch's first examples, or their losses, are others without the rest of it.

    One forward call of a few examples, and a second of the same ones where the first was otherwise: a network that is
    random is none that depends on its batch. All random states are left as found. Where the examples cannot be asked
    alone, or the outputs have no row of each, there is no note.

    Args:
        model: The network.
        batch: The first of the data.
        output: The network's for it.
        losses: Returns one loss per example of a batch and the outputs for it; None where they follow from each
            example's outputs alone.
    """
    n_asked = min(_MOST_ASKED, len(batch) // 2)
    if len(batch) < _FEWEST:
        return []

    def answers(asked: Batch, given: Any = None) -> dict[str, torch.Tensor]:
        given = call(model, copied_inputs(asked.inputs)) if given is None else given
        of_loss = {} if losses is None else {"losses": losses(asked, given)}
        return _rows(given, len(asked)) | of_loss

    tolerance = _tolerance(model, output)
    try:
        inputs = part_of(batch.inputs, len(batch), 0, n_asked)
        few = Batch(0, batch.indices[:n_asked], inputs, batch.targets[:n_asked])
        whole = answers(batch, output)
        with left_as_found(model):
            alone = answers(few)
            again = answers(few) if _apart(whole, alone, tolerance) else alone
    except Exception:  # noqa: BLE001, whatever a network or a loss raises on fewer examples: then nothing is known
        return []
    differing = _apart(whole, alone, tolerance)
    if not differing or _apart(again, alone, tolerance):
        return []
    return [
        f"The network's answer to an example depends on which others are in its batch: {differing} of the first"
        f" {n_asked} examples, asked without the others. A batch normalisation without running statistics does that, or"
        f" a mean over the batch. Its losses are those of batches of {len(batch)} in the data's order: another"
        " batch_size or order gives other losses and verdicts."
    ]


def _rows(output: Any, n_examples: int) -> dict[str, torch.Tensor]:
    """The outputs, if they are a tensor; an error if that has no row of each example."""
    import torch

    if not torch.is_tensor(output):
        return {}
    if not output.ndim or len(output) != n_examples or output.is_complex():
        raise ValueError(f"model: received outputs of shape {tuple(output.shape)}, accepted: a row for each example")
    return {"outputs": output}


def _apart(whole: dict[str, torch.Tensor], alone: dict[str, torch.Tensor], tolerance: float) -> str:
    """Return in words how far the same examples' outputs, or else their losses, differ; "" if by rounding alone."""
    for name, one in whole.items():
        two = alone[name]
        largest = float(one.double().nan_to_num(0, 0, 0).abs().max())
        # Padding up to the longest of a batch may be missing without that one.
        common = tuple(slice(0, min(sizes)) for sizes in zip(one.shape, two.shape, strict=True))
        difference = (one[common].double() - two[common].double()).abs().nan_to_num(0, 0, 0)
        apart = float(difference.max())
        if apart > tolerance * max(largest, _LEAST_LOSS if name == "losses" else 0):
            return f"{name} differ by up to {apart:.2g}, the largest being {largest:.2g},"
    return ""


def _tolerance(model: nn.Module, output: Any) -> float:
    """What rounding may come to, by the coarsest numbers in the network."""
    tensors = [*model.parameters(), *model.buffers(), *([output] if hasattr(output, "element_size") else [])]
    if any(_OF_QUANTISED.search(type(module).__module__) for module in model.modules()):
        return _QUANTISED
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        return _QUANTISED
    return _COARSE if any(t.device.type != "cpu" or _few_bits(t) for t in tensors) else _ROUNDING


def _few_bits(tensor: torch.Tensor) -> bool:
    return bool(tensor.is_floating_point() and tensor.element_size() < 4)
