"""What is written for other tools is read back; lists that contradict the texts are refused in one line."""

from __future__ import annotations

import csv
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from language.texts_by_hand import design_with_spans

from byheart.cli import main
from byheart.language.counterfactual import CounterfactualConfig, counterfactual, opened
from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.ensemble import EnsembleConfig
from byheart.language.exchange import read_spans, write_garak, write_spans, write_tokens
from byheart.language.spans import given_spans
from byheart.language.texts import Texts
from byheart.language.tokens import tokenize

TEXTS = Texts(("a", "b"), ("In the beginning was\nthe word.", "The word, she said, is 'swordfish'."))
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="☃["), min_size=1, max_size=12).filter(
    str.strip
)
ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def by_garak(path):
    """Prompts and triggers, as garak's probes of completion read them."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) == 2]
    return [(prefix, span) for span, passage in rows if (prefix := passage.split("[MASK]")[0].strip())]


def a_token_a_character(texts):
    tokens = tuple(np.array([*map(ord, text)]) for text in texts)
    offsets = tuple(np.stack([np.arange(len(text)), np.arange(1, len(text) + 1)], axis=1) for text in texts)
    return Documents(tuple(f"document {i}" for i in range(len(texts))), tuple(texts), tokens, offsets, 0x110000)


@ANY
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), st.integers(0, 20))
def test_spans_of_any_text_are_read_back_as_they_were(tmp_path, parts, n_characters):
    documents = a_token_a_character([f"{before}|{span}|{after}" for before, span, after in parts])
    before, span, _ = parts[0]
    spans = given_spans(documents, [("document 0", len(before) + 1, len(before) + 1 + len(span))])
    design = Design(documents, spans, 2)
    path = write_spans(tmp_path / "spans.jsonl", design, n_characters=n_characters)
    read = read_spans(path, documents)
    assert given_spans(documents, read[:1]) == spans
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        text = documents.texts[documents.names.index(row["document"])]
        assert text[row["start"] : row["stop"]] == row["text"]
        assert text[: row["start"]].endswith(row["prefix"])
        assert len(row["prefix"]) == min(n_characters, row["start"])


@ANY
@given(st.lists(WORDS, min_size=1, max_size=5, unique_by=lambda word: " ".join(word.split())), st.booleans())
def test_a_list_as_csv_or_json_has_the_passages_that_were_written(tmp_path, words, as_csv):
    texts = Texts(("x",), ("|".join(words),))
    path = tmp_path / ("list.csv" if as_csv else "list.json")
    if as_csv:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["id", "secret"], *([i, word] for i, word in enumerate(words))])
    else:
        write(path, {"version": 1, "canaries": [{"secret": word, "role": "candidate"} for word in words]})
    assert read_spans(path, texts) == words


@ANY
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_garak_reads_prefix_and_span(tmp_path, parts):
    documents = a_token_a_character([f"☃{before} {span}" for before, span in parts])
    before, span = parts[0]
    spans = given_spans(documents, [("document 0", len(before) + 2, len(documents.texts[0]))])
    path = write_garak(tmp_path / "garak.tsv", Design(documents, spans, 2), n_characters=1_000)
    assert (" ".join(f"☃{before}".split()), " ".join(span.split())) in by_garak(path)
    for prefix, said in by_garak(path):
        assert any(" ".join(text.split()).replace(" ", "").startswith(f"{prefix}{said}".replace(" ", ""))
                   for text in documents.texts)  # fmt: skip


def test_places_without_a_prefix_or_with_a_mask_are_left_out_for_garak_and_named(tmp_path):
    documents = tokenize(["a", "b", "c"], ["swordfish", "the word is swordfish", "[MASK] or swordfish"])
    design = Design(documents, given_spans(documents, ["swordfish"]), 2)
    with pytest.warns(UserWarning, match="2 of 3 places were left out"):
        path = write_garak(tmp_path / "garak.tsv", design)
    assert by_garak(path) == [("the word is", "swordfish")]
    with pytest.warns(UserWarning, match="2 of 3"):
        write_garak(path, design)  # its own file is replaced
    write(path, "Ada\tfor [MASK], or for both\n")
    with pytest.warns(UserWarning, match="2 of 3"), pytest.raises(ValueError, match="accepted: a free name"):
        write_garak(path, design)
    alone = tokenize(["a"], ["swordfish"])
    with pytest.raises(ValueError, match="without a prefix"):
        write_garak(tmp_path / "none.tsv", Design(alone, given_spans(alone, ["swordfish"]), 2))


def test_only_spans_that_byheart_wrote_are_replaced(tmp_path):
    design = design_with_spans()
    path = write_spans(tmp_path / "spans.jsonl", design)
    write_spans(path, design, n_characters=3)
    write(path, {"mine": 1})
    with pytest.raises(ValueError, match="accepted: a free name, or spans that byheart wrote"):
        write_spans(path, design)
    with pytest.raises(ValueError, match="n_characters: received -1"):
        write_spans(tmp_path / "other.jsonl", design, n_characters=-1)
    with pytest.raises(ValueError, match="a design without one"):
        write_spans(tmp_path / "other.jsonl", Design(design.documents, (), 2))


def test_an_entry_may_say_where_it_stands_what_it_says_or_both(tmp_path):
    place = {"document": "a", "start": 17, "stop": 24}
    for content, found in (
        (["the  word"], ["the  word"]),
        ([place], [("a", 17, 24)]),
        ([{**place, "text": "was the"}, "is"], [("a", 17, 24), "is"]),
        ([{"secret": "swordfish", "prefix": "is '"}, {"secret": "swordfish", "repetitions": 4}], ["swordfish"]),
        ([{**place, "text": None, "note": "x"}, place], [("a", 17, 24)]),
    ):
        assert read_spans(write(tmp_path / "list.json", content), TEXTS) == found
    lines = "document,start,stop,canary\na,17,24,was the\n\nb,,,swordfish\n"
    assert read_spans(write(tmp_path / "list.csv", lines), TEXTS) == [("a", 17, 24), "swordfish"]
    assert read_spans(write(tmp_path / "list.csv", "﻿word,n\nshe,3\n"), TEXTS, column="word") == ["she"]
    assert read_spans(write(tmp_path / "list.jsonl", '"she"\n{"text": "is"}\n'), TEXTS) == ["she", "is"]


PLACE = {"document": "a", "start": 0, "stop": 2}


@pytest.mark.parametrize(
    ("name", "content", "accepted"),
    [
        ("a.json", "{", "accepted: a list of texts"),
        ("a.json", "[" * 100_000, "accepted: a list of texts"),
        ("a.json", "[" + "1" * 5_000 + "]", "accepted: a list of texts"),
        ("a.json", {}, "none by the name of canaries"),
        ("a.json", [], "which has no entry"),
        ("a.json", [3], "received 3 as entry 1"),
        ("a.json", [["a", 0, 2]], "as entry 1"),
        ("a.json", [""], "with the columns none"),
        ("a.json", ["she", "  "], "entry 2 .* without a passage"),
        ("a.json", [{"text": 3}], "received 3 as text of entry 1 .*accepted: a text"),
        ("a.json", [{"words": "she"}], "with the columns words, accepted"),
        ("a.json", [{"text": "she", "secret": "is"}], "columns text, secret, accepted: one of them"),
        ("a.json", [{**PLACE, "stop": True}], "received true as stop of entry 1"),
        ("a.json", [{**PLACE, "start": 0.0}], "received 0.0 as start of entry 1"),
        ("a.json", [{**PLACE, "start": -1}], "characters -1 to 2 as entry 1"),
        ("a.json", [{**PLACE, "stop": 99}], "characters 0 to 99 as entry 1 .*accepted: 0 to 30"),
        ("a.json", [{**PLACE, "document": "c"}], "'c' as entry 1 .* names no document, accepted: one such as 'a'"),
        ("a.json", [PLACE, {"document": "a", "start": 1}], "entry 2 .* without all of document, start and stop"),
        ("a.json", [{**PLACE, "text": "she"}], "'she' as entry 1 .*what stands there, 'In'"),
        ("a.json", ["she", "he who"], "1 of 2 passages that stand in no text, such as 'he who'"),
        ("a.csv", "", "which has no entry"),
        ("a.csv", "text\n", "which has no entry"),
        ("a.csv", "text,text\nshe,is\n", "a column is there twice"),
        ("a.csv", "text,n\nshe\n", "entry 1 has 1 columns in place of 2"),
        ("a.csv", 'text\n"she\n', "unexpected end of data"),
        ("a.csv", "document,start,stop\na,0,two\n", 'received "two" as stop of entry 1'),
        ("a.txt", "she", "accepted: a file .csv, .json, .jsonl"),
    ],
)
def test_a_list_that_is_wrong_is_refused_in_one_line(tmp_path, name, content, accepted):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=accepted) as error:
        read_spans(path, TEXTS)
    assert "\n" not in str(error.value)


def test_other_encodings_missing_files_and_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match="accepted: a list of texts"):
        read_spans(tmp_path / "a.csv", TEXTS)
    with pytest.raises(FileNotFoundError, match="accepted: a file"):
        read_spans(tmp_path / "missing.csv", TEXTS)
    with pytest.raises(ValueError, match="column: received 'x', accepted: one of .*text"):
        read_spans(write(tmp_path / "a.csv", "text\nshe\n"), TEXTS, column="x")


def test_absent_passages_are_left_out_and_named_if_asked_for(tmp_path):
    path = write(tmp_path / "list.json", ["she", "he who", "nobody"])
    with pytest.warns(UserWarning, match="2 of 3 passages that stand in no text, such as 'he who'"):
        assert read_spans(path, TEXTS, skip_absent=True) == ["she"]
    with pytest.raises(ValueError, match="1 of 1"):
        read_spans(write(path, ["nobody"]), TEXTS, skip_absent=True)


@pytest.mark.parametrize("with_correct", [True, False])
def test_tokens_are_read_back_by_the_design(tmp_path, with_correct):
    design = design_with_spans()
    rng = np.random.default_rng(0)
    shape = (design.n_models, design.documents.n_tokens)
    logs = {"log_probability": -rng.random(shape).astype(np.float32)}
    if with_correct:
        logs["correct"] = rng.random(shape) < 0.5
    path = write_tokens(tmp_path / "tokens.parquet", design, logs)
    table = pd.read_parquet(path)
    assert np.array_equal(table["log_probability"].to_numpy().reshape(shape), logs["log_probability"])
    assert np.array_equal(
        table["learned"].to_numpy().reshape(shape), [design.carries_loss(m) for m in range(design.n_models)]
    )
    row = table.iloc[len(table) // 2]
    text = design.documents.texts[design.documents.names.index(row["document"])]
    assert "abcdefgh "[row["id"]] == text[row["start"] : row["stop"]]
    if with_correct:
        pd.testing.assert_frame_equal(design.estimate(path).spans, design.estimate(logs).spans)
    write_tokens(path, design, logs)
    pd.DataFrame({"mine": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="accepted: a free name, or a table that byheart wrote"):
        write_tokens(path, design, logs)
    with pytest.raises(ValueError, match="accepted: a name that ends in .parquet"):
        write_tokens(tmp_path / "tokens.csv", design, logs)


def test_the_commands_take_a_list_and_export_what_a_run_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]
    paragraphs = [" ".join(rng.choice(words, 12)) for _ in range(12)]
    secret = "the word is swordfish"
    for i in (2, 5):
        paragraphs[i] += f" {secret}."
    texts = Texts(tuple(f"p{i}" for i in range(12)), tuple(paragraphs))
    write(tmp_path / "notes.txt", "one\ntwo\nthree\nfour")
    lists = write(tmp_path / "canaries.csv", f"secret,role\n{secret},candidate\nnever said,control\n")
    with pytest.warns(UserWarning, match="never said"):
        spans = read_spans(lists, texts, skip_absent=True)
    config = CounterfactualConfig(models=8, vocabulary=300, context=64, canaries=0)
    with ThreadPoolExecutor(1) as executor:
        found = counterfactual(
            texts, config, EnsembleConfig(width=8, n_heads=2, n_epochs=1), out="run", spans=spans, executor=executor
        )
    assert main(["export", "run", "--out", "exported"]) == 0
    assert len(re.findall(r"^wrote exported", capsys.readouterr().out, re.MULTILINE)) == 3
    assert [row[1] for row in by_garak(tmp_path / "exported" / "garak.tsv")] == [secret, secret]
    assert read_spans(tmp_path / "exported" / "spans.jsonl", texts)[0][0] == "p2"
    again = opened("run")
    assert np.array_equal(again.logs.log_probability, found.ensemble.logs.log_probability)
    estimates = again.design.estimate(tmp_path / "exported" / "tokens.parquet")
    pd.testing.assert_frame_equal(estimates.spans, found.estimates.spans)
    for arguments, accepted in (
        (["export", "."], "one that byheart counterfactual wrote"),
        (["export", "run", "--prefix", "0"], "--prefix: received 0"),
        (["counterfactual", "kjv", "--documents", "40", "--skip-absent"], "received without --spans"),
        (["counterfactual", "notes.txt", "--split", "lines", "--spans", "none.csv"], "accepted: a file .csv"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert accepted in error
        assert error.count("\n") == 1
    next((tmp_path / "run" / "models").iterdir()).unlink()
    assert main(["export", "run", "--out", "other"]) == 2
