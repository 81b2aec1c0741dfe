"""The audit of arrays is that of the network they come from."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from byheart.network.audit import audit
from byheart.network.log import TrainingLog
from byheart.network.outputs import audit_outputs

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 6)).astype(np.float32), RNG.permutation(np.arange(90) % 3)


def network(n_classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, n_classes))


def arrays(model: nn.Sequential) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        features = model[:2](torch.as_tensor(X))
        return features.numpy(), model[2](features).numpy()


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(found) == list(expected)
    pd.testing.assert_series_equal(found["verdict"], expected["verdict"])
    numbers = expected.drop(columns="verdict").astype(float)
    np.testing.assert_allclose(found.drop(columns="verdict").astype(float), numbers, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("with_log", [False, True])
def test_logits_and_features_say_what_the_network_says(with_log):
    features, logits = arrays(network())
    log = TrainingLog.from_losses(RNG.random((4, 90))) if with_log else None
    expected = audit(network(), (X, Y), log=log)
    found = audit_outputs(Y, logits=logits, features=features, log=log)
    compare(found.table, expected.table)
    assert found.evidence == expected.evidence
    assert found.rank == {"features": 16}
    assert found.layers == ["features"]


def test_probabilities_are_those_of_the_logits():
    features, logits = arrays(network())
    p = np.exp(logits.astype(float))
    found = audit_outputs(Y, probabilities=p / p.sum(axis=1, keepdims=True), features=features)
    compare(found.table, audit_outputs(Y, logits=logits, features=features).table)


def test_one_column_is_of_class_1():
    p, y = RNG.random(90), Y > 0
    one = audit_outputs(y.astype(int), probabilities=p, features=X)
    two = audit_outputs(y.astype(int), probabilities=np.stack([1 - p, p], axis=1), features=X)
    compare(one.table, two.table)
    np.testing.assert_allclose(one.table["loss"], -np.log(np.where(y, p, 1 - p)), rtol=1e-4)


def test_without_features_the_scores_of_a_last_layer_are_left_out():
    _, logits = arrays(network())
    found = audit_outputs(Y, logits=logits)
    expected = audit(network(), (X, Y)).table
    np.testing.assert_allclose(found.table["loss"], expected["loss"], rtol=1e-5)
    assert "ridge_leave_one_out" not in found.table
    assert "wrong_label" in found.table
    assert found.layers == ["outputs"]
    assert "the outputs themselves" in found.notes[0]
    assert not any("F.linear" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("features", [X, None])
def test_notes_on_a_network_are_left_out_as_there_is_none(kind, features):
    given = RNG.normal(size=(90, 3))
    if kind == "probabilities":
        given = np.exp(given) / np.exp(given).sum(axis=1, keepdims=True)
    notes = audit_outputs(Y, features=features, **{kind: given}).notes
    assert len(notes) == 2 + (features is None), notes
    assert [note for note in notes if "otherwise than they are labelled" in note]
    assert [note for note in notes if "uncalibrated" in note]


def test_labels_may_be_words_and_arrays_tables():
    features, logits = arrays(network())
    words = np.array(["a", "b", "c"])[Y]
    found = audit_outputs(words, logits=pd.DataFrame(logits), features=torch.as_tensor(features))
    assert found.label_names == ["a", "b", "c"]
    compare(found.table, audit_outputs(Y, logits=logits, features=features).table)


def test_columns_that_are_named_as_the_labels_say_the_order_of_the_outputs():
    _, logits = arrays(network())
    words, order = np.array(["a", "b", "c"])[Y], [2, 0, 1]
    table = pd.DataFrame(logits[:, order], columns=["c", "a", "b"])
    found, expected = audit_outputs(words, logits=table), audit_outputs(words, logits=logits)
    assert found.label_names == ["c", "a", "b"]
    for name in ("loss", "margin", "score", "wrong_label"):
        np.testing.assert_allclose(found.table[name], expected.table[name], rtol=1e-4)
    plain = audit_outputs(words, logits=pd.DataFrame(logits, columns=["p0", "p1", "p2"]))  # these name no class
    np.testing.assert_array_equal(plain.table["loss"], expected.table["loss"])


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        (np.array(["a", "b", "x"])[Y], ["a", "b", "c"], "received 'x', accepted: the outputs' columns a, b, c"),
        (Y, [2, 0, 1], "whole numbers with outputs whose columns are 2, 0, 1, accepted: columns 0 to 2"),
        (np.array([0, 2, 1])[Y], [0, 2, 5], "columns are 0, 2, 5, accepted: columns 0 to 2"),
        (np.array([1, 2])[Y % 2], [1, 2, 3], "columns are 1, 2, 3, accepted: columns 0 to 2"),  # names or places?
    ],
)
def test_columns_of_other_classes_are_refused(labels, columns, message):
    with pytest.raises(ValueError, match=message):
        audit_outputs(labels, logits=pd.DataFrame(arrays(network())[1], columns=columns))


def test_whole_numbers_that_are_no_places_are_the_columns_names():
    _, logits = arrays(network())
    expected = audit_outputs(Y, logits=logits).table
    for names in ([1, 2, 3], [0, 2, 5], [-1, 0, 1]):
        found = audit_outputs(np.array(names)[Y], logits=pd.DataFrame(logits, columns=names))
        assert found.label_names == [str(name) for name in names]
        pd.testing.assert_frame_equal(found.table, expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Y + 1, "labels: received classes from 1 to 3, accepted: 0 to 2, .*; labels - 1, if the first column is of"),
        ((Y + 1).astype(float), "labels: received classes from 1 to 3"),
        (Y - 1, r"received classes from -1 to 1, .*labels \+ 1, if the first column is of class -1, or outputs as a"),
        (5 * Y, "received classes from 0 to 10, .* columns; outputs as a table whose columns are the classes$"),
    ],
)
def test_labels_that_are_no_places_are_named_with_a_way_out(labels, message):
    with pytest.raises(ValueError, match=message):
        audit_outputs(labels, logits=arrays(network())[1])


def test_indexes_of_tables_must_be_the_same():
    features, logits = arrays(network())
    labels, table = pd.Series(Y), pd.DataFrame(logits)
    expected = audit_outputs(Y, logits=logits, features=features).table
    given = {"logits": table, "features": pd.DataFrame(features), "ids": pd.Series(np.arange(90))}
    found = audit_outputs(labels, **given).table
    pd.testing.assert_frame_equal(found.drop(columns="id"), expected)
    shuffled = RNG.permutation(90)
    alike = {name: values.iloc[shuffled] for name, values in given.items()}
    audit_outputs(labels.iloc[shuffled], **alike)
    audit_outputs(labels.iloc[shuffled], logits=logits)  # an array goes with any index
    audit_outputs(labels.tolist(), logits=table)
    with pytest.raises(ValueError, match="labels, logits: received tables or columns with different indexes"):
        audit_outputs(labels.iloc[shuffled], logits=table)
    for name, values in given.items():
        with pytest.raises(ValueError, match=rf"(labels|logits), {name}: received tables or columns with diff"):
            audit_outputs(labels, **({"logits": logits} | {name: values.iloc[shuffled]}))
    p = pd.DataFrame(np.full((90, 3), 1 / 3), index=shuffled)
    with pytest.raises(ValueError, match="labels, probabilities: received tables"):
        audit_outputs(labels, probabilities=p)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "received neither"),
        ({"logits": np.ones((90, 3)), "probabilities": np.ones((90, 3)) / 3}, "received both"),
        ({"probabilities": np.ones((90, 3))}, "received 1, 1, 1 of example 0"),
        ({"probabilities": np.full((90, 2), [-0.5, 1.5])}, "received -0.5, 1.5 of example 0"),
        (
            {"logits": np.ones(90)},
            r"received shape \(90,\).*of one logit z of class 1, np.stack\(\[0 \* z, z\], axis=1",
        ),
        ({"logits": np.ones((90, 1))}, r"received shape \(90, 1\).*np.stack"),
        ({"logits": np.ones((80, 3))}, "received 90 labels"),
        ({"logits": np.ones((90, 3)), "features": np.ones((90, 2, 2))}, r"features of shape \(90, 2, 2\)"),
        ({"logits": np.full((90, 3), np.nan)}, "received nan of example 0"),
        ({"logits": RNG.random((90, 3))}, "logits: received numbers from .* as probabilities are, accepted: what goes"),
        ({"logits": np.full((90, 3), 1 / 3)}, "probabilities= takes rows that sum to 1"),
        ({"logits": RNG.normal(size=(90, 2))}, "labels: received classes from 0 to 2, accepted: 0 to 1"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        audit_outputs(Y, **arguments)
