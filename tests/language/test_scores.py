from __future__ import annotations

import zlib

import numpy as np
import pytest
from language.texts_by_hand import design_with_spans, documents_of

from byheart.language.design import Design
from byheart.language.scores import SCORES, document_scores


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
    assert list(found) == list(SCORES)
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


@pytest.mark.parametrize("name", ["no-such-score", "loss", "loss_drop"])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"received '{name}'"):
        document_scores(design_with_spans(), names=[name])
