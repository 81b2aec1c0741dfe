from __future__ import annotations

import numpy as np
import pytest
from language.simulate import documents, planted

from byheart.language.design import Design
from byheart.language.differences import Places, compare


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
