"""Canaries: random words that are planted so many times, which nothing but themselves can predict.

They calibrate everything else: what a model says of a passage that it saw 1, 2, 4 ... 32 times, and of one that it
never saw. A canary is a row of words drawn evenly from the corpus's own; every copy is a document of its own, after
words of the corpus in random order, others each time, and every model trains on these documents: whether a canary is on
is up to its span alone. Some canaries are planted in near-copies only, each with other words replaced, and measured in
a document that no model trains on, as are probes, which are planted nowhere.

Source: Carlini et al. 2019, "The secret sharer" (canaries); Shilov, Meeus and de Montjoye 2024, arXiv 2405.15523
(near-copies).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from byheart.language.design import Place, Role, Span
from byheart.language.documents import Documents
from byheart.language.spans import snapped

COUNTS = (1, 2, 4, 8, 16, 32)
CHANGED = (0.1, 0.25, 0.5)
NEAR_COUNTS = (4, 8, 16)
_WORDS = 10  # of a canary
_WORDS_BEFORE = 6
_PROBES = 16
_FEWEST_WORDS = 50


@dataclass(frozen=True)
class Mark:
    """A canary: where it is planted, and where it is measured; each (document, first character, last, exclusive)."""

    text: str
    kind: str
    copies: tuple[tuple[int, int, int], ...]
    measured: tuple[tuple[int, int, int], ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """Texts with canaries.

    Attributes:
        names: The names of the texts, then of those that hold canaries.
        texts: The texts as they were, then those that hold canaries.
        roles: "random" for the former; "always" for what is planted, "never" for what is only measured.
        marks: The canaries.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    roles: tuple[Role, ...]
    marks: tuple[Mark, ...]


def planted(names: Sequence[str], texts: Sequence[str], *, seed: int = 0, n_per_count: int = 4) -> Planted:
    """Plant canaries among texts.

    Args:
        names: A name for every text.
        texts: The corpus, whose words are used.
        seed: Seed of the words.
        n_per_count: Canaries for each number of copies, at least 1; for each kind of near-copies half as many.

    Raises:
        ValueError: If ``n_per_count`` is out of range, or the texts have fewer than 50 different words, with spaces
            between.
    """
    if n_per_count < 1:
        raise ValueError(f"canaries: received {n_per_count}, accepted: an integer >= 1")
    words = sorted({word for text in texts for word in re.findall(r"[^\W\d_]{3,}", text.lower())})
    every = [word for text in texts for word in text.split()]
    if (n_words := min(len(words), len(set(every)))) < _FEWEST_WORDS:
        raise ValueError(
            f"canaries: received texts of {n_words} different words, accepted: at least {_FEWEST_WORDS} (--canaries"
            " 0 plants none)"
        )
    rng = np.random.default_rng([seed, 4])
    all_names, all_texts = list(names), list(texts)
    roles: list[Role] = ["random"] * len(texts)
    contexts: set[str] = set()

    def drawn() -> list[str]:
        return [words[i] for i in rng.choice(len(words), _WORDS, replace=False)]

    def place(canary: list[str], role: Role) -> tuple[int, int, int]:
        while (before := " ".join(every[i] for i in rng.choice(len(every), _WORDS_BEFORE))) in contexts:
            pass  # every copy has a context of its own
        contexts.add(before)
        text = f"{before} {' '.join(canary)}"
        all_names.append(f"planted {len(all_texts) - len(texts) + 1}")
        all_texts.append(text)
        roles.append(role)
        return len(all_texts) - 1, len(before) + 1, len(text)

    def near(canary: list[str], changed: float) -> list[str]:
        result = list(canary)
        n_changed = int(changed * _WORDS + rng.random())  # 2 or 3 for 2.5, whose mean is 2.5
        for i in rng.choice(_WORDS, n_changed, replace=False):
            while result[i] == canary[i]:
                result[i] = words[rng.integers(len(words))]
        return result

    marks = []
    for n_copies in COUNTS:
        for _ in range(n_per_count):
            canary = drawn()
            copies = tuple(place(canary, "always") for _ in range(n_copies))
            marks.append(Mark(" ".join(canary), "canary", copies, (), {"n_copies": n_copies}))
    for changed in CHANGED:
        for n_copies in NEAR_COUNTS:
            for _ in range(max(1, n_per_count // 2)):
                canary = drawn()
                copies = tuple(place(near(canary, changed), "always") for _ in range(n_copies))
                settings = {"n_copies": n_copies, "changed": changed}
                marks.append(Mark(" ".join(canary), "near-copies", copies, (place(canary, "never"),), settings))
    for _ in range(_PROBES):
        canary = drawn()
        marks.append(Mark(" ".join(canary), "probe", (), (place(canary, "never"),), {"n_copies": 0}))
    return Planted(tuple(all_names), tuple(all_texts), tuple(roles), tuple(marks))


def planted_spans(documents: Documents, plants: Planted) -> tuple[Span, ...]:
    """Return the spans of canaries, once the texts are tokens."""

    def places(characters: tuple[tuple[int, int, int], ...]) -> tuple[Place, ...]:
        return tuple(snapped(documents, *where) for where in characters)

    return tuple(
        Span(mark.text, mark.kind, places(mark.copies), places(mark.measured), mark.settings) for mark in plants.marks
    )
