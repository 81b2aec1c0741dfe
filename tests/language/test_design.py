from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from language.texts_by_hand import design_with_spans, documents_of, random_documents

from byheart import records
from byheart.language.design import Design, Place, Span


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 5))
def test_bits_are_complementary_and_balanced(n_documents, n_pairs, seed):
    design = Design(random_documents(n_documents), (), 2 * n_pairs, seed)
    mask = design.document_mask
    assert (mask[::2] == ~mask[1::2]).all()
    assert (abs(mask.sum(axis=1) - n_documents / 2) <= 0.5).all()


def test_a_design_of_more_models_begins_with_the_same_bits():
    few, many = design_with_spans(4), design_with_spans(16)
    assert np.array_equal(few.document_mask, many.document_mask[:4])
    assert np.array_equal(few.span_mask, many.span_mask[:4])


def test_all_models_read_about_as_many_tokens():
    documents = random_documents(100, longest=40)
    design = Design(documents, (), 16)
    shares = design.document_mask @ np.diff(documents.starts) / documents.n_tokens
    at_random = np.diff(documents.starts).std() / np.diff(documents.starts).mean() / np.sqrt(100) / 2
    assert abs(shares - 1 / 2).max() < at_random / 5


def test_every_two_documents_are_in_together_in_about_half_of_the_models():
    documents = documents_of([*["abc"] * 10, *["abcdefgh" * 3] * 10])  # copies, whose lengths are the same, too
    mask = Design(documents, (), 800, 3).document_mask
    together = (mask[:, :, None] == mask[:, None, :]).mean(axis=0)[~np.eye(20, dtype=bool)]
    assert abs(together - 9 / 19).max() < 4 * 0.5 / np.sqrt(400)


def test_some_pairs_of_a_design_are_models_of_it():
    design = design_with_spans(16)
    part = design.of_pairs([6, 1])
    assert np.array_equal(part.document_mask, design.document_mask[[12, 13, 2, 3]])
    assert np.array_equal(part.span_mask, design.span_mask[[12, 13, 2, 3]])
    assert np.array_equal(part.of_pairs([1]).document_mask, design.document_mask[[2, 3]])
    for pairs in ([], [8], [-1], [2, 2]):
        with pytest.raises(ValueError, match="pairs: received .* accepted: "):
            design.of_pairs(pairs)


def test_bits_of_documents_and_spans_are_independent():
    documents = random_documents(200, shortest=5)
    spans = tuple(Span("x", "given", (Place(d, 1, 3),)) for d in range(200))
    design = Design(documents, spans, 64)
    together = (design.document_mask == design.span_mask).mean()
    assert abs(together - 0.5) < 5 * 0.5 / np.sqrt(64 * 200 / 2)


def test_a_span_that_is_off_carries_no_loss_in_any_copy_and_all_other_tokens_of_documents_that_are_in_do():
    design = design_with_spans()
    for model in range(design.n_models):
        expected = np.repeat(design.document_mask[model], [len(tokens) for tokens in design.documents.tokens])
        for number, span in enumerate(design.spans):
            for place in span.copies:
                if not design.span_mask[model, number]:
                    expected[design.tokens_of(place)] = False
        assert np.array_equal(design.carries_loss(model), expected)


def test_documents_that_are_always_or_never_in():
    documents = random_documents(6)
    design = Design(documents, roles=("always", "never", *["random"] * 4))
    assert design.document_mask[:, 0].all()
    assert not design.document_mask[:, 1].any()


@given(st.integers(2, 30))
def test_rows_cover_every_token_once(context):
    design = Design(random_documents(5), context=context)
    tokens = np.concatenate([np.arange(design.documents.n_tokens)[design.tokens_of(row)] for row in design.rows])
    assert np.array_equal(tokens, np.arange(design.documents.n_tokens))
    assert max(row.stop - row.start for row in design.rows) <= context


def test_what_is_loaded_is_what_was_saved(tmp_path):
    design = design_with_spans()
    loaded = Design.load(design.save(tmp_path / "design.safetensors"))
    assert loaded.spans == design.spans
    assert loaded.documents.texts == design.documents.texts
    assert loaded.identity == design.identity
    assert np.array_equal(loaded.carries_loss(1), design.carries_loss(1))
    part = Design.load(design.of_pairs([1]).save(tmp_path / "part.safetensors"))
    assert np.array_equal(part.document_mask, design.document_mask[2:4])
    path = tmp_path / "other.safetensors"
    records.write(path, records.Record({"a": np.zeros(1)}, {}))
    with pytest.raises(ValueError, match="accepted: a whole design"):
        Design.load(path)


def test_other_documents_spans_seeds_and_contexts_have_another_identity():
    designs = [
        design_with_spans(),
        design_with_spans(seed=1),
        design_with_spans(context=9),
        dataclasses.replace(design_with_spans(), spans=design_with_spans().spans[1:]),
    ]
    assert len({str(design.identity) for design in designs}) == len(designs)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"n_models": 3}, "received 3"),
        ({"n_models": 0}, "received 0"),
        ({"context": 1}, "received 1"),
        ({"n_models": 4, "pairs": (1,)}, r"received (1,)"),
        ({"n_models": 4, "pairs": (1, 1)}, r"received (1, 1)"),
        ({"roles": ("always",)}, "received 1 of always"),
        ({"roles": ("sometimes",) * 2}, "received 2 of sometimes"),
        ({"spans": (Span("x", "given", ()),)}, "without a place"),
        ({"spans": (Span("x", "given", (Place(0, 2, 9),)),)}, "accepted: tokens of a document"),
        ({"spans": (Span("x", "given", (Place(9, 0, 1),)),)}, "accepted: tokens of a document"),
        ({"spans": (Span("x", "a", (Place(0, 0, 2),)), Span("y", "a", (Place(0, 1, 3),)))}, "overlaps 'x'"),
    ],
)
def test_what_is_wrong_is_refused(settings, received):
    with pytest.raises(ValueError, match="accepted: ") as error:
        Design(documents_of(["abc", "abcd"]), **settings)
    assert received in str(error.value)


def test_texts_that_were_not_cut_into_tokens_are_no_documents():
    with pytest.raises(ValueError, match="documents: received list, accepted: Documents, such as tokenize returns"):
        Design(["a text"], n_models=2)
