"""Inputs that would give plausible, wrong verdicts are refused or noted, and right ones are taken without a word."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from byheart.network.audit import audit
from byheart.network.counterfactual import Counterfactual, CounterfactualError, counterfactual
from byheart.network.log import TrainingLog

N = 200
RNG = np.random.default_rng(0)
OF_DOUBTS = ("In the log", "The log", "Nothing that the network", "Held-out runs answer", "Margins of the held-out")


def runs(n_models: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A mask, and margins that are larger by 3 where a model was trained on the example."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n_models, N)) < 0.6
    return mask, rng.normal(1, 1, N) + rng.normal(size=(n_models, N)) + 3 * mask


@pytest.mark.parametrize("n_models", [1, 20])
def test_what_is_no_margin_is_refused_and_the_way_out_is_taken(n_models):
    mask, margins = runs(n_models)
    p = 1 / (1 + np.exp(-margins))
    for scores, message in (
        (p, "margins: received numbers from .* alone, as probabilities are, accepted: margins"),
        (np.log(p), "margins: received none above 0, not even of examples trained on"),
        (-np.log(p), "margins: received none below 0, and smaller ones of examples trained on .*as losses are"),
    ):
        with pytest.raises(ValueError, match=message):
            Counterfactual(mask, scores)
    for scores in (np.log(p) - np.log(1 - p), margins > 0, (margins > 0) * 1.0, np.sign(margins), 0.5 + np.log(p)):
        np.testing.assert_array_equal(Counterfactual(mask, scores).margins, scores)
    assert Counterfactual(mask, np.where(margins > 0, 0.9, 0.6)).margins.max() == 0.9  # all right, whatever they are


def test_a_fit_that_returns_probabilities_is_refused(tmp_path):
    data = RNG.normal(size=(40, 3)), np.arange(40) % 2
    p = np.linspace(0.1, 0.9, 40)
    with pytest.raises(CounterfactualError, match=r"fit: received numbers from 0.1 to 0.9 alone, as probabilities"):
        counterfactual(lambda i, s: p, data, 2, store=tmp_path / "a", n_workers=1, groups=False)
    with pytest.raises(CounterfactualError, match="fit: received none above 0"):
        counterfactual(lambda i, s: np.log(p), data, 2, store=tmp_path / "b", n_workers=1, groups=False)
    small = lambda i, s: nn.Linear(3, 2)  # noqa: E731  margins of a network may lie between 0 and 1
    assert counterfactual(small, data, 1, store=tmp_path / "c", n_workers=1, groups=False).margins.shape == (1, 40)


def test_an_inverted_mask_is_refused_where_several_models_show_it():
    mask, margins = runs()
    with pytest.raises(
        ValueError, match="train_mask: received one by which .*accepted: True where a model was trained"
    ):
        Counterfactual(~mask, margins)
    nothing_memorized = [Counterfactual(*(lambda m, s: (m, s - 3 * m))(*runs(seed=seed))) for seed in range(50)]
    assert len(nothing_memorized) == 50


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
    assert "is it of these examples, in the dataset's order" in doubts(model, other, log=log)[0]
    margins = audit(model, (x, y)).table["margin"].to_numpy()[None]
    run = Counterfactual(np.random.default_rng(4).random((1, N)) < 0.6, margins)
    assert doubts(model, (x, y), held_out=run) == []
    assert "are they of these examples, in the dataset's order" in doubts(model, other, held_out=run)[0]


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


def test_logs_that_are_none_of_losses_are_refused_or_noted(logged):
    model, given, log = logged
    with pytest.raises(ValueError, match="log: received a mean of .*which no cross_entropy has, accepted: losses"):
        audit(model, given, log=TrainingLog.from_losses(-log.mean_loss[None]))
    means = TrainingLog(N)
    for _ in range(3):
        for rows in torch.randperm(N).split(32):
            means.record(rows, torch.tensor(log.mean_loss)[rows].mean().expand(len(rows)))
    with pytest.raises(ValueError, match="log: received one loss for all examples of each batch"):
        audit(model, given, log=means)
    in_order = log.mean_loss.reshape(-1, 20).mean(axis=1).repeat(20)
    assert "is it a mean over each batch?" in doubts(model, given, log=TrainingLog.from_losses(in_order[None]))[0]
    loss = audit(model, given).table["loss"].to_numpy()
    assert "in the reverse order" in doubts(model, given, log=TrainingLog.from_losses(loss.max() - loss[None]))[0]


def test_likelihoods_of_numbers_may_have_any_sign():
    x = RNG.normal(size=(30, 4)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 1))
    log = TrainingLog.from_losses(RNG.normal(size=(1, 30)))
    assert audit(model, (x, x[:, 0]), loss="mse", log=log).table["mean_loss"].min() < 0


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


def test_checkpoints_that_are_one_are_refused(logged):
    model, given, _ = logged
    message = r"checkpoints: received 3 with the same weights, .*accepted: different ones, kept as copies"
    state = model.state_dict()
    for same in ([model.state_dict() for _ in range(3)], [copy.deepcopy(state) for _ in range(3)]):
        with pytest.raises(ValueError, match=message):
            audit(model, given, checkpoints=same)
    other = {name: value + 1 for name, value in state.items()}
    with pytest.raises(ValueError, match=message):
        audit(model, given, checkpoints=[other, *(model.state_dict() for _ in range(3))])
    half = state | {"0.weight": state["0.weight"] + 1}  # frozen weights may be shared
    assert "checkpoints" in audit(model, given, checkpoints=[half, copy.deepcopy(state)]).evidence
    assert "checkpoints" in audit(model, given, checkpoints=[half, state]).evidence
    assert "checkpoints" in audit(model, given, checkpoints=[state]).evidence
