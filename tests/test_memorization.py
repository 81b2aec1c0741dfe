"""Laws of memorization estimates, and cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from byheart.memorization import balanced_subsets, influence, memorization, power, smoothed_memorization


def drawn(p_in: float, p_out: float, n_models: int, n_examples: int = 4_000, seed: int = 0):
    mask = balanced_subsets(n_examples, n_models, seed=seed)
    p = np.where(mask, p_in, p_out)
    return (np.random.default_rng(seed + 1).random(mask.shape) < p).astype(float), mask


def test_an_example_answered_only_if_seen_has_memorization_one():
    mask = balanced_subsets(30, 10)
    assert memorization(mask.astype(float), mask).mem == pytest.approx(1)
    assert memorization(np.ones(mask.shape), mask).mem == pytest.approx(0)


def test_agreement_of_all_models_is_not_certainty():
    mask = balanced_subsets(30, 10)
    assert (memorization(np.ones(mask.shape), mask).standard_error > 0.1).all()


@pytest.mark.parametrize(("p_in", "p_out"), [(1.0, 0.75), (0.9, 0.2), (0.6, 0.4), (1.0, 1.0)])
@pytest.mark.parametrize("n_models", [20, 48])
def test_the_estimate_is_unbiased_and_its_interval_covers(p_in, p_out, n_models):
    found = memorization(*drawn(p_in, p_out, n_models))
    assert found.mem.mean() == pytest.approx(p_in - p_out, abs=0.01)
    low, high = found.interval(0.95)
    covered = ((low <= p_in - p_out) & (p_in - p_out <= high)).mean()
    assert covered > 0.93
    low, high = found.interval(0.5)
    assert ((low <= p_in - p_out) & (p_in - p_out <= high)).mean() <= covered


def test_margins_need_fewer_models():
    mask = balanced_subsets(4_000, 20)
    rng = np.random.default_rng(0)
    centre = rng.normal(0, 1, 4_000)
    margins = rng.normal(np.where(mask, 3, centre), 1.0)
    truth = norm.cdf(3) - norm.cdf(centre)
    counted, smooth = memorization((margins > 0).astype(float), mask), smoothed_memorization(margins, mask)
    errors = [np.square(found.mem - truth).mean() for found in (counted, smooth)]
    assert errors[1] < errors[0] / 1.3
    assert smooth.mem.mean() == pytest.approx(truth.mean(), abs=0.02)
    low, high = smooth.interval(0.95)
    assert 0.9 < ((low <= truth) & (truth <= high)).mean() < 0.99


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_scores_may_be_shifted_and_scaled(seed, scale, shift):
    mask = balanced_subsets(7, 10, seed=seed)
    scores = np.random.default_rng(seed).normal(size=mask.shape)
    plain, changed = memorization(scores, mask), memorization(scale * scores + shift, mask)
    np.testing.assert_allclose(changed.mem, scale * plain.mem, atol=1e-9)
    np.testing.assert_allclose(changed.standard_error, scale * plain.standard_error, rtol=1e-9)


def test_influence_on_oneself_is_memorization():
    rng = np.random.default_rng(0)
    mask = balanced_subsets(12, 20)
    scores = rng.normal(size=mask.shape)
    found, error = influence(scores, mask)
    expected = memorization(scores, mask)
    np.testing.assert_allclose(np.diag(found), expected.mem, atol=1e-12)
    np.testing.assert_allclose(np.diag(error), expected.standard_error, rtol=1e-9)


@given(st.sampled_from([0.5, 0.6, 0.7, 0.9, 1 / 3]), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_subsets_are_balanced_in_every_block(fraction, n_blocks, seed):
    block = {0.5: 2, 0.6: 5, 0.7: 10, 0.9: 10, 1 / 3: 3}[fraction]
    n_blocks = max(n_blocks, 2)
    mask = balanced_subsets(50, n_blocks * block, fraction, seed)
    counts = mask.reshape(n_blocks, block, 50).sum(axis=1)
    assert (counts == round(fraction * block)).all()


def test_power_is_the_share_of_seen_examples():
    n_in, n_out = 30, 20
    scores, mask = drawn(1.0, 0.75, 50)
    low = memorization(scores, mask).interval(0.9)[0]
    assert (low > 0).mean() == pytest.approx(power(n_in, n_out), abs=0.03)
    assert power(30, 20) > power(15, 10) > power(6, 4)
    assert power(30, 20, p_in=0.625) < power(30, 20)


def test_underpowered_estimates_have_no_headline():
    few, many = (memorization(*drawn(1.0, 0.5, n)) for n in (10, 60))
    assert few.headline().startswith("Underpowered: 10 models")
    assert "4000 examples have a memorization above 0.25" in many.headline()


@pytest.mark.parametrize(
    ("scores", "mask", "message"),
    [
        (np.ones((4, 3)), np.ones((4, 3)), "example 0 in 4 of 4"),
        (np.ones((4, 2)), np.array([[0, 1, 1], [1, 0, 1], [0, 1, 0], [1, 0, 0]]), "that of train_mask"),
        (np.full((4, 1), np.nan), np.array([[0], [1], [0], [1]]), "nan of model 0 on example 0"),
        (np.ones((3, 1)), np.array([[0], [1], [0], [1]]), "4 models"),
        (np.ones((2, 1)), np.array([[0], [2]]), "of bools"),
    ],
)
def test_nonsense_is_refused_in_one_line(scores, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        memorization(scores, mask)
    assert "\n" not in str(error.value)


def test_too_few_models_are_refused():
    with pytest.raises(ValueError, match=r"n_models: received 3.* 5 are"):
        balanced_subsets(10, 3, 0.6)
    with pytest.raises(ValueError, match=r"n_models: received 10.* 20 are"):
        balanced_subsets(10, 10, 0.9)
    with pytest.raises(ValueError, match="fraction"):
        balanced_subsets(10, 5, 1.0)
    with pytest.raises(ValueError, match="n_in"):
        power(1, 5)
    with pytest.raises(ValueError, match="effect"):
        power(5, 5, 0.0)
