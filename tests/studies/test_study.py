"""Verdicts are computed as their docstrings say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.studies.study import compare, one_digit, share


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
