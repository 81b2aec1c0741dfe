from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language.texts_by_hand import documents_of

from byheart.language.design import Design, Place
from byheart.language.spans import given_spans, join_near_copies, near_copies, repeated_spans, spans_from_json
from byheart.language.tokens import tokenize


def places_of(documents, sequence):
    """Where a sequence of tokens stands, by brute force."""
    return [
        Place(d, start, start + len(sequence))
        for d, tokens in enumerate(documents.tokens)
        for start in range(len(tokens) - len(sequence) + 1)
        if tokens[start : start + len(sequence)].tolist() == sequence
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=14), min_size=1, max_size=4), st.integers(2, 4))
def test_repeats_by_brute_force(texts, min_tokens):
    documents = documents_of(texts, "ab")
    spans = repeated_spans(documents, min_tokens)
    Design(documents, spans)  # which refuses spans that overlap
    free = [np.ones(len(tokens), dtype=bool) for tokens in documents.tokens]
    for span in spans:
        assert len(span.copies) >= 2
        first = span.copies[0]
        sequence = documents.tokens[first.document][first.start : first.stop].tolist()
        assert len(sequence) >= min_tokens
        assert documents.text_of(first.document, first.start, first.stop) == span.text
        every = places_of(documents, sequence)
        assert set(span.copies) <= set(every)
        for place in every:  # those left out overlap one that is there
            assert any(
                p.document == place.document and p.start < place.stop and place.start < p.stop for p in span.copies
            )
        for place in span.copies:
            free[place.document][place.start : place.stop] = False
    if not spans:  # nothing long enough occurs twice without overlapping itself
        sequences = {
            tuple(t[i : i + min_tokens].tolist()) for t in documents.tokens for i in range(len(t) - min_tokens + 1)
        }
        for sequence in sequences:
            places = places_of(documents, list(sequence))
            assert all(
                a.document == b.document and abs(a.start - b.start) < min_tokens
                for a, b in itertools.combinations(places, 2)
            )


def test_repeats_within_a_document_and_across():
    (span,) = repeated_spans(documents_of(["abcdefg abcdefg", "gg abcdeh", "hhhh"]), 6)
    assert span.text == "abcdefg"
    assert span.copies == (Place(0, 0, 7), Place(0, 8, 15))
    (span,) = repeated_spans(documents_of(["abcdefg abcdefg", "gg abcdefh", "hhhh"]), 5)
    assert span.text == "abcdef"  # what covers most in all its copies
    assert span.copies == (Place(0, 0, 6), Place(0, 8, 14), Place(1, 3, 9))


def test_no_repeat_reaches_across_documents():
    assert repeated_spans(documents_of(["abcd", "efgh", "abcd", "efgh"]), 5) == ()


@pytest.mark.parametrize("numbers", [(0, 2), (3, 1)])
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="accepted: at least 1 and 2"):
        repeated_spans(documents_of(["ab"]), *numbers)


WORDS = tokenize(
    ["x", "y", "z"],
    [
        "In the beginning God created the heaven and the earth.",
        "He said: in the beginning, God created the heaven, and the earth!",
        "In the beginning God created the heaven and the earth. Amen, in the beginning God made the sea.",
    ],
    vocabulary=300,
)
SENTENCE = "In the beginning God created the heaven and the earth."


@pytest.mark.parametrize("span", ["God created", "od creat", SENTENCE, ("x", 3, 9)])
def test_given_spans_have_all_copies_and_cover_what_was_asked_for(span):
    (found,) = given_spans(WORDS, [span])
    text = span if isinstance(span, str) else WORDS.texts[0][3:9]
    assert len(found.copies) == sum(whole.count(text) for whole in WORDS.texts)
    for place in found.copies:
        assert text in WORDS.text_of(place.document, place.start, place.stop)
        assert place.stop - place.start == 1 or text not in WORDS.text_of(place.document, place.start + 1, place.stop)


@pytest.mark.parametrize(
    ("span", "received"),
    [
        ("Moses", "occurs nowhere"),
        (" ", "received ' '"),
        (("w", 0, 1), "received document 'w'"),
        (("x", 5, 5), "received characters 5 to 5"),
        (("x", 0, 999), "received characters 0 to 999"),
    ],
)
def test_spans_that_are_not_there_are_refused(span, received):
    with pytest.raises(ValueError, match="accepted") as error:
        given_spans(WORDS, [span])
    assert received in str(error.value)


def test_near_copies_are_found_where_the_span_is_not():
    spans = given_spans(WORDS, [SENTENCE])
    found = near_copies(WORDS, spans, 0.9)
    assert found["document"].tolist() == [1]
    assert found["similarity"][0] == pytest.approx(1)
    text = found["text"][0]
    assert "in the beginning, God created the heaven, and the earth" in text
    assert near_copies(WORDS, given_spans(WORDS, ["He said"]), 0.9).empty
    with pytest.raises(ValueError, match="accepted: 0 < threshold <= 1"):
        near_copies(WORDS, spans, 0)


def test_near_copies_are_joined_and_spans_that_share_them_become_one():
    spans = given_spans(WORDS, [SENTENCE])
    joined = join_near_copies(WORDS, spans, near_copies(WORDS, spans, 0.9))
    assert [len(span.copies) for span in joined] == [3]
    assert joined[0].kind == "joined"
    Design(WORDS, joined)
    both = given_spans(WORDS, [SENTENCE, "in the beginning, God created the heaven, and the earth"])
    (one,) = join_near_copies(WORDS, both, near_copies(WORDS, both, 0.9))
    assert sorted(one.copies) == sorted(place for span in both for place in span.copies)
    assert join_near_copies(WORDS, spans, near_copies(WORDS, spans, 0.9).iloc[:0]) == spans


def test_spans_from_json(tmp_path):
    path = tmp_path / "spans.json"
    path.write_text(json.dumps(["God", {"document": "x", "start": 0, "stop": 2}]))
    assert spans_from_json(path) == ["God", ("x", 0, 2)]
    for content in ("{", "{}", "[]", "[3]", '[{"document": "x"}]', '[{"document": "x", "start": "0", "stop": 2}]'):
        path.write_text(content)
        with pytest.raises(ValueError, match="accepted: a JSON list"):
            spans_from_json(path)
    with pytest.raises(FileNotFoundError, match="accepted: a JSON file"):
        spans_from_json(tmp_path / "missing.json")
