from __future__ import annotations

import zlib

import numpy as np
import pytest
from language.texts_by_hand import design_with_spans, documents_of

from byheart.language.design import Design
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.scores import SCORES, document_scores
from byheart.language.scores_of_models import gradient_norm, information_gain


def logs(design, seed=0):
    return -np.random.default_rng(seed).exponential(size=(design.n_models, design.documents.n_tokens))


def test_scores_of_texts_by_hand():
    design = Design(documents_of(["aab", "ab"], "ab"))
    found = document_scores(design)
    first = -(2 * np.log(2 / 4) + np.log(2 / 4)) / 3  # counts of the other document, one added: 2 and 2
    second = -(np.log(3 / 5) + np.log(2 / 5)) / 2
    assert found["unigram_surprisal"].tolist() == pytest.approx([first, second])
    assert found["n_tokens"].tolist() == [3, 2]
    assert found["zlib_ratio"].tolist() == pytest.approx([len(zlib.compress(t)) / len(t) for t in (b"aab", b"ab")])
    assert found["repeated"].tolist() == [0, 0]


def test_scores_of_models_are_means_over_those_that_were_trained_on_the_document():
    design = design_with_spans()
    given = logs(design)
    training = {"first_epoch": 2 * given, "mean_of_epochs": 1.5 * given}
    found = document_scores(design, log_probability=given, training=training)
    assert list(found) == [name for name, score in SCORES.items() if score.needs in ("texts", "logs", "training")]
    starts = design.documents.starts
    for d in range(len(design.documents)):
        rows = given[design.document_mask[:, d], starts[d] : starts[d + 1]]
        assert found["loss"][d] == pytest.approx(-rows.mean(), rel=1e-5)
        assert found["first_epoch_loss"][d] == pytest.approx(-2 * rows.mean(), rel=1e-5)
        assert found["mean_loss"][d] == pytest.approx(-1.5 * rows.mean(), rel=1e-5)
        assert found["loss_drop"][d] == pytest.approx(-rows.mean(), rel=1e-5)
        least = max(1, round(0.2 * rows.shape[1]))
        assert found["min_k"][d] == pytest.approx(np.sort(rows, axis=1)[:, :least].mean(), rel=1e-5)


def test_tokens_without_loss_do_not_count_in_scores_of_training():
    design = design_with_spans()
    given = logs(design)
    carries = np.stack([design.carries_loss(model) for model in range(design.n_models)])
    training = {name: np.where(carries, given, np.nan) for name in ("first_epoch", "mean_of_epochs")}
    found = document_scores(design, log_probability=given, training=training, names=["mean_loss"])
    number = design.documents.document_of == 1
    used = carries & number & design.document_mask[:, [1]]
    means = [-given[k][used[k]].mean() for k in range(design.n_models) if used[k].any()]
    assert found["mean_loss"][1] == pytest.approx(np.mean(means))


def test_documents_that_no_model_trained_on_have_no_score_of_models():
    design = Design(documents_of(["abc", "abd", "ace"]), roles=("never", "random", "random"))
    found = document_scores(design, log_probability=logs(design), names=["loss", "n_tokens"])
    assert found.isna().to_numpy().tolist() == [[True, False], [False, False], [False, False]]


@pytest.mark.parametrize("name", ["no-such-score", "loss", "loss_drop", "gradient_norm", "information_gain"])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"received '{name}'"):
        document_scores(design_with_spans(), names=[name])


def models_of(design):
    config = ModelConfig(1, 8, 2, design.context)
    return lambda number: Transformer(
        config, design.documents.vocabulary, draw(config, design.documents.vocabulary, number)
    )


def test_scores_that_read_models_are_means_over_those_that_were_trained_on_the_document():
    design = design_with_spans(6)
    model = models_of(design)
    found = document_scores(design, model=model, names=["gradient_norm"])["gradient_norm"]
    values = np.stack([gradient_norm(design, model(k), np.arange(12)) for k in range(6)])
    slow = [values[design.document_mask[:, d], d].mean() for d in range(12)]
    assert found.tolist() == pytest.approx(slow, rel=1e-4)


def test_references_are_of_the_next_pair_and_were_not_trained_on_the_document():
    design = design_with_spans(6)
    model = models_of(design)
    found = document_scores(design, model=model, models=[5], names=["information_gain"])["information_gain"]
    for d in range(12):
        if not design.document_mask[5, d]:
            assert np.isnan(found[d])
            continue
        (reference,) = (k for k in (0, 1) if not design.document_mask[k, d])
        slow = information_gain(design, model(5), np.array([d]), model(reference))
        assert found[d] == pytest.approx(slow[0], rel=1e-3, abs=1e-6)


def test_a_document_that_all_models_read_has_no_reference():
    design = Design(documents_of(["abc", "abd", "ace", "afg"]), n_models=4, roles=("always", *["random"] * 3))
    found = document_scores(design, model=models_of(design), names=["information_gain", "gradient_norm"])
    assert found.isna().to_numpy()[0].tolist() == [True, False]
    assert not found.isna().to_numpy()[1:].any()


def test_scores_of_some_models_are_means_over_these():
    design = design_with_spans(6)
    given = {"log_probability": logs(design), "training": {"first_epoch": logs(design, 1)}, "model": models_of(design)}
    names = ["loss", "loss_drop", "gradient_norm", "unigram_surprisal"]
    each = [document_scores(design, **given, models=[k], names=names) for k in (1, 4)]
    both = document_scores(design, **given, models=[1, 4], names=names)
    for name in names:
        slow = np.nanmean(np.stack([own[name] for own in each])[:, ~both[name].isna()], axis=0)
        assert both[name].dropna().tolist() == pytest.approx(slow.tolist())
    assert np.array_equal(both["loss"].isna(), ~design.document_mask[[1, 4]].any(axis=0))


def test_every_score_is_of_the_documents_that_its_models_were_trained_on():
    design = design_with_spans()
    given = {"log_probability": logs(design), "training": {"first_epoch": logs(design), "mean_of_epochs": logs(design)}}
    found = document_scores(design, **given, model=models_of(design), models=[0])
    assert list(found) == list(SCORES)
    assert found[design.document_mask[0]].notna().to_numpy().all()
    assert found[["loss", "mean_loss", "self_influence"]][~design.document_mask[0]].isna().to_numpy().all()


@pytest.mark.parametrize("models", [[], [4], [-1]])
def test_models_that_are_not_there_are_refused(models):
    with pytest.raises(ValueError, match="models: received"):
        document_scores(design_with_spans(), models=models)
