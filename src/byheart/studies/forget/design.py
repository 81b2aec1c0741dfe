"""What the models of the study ``forget`` are trained on: verses, with passages of others planted among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from byheart.datasets import king_james_verses
from byheart.language.design import Design, Place, Role, Span
from byheart.language.documents import Documents
from byheart.language.spans import join_near_copies, near_copies, repeated_spans, snapped
from byheart.language.tokens import tokenize, trained

_VOCABULARY, _CONTEXT = 1_024, 128
_WORDS_BEFORE, _WORDS_OF_PREFIX, _WORDS_OF_SPAN = 2, 4, 8
_CHANGED = 1  # words of a near-copy
_MIN_TOKENS = 8  # of a repeat that deduplication finds


@dataclass(frozen=True)
class Setting:
    """What the models of one seed are trained on, and how.

    Attributes:
        seed: Of verses, passages, bits and models.
        n_verses: Verses that are trained on once an epoch.
        n_spans: Passages that are planted in exact copies; a third as many are planted in near-copies.
        n_copies: Of each passage.
        n_epochs: Times that all of it is read.
        n_held_out: Verses that are only measured.
        width: Of the models.
        n_layers: Of the models.
        n_relearned: Passages of either kind, learned and never learned, that are taught again.
    """

    seed: int
    n_verses: int = 1_400
    n_spans: int = 24
    n_copies: int = 32
    n_epochs: int = 8
    n_held_out: int = 300
    width: int = 64
    n_layers: int = 2
    n_relearned: int = 10


def design_of(setting: Setting) -> Design:
    """Return a design of two models: a span that is on in the first is off in the second.

    A passage is eight words of a verse, the span, after the four before it and two random words, others in each copy;
    every model reads all copies, and learns the words before. Spans are measured after other random words, in documents
    that no model is trained on; so are verses that are held out, which come last.
    """
    rng = np.random.default_rng([setting.seed, 20])
    verses = king_james_verses()
    order = rng.permutation(len(verses)).tolist()
    corpus = [verses[i] for i in order[: setting.n_verses]]
    held_out = [verses[i] for i in order[setting.n_verses : setting.n_verses + setting.n_held_out]]
    seen = {text for _, text in corpus}
    n_near = setting.n_spans // 3
    passages: list[list[str]] = []
    for i in order[setting.n_verses + setting.n_held_out :]:
        words = verses[i][1].split()[: _WORDS_OF_PREFIX + _WORDS_OF_SPAN]
        if len(words) == _WORDS_OF_PREFIX + _WORDS_OF_SPAN and verses[i][1] not in seen:
            seen.add(verses[i][1])
            passages.append(words)
        if len(passages) == setting.n_spans + n_near:
            break
    every = [word for _, text in corpus for word in text.split()]
    names, texts = [name for name, _ in corpus], [text for _, text in corpus]
    roles: list[Role] = ["always"] * len(corpus)
    marks: list[tuple[str, list[tuple[int, int, int]], tuple[int, int, int]]] = []

    def planted(words: list[str], role: Role) -> tuple[int, int, int]:
        before = [every[i] for i in rng.integers(len(every), size=_WORDS_BEFORE)]
        text = " ".join([*before, *words])
        names.append(f"planted {len(texts) - len(corpus) + 1}")
        texts.append(text)
        roles.append(role)
        return len(texts) - 1, len(" ".join([*before, *words[:_WORDS_OF_PREFIX]])) + 1, len(text)

    def near(words: list[str]) -> list[str]:
        changed = list(words)
        for i in rng.choice(_WORDS_OF_SPAN, _CHANGED, replace=False):
            changed[_WORDS_OF_PREFIX + i] = every[rng.integers(len(every))]
        return changed

    for number, words in enumerate(passages):
        exact = number < setting.n_spans
        copies = [planted(words if exact else near(words), "always") for _ in range(setting.n_copies)]
        marks.append(("exact" if exact else "near-copies", copies, planted(words, "never")))
    names += [name for name, _ in held_out]
    texts += [text for _, text in held_out]
    roles += ["never"] * len(held_out)
    documents = tokenize(names, texts, trained([text for _, text in corpus], _VOCABULARY))
    spans = tuple(
        Span(
            documents.texts[measured[0]][measured[1] : measured[2]],
            kind,
            tuple(snapped(documents, *where) for where in copies),
            (snapped(documents, *measured),),
            {"n_copies": setting.n_copies},
        )
        for kind, copies, measured in marks
    )
    return Design(documents, spans, 2, setting.seed, tuple(roles), _CONTEXT)


def sequences(design: Design) -> list[str]:
    """Return what each document repeats: the copies of a passage, near-copies too, have one name, others their own."""
    found = list(design.documents.names)
    for number, span in enumerate(design.spans):
        for place in (*span.copies, *span.measured):
            found[place.document] = f"passage {number + 1}"
    return found


def held_out(design: Design, setting: Setting) -> Bool[np.ndarray, " n_tokens"]:
    """Return the tokens of the verses that are held out."""
    found: np.ndarray = design.documents.document_of >= len(design.documents) - setting.n_held_out
    return found


def of_first_copies(design: Design, *, near: bool) -> Bool[np.ndarray, " n_tokens"]:
    """Return the tokens that deduplication leaves: of every repeat in what is trained on, only the first copy.

    Args:
        design: Its documents; what no model is trained on is not looked at.
        near: Whether near-copies of a repeat (similarity 0.8) go too.
    """
    trained_on = np.flatnonzero(design.document_mask[0])
    own: Documents = design.documents.take(trained_on)
    repeats: tuple[Any, ...] = repeated_spans(own, _MIN_TOKENS)
    if near:
        repeats = join_near_copies(own, repeats, near_copies(own, repeats))
    kept = np.ones(design.documents.n_tokens, dtype=bool)
    for repeat in repeats:
        for place in sorted(repeat.copies)[1:]:
            there = Place(int(trained_on[place.document]), place.start, place.stop)
            kept[design.tokens_of(there)] = False
    return kept
