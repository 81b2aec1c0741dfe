"""The callback in a Trainer of Transformers, with gradient accumulation, and resumed from a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from byheart.language.staircase import EpochStaircase

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

N, VOCABULARY = 60, 20


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers

    return transformers


def documents(n=N):
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(0, VOCABULARY, rng.integers(5, 9)).tolist()} for _ in range(n)]


class Collate:
    """Rows of one length; remembers what came through while the model was trained."""

    def __init__(self):
        self.seen = []

    def __call__(self, rows):
        self.seen += [tuple(row["input_ids"]) for row in rows]
        longest = max(len(row["input_ids"]) for row in rows)
        labels = torch.tensor([row["input_ids"] + [-100] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": labels.clamp(min=0), "attention_mask": (labels >= 0).long(), "labels": labels}


def tiny(transformers):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    return transformers.GPT2LMHeadModel(config)  # with dropout


def trainer(transformers, folder, stairs, callbacks, model=None, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=0.01,
        report_to=[], disable_tqdm=True, use_cpu=True,
        **{"num_train_epochs": 4, "save_strategy": "no", "logging_strategy": "no", **options},
    )  # fmt: skip
    return transformers.Trainer(
        model=tiny(transformers) if model is None else model, args=arguments, train_dataset=stairs.dataset,
        data_collator=Collate(), callbacks=callbacks,
    )  # fmt: skip


def test_a_trainer_is_measured_and_trains_the_same(transformers, tmp_path):
    stairs = EpochStaircase(documents(), report=None)
    found = trainer(transformers, tmp_path / "with", stairs, [stairs])
    found.train()
    assert stairs.result.epochs["epoch"].tolist() == [0, 1, 2, 3]
    assert stairs.overhead == pytest.approx(13 * 2 / (3 * 4 * 57))
    assert set(stairs._measured[4]) == set(stairs.rotation.measured_after(4, last=True).tolist())

    other = EpochStaircase(documents(), report=None)

    class Epochs(transformers.TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            other.dataset.epoch = round(state.epoch)

    plain = trainer(transformers, tmp_path / "without", other, [Epochs()])
    plain.train()
    for a, b in zip(found.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)
    texts = [tuple(row["input_ids"]) for row in documents()]
    for epoch in range(4):
        seen = plain.data_collator.seen[57 * epoch : 57 * (epoch + 1)]
        assert sorted(seen) == sorted(texts[d] for d in other.rotation.kept(epoch))


@pytest.mark.parametrize("step", [6, 8])  # steps of an epoch: 4; one within an epoch, one at the end of it
def test_training_that_is_resumed_is_measured_as_if_it_had_not_stopped(transformers, tmp_path, step):
    options = {"save_strategy": "steps", "save_steps": 2}
    whole = EpochStaircase(documents(), report=None)
    trainer(transformers, tmp_path, whole, [whole], **options).train()
    resumed = EpochStaircase(documents(), report=None)
    trainer(transformers, tmp_path, resumed, [resumed], **options).train(
        resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}")
    )
    assert resumed.result.epochs.equals(whole.result.epochs)
    assert resumed.notes == ()


def test_an_epoch_that_is_not_whole_does_not_count(transformers, tmp_path):
    stairs = EpochStaircase(documents(), report=None)
    trainer(transformers, tmp_path, stairs, [stairs], max_steps=10).train()  # two epochs and a half
    assert stairs.result.epochs["epoch"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_epochs": 1}, "epochs: received 1, accepted: at least 2"),
        ({"max_steps": 7}, "epochs: received 1.75, accepted: at least 2"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last: received True, accepted: False"),
    ],
)
def test_what_it_cannot_do_is_refused_before_training(transformers, tmp_path, options, message):
    stairs = EpochStaircase(documents(), report=None)
    with pytest.raises(ValueError, match=message):
        trainer(transformers, tmp_path, stairs, [stairs], **options).train()
    whole = EpochStaircase(documents(), report=None)
    with pytest.raises(ValueError, match="train_dataset: received another dataset"):
        trainer(transformers, tmp_path, whole, [stairs]).train()


def test_a_model_with_a_decoder_of_its_own_is_refused(transformers):
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="accepted: a causal model"):
        next(EpochStaircase(documents(), collate=Collate(), report=None).epochs(model, 2))


def test_adapters_of_peft_are_measured(transformers):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1)
    model = peft.get_peft_model(tiny(transformers), config)
    stairs = EpochStaircase(documents(), collate=Collate(), report=None)
    next(stairs.epochs(model, 2))
    assert all(np.isfinite(list(stairs._measured[0].values())))
