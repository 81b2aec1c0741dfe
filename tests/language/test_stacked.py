"""Models side by side against the readable model, one by one, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from language.texts_by_hand import design_with_spans

from byheart.language.ensemble import Batches
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.stacked import Stack, adamw, learning_rate

SIZES = [ModelConfig(1, 8, 2, 8), ModelConfig(2, 12, 3, 8)]


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stacks(config, design, models):
    """The stack, and each model by itself, with the same parameters."""
    seeds = [10 + model for model in models]
    vocabulary = design.documents.vocabulary
    alone = [Transformer(config, vocabulary, draw(config, vocabulary, seed)) for seed in seeds]
    return Stack(config, vocabulary, seeds), alone


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("config", SIZES)
def test_gradients_and_answers_are_those_of_the_readable_model_one_by_one(config):
    design, models = design_with_spans(), [0, 1, 2]
    stack, alone = stacks(config, design, models)
    batch = next(Batches(design, models, 4).epoch(0))
    found = stack.train_on(batch.inputs, batch.where, batch.targets, 0.1)
    for model, single in enumerate(alone):
        logits = single(batch.inputs[model]).flatten(0, 1)[batch.where[model]]
        losses = torch.nn.functional.cross_entropy(logits, batch.targets[model], reduction="none")
        (0.1 * losses.sum()).backward()
        assert torch.allclose(found[model], -losses, atol=1e-12)
        for name, weights in single.weights.items():
            assert torch.allclose(stack.weights[name].grad[model], weights.grad, atol=1e-12), name
    inputs, targets = batch.inputs[0], torch.zeros_like(batch.inputs[0])
    log_probability, correct = stack.answers(inputs, targets)
    for model, single in enumerate(alone):
        logits = single(inputs)
        assert torch.allclose(log_probability[model], torch.log_softmax(logits, -1)[..., 0], atol=1e-12)
        assert torch.equal(correct[model], logits.argmax(-1) == 0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("config", SIZES)
def test_neurons_that_are_not_active_are_as_if_they_were_not_there(config):
    design, models = design_with_spans(), [0, 1]
    batch = next(Batches(design, models, 4).epoch(0))
    stack, _ = stacks(config, design, models)
    kept = torch.arange(4 * config.width) % 3 > 0
    active = torch.ones(*batch.inputs.shape[:2], len(kept))
    active[0] *= kept
    found = stack.train_on(batch.inputs, batch.where, batch.targets, 0.1, active)
    without, _ = stacks(config, design, models)
    with torch.no_grad():
        without.weights["hidden_out"][0] *= kept[:, None]
    same = without.train_on(batch.inputs, batch.where, batch.targets, 0.1)
    for mine, theirs in zip(found, same, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
    gradient = stack.weights["hidden_in"].grad
    assert not gradient[0, :, :, ~kept].any()
    assert gradient[0, :, :, kept].any()
    assert gradient[1, :, :, ~kept].any()


@pytest.mark.usefixtures("float64")
def test_steps_are_those_of_each_model_with_an_optimizer_of_its_own():
    design, models, config = design_with_spans(), [0, 1, 2], SIZES[0]
    stack, alone = stacks(config, design, models)
    ours = adamw(stack, 0.1)
    theirs = [torch.optim.AdamW(m.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1) for m in alone]
    for step, batch in enumerate(Batches(design, models, 4).epoch(0)):
        rate = learning_rate(step, 10, 0.01)
        ours.param_groups[0]["lr"] = rate
        stack.train_on(batch.inputs, batch.where, batch.targets, 0.1)
        ours.step()
        for model, (single, optimizer) in enumerate(zip(alone, theirs, strict=True)):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            logits = single(batch.inputs[model]).flatten(0, 1)[batch.where[model]]
            (0.1 * torch.nn.functional.cross_entropy(logits, batch.targets[model], reduction="sum")).backward()
            optimizer.step()
    for model, single in enumerate(alone):
        for name, weights in single.weights.items():
            assert torch.allclose(stack.weights[name][model], weights, atol=1e-9), name


def test_what_a_masked_target_is_changes_no_bit_of_any_gradient():
    design, models, config = design_with_spans(), [0, 1], SIZES[0]
    stack, _ = stacks(config, design, models)
    batches = Batches(design, models, 4)
    batch = next(batches.epoch(0))
    stack.train_on(batch.inputs, batch.where, batch.targets, 0.1)
    before = stack.flat.grad.clone()
    # The last token of a row is a target only: it is never read.
    for own in range(len(models)):
        carries = batches.carries[own]
        lasts = [s + len(t) - 1 for s, t in zip(design.documents.starts, design.documents.tokens, strict=False)]
        for last in lasts:
            if not carries[last]:
                design.documents.flat[last] = (design.documents.flat[last] + 1) % design.documents.vocabulary
    again = next(batches.epoch(0))
    stack.train_on(again.inputs, again.where, again.targets, 0.1)
    assert torch.equal(stack.flat.grad, before)


def test_a_batch_has_the_targets_that_carry_loss_after_what_precedes_them():
    design, models = design_with_spans(), [0, 3]
    batches = Batches(design, models, 4)
    seen = [[] for _ in models]
    for batch in batches.epoch(1):
        length = batch.inputs.shape[2]
        for own in range(len(models)):
            for where, target, token in zip(batch.where[own], batch.targets[own], batch.tokens[own], strict=True):
                seen[own].append(int(token))
                assert design.documents.flat[token] == target
                row, place = divmod(int(where), length)
                text = batch.inputs[own, row, : place + 1].tolist()
                assert text[0] == design.documents.vocabulary
                assert text[1:] == design.documents.flat[token - place : token].tolist()
    for own, model in enumerate(models):
        assert sorted(seen[own]) == np.flatnonzero(design.carries_loss(model)).tolist()


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 2.0) for step in range(100)]
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates.index(max(rates)) in (4, 5)
    assert 0 < rates[-1] < 0.01
    assert rates[0] == pytest.approx(0.4)
