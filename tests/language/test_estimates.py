from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from language.simulate import documents, planted, simulated

from byheart.language.design import Design, Place, Span
from byheart.language.estimates import Estimates, estimate, influence


@pytest.fixture(scope="module")
def design():
    return planted(60, [1] * 8 + [2] * 4 + [4] * 4, n_models=16, seed=1, roles=("random",) * 58 + ("always", "never"))


@pytest.fixture(scope="module")
def logs(design):
    rng = np.random.default_rng(2)
    return simulated(design, 0, rng.normal(2, 0.5, 60), rng.normal(4, 1, 16))


@pytest.fixture(scope="module")
def estimates(design, logs):
    return estimate(design, logs)


def test_documents_by_hand():
    design = Design(documents([2, 4, 3]), n_models=4, roles=("random", "random", "never"))
    inside = design.document_mask
    means = np.where(inside, [-1.0, -2.0, 0], [-3.0, -2.5, -4.0])
    given = means[:, design.documents.document_of]
    table = estimate(design, (given, given > -2.2)).documents
    np.testing.assert_allclose(table["log_probability"], [2, 0.5, np.nan])
    np.testing.assert_allclose(table["bits"], np.array([4, 2, np.nan]) / np.log(2))
    np.testing.assert_allclose(table["accuracy"], [1, 1, np.nan])
    np.testing.assert_allclose(table["log_probability_out"], [-3, -2.5, -4])
    np.testing.assert_allclose(table["log_probability_in"], [-1, -2, np.nan])
    np.testing.assert_allclose(table["log_probability_se"], [0, 0, np.nan])
    assert table["n_in"].tolist() == [2, 2, 0]


def test_standard_error_by_hand():
    design = Design(documents([1]), n_models=4)
    values = np.where(design.document_mask[:, 0], -1.0, -5.0)
    values[np.flatnonzero(design.document_mask[:, 0])[0]] = -2.0
    row = estimate(design, values[:, None]).documents.iloc[0]
    assert row["log_probability"] == pytest.approx(3.5)
    assert row["log_probability_se"] == pytest.approx(0.5)
    assert np.isnan(row["accuracy"])


def test_span_by_hand_whatever_happens_where_the_document_is_out():
    design = planted(2, [2], size=5, n_models=16)
    on = design.span_mask[:, 0, None] & design.document_mask[:, design.documents.document_of]
    base = np.repeat([-4.0, -7.0], 5)
    given = np.where(design.document_mask[:, design.documents.document_of], base, -50)
    given = given + 2 * on * (design.span_of >= 0) + 0.25 * on * (design.span_of < 0)
    found = estimate(design, (given, on))
    row = found.spans.iloc[0]
    assert row["log_probability"] == pytest.approx(2)
    assert row["log_probability_se"] == pytest.approx(0, abs=1e-6)
    assert row["log_probability_off"] == pytest.approx(-5.5)
    assert row["bits"] == pytest.approx(4 / np.log(2))
    assert (row["accuracy"], row["recited_on"], row["recited_off"]) == (1, 1, 0)
    assert row["rest"] == pytest.approx(0.25)
    assert row["document_log_probability"] == pytest.approx(46.5)
    assert 1 <= row["n_seen"] <= 2
    of_spans = found.tokens[found.tokens["span"] == 0]
    np.testing.assert_allclose(of_spans["log_probability"], 2, atol=1e-6)
    assert found.rest.columns.tolist() == ["text", "rest", "rest_se"]


def test_tokens_agree_with_documents(design, logs, estimates):
    tokens = estimates.tokens
    outside = tokens[tokens["span"] < 0].groupby("document")["log_probability"].mean()
    np.testing.assert_allclose(outside, estimates.documents["log_probability_rest"], atol=1e-4)
    single = estimates.spans.query("n_copies == 1")
    of_spans = tokens[tokens["span"] >= 0].groupby("span")["log_probability"].mean()[single.index]
    np.testing.assert_allclose(of_spans, single["log_probability"], atol=1e-4)


def test_all_models_tell_of_documents_that_none_trains_on():
    spans = (
        Span("cd", "near-copies", (Place(0, 2, 4),), (Place(1, 2, 4),), {"n_copies": 1, "changed": 0.1}),
        Span("cd", "probe", (), (Place(1, 0, 2),)),
    )
    design = Design(documents([6, 6]), spans, 8, roles=("always", "never"))
    given = np.full((8, 12), -5.0)
    given[:, 8:10] += 3 * design.span_mask[:, :1]
    found = estimate(design, (given, given > -1))
    np.testing.assert_allclose(found.spans["log_probability"], [3, 0])
    assert (found.spans.loc[0, ["n_on", "n_off"]].sum(), found.spans.loc[0, "n_seen"]) == (8, 1)
    np.testing.assert_allclose(found.tokens["log_probability"][8:10], 3)
    np.testing.assert_allclose(found.chance["log_probability"], [-5, np.nan])


def errors_of(seeds, n_models, influences=0.0):
    of_documents, of_spans = [], []
    for seed in seeds:
        design = planted(80, [1] * 20 + [2] * 10 + [4] * 10, n_models=n_models, seed=seed)
        rng = np.random.default_rng([seed, 1])
        effects, gains = rng.normal(2, 1, 80), rng.normal(3, 1, 40)
        found = estimate(design, simulated(design, seed, effects, gains, influence=influences))
        for errors, table, name, truth in (
            (of_documents, found.documents, "log_probability_rest", effects),
            (of_spans, found.spans, "log_probability", gains),
        ):
            errors.append(pd.DataFrame({"wrong": table[name] - truth, "error": table[f"{name}_se"]}))
    return pd.concat(of_documents), pd.concat(of_spans)


@pytest.mark.parametrize("influences", [0.0, 1.0])
def test_estimates_are_unbiased_and_their_errors_calibrated(influences):
    of_documents, of_spans = errors_of(range(12), 16, influences)
    for table in (of_documents, of_spans.dropna()):
        wrong, error = table["wrong"], table["error"]
        assert abs(wrong.mean()) < 4 * error.pow(2).mean() ** 0.5 / len(table) ** 0.5
        assert 0.9 < (error.pow(2).mean() / wrong.pow(2).mean()) ** 0.5 < 1.1


def test_reliability(estimates):
    table = estimates.reliability.set_index(["unit", "score"])
    assert set(table.index) == {(u, s) for u in ("documents", "spans") for s in ("accuracy", "log_probability")}
    nats = table.xs("log_probability", level="score")
    assert (nats["reliability"] > 0.7).all()
    assert nats["error_ratio"].between(0.8, 1.2).all()


def test_influence_by_hand():
    design = planted(24, [1, 1], n_models=32, roles=("random",) * 23 + ("always",))
    inside = design.document_mask
    scores = np.full((32, 24), -9.0) + 2 * inside
    scores[:, 3] += inside[:, 5] - 0.5
    scores[:, 4] += 0.5 * design.span_mask[:, 1]
    found = influence(design, scores[:, design.documents.document_of])
    assert found.documents[3, 5] == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(np.diag(found.documents)[:23], 2, atol=0.7)
    assert np.isnan(found.documents[:, 23]).all()
    assert found.spans[4, 1] == pytest.approx(0.5, abs=0.05)
    assert found.spans.shape == found.spans_se.shape == (24, 2)


def test_headlines(estimates):
    assert estimates.headline().startswith("55 of 55 documents are memorized, median")
    assert "spans are memorized" in estimates.headline()
    assert not estimates.underpowered
    design = planted(40, [1] * 4, n_models=16)
    nothing = estimate(design, simulated(design, 0, np.zeros(40), np.zeros(4)))
    assert "Underpowered for documents" in nothing.headline()
    few = Design(documents([4, 4]), n_models=4)
    assert estimate(few, np.full((4, 8), -1.0)).headline().startswith("Underpowered: 4 models")


def test_few_false_discoveries():
    design = planted(200, [], n_models=16)
    effects = np.repeat([0.0, 3.0], [80, 120])
    found = estimate(design, simulated(design, 0, effects, np.zeros(0)))
    count = int(found.headline().split(" of ")[0])
    assert 120 <= count <= 132


def test_save_and_load(estimates, tmp_path):
    found = Estimates.load(estimates.save(tmp_path / "e.safetensors"))
    assert found.n_models == 16
    for name in ("documents", "spans", "tokens", "reliability", "dose", "chance"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(estimates, name), check_index_type=False)
    assert found.headline() == estimates.headline()


def test_load_refuses_other_files(tmp_path):
    design = planted(2, [1], n_models=4)
    with pytest.raises(ValueError, match="as byheart wrote it"):
        Estimates.load(design.save(tmp_path / "d.safetensors"))


def test_designs_without_spans_and_with_two_models(tmp_path):
    design = Design(documents([3, 3, 3]), n_models=4)
    found = estimate(design, np.full((4, 9), -1.0))
    assert len(found.spans) == len(found.dose) == 0
    assert Estimates.load(found.save(tmp_path / "e.safetensors")).spans.columns.tolist() == found.spans.columns.tolist()
    assert influence(design, np.full((4, 9), -1.0)).spans.shape == (3, 0)
    with pytest.raises(ValueError, match="n_models: received 2"):
        estimate(Design(documents([3]), n_models=2), np.full((2, 3), -1.0))
