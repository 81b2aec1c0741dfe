"""Verdicts are computed as their docstrings say."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.claims import (
    Bump,
    Claim,
    Finding,
    compare,
    compare_curve,
    judge,
    judge_bump,
    lies_within,
    one_digit,
    onsets,
    share,
)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.0, 1.0, 1.0], "reproduced"),
        ([2.0, 2.1, 1.9, 2.0], "differs"),
        ([1.05, 1.15, 1.0, 1.2], "inconclusive"),  # the interval crosses the edge of the band
        ([-50.0, 52.0], "inconclusive"),  # right on average, and worthless
        ([1.0], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_a_mean_is_judged_by_its_interval(values, verdict):
    assert compare(values, 1.0, 0.1).verdict == verdict


@pytest.mark.parametrize(
    ("at_100", "verdict"),
    [((2.0, 2.0), "reproduced"), ((3.0, 3.0), "differs"), ((2.0, 2.2), "inconclusive"), ((2.0,), "inconclusive")],
)
def test_a_curve_is_judged_at_every_size_that_both_have(at_100, verdict):
    rows = [(10, 1.0), (10, 1.0), *((100, value) for value in at_100), (1_000, 50.0), (1_000, 50.0)]
    table = pd.DataFrame(rows, columns=["n_examples", "test_loss"])
    paper = pd.Series({10.0: 1.0, 100.0: 2.0, 10_000.0: 3.0})
    found = compare_curve(table, "test_loss", paper, 0.1)
    assert found.verdict == verdict
    assert "at 1000" not in found.ours
    if verdict == "differs":
        assert found.ours.endswith("surely not at: 100")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-10, 10), st.floats(0.01, 5), st.floats(0.01, 5))
def test_a_wider_tolerance_never_turns_reproduced_into_differs(values, paper, tolerance, more):
    narrow, wide = compare(values, paper, tolerance).verdict, compare(values, paper, tolerance + more).verdict
    assert not (narrow == "reproduced" and wide != "reproduced")
    assert not (narrow != "differs" and wide == "differs")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-10, 10))
def test_a_mean_is_judged_the_same_in_any_order(values, paper):
    assert compare(values, paper, 1.0).verdict == compare(np.sort(values), paper, 1.0).verdict


@pytest.mark.parametrize(("error", "words"), [(0.0312, "0.03"), (2.4e-5, "2e-05"), (8.1, "8"), (36.2, "40")])
def test_errors_have_one_digit(error, words):
    assert one_digit(error) == words


def test_a_claim_of_every_seed_needs_every_seed():
    assert share([True, True], "do").verdict == "reproduced"
    assert share([True, False], "do").verdict == "inconclusive"
    assert share([False, False], "do").verdict == "differs"
    assert share([True], "do").verdict == "inconclusive"
    assert share([True, False], "do").ours == "1 of 2 seeds do"


def losses(means, factors=(0.8, 1.25)) -> pd.DataFrame:
    """A run per T of 10, 100, 1,000 ... and factor, whose losses have these geometric means."""
    rows = [(10.0 ** (k + 1), mean * factor) for k, mean in enumerate(means) for factor in factors]
    return pd.DataFrame(rows, columns=["n_examples", "test_loss"])


def test_a_bump_stands_above_the_higher_of_its_two_sides():
    bump = Bump.along(losses([1, 8, 2]), "n_examples")
    assert (bump.at, bump.where) == (100, "inside")
    assert bump.mean == pytest.approx(8)
    spread = np.log(1.25)  # the standard error of two logarithms is half their distance
    assert bump.error == pytest.approx(8 * spread)
    assert bump.height == pytest.approx(np.log(4) / (np.sqrt(2) * spread))


@given(st.floats(1e-3, 1e6))
def test_a_bump_does_not_depend_on_the_unit(unit):
    one, other = (Bump.along(losses(np.array([1, 8, 2, 3]) * scale), "n_examples") for scale in (1, unit))
    assert other.at == one.at
    assert other.height == pytest.approx(one.height)
    assert other.mean == pytest.approx(one.mean * unit)


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([1, 8, 1], "reproduced"),
        ([1, 1.1, 1], "inconclusive"),  # within the noise
        ([8, 4, 1], "differs"),
        ([1, 4, 8], "inconclusive"),  # may peak beyond the range
        ([1, 8], "inconclusive"),
    ],
)
def test_a_bump_is_judged_by_its_height_and_place(means, verdict):
    assert judge_bump(losses(means), "more").verdict == verdict


@pytest.mark.parametrize(("n_seeds", "low", "high"), [(4, 0.02, 0.06), (2, 0.08, 0.16)])
@pytest.mark.parametrize("n_values", [7, 12])
def test_noise_alone_has_as_many_bumps_as_is_said(n_seeds, n_values, low, high):
    rng = np.random.default_rng(0)
    axis, n_rows = np.repeat(np.arange(1.0, n_values + 1), n_seeds), 1_000
    found = [
        Bump.along(pd.DataFrame({"n_examples": axis, "test_loss": np.exp(rng.normal(size=len(axis)))}), "n_examples")
        for _ in range(n_rows)
    ]
    share_of_bumps = np.mean([bump.height > 3 for bump in found])
    assert low - 0.02 < share_of_bumps < high + 0.02


def test_an_onset_lasts_to_the_largest_value():
    table = pd.DataFrame({"seed": [0] * 4 + [1] * 4, "n_examples": [1, 2, 3, 4] * 2})
    holds = pd.Series([True, False, True, True, True, True, True, False])
    assert onsets(table, holds).to_dict() == {0: 3, 1: np.inf}


def test_claims_of_the_papers_setup_are_judged_only_there():
    claims = [
        Claim(name, "a statement", "a source", "1", lambda tables: Finding(tables["a"], "differs").also("b"), special)
        for name, special in (("general", False), ("special", True))
    ]
    assert list(judge(claims, {"a": "3"}, at_paper_setup=False)["claim"]) == ["general"]
    verdicts = judge(claims, {"a": "3"})
    assert list(verdicts["claim"]) == ["general", "special"]
    assert set(verdicts["ours"]) == {"3; b"}


@pytest.mark.parametrize(
    ("value", "error", "answer"),
    [(0.5, 0.1, True), (0.9, 0.1, None), (1.1, 0.1, None), (1.3, 0.1, False), (-0.3, 0.1, False), (0.5, 0.3, None)],
)
def test_a_value_lies_within_a_range_with_its_error_or_outside_or_neither(value, error, answer):
    assert lies_within(value, error, 0, 1) is answer
    assert lies_within(value, 0, 0, 1) is (0 <= value <= 1)
