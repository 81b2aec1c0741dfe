from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
from language.texts_by_hand import design_with_spans, documents_of, random_documents

from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.scores import SCORES
from byheart.language.scores_of_texts import ngram_surprisal, repeated, unigram_surprisal

TEXT_SCORES = {name: score.of for name, score in SCORES.items() if score.needs == "texts"}


def slow_ngram_surprisal(documents: Documents, order: int) -> list[float]:
    """Count the n-grams of all other documents, one document after the other."""
    found = []
    for own in range(len(documents)):
        counts = Counter()
        for other, tokens in enumerate(documents.tokens):
            padded = ["beginning", *tokens.tolist()]
            for at in range(1, len(padded) if other != own else 0):
                for n in range(order):
                    counts[tuple(padded[max(at - n, 0) : at]), padded[at], n] += 1
        total, losses = ["beginning", *documents.tokens[own].tolist()], []
        for at in range(1, len(total)):
            p = 1 / documents.vocabulary
            for n in range(order):
                history = tuple(total[max(at - n, 0) : at])
                going_on = [count for (h, _, m), count in counts.items() if h == history and m == n]
                if going_on:
                    p = (counts[history, total[at], n] + len(going_on) * p) / (sum(going_on) + len(going_on))
            losses.append(-np.log(p))
        found.append(np.mean(losses))
    return found


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngrams_against_counting_them(order):
    documents = random_documents(6, seed=order)
    assert ngram_surprisal(Design(documents), order) == pytest.approx(slow_ngram_surprisal(documents, order))


def test_ngrams_by_hand():
    found = ngram_surprisal(Design(documents_of(["ab", "aa"], "ab")), order=2)
    # "ab" by "aa": a is (2 + 1/2) / (2 + 1) of the tokens and (1 + 5/6) / 2 of beginnings; b is 1/6, then 1/12 after a.
    first = -(np.log((1 + 5 / 6) / 2) + np.log((1 / 6) / 2)) / 2
    # "aa" by "ab": a is (1 + 2/2) / (2 + 2), at the beginning (1 + 1/2) / 2, then (1/2) / 2 after a.
    second = -(np.log((1 + 1 / 2) / 2) + np.log((1 / 2) / 2)) / 2
    assert found.tolist() == pytest.approx([first, second])


def test_a_copy_elsewhere_explains_a_document():
    texts = ["abcdefgh", "hagbfced", "cbahgfed"]
    alone = ngram_surprisal(Design(documents_of(texts)))
    copied = ngram_surprisal(Design(documents_of([*texts, texts[0]])))
    assert copied[0] < alone[0] / 2
    assert copied[1] > 0.8 * alone[1]


@pytest.mark.parametrize("score", [unigram_surprisal, ngram_surprisal])
def test_what_the_others_say_does_not_depend_on_a_documents_own_counts(score):
    """Twice the same text is as surprising by unigrams; n-grams of one's own tell nothing of what comes again."""
    others = ["abca", "bcab", "cabb"]
    once, twice = (score(Design(documents_of([*others, own], "abcd")))[-1] for own in ("d", "dd"))
    if score is unigram_surprisal:
        assert twice == pytest.approx(once)
    # The others have no history "d", so that the second d falls back to its unigram, which no beginning makes rarer.
    unseen = (score(Design(documents_of([*others, "d" * n], "abcd")))[-1] * n for n in (2, 3, 4))
    two, three, four = unseen
    assert four - three == pytest.approx(three - two)


@pytest.mark.parametrize("name", TEXT_SCORES)
def test_scores_of_texts_follow_the_order_of_the_documents_and_not_who_is_in(name):
    documents = random_documents(15, seed=3)
    order = np.random.default_rng(0).permutation(15)
    found = TEXT_SCORES[name](Design(documents, seed=0))
    assert TEXT_SCORES[name](Design(documents.take(order), n_models=4, seed=7)) == pytest.approx(found[order])


def test_shares_in_spans_and_compressed_bytes_by_hand():
    design = design_with_spans()
    sizes = np.diff(design.documents.starts)
    assert repeated(design).tolist() == pytest.approx([0, *(2 / sizes[1:])])
    text = design.documents.texts[0].encode()
    assert TEXT_SCORES["zlib_ratio"](design)[0] == len(zlib.compress(text)) / len(text)
