from __future__ import annotations

import numpy as np
import pytest
from language.simulate import documents
from language.texts_by_hand import design_with_spans

from byheart.language.capacity import bits_held, out_of_training, random_documents
from byheart.language.design import Design
from byheart.language.logs import Logs


def test_random_documents_are_uniform_and_each_token_is_a_character():
    found = random_documents(200, 50, 16, seed=1)
    assert found.n_tokens == 10_000
    assert all(len(text) == 50 for text in found.texts)
    counts = np.bincount(found.flat, minlength=16)
    assert abs(counts - 625).max() < 5 * np.sqrt(625)
    assert random_documents(2, 3, 16, seed=1).texts != random_documents(2, 3, 16, seed=2).texts
    with pytest.raises(ValueError, match="received 0 of 3 tokens among 16, accepted: "):
        random_documents(0, 3, 16)


def test_a_model_that_knows_its_documents_holds_all_of_their_bits():
    design = Design(random_documents(6, 4, 8), (), 4)
    inside = np.stack([design.carries_loss(model) for model in range(4)])
    logs = Logs(np.where(inside, 0, -np.log(8)).astype(np.float32))
    held, size = bits_held(design, logs, -np.log(8))
    np.testing.assert_allclose(held, 3 * 4 * 3, rtol=1e-6)  # three documents of four tokens of three bits
    np.testing.assert_allclose(size, held)
    np.testing.assert_allclose(out_of_training(design, logs), -np.log(8), rtol=1e-6)
    nothing, _ = bits_held(design, Logs(np.full((4, 24), -np.log(8), dtype=np.float32)), -np.log(8))
    np.testing.assert_allclose(nothing, 0, atol=1e-5)


def test_tokens_of_spans_that_are_off_are_not_trained_on():
    design = design_with_spans(4)
    logs = Logs(np.full((4, design.documents.n_tokens), -1.0, dtype=np.float32))
    _, size = bits_held(design, logs, -2.0)
    expected = [design.carries_loss(model).sum() * 2 / np.log(2) for model in range(4)]
    np.testing.assert_allclose(size, expected)


def test_tokens_of_all_models_have_no_reference():
    design = Design(documents([3, 3]), (), 2, roles=("always", "random"))
    found = out_of_training(design, Logs(np.full((2, 6), -1.0, dtype=np.float32)))
    assert np.isnan(found[:3]).all()
    assert (found[3:] == -1).all()
