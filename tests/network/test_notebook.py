"""What a notebook shows: light, whole, and nothing a user supplies is markup."""

import dataclasses
import re

import numpy as np
import torch
from torch import nn

from byheart.datasets import digits
from byheart.network.audit import audit

NASTY = "</style><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_it_shows_the_numbers_and_the_worst_examples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    found = audit(net, digits().take(np.arange(150)))
    html = found._repr_html_()
    assert len(html) < 300_000
    assert f"number {found.table['score'].idxmax()}<" in html
    n_suspects = (found.table["verdict"] == "suspected wrong label").sum()
    assert html.count('src="data:image/png;base64,') == 2 + n_suspects
    assert "<svg" in html
    assert "<script" not in html
    assert not re.search(r"https?://", html)


def test_it_stays_light_with_large_pictures():
    inputs = np.random.default_rng(0).normal(size=(300, 3, 200, 200)).astype(np.float32)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
    found = audit(net, (inputs, np.arange(300) % 2), most_shown=5)
    assert len(found._repr_html_()) < 300_000


def test_nothing_a_user_supplies_becomes_markup():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 2)

        def forward(self, texts):
            return self.head(torch.tensor([[float(len(each))] for each in texts]))

    found = audit(Words(), [(NASTY + "!" * k, k % 2) for k in range(8)])
    found = dataclasses.replace(found, label_names=[NASTY, "b"], provenance=found.provenance | {"model": NASTY})
    html = found._repr_html_()
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("</style>") == 1
