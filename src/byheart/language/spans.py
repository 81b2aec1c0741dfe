"""Spans: passages given by a user, passages that occur more than once, and near-copies of either.

A span is switched off in all its copies together: one copy that is missed gives most of it away. Repeats are found
exactly, token by token, by a suffix array over all documents; near-copies, which differ in case, punctuation or a few
words, are sought by the triples of words that they share and confirmed by edit distance.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from byheart.language.design import Place, Span
from byheart.language.documents import Documents
from byheart.language.extras import require

_WORD = re.compile(r"\w+")
_GRAM = 3  # words that a near-copy shares with the span, in a row
_COLUMNS = ["span", "document", "start", "stop", "text", "similarity"]


def given_spans(documents: Documents, spans: Sequence[Any]) -> tuple[Span, ...]:
    """Return the spans that a user names, with all their copies.

    Boundaries are moved outwards to those of tokens: the text that carries loss is the span's ``text``.

    Args:
        documents: Where they are.
        spans: Strings, which are sought in all documents, or (document's name, first character, last character,
            exclusive), whose text is sought in all documents too.

    Raises:
        ValueError: If one occurs nowhere, is empty, or names no document or no characters of one.
    """
    return tuple(_given(documents, span) for span in spans)


def spans_from_json(path: str | Path) -> list[Any]:
    """Read spans from a JSON list of strings, or of objects with "document", "start" and "stop" (characters).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such list.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"spans: received {path}, accepted: a JSON file")
    accepted = 'accepted: a JSON list of strings, or of {"document": "...", "start": 0, "stop": 9} in characters'
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"spans: received {path} ({error}), {accepted}") from None
    if not isinstance(given, list) or not given:
        raise ValueError(f"spans: received {path}, which is no list with a span, {accepted}")
    found: list[Any] = []
    for span in given:
        if isinstance(span, dict) and [type(span.get(name)) for name in ("document", "start", "stop")] == [
            str,
            int,
            int,
        ]:
            found.append((span["document"], span["start"], span["stop"]))
        elif isinstance(span, str):
            found.append(span)
        else:
            raise ValueError(f"spans: received {json.dumps(span):.80} in {path}, {accepted}")
    return found


def repeated_spans(documents: Documents, min_tokens: int = 8, min_copies: int = 2) -> tuple[Span, ...]:
    """Find the passages that occur more than once, token for token, with all their copies.

    Of passages that overlap, the one that covers most tokens in all its copies is taken first; what it leaves of the
    others counts if it is still long enough.

    Args:
        documents: Where to look, within documents and across them.
        min_tokens: Length from which a repeat is a span, at least 1.
        min_copies: Number of copies from which it is one, at least 2.

    Raises:
        ValueError: If a number is out of range.
        ModuleNotFoundError: If the package pydivsufsort is missing.
    """
    if min_tokens < 1 or min_copies < 2:
        raise ValueError(f"min_tokens, min_copies: received {min_tokens}, {min_copies}, accepted: at least 1 and 2")
    require("pydivsufsort")
    flat, free = documents.flat, np.ones(documents.n_tokens, dtype=bool)
    by_token = _by_token(flat)
    candidates = sorted(
        ((length, start) for length, start, n in _repeats(documents, min_tokens) if n >= min_copies),
        key=lambda repeat: repeat[0] * len(_copies(documents, by_token, flat[repeat[1] : repeat[1] + repeat[0]])),
        reverse=True,
    )
    spans = []
    for length, start in candidates:
        copies = _copies(documents, by_token, flat[start : start + length])
        left, right = _longest_run(np.all(free[copies[:, None] + np.arange(length)], axis=0))
        if right - left < min_tokens:
            continue
        sequence = flat[start + left : start + right]
        copies = _apart(_copies(documents, by_token, sequence), len(sequence))
        tokens = copies[:, None] + np.arange(len(sequence))
        if len(copies) < min_copies or not free[tokens].all():
            continue
        free[tokens] = False
        spans.append(_span(documents, copies, len(sequence), "repeat"))
    return tuple(spans)


def near_copies(documents: Documents, spans: Sequence[Span], threshold: float = 0.8) -> pd.DataFrame:
    """Find places where a near-copy of a span stands that is none of its copies.

    Args:
        documents: Where to look.
        spans: Spans of the documents.
        threshold: Similarity from which a passage is a near-copy, in (0, 1]: 1 less the edits (insertions and
            deletions) over the characters of both, in lower case without punctuation.

    Returns:
        A row a place: span (number), document, start, stop (tokens), text, similarity.

    Raises:
        ValueError: If ``threshold`` is out of range.
        ModuleNotFoundError: If the package rapidfuzz is missing.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: received {threshold}, accepted: 0 < threshold <= 1")
    require("rapidfuzz")
    from rapidfuzz import fuzz

    plain = [_plain(text) for text in documents.texts]
    index: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, (text, _) in enumerate(plain):
        for gram in _grams(text):
            index[gram].add(number)
    rows = []
    for number, span in enumerate(spans):
        sought = _plain(span.text)[0].strip()
        own = {(place.document, token) for place in span.copies for token in range(place.start, place.stop)}
        for document in sorted({d for gram in _grams(sought) for d in index[gram]}):
            text, where = plain[document]
            at = fuzz.partial_ratio_alignment(sought, text, score_cutoff=100 * threshold) if len(text) else None
            if at is None or at.dest_end - at.dest_start < threshold * len(sought):
                continue
            place = _snapped(documents, document, int(where[at.dest_start]), int(where[at.dest_end - 1]) + 1)
            if not any((document, token) in own for token in range(place.start, place.stop)):
                words = documents.text_of(document, place.start, place.stop)
                rows.append((number, document, place.start, place.stop, words, at.score / 100))
    return pd.DataFrame(rows, columns=_COLUMNS)


def join_near_copies(documents: Documents, spans: Sequence[Span], found: pd.DataFrame) -> tuple[Span, ...]:
    """Switch near-copies off with their span; spans that share a place become one.

    Args:
        documents: Where they are.
        spans: Spans of the documents.
        found: What ``near_copies`` found of them.

    Returns:
        The spans; those that gained a copy are of the kind "joined".
    """
    group = list(range(len(spans)))  # of each span
    owner = {
        (place.document, token): number
        for number, span in enumerate(spans)
        for place in span.copies
        for token in range(place.start, place.stop)
    }
    copies: dict[int, list[Place]] = {number: list(span.copies) for number, span in enumerate(spans)}
    changed = set()
    for number, document, start, stop in found[_COLUMNS[:4]].itertuples(index=False):
        into = group[number]
        met = {group[owner[document, token]] for token in range(start, stop) if (document, token) in owner}
        for other in met - {into}:
            copies[into] += copies.pop(other)
            group = [into if own == other else own for own in group]
        if not met:
            copies[into].append(Place(document, start, stop))
            owner |= dict.fromkeys(((document, token) for token in range(start, stop)), number)
        changed |= {into} if met != {into} else set()
    return tuple(
        dataclasses.replace(
            spans[number], copies=tuple(sorted(places)), kind="joined" if number in changed else spans[number].kind
        )
        for number, places in copies.items()
    )


def _given(documents: Documents, span: Any) -> Span:
    if isinstance(span, str):
        text = span
    else:
        name, start, stop = span
        if name not in documents.names:
            raise ValueError(f"spans: received document {name!r}, accepted: one such as {documents.names[0]!r}")
        whole = documents.texts[documents.names.index(name)]
        if not 0 <= start < stop <= len(whole):
            raise ValueError(f"spans: received characters {start} to {stop} of {name!r}, accepted: 0 to {len(whole)}")
        text = whole[start:stop]
    if not text.strip():
        raise ValueError(f"spans: received {text!r}, accepted: a text that is not empty")
    copies = [
        _snapped(documents, document, at.start(), at.end())
        for document, whole in enumerate(documents.texts)
        for at in re.finditer(re.escape(text), whole)
    ]
    if not copies:
        raise ValueError(f"spans: received {text!r:.80}, which occurs nowhere, accepted: passages of the documents")
    apart = [copies[0]]
    for place in copies[1:]:
        if place.document != apart[-1].document or place.start >= apart[-1].stop:
            apart.append(place)
    first = apart[0]
    return Span(documents.text_of(first.document, first.start, first.stop), "given", tuple(apart))


def _snapped(documents: Documents, document: int, start: int, stop: int) -> Place:
    """The tokens that hold these characters, all of them."""
    offsets = documents.offsets[document]
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    return Place(document, first, int(np.searchsorted(offsets[:, 0], stop, side="left")))


def _span(documents: Documents, copies: np.ndarray, length: int, kind: str) -> Span:
    at = documents.document_of[copies]
    starts = copies - documents.starts[at]
    places = tuple(Place(int(d), int(s), int(s) + length) for d, s in zip(at, starts, strict=True))
    return Span(documents.text_of(places[0].document, places[0].start, places[0].stop), kind, places)


def _repeats(documents: Documents, min_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Yield length, one start and the number of copies of every repeat that cannot be longer to its right.

    Neighbours in the suffix array share their beginnings; a stack holds the lengths that are shared up to here.
    """
    from pydivsufsort import divsufsort, kasai

    ends = np.arange(len(documents)) + documents.vocabulary  # a token of its own after every document
    text = np.concatenate([np.append(t, end) for t, end in zip(documents.tokens, ends, strict=True)]).astype(np.int64)
    suffixes = divsufsort(text)
    shared = kasai(text, suffixes)[: len(text) - 1]
    of_document = np.repeat(np.arange(len(documents)), np.diff(documents.starts) + 1)
    stack: list[tuple[int, int]] = []  # length, first suffix
    for i, length in enumerate([*shared.tolist(), 0]):
        first = i
        while stack and stack[-1][0] > length:
            longest, first = stack.pop()
            start = int(suffixes[first])
            yield longest, start - int(of_document[start]), i - first + 1
        if length >= min_tokens and (not stack or stack[-1][0] < length):
            stack.append((length, first))


def _by_token(flat: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(flat, kind="stable")
    values, starts = np.unique(flat[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def _copies(documents: Documents, by_token: dict[int, np.ndarray], sequence: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Where a sequence of tokens stands, within documents."""
    at = by_token[int(sequence[0])]
    at = at[at + len(sequence) <= documents.n_tokens]
    for place, token in enumerate(sequence):
        at = at[documents.flat[at + place] == token]
    inside: np.ndarray = at[documents.document_of[at] == documents.document_of[at + len(sequence) - 1]]
    return inside


def _apart(copies: np.ndarray, length: int) -> Int64[np.ndarray, " n"]:
    """Copies without those that overlap one before."""
    kept: list[int] = []
    for start in np.sort(copies).tolist():
        if not kept or start >= kept[-1] + length:
            kept.append(start)
    return np.array(kept, dtype=np.int64)


def _longest_run(free: np.ndarray) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(int)))
    if not len(edges):
        return 0, 0
    runs = edges.reshape(-1, 2)
    left, right = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    return int(left), int(right)


def _plain(text: str) -> tuple[str, np.ndarray]:
    """The words in lower case with one space between, and the character of the text that each of theirs is."""
    letters: list[str] = []
    where: list[int] = []
    for word in _WORD.finditer(text):
        for at in range(word.start(), word.end()):
            lower = text[at].lower()
            letters += lower
            where += [at] * len(lower)
        letters.append(" ")
        where.append(word.end() - 1)
    return "".join(letters), np.array(where, dtype=np.int64)


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    size = min(_GRAM, max(len(words), 1))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
