"""How much of the drop of a training loss at every epoch is memorized: a callback for a ``Trainer``, or a plain loop.

See ``rotation`` for what is estimated, and how.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from byheart import records
from byheart.language.as_found import check_causal, left_as_found
from byheart.language.extras import require
from byheart.language.finetune import context_of
from byheart.language.rotation import Rotation, Staircase, estimate, rarity
from byheart.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IGNORED = -100
_AT_ONCE = 8
_WHAT = "staircase"
_FILE = "staircase.safetensors"
Losses = Callable[[Any, list[Any]], Any]


class Kept:
    """The documents that are in the present epoch: what a ``DataLoader`` goes through, in any order.

    Its length is the same in every epoch. Workers that stay over epochs see the epoch too.

    Args:
        documents: All of them.
        rotation: Which of them are left out of which epoch.
    """

    def __init__(self, documents: Any, rotation: Rotation) -> None:
        import torch

        self.documents, self.rotation = documents, rotation
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._of, self._kept = 0, rotation.kept(0)
        self._asked = torch.zeros(len(self._kept), dtype=torch.bool).share_memory_()

    @property
    def epoch(self) -> int:
        """The present epoch, from 0 on."""
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch
        self._asked[:] = False

    @property
    def n_asked(self) -> int:
        """Documents that were asked for in the present epoch, by any worker."""
        return int(self._asked.sum())

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, place: int) -> Any:
        if self._of != self.epoch:
            self._of, self._kept = self.epoch, self.rotation.kept(self.epoch)
        self._asked[place] = True
        return self.documents[int(self._kept[place])]


class EpochStaircase:
    """Measures, while training runs, what one exposure to a document makes of its loss.

    Keeps a rotating 5 % of the documents out of each epoch, and compares at its end, by the same model, the loss on
    documents that were in it with those that were left out of it: the difference is what one exposure memorized. With a
    ``Trainer`` of Transformers: ``train_dataset=staircase.dataset`` and ``callbacks=[staircase]``. In a loop of your
    own, go through ``staircase.dataset`` for each epoch of ``staircase.epochs``.

    A document is an item of the dataset that becomes one row of a batch; copies of it count as other documents. Models
    answer in evaluation mode, and their modes and all random states are left as found.

    Args:
        dataset: What to train on, of known length: at least 40 documents.
        collate: Makes a batch of a list of documents, with "labels" of which -100 is no target; default the
            ``Trainer``'s.
        losses: Returns the loss of each document, in nats per token, given the model and a list of documents; default
            that of a causal model of Transformers, called with the batch.
        share: Of the documents, left out of each epoch, above 0 and at most 1/4.
        cost: Forward passes that measure, over the work of training (see ``Rotation``).
        seed: Of the random parts.
        batch_size: Documents that are measured at once; default as the ``Trainer`` trains on, and in a loop of your own
            eight.
        store: File that keeps what was measured, for training that is resumed; default ``staircase.safetensors`` in the
            ``Trainer``'s output directory, and in a loop of your own none.
        report: Called with a sentence after every epoch; None for silence.

    Attributes:
        dataset: The documents of the present epoch.
        rotation: Which documents are left out of which epoch.
        notes: What could not be measured, in sentences.

    Raises:
        ValueError: If the dataset has no length (a stream) or fewer than 40 documents, or a number is out of range.
        ModuleNotFoundError: If PyTorch is missing.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        losses: Losses | None = None,
        share: float = 0.05,
        cost: float = 0.024,
        seed: int = 0,
        batch_size: int | None = None,
        store: str | Path | None = None,
        report: Callable[[str], None] | None = print,
    ) -> None:
        require("torch")
        from torch.utils.data import IterableDataset

        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            raise ValueError(
                f"dataset: received {type(dataset).__name__}, a stream, accepted: documents with numbers and a length"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: received {batch_size}, accepted: an integer >= 1")
        self.rotation = Rotation(len(dataset), share, cost, seed)
        self.dataset = Kept(dataset, self.rotation)
        self.notes: tuple[str, ...] = ()
        self._collate, self._losses, self._batch_size = collate, losses, batch_size
        self._store = None if store is None else Path(store)
        self._report = report
        self._measured: dict[int, dict[int, float]] = {}
        self._rare: dict[int, float] | None = None
        self._reads: int | None = None
        self._n_epochs = self._n_passes = self._per_epoch = 0
        self._broken = False

    @property
    def result(self) -> Staircase:
        """What has been measured so far.

        Raises:
            ValueError: If no epoch has been measured on both ends yet.
        """
        return estimate(self.rotation, self._measured, self._rare)

    @property
    def overhead(self) -> float:
        """Work of measuring over that of training so far, a forward pass being a third of a step with backward."""
        trained = max(self._measured, default=0) * len(self.dataset)
        return self._n_passes / (3 * trained) if trained else float("nan")

    def plot(self) -> Figure:
        """Return the staircase: what each epoch taught without a document, and the step that its exposure made."""
        from byheart.language.staircase_figure import draw

        return draw(self.result)

    def epochs(self, model: Any, n_epochs: int, first: int = 0) -> Iterator[int]:
        """Yield the numbers of epochs, to train on ``dataset`` in each, and measure before and after.

        Args:
            model: What is trained.
            n_epochs: Number of epochs in all, at least 2.
            first: Epoch to begin with, if those before are done; what was measured of them is read from ``store``.

        Raises:
            ValueError: If there are fewer than two epochs, the loss of documents cannot be told, or the first of these
                epochs did not go through all of ``dataset``. A later one, as where training stops within it, is not
                measured, which a note says.
        """
        self._begin(model, n_epochs, first)
        for epoch in range(first, n_epochs):
            self.dataset.epoch = epoch
            yield epoch
            if (n_asked := self.dataset.n_asked) == len(self.dataset):
                self._end(model, epoch + 1)
                continue
            asked = f"asked staircase.dataset for {n_asked} of {len(self.dataset)} documents in epoch {epoch + 1}"
            if epoch == first:
                raise ValueError(
                    f"dataset: received a loop that {asked}, accepted: one that goes through all of it in every epoch"
                    " (without drop_last, or a sampler that gives each of several processes a part), and through no"
                    " other dataset"
                )
            note = f"Not measured: the end of epoch {epoch + 1}, since the loop {asked}."
            self.notes = (*self.notes, note)
            if self._report is not None:
                self._report(note)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by a ``Trainer``."""
        loader = kwargs["train_dataloader"]
        if args.world_size > 1:
            raise ValueError(f"world_size: received {args.world_size} processes, accepted: 1")
        if getattr(loader, "dataset", None) is not self.dataset:
            raise ValueError(
                "train_dataset: received another dataset, accepted: the staircase's own, staircase.dataset"
            )
        if args.dataloader_drop_last:
            raise ValueError("dataloader_drop_last: received True, accepted: False, since what is dropped is not seen")
        self._per_epoch = max(1, -(-len(loader) // args.gradient_accumulation_steps))
        if state.max_steps < 2 * self._per_epoch:
            epochs = state.max_steps / self._per_epoch
            raise ValueError(f"epochs: received {epochs:.3g}, accepted: at least 2")
        done, inside = divmod(state.global_step, self._per_epoch)
        if inside and args.ignore_data_skip:
            raise ValueError("ignore_data_skip: received True within an epoch, accepted: False, or the end of an epoch")
        self._collate = self._collate or loader.collate_fn
        self._batch_size = self._batch_size or args.per_device_train_batch_size
        self._store = self._store or Path(args.output_dir) / _FILE
        self._begin(kwargs["model"], state.max_steps // self._per_epoch, done, inside > 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by a ``Trainer``."""
        self.dataset.epoch = state.global_step // self._per_epoch

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by a ``Trainer``, also where training stops within an epoch, which then does not count."""
        done, inside = divmod(state.global_step, self._per_epoch)
        self._broken |= inside > 0  # from then on steps do not tell epochs
        if not self._broken:
            self._end(kwargs["model"], done)

    def __getattr__(self, name: str) -> Any:
        """Answer a ``Trainer``'s other events, so that Transformers need not be imported."""
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def _begin(self, model: Any, n_epochs: int, done: int, inside: bool = False) -> None:
        if not isinstance(n_epochs, int | np.integer) or n_epochs < 2:
            raise ValueError(f"epochs: received {n_epochs}, accepted: at least 2, a whole number")
        if not 0 <= done <= n_epochs:
            raise ValueError(f"first: received {done}, accepted: 0 to {n_epochs}")
        self._n_epochs, self._n_passes, self._broken, self.notes = n_epochs, 0, False, ()
        if self._losses is None:
            self._reads = context_of(model)
            wanted = range(min(n_epochs + 1, self.rotation.n_parts))
            self._rare = self._rarity(np.concatenate([self.rotation.probes(epoch) for epoch in wanted]))
            with left_as_found(None):
                _, rows = next(self._batches(self.rotation.probes(0)))
                batch = self._collated(rows[:1])
            if "input_ids" in batch:  # by another name, a model cannot be asked
                check_causal(model, batch)
        self._measured = self._read(done) if done or inside else {}
        if done not in self._measured and not inside:
            self._measure(model, done)
        if missing := [epoch for epoch in range(done + 1) if epoch not in self._measured]:
            numbers = ", ".join(str(epoch + 1) for epoch in missing)
            self.notes = (f"Not measured, since {self._store} has nothing of it: the beginning of epoch {numbers}.",)

    def _end(self, model: Any, done: int) -> None:
        self._measure(model, done)
        if self._report is not None and done - 1 in self._measured:
            self._report(self.result.headline())

    def _measure(self, model: Any, done: int) -> None:
        documents = self.rotation.measured_after(done, last=done >= self._n_epochs)
        found: dict[int, float] = {}
        with left_as_found(model):
            for numbers, rows in self._batches(documents):
                values = self._losses(model, rows) if self._losses else _losses(model, self._collated(rows))
                losses = np.asarray(values, dtype=np.float64)
                if losses.shape != (len(rows),) or not np.isfinite(losses).all():
                    raise ValueError(
                        f"losses: received {losses.shape} for {len(rows)} documents, or some that are not finite,"
                        " accepted: a finite loss for each document (a row a document, with a label)"
                    )
                found |= dict(zip(numbers, losses.tolist(), strict=True))
        self._n_passes += len(documents)
        self._measured[done] = found
        self._write()

    def _batches(self, documents: np.ndarray) -> Iterator[tuple[list[int], list[Any]]]:
        """Documents in batches of like length, as far as that is known."""
        rows = [(int(number), self.dataset.documents[int(number)]) for number in documents]
        rows.sort(key=lambda row: len(row[1]["input_ids"]) if _has_tokens(row[1]) else 0)
        size = self._batch_size or _AT_ONCE
        for first in range(0, len(rows), size):
            numbers, found = zip(*rows[first : first + size], strict=True)
            yield list(numbers), list(found)

    def _collated(self, rows: list[Any]) -> dict[str, Any]:
        if self._collate is None:
            raise ValueError("collate: received none, accepted: the function that makes a batch, or losses")
        try:
            batch = self._collate(rows)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"dataset: received documents of {type(rows[0]).__name__} that collate cannot join ({error!r:.100}),"
                " accepted: what the trainer takes, such as dicts of input_ids and labels"
            ) from error
        if not isinstance(batch, Mapping) or "labels" not in batch:
            raise ValueError(f"collate: received {type(batch).__name__} without labels, accepted: a dict with labels")
        labels = batch["labels"]
        if labels.ndim != 2 or len(labels) != len(rows):
            raise ValueError(
                f"collate: received labels {tuple(labels.shape)} for {len(rows)} documents (packed?), accepted: a row a"
                " document"
            )
        inputs = batch.get("input_ids")
        if self._reads is not None and labels.shape[1] > self._reads:
            raise ValueError(f"documents: received {labels.shape[1]} tokens, accepted: up to the model's {self._reads}")
        targets = labels != _IGNORED
        if inputs is not None and (inputs.shape != labels.shape or (inputs != labels)[targets].any()):
            raise ValueError("labels: received others than input_ids, accepted: those of a causal language model")
        return dict(batch)

    def _rarity(self, documents: np.ndarray) -> dict[int, float]:
        tokens = {}
        with left_as_found(None):
            for numbers, rows in self._batches(documents):
                for number, labels in zip(numbers, self._collated(rows)["labels"], strict=True):
                    own = labels[1:]
                    tokens[number] = own[own != _IGNORED].cpu().numpy()
                    if not len(tokens[number]):
                        raise ValueError(f"documents: received {number} without a label, accepted: some in each")
        return rarity(tokens)

    @property
    def _identity(self) -> str:
        rotation = self.rotation
        return json.dumps([rotation.n_documents, rotation.share, rotation.cost, rotation.seed])

    def _write(self) -> None:
        if self._store is None:
            return
        rows = [(done, *pair) for done, found in self._measured.items() for pair in found.items()]
        done, document, loss = (np.array(column) for column in zip(*rows, strict=True))
        arrays = {"done": done, "document": document, "loss": loss}
        arrays["rare"] = np.array(sorted((self._rare or {}).items()), dtype=np.float64).reshape(-1, 2)
        records.write(self._store, Record(arrays, {"identity": self._identity}), _WHAT)

    def _read(self, done: int) -> dict[int, dict[int, float]]:
        """What was measured up to a number of epochs, of the same documents."""
        if self._store is None or not self._store.exists():
            return {}
        kept = records.read(self._store, _WHAT)
        rare = dict(kept.arrays["rare"].tolist())
        same = all(np.isclose(rare.get(number, value), value) for number, value in (self._rare or {}).items())
        if kept.header["identity"] != self._identity or not same:
            raise ValueError(
                f"store: received {self._store} of other documents or settings, accepted: that of the training that is"
                " resumed"
            )
        found: dict[int, dict[int, float]] = {}
        for after, document, loss in zip(*(kept.arrays[n].tolist() for n in ("done", "document", "loss")), strict=True):
            if after <= done:
                found.setdefault(after, {})[document] = loss
        return found


def _has_tokens(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("input_ids"), Sequence | np.ndarray)


def _losses(model: Any, batch: dict[str, Any]) -> Float64[np.ndarray, " n_documents"]:
    """Mean loss of each row's targets, as a causal model of Transformers counts them."""
    import torch
    from torch.nn import functional as F

    device = next(model.parameters()).device
    placed = {name: values.to(device) if torch.is_tensor(values) else values for name, values in batch.items()}
    labels = placed.pop("labels")[:, 1:]
    output = model(**placed)
    logits = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels, ignore_index=_IGNORED, reduction="none")
    found: np.ndarray = (losses.double().sum(dim=1) / (labels != _IGNORED).sum(dim=1)).cpu().numpy()
    return found
