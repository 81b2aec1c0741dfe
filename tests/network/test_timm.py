"""Networks of timm as they come: layers by name, heads that are linear layers or convolutions of one place."""

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision_operators  # noqa: F401 -- before timm

from byheart.network.audit import audit

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

N = 12
X = np.random.default_rng(0).normal(size=(N, 3, 32, 32)).astype(np.float32)
Y = np.arange(N) % 3
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
RESNETV2 = {"layers": (1, 1, 1, 1), "channels": (16, 16, 32, 32), "stem_chs": 16}


def make(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=3, **options)


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("resnet18", {}, "fc"),
        ("resnet10t", {}, "fc"),
        ("vit_tiny_patch16_224", VIT, "head"),
        ("convnext_atto", CONVNEXT, "head.fc"),
        ("resnetv2_50", RESNETV2, "head.fc"),  # a convolution
    ],
)
def test_the_head_is_found(name, options, head):
    model = make(name, **options)
    found = audit(model, (X, Y))
    assert found.layers == [f"{head}.input"]
    with torch.no_grad():
        features = model.forward_head(model.eval().forward_features(torch.as_tensor(X)), pre_logits=True).flatten(1)
    values = features.double().numpy()
    leverage = np.diag(values @ np.linalg.pinv(values, rcond=1e-6))  # D* by its definition
    np.testing.assert_allclose(found.table["maximal_dimensionality"], leverage, atol=1e-3)
    assert found.width == {f"{head}.input": features.shape[1]}
    assert {"gradient_norm", "ridge_leave_one_out"} <= set(found.table.columns)


@pytest.mark.parametrize(
    ("name", "options", "layer", "width"),
    [
        ("resnet10t", {}, "layer4", 512),
        ("resnet10t", {}, "global_pool", 512),
        ("vit_tiny_patch16_224", VIT, "blocks.1", 16),
        ("convnext_atto", CONVNEXT, "stages.3", 16),
        ("convnext_atto", CONVNEXT, "head.norm", 16),
    ],
)
def test_layers_are_found_by_name(name, options, layer, width):
    found = audit(make(name, **options), (X, Y), layer)
    assert found.layers == [layer]
    assert found.width == {layer: width}


def test_a_convolution_as_head_counts_as_the_linear_layer_that_it_is():
    model = make("resnetv2_50", **RESNETV2)
    found = audit(model, (X, Y))
    linear = torch.nn.Linear(32, 3)
    linear.weight.data = model.head.fc.weight.data[:, :, 0, 0]
    linear.bias.data = model.head.fc.bias.data
    with torch.no_grad():
        features = model.forward_head(model.eval().forward_features(torch.as_tensor(X)), pre_logits=True)
    expected = audit(torch.nn.Sequential(linear), (features.numpy(), Y))
    pd.testing.assert_frame_equal(found.table, expected.table, atol=1e-4, rtol=1e-2)
    assert found.detector(model, X, 0.2)(X)["prediction"].tolist() == found.table["prediction"].tolist()
