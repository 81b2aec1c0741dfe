from __future__ import annotations

import numpy as np
import pytest
from language.simulate import documents, planted, simulated

from byheart.language.design import Design
from byheart.language.differences import Parts, Places, compare


@pytest.mark.parametrize("n_models", [8, 16])
def test_errors_hold_where_all_noise_is_other_documents(n_models):
    stated, wrong = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        inside = Design(documents([2] * 200), n_models=n_models, seed=seed).document_mask
        influence = rng.normal(size=(200, 200)) * (1 - np.eye(200))
        found = compare(3 * inside + (inside - 0.5) @ influence / 10, inside)
        stated.append(found.standard_error)
        wrong.append(found.difference - 3)
    assert 0.95 < (np.square(stated).mean() / np.square(wrong).mean()) ** 0.5 < 1.05


def test_few_units_have_the_errors_of_welch():
    rng = np.random.default_rng(0)
    on, scores = np.arange(8)[:, None] % 2 == 0, rng.normal(size=(8, 1))
    parts = [scores[rows[:, 0], 0].var(ddof=1) / 4 for rows in (on, ~on)]
    found = compare(scores, on)
    assert found.standard_error[0] == pytest.approx(sum(parts) ** 0.5)
    assert (found.n_on[0], found.n_off[0]) == (4, 4)


def test_documents_without_spans_are_compared_by_the_means_of_their_tokens():
    design = Design(documents([2, 5, 3]), n_models=8)
    values = np.random.default_rng(0).normal(size=(8, 10))
    found, parts = Parts.of(design), [slice(0, 2), slice(2, 7), slice(7, 10)]
    means = np.stack([values[:, part].mean(axis=1) for part in parts], axis=1)
    expected, own = compare(means, design.document_mask), found.compare(found.sums(values))
    for name in ("on", "off", "standard_error", "n_on", "n_off"):
        np.testing.assert_allclose(getattr(own, name), getattr(expected, name), err_msg=name)


def test_tokens_of_a_span_count_in_models_with_the_span_on():
    design = planted(4, [1, 2], n_models=24, seed=1)
    values = np.random.default_rng(0).normal(size=(24, 24))
    parts = Parts.of(design)
    found = parts.compare(parts.sums(values))
    inside, on = design.document_mask, design.span_mask
    for document, span in ((0, 0), (1, 1), (2, 1)):
        own = values[:, 6 * document : 6 * document + 6]
        for side, rows in (("on", inside[:, document]), ("off", ~inside[:, document])):
            masked = own[rows & on[:, span]][:, 2:4]
            expected = (4 * own[rows][:, [0, 1, 4, 5]].mean() + 2 * masked.mean()) / 6
            assert getattr(found, side)[document] == pytest.approx(expected)
            assert getattr(found, f"n_{side}")[document] == len(masked)
    told = parts.means(values)
    assert np.array_equal(np.isfinite(told), np.stack([on[:, 0], on[:, 1], on[:, 1], on[:, 1] | True], axis=1))
    assert np.array_equal(parts.means(values[[5]], np.array([5])), told[[5]], equal_nan=True)


def test_memorization_of_documents_is_that_of_training_on_all_of_them():
    stated, wrong = [], []
    for seed in range(10):
        design = planted(60, [1, 2, 4] * 8, n_models=16, seed=seed)
        truth = np.random.default_rng(seed).normal(3, 1, 60)
        gains = np.linspace(1, 4, 24)
        parts = Parts.of(design)
        found = parts.compare(parts.sums(simulated(design, seed, truth, gains, influence=0.5).log_probability))
        all_of_it = truth + np.bincount(design.documents.document_of, np.append(gains, 0)[design.span_of]) / 6
        told = np.isfinite(found.standard_error)
        assert told.mean() > 0.85
        stated.append(found.standard_error[told])
        wrong.append((found.difference - all_of_it)[told])
    stated, wrong = np.concatenate(stated), np.concatenate(wrong)
    assert abs(wrong.mean()) < 3 * stated.mean() / np.sqrt(len(wrong) / 10)
    assert 0.93 < (np.square(stated).mean() / np.square(wrong).mean()) ** 0.5 < 1.07


def test_difficulty_of_places_cancels():
    design = planted(6, [6], n_models=8)
    places = Places.of(design)
    scores = 100.0 * np.arange(6) + 2 * design.span_mask[:, places.span_of]
    found = places.compare(np.where(places.valid, scores, -1e6))
    assert found.difference[0] == pytest.approx(2)
    assert found.standard_error[0] == pytest.approx(0, abs=1e-6)


def test_too_few_models_have_no_error():
    found = compare(np.zeros((4, 1)), np.array([[True], [False], [False], [False]]))
    assert np.isnan(found.standard_error[0])
    assert found.difference[0] == 0
