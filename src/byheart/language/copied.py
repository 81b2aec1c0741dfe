"""Copied output: which spans of generated text stand in training files, how long, how often, and against what chance.

The files are one string of bytes with a suffix array; at every character of the output, the longest string that begins
there and stands in the files is found by bisection. White space of any kind and length matches any other, since lines
are wrapped anew, and so do characters that Unicode holds for the same, such as é in one code point or two (NFC).
Offsets are characters (Unicode code points) of the texts as they were read.

Source: Manber and Myers 1993 (suffix arrays); Chang and Lawler 1994 (matching statistics).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int32, Int64, UInt8

from byheart.language.extras import require
from byheart.language.texts import Texts

_END = 255  # ends a text; no byte of UTF-8


@dataclass(frozen=True)
class Copied:
    """What of an output is copied.

    Attributes:
        copies: A row a span of the output that cannot be extended and is long enough, in the order of the output; they
            may overlap. start, stop: characters of the output; n_characters: white space counted as one; n_places: how
            often it stands in the files; chance: (1 + passages of held-out text with a copy as long) / (1 + passages),
            NaN where the passages are shorter than the copy; text.
        places: A row a place of a copy: copy (row of ``copies``), name (of the text), start, stop (its characters).
        share: Of the output's characters that are inside copies, in [0, 1], white space counted as one.
        chance_shares: The same, of every passage of held-out text.
        chance_longest: Longest match of every such passage, in characters.
        passage_characters: Length of every such passage: that of the output, or of as much held-out text as there is.
        min_characters: Length from which a match is a copy.
        notes: What was assumed, in sentences.
        longest: Longest match of the output, in characters, also where it is too short for a copy.
    """

    copies: pd.DataFrame
    places: pd.DataFrame
    share: float
    chance_shares: tuple[float, ...]
    chance_longest: tuple[int, ...]
    passage_characters: int
    min_characters: int
    notes: tuple[str, ...]
    longest: int

    def headline(self) -> str:
        """Say in a sentence how much is copied, beside chance."""
        beside = f"{len(self.copies)}, the longest of" if len(self.copies) else "none; longest match"
        said = (
            f"{self.share:.1%} of the output stands in copies of {self.min_characters} characters or more"
            f" ({beside} {self.longest})"
        )
        if self.passage_characters < self.min_characters:
            return f"{said}; the files, or the held-out text, are too short to tell chance."
        shares = self.chance_shares
        return (
            f"{said}; of {len(shares)} held-out passages of {self.passage_characters} characters, {np.mean(shares):.1%}"
            f" ({min(shares):.1%} to {max(shares):.1%}; longest match {max(self.chance_longest)})."
        )


def copied(
    output: str,
    texts: Texts,
    *,
    held_out: Texts | None = None,
    min_characters: int = 50,
    n_passages: int = 20,
    max_places: int = 100,
    seed: int = 0,
) -> Copied:
    """Find the spans of an output that stand in texts.

    Args:
        output: Generated text.
        texts: What the model was trained on.
        held_out: Like the texts, but not trained on: passages of it, as long as the output, tell the chance level.
            Default passages of ``texts``, sought outside themselves.
        min_characters: Length from which a match is a copy, at least 1; white space counts as one character.
        n_passages: Number of held-out passages, drawn at random, at least 1.
        max_places: Places listed of a copy, at most; all are counted.
        seed: Seed of the draw.

    Raises:
        ValueError: If the output is blank or shorter than a copy, a number is out of range, or the texts are none.
        ModuleNotFoundError: If the package pydivsufsort is missing.
    """
    for name, given in (("texts", texts), ("held_out", held_out)):
        if not isinstance(given, Texts) and not (name == "held_out" and given is None):
            raise ValueError(f"{name}: received {type(given).__name__}, accepted: Texts, such as read_texts returns")
    if seed < 0:
        raise ValueError(f"seed: received {seed}, accepted: an integer >= 0")
    numbers = {"min_characters": min_characters, "n_passages": n_passages, "max_places": max_places}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: received {number}, accepted: an integer >= 1")
    if not isinstance(output, str) or not output.strip():
        what = "a blank text" if isinstance(output, str) else type(output).__name__
        raise ValueError(f"output: received {what}, accepted: a text with words")
    if (n_characters := len(unicodedata.normalize("NFC", " ".join(output.split())))) < min_characters:
        raise ValueError(
            f"output: received {n_characters} characters, accepted: at least min_characters, {min_characters}, from"
            " which on something is a copy"
        )
    require("pydivsufsort")
    files, own = _Packed([*texts.texts]), _Packed([output])
    index = _Index(files)
    matches = index.matches(own)
    shares, longest, passage, notes = _chance(index, own, held_out, min_characters, n_passages, seed)
    copies, places = [], []
    for first, stop in zip(*_maximal(matches, own, min_characters), strict=True):
        where = index.places(own.bytes[own.offsets[first] : own.offsets[stop]])
        size = int(stop - first)
        chance = (1 + sum(one >= size for one in longest)) / (1 + len(longest)) if size <= passage else np.nan
        start, end = own.original(first, stop)[1:]
        copies.append((start, end, size, len(where), chance, output[start:end]))
        for at in where[:max_places].tolist():
            number, *span = files.original(
                *np.searchsorted(files.offsets, [at, at + own.offsets[stop] - own.offsets[first]])
            )
            places.append((len(copies) - 1, texts.names[number], *span))
    return Copied(
        pd.DataFrame(copies, columns=["start", "stop", "n_characters", "n_places", "chance", "text"]),
        pd.DataFrame(places, columns=["copy", "name", "start", "stop"]),
        _share(matches, own, min_characters),
        shares,
        longest,
        passage,
        min_characters,
        (
            *texts.notes,
            "White space of any kind and length matches any other, and texts are compared in Unicode's form NFC.",
            *notes,
        ),
        _longest(matches, own),
    )


class _Packed:
    """Texts as bytes, in NFC and runs of white space as one space, and where their characters stood."""

    def __init__(self, texts: Sequence[str]) -> None:
        starts: list[Any] = []
        widths: list[Any] = []
        codes: list[Any] = []
        self.starts = [0]
        for written in texts:
            text, began, width = _composed(written)
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            known, which = np.unique(points, return_inverse=True)
            blank = np.array([chr(point).isspace() for point in known.tolist()], dtype=bool)[which]
            keep = np.flatnonzero(~blank | np.r_[True, ~blank[:-1]])
            starts += [began[keep], [len(written)]]
            widths += [width[keep], [1]]
            codes += [np.where(blank, 32, points)[keep], [0]]
            self.starts.append(self.starts[-1] + len(keep) + 1)
        self._began, self._width = np.concatenate(starts), np.concatenate(widths)
        points = np.concatenate(codes).astype("<u4")
        joined = points.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")
        n_bytes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        self.offsets = np.concatenate([[0], np.cumsum(n_bytes)])
        self.blank = points == 32
        self.bytes: UInt8[np.ndarray, " n_bytes"] = np.frombuffer(joined, dtype=np.uint8).copy()
        self.bytes[self.offsets[np.array(self.starts[1:]) - 1]] = _END

    def original(self, first: int, stop: int) -> tuple[int, int, int]:
        """Number of the text that holds characters first to stop, and where they begin and end there."""
        number = int(np.searchsorted(self.starts, first, side="right")) - 1
        return number, int(self._began[first]), int(self._began[stop - 1] + self._width[stop - 1])


def _composed(text: str) -> tuple[str, Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
    """A text in NFC, and for each of its characters where it began in the text as it was, and how many it was there.

    Where composing changes the order of marks, all of a letter and its marks count as where each of them stood.
    """
    if unicodedata.is_normalized("NFC", text):
        return text, np.arange(len(text)), np.ones(len(text), dtype=np.int32)
    letters = set(text)
    marks = "".join(re.escape(c) for c in letters if unicodedata.combining(c) or c in _seconds())
    alone = "".join(re.escape(c) for c in letters if not unicodedata.is_normalized("NFC", c))
    ways = [f"[^{marks}]?[{marks}]+"] * bool(marks) + [f"[{alone}]"] * bool(alone)
    pieces: list[str] = []
    places: list[int] = []  # in the new text, and how many characters of the old one each moves on by
    steps: list[int] = []
    several: list[tuple[int, int, int]] = []  # of pieces that stay more than one: place, begin and width
    at = n = 0
    for match in re.finditer("|".join(ways), text, re.DOTALL):
        first, stop, piece = match.start(), match.end(), match[0]
        new = unicodedata.normalize("NFC", piece)
        if new == piece:
            continue
        pieces += [text[at:first], new]
        n += first - at
        places += range(n, n + len(new))
        steps += [stop - first, *[0] * (len(new) - 1)]
        if len(new) > 1:
            several += [(n + place, first + begin, width) for place, begin, width in _within(piece, new)]
        n += len(new)
        at = stop
    pieces.append(text[at:])
    widths = np.ones(n + len(text) - at, dtype=np.int32)
    widths[places] = steps
    began = np.cumsum(widths, dtype=np.int64) - widths
    for place, begin, width in several:
        began[place], widths[place] = begin, width
    return "".join(pieces), began, widths


def _within(piece: str, new: str) -> list[tuple[int, int, int]]:
    """Each character of a letter and marks that were composed, with its begin and width in what they were before."""
    parts, of_new = ([unicodedata.normalize("NFD", c) for c in own] for own in (piece, new))
    if "".join(parts) != "".join(of_new):
        return [(place, 0, len(piece)) for place in range(len(new))]
    owners = [number for number, part in enumerate(parts) for _ in part]
    found, at = [], 0
    for place, part in enumerate(of_new):
        begin, last = owners[at], owners[at + len(part) - 1]
        found.append((place, begin, last + 1 - begin))
        at += len(part)
    return found


@functools.cache
def _seconds() -> frozenset[str]:
    """Characters that join the one before in NFC, though some of them are no marks."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # vowels and ends of Hangul
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


class _Index:
    """A suffix array of texts."""

    def __init__(self, packed: _Packed) -> None:
        from pydivsufsort import divsufsort

        self.packed = packed
        self.array = divsufsort(packed.bytes)

    def matches(
        self, other: _Packed, first: int = 0, stop: int | None = None, outside: tuple[int, int] = (0, 0)
    ) -> Int64[np.ndarray, " n"]:
        """Return, for characters first to stop of a text, which character is the first after its longest match."""
        stop = len(other.offsets) - 2 if stop is None else stop  # without the end
        from byheart.language.matches import longest_matches  # numba is slow to import

        lengths = longest_matches(self.packed.bytes, self.array, other.bytes, other.offsets[first : stop + 1], *outside)
        ends = np.searchsorted(other.offsets, other.offsets[first:stop] + lengths, side="right") - 1
        found: Int64[np.ndarray, " n"] = np.minimum(ends, stop)
        return found

    def places(self, pattern: np.ndarray) -> Int64[np.ndarray, " n"]:
        """Return where a string stands, in bytes."""
        from pydivsufsort import sa_search

        count, first = sa_search(self.packed.bytes, self.array, pattern)
        return np.sort(self.array[first : first + count]).astype(np.int64)


def _trimmed(ends: np.ndarray, packed: _Packed, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the matches from every character begin and end, without white space around them."""
    starts = np.arange(first, first + len(ends))
    ends = np.where((ends > starts) & packed.blank[ends - 1], ends - 1, ends)
    return starts, np.where(packed.blank[starts], starts, ends)


def _maximal(ends: np.ndarray, packed: _Packed, least: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Matches that are long enough and lie within no other."""
    starts, ends = _trimmed(ends, packed, first)
    long = ends - starts >= least
    starts, ends = starts[long], ends[long]
    new = ends > np.maximum.accumulate(np.r_[-1, ends])[:-1]
    return starts[new], ends[new]


def _longest(ends: np.ndarray, packed: _Packed, first: int = 0) -> int:
    starts, trimmed = _trimmed(ends, packed, first)
    return int((trimmed - starts).max(initial=0))


def _share(ends: np.ndarray, packed: _Packed, least: int, first: int = 0) -> float:
    steps = np.zeros(len(ends) + 1)
    for start, stop in zip(*_maximal(ends, packed, least, first), strict=True):
        steps[start - first] += 1
        steps[stop - first] -= 1
    return float((np.cumsum(steps)[:-1] > 0).mean())


def _chance(
    index: _Index, own: _Packed, held_out: Texts | None, least: int, n_passages: int, seed: int
) -> tuple[tuple[float, ...], tuple[int, ...], int, list[str]]:
    """Share and longest match of passages as long as the output, their length, and what is to be said of them."""
    source = index.packed if held_out is None else _Packed([*held_out.texts])
    n_all = len(source.offsets) - 1
    size = min(len(own.offsets) - 2, n_all // 2 if held_out is None else n_all)
    notes = []
    if held_out is None:
        notes.append(
            "Chance is how much of passages of the files stands elsewhere in the same files, which files that hold"
            " things twice raise: give text that was held out of training to know better."
        )
    if size < len(own.offsets) - 2:
        notes.append(
            f"Held-out passages have {size} characters, fewer than the output: of longer copies they tell no chance."
        )
    shares, longest = [], []
    for first in np.random.default_rng(seed).integers(0, n_all - size + 1, n_passages).tolist():
        stop = first + size
        outside = (int(source.offsets[first]), int(source.offsets[stop])) if held_out is None else (0, 0)
        ends = index.matches(source, first, stop, outside)
        shares.append(_share(ends, source, least, first))
        longest.append(_longest(ends, source, first))
    return tuple(shares), tuple(longest), size, notes
