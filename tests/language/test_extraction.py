from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from language.simulate import documents

from byheart.language.design import Design, Place, Span
from byheart.language.extraction import band, extraction, sampled_probability, tries


def test_tries_by_hand():
    np.testing.assert_array_equal(tries([1, 0.5, 0.1, 0], 0.5), [1, 1, 7, np.inf])
    assert tries(0.1, 0.19) == 2
    assert tries(1e-300) == pytest.approx(np.log(2) * 1e300)


@given(st.floats(1e-6, 1), st.floats(0.01, 0.99))
def test_tries_are_the_fewest(p_z, probability):
    n = float(tries(p_z, probability))
    assert 1 - (1 - p_z) ** n >= probability - 1e-9
    assert n == 1 or 1 - (1 - p_z) ** (n - 1) < probability + 1e-9


def test_extraction_by_hand():
    design = Design(documents([4, 4]), (Span("bc", "canary", (Place(0, 1, 3), Place(1, 1, 3))),), n_models=8)
    on = np.repeat(design.span_mask, 8, axis=1)
    log_p = np.where(on, np.log(0.5), np.log(0.1))
    inside = design.document_mask[:, design.documents.document_of]
    log_p = np.where(inside, log_p, -50)  # never looked at
    row = extraction(design, (log_p, on & inside)).iloc[0]
    assert row["log_p_on"] == pytest.approx(2 * np.log(0.5))
    assert row["log_p_off_low"] == row["log_p_off_high"] == pytest.approx(2 * np.log(0.1))
    assert (row["tries_on"], row["tries_off"]) == (3, 69)
    assert (row["recited_on"], row["recited_off"]) == (1, 0)
    assert row["log10_factor"] == pytest.approx(np.log10(25))


def test_extraction_without_spans():
    design = Design(documents([4]), n_models=2)
    assert len(extraction(design, np.full((2, 4), -1.0))) == 0


def test_samplers_by_hand():
    logits, tokens = np.log([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]), np.array([0, 2])
    assert sampled_probability(logits, tokens) == pytest.approx(np.log(0.5 * 0.3))
    assert sampled_probability(logits, tokens, top_k=2) == pytest.approx(np.log(0.5 / 0.8 * 0.3 / 0.9))
    assert sampled_probability(logits, tokens, top_k=1) == -np.inf
    assert sampled_probability(logits, tokens, temperature=0) == -np.inf
    assert sampled_probability(logits, np.array([0, 1]), temperature=0) == 0
    assert sampled_probability(logits, np.array([0, 1]), temperature=1e-3) == pytest.approx(0, abs=1e-6)
    half = np.array([0.5, 0.3, 0.2]) ** 2
    assert sampled_probability(logits[:1], tokens[:1], 0.5) == pytest.approx(np.log(half[0] / half.sum()))
    assert sampled_probability(np.stack([logits] * 4), np.stack([tokens] * 4)).shape == (4,)


def test_a_sampler_agrees_with_its_probability():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p_z = np.exp(sampled_probability(logits, np.array([1, 2])))
    samples = (rng.random((5_000, 2, 1)) > p.cumsum(axis=1)).sum(axis=2)
    low, high = band(p_z, 5_000)
    assert low <= (samples == [1, 2]).all(axis=1).sum() <= high


def test_band_holds():
    rng = np.random.default_rng(0)
    p = np.array([0, 0.001, 0.1, 0.5, 1])
    low, high = band(p, 100)
    draws = rng.binomial(100, p, (20_000, 5))
    assert (((draws >= low) & (draws <= high)).mean(axis=0) > 0.945).all()
    assert (low[-1], high[-1], high[0]) == (100, 100, 0)


def test_mistakes():
    logits = np.zeros((2, 3))
    for call, says in (
        (lambda: tries(1.1), "p_z: received 1.1"),
        (lambda: tries(0.5, 1), "probability: received 1"),
        (lambda: band(0.5, 0), "n: received 0"),
        (lambda: sampled_probability(logits, np.array([0])), "logits: received"),
        (lambda: sampled_probability(logits, np.array([0, 3])), "tokens: received"),
        (lambda: sampled_probability(logits, np.array([0, 1]), -1), "temperature, top_k"),
        (lambda: sampled_probability(logits, np.array([0, 1]), top_k=0), "temperature, top_k"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
