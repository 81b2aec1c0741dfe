"""The step of AdamW on the CPU, exactly as ``torch.optim.AdamW`` applies it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byheart.toy.kernels import AdamW
from byheart.toy.kernels.compile import inner, serial

_ZERO, _SMALLEST_NORMAL = np.float32(0), np.finfo(np.float32).smallest_normal


class Rates(NamedTuple):
    """What one step multiplies with."""

    step_size: np.float32  # learning rate / (1 - beta1^t)
    root_bias2: np.float32  # 1 / sqrt(1 - beta2^t)
    keep_W: np.float32  # 1 - learning rate x weight decay
    keep_b: np.float32
    penalty_W: np.float32  # weight decay where it is part of the gradient, else 0
    penalty_b: np.float32
    one_less_beta1: np.float32
    one_less_beta2: np.float32
    eps: np.float32


class Constants(NamedTuple):
    """AdamW's settings, as compiled code takes them."""

    beta1: float
    beta2: float
    eps: float
    decay_W: float
    decay_b: float
    penalty_W: float
    penalty_b: float


def constants(optimizer: AdamW) -> Constants:
    """Return the settings as compiled code takes them."""
    decay = optimizer.weight_decay, optimizer.weight_decay if optimizer.decay_bias else 0.0
    none = 0.0, 0.0
    decays = (*none, *decay) if optimizer.decay_in_gradient else (*decay, *none)
    return Constants(optimizer.beta1, optimizer.beta2, optimizer.eps, *decays)


@serial
def rates_of_step(learning_rate, step, constants):
    """Return what step ``step`` (from 0) multiplies with: computed in float64, as 1 - float32(0.999) is off by 5e-5."""
    return Rates(
        np.float32(learning_rate / (1 - constants.beta1 ** (step + 1))),
        np.float32(1 / np.sqrt(1 - constants.beta2 ** (step + 1))),
        np.float32(1 - learning_rate * constants.decay_W),
        np.float32(1 - learning_rate * constants.decay_b),
        np.float32(constants.penalty_W),
        np.float32(constants.penalty_b),
        np.float32(1 - constants.beta1),
        np.float32(1 - constants.beta2),
        np.float32(constants.eps),
    )


@serial
def adamw(p, gradient, first, second, scale, keep, penalty, rates):
    """Update p and its moments from scale * gradient; ``keep`` and ``penalty`` are those of the rates for W or b."""
    for j in range(p.shape[0]):
        g = gradient[j] * scale + penalty * p[j]
        first[j] = _normal(first[j] + rates.one_less_beta1 * (g - first[j]))
        second[j] = _normal(second[j] + rates.one_less_beta2 * (g * g - second[j]))
        p[j] = p[j] * keep - rates.step_size * (first[j] / (np.sqrt(second[j]) * rates.root_bias2 + rates.eps))


@inner
def _normal(x):
    """Return x, or 0 if it is subnormal: moments that decay would stay so, and such numbers take many times longer."""
    return _ZERO if abs(x) < _SMALLEST_NORMAL else x
