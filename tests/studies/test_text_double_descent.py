"""The claims of the study on made-up tables whose answer is known, and the study in a form that takes seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.studies import reproduce
from byheart.studies.text_double_descent import STUDY, Pool

CLAIMS = {claim.id: claim for claim in STUDY.claims}
SIZES = np.array([50, 100, 200, 400, 800])


def verses(losses, bits, recited=(1, 1, 0.5, 0.1, 0)):
    """Four models for each number; the data of 200 verses have 1.2 times the capacity."""
    rows = [
        (n, 0, seed, 100, loss * (1 + 0.01 * seed), 60.0 * n, b * (1 + 0.01 * seed), share)
        for n, loss, b, share in zip(SIZES, losses, bits, recited, strict=True)
        for seed in range(4)
    ]
    names = ["n_examples", "pool", "seed", "n_parameters", "test_loss", "data_bits", "bits", "recited"]
    return pd.DataFrame(rows, columns=names)


def capacity(per_parameter=100.0):
    rows = [(n, k, k * per_parameter * n / 2) for n in (100, 400) for k in (1, 2) for _ in range(2)]
    return pd.DataFrame(rows, columns=["n_parameters", "n_examples", "bits"])


HELD = (2_500, 5_000, 9_000, 9_500, 9_000)


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("bump", verses((5, 6, 9, 5, 4), HELD), verses((9, 8, 7, 6, 5), HELD)),
        ("peak-at-capacity", verses((5, 6, 9, 5, 4), HELD), verses((5, 6, 7, 9, 4), HELD)),
        ("levels-off", verses((5, 6, 9, 5, 4), HELD), verses((5, 6, 9, 5, 4), np.array(HELD) / 4)),
        ("generalises", verses((5, 6, 9, 8, 4), HELD), verses((5, 6, 7, 8, 9), HELD)),
    ],
)
def test_a_claim_is_judged_by_its_table(claim, good, bad):
    assert CLAIMS[claim].test({"verses": good, "capacity": capacity()}).verdict == "reproduced"
    assert CLAIMS[claim].test({"verses": bad, "capacity": capacity()}).verdict == "differs"


def test_the_means_of_pools_stand_beside_the_bump():
    table = verses((5, 6, 9, 5, 4), HELD)
    two = pd.concat([table, table.assign(pool=1, test_loss=table["test_loss"] * 1.1)])
    assert (
        CLAIMS["bump"].test({"verses": two}).ours.endswith("pools: 5.1, 5.6 at 50; 6.1, 6.7 at 100; 9.1, 10.0 at 200")
    )


def test_capacity_is_compared_with_the_published_one():
    assert CLAIMS["capacity"].test({"capacity": capacity(3.55)}).verdict == "reproduced"
    found = CLAIMS["capacity"].test({"capacity": capacity(1.5)})
    assert found.verdict == "differs"
    assert "1.50 at 100 parameters, 1.50 at 400 parameters" in found.ours


def test_too_little_is_inconclusive():
    few = verses((5, 6, 9, 5, 4), HELD).query("n_examples < 200")
    for claim in ("bump", "peak-at-capacity", "generalises"):
        assert CLAIMS[claim].test({"verses": few, "capacity": capacity()}).verdict == "inconclusive"


@pytest.mark.slow
def test_the_study_runs_in_a_small_form(tmp_path):
    pools = {
        "verses": [Pool("verses", n, 8, 12, k) for n, k in ((40, 0), (40, 1), (80, 0), (160, 0))],
        "random": [Pool("random", n, 8, 12) for n in (20, 40)],
    }
    small = dataclasses.replace(STUDY, groups=lambda scale: pools)
    verdicts = reproduce(small, "quick", tmp_path)
    assert set(verdicts["claim"]) == set(CLAIMS)
    table = pd.read_csv(tmp_path / "verses.csv")
    assert sorted(set(table["n_examples"])) == [20, 40, 80]
    assert table["n_epochs"].tolist() == [6] * 8 + [4] * 4 + [2] * 4
    assert table["pool"].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert (table["train_loss"] < table["test_loss"]).all()
    assert (table["bits"] < table["data_bits"]).all()
    largest = table[table["n_examples"] == 80]
    np.testing.assert_allclose(largest["bits"], largest["bits_counterfactual"], rtol=1e-4)
    pd.testing.assert_frame_equal(reproduce(small, "quick", tmp_path), verdicts)
