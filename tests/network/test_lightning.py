"""Lightning's modules and their loaders as they come."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from byheart.network.audit import audit

pl = pytest.importorskip("lightning.pytorch")
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

N = 20
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


class WithoutForward(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, Y), 7, shuffle=True)


class Classifier(WithoutForward):
    def forward(self, x):
        return self.net(x)


class ByKeyword(WithoutForward):
    def forward(self, **batch):
        return {"logits": self.net(batch["x"])}


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(X, Y), 7, shuffle=True)


def test_a_module_is_audited_as_the_network_inside():
    module = Classifier()
    expected = audit(module.net, (X, Y))
    for loader in (Data().train_dataloader(), module.train_dataloader()):
        found = audit(module, loader)
        pd.testing.assert_frame_equal(found.table, expected.table, atol=1e-5, rtol=1e-3)
        assert found.layers == ["net.2.input"]
    assert audit(module, module.train_dataloader(), "net.0", checkpoints=[module.state_dict()]).layers == ["net.0"]


def test_a_module_that_takes_any_keyword_gets_all_columns_but_the_labels():
    rows = [{"x": x, "target": y} for x, y in zip(X, Y, strict=True)]
    found = audit(ByKeyword(), rows)
    pd.testing.assert_frame_equal(found.table, audit(Classifier(), (X, Y)).table, atol=1e-5, rtol=1e-3)


def test_a_module_without_forward_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a WithoutForward without a forward, .* \(its modules: net\)"):
        audit(WithoutForward(), Data().train_dataloader())


def test_modules_of_data_and_several_loaders_are_refused_by_name():
    with pytest.raises(ValueError, match=r"received Data, accepted: what its train_dataloader\(\) returns"):
        audit(Classifier(), Data())
    with pytest.raises(ValueError, match="received 2 DataLoaders, accepted: one"):
        audit(Classifier(), [Data().train_dataloader()] * 2)
