"""The claims of "features-held" on cells and curves whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from byheart.studies.catalogue import STUDIES
from byheart.studies.features_held import _below_one, _cells, _half_gain, _numbers, _steps
from byheart.studies.study import judge
from byheart.toy.config import TrainConfig
from byheart.toy.train import train

SPARSITIES = (0.9, 0.95, 0.975, 0.9875)
WIDTHS = (2, 3, 4, 6, 8)


def verdicts_of(**columns) -> dict[str, str]:
    """The verdicts on cells with these columns, functions of m and how sparse it is: 1/(10 (1 - S)), 1 to 8.

    With a little spread over four seeds; ``q`` is that of the jump, T ~ (1 - S)^-q from S to S, and ``half_q`` that of
    half of the gain, the same if it is not given.
    """
    usual = {
        "half_q": columns.get("q", lambda m, sparser: 0.5 * m),
        "held": lambda m, sparser: 5 if m == 2 else 3.5 * m * sparser**0.4,
        "change": lambda m, sparser: 1.2,
        "q": lambda m, sparser: 0.5 * m,
    }
    of = usual | columns
    of.setdefault("participation_number", of["held"])
    rows = []
    for m in WIDTHS:
        for seed in range(4):
            noise, jump, half = 1 + 1e-3 * (seed - 1.5), 50.0 * m, 60.0 * m
            for sparsity in SPARSITIES:
                sparser = 0.1 / (1 - sparsity)
                jump *= 2 ** of["q"](m, sparser) if sparser > 1.5 else 1
                half *= 2 ** of["half_q"](m, sparser) if sparser > 1.5 else 1
                held, participation = (of[name](m, sparser) for name in ("held", "participation_number"))
                largest = of.get("largest", lambda m, sparser: 1.2 * m / of["held"](m, sparser))(m, sparser)
                drawn = (jump * noise**sparser, jump * (1 - sparsity), held * noise**sparser)
                change = of["change"](m, sparser) * noise
                rest = (participation * noise**sparser, largest * noise, change, half * noise**sparser)
                rows.append((300, m, sparsity, seed, *drawn, *rest))
    names = "n_features n_hidden sparsity seed jump occurrences held participation_number largest change half"
    cells = pd.DataFrame(rows, columns=names.split())
    steps = {"steps": _steps(cells), "steps-of-half-gain": _steps(cells.assign(jump=cells["half"]))}
    verdicts = judge(STUDIES["features-held"], {"cells": cells, **steps})
    return dict(zip(verdicts["claim"], verdicts["verdict"], strict=True))


def test_what_the_look_predicts():
    found = verdicts_of()
    expected = {
        "same-number-at-m2": "reproduced",
        "number-grows-with-sparsity": "reproduced",
        "largest-times-number": "reproduced",
        "q-grows-with-m": "reproduced",
        "q-follows-number": "differs",  # it was made a function of m
        "falls-after-the-jump": "differs",
    }
    assert {claim: found[claim] for claim in expected} == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"held": lambda m, s: 5 * s**0.4},
            {"same-number-at-m2": "differs", "number-grows-with-sparsity": "reproduced"},
        ),
        (
            {"held": lambda m, s: 5 * s**0.4, "participation_number": lambda m, s: 5.0},  # one of both
            {"same-number-at-m2": "inconclusive", "number-grows-with-sparsity": "inconclusive"},
        ),
        ({"held": lambda m, s: 3.0 * m * s ** (0.4 * (m != 6))}, {"number-grows-with-sparsity": "differs"}),
        ({"largest": lambda m, s: 0.01}, {"largest-times-number": "differs"}),
        ({"q": lambda m, s: 1 + 0.01 * (s - 4)}, {"q-grows-with-m": "inconclusive"}),
        ({"q": lambda m, s: 3 - 0.1 * m}, {"q-grows-with-m": "differs"}),
        ({"q": lambda m, s: 1 + 0.1 * math.log(s)}, {"q-rises-at-fixed-m": "reproduced"}),
        ({"q": lambda m, s: 2 - 0.1 * math.log(s)}, {"q-rises-at-fixed-m": "differs"}),
        ({"change": lambda m, s: 0.9}, {"falls-after-the-jump": "reproduced"}),
        ({"change": lambda m, s: 1.1 if m == 4 else 0.9}, {"falls-after-the-jump": "differs"}),
    ],
)
def test_other_answers(columns, expected):
    found = verdicts_of(**columns)
    assert {claim: found[claim] for claim in expected} == expected


@pytest.mark.parametrize(
    ("of", "number", "per_unit"),
    [
        (lambda m, held: math.log(m), "differs", None),
        (lambda m, held: math.log(held), "reproduced", "differs"),
        (lambda m, held: math.log(held / m), None, "reproduced"),
        (lambda m, held: -math.log(held), "differs", None),  # a falling line is no explanation
    ],
)
def test_what_q_follows_is_told(of, number, per_unit):
    held = lambda m, s: m * s ** (0.7 - 0.06 * m) * 4  # noqa: E731  (it grows faster where there are fewer)
    # A step ends at the sparser S; the number is the geometric mean of both.
    q = lambda m, s: of(m, held(m, s / math.sqrt(2)))  # noqa: E731
    found = verdicts_of(held=held, q=q)
    assert number is None or found["q-follows-number"] == number
    assert per_unit is None or found["q-follows-number-per-unit"] == per_unit


@pytest.mark.parametrize(
    ("half_q", "expected"),
    [
        (lambda m, held: math.log(held), "reproduced"),
        (lambda m, held: (-1) ** m * math.log(held), "differs"),  # by this mark it follows nothing
    ],
)
def test_the_number_has_to_explain_q_by_either_mark(half_q, expected):
    held = lambda m, s: m * s ** (0.7 - 0.06 * m) * 4  # noqa: E731
    q = lambda m, s: math.log(held(m, s / math.sqrt(2)))  # noqa: E731
    found = verdicts_of(held=held, q=q, half_q=lambda m, s: half_q(m, held(m, s / math.sqrt(2))))
    assert found["q-follows-number-by-either-mark"] == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((2, 1.5, 0.96, 0.6), 40 * 2 ** (math.log(1.2) / math.log(1.6))),  # half of the gain is at 0.8
        ((0.99, 0.9, 0.75, 0.5), 40),  # below 1 everywhere, and it has a half all the same
        ((2, 1.5, 1.2, 1), math.inf),
        ((2, 0.5, 0.5, math.nan), math.inf),
        ((0.7, 0.7, 0.6, 0.6), math.nan),
    ],
)
def test_half_of_the_gain_is_half_as_far_below_one_as_at_last(losses, expected):
    sizes = np.array([10.0, 20, 40, 80])
    assert _half_gain(sizes, np.array(losses, dtype=float)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((4, 2, 0.5, 0.25), math.sqrt(20 * 40)),  # as far above 1 as below, in logarithms
        ((2, 0.9, 2, 0.5), math.sqrt(40 * 80)),  # the last time that it falls
        ((2, 1, 0.9, 0.8), 20),
        ((0.5, 0.9, 1.1, 1.2), math.inf),
        ((0.5, 0.9, 0.9, math.nan), math.inf),
        ((0.9, 0.8, 0.7, 0.6), math.nan),
    ],
)
def test_the_jump_is_where_test_loss_falls_below_one_for_good(losses, expected):
    sizes = np.array([10.0, 20, 40, 80])
    assert _below_one(sizes, np.array(losses, dtype=float)) == pytest.approx(expected, nan_ok=True)


def curve(jump: float, sizes=(10, 30, 100, 300)) -> pd.DataFrame:
    """The runs of one dataset at S = 0.9 whose test loss falls below 1 soon before this T(1 - S)."""
    rows = [(300, 4, 0.9, 0, x * 10, 1.01 if x < jump else 0.9, 14, 15.5, 0.2 * x**0.1) for x in sizes]
    names = (
        "n_features n_hidden sparsity seed n_examples test_loss held participation_number feature_dimensionality_max"
    )
    return pd.DataFrame(rows, columns=names.split())


@pytest.mark.parametrize(
    ("jump", "sizes", "held", "change"),
    [
        (20, (10, 30, 100, 300), 14, 3**0.1),
        (90, (10, 30, 80, 100, 300), 14, math.nan),  # at 100 not surely after the jump
        (300, (10, 30, 200, 300), math.nan, math.nan),
        (20, (10, 30, 100), math.nan, math.nan),
    ],
)
def test_numbers_are_taken_after_the_jump_alone(jump, sizes, held, change):
    cell = _cells(curve(jump, sizes), _below_one).iloc[0]
    assert cell["held"] == pytest.approx(held, nan_ok=True)
    assert cell["change"] == pytest.approx(change, nan_ok=True)


def test_features_of_equal_dimensionality_are_counted_by_both_measures():
    run = train(TrainConfig(n_examples=5, n_features=30, sparsity=0.9, n_hidden=2, n_steps=1, warmup_steps=0))
    run.W[:] = 0
    angles = 2 * np.pi * np.arange(5) / 5
    run.W[:, :5] = np.stack([np.cos(angles), np.sin(angles)])
    found = _numbers([run]).iloc[0]
    assert found["held"] == 5
    assert found["participation_number"] == pytest.approx(5)
