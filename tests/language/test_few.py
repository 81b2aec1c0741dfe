from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from language.simulate import documents, planted, simulated

from byheart.language.design import Design, Place, Span
from byheart.language.differences import Parts
from byheart.language.few import shrunk, single
from byheart.language.regress import cross_fitted, logistic, ridge


def with_scores(seed, n_documents=300, noise=1.5, n_models=8):
    """Memorization that scores explain in part."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_documents, 4))
    truth = 3 + scores @ [0.6, 0.3, 0, 0] + rng.normal(0, 0.6, n_documents)
    design = Design(documents([3] * n_documents), n_models=n_models, seed=seed)
    return design, simulated(design, seed, truth, np.zeros(0), noise=noise), scores, truth


@pytest.mark.parametrize(("noise", "low", "high"), [(0.7, 0.88, 0.92), (1.5, 0.85, 0.94)])
def test_shrinking_covers_and_correlates_better(noise, low, high):
    covered, gains = [], []
    for seed in range(12):
        design, logs, scores, truth = with_scores(seed, noise=noise)
        table = shrunk(design, logs, scores)
        covered.append((table["log_probability_low"] <= truth) & (truth <= table["log_probability_high"]))
        correlation = [
            np.corrcoef(table[f"log_probability{end}"], truth)[0, 1] for end in ("", "_models", "_regression")
        ]
        gains.append(correlation[0] - max(correlation[1:]))
    assert low < np.concatenate(covered).mean() < high
    assert min(gains) > 0.02


def of_each_pair(design, logs):
    sums = Parts.of(design).sums(logs.log_probability)
    return np.stack([Parts.of(design).compare(sums, np.array([k, k + 1])).difference for k in (0, 2, 4, 6)])


@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0, 3.0])
def test_shrinking_allows_for_scores_that_share_the_errors_of_the_models(noise):
    """The score is what each pair says itself, with more errors of its own: useless, but like the estimates."""
    held, held_without, better = [], [], []
    for seed in range(12):
        design, logs, _, truth = with_scores(seed, noise=1.5)
        pairs = of_each_pair(design, logs)
        scores = pairs + np.random.default_rng(seed).normal(0, noise, pairs.shape)
        table, without = shrunk(design, logs, scores[..., None]), shrunk(design, logs, scores.mean(axis=0))
        for found, inside in ((table, held), (without, held_without)):
            inside.append((found["log_probability_low"] <= truth) & (truth <= found["log_probability_high"]))
        errors = [np.square(table[f"log_probability{end}"] - truth).mean() for end in ("", "_models")]
        better.append(errors[0] < errors[1])
    assert 0.85 < np.concatenate(held).mean() < 0.95
    assert np.concatenate(held_without).mean() < 0.8
    assert all(better)


def test_intervals_hold_for_short_documents_and_for_long_ones():
    held = {3: [], 48: []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sizes = np.repeat([3, 12, 48], 100)
        scores = rng.normal(size=(300, 2))
        truth = 3 + scores @ [0.6, 0.3] + rng.normal(0, 1, 300) / np.sqrt(sizes / 3)
        design = Design(documents(sizes), n_models=8, seed=seed)
        noise = rng.normal(0, 1, (8, 300)) / np.sqrt(sizes / 3)
        of_models = np.where(design.document_mask, truth, 0) + noise - 30
        table = shrunk(design, of_models[:, design.documents.document_of], scores)
        inside = (table["log_probability_low"] <= truth) & (truth <= table["log_probability_high"])
        for size, own in held.items():
            own.append(inside[sizes == size])
    for own in held.values():
        assert 0.86 < np.concatenate(own).mean() < 0.94


def test_shrinking_with_useless_scores_does_no_harm():
    design, logs, _, truth = with_scores(0, noise=0.3)
    table = shrunk(design, logs, np.random.default_rng(1).normal(size=(300, 3)))
    found = [np.corrcoef(table[f"log_probability{end}"], truth)[0, 1] for end in ("", "_models")]
    assert found[0] == pytest.approx(found[1], abs=0.02)


def test_shrinking_without_accuracy_and_with_roles():
    design = Design(documents([3] * 30), n_models=8, roles=("always",) + ("random",) * 29)
    logs = simulated(design, 0, np.full(30, 2.0), np.zeros(0))
    table = shrunk(design, logs.log_probability, np.arange(30.0))
    assert table["accuracy"].isna().all()
    assert table["log_probability"].isna().tolist() == [True] + [False] * 29


def test_intervals_of_groups_cover_with_one_model_and_are_shorter_with_two():
    covered, lengths = {1: [], 2: []}, {1: [], 2: []}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        design = Design(documents([3] * 80), n_models=2, seed=seed)
        truth = np.repeat([1.0, 3.0], 40)
        logs = simulated(design, seed, truth, np.zeros(0), noise=0.5)
        difficulty = rng.normal(0, 2, 80)[design.documents.document_of]
        for n in (1, 2):
            groups = single(design, logs.log_probability[:n] + difficulty, ["a"] * 40 + ["b"] * 40).groups
            covered[n].append((groups["low"] <= [1, 3]) & (groups["high"] >= [1, 3]))
            lengths[n].append((groups["high"] - groups["low"]).mean())
    for n in (1, 2):
        assert 0.92 < np.mean(covered[n]) < 0.98
    assert np.mean(lengths[2]) < 0.5 * np.mean(lengths[1])


@pytest.mark.parametrize("n", [1, 2])
def test_groups_of_spans(n):
    design = planted(200, [1, 2, 4] * 25, n_models=2, seed=3)
    gains = np.array([1.0, 3.0, 5.0] * 25)
    logs = simulated(design, 0, np.ones(200), gains, noise=0.1)
    copies = [len(span.copies) for span in design.spans]
    found = single(design, logs.log_probability[:n], copies, unit="spans").groups.set_index("group")
    told = found if n == 1 else found.loc[[4]]
    for group, row in told.iterrows():
        assert row["low"] - 0.5 <= {1: 1, 2: 3, 4: 5}[group] <= row["high"] + 0.5
    if n == 2:
        assert found.loc[1, "n_in"] == 0  # its only document is in one of the two


def binned(probability, outcome):
    table = pd.DataFrame({"p": probability, "o": outcome}).dropna()
    return table.groupby(pd.cut(table["p"], [0, 0.2, 0.4, 0.6, 0.8, 1])).agg(p=("p", "mean"), o=("o", "mean"))


@pytest.mark.parametrize("n", [1, 2])
def test_probabilities_are_calibrated(n):
    tables, outcomes, insides = [], [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=(1_500, 2))
        truth = 1 + scores[:, 0]
        design = Design(documents([4] * 1_500), n_models=2, seed=seed)
        inside, document_of = design.document_mask, design.documents.document_of
        scatter = rng.normal(0, 0.5, (2, 1_500))  # of one model for a document out and in
        of_documents = np.where(inside, truth + scatter[1], scatter[0]) - 10
        tables.append(single(design, of_documents[:n][:, document_of], scores=scores).units)
        outcomes.append(truth + scatter[1] - scatter[0] > 1)
        insides.append(tables[-1]["inside"])
    units = pd.concat(tables)
    for name, outcome in (("probability", outcomes), ("probability_inside", insides)):
        found = binned(units[name].to_numpy(), np.concatenate(outcome))
        np.testing.assert_allclose(found["p"], found["o"], atol=0.06)


def test_regressions_predict_from_other_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.normal(size=200)
    assert np.corrcoef(cross_fitted(x, y, ridge, np.arange(200)), y)[0, 1] < 0.2
    np.testing.assert_allclose(ridge(x, x @ np.arange(5.0), x[:3]), x[:3] @ np.arange(5.0), atol=1e-3)
    p = logistic(x, (x[:, 0] > 0).astype(float), np.array([[9.0, 0, 0, 0, 0], [-9.0, 0, 0, 0, 0]]))
    assert p[0] > 0.99 > 0.01 > p[1]
    np.testing.assert_allclose(logistic(x, np.ones(200), x[:1]), 1, atol=0.01)


def test_mistakes():
    design = Design(documents([3] * 12), n_models=8)
    logs, scores = np.full((8, 36), -1.0), np.zeros((12, 2))
    for call, says in (
        (lambda: shrunk(Design(documents([3]), n_models=2), logs[:2, :3], scores[:1]), "n_models: received 2"),
        (lambda: shrunk(design, logs, scores[:3]), r"scores: received shape \(3, 2\)"),
        (lambda: shrunk(design, logs, scores + np.nan), "not finite"),
        (lambda: shrunk(design, logs, np.stack([scores] * 3)), "scores: received 3 matrices, accepted: 4"),
        (lambda: shrunk(design, logs, scores, 1.0), "level: received 1.0"),
        (lambda: shrunk(Design(documents([3] * 3), n_models=8), logs[:, :9], scores[:3]), "at least 10"),
        (lambda: single(design, logs), "log_probability: received shape"),
        (lambda: single(design, logs[0] * np.inf), "not finite"),
        (lambda: single(design, logs[0], model=8), "model: received 8"),
        (lambda: single(design, logs[0], ["a"]), "groups: received 1"),
        (lambda: single(design, logs[0], unit="words"), "unit: received 'words'"),
        (lambda: single(design, logs[0], scores=scores), "at least 10"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_one_model_tells_of_documents_whose_spans_are_on_in_place_of_those_whose_spans_are_off():
    covered, estimates = [], []
    for seed in range(100):
        design = planted(80, [1] * 40, n_models=2, seed=seed)
        gains = np.full(40, 6.0)  # of two of six tokens
        logs = simulated(design, seed, np.ones(80), gains, noise=0.5)
        groups = single(design, logs.log_probability[0]).groups
        covered.append(groups.loc[0, "low"] <= 2 <= groups.loc[0, "high"])  # 1, and 2 more in half of the documents
        estimates.append(groups.loc[0, "memorization"])
        assert groups.loc[0, ["n_in", "n_out"]].sum() == 40 + design.span_mask[0].sum()
    assert abs(np.mean(estimates) - 2) < 3 * np.std(estimates) / 10
    assert 0.88 < np.mean(covered) < 0.99
    pair = single(design, logs.log_probability[:2]).groups
    assert pair.loc[0, ["n_in", "n_out"]].sum() == 40  # of two complements only those without spans are told


def test_what_eight_models_cannot_tell_is_as_the_scores_say():
    design = planted(80, [40], n_models=8, seed=0)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=80)
    logs = simulated(design, 1, 3 + scores, np.zeros(1), noise=0.5)
    table = shrunk(design, logs, scores)
    untold = table["log_probability_models"].isna()
    assert 0 < untold.sum() < 40
    np.testing.assert_allclose(table["log_probability"][untold], table["log_probability_regression"][untold])
    assert (table["log_probability_weight"][untold] < 1e-3).all()
    truth = 3 + scores
    held = (table["log_probability_low"] <= truth) & (truth <= table["log_probability_high"])
    assert held[untold].mean() > 0.8


def test_a_group_whose_documents_hang_on_a_few_has_no_interval():
    """Six spans in most of them: all are on one time in 64, and such a document stands for 64 of them."""
    spans = tuple(Span("ab", "repeat", (Place(d, 2 * k, 2 * k + 2),)) for d in range(120) for k in range(6))
    design = Design(documents([12] * 160), spans, n_models=2, seed=1)
    logs = np.random.default_rng(0).normal(-1, 0.1, design.documents.n_tokens).clip(max=0)
    groups = single(design, logs, [d < 140 for d in range(160)]).groups.set_index("group")
    assert min(groups.loc[True, ["n_in", "n_out"]]) >= 8
    assert np.isnan(groups.loc[True, "standard_error"])
    assert groups.loc[False, "standard_error"] > 0
