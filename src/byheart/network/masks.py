"""Which positions of a text or another sequence count in the scores of layers, and which are padding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int64

from byheart.network.inputs import Batch
from byheart.network.layers import INPUT
from byheart.network.layout import Layouts, settle

if TYPE_CHECKING:
    import torch
    from torch import nn

    Seen = dict[str, list[torch.Tensor]]

Given = Callable[[Any], Any] | Any | Literal[False] | None
_GIVEN = "Which positions count is what mask= says."
_UNUSED = "mask= changes nothing: no layer that is looked at has positions."
_IGNORED = -100  # the target of positions that have none, as in torch's cross-entropy


@dataclass(frozen=True)
class Mask:
    """What decides which positions count.

    Attributes:
        of: Returns, of a batch, its examples' indices in the dataset and what was seen, which positions count, of shape
            (n_examples, n_positions), or how many of each example; None if all do.
        note: What decides, in a sentence; empty if nothing does.
        watched: Names of what it looks at in the network.
        exact: Whether it must fit the layers' positions, as what a user gives.
    """

    of: Callable[[Batch, Int64[np.ndarray, " n_examples"], Seen], np.ndarray | None]
    note: str = ""
    watched: tuple[str, ...] = ()
    exact: bool = False


def find_mask(
    given: Given,
    batch: Batch,
    n_examples: int,
    model: nn.Module,
    layouts: Layouts,
    layers: Collection[str],
    axes: Mapping[str, str],
    fewer: Callable[[], tuple[Layouts, int]],
) -> tuple[Mask, list[str]]:
    """Return which positions of the layers count, and notes on positions.

    What the user gave decides, or else the batches' attention mask, targets of -100, or ids of padding.

    Args:
        given: The argument of ``audit``.
        batch: The first.
        n_examples: In the dataset.
        model: The network.
        layouts: Of a forward pass of the first batch.
        layers: That are looked at.
        axes: Of the layers.
        fewer: As of ``settle``.

    Raises:
        ValueError: If what is given is no mask of the dataset's examples.
    """
    notes = []
    sequences = [name for name in layers if set(axes[name]) > {"n", "u"}]
    if given is None and sequences and (two := _two_sequences(batch, model, layouts, sequences)):
        raise ValueError(
            f"mask: received {two}, accepted: mask= for the positions of {', '.join(sequences)}, those of all calls in"
            " a row, or mask=False to count all"
        )
    several = [name for name in layers if layouts.n_calls(name) > 1]
    if several:
        notes.append(
            f"Called more than once in a forward pass: {', '.join(several)}. The vectors of all calls count, as further"
            " positions of an example."
        )
    if given is None and not sequences and not several:
        return Mask(lambda *_: None), notes
    mask = _mask(given, batch, n_examples, model, layouts, fewer)
    if not sequences and not several:
        return Mask(lambda *_: None), [_UNUSED] if given is not False else []
    if mask.note:
        notes.append(mask.note)
    elif any(len(axes[name]) == 3 for name in sequences):
        notes.append("All positions count: nothing says which of them are padding, if any are (mask= does).")
    return mask, notes


def _mask(
    given: Given,
    batch: Batch,
    n_examples: int,
    model: nn.Module,
    layouts: Layouts,
    fewer: Callable[[], tuple[Layouts, int]],
) -> Mask:
    if given is False:
        return Mask(lambda *_: None, "All positions count, padding too if there is any, as mask=False says.")
    if callable(given):
        return Mask(lambda b, _, __: _checked(given(b.inputs), len(b)), _GIVEN, exact=True)
    if given is not None:
        mask = _checked(given, n_examples)
        if not mask.any():
            raise ValueError("mask: received one in which no position counts, accepted: ones or True where one does")
        return Mask(lambda _, numbers, __: mask[numbers], _GIVEN, exact=True)
    if isinstance(batch.inputs, Mapping) and "attention_mask" in batch.inputs:
        return Mask(
            lambda b, _, __: _checked(b.inputs["attention_mask"], len(b)),
            "Positions that the batches' attention_mask leaves out do not count in the scores of layers.",
        )
    if batch.targets.ndim > 1 and not batch.targets.is_floating_point():
        return Mask(
            lambda b, _, __: (b.targets != _IGNORED).cpu().numpy(),
            f"Positions whose target is {_IGNORED} do not count in the scores of layers; all others do.",
        )
    return _padding(model, layouts, len(batch), fewer)


def _two_sequences(batch: Batch, model: nn.Module, layouts: Layouts, layers: Collection[str]) -> str:
    """Return, in words, what shows that a batch's mask may be that of other positions than the layers'; or nothing."""
    from torch import nn

    if not isinstance(batch.inputs, Mapping) or "attention_mask" not in batch.inputs:
        return ""
    others = [str(name) for name in batch.inputs if str(name).startswith("decoder_")]
    if others:
        return f"attention_mask beside {others[0]}"
    embeddings = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    again = [name for name in layers if layouts.n_calls(name) > 1]
    if again and any(layouts.n_calls(name) > 1 for name in embeddings):
        return f"attention_mask for {again[0]}, which is called for more than one sequence"
    return ""


def _padding(model: nn.Module, layouts: Layouts, n_examples: int, fewer: Callable[[], tuple[Layouts, int]]) -> Mask:
    """The mask of the ids that torch's embeddings are told to take for padding."""
    from torch import nn

    found: dict[str, tuple[int, str]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module.padding_idx is None or name not in layouts.seen:
            continue
        if len(layouts.seen[name]) == 1 and len(layouts.seen[name][0].shape) == 3:
            found[f"{name}{INPUT}"] = module.padding_idx, settle(name, model, layouts, n_examples, fewer)
    if not found:
        return Mask(lambda *_: None)

    def counted(_: Batch, __: Int64[np.ndarray, " n_examples"], seen: Seen) -> np.ndarray:
        masks = []
        for name, (padding, axes) in found.items():
            mask = (seen[name][0] != padding).numpy()
            masks.append(mask if axes[0] == "n" else mask.T)
        real: np.ndarray = np.logical_or.reduce([mask for mask in masks if mask.shape == masks[0].shape])
        return real

    ids = " and ".join(f"{padding} in {name.removesuffix(INPUT)}" for name, (padding, _) in found.items())
    note = f"Positions with the padding_idx of an embedding ({ids}) do not count in scores of layers (mask= decides)."
    return Mask(counted, note, tuple(found))


def _checked(mask: Any, n_examples: int) -> np.ndarray:
    """A mask as an array of bools, or of numbers of positions."""
    import torch

    found: np.ndarray = mask.detach().cpu().numpy() if torch.is_tensor(mask) else np.asarray(mask)
    lengths = found.ndim == 1 and found.dtype.kind in "iu"
    if (
        len(found.shape) < 1
        or len(found) != n_examples
        or not (lengths or (found.ndim > 1 and found.dtype.kind in "biuf"))
    ):
        raise ValueError(
            f"mask: received {found.dtype} of shape {found.shape}, accepted: ones and zeros of shape"
            f" ({n_examples}, n_positions), or {n_examples} numbers of positions"
        )
    if lengths:
        return found
    if not np.isin(found, (0, 1)).all():
        raise ValueError("mask: received other numbers than 0 and 1, accepted: 1 or True where a position counts")
    return found.astype(bool)
