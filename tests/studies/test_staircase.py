"""The staircase's claims on made-up tables whose answer is known, its truth on known losses, and a small run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.language.rotation import Rotation
from byheart.studies import reproduce
from byheart.studies.staircase import STUDY, Setting, _truth

CLAIMS = {claim.id: claim for claim in STUDY.claims}
N = 32


def tables(ratio=1.0, spread=0.03, half=0.08, unpaired=0.3, overhead=0.026):
    """Runs whose truth is 0.1, with estimates around it in a normal's quantiles."""
    from scipy.stats import norm

    z = norm.ppf((np.arange(N) + 0.5) / N)
    memorized = 0.1 * (ratio + spread * z)
    estimates = pd.DataFrame({"memorized": memorized, "truth": 0.1, "truth_se": 0.001, "overhead": overhead})
    estimates["low"], estimates["high"] = memorized - 0.1 * half, memorized + 0.1 * half
    estimates["unpaired"] = 0.1 * (1 + unpaired * z[::-1])
    return {"estimates": estimates, "epochs": estimates.assign(epoch=0)}


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("unbiased", {}, {"ratio": 1.3}),
        ("single-run", {}, {"spread": 0.5}),
        ("covers", {}, {"half": 0.01}),
        ("unpaired", {}, {"unpaired": 0.02}),
        ("cost", {}, {"overhead": 0.05}),
    ],
)
def test_a_claim_is_judged_by_its_table(claim, good, bad):
    assert CLAIMS[claim].test(tables(**good)).verdict == "reproduced"
    assert CLAIMS[claim].test(tables(**bad)).verdict == "differs"


def test_what_is_neither_is_inconclusive():
    assert CLAIMS["single-run"].test(tables(spread=0.1)).verdict == "inconclusive"


def test_the_truth_is_what_an_exposure_did():
    rng = np.random.default_rng(0)
    n, n_runs, n_epochs = 200, 8, 3
    rotations = [Rotation(n, seed=run) for run in range(n_runs)]
    losses = np.tile(rng.normal(3, 1, n), (n_runs, n_epochs + 1, 1))
    losses += rng.normal(0, 0.5, (n_runs, 1, 1))  # runs that are better at everything
    for run, rotation in enumerate(rotations):
        for epoch in range(n_epochs):
            losses[run, epoch + 1, rotation.out(epoch)] += 0.1 * (epoch + 1)
    found = _truth(rotations, losses - losses.mean(axis=2, keepdims=True), without=3)
    assert found.shape == (n_runs - 1, n_epochs)
    assert found.mean(axis=0) == pytest.approx([0.1, 0.2, 0.3], abs=0.01)


@pytest.mark.slow
def test_it_runs_small(tmp_path):
    small = dataclasses.replace(STUDY, groups=lambda scale: {"runs": [Setting(120, 2, 4, width=16)]})
    verdicts = reproduce(small, "quick", tmp_path, n_workers=1)
    assert list(verdicts["claim"]) == list(CLAIMS)
    kept = pd.read_csv(tmp_path / "estimates.csv")
    assert len(kept) == 2 * 4
    assert (kept["low"] < kept["memorized"]).all()
    assert len(pd.read_csv(tmp_path / "epochs.csv")) == 2 * 8
    assert "4 transformers" in (tmp_path / "README.md").read_text()
