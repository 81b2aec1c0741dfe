"""A user's data as batches that can be gone through twice in the same order: arrays, a Dataset or a DataLoader."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from byheart.datasets import Labelled

if TYPE_CHECKING:
    import torch

_BATCH_SIZE = 512


def require_torch() -> None:
    """Raise an error that says how to install PyTorch, if it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError('the audit needs PyTorch: pip install "byheart[audit]"')


@dataclass(frozen=True)
class Batch:
    """Some examples: what the model is called with, and what it should answer."""

    first: int
    """Index of the first of them in the dataset."""
    inputs: Any
    targets: torch.Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)


@dataclass
class Inputs:
    """The batches of a dataset, in its own order.

    Attributes:
        notes: What a reader of the results must know of the data.
        label_names: Of the classes, where the data say them.
    """

    loader: Any
    notes: list[str] = field(default_factory=list)
    label_names: tuple[str, ...] | None = None

    def item(self, index: int) -> Any:
        """Return the input of one example, as the dataset has it."""
        item = self.loader.dataset[index]
        return item[0] if len(item) == 2 else tuple(item[:-1])

    def take(self, indices: np.ndarray) -> Inputs:
        """Return the batches of these examples, in this order."""
        from torch.utils.data import DataLoader, Subset

        chosen = Subset(self.loader.dataset, indices.tolist())
        return Inputs(DataLoader(chosen, self.loader.batch_size, collate_fn=self.loader.collate_fn))

    def __iter__(self) -> Iterator[Batch]:
        """Go through the dataset once.

        Raises:
            ValueError: If a batch is no pair of inputs and targets.
        """
        import torch

        first = 0
        for item in self.loader:
            if not isinstance(item, (tuple, list)) or len(item) < 2:
                raise ValueError(
                    f"dataset: received items of type {type(item).__name__}, accepted: (input, target), where the input"
                    " may be a dict of tensors, or several inputs and a target last"
                )
            targets = torch.as_tensor(item[-1])
            if targets.dtype == torch.bool:
                targets = targets.long()
            batch = Batch(first, item[0] if len(item) == 2 else tuple(item[:-1]), targets)
            yield batch
            first += len(targets)


def as_inputs(data: Any, batch_size: int = _BATCH_SIZE) -> Inputs:
    """Return the batches of a dataset.

    Args:
        data: A torch ``Dataset`` or ``DataLoader`` of (input, target), a pair of arrays or tensors, or a ``Labelled``.
            A loader that shuffles is gone through in the order of its dataset; one that draws a part of it, or some
            examples more often than others, is refused.
        batch_size: Of data that do not come in batches.

    Raises:
        ValueError: If this is none of them, is empty, or inputs and targets differ in number.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: received {batch_size}, accepted: at least 1")
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

    notes: list[str] = []
    label_names = None
    if isinstance(data, Labelled):
        label_names, data = data.label_names, (data.inputs, data.labels)
    if isinstance(data, DataLoader):
        in_order = isinstance(data.sampler, SequentialSampler) and not data.drop_last
        if data.batch_size is None or (not in_order and not hasattr(data.dataset, "__len__")):
            raise ValueError(
                "dataset: received a DataLoader without batches or order, accepted: one of a sized Dataset"
            )
        if not (
            isinstance(data.sampler, SequentialSampler)
            or (type(data.sampler) is RandomSampler and len(data.sampler) == len(data.dataset))
        ):
            raise ValueError(
                f"dataset: received a DataLoader with a {type(data.sampler).__name__}, accepted: one that shuffles or"
                " not; for a part of the data a torch.utils.data.Subset"
            )
        if not in_order:
            notes.append("The loader shuffles or drops examples; they were taken in the order of its dataset.")
            data = DataLoader(data.dataset, data.batch_size, collate_fn=data.collate_fn, num_workers=data.num_workers)
        return Inputs(_not_empty(data, data.dataset), notes)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        inputs, targets = (tensor_of(part) for part in data)
        if len(inputs) != len(targets):
            raise ValueError(
                f"dataset: received {len(inputs)} inputs and {len(targets)} targets, accepted: one target per input"
            )
        data = TensorDataset(inputs, targets)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, (str, dict, np.ndarray)):
        raise ValueError(
            f"dataset: received {type(data).__name__}, accepted: a torch Dataset or DataLoader, or a pair of arrays"
            " (inputs, targets)"
        )
    return Inputs(_not_empty(DataLoader(data, batch_size), data), notes, label_names)


def inputs_only(data: Any, batch_size: int = _BATCH_SIZE) -> Iterator[Any]:
    """Yield batches of inputs of a dataset, whose targets are not looked at, or of an array or tensor of inputs."""
    import torch

    if isinstance(data, np.ndarray) or torch.is_tensor(data):
        if not data.ndim or not len(data):
            raise ValueError(
                "inputs: received none, accepted: at least one, in a dataset or along an array's first axis"
            )
        yield from tensor_of(data).split(batch_size)
    else:
        yield from (batch.inputs for batch in as_inputs(data, batch_size))


def tensor_of(values: Any) -> torch.Tensor:
    """A tensor that shares an array's memory where it can; nothing is written to it, so that it may be read-only."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return values if torch.is_tensor(values) else torch.as_tensor(np.asarray(values))


def call(model: Any, inputs: Any) -> Any:
    """Call a model on a batch's inputs, moved to its device; float64, which arrays come in, becomes its own type.

    Raises:
        ValueError: If the model raises, as of inputs of another shape than it takes.
    """
    moved = to_device(inputs, device_of(model), _float_of(model))
    try:
        if isinstance(moved, tuple):
            return model(*moved)
        return model(**moved) if isinstance(moved, dict) else model(moved)
    except (TypeError, RuntimeError, IndexError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"inputs: received some on which the model raises {type(error).__name__}: {words}") from error


def device_of(model: Any) -> Any:
    """The device of a model's first parameter or buffer; the CPU's if it has none."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _float_of(model: Any) -> Any:
    """The type of a model's first floating parameter or buffer; torch's default if it has none, as quantised ones."""
    import torch

    found = (tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
    return next(found, torch.get_default_dtype())


def to_device(inputs: Any, device: Any, in_place_of_float64: Any = None) -> Any:
    """Move tensors, also in tuples, lists and dicts; float64 ones become another type if one is given."""
    import torch

    if torch.is_tensor(inputs):
        return inputs.to(device, in_place_of_float64 if inputs.dtype == torch.float64 else None)
    if isinstance(inputs, dict):
        return {name: to_device(value, device, in_place_of_float64) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(to_device(value, device, in_place_of_float64) for value in inputs)
    return inputs


def _not_empty(loader: Any, dataset: Any) -> Any:
    if not len(dataset):
        raise ValueError("dataset: received no examples, accepted: at least one")
    return loader
