"""The compiled step of AdamW alone: against PyTorch's, and what float32 must not spoil."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from byheart.toy.kernels import AdamW
from byheart.toy.kernels.adamw import adamw, constants, rates_of_step

_ULP = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("in_gradient", [True, False])
@pytest.mark.parametrize("decay_bias", [True, False])
def test_steps_from_given_gradients_are_those_of_torch(decay_bias, in_gradient):
    rng, n_steps, scale = np.random.default_rng(0), 100, 0.25
    settings = AdamW(0.85, 0.995, 1e-3, weight_decay=0.5, decay_bias=decay_bias, decay_in_gradient=in_gradient)
    gradients = rng.normal(size=(n_steps, 2, 37)).astype(np.float32)
    learning_rates = np.linspace(1e-2, 0, n_steps)
    ours = rng.normal(size=(2, 37)).astype(np.float32)
    W, b = (torch.tensor(row.astype(np.float64), requires_grad=True) for row in ours)
    groups = [{"params": [W]}, {"params": [b], "weight_decay": 0.5 if decay_bias else 0.0}]
    torchs = (torch.optim.Adam if in_gradient else torch.optim.AdamW)(
        groups, betas=(0.85, 0.995), eps=1e-3, weight_decay=0.5
    )
    first, second = np.zeros_like(ours), np.zeros_like(ours)
    for step, (rate, gradient) in enumerate(zip(learning_rates.tolist(), gradients, strict=True)):
        rates = rates_of_step(rate, step, constants(settings))
        for row, keep, penalty in ((0, rates.keep_W, rates.penalty_W), (1, rates.keep_b, rates.penalty_b)):
            adamw(ours[row], gradient[row], first[row], second[row], np.float32(scale), keep, penalty, rates)
        for group in torchs.param_groups:
            group["lr"] = rate
        W.grad, b.grad = torch.tensor(scale * gradient.astype(np.float64))
        torchs.step()
    # Each step rounds p, of size 3, a few times; the roundings of 100 steps add up like a random walk.
    theirs = np.stack([W.detach().numpy(), b.detach().numpy()])
    assert np.abs(ours - theirs).max() <= 3 * 3 * np.sqrt(n_steps) * _ULP


def test_what_is_close_to_one_is_subtracted_before_it_is_rounded():
    rates = rates_of_step(1e-3, 0, constants(AdamW(weight_decay=1e-2)))
    assert rates.one_less_beta2 == np.float32(0.001)  # 1 - float32(0.999) is off by 5e-5
    assert rates.one_less_beta1 == np.float32(0.1)
    assert rates.root_bias2 == pytest.approx(1 / np.sqrt(0.001), rel=2 * _ULP)
    assert rates.keep_W == np.float32(1 - 1e-5)


def test_moments_that_decay_become_zero_and_never_subnormal():
    rates = rates_of_step(1e-3, 10_000, constants(AdamW(beta2=0.9, weight_decay=0)))
    p, first, second = (np.full(8, x, np.float32) for x in (0.5, 1e-30, 1e-30))
    smallest = np.finfo(np.float32).smallest_normal
    for _ in range(500):  # times 0.9 each: 1e-53 in the end, which no float32 is
        adamw(p, np.zeros(8, np.float32), first, second, np.float32(1), rates.keep_W, rates.penalty_W, rates)
        for moments in (first, second):
            assert ((moments == 0) | (moments >= smallest)).all()
    assert not first.any()
    assert not second.any()
    np.testing.assert_array_equal(p, np.float32(0.5))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_in_the_moments(value):
    rates = rates_of_step(1e-3, 0, constants(AdamW()))
    p, first, second = (np.ones(8, np.float32) for _ in range(3))
    adamw(p, np.full(8, value, np.float32), first, second, np.float32(1), rates.keep_W, rates.penalty_W, rates)
    assert not np.isfinite(first).any()
    assert not np.isfinite(second).any()
