"""One loss per example, as outputs and targets are read; and whether squared error may be meant that nobody named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byheart.network.inputs import Batch, tensor_of
from byheart.network.reading import LossName, Reading

if TYPE_CHECKING:
    import torch

_CLEARLY_WORSE = 1.5  # times the squared error of the mean: an L1 loss may end a little above it
_FEWEST_OF_NUMBERS = 10  # examples whose mean says something
_ROUNDING_OF_NUMBERS = 1e-10  # of their mean square


def losses_read(batch: Batch, reading: Reading, outputs: Any) -> torch.Tensor:
    """Return one loss per example of a batch, as outputs and targets are read.

    Raises:
        ValueError: If targets do not fit the outputs, or the losses are no finite number for each example.
    """
    logits = reading.logits(outputs, batch.indices)
    targets = reading.numbers(batch.targets, batch.indices)
    device = getattr(logits, "device", targets.device)
    if callable(reading.loss):
        try:
            losses = tensor_of(reading.loss(outputs, batch.targets.to(device)), "loss", detached=False)
        except AttributeError as error:
            raise ValueError(
                f"loss: received a function that raises AttributeError: {error}, accepted: one of the tensor of outputs"
                " (the logits, where the model returns an object or dict with these) and of the targets"
            ) from error
    else:
        losses = losses_of(logits, targets.to(device), reading.loss)
    if losses.numel() == len(batch) and losses.ndim > 1:
        losses = losses.reshape(len(batch))
    if losses.shape != (len(batch),):
        several = ", such as lambda outputs, targets: loss(outputs, targets).flatten(1).mean(1)"
        hint = several if losses.ndim > 1 else ', such as of a loss of torch with reduction="none"'
        shape = tuple(losses.shape)
        raise ValueError(f"loss: received shape {shape}, accepted: one per example, ({len(batch)},){hint}")
    if not losses.isfinite().all():
        wrong = int((~losses.isfinite()).nonzero()[0])
        raise ValueError(
            f"loss: received {losses[wrong].item()} for example {batch.indices[wrong]}, accepted: finite losses"
        )
    return losses


def losses_of(outputs: Any, targets: torch.Tensor, loss: LossName) -> torch.Tensor:
    """Return one loss per example, of logits: a mean over positions or labels, where there are any.

    Raises:
        ValueError: If the targets do not fit the outputs.
    """
    import torch
    from torch.nn import functional

    if not torch.is_tensor(outputs):
        raise ValueError(
            f"model: received outputs of type {type(outputs).__name__}, accepted: tensors, as in the first batch"
        )
    if outputs.is_floating_point() and outputs.element_size() < 4:
        outputs = outputs.float()  # else losses would have the eight or eleven bits of the model's numbers
    if loss == "mse":
        if outputs.numel() != targets.numel():
            raise ValueError(f"dataset: received targets {tuple(targets.shape)}, accepted: {tuple(outputs.shape)}")
        return (outputs.reshape(targets.shape) - targets).square().reshape(len(targets), -1).mean(dim=1)
    if loss not in ("cross_entropy", "nll") and targets.numel() == outputs.numel():
        targets = targets.to(outputs.dtype).reshape(outputs.shape)
        each = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return each.reshape(len(each), -1).mean(dim=1)
    if targets.shape == outputs.shape and targets.ndim == 2 and loss == "cross_entropy" and targets.is_floating_point():
        return functional.cross_entropy(outputs, targets.to(outputs.dtype), reduction="none")
    tokens = outputs.ndim == 3 and targets.shape == outputs.shape[:2]
    if not tokens and targets.ndim != 1:
        classes_second = targets.shape == (len(outputs), *outputs.shape[2:])
        if outputs.ndim > 3 and targets.shape == outputs.shape[:-1]:
            raise ValueError(
                f"dataset: received targets {tuple(targets.shape)} and outputs {tuple(outputs.shape)}, accepted: one"
                " axis of positions: model.register_forward_hook(lambda module, args, output: output.flatten(1, -2)),"
                " beside targets.flatten(1)"
            )
        positions = ".flatten(2)" if outputs.ndim > 3 else ""
        turned = (
            f"; model.register_forward_hook(lambda module, args, output: output{positions}.transpose(1, 2)) puts"
            f" classes last{', beside targets.flatten(1)' if positions else ''}"
        )
        raise ValueError(
            f"dataset: received targets {tuple(targets.shape)} and outputs {tuple(outputs.shape)}, accepted: one class"
            " per example, or per position of outputs (n_examples, n_positions, n_classes); loss='mse' for numbers"
            f"{turned if classes_second else ''}"
        )
    if targets.is_floating_point():
        raise ValueError(f"dataset: received targets of {targets.dtype}, accepted: whole numbers, or loss='mse'")
    n_classes = outputs.shape[-1]
    real = targets[targets != -100] if tokens else targets
    if len(real) and not (int(real.min()) >= 0 and int(real.max()) < n_classes):
        raise ValueError(f"dataset: received targets from {real.min()} to {real.max()}, accepted: 0 to {n_classes - 1}")
    function = functional.nll_loss if loss == "nll" else functional.cross_entropy
    if not tokens:
        return function(outputs, targets.long(), reduction="none")
    each = function(outputs.flatten(0, 1), targets.flatten().long(), reduction="none").reshape(targets.shape)
    return each.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)


class Spread:
    """How far targets that are numbers lie from their mean, beside which outputs are held."""

    def __init__(self) -> None:
        self._n, self._size, self._first, self._sum, self._squares = 0, 0.0, 0.0, np.zeros(0), np.zeros(0)
        self._low, self._high, self._alike = np.inf, -np.inf, True

    def add(self, targets: torch.Tensor) -> None:
        """Take the targets of a batch."""
        rows = targets.reshape(len(targets), -1).double().cpu().numpy()
        if not self._n:  # near the mean, so that squares lose no digits
            self._first, self._sum, self._squares = rows.mean(axis=0), np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        self._alike &= rows.shape[1:] == self._sum.shape
        if not self._alike:  # of different lengths, which have no mean
            return
        self._n += len(rows)
        self._low, self._high = min(self._low, rows.min(initial=np.inf)), max(self._high, rows.max(initial=-np.inf))
        self._size += float(np.square(rows).mean(axis=1).sum())
        self._sum += (rows - self._first).sum(axis=0)
        self._squares += np.square(rows - self._first).sum(axis=0)

    def check(self, error: float) -> list[str]:
        """Refuse squared error that nobody asked for, or note it, if always answering the mean has clearly less.

        Targets from -1 to 1 may be those of a binary cross-entropy: 0 and 1 smoothed, or -1 where it is not known.

        Raises:
            ValueError: If so, and targets are of that kind.
        """
        if self._n < _FEWEST_OF_NUMBERS or not self._alike:
            return []
        variance = float((self._squares / self._n - np.square(self._sum / self._n)).mean())
        if error <= _CLEARLY_WORSE * max(variance, _ROUNDING_OF_NUMBERS * self._size / self._n):
            return []
        if self._low >= -1 and self._high <= 1:
            raise ValueError(
                "loss: received none. With floating-point targets squared error is assumed, but that of the outputs,"
                f" {error:.3g}, is larger than that of the targets' mean, {variance:.3g}, accepted: the loss that the"
                " model was trained with, by name ('mse' if it was squared error,"
                " 'binary_cross_entropy_with_logits' of logits and targets from 0 to 1) or as a function"
            )
        return [
            f"Targets are taken for numbers, with squared error, but that of the outputs, {error:.3g}, is larger than"
            f" that of the targets' mean, {variance:.3g}: is the network trained, on targets of this scale and with"
            " this loss?"
        ]
