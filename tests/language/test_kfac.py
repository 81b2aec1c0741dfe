"""The factors of K-FAC against a dense Fisher information, and the edit on factors whose answer is known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from language.tiny_causal import VOCABULARY, rows_of, trained_on, untrained  # noqa: E402
from torch import nn  # noqa: E402

from byheart.language.kfac import Curvature, curvature, kfac_edit  # noqa: E402
from byheart.language.labelled import recitation  # noqa: E402


class TwoLayers(nn.Module):
    """Logits of each token from itself alone, through a hidden layer."""

    def __init__(self, n=5):
        super().__init__()
        torch.manual_seed(0)
        self.vectors = nn.Embedding(n, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, n))

    def forward(self, input_ids, attention_mask=None):
        return self.mlp(self.vectors(input_ids))


def dense_fisher(model, token, weight):
    """Of one token, exactly: the mean over its predicted targets of the gradient's outer product."""
    log_p = model(torch.tensor([[token]]))[0, 0].log_softmax(-1)
    fisher = torch.zeros(weight.numel(), weight.numel(), dtype=torch.float64)
    for own in log_p:
        (gradient,) = torch.autograd.grad(own, weight, retain_graph=True)
        fisher += float(own.detach().exp()) * torch.outer(gradient.flatten().double(), gradient.flatten().double())
    return fisher


@pytest.mark.parametrize("layer", ["mlp.0", "mlp.2"])
def test_the_factors_are_the_dense_fisher_where_all_inputs_are_the_same(layer):
    model = TwoLayers()
    rows = [{"input_ids": [2] * 101}] * 200  # 20,000 draws of a target
    found = curvature(model, rows, batch_size=50)
    assert found.n_tokens == 20_000
    product = torch.kron(found.gradients[layer], found.inputs[layer])  # rows of the weight are outputs
    exact = dense_fisher(model, 2, dict(model.named_modules())[layer].weight)
    assert float((product - exact).norm() / exact.norm()) < 0.03


def test_inputs_are_averaged_over_the_tokens_that_count():
    model = TwoLayers()
    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 0]}, {"input_ids": [3, 1, 2], "labels": [-100, -100, 2]}]
    found = curvature(model, rows)
    read = model.vectors.weight.detach()[[1, 2, 4, 1]].double()  # the tokens before those that are predicted
    assert found.n_tokens == 4
    assert torch.allclose(found.inputs["mlp.0"], read.T @ read / 4)


def test_entries_of_low_curvature_go_and_others_stay():
    model = nn.Sequential()
    model.mlp = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.mlp.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    factors = Curvature({"mlp": torch.diag(torch.tensor([4.0, 1.0]))}, {"mlp": torch.diag(torch.tensor([1.0, 9.0]))}, 1)
    # The curvature of [[1, 2], [3, 4]] is [[4, 1], [36, 9]], of 50 in all.
    for keep, expected in ((0.72, [[0, 0], [3, 0]]), (0.8, [[0, 0], [3, 4]]), (0.95, [[1, 0], [3, 4]])):
        own, table = factors.edited(model, keep)
        assert np.allclose(own.mlp.weight.detach(), expected)
        assert table["n_kept"].item() == np.count_nonzero(expected)
        assert table["norm_kept"].item() == pytest.approx(np.square(expected).sum() / 30)
    assert model.mlp.weight.tolist() == [[1, 2], [3, 4]]


def test_all_kept_is_no_change_and_the_edit_is_a_projection():
    rows = rows_of(8)
    model = trained_on(rows)
    found = curvature(model, rows_of(60, seed=3))
    same, _ = found.edited(model, 1.0)
    once, table = found.edited(model, 0.7)
    twice, _ = found.edited(once, 0.7)
    for before, kept, edited, again in zip(*(m.parameters() for m in (model, same, once, twice)), strict=True):
        assert torch.allclose(before, kept, atol=1e-5)
        assert torch.allclose(edited, again, atol=1e-5)
    assert (table["n_kept"] < table["n_weights"]).all()
    assert (recitation(once, rows)["log_probability"] < recitation(model, rows)["log_probability"]).mean() > 0.5


def test_what_is_frozen_or_training_is_left_as_it_was():
    model = untrained().requires_grad_(False).train()
    state, before = torch.get_rng_state(), {name: v.clone() for name, v in model.state_dict().items()}
    edited = kfac_edit(model, rows_of(4), keep=0.5)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(values.grad is None for values in model.parameters())
    changed = {
        n for (n, a), b in zip(model.named_parameters(), edited.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert changed == {"mlp_in.0.weight", "mlp_out.0.weight"}


def test_the_layers_of_gpt2_which_are_transposed():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    found = curvature(model, rows_of(6))
    assert {name: tuple(values.shape) for name, values in found.inputs.items()} == {
        "transformer.h.0.mlp.c_fc": (8, 8),
        "transformer.h.0.mlp.c_proj": (32, 32),
    }
    edited, table = found.edited(model, 0.5)
    assert (table["norm_kept"] < 1).all()
    assert edited.transformer.h[0].mlp.c_fc.weight.shape == (8, 32)


def test_bad_input_is_named():
    model = untrained()
    for keep in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="keep: received"):
            kfac_edit(model, rows_of(2), keep=keep)
    with pytest.raises(ValueError, match="layers: received 'head', accepted: linear layers such as mlp_in.0"):
        curvature(model, rows_of(2), layers=["head"])
    with pytest.raises(ValueError, match="without a linear layer that is called mlp"):
        curvature(nn.Sequential(nn.Linear(2, 2)), rows_of(2))
    with pytest.raises(ValueError, match="rows: received none"):
        curvature(model, [])
