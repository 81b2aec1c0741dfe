"""Recitation by a tiny model made on the spot, which has learned one text by heart and never saw another."""

import numpy as np
import pandas as pd
import pytest

from byheart.cli import main
from byheart.language import reciters
from byheart.language.controls_of_texts import invented, twin
from byheart.language.recite import CONTROLS, LENGTH, interval, recite, spellings
from byheart.language.reciters import reciter
from byheart.language.tokens import trained

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def texts():
    return {"learned": invented(1_500, seed=5), "unseen": invented(1_500, seed=6)}


@pytest.fixture(scope="module")
def folder(texts, tmp_path_factory):
    """A model that overfits the first text, saved as people save theirs."""
    import torch
    import transformers

    where = tmp_path_factory.mktemp("model")
    own = trained(list(texts.values()), 400)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own)
    tokenizer.save_pretrained(where)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=400, n_positions=256, n_embd=64, n_layer=2, n_head=4,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.tensor(own.encode(texts["learned"]).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        starts = torch.randint(0, len(ids) - 113, (8,), generator=generator)
        rows = torch.stack([ids[start : start + 114] for start in starts.tolist()])
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def found(folder, texts):
    return recite(reciter(folder), texts, n_windows=6)


def test_what_was_learned_is_recited_and_what_was_not_is_not(found):
    learned, unseen = (one.row() for one in found)
    assert learned["recited_64"] > 0.8
    assert learned["edit_distance"] < 0.2 < 0.5 < unseen["edit_distance"]
    assert unseen["recited_64"] == 0
    assert learned["longest_run"] > 60 > unseen["longest_run"]
    for name in CONTROLS:
        assert unseen[f"recited {name}"] == 0, name
    for name in ("never published", "n-gram"):
        assert learned[f"recited {name}"] == 0, name


def test_the_numbers_are_those_of_one_pass_each(found, folder):
    import torch

    one, model = found[0], reciter(folder).model
    for window in one.windows.itertuples():
        for size in (16, 32, 64):
            row = torch.tensor(one.documents.flat[window.start - size : window.stop])[None]
            with torch.inference_mode():
                logs = torch.log_softmax(model(row).logits[0, size - 1 : -1], dim=1)
            own = logs[torch.arange(LENGTH), row[0, size:]].sum()
            assert getattr(window, f"log_p_{size}") == pytest.approx(float(own), abs=1e-3)
        prefix = torch.tensor(one.documents.flat[window.start - 64 : window.start])[None]
        for _ in range(LENGTH):
            with torch.inference_mode():
                prefix = torch.cat([prefix, model(prefix).logits[:, -1:].argmax(2)], dim=1)
        assert (window.edit_distance == 0) == bool(
            (prefix[0, 64:].numpy() == one.documents.flat[window.start : window.stop]).all()
        )
        assert window.greedy_64 == (window.edit_distance == 0)


def test_windows_of_several_batches_keep_their_order_and_each_has_another_s_prefix(folder, texts, monkeypatch):
    model = reciter(folder)
    rows = np.array(model.tokenizer(texts["learned"])["input_ids"][: 7 * 30]).reshape(7, 30)
    together = model.continue_after(rows[:, :20], rows[:, 20:])
    monkeypatch.setattr(reciters, "_TOGETHER", 3)
    apart = model.continue_after(rows[:, :20], rows[:, 20:])
    assert np.allclose(apart.log_probability, together.log_probability, atol=1e-4)
    assert np.array_equal(apart.written, together.written)
    pairs = {(a, b): model.read(np.concatenate([rows[a : a + 1, :20], rows[b : b + 1, 20:]], axis=1), 10)[0][0]
             for a in range(7) for b in range(7) if a != b}  # fmt: skip
    for after in (together, apart):
        for b in range(7):
            assert any(np.allclose(after.after_other[b], pairs[a, b], atol=1e-4) for a in range(7) if a != b)


@pytest.mark.slow
def test_none_of_a_thousand_windows_is_recited_falsely(folder):
    (one,) = recite(reciter(folder), {"unseen": invented(240_000, seed=7)}, n_windows=1_000)
    assert len(one.windows) == 1_000
    for name in ("wrong prefix", "never published"):
        assert not one.recited(f"log_p {name}").any()


def test_the_headline_has_every_control(found):
    words = found[0].headline()
    assert all(name in words for name in CONTROLS)


def test_the_command_writes_tables_and_a_page(folder, texts, tmp_path, capsys):
    path = tmp_path / "mine.txt"
    path.write_text(texts["learned"], encoding="utf-8")
    assert main(["recite", str(folder), str(path), "--windows", "3", "--out", str(tmp_path / "out"), "--readme"]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "wrong prefix" in page
    assert 'class="p3 run"' in page
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "recite.csv",
        "windows.csv",
        "tokens.parquet",
        "report.html",
        "README.md",
    }
    tokens, (row,) = (
        pd.read_parquet(tmp_path / "out" / "tokens.parquet"),
        pd.read_csv(tmp_path / "out" / "recite.csv").itertuples(),
    )
    assert tokens["log_probability"].mean() == pytest.approx(-row.loss, rel=1e-4)
    assert tokens["first"].mean() == pytest.approx(row.accuracy, rel=1e-4)
    assert (
        "".join(texts["learned"][a:b] for a, b in zip(tokens["start"], tokens["stop"], strict=True)) == texts["learned"]
    )
    assert "recites" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        (["no/such-model", "gpl-3"], "hf download no/such-model"),
        (["MODEL", "no-such-text"], "constitution"),
        (["MODEL", "EMPTY"], "files with text"),
        (["MODEL", "SHORT"], "tokens, accepted: at least 164"),
        (["MODEL", "gpl-3", "--windows", "1"], "n_windows: received 1"),
        (["MODEL", "gpl-3", "--characters", "-5"], "--characters: received -5"),
        (["BERT", "gpl-3"], "a causal language model"),
        (["MODEL"], "byheart recite MODEL TEXT"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, monkeypatch, capsys, arguments, accepted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a few words", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(
        '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}', encoding="utf-8"
    )
    names = {"MODEL": str(folder), "EMPTY": "empty.txt", "SHORT": "short.txt", "BERT": "bert"}
    assert main(["recite", *(names.get(word, word) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1, err
    assert accepted in err
    assert not (tmp_path / "recite").exists()


def test_half_precision_on_a_processor_is_refused(folder, texts):
    import dataclasses

    opened = reciter(folder)
    half = dataclasses.replace(opened, model=opened.model.half())
    with pytest.raises(ValueError, match="float16 on a CPU"):
        recite(half, texts)


def test_a_twin_has_other_names_and_numbers_and_says_where():
    text = "In May, Anna gave Boris 12 apples, and Clara gave Anna 30. So Boris ate three."
    other, moved = twin(text, seed=1)
    assert other != text
    assert len(other) == moved[-1]
    assert other[: moved[text.index("gave")]] != text[: text.index("gave")]
    for word in ("gave", "apples", "ate"):
        assert other[moved[text.index(word)] :].startswith(word)


def test_the_interval_covers_and_knows_nothing_seen():
    low, high = interval(np.zeros(40))
    assert low == 0
    assert 0.08 < high < 0.1
    low, high = interval(np.tile([0.0, 1.0, 1.0, 0.0], 25))
    assert low < 0.5 < high


def test_white_space_is_spelled_as_the_model_learned_it(folder, texts):
    """The model learned single spaces: wrapped anew, in any way, its text is still known by heart, and no other is."""
    wrapped = {}
    for name, text in texts.items():
        lines = ["  ".join(line) for line in np.array_split(text.split(), 20)]
        wrapped[name] = "\r\n".join(lines)
    learned, unseen = recite(reciter(folder), wrapped, n_windows=6)
    assert learned.white_space == "single spaces"
    assert learned.documents.texts[0] == texts["learned"]
    assert learned.row()["recited_64"] > 0.8
    assert any("single spaces" in note for note in learned.notes)
    assert unseen.row()["recited_64"] == 0


def test_spellings_hold_the_same_words_and_none_is_there_twice():
    text = "One two\r\nthree.\r\n\r\nFour  five\rsix\r\n"
    found = spellings(text)
    assert list(found) == ["single spaces", "a line per paragraph", "line ends \\n", "as it stands"]
    assert found["single spaces"] == "One two three. Four five six"
    assert found["a line per paragraph"] == "One two three.\n\nFour five six"
    assert found["line ends \\n"] == "One two\nthree.\n\nFour  five\nsix\n"
    assert found["as it stands"] == text
    assert list(spellings("One two three.")) == ["single spaces"]
    assert list(spellings("One\ntwo\n")) == ["single spaces", "line ends \\n"]


def test_a_tokenizer_without_line_ends_is_asked_without_them(folder, texts):
    """One that makes them spaces cannot give wrapped lines back: what it can is used."""
    from dataclasses import replace

    from tokenizers import Tokenizer, normalizers

    own = reciter(folder)
    joining = Tokenizer.from_str(own.tokenizer.backend_tokenizer.to_str())
    joining.normalizer = normalizers.Replace("\n", " ")
    own = replace(own, tokenizer=type(own.tokenizer)(tokenizer_object=joining))
    (learned,) = recite(own, {"learned": texts["learned"].replace(". ", ".\n")}, n_windows=4)
    assert learned.white_space == "single spaces"
    assert learned.row()["recited_64"] > 0.7


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n", "\n\n", "\r\n\r\n"])
def test_a_twin_leaves_the_words_that_lines_begin_with(end):
    text = f"Here is Anna with Bert.{end}There is Bert with Anna.{end}Who is Anna?"
    changed, moved = twin(text)
    assert changed == text.replace("Anna", "X").replace("Bert", "Anna").replace("X", "Bert")
    assert moved[-1] == len(changed)


def test_files_that_hold_no_single_text_are_refused(folder, tmp_path, capsys):
    (tmp_path / "two.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for name, *more, said in (
        ("two.jsonl", "of 2 documents"),
        (".", "a folder"),
        ("latin.txt", "--encoding"),
        ("latin.txt", "--encoding", "latin-1", "of 2 tokens"),
    ):
        assert main(["recite", str(folder), str(tmp_path / name), *more]) == 2
        assert said in capsys.readouterr().err


def test_models_that_cannot_recite_this_are_refused(folder, texts):
    import copy
    from dataclasses import replace

    import transformers

    own = reciter(folder)
    broken, fewer = copy.deepcopy(own.model), copy.deepcopy(own.model)
    broken.transformer.wte.weight.data.fill_(float("nan"))
    fewer.resize_token_embeddings(100)
    encoder = transformers.BertLMHeadModel(transformers.BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))  # fmt: skip
    for model, accepted in (
        (broken, "not finite, accepted"),
        (fewer, "of which the model has none, accepted: below 100"),
        (encoder, "looks at later tokens, accepted: a causal model"),
    ):
        with pytest.raises(ValueError, match=accepted):
            recite(replace(own, model=model), texts, n_windows=3)


def test_another_tokenizer_is_suspected_where_the_loss_is_above_guessing(folder, texts, found):
    from dataclasses import replace

    own = reciter(folder)
    other = type(own.tokenizer)(tokenizer_object=trained(["zzz yyy xxx " * 40], 400))
    (one,) = recite(replace(own, tokenizer=other), {"learned": texts["learned"]}, n_windows=3)
    assert any("above 5.99 nats" in note for note in one.notes)
    assert not any("above" in note for note in found[0].notes)


@pytest.mark.parametrize(
    ("texts_given", "more", "accepted"),
    [
        ("a text", {}, "texts: received str, accepted: a dict"),
        ({"a": b"bytes"}, {}, "texts: received dict, accepted: a dict of texts"),
        ({"a": "text"}, {"n_windows": 2.5}, "n_windows: received 2.5, accepted"),
        ({"a": "text"}, {"seed": -1}, "seed: received -1, accepted"),
    ],
)
def test_wrong_types_are_refused(folder, texts_given, more, accepted):
    with pytest.raises(ValueError, match=accepted):
        recite(reciter(folder), texts_given, **more)
    with pytest.raises(ValueError, match="reciter: received str, accepted"):
        recite("gpt2", {"a": "text"})
    with pytest.raises(ValueError, match="model: received int, accepted"):
        reciter(5)


def test_an_adapter_or_damaged_weights_are_refused(folder, tmp_path):
    import shutil

    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="an adapter, accepted: a folder of the whole model"):
        reciter(tmp_path)
    shutil.copytree(folder, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000])
    with pytest.raises(ValueError, match="accepted: a model that transformers reads"):
        reciter(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {k: v for k, v in w.items() if "h.1.attn.c_proj" not in k},
            r"without 2 of its weights \(transf.*\.1",
        ),
        (
            lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
            "of its weights .*; the file has others, such as _orig",
        ),
        (lambda w: w | {"transformer.h.2.ln_1.bias": w["transformer.ln_f.bias"]}, r"no place for \(transformer.h.2"),
        (lambda w: w | {"lm_head.bias": w["transformer.ln_f.bias"]}, r"with 1 weights that .* \(lm_head.bias\)"),
        (
            lambda w: w | {"transformer.ln_f.bias": w["transformer.ln_f.bias"][:9]},
            "accepted: a model that transf|shapes",
        ),
    ],
)
def test_a_model_whose_weights_are_not_all_read_is_refused(folder, tmp_path, change, message):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    changed = {key: value.clone().contiguous() for key, value in change(weights).items()}
    save_file(changed, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        reciter(tmp_path / "other")


def test_heads_of_other_tasks_and_tied_weights_are_no_fault(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights |= {"v_head.summary.weight": weights["transformer.ln_f.bias"].clone()}
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    assert reciter(tmp_path / "other").name


def test_masks_and_positions_of_older_files_are_no_fault(folder, tmp_path):
    """As GPT-J's files have them, which this version of Transformers makes from config.json."""
    import shutil

    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "other")
    config = transformers.GPTJConfig(
        vocab_size=400, n_positions=32, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, bos_token_id=0, eos_token_id=0
    )
    transformers.GPTJForCausalLM(config).save_pretrained(tmp_path / "other")
    path = tmp_path / "other" / "model.safetensors"
    weights = load_file(path)
    old = ("attn.bias", "attn.masked_bias", "attn.causal_mask", "attn.rotary_emb.inv_freq")
    weights |= {f"transformer.h.0.{name}": torch.ones(1, 1, 32, 32) for name in old}
    save_file(weights, path, metadata={"format": "pt"})
    assert reciter(tmp_path / "other").name
    save_file(weights | {"transformer.h.0.attn.q_proj.bias": torch.ones(16)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"with 1 weights that its config.json has no place for .*q_proj.bias"):
        reciter(tmp_path / "other")


def test_the_head_of_an_alphabet_without_the_letter_a():
    import tokenizers
    import transformers
    from tokenizers import models, processors

    from byheart.language.reciters import _head

    own = tokenizers.Tokenizer(models.BPE(vocab={"<s>": 0, "A": 1, "C": 2, "G": 3, "T": 4}, merges=[]))
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>")
    assert tokenizer("ACG")["input_ids"] == [0, 1, 2, 3]
    assert _head(tokenizer) == (0,)


@pytest.mark.parametrize(
    ("single", "eos", "head"),
    [("$A <e>", "<e>", ()), ("<e> $A <e>", "<e>", (0,)), ("<e> $A", None, (0,)), ("$A", "<e>", ())],
)
def test_the_head_is_what_stands_before_a_text(single, eos, head):
    import transformers
    from tokenizers import processors

    from byheart.language.reciters import _head

    own = trained(["some words"], 300)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, bos_token="!", eos_token=eos and "!")
    number = tokenizer.convert_tokens_to_ids("!")
    own = tokenizer.backend_tokenizer
    own.post_processor = processors.TemplateProcessing(
        single=single.replace("<e>", "!"), special_tokens=[("!", number)]
    )
    assert _head(tokenizer) == tuple(number for _ in head)


@pytest.mark.filterwarnings("error")
def test_a_text_without_names_or_numbers_has_no_twin_and_says_so(folder):
    words = " ".join(["some words that rise and fall as they go"] * 60).upper()
    (one,) = recite(reciter(folder), {"upper": words}, n_windows=3)
    assert np.isnan(one.row()["recited twin"])
    assert "upper has no twin: none of its windows has a name or number to swap." in one.notes
    assert "twin 0 of 0" in one.headline()
