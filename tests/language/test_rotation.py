"""Which documents are left out and measured when, and the estimate on losses whose gap is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byheart.language.rotation import Rotation, estimate, rarity

SIZES = st.integers(40, 700)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0.01, 0.25), st.integers(0, 3))
def test_parts_are_apart_and_of_one_size(n, share, seed):
    rotation = Rotation(n, share, min(share, 0.02), seed)
    parts = [rotation.out(epoch) for epoch in range(rotation.n_parts)]
    assert len(set(np.concatenate(parts).tolist())) == rotation.n_parts * rotation.n_out <= n
    for epoch in (0, rotation.n_parts - 1, rotation.n_parts):
        kept, out = rotation.kept(epoch), rotation.out(epoch)
        assert sorted([*kept, *out]) == list(range(n))
        assert set(rotation.probes(epoch)) <= set(out)
    assert np.array_equal(rotation.out(0), rotation.out(rotation.n_parts))
    assert rotation.n_parts >= 3


@settings(max_examples=40, deadline=None)
@given(st.integers(84, 100_000), st.integers(2, 30))
def test_measuring_costs_three_hundredths_at_most(n, n_epochs):
    rotation = Rotation(n)
    passes = sum(len(rotation.measured_after(done, done == n_epochs)) for done in range(n_epochs + 1))
    assert passes == (3 * n_epochs + 1) * rotation.n_probes
    assert passes <= 0.03 * 3 * n_epochs * (n - rotation.n_out)
    for done in range(n_epochs + 1):
        documents = rotation.measured_after(done, done == n_epochs).tolist()
        assert len(set(documents)) == len(documents)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n_documents": 39}, "documents: received 39, accepted: at least 40"),
        ({"n_documents": 50, "share": 0.3}, "share: received 0.3"),
        ({"n_documents": 50, "seed": -1}, "seed: received -1, accepted: an integer >= 0"),
        ({"n_documents": 50, "cost": 0.1}, "cost: received 0.1, accepted: above 0, at most the share left out, 0.05"),
    ],
)
def test_what_cannot_be_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Rotation(**numbers)


def simulated(seed, gaps=(0.3, 0.2, 0.1), n=1200, mine=1.0):
    """Losses that fall in general, and by a gap where a document is in an epoch; each document has its own luck."""
    rng = np.random.default_rng(seed)
    rotation = Rotation(n, seed=seed)
    losses = rng.normal(3, 0.8, n)
    rare = losses + rng.normal(0, 0.3, n)
    measured = {}
    for done in range(len(gaps) + 1):
        documents = rotation.measured_after(done, done == len(gaps))
        measured[done] = {int(d): float(losses[d]) for d in documents}
        if done < len(gaps):
            inside = np.isin(np.arange(n), rotation.kept(done))
            learned = rng.normal(gaps[done], 0.1, n) * mine
            losses = losses - 0.05 - np.where(inside, learned, 0) + rng.normal(0, 0.05, n)
    return rotation, measured, dict(enumerate(rare.tolist()))


def test_a_known_gap_is_found_and_intervals_hold_it():
    found = [estimate(*simulated(seed), between_runs=0) for seed in range(40)]
    assert np.mean([one.memorized for one in found]) == pytest.approx(0.2, abs=0.004)
    assert np.mean([one.low <= 0.2 <= one.high for one in found]) >= 0.85
    of_epochs = np.array([one.epochs["memorized"] for one in found])
    assert of_epochs.mean(axis=0) == pytest.approx([0.3, 0.2, 0.1], abs=0.01)
    assert np.std([one.memorized for one in found]) == pytest.approx(found[0].standard_error, rel=0.35)


def test_the_parts_of_the_drop_add_up_and_nothing_is_found_where_nothing_is():
    one = estimate(*simulated(0))
    table = one.epochs
    assert np.allclose(table["drop"], table["memorized"] + table["general"])
    assert table["general"].to_numpy() == pytest.approx([0.05] * 3, abs=0.05)
    assert "0.05" not in one.headline().split("mean of")[0]
    nothing = estimate(*simulated(1, mine=0.0))
    assert nothing.low < 0 < nothing.high


def test_what_was_measured_before_makes_intervals_shorter():
    rotation, measured, rare = simulated(3)
    paired = estimate(rotation, measured, rare, between_runs=0).standard_error
    shuffled = {0: measured[0]}  # the same losses, with a past that says nothing
    rng = np.random.default_rng(0)
    for done in (1, 2, 3):
        shuffled[done] = dict(zip(measured[done], rng.permutation(list(measured[done].values())), strict=True))
    assert paired < estimate(rotation, shuffled, between_runs=0).standard_error / 3


def test_what_runs_differ_by_is_added():
    given = simulated(5)
    one, runs = estimate(*given, between_runs=0), estimate(*given, between_runs=0.3)
    assert runs.memorized == one.memorized
    assert runs.standard_error == pytest.approx(np.hypot(one.standard_error, 0.3 * one.memorized))


def test_an_epoch_without_its_beginning_is_left_out():
    rotation, measured, _ = simulated(0)
    del measured[1]
    assert estimate(rotation, measured).epochs["epoch"].tolist() == [2]
    with pytest.raises(ValueError, match="no epoch that began and ended"):
        estimate(rotation, {0: measured[0]})


def test_rarity_is_by_the_tokens_of_the_others():
    found = rarity({0: [0, 0, 1], 1: [0, 0, 0, 0], 2: [2]})
    assert found[2] == pytest.approx(-np.log(1 / (7 + 3)))
    assert found[1] == pytest.approx(-np.log((2 + 1) / (4 + 3)))
    assert found[2] > found[0] > found[1]
