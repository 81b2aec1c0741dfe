"""Logs of losses from the trainers of Transformers and Lightning, whose loops stay as they are.

At the end of every epoch the network answers all training data once more, in evaluation mode. That costs about a third
of the epoch's time; the training itself is the same to the bit, since modes and random states are left as found.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
from jaxtyping import Float64

from byheart.network.calling import call, copied_inputs
from byheart.network.inputs import Inputs, as_inputs
from byheart.network.layers import left_as_found, unwrapped
from byheart.network.log import TrainingLog
from byheart.network.losses import losses_read
from byheart.network.reading import Loss, Reading, read_model


class EpochLosses:
    """The losses of all training examples after every epoch.

    Attributes:
        dataset: The training data, or None for those of the trainer.
        loss: As of ``audit``.
        batch_size: Of data that do not come in batches.
    """

    def __init__(self, dataset: Any, loss: Loss | None, batch_size: int) -> None:
        self.dataset, self.loss, self.batch_size = dataset, loss, batch_size
        self._inputs: Inputs | None = None
        self._reading: Reading | None = None
        self._log: TrainingLog | None = None

    @property
    def training_log(self) -> TrainingLog:
        """What ``audit(log=...)`` takes; not named log, which Lightning gives every callback as a method of its own.

        Raises:
            ValueError: If no epoch has ended yet.
        """
        if self._log is None:
            raise ValueError(
                "training_log: received none of a training without an epoch that ended, accepted: one with some"
            )
        return self._log

    def start(self, model: Any, data: Any) -> None:
        """Look at the first batch, so that what cannot be read is known before an epoch is spent on it.

        Args:
            model: What is trained.
            data: The trainer's own, if no others were given.

        Raises:
            ValueError: As ``audit`` of the data, outputs and loss.
        """
        model = unwrapped(model)
        self._log = None  # each training has its own
        with left_as_found(model):
            self._inputs = as_inputs(data if self.dataset is None else self.dataset, self.batch_size, model)
            batch = next(iter(self._inputs))
            output = call(model, copied_inputs(batch.inputs))
            self._reading = read_model(model, self._inputs, batch, output, self.loss)
            losses_read(batch, self._reading, output)

    def record(self, model: Any) -> None:
        """Add the losses of all examples as the model is now."""
        assert self._inputs is not None
        assert self._reading is not None
        losses = _losses(unwrapped(model), self._inputs, self._reading)
        if self._log is None:
            self._log = TrainingLog(len(losses))
        self._log.record(np.arange(len(losses)), losses)


def _losses(model: Any, inputs: Inputs, reading: Reading) -> Float64[np.ndarray, " n_examples"]:
    """The loss of each example, in the dataset's order."""
    with left_as_found(model):
        found = [losses_read(batch, reading, call(model, batch.inputs)).double().cpu().numpy() for batch in inputs]
    return inputs.in_order(np.concatenate(found))


def trainer_callback(dataset: Any = None, *, loss: Loss | None = None, batch_size: int = 512) -> Any:
    """Return a callback for the ``Trainer`` of Transformers, whose ``training_log`` is what ``audit(log=...)`` takes.

    Args:
        dataset: What is trained on, in any form that ``audit`` takes and with the examples in the same order; default
            the trainer's own data, as its loader puts them together.
        loss: As of ``audit``; by default read from outputs, targets and the model's ``problem_type``.
        batch_size: Of data that do not come in batches.

    Raises:
        ModuleNotFoundError: If Transformers is missing.
    """
    bases = _bases("Trainer of Transformers", ("transformers",), "TrainerCallback")

    class LossesOfTrainer(EpochLosses, *bases):  # type: ignore[misc]
        """The losses of all training examples after every epoch of a ``Trainer``."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.start(kwargs["model"], kwargs["train_dataloader"])

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.record(kwargs["model"])

    return LossesOfTrainer(dataset, loss, batch_size)


def lightning_callback(dataset: Any = None, *, loss: Loss | None = None, batch_size: int = 512) -> Any:
    """Return a callback for the ``Trainer`` of Lightning, whose ``training_log`` is what ``audit(log=...)`` takes.

    Args:
        dataset: What is trained on, in any form that ``audit`` takes and with the examples in the same order; default
            what the trainer's ``train_dataloader`` gives.
        loss: As of ``audit``; by default read from outputs and targets.
        batch_size: Of data that do not come in batches.

    Raises:
        ModuleNotFoundError: If Lightning is missing.
    """
    bases = _bases("Trainer of Lightning", ("lightning.pytorch", "pytorch_lightning"), "Callback")

    class LossesOfLightning(EpochLosses, *bases):  # type: ignore[misc]
        """The losses of all training examples after every epoch of a ``Trainer`` of Lightning."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.start(pl_module, trainer.train_dataloader)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.record(pl_module)

    return LossesOfLightning(dataset, loss, batch_size)


def _bases(what: str, packages: tuple[str, ...], name: str) -> tuple[Any, ...]:
    """Return the classes of this name, of the packages that are loaded, or else of the first that is installed."""
    loaded = [sys.modules[package] for package in packages if package in sys.modules]
    for package in packages:
        if loaded:
            break
        try:
            loaded.append(importlib.import_module(package))
        except ModuleNotFoundError:
            continue
    if not loaded:
        package = packages[0].split(".")[0]
        raise ModuleNotFoundError(f"a callback for the {what} needs it: pip install {package}")
    return tuple(dict.fromkeys(getattr(module, name) for module in loaded))
