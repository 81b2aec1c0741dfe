from __future__ import annotations

import numpy as np
import pytest
from language.simulate import documents, simulated

from byheart.language.design import Design, Place, Span
from byheart.language.doses import equivalent
from byheart.language.estimates import estimate


def test_equivalents_by_hand():
    copies, effects = np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])
    found = equivalent(copies, effects, np.array([-1, 0, 0.5, 1, 1.5, 2, 3, 9]))
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, np.sqrt(2), 2, 4, 4])
    bent = equivalent(copies, np.array([1.0, 3.0, 2.0]), np.array([2.5, 2.0]))
    np.testing.assert_allclose(bent, [2, 2 ** (1 / 1.5)])


@pytest.fixture(scope="module")
def dose():
    """Canaries whose memorization is the logarithm of copies plus 1; a near-copy is worth half a copy."""
    spans, first, gains = [], 0, []
    for copies in (1, 2, 4, 8):
        for _ in range(6):
            places = tuple(Place(first + c, 2, 4) for c in range(copies))
            spans.append(Span("cd", "canary", places, settings={"n_copies": copies}))
            gains.append(1 + np.log(copies))
            first += copies
    exact = first
    for _ in range(6):
        places = tuple(Place(first + c, 2, 4) for c in range(4))
        spans.append(Span("cd", "near-copies", places, (Place(exact + 24, 2, 4),), {"n_copies": 4, "changed": 0.1}))
        first += 4
    roles = ("always",) * first + ("never",)
    design = Design(documents([6] * (first + 1)), tuple(spans[:24]), 16, roles=roles)
    design = Design(design.documents, tuple(spans), 16, roles=roles)
    logs = simulated(design, 0, np.zeros(first + 1), np.array([*gains, *[0.0] * 6]), noise=0.05)
    log_probability = logs.log_probability.copy()
    place = design.tokens_of(Place(exact + 24, 2, 4))
    log_probability[:, place] = -20 + (1 + np.log(2)) * design.span_mask[:, 24:].mean(axis=1, keepdims=True) * 6
    return design, estimate(design, (log_probability, logs.correct))


def test_dose_table(dose):
    _, found = dose
    exact = found.dose.query("kind == 'canary'")
    assert exact["planned"].tolist() == exact["n_seen"].tolist() == [1, 2, 4, 8]
    np.testing.assert_allclose(exact["log_probability"], 1 + np.log([1, 2, 4, 8]), atol=0.1)
    assert (exact["log_probability_se"] < 0.1).all()
    assert exact["worth"].isna().all()


def test_worth_of_near_copies(dose):
    _, found = dose
    row = found.dose.query("kind == 'near-copies'").iloc[0]
    assert row["n_seen"] == row["planned"] == 4
    assert row["worth"] == pytest.approx(row["equivalent"] / 4)
    assert row["worth_low"] <= row["worth"] <= row["worth_high"]


def test_masked_canaries_as_chance(dose):
    _, found = dose
    masked = found.chance.set_index("what").loc["canary, off"]
    assert masked["n_spans"] == 24
    assert masked["log_probability"] == pytest.approx(-30, abs=1.5)
