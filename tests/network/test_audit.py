"""The audit of small networks: laws, what it leaves as found, the shapes and faults of a user's model and data."""

import copy
import dataclasses
import pickle
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from byheart.datasets import Labelled
from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.network.audit import Audit, audit
from byheart.network.counterfactual import Counterfactual
from byheart.network.listed import SORTED_BY
from byheart.network.log import TrainingLog
from byheart.network.score_table import scores_from
from byheart.records import Record, write


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def data(n: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3, 4)).astype(np.float32), rng.permutation(np.arange(n) % 3)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="verdict").astype(float)


def test_the_table_is_what_the_model_does():
    model, (x, y) = network(), data()
    found = audit(model, (x, y), "2")
    hidden = model[:3](torch.tensor(x)).detach().numpy()
    logits = model(torch.tensor(x)).detach()
    table = found.table
    np.testing.assert_allclose(table["example_dimensionality"], example_dimensionality(hidden), rtol=1e-5)
    np.testing.assert_allclose(table["maximal_dimensionality"], maximal_dimensionality(hidden), rtol=1e-5)
    expected = nn.functional.cross_entropy(logits, torch.tensor(y), reduction="none")
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-5)
    np.testing.assert_array_equal(table["prediction"], logits.argmax(1))
    np.testing.assert_array_equal(table["margin"] > 0, table["prediction"] == table["label"])
    assert table["maximal_dimensionality"].sum() == pytest.approx(found.rank["2"])
    assert (found.budget[["flagged", "others"]].sum(axis=1) - found.rank["2"]).abs().max() < 1e-6
    assert table["flagged"].sum() == 1
    assert table["score"].idxmax() == table["flagged"].idxmax()


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1_000])
def test_batches_and_kinds_of_data_do_not_matter(batch_size):
    model, (x, y) = network(), data()
    expected = audit(model, (x, y), "2").table
    tensors = TensorDataset(torch.tensor(x), torch.tensor(y))
    for given in (tensors, DataLoader(tensors, batch_size), DataLoader(tensors, batch_size, shuffle=True)):
        table = audit(model, given, "2", batch_size=batch_size).table
        np.testing.assert_allclose(numbers(table), numbers(expected), rtol=1e-4, atol=1e-6)
        assert table["verdict"].equals(expected["verdict"])


def test_the_default_layer_is_what_the_last_linear_layer_reads():
    model, given = network(), data()
    default, named = audit(model, given), audit(model, given, "2")
    assert default.layers == ["3.input"]
    np.testing.assert_allclose(numbers(default.table), numbers(named.table))


def test_the_model_and_random_states_are_left_as_found():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[2].eval()  # frozen, as users do
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    audit(model, (np.ones((6, 4), np.float32) * np.arange(6)[:, None].astype(np.float32), np.arange(6) % 2))
    assert [m.training for m in model] == [True, True, False, True]
    assert model.training
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_convolutions_and_tokens_are_taken_by_position():
    torch.manual_seed(0)
    images = torch.randn(20, 1, 6, 6)
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    found = audit(cnn, (images, np.arange(20) % 2), "1")
    rows = cnn[:2](images).detach().flatten(2).transpose(1, 2).reshape(-1, 4).numpy()
    expected = maximal_dimensionality(rows).reshape(20, 16).sum(axis=1)
    np.testing.assert_allclose(found.table["maximal_dimensionality"], expected, rtol=1e-4)
    tokens = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11))
    text = torch.randint(0, 11, (9, 7))
    table = audit(tokens, (text, text.roll(-1, 1)), "0").table
    assert table["maximal_dimensionality"].sum() == pytest.approx(5)
    assert "label" not in table
    each = nn.functional.cross_entropy(tokens(text).flatten(0, 1), text.roll(-1, 1).flatten(), reduction="none")
    np.testing.assert_allclose(table["loss"], each.reshape(9, 7).mean(1).detach(), rtol=1e-5)


def test_several_layers_have_columns_each():
    found = audit(network(), data(), "[02]")
    assert found.layers == ["0", "2"]
    assert {"maximal_dimensionality:0", "maximal_dimensionality:2"} <= set(found.table)
    assert list(found.budget["layer"]) == ["0", "2"]


def test_a_regression_and_an_own_loss():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    model = nn.Linear(4, 1)
    wrapped = nn.Sequential(model)
    table = audit(wrapped, (x, x.sum(axis=1))).table
    expected = (model(torch.tensor(x))[:, 0] - torch.tensor(x.sum(axis=1))).square()
    np.testing.assert_allclose(table["loss"], expected.detach(), rtol=1e-4)
    own = audit(wrapped, (x, x.sum(axis=1)), loss=lambda out, target: (out[:, 0] - target).abs()).table
    np.testing.assert_allclose(own["loss"] ** 2, table["loss"], rtol=1e-4)


def test_a_log_makes_the_score():
    given, log = data(), TrainingLog(50)
    log.record(np.arange(50), np.random.default_rng(0).random(50))
    found = audit(network(), given, log=log)
    assert found.score_name == "mean_loss x maximal_dimensionality, if answered"
    answered = found.table["prediction"] == found.table["label"]
    ratio = found.table["score"] / (log.mean_loss * found.table["maximal_dimensionality"])
    np.testing.assert_allclose(ratio[answered], 1)  # what is not answered now is not known by heart
    np.testing.assert_allclose(ratio[~answered], 2 / (1 + np.exp(-found.table["margin"][~answered])))
    assert 0 < answered.sum() < 50


def test_what_the_network_does_not_answer_ranks_below_what_it_does():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = (np.eye(12)[labels] * 4 + rng.normal(size=(300, 12))).astype(np.float32)
    wrong = np.arange(300) < 30
    given = (labels + wrong) % 3
    learned, forgotten = network(1), network(1)
    for model, targets in ((learned, given), (forgotten, labels)):  # the other never saw the wrong labels
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(1_500):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(targets)).backward()
            optimizer.step()
    log = TrainingLog(300)
    log.record(np.arange(300), np.where(wrong, 3.0, 0.3))
    scores = [audit(model, (x, given), log=log).table["score"] for model in (learned, forgotten)]
    assert scores[0][wrong].median() > 10 * scores[1][wrong].median()
    assert scores[0][~wrong].median() == pytest.approx(scores[1][~wrong].median(), rel=0.5)


def test_arrays_of_float64_are_taken_as_the_model_has_its_weights():
    model, (x, y) = network(), data()
    expected = audit(model, (x, y)).table
    np.testing.assert_allclose(audit(model, (x.astype(float), y)).table["loss"], expected["loss"])
    np.testing.assert_allclose(audit(model, (x.tolist(), y.tolist())).table["loss"], expected["loss"])
    double = audit(network().double(), (x.astype(float), y)).table
    np.testing.assert_allclose(double["loss"], expected["loss"], rtol=1e-4)


def test_arrays_may_be_read_only_and_classes_true_or_false():
    x, y = data()
    x.flags.writeable = False
    expected = audit(network(), (x, (y > 0).astype(int))).table
    pd.testing.assert_frame_equal(audit(network(), (x, y > 0)).table, expected)


def test_one_hot_targets_are_told():
    x, y = data()
    found = audit(network(), (x, np.eye(3, dtype=np.float32)[y]))
    assert any("one-hot" in note for note in found.notes)
    assert not any("one-hot" in note for note in audit(network(), (x, x[:, 0, :3]), loss="mse").notes)


def test_checkpoints_are_averaged():
    models = [network(seed) for seed in range(3)]
    found = audit(models[2], data(), checkpoints=[model.state_dict() for model in models]).table
    each = [audit(model, data()).table for model in models]
    np.testing.assert_allclose(found["mean_loss"], np.mean([t["loss"] for t in each], axis=0))
    expected = np.mean([t["residual_dimensionality"] for t in each], axis=0)
    np.testing.assert_allclose(found["mean_residual_dimensionality"], expected)
    np.testing.assert_allclose(found["loss"], each[2]["loss"])  # the model itself is as it was
    with pytest.raises(ValueError, match="checkpoints: received 1: .* accepted: state dicts"):
        audit(models[0], data(), checkpoints=[models[1].state_dict(), {"a": torch.zeros(1)}])


def test_a_held_out_run_makes_probabilities():
    given, rng = data(500), np.random.default_rng(0)
    runs = Counterfactual(rng.random((1, 500)) < 0.6, rng.normal(size=(1, 500)))
    found = audit(network(), given, held_out=runs)
    assert found.score_name == "estimate of memorization"
    assert found.table["probability"].between(0, 1).all()
    assert (found.table["flagged"] == (found.table["probability"] > 0.5)).all()
    assert any("1 held-out run" in note for note in found.notes)
    assert not any("uncalibrated" in note for note in found.notes)
    assert any("uncalibrated" in note for note in audit(network(), given).notes)


class Augmented(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.randn(12), index % 3


def test_augmentation_is_told():
    assert any("augmentation" in note for note in audit(network(), Augmented()).notes)
    assert not any("augmentation" in note for note in audit(network(), data()).notes)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        return self.network(x), x


def drawn(sampler):
    return DataLoader(TensorDataset(*map(torch.tensor, data())), 10, sampler=sampler)


def sequences(value: float = 1.0):
    x = np.ones((5, 6, 4), np.float32)
    x[3] *= value
    return x, np.arange(5) % 2


@pytest.mark.parametrize(
    ("model", "given", "options", "message"),
    [
        (network(), data(), {"layer": "fc9"}, "layer: received 'fc9', accepted: 0, 1, 2, 3"),
        (network(), data(), {"layer": "0.inptu"}, "accepted: 0, 1, 2, 3; the nearest is '0.input'"),
        (network(), data(), {"show": "text"}, "show: received 'text', accepted: a function"),
        (network(), data(), {"batch_size": "many"}, "batch_size: received 'many', accepted: a whole number"),
        (Pair(), sequences(), {"layer": "lstm", "axes": "nu"}, "axes: received 'nu' for the .5, 6, 3. of layer lstm"),
        (Pair(), sequences(), {"layer": "unused"}, "which the model does not use"),
        (Pair(), sequences(np.nan), {}, r"inputs: received nan at \[0, 0\] of example 3, accepted"),
        (network(), (data()[0], data()[1][:-1]), {}, "50 inputs and 49 targets"),
        (network(), (np.zeros((0, 12), np.float32), np.zeros(0, np.int64)), {}, "no examples"),
        (network(), (data()[0], data()[1] + 1), {}, "targets from 1 to 3, accepted: 0 to 2"),
        (network(), "mnist", {}, "dataset: received str"),
        (network(), data()[0], {}, "dataset: received ndarray"),
        (network(), data(), {"batch_size": 0}, "batch_size: received 0"),
        (network(), data(), {"loss": "hinge"}, "loss: received 'hinge'"),
        (network(), data(), {"most_shown": 0}, "most_shown: received 0, accepted: at least 1"),
        (network(), data(), {"most_shown": "many"}, "most_shown: received 'many', accepted: at least 1"),
        (
            network(),
            data(),
            {"show": lambda item: item[0]},
            r"show: received float32 of shape \(4,\), accepted: a text",
        ),
        (network(), data(), {"show": lambda item: None}, "show: received object of shape"),
        (network(), data(), {"layer": ["1"]}, "layer: received .'1'., accepted: a name"),
        (network(), data(), {"log": "log.pkl"}, "log: received str, accepted: a TrainingLog"),
        (network(), data(), {"held_out": data()}, "held_out: received tuple, accepted: a Counterfactual"),
        (network(), (data()[0], np.where(data()[1], data()[1], -100)), {}, "targets from -100 to 2, accepted: 0 to 2"),
        (network(), drawn(SubsetRandomSampler(range(9))), {}, "a DataLoader with a SubsetRandomSampler, accepted"),
        (network(), drawn(WeightedRandomSampler([1.0] * 50, 50)), {}, "with a WeightedRandomSampler"),
        (network(), drawn(RandomSampler(range(50), num_samples=9)), {}, "with a RandomSampler"),
        (network(), data(), {"loss": lambda out, y: out.mean()}, "one per example"),
        (network(), data(), {"loss": nn.CrossEntropyLoss()}, r"shape \(\), accepted: one per .*reduction=.none."),
        (network(), data(), {"log": TrainingLog(3)}, "log: received one of 3 examples"),
        (nn.Linear(12, 3), (data()[0].reshape(50, 12), data()[1]), {}, "without submodules"),
        (Twice(), data(), {}, "model: received outputs that are a tuple of 0 .*, accepted: a tensor"),
        (
            network(),
            TensorDataset(*map(torch.tensor, (data()[0], *data()))),
            {},
            "the model raises TypeError: .*forward",
        ),
        (
            network(),
            (np.ones((5, 3), np.float32), np.zeros(5, int)),
            {},
            "the model raises RuntimeError: mat1 and mat2",
        ),
    ],
)
def test_nonsense_is_refused_in_one_line(model, given, options, message):
    with pytest.raises(ValueError, match=message) as error:
        audit(model, given, **options)
    assert "\n" not in str(error.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nearest_takes_any_listed_examples_in_any_order():
    found = audit(network(), data(), most_shown=5)
    listed = found.listed.tolist()
    three = found.nearest(listed)
    assert three.shape == (len(listed), 3)
    assert all(len({i, *row}) == 4 for i, row in zip(listed, three.tolist(), strict=True))
    np.testing.assert_array_equal(found.nearest([listed[7], listed[2], listed[7]]), three[[7, 2, 7]])
    np.testing.assert_array_equal(found.nearest(listed[4]), three[[4]])
    other = next(i for i in range(50) if i not in listed)
    for indices in ([50], [-1], [0.5], [listed[0], other], [listed[:2]], "0"):
        with pytest.raises(ValueError, match=r"indices: received .*, accepted: one or more of the \d+ listed examples"):
            found.nearest(indices)


def test_few_examples_have_few_neighbours():
    x, y = data()
    assert audit(network(), (x[:3], y[:3])).neighbours.shape == (3, 2)
    assert audit(network(), (x[:1], y[:1])).neighbours.shape == (1, 0)


def test_what_is_worth_looking_at_is_listed_up_to_a_number_each():
    given, rng = data(500), np.random.default_rng(0)
    runs = Counterfactual(rng.random((8, 500)) < 0.6, np.ones((8, 500)))
    runs.margins[~runs.train_mask] = np.where(rng.random(500) < 0.1, -1, 1)[np.nonzero(~runs.train_mask)[1]]
    found = audit(network(), given, held_out=runs, most_shown=5)
    flagged = np.flatnonzero(found.table["flagged"])
    assert len(flagged) > 20
    table = found.table
    expected = {*table["score"].nlargest(5).index, *table["wrong_label"].nlargest(5).index}
    for verdict, column in SORTED_BY.items():
        expected |= set(table[table["verdict"] == verdict].nlargest(5, column).index)
    assert set(found.listed) == expected
    assert (np.diff(found.table["score"][found.listed]) <= 0).all()
    assert set(found.shown) == {*found.listed, *found.neighbours.ravel()}


def test_the_evidence_says_which_scores_there_are():
    given, log, rng = (
        data(),
        TrainingLog.from_losses(np.random.default_rng(1).random((1, 50))),
        np.random.default_rng(0),
    )
    states = [network(seed).state_dict() for seed in range(2)]
    runs = Counterfactual(rng.random((1, 50)) < 0.6, rng.normal(size=(1, 50)))
    everything = {"log": log, "checkpoints": states, "curvature": True, "held_out": runs}
    regression = nn.Sequential(nn.Linear(4, 1))
    x = rng.normal(size=(30, 4)).astype(np.float32)
    audits = [audit(network(), given, "[02]", **{name: everything[name]}) for name in everything]
    numbers = (x, x[:, 0])
    audits += [audit(network(), given), audit(network(), given, **everything), audit(regression, numbers, loss="mse")]
    audits.append(audit(regression, numbers, loss="mse", checkpoints=[regression.state_dict()]))
    of_classes = {"model", "classes", "class_moments", "head"}
    more = [{"log"}, {"log", "checkpoints"}, {"curvature"}, {"held_out"}, set()]
    more.append({"log", "checkpoints", "curvature", "held_out"})
    expected = [of_classes | names for names in more] + [{"model"}, {"model", "log", "checkpoints"}]
    for found, evidence in zip(audits, expected, strict=True):
        assert found.evidence == evidence
        results = {"label", "prediction", "score", "flagged", "estimate", "low", "high", "probability"}
        results |= {"target", "verdict", "other_label", "copies", "copy_of"}
        assert {str(name).split(":")[0] for name in found.table} - results == {s.name for s in scores_from(evidence)}
        columns = [column for score in scores_from(evidence) for column in score.columns(found.layers)]
        assert set(columns) <= set(found.table)


def test_what_is_left_out_for_want_of_a_last_linear_layer_is_noted():
    six = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Unflatten(1, (1, 6)))
    model, given = nn.Sequential(six, nn.AvgPool1d(2), nn.Flatten()), data()
    found = audit(model, given)
    names = {"ridge_leave_one_out", "gradient_dimensionality", "residual_dimensionality", "gradient_norm"}
    assert not names & set(found.table)
    (note,) = [note for note in found.notes if "left out" in note]
    assert all(name in note for name in names)
    assert not any("left out" in note for note in audit(network(), given).notes)


def test_one_class_is_noted_and_finite():
    x, y = data()
    found = audit(network(), (x, y * 0))
    assert "class_moments" not in found.evidence
    assert any("fewer than two classes" in note for note in found.notes)
    assert np.isfinite(found.table.select_dtypes("number").to_numpy()).all()


def test_a_head_with_classes_that_no_example_has_scores_as_one_without():
    few, many = network(), network()
    x, y = data()
    many[3] = nn.Linear(8, 10)
    with torch.no_grad():
        many[3].weight[:3], many[3].bias[:3] = few[3].weight, few[3].bias
    expected, found = audit(few, (x, y)).table, audit(many, (x, y)).table
    for name in ("other_class", "class_dimensionality", "ridge_leave_one_out", "maximal_dimensionality"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_few_examples_of_10_000_classes_and_of_a_wide_layer():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.arange(60) % 50 * 200
    model = nn.Sequential(nn.Linear(4, 5_000), nn.ReLU(), nn.Linear(5_000, 10_000))
    found = audit(model, (x, y))
    assert found.evidence == {"model", "classes", "class_moments", "head"}
    assert np.isfinite(found.table.select_dtypes("number").to_numpy()).all()
    with torch.no_grad():
        hidden = model[:2](x).double().numpy()
    assert found.rank == {"2.input": np.linalg.matrix_rank(hidden)}
    assert found.width == {"2.input": 5_000}
    products = hidden @ hidden.T
    expected = np.diag(products) ** 2 / np.square(products).sum(axis=1)
    np.testing.assert_allclose(found.table["example_dimensionality"], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_models_are_not_rounded_to_it(dtype):
    x, y = data()
    model = network().to(dtype)
    found = audit(model, (torch.tensor(x).to(dtype), y), show=lambda _: "a row")
    with torch.no_grad():
        logits = model(torch.tensor(x).to(dtype)).double()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(y), reduction="none")
    np.testing.assert_allclose(found.table["loss"], expected, rtol=1e-5)


def test_many_classes_go_without_scores_by_class_and_a_note_says_so(monkeypatch):
    monkeypatch.setattr("byheart.network.scores.MOST_CLASS_BYTES", 3 * 8**2 * 8)
    found = audit(network(), data())
    assert "other_class" in found.table
    monkeypatch.setattr("byheart.network.scores.MOST_CLASS_BYTES", 3 * 8**2 * 8 - 1)
    without = audit(network(), data())
    assert without.evidence == found.evidence - {"class_moments"}
    assert not {"other_class", "class_dimensionality"} & set(without.table)
    assert without.score_name == "mean rank by ridge_leave_one_out, gradient_dimensionality, if answered"
    assert any("left out" in note for note in without.notes)
    assert not any("left out" in note for note in found.notes)


def trained_on(model: nn.Module, given: tuple[np.ndarray, np.ndarray]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.tensor(given[0])), torch.tensor(given[1])).backward()
        optimizer.step()


def test_training_on_changes_nothing_of_what_was_found(tmp_path):
    model, given = network(), data()
    found = audit(model, given)
    before = found.save(tmp_path / "before.html").read_bytes(), found.nearest(found.listed)
    kept = copy.deepcopy(found)
    trained_on(model, given)
    given[0][:] = 0
    assert found.save(tmp_path / "after.html").read_bytes() == before[0]
    np.testing.assert_array_equal(found.nearest(found.listed), before[1])
    assert found == kept
    with pytest.raises(ValueError, match="not the audited network"):
        found.detector(model, data()[0])


def every_kind() -> list[Audit]:
    given, rng = data(), np.random.default_rng(0)
    runs = Counterfactual(rng.random((1, 50)) < 0.6, rng.normal(size=(1, 50)))
    x = rng.normal(size=(30, 4)).astype(np.float32)
    return [
        audit(network(), given, "[02]", held_out=runs, log=TrainingLog.from_losses(rng.random((1, 50)))),
        audit(nn.Sequential(nn.Linear(4, 1)), (x, x[:, 0]), loss="mse", show=lambda item: f"<{item[0]:.2f}> \u00e9"),
        audit(network(), Labelled("some", *given, ("a", "b", "\u00e7")), show=lambda item: np.ones((2, 5, 3)) * 7),
        audit(network(), given, ids=[f"\u00e9/{i}.png" for i in range(50)]),
        audit(network(), given, ids=np.arange(50)[::-1]),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_an_audit_is_saved_loaded_pickled_and_compared(kind, tmp_path):
    found = every_kind()[kind]
    path = found.save(tmp_path / "made" / "audit.safetensors")
    loaded = Audit.load(path)
    assert found == loaded == pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(loaded.table, found.table)
    assert repr(loaded) == repr(found)
    assert loaded.label_names == found.label_names
    assert loaded.save(tmp_path / "b.html").read_bytes() == found.save(tmp_path / "a.html").read_bytes()
    np.testing.assert_array_equal(loaded.nearest(found.listed), found.nearest(found.listed))


def test_ids_are_the_first_column_in_the_order_of_the_dataset():
    model, (x, y) = network(), data()
    names = np.random.default_rng(0).permutation(50)
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), 7, shuffle=True)
    plain, table = audit(model, (x, y)).table, audit(model, loader, ids=names).table
    assert list(table) == ["id", *plain]
    np.testing.assert_array_equal(table["id"], names)
    with pytest.raises(ValueError, match="ids: received 49, accepted: one for each of the dataset's 50 examples"):
        audit(model, (x, y), ids=names[1:])


def test_a_detector_is_the_same_from_a_loaded_audit(tmp_path):
    model, given = network(), data()
    found = audit(model, given)
    loaded = Audit.load(found.save(tmp_path / "a.safetensors"))
    x = np.random.default_rng(1).normal(size=(40, 3, 4)).astype(np.float32)
    pd.testing.assert_frame_equal(loaded.detector(model, x)(x), found.detector(model, x)(x))


def test_audits_of_the_same_are_equal_and_any_other_content_is_not():
    one = audit(network(), data())
    assert one == audit(network(), data())
    assert one != audit(network(1), data())
    assert one != "an audit"
    table = one.table.copy()
    table.loc[3, "loss"] += 1e-12
    assert audit(network(), data(), ids=range(50)) != audit(network(), data(), ids=range(1, 51))
    changed = {
        "table": table,
        "notes": [*one.notes, "more"],
        "evidence": one.evidence | {"log"},
        "neighbours": one.neighbours[:, ::-1],
        "shown": one.shown | {0: "words"},
        "carriers": None,
        "label_names": ["a"],
    }
    for name, value in changed.items():
        assert one != dataclasses.replace(one, **{name: value})


def test_what_is_no_audit_is_not_loaded(tmp_path):
    path = audit(network(), data()).save(tmp_path / "a.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="audit: received .*a.safetensors .*digest"):
        Audit.load(path)
    with pytest.raises(ValueError, match="audit: received .*b.safetensors"):
        Audit.load(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="accepted: a file that Audit.save wrote"):
        Audit.load(write(tmp_path / "c.safetensors", Record({"W": np.ones(3)}, {})))
    with pytest.raises(ValueError, match=r"audit: received .*a.csv, accepted: a file that ends in .safetensors"):
        Audit.load(tmp_path / "a.csv")


def test_what_is_printed_says_what_was_found():
    log = TrainingLog(50)
    log.record(np.arange(50), np.arange(50.0))
    assert repr(log) == "TrainingLog(50 examples, each recorded 1 to 1 times)"
    assert repr(audit(network(), data(), log=log)) == (
        "Audit(Sequential, layer 3.input: 1 of 50 examples flagged, by mean_loss x maximal_dimensionality, if answered)"
    )


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="model: received str, accepted: a torch module"):
        audit("resnet18", data())


def test_without_torch_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "byheart\[audit\]"'):
        audit(network(), data())


@pytest.mark.slow
def test_all_modules_are_imported_without_torch_and_sklearn():
    code = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("torch", "sklearn", "scipy.stats"))
import byheart.network
for module in pkgutil.walk_packages(byheart.network.__path__, "byheart.network."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
