"""Calibration: probabilities that are right on average, against known rates; and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from byheart.network.audit import audit
from byheart.network.calibration import _features
from byheart.network.calibration import calibrate as calibrate_on
from byheart.network.counterfactual import Counterfactual
from byheart.network.log import TrainingLog

N = 4_000
LOG = frozenset({"model", "classes", "head", "log"})


def calibrate(table, runs, evidence=LOG):
    return calibrate_on(table, ["layer"], evidence, runs)


def planted(n_runs: int, seed: int = 0, deviation: float = 0.75):
    """Scores that tell a rate up to a deviation; runs that miss an unseen example at its rate, and never a seen one."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    signal = rng.normal(size=N)
    rate = norm.cdf(-1 + 1.2 * signal + deviation * rng.normal(size=N))
    table = pd.DataFrame(
        {
            "mean_loss": np.exp(signal + 0.01 * rng.normal(size=N)),
            "maximal_dimensionality": np.exp(rng.normal(size=N)),
            "ridge_leave_one_out": rng.normal(size=N),
            "gradient_dimensionality": np.exp(rng.normal(size=N)),
        }
    )
    inside = rng.random((n_runs, N)) < 0.6
    missed = ~inside & (rng.random((n_runs, N)) < rate)
    return table, Counterfactual(inside, np.where(missed, -1.0, 1.0)), rate


@pytest.mark.parametrize("n_runs", [1, 4])
def test_probabilities_and_estimates_are_right_on_average(n_runs):
    table, runs, rate = planted(n_runs)
    found = calibrate(table, runs)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 1.01)):
        rows = (found["probability"] >= low) & (found["probability"] < high)
        assert (rate[rows] > 0.25).mean() == pytest.approx(found["probability"][rows].mean(), abs=0.08)
        rows = (found["estimate"] >= low) & (found["estimate"] < high)
        assert rate[rows].mean() == pytest.approx(found["estimate"][rows].mean(), abs=0.05)
    assert ((found["low"] <= rate) & (rate <= found["high"])).mean() == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("n_runs", [1, 4])
def test_intervals_cover_where_networks_do_not_know_all_that_they_were_trained_on(n_runs):
    from scipy.stats import norm

    table, runs, rate_out = planted(n_runs)
    rng = np.random.default_rng(1)
    rate_in = rate_out * norm.cdf(-0.3 + 0.75 * rng.normal(size=N))
    missed = np.where(runs.train_mask, rng.random((n_runs, N)) < rate_in, runs.margins < 0)
    found = calibrate(table, Counterfactual(runs.train_mask, np.where(missed, -1.0, 1.0)))
    mem = rate_out - rate_in
    covered = (found["low"] <= mem) & (mem <= found["high"])
    assert covered.mean() == pytest.approx(0.95, abs=0.05)
    assert covered[rate_out > 0.7].mean() == pytest.approx(0.95, abs=0.07)


def test_more_runs_tell_more():
    errors = []
    for n_runs in (1, 4, 16):
        table, runs, rate = planted(n_runs)
        errors.append(float(np.sqrt(np.mean((calibrate(table, runs)["estimate"] - rate) ** 2))))
    assert errors[0] > errors[1] > errors[2]


def test_what_seen_examples_are_missed_is_taken_off():
    table, runs, _ = planted(1)
    rng = np.random.default_rng(1)
    margins = np.where(runs.train_mask & (rng.random(runs.margins.shape) < 0.2), -1.0, runs.margins)
    found = calibrate(table, Counterfactual(runs.train_mask, margins))
    assert (found["estimate"] - calibrate(table, runs)["estimate"]).mean() == pytest.approx(-0.2, abs=0.02)


def test_few_misses_give_one_rate():
    table, runs, _ = planted(1)
    margins = np.ones((1, N))
    margins[0, np.flatnonzero(~runs.train_mask[0])[0]] = -1
    found = calibrate(table, Counterfactual(runs.train_mask, margins))
    assert found["estimate"].max() < 0.05
    assert found["probability"].max() < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: (t[:-1], r), "received 4000 examples, accepted: the dataset's 3999"),
        (lambda t, r: (t, Counterfactual(np.ones((1, N), bool), r.margins)), "on all examples or none"),
        (lambda t, r: (t, r, LOG - {"head"}), "without classes or last linear layer"),
    ],
)
def test_nonsense_is_refused(change, message):
    table, runs, _ = planted(1)
    with pytest.raises(ValueError, match=message):
        calibrate(*change(table, runs))


@pytest.fixture
def small():
    """A network of two hidden layers, its data, and a held-out run."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    given = rng.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
    return model, given, Counterfactual(rng.random((1, 60)) < 0.6, rng.normal(size=(1, 60)))


@pytest.mark.parametrize(("log", "n_scores", "n_of_layers"), [(True, 4, 1), (False, 8, 3)])
def test_several_layers_are_calibrated_by_the_same_scores_as_one(small, log, n_scores, n_of_layers):
    model, given, runs = small
    losses = TrainingLog.from_losses(np.random.default_rng(1).random((2, 60))) if log else None
    one, two = (audit(model, given, layer, log=losses, held_out=runs) for layer in ("1", "[01]"))
    assert two.layers == ["0", "1"]
    features = [_features(found.table, found.layers, found.evidence) for found in (one, two)]
    assert features[0].shape == features[1].shape == (60, n_scores)
    held = two.table[["maximal_dimensionality:0", "maximal_dimensionality:1"]].mean(axis=1)
    np.testing.assert_allclose(features[1][:, 1], np.log(held))
    assert (np.abs(features[0] - features[1]).max(axis=0) > 1e-9).sum() == n_of_layers
    expected = calibrate_on(two.table, two.layers, two.evidence, runs)
    pd.testing.assert_frame_equal(two.table[expected.columns], expected)


def test_scores_are_chosen_by_the_evidence_and_not_by_the_columns(small):
    model, given, runs = small
    plain = audit(model, given, held_out=runs)
    with_log = audit(model, given, log=TrainingLog.from_losses(np.random.default_rng(1).random((1, 60))))
    found = calibrate_on(with_log.table, with_log.layers, plain.evidence, runs)
    pd.testing.assert_frame_equal(found, plain.table[found.columns])
