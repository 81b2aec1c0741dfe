"""Logs and held-out runs of other examples or numbers are noted, and right ones are taken without a word."""

import numpy as np
import pytest
import torch
from torch import nn

from byheart.network.audit import audit
from byheart.network.counterfactual import Counterfactual
from byheart.network.log import TrainingLog

N = 200
RNG = np.random.default_rng(0)
OF_DOUBTS = ("In the log", "The log", "Held-out runs answer", "The held-out runs", "Margins of the held-out")


def trained(log: TrainingLog | None = None) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Three clusters with ten wrong labels, and a network that has learned most of them."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, N)
    x = torch.tensor((rng.normal(size=(3, 20))[labels] + rng.normal(size=(N, 20))).astype(np.float32))
    labels[:10] = (labels[:10] + 1) % 3
    y = torch.tensor(labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        if log is not None:
            log.record(np.arange(N), losses)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return model, (x, y)


@pytest.fixture(scope="module")
def logged():
    log = TrainingLog(N)
    return *trained(log), log


def doubts(*args, **options) -> list[str]:
    return [note for note in audit(*args, detector=False, **options).notes if note.startswith(OF_DOUBTS)]


def test_right_logs_and_runs_have_no_note(logged):
    model, given, log = logged
    margins = audit(model, given).table["margin"].to_numpy() + RNG.normal(size=N)
    run = Counterfactual(np.random.default_rng(3).random((1, N)) < 0.6, margins[None])
    assert doubts(model, given, log=log, held_out=run) == []
    sampled = TrainingLog(N)  # with replacement: counts differ, the epochs do not
    for _ in range(50):
        chosen = RNG.integers(0, N, 100)
        sampled.record(chosen, log.mean_loss[chosen])
    assert sampled.counts.max() > 2 * sampled.counts.min()
    assert doubts(model, given, log=sampled) == []


def test_another_order_of_the_examples_is_noted(logged):
    model, (x, y), log = logged
    order = np.random.default_rng(2).permutation(N)
    other = x[order], y[order]
    assert "was it recorded on this dataset, in this order?" in doubts(model, other, log=log)[0]
    margins = audit(model, (x, y)).table["margin"].to_numpy()[None]
    run = Counterfactual(np.random.default_rng(4).random((1, N)) < 0.6, margins)
    assert doubts(model, (x, y), held_out=run) == []
    assert "are their margins of this dataset, in this order?" in doubts(model, other, held_out=run)[0]


def test_a_single_run_with_an_inverted_mask_is_noted(logged):
    model, given, _ = logged
    mask = np.random.default_rng(5).random((1, N)) < 0.6
    margins = audit(model, given).table["margin"].to_numpy() - 6 * ~mask
    assert doubts(model, given, held_out=Counterfactual(mask, margins)) == []
    found = doubts(model, given, held_out=Counterfactual(~mask, margins))
    assert "is train_mask True where a model was trained on the example?" in found[0]
    losses = Counterfactual(
        mask, 1 + margins.max() - margins * mask + RNG.random(N) * ~mask - 30 * (RNG.random(N) < 0.05)
    )
    assert "are they above 0 where an answer is right, and no losses?" in doubts(model, given, held_out=losses)[-1]


def test_means_of_batches_in_order_and_the_reverse_of_losses_are_noted(logged):
    model, given, log = logged
    in_order = log.mean_loss.reshape(-1, 20).mean(axis=1).repeat(20)
    assert "is it a mean over each batch?" in doubts(model, given, log=TrainingLog.from_losses(in_order[None]))[0]
    loss = audit(model, given).table["loss"].to_numpy()
    assert "in the reverse order" in doubts(model, given, log=TrainingLog.from_losses(loss.max() - loss[None]))[0]


def test_other_epochs_of_some_examples_are_noted(logged):
    model, given, log = logged
    uneven = TrainingLog(N)
    for epoch in range(10):
        rows = np.arange(N if epoch == 0 else N // 2)
        uneven.record(rows, log.mean_loss[rows])
    assert doubts(model, given, log=uneven) == [
        "The log has the losses of some examples 1 times and of others 10 times, those that it has less often from"
        " earlier in training: means over other epochs are not comparable."
    ]


def test_losses_that_are_0_in_few_bits_are_no_means(logged):
    model, given, log = logged
    rounded = np.where(np.arange(N) % 10 == 0, log.mean_loss, 0)
    assert not any(
        "mean over each batch" in note for note in doubts(model, given, log=TrainingLog.from_losses(rounded[None]))
    )


def test_right_or_wrong_answers_of_a_run_that_knows_what_it_was_trained_on_have_no_note(logged):
    model, given, _ = logged
    for seed in range(8):
        rng = np.random.default_rng(seed)
        mask = rng.random((1, N)) < 0.6
        right = mask | (rng.random((1, N)) < 0.2)  # all that it was trained on, and of the others by chance
        easy = audit(model, given).table["margin"].to_numpy() > np.quantile(audit(model, given).table["margin"], 0.7)
        assert doubts(model, given, held_out=Counterfactual(mask, right | (easy & (rng.random((1, N)) < 0.5)))) == []
