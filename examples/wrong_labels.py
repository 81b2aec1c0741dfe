"""A network on digits, 54 labels of which are wrong: a function for `byheart audit examples/wrong_labels.py:make`."""

from typing import Any

import numpy as np
from torch import nn

import byheart as bh
from byheart.datasets import digits


def make() -> dict[str, Any]:
    data, rng = digits(), np.random.default_rng(0)
    labels, wrong = data.labels.copy(), rng.choice(len(data), 54, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 54)) % 10
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    model = bh.Fit(net, data.inputs, labels)(np.arange(len(data)), seed=0)
    return {"model": model, "dataset": (data.inputs, labels), "ids": range(len(data))}
