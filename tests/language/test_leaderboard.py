from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from language.texts_by_hand import random_documents

from byheart.language.design import Design
from byheart.language.ensemble import EnsembleConfig, train
from byheart.language.leaderboard import leaderboard
from byheart.language.scores import SCORES
from byheart.language.scores_of_models import MEANINGS


def test_every_score_is_compared_with_what_the_other_models_say(tmp_path):
    design = Design(random_documents(40, shortest=4, longest=12), (), 8, context=12)
    config = EnsembleConfig(width=8, n_heads=2, n_epochs=20, batch_size=4)
    with ThreadPoolExecutor(1) as executor:
        ensemble = train(design, config, store=tmp_path, executor=executor)
    table = leaderboard(ensemble, n_models=2).set_index("score")
    assert list(table.index) == [*SCORES, *MEANINGS]
    assert (table["n_models"] == 2).all()
    assert table["needs"].value_counts()["model"] == len(MEANINGS)
    correlations = table.filter(regex="^(correlation|rank)_").drop(columns=[c for c in table if c.endswith("_se")])
    assert (correlations.abs().fillna(0) <= 1).all().all()
    assert np.isnan(table.loc["repeated", "correlation_accuracy"])  # nothing is repeated: it says nothing
    assert (table["seconds"] >= 0).all()
    few = dataclasses.replace(ensemble, design=design.of_pairs([0, 1]))
    with pytest.raises(ValueError, match="ensemble: received 4 models, accepted: at least 6"):
        leaderboard(few)
