"""Models and data of Hugging Face as they come: the audit is that of a wrapper that returns logits, in all columns."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from byheart.network.audit import audit
from byheart.network.counterfactual import counterfactual
from byheart.network.fit import margins_of
from byheart.network.inputs import as_inputs

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

N, VOCABULARY = 24, 30
RNG = np.random.default_rng(0)
TEXTS = [" ".join(f"w{word}" for word in RNG.integers(0, 20, length)) for length in RNG.integers(3, 9, N)]
Y = RNG.integers(0, 3, N)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, **SIZES}


class Logits(nn.Module):
    """The wrapper that nobody has to write any more."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs).logits


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{word}": 2 + word for word in range(20)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


def bert(kind="SequenceClassification", **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, **{"num_labels": 3, "attn_implementation": "eager"} | options)
    return getattr(transformers, f"BertFor{kind}")(config)


def rows(tokenizer, labels=Y, name="label", **more):
    """A dataset of raw rows, as ``map(tokenizer)`` leaves it."""
    columns = {"text": TEXTS, name: labels, "idx": list(range(N)), **tokenizer(TEXTS), **more}
    return datasets.Dataset.from_dict(columns)


def pair(tokenizer, labels=Y):
    return dict(tokenizer(TEXTS, padding=True, return_tensors="pt")), labels


def same(found, expected, prefix="model."):
    """Whether two audits are, of a model and of that model inside a wrapper."""
    assert [f"{prefix}{layer}" for layer in found.layers] == expected.layers
    pd.testing.assert_frame_equal(found.table, expected.table, atol=1e-5, rtol=1e-3)
    assert found.evidence == expected.evidence


def padded(tokenizer, dataset, batch_size=5, **options):
    keep = [name for name in dataset.column_names if name not in ("text", "idx")]
    collate = transformers.DataCollatorWithPadding(tokenizer)
    return DataLoader(dataset.select_columns(keep), batch_size, collate_fn=collate, **options)


def test_a_classifier_is_audited_as_its_wrapper(tokenizer):
    model = bert()
    found = audit(model, padded(tokenizer, rows(tokenizer)), batch_size=5)
    same(found, audit(Logits(model), pair(tokenizer)))
    assert found.layers == ["classifier.input"]
    inputs, labels = pair(tokenizer)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model.eval()(**inputs).logits, torch.as_tensor(labels), reduction="none")
    np.testing.assert_allclose(found.table["loss"], losses.numpy(), atol=1e-5)


def test_a_layer_with_positions_and_padding(tokenizer):
    model, layer = bert(), "bert.encoder.layer.0.output"
    same(
        audit(model, padded(tokenizer, rows(tokenizer)), layer), audit(Logits(model), pair(tokenizer), f"model.{layer}")
    )


@pytest.mark.parametrize("form", ["rows", "torch", "list", "default collator", "collator keeps text"])
def test_data_come_in_every_form(form, tokenizer):
    """Rows of one length need no collator."""
    inputs, labels = pair(tokenizer)
    columns = {**{name: values.tolist() for name, values in inputs.items()}, "labels": labels, "idx": range(N)}
    data = datasets.Dataset.from_dict({**columns, "text": TEXTS})
    if form == "torch":
        data = data.with_format("torch")
    elif form == "list":
        data = data.to_list()
    elif form == "default collator":
        data = DataLoader(data, 7, collate_fn=transformers.default_data_collator)
    elif form == "collator keeps text":
        data = DataLoader(data.with_format("torch"), 7, shuffle=True)
    found = audit(bert(), data)
    same(found, audit(Logits(bert()), (inputs, labels)))
    left_out = [note for note in found.notes if "does not take were left out" in note]
    assert left_out == [
        f"Columns that the model's forward does not take were left out: {'idx' if 'default' in form else 'idx, text'}."
    ]
    assert "labels" not in str(found.shown[0])


def test_rows_of_several_lengths_need_a_collator(tokenizer):
    data = rows(tokenizer)
    with pytest.raises(
        ValueError, match=r"in the column input_ids rows of shape \(\d,\) and \(\d,\), .*DataCollatorWithPadding"
    ):
        audit(bert(), data)
    with pytest.raises(ValueError, match="rows of several lengths, .*DataCollatorWithPadding"):
        audit(bert(), DataLoader(data, 4))
    with pytest.raises(ValueError, match=r"column input_ids lists, .*with_format\('torch'\)"):
        audit(bert(), DataLoader(data.map(lambda row: {"input_ids": [1, 2], "attention_mask": [1, 1]}), 4))


def test_names_of_the_classes_come_with_the_data(tokenizer):
    inputs, labels = pair(tokenizer)
    data = datasets.Dataset.from_dict({**{name: values.tolist() for name, values in inputs.items()}, "label": labels})
    data = data.cast_column("label", datasets.ClassLabel(names=["good", "bad", "ugly"]))
    assert audit(bert(), data).label_names == ["good", "bad", "ugly"]


def test_several_columns_of_labels_or_none_are_refused(tokenizer):
    data = rows(tokenizer)
    with pytest.raises(ValueError, match=r"columns .*labels, accepted: one of labels, label"):
        audit(bert(), data.add_column("labels", Y.tolist()))
    with pytest.raises(ValueError, match="with the columns text, idx, .* accepted: one of labels"):
        audit(bert(), data.remove_columns("label"))
    with pytest.raises(ValueError, match="with the columns text, idx, accepted: some that the model's forward takes"):
        audit(bert(), data.remove_columns(["input_ids", "attention_mask", *{"token_type_ids"} & {*data.column_names}]))


def trainer(model, data, tokenizer, tmp_path, callbacks=(), **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=5, report_to=[], save_strategy="no", disable_tqdm=True,
        logging_strategy="no", use_cpu=True, **{"num_train_epochs": 2, "learning_rate": 1e-3} | options,
    )  # fmt: skip
    collate = transformers.DataCollatorWithPadding(tokenizer)
    return transformers.Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[*callbacks])


def test_the_loader_of_a_trainer_is_read_in_the_order_of_its_dataset(tokenizer, tmp_path):
    model = bert()
    loader = trainer(model, rows(tokenizer), tokenizer, tmp_path).get_train_dataloader()
    assert type(loader).__module__.startswith("accelerate")
    before = loader.batch_sampler.sampler.__dict__.copy()
    found = audit(model, loader)
    same(found, audit(Logits(bert()), pair(tokenizer)))
    assert loader.batch_sampler.sampler.__dict__ == before
    assert "The loader shuffles or drops examples; they were taken in the order of its dataset." in found.notes


def test_labels_are_never_given_to_the_model(tokenizer):
    model = bert()
    calls = []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    audit(model, padded(tokenizer, rows(tokenizer)))
    assert calls
    assert all(set(kwargs) == {"input_ids", "attention_mask"} for kwargs in calls)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression", "one number"])
def test_heads_are_read_as_their_problem_type_says(problem, tokenizer):
    labels = RNG.integers(0, 2, (N, 1 if problem == "one number" else 3)).astype(np.float32)
    name = problem if problem != "one number" else "regression"
    model = bert(problem_type=name, num_labels=labels.shape[1])
    given = labels[:, 0].astype(int) if problem == "one number" else labels  # whole numbers are numbers too
    found = audit(model, padded(tokenizer, rows(tokenizer, given.tolist())))
    inputs, _ = pair(tokenizer)
    model.eval()
    with torch.no_grad():
        theirs = [
            model(**{k: v[[i]] for k, v in inputs.items()}, labels=torch.tensor(labels[[i]])).loss for i in range(N)
        ]
    np.testing.assert_allclose(found.table["loss"], np.array(theirs), atol=1e-5)
    assert any(f"problem_type='{name}'" in note for note in found.notes)


def test_one_output_without_a_problem_type_is_asked_about(tokenizer):
    data = padded(tokenizer, rows(tokenizer, (Y > 0).astype(int)))
    with pytest.raises(ValueError, match="no problem_type in the model's configuration, accepted: 'mse'"):
        audit(bert(num_labels=1), data)
    assert "margin" in audit(bert(num_labels=1), data, loss="binary_cross_entropy_with_logits").table
    assert "margin" not in audit(bert(num_labels=1), data, loss="mse").table


def test_tokens_are_classified_position_by_position(tokenizer):
    tags = [[-100, *RNG.integers(0, 3, len(text.split()) - 1).tolist()] for text in TEXTS]
    data = rows(tokenizer, tags, "labels").remove_columns(["text", "idx"])
    model = bert("TokenClassification")
    loader = DataLoader(data, 5, collate_fn=transformers.DataCollatorForTokenClassification(tokenizer))
    found = audit(model, loader)
    longest = max(map(len, tags))
    targets = torch.tensor([row + [-100] * (longest - len(row)) for row in tags])
    same(found, audit(Logits(model), pair(tokenizer, targets)))
    logits = model.eval()(**pair(tokenizer)[0]).logits.detach()
    each = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)
    np.testing.assert_allclose(found.table["loss"], each / (targets >= 0).sum(1), atol=1e-5)
    with pytest.raises(ValueError, match="DataCollatorForTokenClassification"):
        audit(model, data.remove_columns("input_ids").add_column("input_ids", [[2, 3]] * N).remove_columns(
            [name for name in data.column_names if name not in ("labels", "input_ids")]
        ))  # fmt: skip


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_decoders_classify_at_the_last_token(family, tokenizer):
    torch.manual_seed(0)
    sizes = SMALL if family == "Llama" else {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = getattr(transformers, f"{family}Config")(**{**sizes, "num_labels": 3, "pad_token_id": 0})
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    found = audit(model, padded(tokenizer, rows(tokenizer)))
    same(found, audit(Logits(model), pair(tokenizer)))
    assert found.layers == ["score.input"]


def test_labels_of_a_language_model_are_those_of_the_next_token(tokenizer):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2)
    ).eval()
    data = rows(tokenizer).remove_columns(["label", "text", "idx"])
    loader = DataLoader(data, 1, collate_fn=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False))
    with torch.no_grad():
        theirs = [float(model(**batch).loss) for batch in loader]
    loader = DataLoader(data, 5, collate_fn=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False))
    np.testing.assert_allclose(audit(model, loader, "transformer.ln_f").table["loss"], theirs, atol=1e-5)


def test_images_of_a_vision_transformer_and_of_a_model_with_one_input():
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
    model = transformers.ViTForImageClassification(config)
    pixels = RNG.normal(size=(N, 3, 8, 8)).astype(np.float32)
    data = datasets.Dataset.from_dict({"pixel_values": pixels, "labels": Y}).with_format("torch")
    same(audit(model, data), audit(Logits(model), ({"pixel_values": pixels}, Y)))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    found = audit(plain, data)
    same(found, audit(plain, (pixels, Y)), prefix="")
    assert "The column pixel_values is what the model's forward takes as input." in found.notes


def test_an_adapter_with_its_own_head_is_seen_through(tokenizer):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    found = audit(model, padded(tokenizer, rows(tokenizer)))
    same(found, audit(Logits(model), pair(tokenizer)))
    assert found.layers == ["base_model.model.classifier.modules_to_save.default.input"]
    assert "head" in found.evidence


def test_what_accelerate_prepared_is_computed_without_autocast(tokenizer):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model, loader = accelerator.prepare(bert(), padded(tokenizer, rows(tokenizer), shuffle=True))
    forward = vars(model)["forward"]
    states = [bert().state_dict()]
    same(audit(model, loader, checkpoints=states), audit(Logits(bert()), pair(tokenizer), checkpoints=[
        {f"model.{name}": value for name, value in states[0].items()}
    ]))  # fmt: skip
    assert vars(model)["forward"] is forward
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_tuple_of_outputs_is_refused_with_a_way_out(tokenizer):
    model = bert(return_dict=False, output_hidden_states=True)
    with pytest.raises(ValueError, match=r"a tuple of 0 \(5, 3\), 1 tuple, accepted: .*register_forward_hook"):
        audit(model, padded(tokenizer, rows(tokenizer)))
    with pytest.raises(ValueError, match="register_forward_hook"):
        margins_of(model, padded(tokenizer, rows(tokenizer)))
    own = audit(
        model, padded(tokenizer, rows(tokenizer)), "bert.pooler.dense",
        loss=lambda outputs, y: nn.functional.cross_entropy(outputs[0], y, reduction="none"),
    )  # fmt: skip
    assert any("of which only the loss is made" in note for note in own.notes)
    model.register_forward_hook(lambda module, args, output: output[0])
    same(audit(model, padded(tokenizer, rows(tokenizer))), audit(Logits(bert()), pair(tokenizer)))


def test_margins_and_detectors_read_the_same(tokenizer):
    model, data = bert(), padded(tokenizer, rows(tokenizer))
    found = audit(model, data)
    np.testing.assert_allclose(margins_of(model, data), found.table["margin"], atol=1e-5)
    inputs, _ = pair(tokenizer)
    detector = found.detector(model, tokenizer(TEXTS, padding=True, return_tensors="pt"), 0.2)
    np.testing.assert_array_equal(detector(inputs)["prediction"], found.table["prediction"])
    unlabelled = padded(tokenizer, rows(tokenizer).remove_columns("label"))
    compared = ["prediction", "score", "example"]
    pd.testing.assert_frame_equal(detector(unlabelled)[compared], detector(inputs)[compared], atol=1e-5)


def untrained(indices, seed):
    return bert()


@pytest.mark.slow
def test_counterfactual_models_are_tried_on_loaders(tokenizer, tmp_path):
    loader = padded(tokenizer, rows(tokenizer), num_workers=1, persistent_workers=True, shuffle=True)
    next(iter(loader))
    plain = audit(bert(), padded(tokenizer, rows(tokenizer))).table["margin"]
    run = counterfactual(untrained, loader, 2, store=tmp_path / "a", n_workers=1)
    np.testing.assert_allclose(run.margins, [plain, plain], atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_of_a_loader_for_several_processes_all_data_are_read(index, tokenizer):
    accelerate = pytest.importorskip("accelerate")
    loader = padded(tokenizer, rows(tokenizer), shuffle=True)
    part = accelerate.data_loader.prepare_data_loader(loader, num_processes=2, process_index=index)
    assert len(part) < len(loader)
    same(audit(bert(), part), audit(Logits(bert()), pair(tokenizer)))


def test_an_encoder_and_decoder_needs_the_decoders_inputs(tokenizer):
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    inputs, _ = pair(tokenizer)
    data = datasets.Dataset.from_dict({**{k: v.tolist() for k, v in inputs.items()}, "labels": inputs["input_ids"]})
    with pytest.raises(ValueError, match="accepted: batches with decoder_input_ids"):
        audit(model, data)
    collate = transformers.DataCollatorForSeq2Seq(tokenizer, model=model)
    found = audit(model, DataLoader(data, 6, collate_fn=collate), "model.decoder.layers.0", mask=False)
    with torch.no_grad():
        theirs = [float(model(**collate([row])).loss) for row in data]
    np.testing.assert_allclose(found.table["loss"], theirs, atol=1e-5)


def test_words_are_numbered_as_the_configuration_says(tokenizer):
    names = {0: "ugly", 1: "good", 2: "bad"}
    model = bert(id2label=names, label2id={name: i for i, name in names.items()})
    found = audit(model, padded(tokenizer, rows(tokenizer)))
    assert found.label_names == ["ugly", "good", "bad"]
    inputs, _ = pair(tokenizer)
    columns = {name: values.tolist() for name, values in inputs.items()}
    words = audit(model, datasets.Dataset.from_dict({**columns, "label": [names[y] for y in Y]}))
    assert words.table["label"].tolist() == Y.tolist()
    of_pair = audit(model, (inputs, [names[y] for y in Y]))
    assert of_pair.table["label"].tolist() == Y.tolist()
    assert of_pair.label_names == ["ugly", "good", "bad"]
    for unknown in (datasets.Dataset.from_dict({**columns, "label": ["neutral"] * N}), (inputs, ["neutral"] * N)):
        with pytest.raises(ValueError, match="targets: received 'neutral', accepted: ugly, good, bad"):
            audit(model, unknown)


def test_names_in_another_order_than_the_models_are_noted_or_refused(tokenizer):
    inputs, _ = pair(tokenizer)
    columns = {name: values.tolist() for name, values in inputs.items()}
    answers = audit(bert(), (inputs, Y)).table["prediction"].to_numpy()
    names = ["ugly", "good", "bad"]
    model = bert(id2label=dict(enumerate(names)))

    def named(labels, order):
        features = datasets.Dataset.from_dict({**columns, "label": labels.tolist()})
        return features.cast_column("label", datasets.ClassLabel(names=order))

    as_trained = audit(model, named(answers, names[::-1]))  # the numbers are the outputs', whatever they are called
    assert any("model's id2label names its outputs 0 'ugly'" in note for note in as_trained.notes)
    assert not any("id2label" in note for note in audit(model, named(answers, names)).notes)
    with pytest.raises(ValueError, match="targets: received classes in an order that names other outputs"):
        audit(model, named((answers + 1) % 3, [names[2], names[0], names[1]]))


def test_a_pass_over_rows_gives_what_the_rows_have(tokenizer):
    batches = list(as_inputs(padded(tokenizer, rows(tokenizer)), model=bert()))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    assert torch.cat([batch.targets for batch in batches]).tolist() == Y.tolist()


def test_several_splits_are_asked_for_one(tokenizer):
    splits = datasets.DatasetDict({"train": rows(tokenizer), "test": rows(tokenizer)})
    with pytest.raises(
        ValueError, match=r"DatasetDict with several splits, accepted: one of them, \['train'\], \['test'\]"
    ):
        audit(bert(), splits)
