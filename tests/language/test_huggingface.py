"""A design in a Trainer of Hugging Face: what it trains on is what the design says, and its own ways are found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision_operators  # noqa: F401 -- before transformers
from language.texts_by_hand import design_with_spans

from byheart.language.collate import check_collator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers

    return transformers


def tiny(transformers, vocabulary):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return transformers.GPT2LMHeadModel(config)


def test_a_trainer_trains_as_a_plain_loop_does(transformers, tmp_path):
    design = design_with_spans()
    collator = design.collate(1, batch_size=len(design.rows_of(1)))
    check_collator(collator, design, 1, loss=collator.loss)
    ours, theirs = (tiny(transformers, design.documents.vocabulary + 1) for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(ours.parameters(), **settings)
    for epoch in range(3):
        for batch in collator.batches(epoch):
            optimizer.zero_grad()
            outputs = ours(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            collator.loss(outputs, batch["labels"]).backward()
            optimizer.step()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=collator.batch_size,
        learning_rate=0.01, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=theirs, args=arguments, train_dataset=collator.dataset, data_collator=collator,
        compute_loss_func=collator.loss,
    )  # fmt: skip
    trainer.train()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


def test_the_collator_that_makes_labels_anew_is_refused(transformers):
    from tokenizers import Tokenizer, models

    design = design_with_spans()
    model = next(
        k for k in range(4) if not design.carries_loss(k)[design.document_mask[k][design.documents.document_of]].all()
    )
    vocabulary = {f"t{i}": i for i in range(design.documents.vocabulary)} | {"<s>": design.documents.vocabulary}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<s>")), pad_token="<s>"
    )
    theirs = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def without_labels(features):
        return theirs([{"input_ids": row["input_ids"]} for row in features])

    with pytest.raises(ValueError, match="accepted: none, as the design switches it off"):
        check_collator(without_labels, design, model)


def test_a_model_of_theirs_leaks_between_packed_documents_unless_masked(transformers):
    design = design_with_spans(n_documents=4, context=32)  # two documents in, which are packed into one row
    network = tiny(transformers, design.documents.vocabulary + 1)

    def packed(features, *, apart):
        document = np.repeat(np.arange(len(features)), [len(row["input_ids"]) for row in features])
        batch = {name: np.concatenate([row[name] for row in features])[None] for name in ("input_ids", "labels")}
        if apart:
            seen = (document[:, None] == document[None, :]) & np.tri(len(document), dtype=bool)
            batch["attention_mask"] = np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32)[None, None]
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    with pytest.raises(ValueError, match="which leaks into it"):
        check_collator(lambda features: packed(features, apart=False), design, 0, network=network)
    assert check_collator(lambda features: packed(features, apart=True), design, 0, network=network).packed
