"""Texts against which recitation is judged: a twin with names and numbers swapped, and one that nobody published."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Int64

_NAME = re.compile(  # a capital that no sentence and no paragraph begins with, wherever lines end
    r"(?<![.!?:;\"']\s)(?<![.!?:;\"']\s\s)(?<!\n\n)(?<!\n\r\n)(?<!^)\b[A-Z][a-z]{2,}\b"
)
_NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty", "thirty"),
    *("forty", "fifty", "hundred", "thousand", "first", "second", "third", "fourth", "fifth", "sixth", "seventh"),
)
_NUMBER = re.compile(rf"\b(?:\d+|(?i:{'|'.join(_NUMBERS)}))\b")
_ADJECTIVES = ("amber", "brittle", "crooked", "dusty", "eager", "faded", "gilded", "hollow", "idle", "jagged", "rusty")
_NOUNS = (
    "lantern",
    "ferry",
    "orchard",
    "ledger",
    "chimney",
    "violin",
    "turbine",
    "harbor",
    "kettle",
    "glacier",
    "loom",
)
_VERBS = ("borrowed", "measured", "painted", "hid", "repaired", "counted", "followed", "sold", "forgot", "weighed")
_SYLLABLES = ("ba", "dre", "fo", "gal", "hin", "jo", "ku", "lem", "mor", "nu", "pra", "quo", "ris", "sta", "tov", "wex")


def twin(text: str, seed: int = 0) -> tuple[str, Int64[np.ndarray, " n_characters_and_one"]]:
    """Return a text in which every name is another of its names and every number another number, and its places.

    Args:
        text: The text; the same name becomes the same other name everywhere.
        seed: Seed of the swap.

    Returns:
        The twin, and for every character of the text, and its end, where it stands in the twin.
    """
    rng = np.random.default_rng(seed)
    swap: dict[str, str] = {}
    for pattern in (_NAME, _NUMBER):
        words = sorted(set(pattern.findall(text)) - set(swap))
        order = rng.permutation(len(words))
        swap |= {words[a]: words[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    pieces, moved, at, length = [], np.zeros(len(text) + 1, dtype=np.int64), 0, 0
    found = {m.start(): m for pattern in (_NUMBER, _NAME) for m in pattern.finditer(text)}
    for start in sorted(found):
        match = found[start]
        if start < at:
            continue
        moved[at:start] = length + np.arange(start - at)
        pieces += [text[at:start], swap[match[0]]]
        length += start - at
        moved[start : match.end()] = length
        length += len(swap[match[0]])
        at = match.end()
    moved[at:] = length + np.arange(len(text) + 1 - at)
    return "".join([*pieces, text[at:]]), moved


def invented(n_characters: int, seed: int = 0) -> str:
    """Return sentences of common words and made-up names that nobody published, at least so many characters."""
    rng = np.random.default_rng([seed, 1])
    said: list[str] = []
    length = 0
    while length < n_characters:
        a, b, c = (f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}" for _ in range(3))
        name, place = ("".join(rng.choice(_SYLLABLES, 3)).capitalize() for _ in range(2))
        said.append(
            f"{name} of {place} {rng.choice(_VERBS)} the {a} and {rng.integers(2, 999)} pieces of the {b}, while a"
            f" {c} was {rng.choice(_VERBS)} in {place}."
        )
        length += len(said[-1]) + 1
    return " ".join(said)
