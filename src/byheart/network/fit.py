"""Training a plain module on some of the examples, for those who have no loop of their own."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from byheart.arrays import as_array, as_labels
from byheart.network.calling import call, copied_inputs
from byheart.network.inputs import as_inputs, require_torch, tensor_of
from byheart.network.layers import left_as_found, unwrapped
from byheart.network.log import TrainingLog
from byheart.network.reading import read_model
from byheart.provenance import provenance

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Fit:
    """AdamW with cross-entropy, from weights drawn anew for every seed; call it with indices and a seed.

    Raises:
        ValueError: If a setting lies outside its range, or inputs and labels differ in number.
    """

    model: nn.Module
    """What is trained, on a copy; every submodule with parameters needs ``reset_parameters``, as torch's own have."""
    inputs: np.ndarray
    """One per example of the whole dataset: an array, or what ``byheart.arrays`` makes one of."""
    labels: np.ndarray
    """Their classes, from 0 on, or words, which are numbered in alphabetical order."""
    n_epochs: int = 30
    """At least 1."""
    batch_size: int = 100
    """At least 1."""
    learning_rate: float = 1e-3
    """Above 0; constant."""
    weight_decay: float = 0.0
    """AdamW's, times the learning rate; at least 0."""
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Changes a batch's inputs before each step; draws from torch's generator."""

    def __post_init__(self) -> None:
        if not hasattr(self.model, "named_modules") or isinstance(self.model, type):
            raise ValueError(f"model: received {self.model!r:.60}, accepted: a torch module (an instance)")
        object.__setattr__(self, "inputs", as_array(self.inputs, "inputs"))
        object.__setattr__(self, "labels", as_labels(self.labels, "labels")[0])
        if len(self.inputs) != len(self.labels) or not len(self.labels):
            raise ValueError(
                f"inputs, labels: received {len(self.inputs)} and {len(self.labels)}, accepted: as many, at least one"
            )
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels: received {self.labels.dtype}, accepted: integers, the classes from 0 on")
        if self.labels.ndim != 1 or self.labels.min() < 0:
            raise ValueError(
                f"labels: received shape {self.labels.shape}, from {self.labels.min()} on, accepted: one class per"
                " example, from 0 on"
            )
        for name in ("n_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: received {getattr(self, name)}, accepted: at least 1")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"learning_rate, weight_decay: received {self.learning_rate}, {self.weight_decay}, accepted: above 0,"
                " and at least 0"
            )
        for name, module in self.model.named_modules():
            if next(module.parameters(recurse=False), None) is not None and not hasattr(module, "reset_parameters"):
                raise ValueError(
                    f"model: received {name or type(module).__name__} without reset_parameters, accepted: modules that"
                    " draw their weights anew (or a function of indices and seed in place of Fit)"
                )

    @property
    def settings(self) -> str:
        """In words, all that training depends on but the data."""
        augment = getattr(self.augment, "__qualname__", type(self.augment).__name__)
        numbers = f"{self.n_epochs} {self.batch_size} {self.learning_rate:g} {self.weight_decay:g}"
        return f"{' '.join(str(self.model).split())} {numbers} {augment}"

    def __call__(
        self,
        indices: Int64[np.ndarray, " n_chosen"],
        seed: int,
        log: TrainingLog | None = None,
        on_epoch: Callable[[nn.Module], None] | None = None,
    ) -> nn.Module:
        """Train on these examples; the same seed gives the same weights on one machine.

        Args:
            indices: Of the examples to train on.
            seed: Of the initial weights and the order of batches.
            log: Takes the loss of every example as it comes.
            on_epoch: Called with the model before the first epoch, and after every one.

        Returns:
            The trained module, on the CPU.
        """
        require_torch()
        import torch

        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.manual_seed(seed)
            model = copy.deepcopy(self.model).train()
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
            if on_epoch is not None:
                on_epoch(model)
            chosen = torch.as_tensor(np.asarray(indices))
            inputs, labels = tensor_of(self.inputs, "inputs")[chosen], tensor_of(self.labels, "labels")[chosen]
            for _ in range(self.n_epochs):
                for rows in torch.randperm(len(chosen)).split(self.batch_size):
                    batch = inputs[rows] if self.augment is None else self.augment(inputs[rows])
                    losses = torch.nn.functional.cross_entropy(model(batch), labels[rows], reduction="none")
                    optimizer.zero_grad(set_to_none=True)
                    losses.mean().backward()
                    optimizer.step()
                    if log is not None:
                        log.record(chosen[rows], losses)
                if on_epoch is not None:
                    on_epoch(model)
        return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Round as the processes of ``counterfactual`` do; batches are too small to gain from more threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def recorded(n_threads: int | None) -> Iterator[dict[str, str]]:
    """Give torch this number of threads, or its default, and yield a record's header, which gets provenance at the end.

    The provenance has ``wall_seconds`` of the block beside what ``provenance`` returns.
    """
    require_torch()
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    made_by = provenance("numpy", "torch", n_threads=torch.get_num_threads())
    header: dict[str, str] = {}
    start = time.perf_counter()
    yield header
    header["provenance"] = json.dumps(made_by | {"wall_seconds": time.perf_counter() - start})


def margins_of(model: Any, dataset: Any) -> np.ndarray:
    """Return each example's margin, the logit of the right class less the largest other one, of a classifier.

    Probabilities and single outputs are read as an audit reads them (``byheart.network.reading``).

    Raises:
        ValueError: If the targets are no classes, or the outputs not of shape (n_examples, n_classes).
    """
    import torch

    found = []
    model = unwrapped(model)
    data = as_inputs(dataset, model=model)
    with left_as_found(model):
        first = next(iter(data))
        reading = read_model(model, data, first, call(model, copied_inputs(first.inputs)), None)
        if reading.n_classes is None:
            raise ValueError(
                f"dataset: received targets {tuple(first.targets.shape)} of {first.targets.dtype}, accepted: one class"
                " per example (else let fit return a score per example)"
            )
        for batch in data:
            logits = reading.logits(call(model, batch.inputs), batch.indices).double().cpu()
            labels = reading.numbers(batch.targets, batch.indices).long()
            own = logits.gather(1, labels[:, None])[:, 0]
            found.append((own - logits.scatter(1, labels[:, None], -torch.inf).max(dim=1).values).numpy())
    return data.in_order(np.concatenate(found))
