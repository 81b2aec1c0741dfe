from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language.texts_by_hand import documents_of
from rapidfuzz import fuzz

from byheart.language import spans as spans_module
from byheart.language.design import Design, Place, Span
from byheart.language.spans import given_spans, join_near_copies, near_copies, repeated_spans
from byheart.language.tokens import tokenize, trained


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


def greedy(documents, min_tokens, min_copies):
    """What ``repeated_spans`` should find, as it is said: whatever covers most tokens first, by trying everything."""
    copies = {}
    for document, tokens in enumerate(documents.tokens):
        for start, stop in itertools.combinations(range(len(tokens) + 1), 2):
            copies.setdefault(tuple(tokens[start:stop].tolist()), []).append((document, start))
    last = (np.inf,)
    ranked = sorted(
        (sequence for sequence, at in copies.items() if len(sequence) >= min_tokens and len(at) >= min_copies),
        key=lambda sequence: (-len(sequence) * len(copies[sequence]), sequence + last),
    )
    longer = {(sequence[:-1], len(at)) for sequence, at in copies.items()}  # as often with another token to the right
    free = [np.ones(len(tokens), dtype=bool) for tokens in documents.tokens]
    for sequence in ranked:
        if (sequence, len(copies[sequence])) in longer:
            continue
        shared = [all(free[d][start + i] for d, start in copies[sequence]) for i in range(len(sequence))]
        runs = [list(run) for is_free, run in itertools.groupby(range(len(sequence)), shared.__getitem__) if is_free]
        run = max(runs, key=len, default=[])
        if len(run) < min_tokens:
            continue
        part = sequence[run[0] : run[-1] + 1]
        apart = []
        for document, start in copies[part]:
            if not apart or apart[-1].document != document or start >= apart[-1].stop:
                apart.append(Place(document, start, start + len(part)))
        if len(apart) >= min_copies and all(free[p.document][p.start : p.stop].all() for p in apart):
            for place in apart:
                free[place.document][place.start : place.stop] = False
            yield tuple(apart)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(alphabet="abc", min_size=1, max_size=20), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(2, 3),
)
def test_repeats_are_those_of_a_plain_search(texts, min_tokens, min_copies):
    documents = documents_of(texts, "abc")
    found = repeated_spans(documents, min_tokens, min_copies)
    assert [span.copies for span in found] == list(greedy(documents, min_tokens, min_copies))


def test_a_text_that_only_repeats_itself_takes_no_longer_than_another(monkeypatch):
    asked = []
    runs = spans_module._runs
    monkeypatch.setattr(spans_module, "_runs", lambda mask: asked.append(len(mask)) or runs(mask))
    (span,) = repeated_spans(documents_of(["abcdefgh" * 2_000]), 8)
    assert [place.stop - place.start for place in span.copies] == [8_000, 8_000]
    assert len(asked) <= 2  # the other 16,000 repeats are seen to be taken without going through their tokens


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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=12), min_size=1, max_size=3), st.data())
def test_given_spans_are_found_at_all_their_places(texts, data):
    documents = documents_of(texts, "ab ")
    whole = data.draw(st.sampled_from(texts))
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2, unique=True)))
    text = whole[start:stop].strip()
    if not text:
        return
    named = (documents.names[texts.index(whole)], start, stop)
    (anywhere,), (there,) = given_spans(documents, [text]), given_spans(documents, [named])
    every = {
        Place(d, at, at + len(text)) for d, t in enumerate(texts) for at in range(len(t)) if t.startswith(text, at)
    }
    at = start + whole[start:stop].index(text)
    assert Place(texts.index(whole), at, at + len(text)) in there.places
    for span in (anywhere, there):
        Design(documents, [span])  # which refuses copies that overlap
        off = {(p.document, token) for p in span.copies for token in range(p.start, p.stop)}
        assert off >= {(p.document, token) for p in every for token in range(p.start, p.stop)}
        if " " not in text:
            assert set(span.places) <= every


def test_line_breaks_of_a_given_span_match_spaces():
    (found,) = given_spans(WORDS, [" In the beginning\r\n  God created\n"])
    assert found.copies == given_spans(WORDS, ["In the beginning God created"])[0].copies


def test_of_copies_that_overlap_the_named_one_is_measured_and_the_rest_is_off_too():
    documents = documents_of(["aaaaa", "ba"])
    (span,) = given_spans(documents, ["aa"])
    assert span.copies == (Place(0, 0, 2), Place(0, 2, 4), Place(0, 4, 5))
    assert span.places == (Place(0, 0, 2), Place(0, 2, 4))
    (span,) = given_spans(documents, [("document 0", 1, 4)])
    assert span.places == (Place(0, 1, 4),)
    assert span.copies == (Place(0, 0, 1), Place(0, 1, 4), Place(0, 4, 5))


def test_a_span_holds_all_tokens_of_its_first_and_last_character():
    documents = tokenize("ab", ["a日本b", "日"], trained(["ab"], 257))
    (span,) = given_spans(documents, [("a", 1, 2)])
    assert span.copies == (Place(0, 1, 4), Place(1, 0, 3))
    assert span.text == "日"


@pytest.mark.parametrize(
    ("span", "received"),
    [
        ("Moses", "occurs nowhere"),
        (" ", "received ' '"),
        ("", "received ''"),
        (3, "received 3"),
        ({"document": "x", "start": 0, "stop": 2}, "received {'document'"),
        (("x", 0.0, 2), "received ('x', 0.0, 2)"),
        (("x", 2, 3), "received ('x', 2, 3)"),
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


def test_all_near_copies_are_found_also_beside_exact_ones_and_several_in_a_document():
    exact, first, second = SENTENCE, SENTENCE.lower(), SENTENCE.replace("created", "hath created")
    documents = tokenize("ab", [f"{first} Amen. {exact} Selah: {second} So be it.", exact], vocabulary=300)
    spans = given_spans(documents, [exact])
    assert [place.document for place in spans[0].copies] == [0, 1]
    found = near_copies(documents, spans, 0.9)
    assert found["document"].tolist() == [0, 0]
    assert found["text"][0].startswith("in the beginning god created")
    assert "god hath created" in found["text"][1].lower()
    assert found["similarity"][0] == pytest.approx(1)
    (joined,) = join_near_copies(documents, spans, found)
    assert len(joined.copies) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=25), min_size=1))
def test_near_copies_are_as_alike_as_they_say_and_are_no_copies(rows):
    documents = documents_of([" ".join(row) for row in rows], "abcdefghijklmnopqrstuvwxyz ")
    spans = given_spans(documents, [documents.texts[0][: 1 + len(documents.texts[0]) // 2]])
    found = near_copies(documents, spans)
    off = {(p.document, token) for p in spans[0].copies for token in range(p.start, p.stop)}
    for row in found.itertuples():
        assert not off & {(row.document, token) for token in range(row.start, row.stop)}
        assert row.text == documents.text_of(row.document, row.start, row.stop)
        assert fuzz.ratio(spans[0].text, row.text) >= 78  # spaces at the ends may be left out
    joined = join_near_copies(documents, spans, found)
    Design(documents, joined)  # which refuses copies that overlap
    off |= {(r.document, token) for r in found.itertuples() for token in range(r.start, r.stop)}
    assert {(p.document, t) for s in joined for p in s.copies for t in range(p.start, p.stop)} == off


def test_what_is_left_of_a_near_copy_that_overlaps_another_span_is_off_too():
    documents = documents_of(["abcdefgh", "abcdeagh", "dea"])
    spans = (Span("abcdefgh", "given", (Place(0, 0, 8),)), Span("dea", "given", (Place(1, 3, 6), Place(2, 0, 3))))
    found = pd.DataFrame([(0, 1, 0, 8, "abcdeagh", 0.9)], columns=spans_module._COLUMNS)
    (joined,) = join_near_copies(documents, spans, found)
    assert joined.copies == (Place(0, 0, 8), Place(1, 0, 3), Place(1, 3, 6), Place(1, 6, 8), Place(2, 0, 3))
    assert joined.places == (Place(0, 0, 8), Place(1, 3, 6), Place(2, 0, 3))
    assert joined.kind == "joined"


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
