"""The page: what is on it, that nothing of a corpus becomes markup, and that it asks for no network."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from byheart.language.design import Design, Place, Span
from byheart.language.documents import Documents
from byheart.language.estimates import Estimates, estimate
from byheart.language.extraction import extraction
from byheart.language.logs import Logs
from byheart.language.page import write_page
from byheart.language.page.figures import Axes, Series, draw, ticks
from byheart.page import asset
from byheart.page.encoding import shown

NASTY = (
    "</script><script>alert(1)</script> <img src=x onerror=alert(2)> {{ 7 * 7 }} \x00\x07\x1b[31m \u202e\u2028 "
    "שלום عالم 👩‍👩‍👧‍👦🏳️‍🌈 " + "x" * 5_000
)


def characters(names: list[str], texts: list[str]) -> Documents:
    """Texts whose tokens are their characters, up to four in one."""
    offsets = [np.array([(a, min(a + 4, len(text))) for a in range(0, len(text), 4)], dtype=np.int64) for text in texts]
    tokens = tuple(np.arange(len(o)) % 50 for o in offsets)
    return Documents(tuple(names), tuple(texts), tokens, tuple(offsets), 50)


def simulate(design: Design, document: float = 0.5, span: float = 2.0, seed: int = 0) -> Logs:
    """Answers of models in which reading a document, and a span being on, make its tokens more probable."""
    rng = np.random.default_rng(seed)
    n = design.documents.n_tokens
    base = -3 - rng.gamma(2, 0.7, n)
    inside = design.document_mask[:, design.documents.document_of]
    on = np.append(design.span_mask, np.zeros((design.n_models, 1), bool), axis=1)[:, design.span_of]
    found = base + document * rng.gamma(1, 1, n) * (inside & (design.span_of < 0)) + span * on
    found = np.minimum(found + rng.normal(0, 0.3, (design.n_models, n)), -0.01).astype(np.float32)
    return Logs(found, found > -1.5)


def case(n_models: int = 16) -> tuple[Design, Logs]:
    texts = [f"Document {d} says something of its own. " * (1 + d % 3) for d in range(12)]
    documents = characters([f"d{d}" for d in range(12)], texts)
    spans = (
        Span("Docu", "repeat", (Place(0, 0, 3), Place(1, 0, 3), Place(2, 2, 5))),
        Span("x", "canary", (Place(3, 1, 4),), settings={"n_copies": 1}),
        Span("y", "canary", (Place(4, 1, 4), Place(5, 1, 4)), settings={"n_copies": 2}),
        Span("z", "near-copies", (Place(6, 1, 4), Place(7, 1, 4)), (Place(8, 1, 4),), {"n_copies": 2, "changed": 0.1}),
        Span("p", "probe", (), (Place(9, 2, 5),)),
    )
    design = Design(documents, spans, n_models)
    return design, simulate(design)


def embedded(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def written(tmp_path, design: Design, estimates: Estimates, **more) -> str:
    path = write_page(tmp_path / "a.html", design, estimates, **({"title": "A title"} | more))
    return path.read_text(encoding="utf-8")


def test_the_page_has_the_estimates(tmp_path):
    design, logs = case()
    found = estimate(design, logs)
    page = written(
        tmp_path, design, found, notes=["A note."], settings={"seed": 3}, extraction=extraction(design, logs)
    )
    data = embedded(page)
    for words in ("A title", "A note.", "<dt>seed</dt><dd>3</dd>", "How many tries", "How many copies", "Controls"):
        assert words in page
    told = found.documents["bits"].notna()
    bits = found.documents["bits"][told].sort_values(ascending=False)
    listed = data["documents"][: len(bits)]  # those without an estimate come last
    assert [row["name"] for row in listed] == [design.documents.names[d] for d in bits.index]
    np.testing.assert_allclose([row["bits"] for row in listed], bits, rtol=1e-3)
    assert {row["name"] for row in data["documents"]} == set(design.documents.names)
    assert {row["kind"] for row in data["spans"]} == {"repeat", "canary", "near-copies"}
    first = data["texts"][0]
    document = bits.index[0]
    tokens = found.tokens[found.tokens["document"] == document]
    np.testing.assert_allclose(first["bits"], tokens["log_probability"] / np.log(2), rtol=1e-3)
    np.testing.assert_allclose(first["se"], tokens["log_probability_se"] / np.log(2), rtol=1e-3)
    assert not re.search(r"https?://", page)


def test_pieces_are_the_text_and_places_are_the_spans(tmp_path):
    design, logs = case()
    data = embedded(written(tmp_path, design, estimate(design, logs)))
    copies = []
    for text in data["texts"]:
        document = design.documents.names.index(data["documents"][text["row"]]["name"])
        assert "".join(text["pieces"]) == design.documents.texts[document]
        copies += [(span, document, first, stop, exact) for first, stop, span, exact in text["places"]]
    expected = [
        (number, place.document, place.start, place.stop, place in span.copies)
        for number, span in enumerate(design.spans)
        for place in {*span.copies, *span.measured}
    ]
    assert sorted(copies) == sorted(expected)


def test_nothing_of_the_corpus_becomes_markup(tmp_path):
    documents = characters([NASTY, "</script>", "{{ b }}", "c"], [NASTY, "<b>bold</b>" * 4, NASTY[::-1], "plain words"])
    spans = (Span(NASTY, "</script>", (Place(0, 0, 3), Place(2, 0, 3))),)
    design = Design(dataclasses.replace(documents, notes=(NASTY,)), spans, 8)
    logs = simulate(design)
    page = written(
        tmp_path,
        design,
        estimate(design, logs),
        title=NASTY + "\ud800",
        notes=[NASTY + "\ud800"],
        settings={NASTY: NASTY + "\ud800"},
        extraction=extraction(design, logs),
    )
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "{{ 7" in page
    data = embedded(page)
    assert {row["name"][:300] for row in data["documents"]} >= {shown(NASTY)[:300], "</script>"}
    assert data["spans"][0]["text"] == shown(NASTY[:300]) + "…"


def test_tokens_that_share_a_character_are_one_piece(tmp_path):
    offsets = np.array([(0, 2), (2, 3), (2, 3), (2, 3), (3, 3), (3, 6)], dtype=np.int64)
    documents = Documents(("a",), ("ab👩 cd",), (np.arange(6),), (offsets,), 10)
    design = Design(documents, (), 4)
    data = embedded(written(tmp_path, design, estimate(design, simulate(design))))
    assert data["texts"][0]["pieces"] == ["ab", "👩", " cd"]


def test_without_spans_there_are_no_sections_of_spans(tmp_path):
    documents = characters(["a", "b", "c"], ["one two three", "four five six", "seven eight nine"])
    design = Design(documents, (), 8)
    logs = simulate(design)
    page = written(tmp_path, design, estimate(design, logs), extraction=extraction(design, logs))
    for words in ("<h2>Spans", "How many", "Underlined", "Probes"):
        assert words not in page
    assert embedded(page)["spans"] == []


@pytest.mark.parametrize("role", ["always", "never"])
def test_documents_without_an_estimate(tmp_path, role):
    design, _ = case()
    design = Design(design.documents, design.spans[:1], 8, roles=(role,) * 12)
    found = estimate(design, Logs(simulate(design).log_probability))
    page = written(tmp_path, design, found)
    assert all(row["bits"] is None for row in embedded(page)["documents"])
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_long_and_many_documents_are_cut(tmp_path):
    documents = characters([str(d) for d in range(40)], ["abcd" * 2_000] * 40)
    design = Design(documents, (), 4)
    found = estimate(design, simulate(design))
    strong = found.tokens["log_probability"].mask(found.tokens.index % 2_000 >= 400, 9.0)
    found = dataclasses.replace(found, tokens=found.tokens.assign(log_probability=strong))
    texts = embedded(written(tmp_path, design, found))["texts"]
    assert len(texts) == 26
    assert {text["start"] for text in texts} == {400}
    assert {len(text["pieces"]) for text in texts} == {1_500}


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    design, logs = case()
    found = estimate(design, logs)
    assert written(tmp_path, design, found) == written(tmp_path, design, found)


def test_an_axis_has_round_ticks():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(-0.3, 7) == pytest.approx(range(8))
    axes = Axes("a < b", "x", (1, 16), (0, 1))
    picture = str(draw(axes, [Series([(1, 0.0, np.nan), (16, 1.0, 0.1)], "#000000", "</svg>")]))
    assert picture.count("</svg>") == 1
    assert "a &lt; b" in picture
    assert pd.Series([axes.x(2) - axes.x(1)]).item() == pytest.approx(axes.x(16) - axes.x(8))


def test_tokens_are_not_isolated_so_that_right_to_left_words_are_not_written_backwards():
    assert re.search(r"\.text span \{[^}]*unicode-bidi: normal", asset("language/page/page.css"))
