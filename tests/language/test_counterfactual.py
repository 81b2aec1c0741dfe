from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from byheart.language import ensemble
from byheart.language.counterfactual import CounterfactualConfig, _notes, counterfactual, design_of, report
from byheart.language.ensemble import EnsembleConfig
from byheart.language.texts import Texts
from byheart.language.tokens import trained

RNG = np.random.default_rng(0)
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]
PARAGRAPHS = [" ".join(RNG.choice(WORDS, 15)) for _ in range(24)]
PARAGRAPHS[3] = PARAGRAPHS[7] = PARAGRAPHS[11]
TEXTS = Texts(tuple(f"p{i}" for i in range(24)), tuple(PARAGRAPHS), ("Made up.",))
CONFIG = CounterfactualConfig(models=8, vocabulary=300, context=32, canaries=1)
TINY = EnsembleConfig(width=8, n_heads=2, n_epochs=2)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("found")
    with ThreadPoolExecutor(1) as executor:
        return out, counterfactual(TEXTS, CONFIG, TINY, out=out, executor=executor)


def test_repeats_and_canaries_are_spans():
    design, near = design_of(TEXTS, CONFIG)
    (repeat,) = [span for span in design.spans if span.kind == "repeat" and len(span.copies) == 3]
    assert {place.document for place in repeat.copies} == {3, 7, 11}
    assert {span.kind for span in design.spans} == {"repeat", "canary", "near-copies", "probe"}
    assert design.roles[:24] == ("random",) * 24
    assert near.empty


def test_given_spans_take_the_place_of_repeats():
    text = PARAGRAPHS[0].split()[4]
    design, _ = design_of(TEXTS, CounterfactualConfig(models=8, vocabulary=300, canaries=0), [text])
    assert [span.kind for span in design.spans] == ["given"]
    assert set(design.roles) == {"random"}


def test_what_was_found_is_kept(found, tmp_path):
    out, result = found
    for name in ("design", "estimates"):
        assert (out / f"{name}.safetensors").is_file()
    for name in ("documents", "spans", "dose", "reliability", "chance", "extraction", "near-copies"):
        assert (out / f"{name}.csv").is_file()
    about = json.loads((out / "about.json").read_text())
    assert about["notes"][0] == "Made up."
    assert about["settings"]["models"] == 8
    assert about["name"] == out.name
    assert len(result.estimates.documents) == len(result.ensemble.design.documents)
    page = report(out, tmp_path / "page.html").read_text(encoding="utf-8")
    assert PARAGRAPHS[3].split()[0] in page


def test_the_same_call_trains_nothing_and_another_is_refused(found, monkeypatch):
    out, result = found
    monkeypatch.setattr(ensemble, "_train_stack", None)
    again = counterfactual(TEXTS, CONFIG, TINY, out=out)
    assert np.array_equal(again.ensemble.logs.log_probability, result.ensemble.logs.log_probability)
    with pytest.raises(ValueError, match="of other .*n_epochs"):
        counterfactual(TEXTS, CONFIG, EnsembleConfig(width=8, n_heads=2, n_epochs=3), out=out)


def test_too_few_documents_are_refused():
    with pytest.raises(ValueError, match="received 3, accepted: at least 4"):
        design_of(Texts(("a", "b", "c"), ("x", "y", "z")), CONFIG)


def notes_of(texts, spans=None, tokenizer=None, **settings):
    config = CounterfactualConfig(**{"models": 8, "vocabulary": 300, "context": 64, "canaries": 0, **settings})
    design, near = design_of(texts, config, spans, tokenizer)
    return " ".join(_notes(design, near, config, spans, tokenizer)), design


def test_what_is_done_to_texts_and_spans_is_said():
    quiet, _ = notes_of(TEXTS)
    assert quiet == "Made up."
    assert "tokens, fewer than the 100000 asked for" in notes_of(TEXTS, vocabulary=100_000)[0]
    assert "The tokenizer was given; it has 280 tokens" in notes_of(TEXTS, tokenizer=trained(PARAGRAPHS, 280))[0]
    pieces, design = notes_of(TEXTS, context=8)
    assert "24 documents are longer than 8 tokens" in pieces
    assert f"{sum(len(span.places) for span in design.spans)} places of spans lie in two pieces or more" in pieces
    assert "More is planted" in notes_of(TEXTS, canaries=1)[0]


def test_what_is_done_to_given_spans_is_said():
    first = PARAGRAPHS[0].split()[0]
    assert notes_of(TEXTS, [f"{first}\n"])[0] == "Made up."
    more = Texts((*TEXTS.names, "q"), (*TEXTS.texts, "zzzzz"))
    notes, _ = notes_of(more, [("q", 1, 4)], trained(PARAGRAPHS, 280))
    assert "1 spans have copies that overlap" in notes
    whole = trained([*PARAGRAPHS, *["zebra "] * 200], 400)
    notes, design = notes_of(Texts((*TEXTS.names, "q"), (*TEXTS.texts, "zebra "), ()), ["ebr"], whole)
    assert design.spans[0].text == "zebra"
    assert "1 spans begin or end within a token: they are measured with all of it, such as 'zebra'" in notes


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"models": 9}, "models: received 9"),
        ({"models": 6}, "models: received 6"),
        ({"context": 4}, "context: received 4"),
    ],
)
def test_settings_out_of_range_are_refused(settings, received):
    with pytest.raises(ValueError, match=received):
        CounterfactualConfig(**settings)
