from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from language.simulate import planted, simulated

from byheart.language.ensemble import Ensemble, EnsembleConfig
from byheart.language.logs import Logs
from byheart.language.validation import eight_against_many, of_pairs, one_against_many, reliability_by_number

N = 300


@pytest.fixture(scope="module")
def ensemble():
    """Thirty-two models whose memorization is known; the loss in the first epoch tells half of it."""
    rng = np.random.default_rng(0)
    truth, gains = rng.normal(3, 1, N), np.linspace(1, 3, 20)
    design = planted(N, [1, 2] * 10, n_models=32, seed=1)
    logs = simulated(design, 2, truth, gains, noise=0.8)
    first = np.broadcast_to(-(truth + rng.normal(0, 1, N))[design.documents.document_of], logs.log_probability.shape)
    training = {name: np.asarray(first, dtype=np.float32) for name in ("first_epoch", "mean_of_epochs")}
    return Ensemble(design, EnsembleConfig(), logs, training, (), Path("nowhere"))


def test_pairs_of_an_ensemble_are_its_models(ensemble):
    design, logs = of_pairs(ensemble, np.array([3, 0]))
    assert np.array_equal(design.document_mask, ensemble.design.document_mask[[6, 7, 0, 1]])
    assert np.array_equal(logs.log_probability, ensemble.logs.log_probability[[6, 7, 0, 1]])


def test_more_models_are_more_reliable(ensemble):
    table = reliability_by_number(ensemble)
    of_documents = table[(table["unit"] == "documents") & (table["score"] == "log_probability")]
    assert of_documents["n_models"].tolist() == [8] * 4 + [16] * 2 + [32]
    assert of_documents["first_model"].tolist() == [0, 8, 16, 24, 0, 16, 0]
    assert of_documents.groupby("n_models")["reliability"].mean().is_monotonic_increasing
    assert (of_documents["error_ratio"] - 1).abs().max() < 0.12


def test_eight_models_with_scores_agree_better_and_their_intervals_hold(ensemble):
    table = eight_against_many(ensemble, ["first_epoch_loss", "n_tokens"]).query("score == 'log_probability'")
    assert table["first_model"].tolist() == [0, 8, 16, 24]
    assert (table["n_others"] == 24).all()
    found = table[["correlation", "correlation_models_only", "correlation_scores_only"]].mean()
    assert found["correlation"] > found["correlation_models_only"] + 0.01
    assert found["correlation"] > found["correlation_scores_only"] + 0.1
    assert 0.86 < table["coverage"].mean() < 0.94


def test_eight_models_that_tell_of_too_few_documents_are_said_to(ensemble):
    """Every document is a copy of a span, so that of few are enough models in with the span on, and out with it."""
    design = planted(20, [1] * 20, n_models=16, seed=5)
    logs = simulated(design, 2, np.ones(20), np.ones(20))
    training = dict.fromkeys(("first_epoch", "mean_of_epochs"), logs.log_probability)
    table = eight_against_many(dataclasses.replace(ensemble, design=design, logs=logs, training=training), ["n_tokens"])
    too_few = table["n_told"] < 10
    assert too_few.any()
    assert table.loc[too_few, ["correlation", "coverage"]].isna().all().all()
    assert (table.loc[too_few, "n_documents"] == 0).all()


def test_intervals_of_one_model_hold_what_many_say_of_groups(ensemble):
    table = one_against_many(ensemble)
    assert table["group"].tolist() == ["with spans, quarter 1", *(f"without spans, quarter {q}" for q in (1, 2, 3, 4))]
    assert np.average(table["held"], weights=table["n_models"]) > 0.91
    assert (table["bias"].abs() < 3 * table["scatter"] / np.sqrt(table["n_models"])).all()
    assert 0.8 < np.sqrt((table["stated"] ** 2).mean() / (table["scatter"] ** 2).mean()) < 1.25


def test_what_runs_differ_by_is_found(ensemble):
    """Runs whose memorization of everything differs by three tenths of it."""
    rng = np.random.default_rng(3)
    factors = 1 + 0.3 * rng.normal(size=(32, 1))
    said = ensemble.logs.log_probability * factors.astype(np.float32)
    differing = dataclasses.replace(ensemble, logs=Logs(said, ensemble.logs.correct))
    alike, found = (
        np.sqrt(max(0, (table["scatter"] ** 2 - table["stated_of_run"] ** 2).sum()) / (table["truth"] ** 2).sum())
        for table in map(one_against_many, (ensemble, differing))
    )
    assert alike < 0.1
    assert 0.2 < found < 0.4
    table = one_against_many(ensemble)
    assert (table["stated_of_run"] <= table["stated"]).all()
