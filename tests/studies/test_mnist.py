"""The study of MNIST in a form that takes seconds, and its claims on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from byheart.datasets import Labelled, mnist_5k
from byheart.studies import mnist
from byheart.studies.mnist import reproduce_mnist
from byheart.studies.readme import MARK, write_summary

N = 200


@pytest.fixture
def few(monkeypatch):
    """Two hundred images, few networks."""
    data = mnist_5k()
    monkeypatch.setattr(
        mnist, "mnist_5k", lambda: Labelled("MNIST", data.inputs[:N], data.labels[:N], data.label_names)
    )
    monkeypatch.setattr(mnist, "_N_EXAMPLES", N)
    monkeypatch.setattr(mnist, "_SIZES", {"quick": (50,)})
    monkeypatch.setattr(mnist, "_N_MODELS", {"quick": 5})


def test_the_study_runs_small_and_judges_every_claim(few, tmp_path):
    calls = []
    out = tmp_path / "mnist"
    verdicts = reproduce_mnist("quick", out, n_workers=2, on_progress=lambda *call: calls.append(call))
    assert list(verdicts["claim"]) == [claim.id for claim in mnist.CLAIMS]
    assert calls[-1] == (5, 5, f"MNIST, {N}")
    by_size = pd.read_csv(out / "by-size.csv")
    assert set(by_size["n_examples"]) == {50, N}
    assert by_size["largest"].max() <= 1 + 1e-9  # a leverage
    assert pd.read_csv(out / "by-epoch.csv")["epoch"].max() == 30
    assert MARK in (out / "README.md").read_text(encoding="utf-8")
    for name in ("sorted", "images"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    summary = write_summary(tmp_path)  # a study without runs of the toy model
    assert len(summary) == len(mnist.CLAIMS)


def table(n=5_000, seeds=2, **columns) -> pd.DataFrame:
    """Networks of which a tenth of the examples is memorised, with what is given instead of noise."""
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(seeds):
        mem = (np.arange(n) < n / 10).astype(float)
        part = pd.DataFrame({"dataset": f"MNIST, {n:,}", "seed": seed, "example": np.arange(n), "mem": mem})
        for epoch in (0, 1, 2, 5, 10, 30):
            part[f"D*_{epoch}"] = rng.uniform(0.5, 1.5, n)
            part[f"wrong_{epoch}"] = rng.random(n) < 0.05
        part["score"] = rng.random(n)
        for name, make in columns.items():
            part[name.replace("D_", "D*_")] = make(part)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def verdict(claim: str, examples: pd.DataFrame) -> str:
    return next(c for c in mnist.CLAIMS if c.id == claim).test(examples).verdict


def test_claims_on_known_answers():
    noise = table()
    assert verdict("top-memorised", noise) == "differs"  # a tenth of the top is, as of all
    assert verdict("top-memorised", table(D_30=lambda p: 1 + p["mem"])) == "reproduced"
    assert verdict("weighted-tells", noise) == "differs"
    assert verdict("weighted-tells", table(score=lambda p: p["mem"])) == "reproduced"
    assert verdict("of-training", noise) == "reproduced"
    assert verdict("of-training", table(D_30=lambda p: p["D*_0"])) == "differs"
    assert verdict("errors-spread", noise) == "reproduced"
    unlike = table(wrong_1=lambda p: p["D*_1"] > 1.45)
    assert verdict("errors-spread", unlike) == "differs"
    both = pd.concat([noise, unlike.assign(dataset="Fashion-MNIST, 5,000")])
    assert verdict("errors-spread", both) == "inconclusive"  # on one dataset only


def test_few_examples_cannot_have_far_outliers():
    far = {"D_30": lambda p: np.where(np.arange(len(p)) == 0, 90, 1.0)}
    assert verdict("outliers", table(**far)) == "inconclusive"
    assert verdict("outliers", table(n=60_000, seeds=1, **far)) == "reproduced"
    assert verdict("outliers", table(n=60_000, seeds=1)) == "differs"
