from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from language.texts_by_hand import design_with_spans
from scipy.stats import pearsonr, spearmanr

from byheart.language.ensemble import EnsembleConfig, train
from byheart.language.estimates import estimate
from byheart.language.leaderboard import leaderboard
from byheart.language.scores import SCORES, document_scores
from byheart.language.validation import of_pairs


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    store = tmp_path_factory.mktemp("models")
    config = EnsembleConfig(width=8, n_heads=2, n_epochs=3, batch_size=4)
    with ThreadPoolExecutor(1) as executor:
        return train(design_with_spans(12, 160), config, store=store, executor=executor)


@pytest.fixture(scope="module")
def table(ensemble):
    return leaderboard(ensemble, n_models=3).set_index("score")


def test_every_score_has_a_row(table):
    assert table.index.tolist() == list(SCORES)
    assert (table["n_scored"] == 3).all()
    assert table.loc[["unigram_surprisal", "loss", "gradient_norm", "information_gain"], "n_models"].tolist() == [
        0,
        1,
        1,
        3,
    ]
    assert (table["seconds"] > 0).all()
    found = table[[name for name in table if name.startswith(("correlation", "pearson")) and not name.endswith("_se")]]
    assert found.abs().max().max() <= 1
    assert found.notna().all().all()


@pytest.mark.parametrize("name", ["n_tokens", "loss", "loss_drop", "gradient_norm", "information_gain"])
@pytest.mark.parametrize("measure", ["log_probability", "accuracy"])
def test_correlations_with_the_estimates_of_the_models_that_took_no_part(ensemble, table, name, measure):
    design, found, n_documents = ensemble.design, [], []
    for model in (0, 2, 4):
        pair = model // 2
        others = np.setdiff1d(np.arange(6), [pair, pair + 1])
        truth = estimate(*of_pairs(ensemble, others)).documents[measure].to_numpy()
        score = document_scores(
            design,
            log_probability=ensemble.logs.log_probability,
            training=ensemble.training,
            model=ensemble.model,
            models=[model],
            names=[name],
        )[name].to_numpy(dtype=float)
        off = np.isin(design.span_of, np.flatnonzero(~design.span_mask[model]))
        masked = np.bincount(design.documents.document_of, off) > 0
        known = design.document_mask[model] & ~masked & np.isfinite(truth)
        n_documents.append(known.sum())
        values = SCORES[name].sign * score[known]
        found.append([spearmanr(values, truth[known])[0], pearsonr(values, truth[known])[0]])
    assert table.loc[name, "n_documents"] == pytest.approx(np.mean(n_documents))
    for kind, of_kind in zip(("correlation", "pearson"), np.transpose(found), strict=True):
        assert table.loc[name, f"{kind}_{measure}"] == pytest.approx(of_kind.mean())
        assert table.loc[name, f"{kind}_{measure}_se"] == pytest.approx(of_kind.std(ddof=1) / np.sqrt(3))


def test_one_model_has_no_error(ensemble):
    table = leaderboard(ensemble, n_models=1, names=["loss", "unigram_surprisal"])
    assert table["score"].tolist() == ["loss", "unigram_surprisal"]
    assert table[[name for name in table if name.endswith("_se")]].isna().all().all()


def test_what_does_not_vary_has_no_correlation(ensemble):
    without_spans = dataclasses.replace(ensemble, design=dataclasses.replace(ensemble.design, spans=()))
    table = leaderboard(without_spans, n_models=20, names=["repeated", "n_tokens"]).set_index("score")
    assert table["n_scored"].tolist() == [6, 6]  # all pairs
    assert table["correlation_log_probability"].isna().tolist() == [True, False]


@pytest.mark.parametrize("options", [{"n_models": 0}, {"names": ["no-such-score"]}])
def test_what_is_not_there_is_refused(ensemble, options):
    with pytest.raises(ValueError, match="received"):
        leaderboard(ensemble, **options)


def test_too_few_models_are_refused(ensemble):
    few = dataclasses.replace(ensemble, design=ensemble.design.of_pairs([0, 1]))
    with pytest.raises(ValueError, match="received 4 models"):
        leaderboard(few)
