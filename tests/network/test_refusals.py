"""Arrays that would give plausible, wrong verdicts are refused, and right ones are taken."""

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


def test_right_and_wrong_answers_and_tolerances_less_errors_are_margins():
    mask, _ = runs(3)
    never = np.zeros(mask.shape, dtype=bool)
    assert Counterfactual(mask, never).margins.sum() == 0
    within = 0.3 - 0.2 * RNG.random(mask.shape)  # all within the tolerance
    np.testing.assert_array_equal(Counterfactual(mask, within).margins, within)


def test_logs_that_are_none_of_losses_are_refused():
    model, given = nn.Sequential(nn.Linear(4, 3)), (RNG.normal(size=(N, 4)).astype(np.float32), np.arange(N) % 3)
    losses = RNG.exponential(size=N)
    with pytest.raises(ValueError, match="log: received a mean of .*which no cross_entropy has, accepted: losses"):
        audit(model, given, log=TrainingLog.from_losses(-losses[None]))
    means = TrainingLog(N)
    for _ in range(3):
        for rows in torch.randperm(N).split(32):
            means.record(rows, torch.tensor(losses)[rows].mean().expand(len(rows)))
    with pytest.raises(ValueError, match="log: received one loss for all examples of each batch"):
        audit(model, given, log=means)


def test_likelihoods_of_numbers_may_have_any_sign():
    x = RNG.normal(size=(30, 4)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 1))
    log = TrainingLog.from_losses(RNG.normal(size=(1, 30)))
    assert audit(model, (x, x[:, 0]), loss="mse", log=log).table["mean_loss"].min() < 0


def test_checkpoints_that_are_one_are_refused():
    model, given = nn.Sequential(nn.Linear(4, 3)), (RNG.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3)
    message = r"checkpoints: received 3 with the same weights; state_dict\(\) .*, accepted: copies"
    state = model.state_dict()
    with pytest.raises(ValueError, match=message):
        audit(model, given, checkpoints=[model.state_dict() for _ in range(3)])
    other = {name: value + 1 for name, value in state.items()}
    with pytest.raises(ValueError, match=message):
        audit(model, given, checkpoints=[other, *(model.state_dict() for _ in range(3))])
    half = state | {"0.weight": state["0.weight"] + 1}  # frozen weights may be shared
    for right in ([half, state], [state], [state, copy.deepcopy(state)]):  # the best may be the last
        assert "checkpoints" in audit(model, given, checkpoints=right).evidence
    with pytest.raises(ValueError, match=r"checkpoints: received 0: .*accepted: state dicts of the model"):
        audit(model, given, checkpoints=["a.pt", "b.pt"])
