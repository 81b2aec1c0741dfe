"""Spans: passages given by a user, passages that occur more than once, and near-copies of either.

A span is switched off in all its copies together: one copy that is missed gives most of it away. Repeats are found
exactly, token by token, by a suffix array over all documents; near-copies, which differ in case, punctuation or a few
words, are sought around the triples of words that they share and confirmed by edit distance.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
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

    Boundaries are moved outwards to those of tokens: the text that carries loss is the span's ``text``. White space
    of any kind and length matches any other, since paragraphs are joined from lines; around a span it is ignored. Of
    copies that overlap, the first is measured, and the one that is named before all others; the rest of the others is
    switched off too.

    Args:
        documents: Where they are.
        spans: Strings, which are sought in all documents, or (document's name, first character, last character,
            exclusive), whose text is sought in all documents too.

    Raises:
        ValueError: If one occurs nowhere, is empty, or names no document, several, or no characters of one.
    """
    return tuple(_given(documents, span) for span in ([spans] if isinstance(spans, str) else spans))


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
    free, suffixes = np.ones(documents.n_tokens, dtype=bool), _Suffixes(documents)
    candidates = [repeat for repeat in suffixes.repeats(min_tokens) if repeat[1].stop - repeat[1].start >= min_copies]
    candidates.sort(key=lambda repeat: repeat[0] * (repeat[1].stop - repeat[1].start), reverse=True)
    room = _Room(documents.n_tokens, min_tokens)
    spans = []
    for length, where in candidates:
        if not room.within(int(suffixes.starts[where.start]), length):  # most: shown at once, on one copy
            continue
        copies = np.sort(suffixes.starts[where])
        if not all(room.within(start, length) for start in copies.tolist()):
            continue
        shared = np.ones(length, dtype=bool)  # tokens that are free in all copies
        for start in copies.tolist():
            shared &= free[start : start + length]
        left, right = max(_runs(shared), key=lambda run: run[1] - run[0], default=(0, 0))
        if right - left < min_tokens:
            continue
        length = right - left
        copies = _apart(suffixes.copies(int(copies[0]) + left, length), length)
        tokens = copies[:, None] + np.arange(length)
        if len(copies) < min_copies or not free[tokens].all():
            continue
        free[tokens] = False
        for start in copies.tolist():
            room.close(start, start + length)
        spans.append(_span(documents, copies, length, "repeat"))
    return tuple(spans)


def near_copies(documents: Documents, spans: Sequence[Span], threshold: float = 0.8) -> pd.DataFrame:
    """Find all places where a near-copy of a span stands that is none of its copies.

    Args:
        documents: Where to look.
        spans: Spans of the documents.
        threshold: Similarity from which a passage is a near-copy, in (0, 1]: 1 less the edits (insertions and
            deletions) over the characters of both, in lower case without punctuation. A near-copy is also at least this
            share as long as the span.

    Returns:
        A row a place: span (number), document, start, stop (tokens), text, similarity.

    Raises:
        ValueError: If ``threshold`` is out of range.
        ModuleNotFoundError: If the package rapidfuzz is missing.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: received {threshold}, accepted: 0 < threshold <= 1")
    require("rapidfuzz")
    plain = [_plain(text) for text in documents.texts]
    index: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for document, (text, _) in enumerate(plain):
        for gram, at in _grams(text):
            index[gram].append((document, at))
    rows = []
    for number, span in enumerate(spans):
        sought = _plain(span.text)[0].strip()
        offsets: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for gram, at in _grams(sought):
            offsets[gram].append(at)
        begins: dict[int, list[tuple[int, int]]] = defaultdict(list)  # the first and last that a copy may, in documents
        for gram, ats in offsets.items():
            for document, at in index.get(gram, ()):
                begins[document].append((at - ats[-1], at - ats[0]))
        own: dict[int, list[Place]] = defaultdict(list)
        for copy in span.copies:
            own[copy.document].append(copy)
        for document in sorted(begins):
            text, where = plain[document]
            pieces = _merged(begins[document], len(sought), round(2 * (1 - threshold) * len(sought)), len(text))
            if own[document]:
                free = np.zeros(len(text), dtype=bool)
                for left, right in pieces:
                    free[left:right] = True
                for copy in own[document]:
                    ends = documents.offsets[document][[copy.start, copy.stop - 1], [0, 1]]
                    free[slice(*np.searchsorted(where, ends))] = False
                pieces = _runs(free)
            for left, right, similarity in _alike(sought, text, pieces, threshold):
                place = snapped(documents, document, int(where[left]), int(where[right - 1]) + 1)
                words = documents.text_of(document, place.start, place.stop)
                rows.append((number, document, place.start, place.stop, words, similarity))
    return pd.DataFrame(rows, columns=_COLUMNS)


def join_near_copies(documents: Documents, spans: Sequence[Span], found: pd.DataFrame) -> tuple[Span, ...]:
    """Switch near-copies off with their span; spans that share a place become one.

    Of a near-copy that overlaps copies, what they leave of it is switched off too, but not measured.

    Args:
        documents: Where they are.
        spans: Spans of the documents.
        found: What ``near_copies`` found of them.

    Returns:
        The spans; those that gained a copy are of the kind "joined".
    """
    group = list(range(len(spans)))  # of each span
    owner = {at: number for number, span in enumerate(spans) for place in span.copies for at in _tokens(place)}
    copies = {number: set(span.copies) for number, span in enumerate(spans)}
    measured = {number: set(span.places) for number, span in enumerate(spans)}
    changed = set()
    for number, document, start, stop in found[_COLUMNS[:4]].itertuples(index=False):
        into, place = group[number], Place(document, start, stop)
        met = {group[owner[at]] for at in _tokens(place) if at in owner}
        for other in met - {into}:
            copies[into] |= copies.pop(other)
            measured[into] |= measured.pop(other)
            group = [into if own == other else own for own in group]
        rest = _rest(place, owner)
        copies[into].update(rest)
        measured[into].update(set(rest) & {place})
        owner |= {at: number for part in rest for at in _tokens(part)}
        changed |= {into} if rest or met != {into} else set()
    return tuple(
        dataclasses.replace(
            spans[number],
            copies=tuple(sorted(places)),
            measured=() if places == measured[number] else tuple(sorted(measured[number])),
            kind="joined" if number in changed else spans[number].kind,
        )
        for number, places in copies.items()
    )


def _given(documents: Documents, span: Any) -> Span:
    named: Place | None = None
    if isinstance(span, str):
        text = span.strip()
    elif not isinstance(span, tuple | list) or [type(part) for part in span] != [str, int, int]:
        raise ValueError(f"spans: received {span!r:.80}, accepted: strings, or (document, first, last character)")
    else:
        name, start, stop = span
        if (several := documents.names.count(name)) != 1:
            which = f"{name!r}, of which there are {several}" if several else repr(name)
            raise ValueError(f"spans: received document {which}, accepted: one such as {documents.names[0]!r}")
        document = documents.names.index(name)
        whole = documents.texts[document]
        if not 0 <= start < stop <= len(whole):
            raise ValueError(f"spans: received characters {start} to {stop} of {name!r}, accepted: 0 to {len(whole)}")
        text = whole[start:stop].strip()
        start += len(whole[start:stop]) - len(whole[start:stop].lstrip())
        named = snapped(documents, document, start, start + len(text)) if text else None
    if not text:
        raise ValueError(f"spans: received {span!r:.80}, accepted: a text that is not empty")
    pattern = pattern_of(text)
    places = [named] if named else []
    for document, whole in enumerate(documents.texts):
        at = pattern.search(whole)
        while at:
            places.append(snapped(documents, document, at.start(), at.end()))
            at = pattern.search(whole, at.start() + 1)  # copies may overlap
    if not places:
        raise ValueError(f"spans: received {text!r:.80}, which occurs nowhere, accepted: passages of the documents")
    taken: set[tuple[int, int]] = set()
    measured: list[Place] = []
    for place in places:
        if taken.isdisjoint(_tokens(place)):
            measured.append(place)
            taken |= _tokens(place)
    copies = list(measured)
    for place in places:
        copies += _rest(place, taken)
        taken |= _tokens(place)
    first = min(measured)
    return Span(
        documents.text_of(first.document, first.start, first.stop),
        "given",
        tuple(sorted(copies)),
        () if len(measured) == len(copies) else tuple(sorted(measured)),
    )


def pattern_of(text: str) -> re.Pattern[str]:
    """Return the pattern of a text whose white space may be of any kind and length."""
    return re.compile(r"\s+".join(map(re.escape, text.split())))


def snapped(documents: Documents, document: int, start: int, stop: int) -> Place:
    """Return the tokens that hold these characters, all of them; the space before, if a token begins with it."""
    offsets = documents.offsets[document]
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    first = int(np.searchsorted(offsets[:, 0], offsets[first, 0], side="left"))  # all tokens of its first character
    return Place(document, first, int(np.searchsorted(offsets[:, 0], stop, side="left")))


def _tokens(place: Place) -> set[tuple[int, int]]:
    return {(place.document, token) for token in range(place.start, place.stop)}


def _rest(place: Place, taken: Collection[tuple[int, int]]) -> list[Place]:
    """The stretches of a place whose tokens, each (document, token), are not taken."""
    free = np.array([(place.document, token) not in taken for token in range(place.start, place.stop)])
    return [Place(place.document, place.start + left, place.start + right) for left, right in _runs(free)]


def _span(documents: Documents, copies: np.ndarray, length: int, kind: str) -> Span:
    at = documents.document_of[copies]
    starts = copies - documents.starts[at]
    places = tuple(Place(int(d), int(s), int(s) + length) for d, s in zip(at, starts, strict=True))
    return Span(documents.text_of(places[0].document, places[0].start, places[0].stop), kind, places)


class _Suffixes:
    """The suffix array of documents: suffixes in the order of their tokens, and how many tokens neighbours share.

    Attributes:
        starts: Number of the first token of every suffix.
    """

    def __init__(self, documents: Documents) -> None:
        from pydivsufsort import divsufsort, kasai

        ends = np.arange(len(documents)) + documents.vocabulary  # a token of its own after every document
        text = np.concatenate([np.append(t, end) for t, end in zip(documents.tokens, ends, strict=True)])
        order = divsufsort(text.astype(np.int64))
        self._shared = [*kasai(text.astype(np.int64), order)[: len(text) - 1].tolist(), 0]
        self.starts = order - np.repeat(np.arange(len(documents)), np.diff(documents.starts) + 1)[order]
        inside = text[order] < documents.vocabulary
        self._rank = np.empty(documents.n_tokens, dtype=np.int64)
        self._rank[self.starts[inside]] = np.flatnonzero(inside)

    def repeats(self, min_tokens: int) -> Iterator[tuple[int, slice]]:
        """Yield length and suffixes, which are its copies, of every repeat that cannot be longer to its right.

        A stack holds the lengths that are shared up to here.
        """
        stack: list[tuple[int, int]] = []  # length, first suffix
        for i, length in enumerate(self._shared):
            first = i
            while stack and stack[-1][0] > length:
                longest, first = stack.pop()
                yield longest, slice(first, i + 1)
            if length >= min_tokens and (not stack or stack[-1][0] < length):
                stack.append((length, first))

    def copies(self, start: int, length: int) -> Int64[np.ndarray, " n"]:
        """Return where the tokens [start, start + length), which are of one document, stand in all documents."""
        first = last = int(self._rank[start])
        while first and self._shared[first - 1] >= length:
            first -= 1
        while self._shared[last] >= length:
            last += 1
        found: np.ndarray = self.starts[first : last + 1]
        return found


class _Room:
    """Where ``least`` free tokens in a row begin. It is asked for every repeat: closed stretches are jumped over."""

    def __init__(self, n_tokens: int, least: int) -> None:
        self._least = least
        self._next = list(range(n_tokens + 1))  # itself where open, else one that is no later than the next that is

    def within(self, start: int, length: int) -> bool:
        """Return whether so many tokens from here have room."""
        at = start
        while (after := self._next[at]) != at:
            self._next[at] = self._next[after]
            at = after
        return at + self._least <= start + length

    def close(self, start: int, stop: int) -> None:
        """Take these tokens."""
        first = max(start - self._least + 1, 0)
        self._next[first:stop] = [stop] * (stop - first)


def _apart(copies: np.ndarray, length: int) -> Int64[np.ndarray, " n"]:
    """Copies without those that overlap one before."""
    kept: list[int] = []
    for start in np.sort(copies).tolist():
        if not kept or start >= kept[-1] + length:
            kept.append(start)
    return np.array(kept, dtype=np.int64)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches [first, last) where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(left), int(right)) for left, right in edges.reshape(-1, 2)]


def _merged(begins: list[tuple[int, int]], size: int, slack: int, length: int) -> list[tuple[int, int]]:
    """The stretches of a text where something of this size is that begins in one of these ranges, or nearly."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(begins):
        left, right = max(first - slack, 0), min(last + size + slack, length)
        if found and left <= found[-1][1]:
            left, right = found[-1][0], max(right, found.pop()[1])
        found.append((left, right))
    return found


def _alike(sought: str, text: str, pieces: list[tuple[int, int]], threshold: float) -> list[tuple[int, int, float]]:
    """Find what is like a passage in pieces of a text: first and last character, and similarity. The best go first."""
    from rapidfuzz import fuzz

    least = threshold * len(sought)
    found = []
    while pieces:
        left, right = pieces.pop()
        at = None
        if right - left >= least:
            at = fuzz.partial_ratio_alignment(sought, text[left:right], score_cutoff=100 * threshold)
        if at is None:
            continue
        first, last = left + at.dest_start, left + at.dest_end
        pieces += [(left, first), (last, right)]
        passage = text[first:last]
        similarity = fuzz.ratio(sought, passage) / 100  # of all of the span, of which the alignment may leave out ends
        if last - first >= least and similarity >= threshold:
            found.append((last - len(passage.lstrip()), first + len(passage.rstrip()), similarity))
    return sorted(found)


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


def _grams(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield words in a row, and the character that they begin at."""
    words = [(word.group(), word.start()) for word in re.finditer(r"\S+", text)]
    size = min(_GRAM, max(len(words), 1))
    for i in range(len(words) - size + 1):
        yield tuple(word for word, _ in words[i : i + size]), words[i][1]
