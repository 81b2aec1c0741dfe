"""Variants of the model: the unchanged one is the reference's; the others are what their names say."""

import numpy as np
import pytest
from cases import SMALL_CASES, case

from byheart.toy.config import TrainConfig
from byheart.toy.kernels import AdamW, choose, reference
from byheart.toy.measures import example_losses
from byheart.toy.model import Variant, hidden_vectors
from byheart.toy.runs import load_run
from byheart.toy.train import draw_examples, train

VARIANTS = [
    Variant(),
    Variant(loss="absolute"),
    Variant(loss="fourth_power"),
    Variant(hidden_relu=True),
    Variant(tied=False),
    Variant("absolute", hidden_relu=True, tied=False),
]


@pytest.mark.parametrize("name", SMALL_CASES[::5])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_without_a_change_it_is_the_reference(name, reduction):
    problem = case(name)
    kernel, weights = choose("torch"), problem.weights(np.float32)
    exact = reference.loss_and_gradient(*problem.weights(np.float64), problem.examples, reduction)
    for ours, theirs in zip(kernel.loss_and_gradient(*weights, problem.examples, reduction), exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    optimizer, rates = AdamW(eps=1e-2, weight_decay=0.1), np.full(20, 1e-3)
    trainings = [kernel.start(*weights, problem.examples, optimizer, reduction)]
    trainings.append(reference.start(*problem.weights(np.float64), problem.examples, optimizer, reduction))
    for training in trainings:
        training.advance(rates)
        assert training.step == 20
    np.testing.assert_allclose(trainings[0].W, trainings[1].W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainings[0].b, trainings[1].b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_loss_of_a_variant_is_what_its_name_says(variant):
    rng = np.random.default_rng(0)
    rows = 2 * 3 if not variant.tied else 3
    W, b = rng.normal(size=(rows, 40)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    examples = case("repeats: small random").examples
    examples = type(examples).from_matrix(rng.uniform(size=(7, 40)) * (rng.uniform(size=(7, 40)) < 0.2))
    X = examples.to_scipy().toarray().astype(np.float64)
    h = X @ W[:3].T.astype(np.float64)
    h = np.maximum(h, 0) if variant.hidden_relu else h
    difference = np.maximum(h @ W[-3:].astype(np.float64) + b, 0) - X
    power = {"squared": 2, "absolute": 1, "fourth_power": 4}[variant.loss]
    losses = choose("torch", variant).example_losses(W, b, examples)
    np.testing.assert_allclose(losses, (np.abs(difference) ** power).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(hidden_vectors(W, examples, variant), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS[1:], ids=str)
def test_a_variant_trains_and_its_run_can_be_read(variant, tmp_path):
    fields = {"loss": variant.loss, "hidden_relu": variant.hidden_relu, "tied": variant.tied}
    config = TrainConfig(6, n_features=80, sparsity=0.9, n_steps=200, learning_rate=0.01, n_test=50, **fields)
    run = train(config, out=tmp_path)
    assert run.provenance["kernel"] == "torch"
    assert run.history["train_loss"][-1] < run.history["train_loss"][0]
    assert len(run.W) == (2 if variant.tied else 4)
    assert run.hidden.shape == (6, 2)
    read = load_run(tmp_path / f"{run.id}.safetensors")
    losses = example_losses(read, draw_examples(config))
    assert losses.mean() == pytest.approx(run.metrics["train_loss"], rel=1e-5)


def test_own_initial_weights_of_an_untied_model_are_encoder_and_decoder():
    config = TrainConfig(5, n_features=30, sparsity=0.9, n_steps=1, learning_rate=1e-9, tied=False, n_test=20)
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(4, 30)), rng.normal(size=30)
    run = train(config, initial=(W, b))
    np.testing.assert_allclose(run.W, W, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.hidden, draw_examples(config).to_scipy() @ W[:2].T, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"received W \(2, 30\).*accepted: W \(4, 30\)"):
        train(config, initial=(W[:2], b))


def test_the_fast_kernels_refuse_a_variant():
    with pytest.raises(ValueError, match="kernel: received 'reference' for Variant.*accepted: torch"):
        train(TrainConfig(5, n_features=30, sparsity=0.9, n_steps=1, tied=False), kernel="reference")
    with pytest.raises(ValueError, match="kernel: received 'cpu' for Variant.*accepted: torch"):
        choose("cpu", Variant(tied=False))


def test_without_torch_it_says_how_to_install_it(monkeypatch):
    import builtins
    import sys

    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "byheart.toy.kernels.with_torch", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r'without torch; run pip install "byheart\[torch\]"'):
        choose("torch")
