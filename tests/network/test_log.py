"""The log of losses: averages, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from byheart.network.log import TrainingLog


def test_batches_in_any_order_are_averaged():
    rng = np.random.default_rng(0)
    losses = rng.random((5, 20))
    log = TrainingLog(20)
    for epoch in losses:
        order = rng.permutation(20)
        for batch in np.array_split(order, 3):
            log.record(torch.tensor(batch), torch.tensor(epoch[batch], requires_grad=True))
    np.testing.assert_allclose(log.mean_loss, losses.mean(axis=0))
    np.testing.assert_allclose(TrainingLog.from_losses(losses).mean_loss, losses.mean(axis=0))
    assert (log.counts == 5).all()


def test_an_example_twice_in_a_batch_counts_twice():
    log = TrainingLog(1)
    log.record([0, 0], [1.0, 3.0])
    assert log.mean_loss.tolist() == [2]


def test_a_data_map_is_read(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 3, 4))
    for epoch in range(2):
        order = [2, 0, 1] if epoch else [0, 1, 2]
        lines = [
            json.dumps({"guid": f"x{i}", f"logits_epoch_{epoch}": logits[epoch, i].tolist(), "gold": i}) for i in order
        ]
        (tmp_path / f"dynamics_epoch_{epoch}.jsonl").write_text("\n".join(lines))
    log = TrainingLog.from_data_map(sorted(tmp_path.iterdir()))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(6, 4), torch.tensor([0, 1, 2] * 2), reduction="none"
    )
    np.testing.assert_allclose(log.mean_loss, expected.reshape(2, 3).mean(0).numpy())
    (tmp_path / "dynamics_epoch_1.jsonl").write_text('{"guid": "x0"}')
    with pytest.raises(ValueError, match="line 1"):
        TrainingLog.from_data_map(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("indices", "losses", "message"),
    [
        ([0, 1], [1.0], "shapes"),
        ([0], 1.0, "reduction"),
        ([0.5], [1.0], "float64"),
        ([3], [1.0], "accepted: 0 to 2"),
        ([-1], [1.0], "accepted: 0 to 2"),
        ([1], [float("nan")], "nan of example 1"),
    ],
)
def test_nonsense_is_refused(indices, losses, message):
    log = TrainingLog(3)
    with pytest.raises(ValueError, match=message):
        log.record(indices, losses)
    assert log.counts.sum() == 0


def test_examples_that_were_never_recorded_are_named():
    log = TrainingLog(3)
    log.record([0], [1.0])
    with pytest.raises(ValueError, match=r"2 of 3 examples \(the first: 1\)"):
        _ = log.mean_loss
    with pytest.raises(ValueError, match="at least 1"):
        TrainingLog(0)
