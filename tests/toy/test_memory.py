"""Impossible sizes are refused with the bytes that they would take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from byheart.toy import memory
from byheart.toy.config import TrainConfig
from byheart.toy.memory import check_memory, least_bytes, memory_size
from byheart.toy.sweep import sweep
from byheart.toy.train import train


@pytest.mark.parametrize(
    ("field", "value", "received"),
    [
        ("n_examples", 10**10, "10,000,000,000"),
        ("n_steps", 10**400, r"1\.0e\+400"),
        ("n_steps", 10**13, "10,000,000,000,000"),
        ("n_hidden", 10**10, "10,000,000,000"),
        ("n_test", 10**12, "1,000,000,000,000"),
        ("repeats", (2**63, 2**63), r"counts that sum to 1\.8e\+19"),
    ],
    ids=["examples", "endless steps", "steps", "width", "test examples", "repeats"],
)
def test_impossible_sizes_are_refused_with_the_bytes_they_take(tmp_path, monkeypatch, field, value, received):
    monkeypatch.setattr(memory, "memory_size", lambda: 64 * 10**9)
    config = TrainConfig(
        **{"n_examples": 5, "n_features": 1_000, "sparsity": 0.9, "n_steps": 50, "n_test": 2, field: value}
    )
    words = rf"{field}: received {received}, for which a run takes at least [\d,.e+]+ bytes, accepted: what fits in the"
    with pytest.raises(ValueError, match=words):
        train(config)
    with pytest.raises(ValueError, match=words):
        sweep([config], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_said_are_no_more_than_those_taken():
    """Or a run that is possible would be refused."""
    for fields in ({"n_examples": 40_000}, {"n_examples": 5, "n_test": 40_000}, {"n_examples": 3, "n_hidden": 400}):
        config = TrainConfig(**{"n_features": 1_000, "sparsity": 0.97, "n_steps": 1, "n_test": 10} | fields)
        train(config)
        tracemalloc.start()
        train(config)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak / 8 < sum(least_bytes(config).values()) <= peak


def test_a_batch_counts_where_examples_have_no_end(monkeypatch):
    monkeypatch.setattr(memory, "memory_size", lambda: 10**6)
    with pytest.raises(ValueError, match=r"batch_size: received 100,000, "):
        check_memory(TrainConfig(n_examples="inf", batch_size=100_000, n_steps=5, n_features=100, sparsity=0.9))


def test_a_machine_that_does_not_say_its_memory_refuses_nothing(monkeypatch):
    assert memory_size() is None or memory_size() > 10**8
    monkeypatch.setattr(memory, "memory_size", lambda: None)
    check_memory(TrainConfig(n_examples=10**12))


def test_a_run_that_is_there_is_loaded_on_a_machine_that_could_not_make_it(tmp_path, monkeypatch):
    config = TrainConfig(n_examples=3, n_features=20, n_steps=5)
    made = train(config, out=tmp_path)
    monkeypatch.setattr(memory, "memory_size", lambda: 10)
    np.testing.assert_array_equal(train(config, out=tmp_path).W, made.W)
    with pytest.raises(ValueError, match="bytes of memory here"):
        train(config)
