"""Networks whose answers depend on the other examples of a batch are noted, and no others."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from byheart.network.audit import audit
from byheart.network.calling import part_of
from byheart.network.inputs import are_words

N = 64
X = torch.tensor(np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32))
Y = torch.tensor(np.random.default_rng(1).integers(0, 3, N))
IDS = torch.tensor(np.random.default_rng(2).integers(1, 20, (N, 7)))
LENGTHS = torch.tensor(np.random.default_rng(3).integers(2, 8, N))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class Around(nn.Module):
    """A network around which forward does something more."""

    def __init__(self, before=None):
        super().__init__()
        self.net, self.before = network(), before

    def forward(self, x, *others):
        return self.net(x if self.before is None else self.before(x))


class Recurrent(nn.Module):
    """An LSTM over sequences without their padding, whose last state is read."""

    def __init__(self, packs=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.packs = nn.Embedding(20, 8, padding_idx=0), packs
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids, lengths):
        x = self.embedding(ids)
        if self.packs:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(x)[1][0][0])


class Attending(nn.Module):
    """A transformer that does not attend to padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embedding, self.encoder = nn.Embedding(20, 8, padding_idx=0), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.head((hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True))


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(7) < LENGTHS[:, None]).long()
    return IDS * mask, mask


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    cnn(torch.randn(N, 1, 4, 4))  # running statistics of its own
    return cnn


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)


def of_company(model, data, **options) -> list[str]:
    return [note for note in audit(model, data, **options).notes if "others are in its batch" in note]


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (network(), (X, Y)),
        (network().half(), (X, Y)),
        (network().bfloat16(), (X, Y)),
        (network().double(), (X, Y)),
        (convolutional(), (X.reshape(N, 1, 2, 4).repeat(1, 1, 2, 1), Y)),
        (convolutional().bfloat16(), (X.reshape(N, 1, 2, 4).repeat(1, 1, 2, 1), Y)),
        (Recurrent(), DataLoader(TensorDataset(padded()[0], LENGTHS, Y), 16)),
        (Recurrent(packs=False), DataLoader(TensorDataset(padded()[0], LENGTHS, Y), 16)),
        (Attending(), ({"input_ids": padded()[0], "attention_mask": padded()[1]}, Y)),
        (Attending().bfloat16(), ({"input_ids": padded()[0], "attention_mask": padded()[1]}, Y)),
        (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 1)), (X, X[:, 0])),
        (Around(nn.functional.dropout), (X, Y)),  # random, which is another matter
        (network(), (X[:3], Y[:3])),
        (network(), DataLoader(TensorDataset(X, Y), 1)),
    ],
)
def test_a_network_that_answers_each_example_alone_has_no_note(model, data):
    of_numbers = isinstance(data, tuple) and data[-1].is_floating_point()
    assert not of_company(model, data, loss="mse" if of_numbers else None)


def test_quantised_layers_take_their_scale_from_the_batch_and_have_no_note():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantised()
        assert not torch.equal(model(X)[:8], model(X[:8]))
        assert not of_company(model, (X, Y))


def without_running_statistics() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.ReLU(), nn.Linear(16, 3))


class Named(Around):
    def forward(self, x, more):
        return self.net(x - more["mask"].mean(0))


def test_a_network_whose_batch_matters_is_noted_with_its_size():
    less_mean = Around(lambda x: x - x.mean(0))
    loader = DataLoader(TensorDataset(X, Y), 16)
    for model in (without_running_statistics(), less_mean, copy.deepcopy(less_mean).bfloat16()):
        (note,) = of_company(model, (X, Y))
        assert note.startswith("The network's answer to an example depends on which others are in its batch: outputs d")
        assert "losses are those of batches of 64 in the data's order" in note
        (note,) = of_company(model, loader)
        assert "batches of 16" in note
        (note,) = of_company(model, (X, Y), batch_size=4)
        assert "of the first 2 examples" in note
    several = DataLoader(TensorDataset(X, X, Y), 16)
    assert of_company(less_mean, several)
    nested = DataLoader([({"x": X[i], "more": {"mask": X[i]}}, Y[i]) for i in range(N)], 16)
    assert of_company(Named(), nested)


def test_a_loss_whose_batch_matters_is_noted():
    def centred(outputs, targets):
        each = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return each - each.mean() + 1

    (note,) = of_company(network(), (X, Y), loss=centred)
    assert "losses differ by up to" in note
    each = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none")  # noqa: E731
    assert not of_company(network(), (X, Y), loss=each)
    weights = torch.linspace(1, 2, N)
    assert not of_company(network(), (X, Y), loss=lambda outputs, targets: weights * each(outputs, targets))


@pytest.mark.parametrize("before", [lambda x: x + torch.rand(1) / 10, nn.functional.dropout, lambda x: x - x.mean(0)])
def test_the_question_leaves_no_trace(before, monkeypatch):
    def audited():
        torch.manual_seed(0)
        return audit(Around(before), (X, Y)).table

    asked = audited()
    monkeypatch.setattr("byheart.network.passes.notes_of_company", lambda *_: [])
    pd.testing.assert_frame_equal(asked, audited())


def test_a_network_that_takes_no_fewer_examples_is_not_asked():
    assert not of_company(Around(fixed(N)), (X, Y))


def fixed(n_examples):
    def check(x):
        if len(x) != n_examples:
            raise RuntimeError("the batch is fixed")
        return x - x.mean(0)

    return check


def test_a_part_of_a_batch_is_cut_along_its_examples():
    sequences = torch.arange(24).reshape(2, 6, 2)
    given = {"a": torch.arange(6), "b": (sequences, None, ["w"] * 6), "c": np.eye(6), "d": torch.ones(1, 4), "e": 0.5}
    part = part_of(given, 6, 1, 3)
    assert part["a"].tolist() == [1, 2]
    assert torch.equal(part["b"][0], sequences[:, 1:3])
    assert part["b"][1] is None
    assert are_words(part["b"][2])
    assert len(part["b"][2]) == 2
    assert part["c"].shape == (2, 6)
    assert part["d"].shape == (1, 4)
    with pytest.raises(TypeError, match="received object"):
        part_of((object(),), 6, 1, 3)
