"""Curvature of the loss in the input, against a Hessian that is known."""

import numpy as np
import pytest
import torch
from torch import nn

from byheart.network.audit import audit


class Quadratic(nn.Module):
    """An output whose squared error has the Hessian 2 diag(curvatures) in the input."""

    def __init__(self):
        super().__init__()
        self.curvatures = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.identity = nn.Identity()

    def forward(self, x):
        return self.identity(x * self.curvatures.sqrt())


def test_the_mean_over_directions_is_the_sum_of_squared_curvatures():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    found = audit(Quadratic(), (x, np.zeros_like(x)), curvature=True, loss=lambda out, y: (out - y).square().sum(dim=1))
    np.testing.assert_allclose(found.table["input_curvature"], 4 * (1 + 4 + 9), rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_model_changes_nothing(dtype):
    x = torch.tensor(np.random.default_rng(0).normal(size=(40, 3)), dtype=dtype)
    model = Quadratic().to(dtype)
    options = {"loss": lambda out, y: (out - y).square().sum(dim=1), "show": lambda _: "a row"}
    found = audit(model, (x, torch.zeros_like(x)), curvature=True, **options)
    np.testing.assert_allclose(found.table["input_curvature"], 4 * (1 + 4 + 9), rtol=0.02)
    assert model.curvatures.dtype == dtype


def test_words_have_no_curvature():
    model = nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"received inputs of torch.int64, accepted: one floating-point tensor"):
        audit(model, (np.zeros((5, 3), np.int64), np.zeros(5, np.int64)), curvature=True)
