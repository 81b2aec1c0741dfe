"""Logs from trainers: the losses are those after each epoch, and training does not notice."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import byheart as bh

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

N = 20
X = torch.tensor(np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32))
Y = torch.tensor(np.random.default_rng(1).integers(0, 3, N))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def losses_of(states, model):
    """Of each saved state, the losses of all examples, reckoned plainly."""
    found = []
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            found.append(nn.functional.cross_entropy(model.eval()(X), Y, reduction="none").numpy())
    return np.mean(found, axis=0)


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def lightning_module(pl, **more):
    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Classifier()


def fit_lightning(pl, tmp_path, loader, *callbacks, **options):
    torch.manual_seed(1)
    model = lightning_module(pl)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[*callbacks], **options,
    )  # fmt: skip
    trainer.fit(model, loader)
    return model


@pytest.mark.parametrize("given", ["trainer's data", "dataset", "a persistent worker", "bf16"])
def test_lightning_trains_alike_and_the_losses_are_those_after_each_epoch(given, tmp_path):
    pl = pytest.importorskip("lightning.pytorch")

    class Keep(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            self.states = [*getattr(self, "states", []), copy_of(module.net)]

    workers = {"num_workers": 1, "persistent_workers": True} if given == "a persistent worker" else {}
    options = {"precision": "bf16-mixed"} if given == "bf16" else {}

    def loader():
        return DataLoader(TensorDataset(X, Y), 6, shuffle=True, **workers)

    plain = fit_lightning(pl, tmp_path, loader(), **options)
    callback, keep = bh.lightning_callback((X, Y) if given == "dataset" else None), Keep()
    model = fit_lightning(pl, tmp_path, loader(), callback, keep, **options)
    for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_allclose(callback.training_log.mean_loss, losses_of(keep.states, network()), atol=1e-6)
    found = bh.audit(model, loader(), log=callback.training_log)
    np.testing.assert_allclose(found.table["mean_loss"], callback.training_log.mean_loss)
    assert "log" in found.evidence


class HF(nn.Module):
    """A model such as the Trainer takes, without Transformers."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": None if labels is None else nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"max_steps": 6}], ids=str)
def test_the_trainer_of_transformers_trains_alike(options, tmp_path):
    transformers = pytest.importorskip("transformers")
    rows = [{"x": x, "labels": int(y)} for x, y in zip(X, Y, strict=True)]

    class Keep(transformers.TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            self.states = [*getattr(self, "states", []), copy_of(kwargs["model"].net)]

    def trained(*callbacks):
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=6, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=True, learning_rate=0.01, seed=3,
            **{"num_train_epochs": 3} | options,
        )  # fmt: skip
        model = HF()
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[*callbacks]).train()
        return model

    plain, callback, keep = trained(), bh.trainer_callback(), Keep()
    model = trained(callback, keep)
    for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_allclose(callback.training_log.mean_loss, losses_of(keep.states, network()), atol=1e-6)
    found = bh.audit(model, rows, log=callback.training_log)
    pd.testing.assert_frame_equal(
        found.table, bh.audit(model.net, (X, Y), log=callback.training_log).table, atol=1e-5, rtol=1e-3
    )


def test_what_cannot_be_read_is_refused_before_the_first_epoch(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    callback = bh.lightning_callback((X, torch.stack([Y, Y], 1)))
    with pytest.raises(ValueError, match="received none of a training without an epoch"):
        _ = callback.training_log
    with pytest.raises(ValueError, match="loss='mse' for numbers"):
        fit_lightning(pl, tmp_path, DataLoader(TensorDataset(X, Y), 6), callback)
    own = bh.lightning_callback(loss=lambda outputs, y: (outputs[:, 0] - y) ** 2)
    fit_lightning(pl, tmp_path, DataLoader(TensorDataset(X, Y), 6), own)
    assert own.training_log.counts.tolist() == [3] * N
