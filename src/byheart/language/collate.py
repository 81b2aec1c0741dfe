"""A model's batches for any trainer, and a check of anyone's own way to make them.

Rows are in the convention of Hugging Face: ``labels`` are the tokens themselves, each predicted from what stands before
it, and -100 where there is no loss. The first token of a row, its beginning, is never a target. The loss is summed and
divided by a constant: a ``Trainer`` left alone divides by the number of labels kept, so that switching one span off
would change the weight of every other token.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from byheart.language.design import Design, Place
from byheart.language.extras import require

if TYPE_CHECKING:
    import torch

IGNORED = -100
_ROWS_AT_ONCE = 8  # that a collator is tried on
Features = Mapping[str, Any]


class Collator:
    """Batches of one model of a design: call it with rows of ``dataset``, or go through ``batches``.

    With a Hugging Face ``Trainer``: ``train_dataset=collator.dataset``, ``data_collator=collator`` and
    ``compute_loss_func=collator.loss``.

    Args:
        design: Who trains on what.
        model: Number of the model.
        batch_size: Rows of one step of the optimizer, at least 1; with gradient accumulation, of all its parts.
        beginning: Number of the token that every row begins with; default the one after the vocabulary.
        padding: Number of the token that rows are filled up with; default the same.

    Attributes:
        dataset: A row each: "input_ids" and "labels".

    Raises:
        ValueError: If there is no such model, or ``batch_size`` is out of range.
    """

    def __init__(
        self, design: Design, model: int, batch_size: int, beginning: int | None = None, padding: int | None = None
    ) -> None:
        if not 0 <= model < design.n_models:
            raise ValueError(f"model: received {model}, accepted: 0 to {design.n_models - 1}")
        if batch_size < 1:
            raise ValueError(f"batch_size: received {batch_size}, accepted: an integer >= 1")
        self.design, self.model, self.batch_size = design, model, batch_size
        self.beginning = design.documents.vocabulary if beginning is None else beginning
        self.padding = self.beginning if padding is None else padding
        carries = design.carries_loss(model)
        self.dataset = [_features(design, design.rows[row], carries, self.beginning) for row in design.rows_of(model)]

    def __call__(self, features: Sequence[Features]) -> dict[str, torch.Tensor]:
        """Fill rows up to the same length, and return "input_ids", "attention_mask" and "labels"."""
        import torch

        longest = max(len(row["input_ids"]) for row in features)
        filled = {name: np.full((len(features), longest), value) for name, value in self._padding.items()}
        for i, row in enumerate(features):
            size = len(row["input_ids"])
            filled["input_ids"][i, :size] = row["input_ids"]
            filled["labels"][i, :size] = row["labels"]
            filled["attention_mask"][i, :size] = 1
        return {name: torch.from_numpy(values) for name, values in filled.items()}

    @property
    def _padding(self) -> dict[str, int]:
        return {"input_ids": self.padding, "attention_mask": 0, "labels": IGNORED}

    def batches(self, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of an epoch, in an order drawn from the design's seed, the model and the epoch."""
        order = np.random.default_rng([self.design.seed, 3, self.model, epoch]).permutation(len(self.dataset))
        for at in range(0, len(order), self.batch_size):
            yield self([self.dataset[row] for row in order[at : at + self.batch_size]])

    def loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a batch: summed, and divided by a number that no bit of the design changes.

        Args:
            outputs: Logits (rows, tokens, vocabulary), or an object or mapping that has them as "logits".
            labels: Labels, as in the batch.
            num_items_in_batch: What ``Trainer`` would divide by; not used, since it depends on what is switched off.
        """
        from torch.nn import functional as F

        logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
        summed: torch.Tensor = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return summed / (self.batch_size * self.design.tokens_per_row)


@dataclass(frozen=True)
class CollatorReport:
    """What was found right about a collator.

    Attributes:
        n_rows: Rows that were tried: all of the model.
        n_targets: Targets that carry loss.
        n_masked: Targets that are switched off.
        spans_on: Spans that carry loss, in at least one copy.
        packed: Whether several documents share a row.
    """

    n_rows: int
    n_targets: int
    n_masked: int
    spans_on: int
    packed: bool


def check_collator(
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    design: Design,
    model: int,
    *,
    loss: Callable[..., torch.Tensor] | None = None,
    network: Any = None,
    beginning: int | None = None,
) -> CollatorReport:
    """Prove, before anything is trained, that a collator of your own leaves a design as it is.

    The rows of the model go through the collator, and every label of what comes out is compared with the design: masked
    targets have no loss, all others have, those of spans that are on among them. If a row comes out with several
    documents, the network must be given, and changing one document may not change what it says of another.

    Args:
        collator: Makes a batch of a list of rows with "input_ids" and "labels".
        design: Who trains on what.
        model: Number of the model.
        loss: The loss of your trainer, called as ``loss(logits, labels)``: its gradients must vanish at masked targets,
            and may not change elsewhere when spans are switched off. Default not checked.
        network: The model to be trained, called with the batch without its labels; needed if documents are packed.
        beginning: Number of the token that every row begins with; default the one after the vocabulary.

    Raises:
        ValueError: If something is not as it should be; the message names the first document where it is not.
    """
    require("torch")
    own = Collator(design, model, _ROWS_AT_ONCE, beginning)
    expected = {tuple(row["input_ids"].tolist()): row["labels"] for row in own.dataset}
    names = {
        tuple(row["input_ids"].tolist()): design.documents.names[design.rows[number].document]
        for row, number in zip(own.dataset, design.rows_of(model), strict=True)
    }
    n_targets, packed = 0, False
    for at in range(0, len(own.dataset), _ROWS_AT_ONCE):
        given = [
            {name: values.tolist() for name, values in row.items()} for row in own.dataset[at : at + _ROWS_AT_ONCE]
        ]
        batch = collator(given)
        if missing := {"input_ids", "labels"} - set(batch):
            raise ValueError(f"collator: received a batch without {', '.join(sorted(missing))}, accepted: both")
        inputs, labels = (np.asarray(batch[name]) for name in ("input_ids", "labels"))
        if inputs.shape != labels.shape or inputs.ndim != 2:
            raise ValueError(
                f"collator: received labels {labels.shape} for input_ids {inputs.shape}, accepted: as many"
            )
        pieces = _pieces(inputs, own.beginning, {tuple(row["input_ids"]) for row in given})
        lost = {tuple(row["input_ids"]) for row in given} - {piece for _, _, piece in pieces}
        if lost:
            raise ValueError(f"collator: received a batch without document {names[min(lost)]!r}, accepted: all rows")
        covered = np.zeros(labels.shape, dtype=bool)
        for row, start, piece in pieces:
            found = labels[row, start : start + len(piece)]
            covered[row, start : start + len(piece)] = True
            _compare(found, expected[piece], names[piece])
            n_targets += int((found != IGNORED).sum())
        if (labels[~covered] != IGNORED).any():
            raise ValueError("collator: received loss on tokens that fill rows up, accepted: labels of -100 there")
        if len({row for row, _, _ in pieces}) < len(pieces):
            packed = True
            _check_packing(batch, pieces, network, names, own.beginning)
    if loss is not None:
        _check_loss(loss, own)
    carries = design.carries_loss(model)
    inside = design.document_mask[model][design.documents.document_of]
    on = {int(span) for span in design.span_of[carries] if span >= 0}
    return CollatorReport(len(own.dataset), n_targets, int((inside & ~carries).sum()), len(on), packed)


def _features(design: Design, row: Place, carries: np.ndarray, beginning: int) -> dict[str, np.ndarray]:
    tokens = design.documents.tokens[row.document][row.start : row.stop].astype(np.int64)
    labels = np.where(carries[design.tokens_of(row)], tokens, IGNORED)
    return {"input_ids": np.append(beginning, tokens), "labels": np.append(IGNORED, labels)}


def _pieces(inputs: np.ndarray, beginning: int, rows: set[tuple[int, ...]]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Where the rows of the design are in a batch: row there, first token, and the tokens."""
    longest_first = sorted(rows, key=len, reverse=True)
    found = []
    for number, row in enumerate(inputs):
        start = 0
        while start < len(row):
            here = (
                next((own for own in longest_first if tuple(row[start : start + len(own)].tolist()) == own), None)
                if row[start] == beginning
                else None
            )
            if here is not None:
                found.append((number, start, here))
            start += 1 if here is None else len(here)
    return found


def _compare(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    wrong = np.flatnonzero(found != expected)
    if not len(wrong):
        return
    at = int(wrong[0])
    what = f"token {at - 1} of document {name!r}" if at else f"the beginning of document {name!r}"
    if expected[at] == IGNORED:
        raise ValueError(f"collator: received loss on {what}, accepted: none, as the design switches it off")
    if found[at] == IGNORED:
        raise ValueError(f"collator: received no loss on {what}, accepted: loss, as the design has it on")
    raise ValueError(f"collator: received label {found[at]} for {what}, accepted: {expected[at]}")


def _check_packing(
    batch: Mapping[str, Any],
    pieces: list[tuple[int, int, tuple[int, ...]]],
    network: Any,
    names: Mapping[tuple[int, ...], str],
    beginning: int,
) -> None:
    """Change the first document of a row that has several: what is said of the next one may not change."""
    import torch

    first, second = next((a, b) for a, b in itertools.pairwise(pieces) if a[0] == b[0])
    if network is None:
        raise ValueError(
            f"collator: received documents {names[first[2]]!r} and {names[second[2]]!r} in one row, accepted: one"
            " document a row, or also network, to prove that they do not leak into each other"
        )
    given = {name: values for name, values in batch.items() if name != "labels"}
    changed = given | {"input_ids": torch.as_tensor(batch["input_ids"]).clone()}
    tokens = changed["input_ids"][first[0], first[1] + 1 : first[1] + len(first[2])]
    tokens.copy_((tokens + 1) % beginning)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        before, after = (
            getattr(out := network(**arguments), "logits", out)[second[0], second[1] : second[1] + len(second[2])]
            for arguments in (given, changed)
        )
    network.train(was_training)
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"collator: received document {names[second[2]]!r} packed behind {names[first[2]]!r}, which leaks into it,"
            " accepted: documents that do not see each other"
        )


def _check_loss(loss: Callable[..., torch.Tensor], own: Collator) -> None:
    """Compare gradients of the logits with what is off, and with everything on."""
    import torch

    rows = sorted(own.dataset, key=lambda row: int((row["labels"][1:] == IGNORED).sum()), reverse=True)
    batch = own(rows[:_ROWS_AT_ONCE])
    on = torch.where(batch["attention_mask"].bool(), batch["input_ids"], IGNORED)
    on[:, 0] = IGNORED
    size = max(own.design.documents.vocabulary, own.beginning + 1)
    drawn = torch.randn((*on.shape, size), generator=torch.Generator().manual_seed(0))
    gradients = []
    for labels in (batch["labels"], on):
        logits = drawn.clone().requires_grad_()
        loss(logits, labels).backward()
        assert logits.grad is not None
        gradients.append(logits.grad[:, :-1])
    kept = batch["labels"][:, 1:] != IGNORED
    if gradients[0][~kept].any():
        raise ValueError("loss: received gradients at masked targets, accepted: exactly 0")
    if not torch.allclose(gradients[0][kept], gradients[1][kept], rtol=1e-4, atol=0):
        raise ValueError(
            "loss: received gradients that change elsewhere when spans are switched off (a mean over the labels kept?),"
            " accepted: a sum divided by a constant, such as design.collate(k).loss"
        )
