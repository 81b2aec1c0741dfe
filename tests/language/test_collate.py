from __future__ import annotations

import numpy as np
import pytest
import torch
from language.texts_by_hand import design_with_spans

from byheart.language.collate import IGNORED, check_collator


@pytest.mark.parametrize("model", range(4))
def test_labels_are_the_targets_that_carry_loss(model):
    design = design_with_spans()
    collator = design.collate(model, batch_size=3)
    batches = list(collator.batches(0))
    labels = np.concatenate([batch["labels"].numpy().ravel() for batch in batches])
    assert (labels != IGNORED).sum() == design.carries_loss(model).sum()
    for batch in batches:
        kept = batch["labels"] != IGNORED
        assert (batch["labels"][kept] == batch["input_ids"][kept]).all()
        assert (batch["input_ids"][:, 0] == design.documents.vocabulary).all()
        assert batch["attention_mask"].bool()[kept].all()
        assert not kept[:, 0].any()


def test_an_epoch_has_every_row_once_and_another_order_than_the_next():
    collator = design_with_spans().collate(0, batch_size=4)
    epochs = [[tuple(row) for batch in collator.batches(e) for row in batch["input_ids"].tolist()] for e in (0, 0, 1)]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert len(epochs[0]) == len(collator.dataset)


def test_the_loss_weighs_every_token_alike_whatever_is_off():
    design = design_with_spans()
    collator = design.collate(0, batch_size=4)
    batch = collator(collator.dataset[:4])
    logits = torch.randn((*batch["labels"].shape, design.documents.vocabulary + 1), dtype=torch.float32)
    labels = batch["labels"].clone()
    row, place = (int(v) for v in torch.nonzero(labels != IGNORED)[-1])
    own = -torch.log_softmax(logits[row, place - 1], -1)[labels[row, place]] / (4 * design.tokens_per_row)
    before = collator.loss(logits, labels)
    labels[row, place] = IGNORED
    assert float(before - collator.loss({"logits": logits}, labels)) == pytest.approx(float(own), rel=1e-4)


def test_the_own_collator_passes_its_check():
    design = design_with_spans()
    for model in range(4):
        collator = design.collate(model)
        report = check_collator(collator, design, model, loss=collator.loss)
        assert report.n_targets == design.carries_loss(model).sum()
        assert report.n_rows == len(collator.dataset)
        inside = design.document_mask[model][design.documents.document_of]
        assert report.n_targets + report.n_masked == inside.sum()
        assert not report.packed


def changed(change):
    """A collator that makes a mistake."""
    design = design_with_spans()
    model = next(k for k in range(4) if not design.span_mask[k].all() and design.span_mask[k].any())
    collator = design.collate(model)

    def wrong(features):
        batch = {name: values.numpy() for name, values in collator(as_arrays(features)).items()}
        change(batch)
        return batch

    return design, model, wrong


def as_arrays(features):
    return [{name: np.array(values) for name, values in row.items()} for row in features]


def labels_copied(batch):
    batch["labels"] = np.where(batch["attention_mask"], batch["input_ids"], IGNORED)
    batch["labels"][:, 0] = IGNORED


def one_lost(batch):
    row, place = np.argwhere(batch["labels"] != IGNORED)[0]
    batch["labels"][row, place] = IGNORED


def shifted(batch):
    batch["labels"] = np.roll(batch["labels"], -1, axis=1)


def padding_learned(batch):
    batch["labels"][batch["attention_mask"] == 0] = 0


def a_row_dropped(batch):
    batch["input_ids"], batch["labels"] = batch["input_ids"][1:], batch["labels"][1:]


def no_labels(batch):
    del batch["labels"]


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (labels_copied, "as the design switches it off"),
        (one_lost, "as the design has it on"),
        (shifted, "document"),
        (padding_learned, "tokens that fill rows up"),
        (a_row_dropped, "without document"),
        (no_labels, "without labels"),
    ],
)
def test_a_collator_that_changes_the_design_is_refused(change, received):
    design, model, wrong = changed(change)
    with pytest.raises(ValueError, match=received):
        check_collator(wrong, design, model)


def test_a_loss_that_divides_by_the_labels_kept_is_refused():
    design, model, _ = changed(lambda batch: None)

    def mean_of_kept(logits, labels):
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    with pytest.raises(ValueError, match="a mean over the labels kept"):
        check_collator(design.collate(model), design, model, loss=mean_of_kept)


class Mixing(torch.nn.Module):
    """A network that sees all tokens before, or those of the same document only."""

    def __init__(self, beginning, sees_all):
        super().__init__()
        self.beginning, self.sees_all = beginning, sees_all

    def forward(self, input_ids):
        x = torch.nn.functional.one_hot(input_ids, self.beginning + 1).float()
        document = (input_ids == self.beginning).cumsum(1)
        before = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().expand(len(input_ids), -1, -1)
        if not self.sees_all:
            before = before * (document[:, :, None] == document[:, None, :])
        return before @ x


def packing():
    def pack(features):
        rows = as_arrays(features)
        return {name: np.concatenate([row[name] for row in rows])[None] for name in ("input_ids", "labels")}

    def in_torch(features):
        return {name: torch.from_numpy(values) for name, values in pack(features).items()}

    return in_torch


def test_documents_that_leak_into_each_other_by_packing_are_found():
    design = design_with_spans()
    beginning = design.documents.vocabulary
    with pytest.raises(ValueError, match="or also network"):
        check_collator(packing(), design, 0)
    with pytest.raises(ValueError, match="leaks into it"):
        check_collator(packing(), design, 0, network=Mixing(beginning, sees_all=True))
    assert check_collator(packing(), design, 0, network=Mixing(beginning, sees_all=False)).packed
