from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from byheart.language.canaries import CHANGED, COUNTS, NEAR_COUNTS, planted, planted_spans
from byheart.language.design import Design
from byheart.language.tokens import tokenize

LETTERS = "bcdfghjklmnp"
TEXTS = [" ".join(f"{a}{b}o" for b in LETTERS) for a in LETTERS]
NAMES = [f"text {i}" for i in range(len(TEXTS))]
PLANTED = planted(NAMES, TEXTS, seed=3, n_per_count=2)


def test_every_canary_is_planted_as_often_as_it_says():
    assert PLANTED.texts[: len(TEXTS)] == tuple(TEXTS)
    assert set(PLANTED.roles[: len(TEXTS)]) == {"random"}
    canaries = [mark for mark in PLANTED.marks if mark.kind == "canary"]
    assert Counter(mark.settings["n_copies"] for mark in canaries) == dict.fromkeys(COUNTS, 2)
    for mark in canaries:
        assert len(mark.copies) == mark.settings["n_copies"]
        assert len({document for document, _, _ in mark.copies}) == len(mark.copies)
        for document, start, stop in mark.copies:
            assert PLANTED.texts[document][start:stop] == mark.text
            assert PLANTED.roles[document] == "always"
        assert sum(mark.text in text for text in PLANTED.texts) == len(mark.copies)


def test_near_copies_differ_in_so_many_words_and_the_original_is_only_measured():
    near = [mark for mark in PLANTED.marks if mark.kind == "near-copies"]
    assert len(near) == len(CHANGED) * len(NEAR_COUNTS)
    for mark in near:
        (where,) = mark.measured
        assert PLANTED.roles[where[0]] == "never"
        assert sum(mark.text in text for text in PLANTED.texts) == 1
        for document, start, stop in mark.copies:
            words, original = PLANTED.texts[document][start:stop].split(), mark.text.split()
            n_changed = sum(a != b for a, b in zip(words, original, strict=True))
            assert abs(n_changed - mark.settings["changed"] * len(original)) < 1
            assert PLANTED.roles[document] == "always"


def test_as_many_words_are_changed_as_it_says_on_average():
    found = {changed: [] for changed in CHANGED}
    plants = planted(NAMES, TEXTS, seed=1, n_per_count=40)
    for mark in plants.marks:
        if mark.kind == "near-copies":
            original = mark.text.split()
            for document, start, stop in mark.copies:
                words = plants.texts[document][start:stop].split()
                found[mark.settings["changed"]].append(sum(map(str.__ne__, words, original)) / len(original))
    for changed, shares in found.items():
        assert np.mean(shares) == pytest.approx(changed, abs=0.01)  # four standard errors of 560 copies are 0.0085
    assert set(found[0.25]) == {0.2, 0.3}
    assert set(found[0.1]) == {0.1}


def test_every_copy_has_a_context_of_its_own_even_among_words_that_are_nearly_all_the_same():
    texts = [*TEXTS, "the " * 5_000]
    plants = planted([*NAMES, "the"], texts)
    contexts = [plants.texts[d][:start] for mark in plants.marks for d, start, _ in (*mark.copies, *mark.measured)]
    assert len(set(contexts)) == len(contexts) == len(plants.texts) - len(texts)


def test_probes_are_planted_nowhere():
    for mark in PLANTED.marks:
        if mark.kind == "probe":
            assert not mark.copies
            assert PLANTED.roles[mark.measured[0][0]] == "never"


def test_a_design_takes_them_and_their_tokens_hold_all_of_their_words():
    documents = tokenize(PLANTED.names, PLANTED.texts, vocabulary=300)
    spans = planted_spans(documents, PLANTED)
    design = Design(documents, spans, roles=PLANTED.roles)
    for span, mark in zip(spans, PLANTED.marks, strict=True):
        assert span.settings == mark.settings
        for place, (document, start, stop) in zip(span.copies, mark.copies, strict=True):
            text = design.documents.text_of(document, place.start, place.stop)
            assert text.lstrip(" ") == PLANTED.texts[document][start:stop]


def test_the_same_seed_plants_the_same():
    assert planted(NAMES, TEXTS, seed=3, n_per_count=2) == PLANTED
    assert planted(NAMES, TEXTS, seed=4, n_per_count=2) != PLANTED


def test_too_few_words_or_canaries_are_refused():
    with pytest.raises(ValueError, match="received texts of 2 different words"):
        planted("a", ["one two"])
    with pytest.raises(ValueError, match="received texts of 12 different words"):
        planted(NAMES, [text.replace(" ", ",") for text in TEXTS])
    with pytest.raises(ValueError, match="received 0, accepted: an integer >= 1"):
        planted(NAMES, TEXTS, n_per_count=0)
