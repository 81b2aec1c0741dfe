"""The study of wrong labels: its measures on known answers, its claims on made-up tables, and itself in small."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.studies import reproduce
from byheart.studies.catalogue import STUDIES
from byheart.studies.wrong_labels import claims, runs
from byheart.studies.wrong_labels.networks import Network

WRONG = np.arange(100) < 10


def differences(*rows: tuple[str, float, float]) -> dict[str, pd.DataFrame]:
    table = pd.DataFrame(rows, columns=["network", "value", "high"])
    return {"difference": table.assign(ours="wrong_label", seed=range(len(table)))}


def test_precision_at_the_number_of_wrong_labels():
    assert runs._precision(WRONG.astype(float), WRONG) == 1
    assert runs._precision(-WRONG.astype(float), WRONG) == 0
    half = np.where(np.arange(100) < 5, 2.0, np.where(np.arange(100) >= 95, 1.0, 0.0))
    assert runs._precision(half, WRONG) == 0.5


def test_confidences_are_those_of_the_probabilities():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    labels = np.arange(50) % 4
    own = p[np.arange(50), labels]
    others = np.where(np.arange(4) == labels[:, None], 0, p).max(axis=1)
    table = pd.DataFrame({"loss": -np.log(own), "margin": np.log(own) - np.log(others)})
    loss, margin = runs._confidences(table)
    np.testing.assert_allclose(np.exp(-loss), own)
    np.testing.assert_allclose(-margin, own - others)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([("a", 0.1, 0.2), ("b", -0.04, 0.0)], "reproduced"),
        ([("a", 0.1, 0.2), ("b", -0.2, -0.1), ("b", -0.2, -0.06)], "differs"),
        ([("a", 0.1, 0.2), ("b", -0.2, -0.1), ("b", -0.1, 0.0)], "inconclusive"),
    ],
)
def test_worse_on_one_network_refutes(rows, verdict):
    assert claims._at_least("wrong_label")(differences(*rows)).verdict == verdict


@pytest.mark.parametrize(("precision", "verdict"), [(0.1, "reproduced"), (0.4, "inconclusive"), (0.9, "differs")])
def test_only_networks_that_left_wrong_labels_unfitted_count(precision, verdict):
    suspects = pd.DataFrame({"network": ["a", "b"], "seed": 1, "share_wrong": 0.03, "wrong_fitted": [0.1, 0.9]})
    rows = [("a", "score", precision), ("b", "score", 1.0), ("a", "wrong_label", 0.9), ("b", "wrong_label", 0.9)]
    table = pd.DataFrame(rows, columns=["network", "ranking", "value"]).assign(seed=1)
    assert claims._is_another_question({"suspects": suspects, "precision": table}).verdict == verdict


@pytest.mark.parametrize(
    ("shares", "verdict"), [((0.6, 0.9), "reproduced"), ((0.4, 0.9), "inconclusive"), ((0.1, 0.4), "differs")]
)
def test_suspects_are_judged_by_network(shares, verdict):
    planted = pd.DataFrame({"network": ["a", "b"], "share_wrong": 0.03, "wrong_of_suspected": shares})
    clean = pd.DataFrame({"network": ["a"], "share_wrong": [0.0], "n_suspected": [3], "n_examples": [100]})
    found = claims._suspects_are_wrong({"suspects": pd.concat([planted, clean])})
    assert found.verdict == verdict
    assert "3.0%" in found.ours


@pytest.mark.slow
def test_it_runs_small_and_judges_every_claim(tmp_path):
    def groups(scale: str) -> dict[str, list[Network]]:
        planted = [Network("digits", "MLP", n_epochs, seed) for n_epochs in (2, 20) for seed in (1, 2)]
        return {"planted": planted, "clean": [Network("digits", "MLP", 2, 1, 0.0)]}

    small = dataclasses.replace(STUDIES["wrong-labels"], groups=groups)
    verdicts = reproduce(small, "quick", tmp_path, n_workers=1)
    assert list(verdicts["claim"]) == [claim.id for claim in small.claims]
    precision = pd.read_csv(tmp_path / "precision.csv")
    assert (precision["low"] <= precision["value"]).all()
    assert precision.query("ranking == 'wrong_label'")["value"].min() > 0.7
    assert (tmp_path / "wrong-labels.png").is_file()
