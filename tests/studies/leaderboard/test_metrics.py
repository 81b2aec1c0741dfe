"""Areas, calibration and what follows the model, on rankings whose worth is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.memorization import Memorization
from byheart.studies.leaderboard.metrics import calibration, calibration_error, follows, ranking

POSITIVE = np.arange(100) < 20


def test_a_perfect_ranking_and_noise():
    noise = np.random.default_rng(0).random(100)
    found = ranking({"perfect": [-np.arange(100.0)], "noise": [noise], "reverse": [np.arange(100.0)]}, POSITIVE)
    found = found.set_index("score")
    assert found.loc["perfect", ["auroc", "ap", "precision_at_n"]].tolist() == pytest.approx([1, 1, 1])
    assert found.loc["reverse", "auroc"] == 0
    assert found.loc["noise", "auroc_low"] < 0.5 < found.loc["noise", "auroc_high"]


@given(st.integers(0, 10_000))
def test_only_the_order_counts(seed):
    scores = np.random.default_rng(seed).normal(size=100) + POSITIVE
    found = ranking({"as is": [scores], "exp": [np.exp(scores)]}, POSITIVE, n_resamples=5, seed=seed)
    for metric in ("auroc", "ap", "precision_at_n"):
        for end in ("", "_low", "_high"):
            assert found[metric + end][0] == found[metric + end][1]
        assert (found[f"{metric}_low"] <= found[f"{metric}_high"]).all()


def test_too_few_of_a_kind_are_not_judged():
    assert ranking({"any": [np.arange(100.0)]}, np.arange(100) < 9).empty
    assert ranking({"any": [np.arange(100.0)]}, np.arange(100) >= 9).empty


def test_calibrated_probabilities_have_no_error_and_others_do():
    rng = np.random.default_rng(1)
    p = rng.random(20_000)
    happened = rng.random(20_000) < p
    assert calibration_error(p, happened) < 0.02
    assert calibration_error(np.full(20_000, 0.9), happened) == pytest.approx(0.4, abs=0.02)


def test_estimates_that_are_the_truth():
    mem = np.linspace(0, 1, 200)
    counts = np.full(200, 19)
    truth = Memorization(mem, np.zeros(200), counts, counts, mem)
    table = pd.DataFrame({"estimate": mem, "low": mem, "high": mem, "probability": (mem > 0.25).astype(float)})
    found = calibration([table], truth, np.ones(200, dtype=bool), mem > 0.9)
    assert found["rmse"] == 0
    assert found["calibration_error"] == 0
    assert found["coverage"] == found["coverage_wrong"] == 1
    assert found["truth_rmse"] == pytest.approx(np.sqrt(np.mean(mem * (1 - mem) / 19)))


def test_a_score_of_the_data_alone_cannot_tell_two_networks_apart():
    rng = np.random.default_rng(0)
    base = rng.random(2_000)
    other = base * (rng.random(2_000) < 0.5)  # half of it memorized by the other network too, whatever the data
    found = follows({"data": [base], "model": [other]}, base, other).set_index("score")
    assert found.loc["model", "auroc"] > 0.99
    assert found.loc["data", "auroc"] < 0.75
