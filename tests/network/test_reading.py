"""What outputs and targets are taken for: right values by hand, notes of what was assumed, and what is asked for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from byheart.network.audit import Audit, audit
from byheart.network.fit import margins_of
from byheart.network.log import TrainingLog
from byheart.network.reading import last_operation
from byheart.network.scores import RIDGE

N = 400
X = torch.tensor(np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32))
Y = (X @ torch.tensor(np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32))).argmax(1)
BINARY = (X[:, 0] > 0).float()
LABELS = (X[:, :3] > 0).float()
AS_LOGITS = ["label", "prediction", "margin", "loss", "gradient_norm", "residual_dimensionality", "score"]


def network(n_outputs: int, *behind: nn.Module, targets: torch.Tensor | None = None) -> nn.Sequential:
    """A network that is trained for a while, and what stands behind its last linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, n_outputs))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        if targets is None:
            functional.cross_entropy(model(X), Y).backward()
        else:
            functional.binary_cross_entropy_with_logits(model(X).reshape(targets.shape), targets).backward()
        optimizer.step()
    return nn.Sequential(*model, *behind)


def alike(found: Audit, expected: Audit, **tolerance: float) -> None:
    assert found.score_name == expected.score_name
    for name in AS_LOGITS:
        np.testing.assert_allclose(
            found.table[name], expected.table[name], **({"rtol": 1e-3, "atol": 1e-5} | tolerance)
        )


def noted(found: Audit, words: str) -> bool:
    return any(words in note for note in found.notes)


@pytest.mark.parametrize("loss", [None, "cross_entropy", "nll"])
@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)])
def test_probabilities_and_their_logarithms_score_as_the_logits_do(last, loss):
    found = audit(network(3, last), (X, Y), loss=loss)
    alike(found, audit(network(3), (X, Y)))
    assert noted(found, "log probabilities" if isinstance(last, nn.LogSoftmax) else "softmax")


def test_probabilities_that_round_to_zero_have_large_losses_and_no_infinite_ones():
    model = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1))
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    table = audit(model, (torch.tensor([[300.0, 0], [0, 1], [1, 0], [0, 300]]), np.array([1, 1, 0, 1]))).table
    assert 100 < table["loss"][0] < 110
    assert table["loss"][1] == pytest.approx(np.log1p(np.exp(-1)), rel=1e-5)
    assert np.isfinite(table.select_dtypes("float")).all(axis=None)


def test_the_users_own_loss_gets_what_the_model_gives_and_margins_are_of_logits():
    def own(outputs, targets):
        return -outputs[torch.arange(len(targets)), targets].log()

    alike(audit(network(3, nn.Softmax(dim=1)), (X, Y), loss=own), audit(network(3), (X, Y)))


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
def test_one_logit_is_a_classification_of_two(shape, kind):
    model = network(1, targets=BINARY)
    found = audit(model, (X, BINARY.to(kind).reshape(shape)))
    z = model(X)[:, 0].detach().double()
    expected = functional.binary_cross_entropy_with_logits(z, BINARY.double(), reduction="none")
    np.testing.assert_allclose(found.table["loss"], expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.table["prediction"], z > 0)
    np.testing.assert_array_equal(found.table["label"], BINARY)
    np.testing.assert_allclose(found.table["margin"], z * (2 * BINARY - 1), rtol=1e-5)
    hidden = model[:2](X).detach()
    length = (z.sigmoid() - BINARY).abs() * hidden.norm(dim=1)  # of the gradient in the one row of weights
    np.testing.assert_allclose(found.table["gradient_norm"], length, rtol=1e-3, atol=1e-7)
    H = hidden.double().numpy()
    moment = H.T @ H
    leverage = np.einsum("ij,ij->i", H @ np.linalg.inv(moment + RIDGE * np.trace(moment) / 16 * np.eye(16)), H)
    expected = leverage * (z.sigmoid() - BINARY).square().numpy()
    np.testing.assert_allclose(found.table["residual_dimensionality"], expected, rtol=1e-3, atol=1e-9)
    assert found.provenance["loss"] == "binary_cross_entropy_with_logits"
    assert noted(found, "binary")


def test_one_probability_scores_as_the_logit_does():
    expected = audit(network(1, targets=BINARY), (X, BINARY))
    for behind in ((nn.Sigmoid(),), (nn.Sigmoid(), nn.Flatten(0))):
        found = audit(network(1, *behind, targets=BINARY), (X, BINARY), "1")
        np.testing.assert_allclose(found.table["loss"], expected.table["loss"], rtol=1e-2, atol=1e-6)
        np.testing.assert_array_equal(found.table["prediction"], expected.table["prediction"])
        sure = expected.table["margin"] > 14  # where float32 rounds the probability to 1, or nearly
        np.testing.assert_allclose(found.table["margin"][~sure], expected.table["margin"][~sure], rtol=1e-2)
        assert (found.table["margin"][sure] > 13).all()
        assert noted(found, "the probability of class 1")
        assert found.provenance["loss"] == "binary_cross_entropy"


def test_a_wrong_answer_that_rounds_to_certainty_has_a_large_loss_and_no_infinite_one():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    table = audit(model, (torch.tensor([[80.0], [-80], [1], [-1]]), torch.tensor([0.0, 1, 1, 0]))).table
    np.testing.assert_allclose(table["loss"], [25 * np.log(2), 80, *[np.log1p(np.exp(-1))] * 2], rtol=1e-5)


def test_a_logit_between_0_and_1_is_no_probability():
    model = nn.Sequential(nn.Linear(8, 1))
    nn.init.constant_(model[0].weight, 1e-3)
    nn.init.constant_(model[0].bias, 0.5)
    found = audit(model, (X, BINARY))
    expected = functional.binary_cross_entropy_with_logits(model(X)[:, 0], BINARY, reduction="none")
    np.testing.assert_allclose(found.table["loss"], expected.detach(), rtol=1e-5)
    for parameter in model.parameters():  # nothing then tells what made the output
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="loss: received none, with outputs between 0 and 1, accepted: 'binary_cross"):
        audit(model, (X, BINARY))
    named = audit(model, (X, BINARY), loss="binary_cross_entropy_with_logits")
    np.testing.assert_allclose(named.table["loss"], found.table["loss"])
    assert not noted(named, "binary")
    of_probability = audit(model, (X, BINARY), loss="binary_cross_entropy").table["loss"]
    by_hand = functional.binary_cross_entropy(model(X)[:, 0], BINARY, reduction="none")
    np.testing.assert_allclose(of_probability, by_hand, rtol=1e-4)


@pytest.mark.parametrize("behind", [(), (nn.Sigmoid(),)])
def test_margins_and_detectors_know_one_output(behind, tmp_path):
    model = network(1, *behind, targets=BINARY)
    found = audit(model, (X, BINARY))
    np.testing.assert_allclose(margins_of(model, (X, BINARY)), found.table["margin"])
    detector = Audit.load(found.save(tmp_path / "a.safetensors")).detector(model, X)
    np.testing.assert_array_equal(detector(X)["prediction"], found.table["prediction"])


def test_margins_of_probabilities_are_of_logits():
    margins = margins_of(network(3, nn.Softmax(dim=1)), (X, Y))
    np.testing.assert_allclose(margins, margins_of(network(3), (X, Y)), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="dataset: received targets .*, accepted: one class per example"):
        margins_of(network(3), (X, X[:, :3]))


def test_numbers_that_begin_with_0_and_1_are_numbers():
    y = torch.cat([BINARY, torch.tensor([2.0])])
    x = torch.cat([X, X[:1]])
    model = network(1, targets=BINARY)
    with torch.no_grad():  # numbers that the outputs come near, 0 and 1 first
        solved = torch.linalg.lstsq(torch.cat([x, torch.ones(N + 1, 1)], dim=1), y).solution
        linear = nn.Sequential(nn.Linear(x.shape[1], 1))
        linear[0].load_state_dict({"weight": solved[None, :-1], "bias": solved[-1:]})
    found = audit(linear, (x, y), batch_size=100)
    assert found.provenance["loss"] == "mse"
    np.testing.assert_allclose(found.table["loss"], (linear(x)[:, 0] - y).square().detach(), rtol=1e-4)
    assert audit(model, (X, BINARY), loss="mse").provenance["loss"] == "mse"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid()])
def test_several_labels_have_the_mean_of_their_losses(last, dtype):
    model = network(3, targets=LABELS)
    found = audit(nn.Sequential(*model, last), (X, LABELS.to(dtype)))
    expected = functional.binary_cross_entropy_with_logits(model(X), LABELS, reduction="none").mean(1)
    np.testing.assert_allclose(found.table["loss"], expected.detach(), rtol=1e-3, atol=1e-6)
    assert "label" not in found.table
    assert noted(found, "3 columns of 0 and 1: several labels per example")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_rows_are_classes(dtype):
    rows = functional.one_hot(Y, 3).to(dtype)
    found = audit(network(3), (X, rows))
    alike(found, audit(network(3), (X, Y)))
    assert noted(found, "one-hot")
    alike(audit(network(3, nn.Softmax(dim=1)), (X, rows)), found)
    squared = audit(network(3), (X, rows), loss="mse").table["loss"]
    np.testing.assert_allclose(squared, (network(3)(X) - rows).square().mean(1).detach(), rtol=1e-4)
    each = audit(network(3), (X, rows), loss="binary_cross_entropy_with_logits").table["loss"]
    by_hand = functional.binary_cross_entropy_with_logits(network(3)(X), rows.float(), reduction="none").mean(1)
    np.testing.assert_allclose(each, by_hand.detach(), rtol=1e-4)


def test_whole_numbers_and_columns_are_classes_where_there_are_several_outputs():
    expected = audit(network(3), (X, Y))
    found = audit(network(3), (X, Y.double()))
    alike(found, expected)
    assert noted(found, "whole numbers")
    alike(audit(network(3), (X, Y[:, None])), expected)


def test_shares_of_classes_are_asked_for():
    shares = torch.softmax(X[:, :3], dim=1)
    with pytest.raises(ValueError, match="loss: received none, with targets whose rows sum to 1, accepted: 'cross_ent"):
        audit(network(3), (X, shares))
    found = audit(network(3), (X, shares), loss="cross_entropy").table["loss"]
    np.testing.assert_allclose(
        found, functional.cross_entropy(network(3)(X), shares, reduction="none").detach(), rtol=1e-4
    )
    assert audit(network(3), (X, shares), loss="mse").provenance["loss"] == "mse"


def test_positions_may_have_probabilities():
    torch.manual_seed(0)
    text = torch.randint(0, 11, (9, 7))
    tokens = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11))
    target = text.roll(-1, 1).clone()
    target[:, -2:] = -100
    found = audit(nn.Sequential(*tokens, nn.Softmax(dim=2)), (text, target), "0")
    np.testing.assert_allclose(found.table["loss"], audit(tokens, (text, target), "0").table["loss"], rtol=1e-4)
    assert noted(found, "softmax")


class Changed(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = network(3), change

    def forward(self, x):
        return self.change(self.net(x))


def at_5(value):
    return lambda out: torch.where((torch.arange(len(out)) == 5)[:, None], value, out)


@pytest.mark.parametrize(
    ("change", "loss", "message"),
    [
        (at_5(torch.nan), None, "model: received nan, nan, nan for example 5, accepted: finite"),
        (at_5(torch.inf), None, "model: received inf, inf, inf for example 5, accepted: finite"),
        (lambda out: out.T, None, r"model: received outputs of shape \(3, 400\) for a batch of 400 examples"),
        (lambda out: out[:-1], None, r"model: received outputs of shape \(399, 3\)"),
        (lambda out: out.mean(), None, r"model: received outputs of shape \(\) for"),
        (lambda out: out + 1j, None, "model: received outputs of torch.complex64"),
        (lambda out: out.argmax(1), None, "model: received outputs of torch.int64"),
        (lambda out: out.sigmoid(), None, "loss: received none, with outputs between 0 and 1 for several classes"),
        (lambda out: out, "nll", "loss: received 'nll' with outputs that are no log probabilities"),
        (lambda out: out, "binary_cross_entropy", "with 3 outputs and one class per example, accepted"),
        (lambda out: out[:, :1], None, "targets from 0 to 2 and one output, accepted: 0 and 1"),
        (lambda out: out[:, :1], "nll", "targets from 0 to 2 and one output, accepted: 0 and 1"),
        (lambda out: out, lambda out, y: out.mean(), r"loss: received shape \(\), accepted: one per example"),
        (lambda out: out, lambda out, y: None, "loss: received NoneType, accepted"),
        (lambda out: out, lambda out, y: np.where(np.arange(N) == 3, np.nan, 1), "loss: received nan for example 3"),
        (lambda out: out, lambda out, y: [np.inf] + [1.0] * (N - 1), "loss: received inf for example 0, accepted"),
    ],
)
def test_outputs_and_losses_that_mean_nothing_are_refused_in_one_line(change, loss, message):
    with pytest.raises(ValueError, match=message) as error:
        audit(Changed(change), (X, Y), loss=loss)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "targets", "loss", "message"),
    [
        (network(1, targets=BINARY), BINARY + 0.5, "cross_entropy", "'cross_entropy' with one output, accepted"),
        (network(1, targets=BINARY), BINARY, "nll", "'nll' with one output, accepted: 'binary_cross_entropy' or"),
        (
            network(1, targets=BINARY),
            BINARY,
            "binary_cross_entropy",
            "model: received .* for example .*, accepted: prob",
        ),
        (network(1, targets=BINARY), BINARY * 2, "binary_cross_entropy_with_logits", "dataset: received 2 for example"),
        (network(1, targets=BINARY), torch.where(torch.arange(N) == 7, torch.nan, 1.5), None, "nan for example 7, acc"),
        (network(3), Y + 0.5, "cross_entropy", "targets of torch.float32, accepted: whole numbers"),
        (network(3), Y + 0.5, None, r"targets \(400,\), accepted: \(400, 3\)"),
        (
            network(3),
            LABELS + 0.5,
            "binary_cross_entropy_with_logits",
            "dataset: received 1.5.* for example 0, accepted",
        ),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused_in_one_line(model, targets, loss, message):
    with pytest.raises(ValueError, match=message) as error:
        audit(model, (X, targets), loss=loss)
    assert "\n" not in str(error.value)


def test_classes_beyond_the_outputs_are_named_where_labels_are_words():
    words = np.array(["cat", "dog", "emu"], dtype=object)[Y.numpy()]
    words[3] = "dgo"
    with pytest.raises(ValueError, match=r"to 3 \(0 'cat', 1 'dgo', 2 'dog', 3 'emu'\), accepted: 0 to 2"):
        audit(network(3), (X, words))
    with pytest.raises(ValueError, match=r"targets from 0 to 3 \(0 'cat', 1 'dgo', .*\) and one output"):
        audit(network(1, targets=BINARY), (X, words))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.cat([functional.one_hot(Y, 3)[:-1], torch.ones(1, 3, dtype=torch.int64)]), "1, 1, 1 for example 399"),
        (torch.cat([LABELS[:-1], torch.full((1, 3), 2.0)]), "2, 2, 2 for example 399, accepted: targets of 0 and 1"),
        (torch.cat([Y[:-1].float(), torch.tensor([0.5])]), "0.5 for example 399, accepted: whole numbers"),
    ],
)
def test_later_batches_are_held_against_the_first(targets, message):
    with pytest.raises(ValueError, match=message):
        audit(network(3), (X, targets), batch_size=100)


def test_classes_that_a_model_rules_out_have_finite_scores():
    def ruled_out(out):
        return torch.cat([out[:, :2], torch.full_like(out[:, :1], -torch.inf)], dim=1)

    table = audit(Changed(ruled_out), (X, Y.clamp(max=1))).table
    assert np.isfinite(table.select_dtypes("float")).all(axis=None)
    with pytest.raises(ValueError, match="loss: received inf for example"):
        audit(Changed(ruled_out), (X, Y))


def test_curvature_logs_and_checkpoints_go_with_one_output():
    model = network(1, nn.Sigmoid(), targets=BINARY)
    log = TrainingLog.from_losses(torch.rand(2, N, requires_grad=True))
    found = audit(model, (X, BINARY), log=log, curvature=True, checkpoints=[model.state_dict()])
    assert {"input_curvature", "mean_residual_dimensionality"} <= set(found.table)
    assert np.isfinite(found.table.select_dtypes("float")).all(axis=None)
    residuals = found.table[["mean_residual_dimensionality", "residual_dimensionality"]]
    np.testing.assert_allclose(*residuals.to_numpy().T)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sigmoid, "Sigmoid"),
        (lambda x: torch.sigmoid(x)[:, 0], "Sigmoid"),
        (lambda x: torch.sigmoid(x).squeeze(1).view(-1), "Sigmoid"),
        (lambda x: nn.functional.linear(x, torch.ones(1, 1), torch.ones(1)), "Addmm"),
        (lambda x: x.detach(), ""),
    ],
)
def test_the_last_operation_is_told(function, name):
    x = torch.ones(3, 1, requires_grad=True)
    with torch.no_grad():
        assert last_operation(lambda: function(x)) == name


@pytest.mark.parametrize("behind", [(), (nn.Sigmoid(),)])
def test_one_output_is_read_alike_in_whatever_order_the_classes_come(behind):
    """Sorted, the first batch has one of the two values: that is no regression."""
    order = torch.argsort(BINARY, stable=True)
    model = network(1, *behind, targets=BINARY)
    whole, in_batches = (audit(model, (X[order], BINARY[order]), batch_size=size) for size in (N, 50))
    assert BINARY[order][:50].unique().tolist() == [0.0]
    assert whole.notes == in_batches.notes
    alike(in_batches, whole)


@pytest.mark.parametrize("behind", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_outputs_between_0_and_1_are_asked_about_whatever_made_them(behind):
    frozen = network(3, behind).requires_grad_(False)
    with pytest.raises(ValueError, match="with outputs between 0 and 1 for several classes, as of a sigmoid, accepted"):
        audit(frozen, (X, Y))
    found = audit(frozen, (X, Y), loss="cross_entropy")
    assert any("taken for logits" in note for note in found.notes)


PIXELS = torch.rand(40, 2, 4, 4, generator=torch.Generator().manual_seed(5))


def of_pixels(*behind: nn.Module, squeezed: bool = False) -> nn.Sequential:
    """A network that has learned for each pixel whether its first channel is larger than its second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(model(PIXELS), MASKS).backward()
        optimizer.step()
    model = nn.Sequential(*model, *behind)
    if squeezed:
        model.register_forward_hook(lambda module, args, output: output[:, 0])
    return model


MASKS = (PIXELS[:, :1] > PIXELS[:, 1:]).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("squeezed", ["", "targets", "outputs"])
@pytest.mark.parametrize(
    ("behind", "loss"), [((), None), ((), "binary_cross_entropy_with_logits"), ((nn.Sigmoid(),), None)]
)
def test_a_0_or_1_for_each_pixel_is_a_binary_classification_of_each(dtype, squeezed, behind, loss):
    masks = MASKS[:, 0] if squeezed == "targets" else MASKS
    found = audit(of_pixels(*behind, squeezed=squeezed == "outputs"), (PIXELS, masks.to(dtype)), loss=loss)
    each = functional.binary_cross_entropy_with_logits(of_pixels()(PIXELS), MASKS, reduction="none")
    np.testing.assert_allclose(found.table["loss"], each.mean(dim=(1, 2, 3)).detach(), rtol=1e-4)
    assert noted(found, "Targets are 0 and 1, one for each of the outputs") == (loss is None)


def test_one_of_several_at_each_position_is_asked_about():
    x = torch.randn(30, 5, 8)
    model = nn.Sequential(nn.Linear(8, 4))
    for given in (
        functional.one_hot(torch.arange(150).reshape(30, 5) % 4, 4),
        torch.eye(4)[torch.arange(30) % 4][:, None].repeat(1, 5, 1),
    ):
        with pytest.raises(
            ValueError, match=r"^loss: received none, .*one of several is 1.*accepted: a class for each position"
        ):
            audit(model, (x, given.float()))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_shares_are_taken_by_the_name_of_their_loss_and_asked_about_without(n_outputs):
    model = network(n_outputs, targets=LABELS if n_outputs > 1 else BINARY[:, None])
    hard = (LABELS if n_outputs > 1 else BINARY[:, None]) * 0.9 + 0.05
    found = audit(model, (X, hard), loss="binary_cross_entropy_with_logits")
    each = functional.binary_cross_entropy_with_logits(model(X), hard, reduction="none")
    np.testing.assert_allclose(found.table["loss"], each.mean(1).detach(), rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"^loss: received none. .* is larger than that of the targets' mean, .*accepted: the loss"
    ):
        audit(model, (X, hard))
    with pytest.raises(ValueError, match=r"^dataset: received -1.* for example 2, accepted: targets from 0 to 1"):
        audit(model, (X, hard.index_fill(0, torch.tensor([2]), -1)), loss="binary_cross_entropy_with_logits")


def test_squared_error_that_nobody_asked_for_has_to_be_less_than_that_of_the_mean():
    unsure = torch.where(torch.rand(N, 3, generator=torch.Generator().manual_seed(1)) < 0.1, -1.0, LABELS)
    for model, given in ((network(3, targets=LABELS), unsure), (network(1, targets=BINARY[:, None]), torch.ones(N))):
        with pytest.raises(ValueError, match=r"^loss: received none. With floating-point targets"):
            audit(model, (X, given))
        assert audit(model, (X, given), loss="mse").provenance["loss"] == "mse"
    numbers = 1e4 + X[:, :2]  # large beside how much they vary
    exact = nn.Sequential(nn.Linear(8, 2))
    with torch.no_grad():
        exact[0].weight.copy_(torch.eye(8)[:2])
        exact[0].bias.fill_(1e4 + 0.9)
    assert not noted(audit(exact, (X, numbers), batch_size=7), "taken for numbers")
    with torch.no_grad():
        exact[0].bias.fill_(1e4 + 2)
    assert noted(audit(exact, (X, numbers), batch_size=7), "is the network trained, on targets of this scale")


def test_losses_in_a_column_are_taken_and_of_several_numbers_a_mean_is_named():
    y = X[:, :1]
    model = nn.Sequential(nn.Linear(8, 1))
    found = audit(model, (X, y), loss=nn.L1Loss(reduction="none"))
    np.testing.assert_allclose(found.table["loss"], (model(X) - y).abs()[:, 0].detach(), rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"^loss: received shape \(400, 3\), accepted: one per example, .*flatten\(1\).mean\(1\)"
    ):
        audit(nn.Sequential(nn.Linear(8, 3)), (X, X[:, :3]), loss=nn.L1Loss(reduction="none"), batch_size=N)


def test_masks_with_pixels_that_are_to_be_left_out_are_refused():
    left_out = MASKS.long().index_fill(2, torch.tensor([0]), -100)
    with pytest.raises(ValueError, match="^dataset: received targets 0, 1 and -100 with one output for each"):
        audit(of_pixels(), (PIXELS, left_out))


def test_numbers_of_which_only_the_mean_is_learned_are_numbers():
    y = torch.exp(1.5 * X[:, 0])  # skewed, so that a median is worse than the mean
    for constant in (y.mean(), y.median()):
        model = nn.Sequential(nn.Linear(8, 1))
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.fill_(constant)
        assert audit(model, (X, y)).provenance["loss"] == "mse"
        assert audit(model, (X, torch.full((N,), float(constant)))).provenance["loss"] == "mse"
    assert audit(nn.Sequential(nn.Linear(8, 1)), (X[:2], 5 + X[:2, 0])).provenance["loss"] == "mse"  # too few to tell


def test_a_first_batch_of_0_and_1_does_not_tell_of_the_others():
    maps = torch.where(torch.arange(40)[:, None, None, None] < 10, MASKS, 3 * PIXELS[:, :1])
    model = nn.Sequential(nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, 0]).reshape(1, 2, 1, 1))
        model[0].bias.zero_()
    assert audit(model, (PIXELS, maps), batch_size=10).provenance["loss"] == "mse"
    smoothed = torch.where(torch.arange(N)[:, None] < 100, LABELS, 0.9 * LABELS + 0.05)
    for n_outputs in (1, 3):
        model, given = network(n_outputs, targets=LABELS[:, :n_outputs]), smoothed[:, :n_outputs]
        found = audit(model, (X, given), loss="binary_cross_entropy_with_logits", batch_size=100)
        each = functional.binary_cross_entropy_with_logits(model(X), given, reduction="none")
        np.testing.assert_allclose(found.table["loss"], each.mean(1).detach(), rtol=1e-4)


def test_as_many_classes_as_positions_are_read_the_way_in_which_answers_are_right():
    labels = torch.arange(150).reshape(30, 5) ** 2 % 5
    x = functional.one_hot(labels, 5).float() * 4
    assert "loss" in audit(nn.Sequential(nn.Linear(5, 5)), (x, labels)).table  # nothing was learned
    tagger = nn.Conv1d(5, 5, 1)
    with torch.no_grad():
        tagger.weight.copy_(torch.eye(5)[:, :, None])
        tagger.bias.zero_()
    with pytest.raises(
        ValueError, match=r"^model: received outputs \(30, 5, 5\), of which 150 of 150 answers are right as"
    ):
        audit(nn.Sequential(tagger), (x.transpose(1, 2), labels))
    tagger.register_forward_hook(lambda module, args, output: output.transpose(1, 2))
    expected = functional.cross_entropy(x.transpose(1, 2), labels, reduction="none").mean(1)
    np.testing.assert_allclose(
        audit(nn.Sequential(tagger), (x.transpose(1, 2), labels)).table["loss"], expected, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_classes_before_positions_are_refused_with_what_turns_them(shape):
    with pytest.raises(ValueError, match=r"^dataset: received targets .*register_forward_hook"):
        audit(
            nn.Sequential((nn.Conv1d if len(shape) == 1 else nn.Conv2d)(2, 6, 1)),
            (torch.randn(20, 2, *shape), torch.zeros(20, *shape).long()),
        )


def test_whole_numbers_that_a_loss_of_ones_own_takes_for_numbers_are_noted():
    model = network(2, targets=LABELS[:, :2])
    words = "your loss is larger for a wrong answer"

    def gaussian(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.gaussian_nll_loss(outputs[:, 0], y.float(), outputs[:, 1].exp(), reduction="none")

    assert noted(audit(model, (X, (X[:, 3] > 0).long()), loss=gaussian), words)
    weights = torch.tensor([0.001, 1, 20])
    weighted = lambda out, y: functional.cross_entropy(out, y, weights, reduction="none")  # noqa: E731
    smoothed = lambda out, y: functional.cross_entropy(out, y, reduction="none", label_smoothing=0.1)  # noqa: E731
    some_wrong = torch.where(torch.arange(N) % 20 == 0, (Y + 1) % 3, Y)
    for own in (weighted, smoothed):
        assert not noted(audit(network(3), (X, some_wrong), loss=own), words)


def test_signs_are_numbers_with_a_note():
    torch.manual_seed(0)
    x = torch.randn(20, 3)
    signs, model = torch.sign(x[:, 0]), nn.Sequential(nn.Linear(3, 1))
    model[0].load_state_dict({"weight": torch.tensor([[1.0, 0, 0]]), "bias": torch.zeros(1)})
    found = audit(model, (x, signs))
    assert "label" not in found.table
    assert sum(note.startswith("Targets are -1 and 1") for note in found.notes) == 1
    for targets, loss in ((signs, "mse"), (signs * 2, None), (torch.ones(20), "mse")):
        notes = audit(model, (x, targets), loss=loss).notes
        assert not any(note.startswith("Targets are -1") for note in notes)


def test_a_loss_that_asks_the_outputs_for_logits_is_told_that_it_has_them():
    model, data = nn.Sequential(nn.Linear(3, 2)), (np.eye(3, dtype=np.float32), np.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"^loss: received .* no attribute 'logits', accepted: .*\(the logits, where"):
        audit(model, data, loss=lambda out, y: nn.functional.cross_entropy(out.logits, y, reduction="none"))
