"""A log of per-example losses during training: a few lines in one's own loop, or read from what was kept.

The loss averaged over training tells memorized examples better than the final loss, since those are learned late
(Zhang et al. 2021 and others; Swayamdipta et al. 2020, "Dataset cartography", for averages over epochs).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from byheart.arrays import as_array


class TrainingLog:
    """Sums of each example's losses over training.

    Attributes:
        counts: How often each example's loss was recorded.
    """

    def __init__(self, n_examples: int) -> None:
        """Start a log of so many examples.

        Raises:
            ValueError: If there is not at least one.
        """
        if n_examples < 1:
            raise ValueError(f"n_examples: received {n_examples}, accepted: at least 1")
        self.counts: Int64[np.ndarray, " n_examples"] = np.zeros(n_examples, dtype=np.int64)
        self._sums = np.zeros(n_examples)
        self._times = np.zeros(n_examples)  # sums of how many losses had been recorded before
        self._n_recorded = self._n_batches = self._n_alike = 0  # losses, batches that tell, those with one loss for all

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.counts)

    def __repr__(self) -> str:
        """Return how many examples there are, and how often the losses of each were recorded."""
        return f"TrainingLog({len(self):,} examples, each recorded {self.counts.min()} to {self.counts.max()} times)"

    def record(self, indices: Any, losses: Any) -> None:
        """Add the losses of a batch, as computed in training anyway.

        Args:
            indices: Of the examples in the dataset: a sequence, array or tensor of integers.
            losses: One per index, before averaging (``reduction="none"``); tensors are detached.

        Raises:
            ValueError: If the lengths differ, an index is out of range, or a loss is not finite.
        """
        index, values = as_array(indices, "indices"), as_array(losses, "losses").astype(np.float64)
        if index.ndim != 1 or index.shape != values.shape or index.dtype.kind not in "iu":
            raise ValueError(
                f"indices, losses: received shapes {index.shape} ({index.dtype}) and {values.shape}, accepted: one"
                ' integer and one loss per example of the batch (reduction="none")'
            )
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise ValueError(f"indices: received {index.min()} to {index.max()}, accepted: 0 to {len(self) - 1}")
        if not np.isfinite(values).all():
            bad = int(index[~np.isfinite(values)][0])
            raise ValueError(f"losses: received {values[~np.isfinite(values)][0]} of example {bad}, accepted: finite")
        np.add.at(self._times, index, float(self._n_recorded))
        np.add.at(self._sums, index, values)
        np.add.at(self.counts, index, 1)
        self._n_recorded += len(index)
        if len(np.unique(index)) > 1 and values.any():  # losses that are 0 in float32 are alike
            self._n_batches += 1
            self._n_alike += bool((values == values[0]).all())

    @property
    def mean_loss(self) -> Float64[np.ndarray, " n_examples"]:
        """Each example's loss averaged over what was recorded.

        Raises:
            ValueError: If an example was never recorded.
        """
        if not self.counts.all():
            never = np.flatnonzero(self.counts == 0)
            raise ValueError(
                f"log: received nothing of {len(never)} of {len(self)} examples (the first: {never[0]}), accepted: each"
                " recorded at least once, as by one pass over all of them; or checkpoints= in place of a log"
            )
        mean: Float64[np.ndarray, " n_examples"] = self._sums / self.counts
        return mean

    @property
    def mean_time(self) -> Float64[np.ndarray, " n_examples"]:
        """How many losses had been recorded before each example's, on average over its own; NaN if it has none."""
        with np.errstate(invalid="ignore"):
            mean: Float64[np.ndarray, " n_examples"] = self._times / self.counts
        return mean

    @property
    def alike_in_batches(self) -> bool:
        """Whether every batch had one loss for all of its examples, as their mean is."""
        return 0 < self._n_batches == self._n_alike

    @classmethod
    def from_losses(cls, losses: Any) -> TrainingLog:
        """Make a log from an array of shape (n_epochs, n_examples), such as losses at saved checkpoints."""
        values = as_array(losses, "losses")
        if values.ndim != 2:
            raise ValueError(f"losses: received shape {values.shape}, accepted: (n_epochs, n_examples)")
        log = cls(values.shape[1])
        for row in values:
            log.record(np.arange(len(row)), row)
        return log

    @classmethod
    def from_data_map(cls, files: Sequence[str | Path]) -> TrainingLog:
        """Read a data-map log: a file per epoch, a JSON object per line with guid, gold and logits_epoch_<k>.

        Args:
            files: Such as ``training_dynamics/dynamics_epoch_0.jsonl``; the first one's order numbers the examples.

        Raises:
            ValueError: If there is no file, a line lacks a field, or a guid is not in the first file.

        References:
            Swayamdipta et al. 2020, "Dataset Cartography" (the format of its published code).
        """
        if not files:
            raise ValueError("files: received none, accepted: a file per epoch")
        epochs = [_read_epoch(Path(file)) for file in files]
        index = {guid: i for i, guid in enumerate(epochs[0])}
        log = cls(len(index))
        for file, losses in zip(files, epochs, strict=True):
            unknown = [guid for guid in losses if guid not in index]
            if unknown:
                raise ValueError(f"{file}: received guid {unknown[0]!r}, accepted: those of {files[0]}")
            log.record([index[guid] for guid in losses], list(losses.values()))
        return log


def _read_epoch(path: Path) -> dict[Any, float]:
    """Each guid's loss. Lines end at a line feed only: texts in JSON may hold other characters that end one."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: received bytes that are no text ({error.reason}), accepted: UTF-8") from error
    losses: dict[Any, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            logits = np.asarray(next(entry[key] for key in entry if key.startswith("logits_epoch_")), dtype=np.float64)
            guid, gold = entry["guid"], operator.index(entry["gold"])
            hash(guid)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise ValueError(
                f"{path}, line {number}: received {line[:60]!r}, accepted: an object with guid, gold and"
                " logits_epoch_<k>"
            ) from error
        if logits.ndim != 1 or not 0 <= gold < len(logits) or not np.isfinite(logits[gold]) or np.isnan(logits).any():
            raise ValueError(
                f"{path}, line {number}: received gold {gold} with logits {logits.tolist()!r:.60}, accepted: logits of"
                " the classes, and the number of one of them from 0 on"
            )
        if guid in losses:
            raise ValueError(f"{path}, line {number}: received guid {guid!r} again, accepted: each once in a file")
        shifted = logits - logits.max()
        losses[guid] = float(np.log(np.exp(shifted).sum()) - shifted[gold])
    if not losses:
        raise ValueError(f"{path}: received no examples, accepted: an object per line")
    return losses
