"""Scores against their definitions, written out; laws of the dimension budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.network import scores as module
from byheart.network.scores import RIDGE, HeadMoments, HeadScores, LayerMoments, LayerScores


def layer_scores(rows, labels=None, n_classes=None, batch=7):
    moments = LayerMoments(rows.shape[-1], n_classes)
    starts = range(0, len(rows), batch)
    for start in starts:
        moments.add(rows[start : start + batch], None if labels is None else labels[start : start + batch])
    scores = LayerScores(moments)
    parts = [scores(rows[s : s + batch], None if labels is None else labels[s : s + batch]) for s in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, scores.rank


def head_scores(inputs, probabilities, labels, batch=7):
    moments = HeadMoments(inputs.shape[1], probabilities.shape[1])
    starts = range(0, len(inputs), batch)
    for s in starts:
        moments.add(inputs[s : s + batch], probabilities[s : s + batch], labels[s : s + batch])
    scores = HeadScores(moments)
    parts = [scores(inputs[s : s + batch], probabilities[s : s + batch], labels[s : s + batch]) for s in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def problem(seed=0, n=40, m=6, n_classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    hidden = rng.normal(size=(n, m)) + np.eye(m)[labels]
    logits = rng.normal(size=(n, n_classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return hidden, labels, probabilities


@given(st.integers(0, 1_000), st.integers(1, 60), st.integers(1, 12), st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_streaming_equals_direct_and_batches_do_not_matter(seed, n, m, batch):
    hidden = np.random.default_rng(seed).normal(size=(n, m))
    found, rank = layer_scores(hidden[:, None], batch=batch)
    np.testing.assert_allclose(found["example_dimensionality"], example_dimensionality(hidden), rtol=1e-9)
    np.testing.assert_allclose(found["maximal_dimensionality"], maximal_dimensionality(hidden), rtol=1e-6, atol=1e-9)
    assert rank == min(n, m)
    assert (found["example_dimensionality"] <= found["maximal_dimensionality"] + 1e-9).all()
    assert found["maximal_dimensionality"].sum() == pytest.approx(rank)


@given(st.integers(0, 1_000), st.sampled_from([(60, 5), (12, 30), (30, 30)]), st.integers(1, 64), st.data())
@settings(max_examples=40, deadline=None)
def test_units_of_features_change_neither_dimensionalities_nor_rank(seed, shape, batch, data):
    hidden = np.random.default_rng(seed).normal(size=shape)
    hidden[:, -1] = hidden[:, 0] - hidden[:, 1]
    powers = np.array(data.draw(st.lists(st.floats(-8, 8), min_size=shape[1], max_size=shape[1])))
    found, rank = layer_scores((hidden * 10**powers)[:, None], batch=batch)
    U, singular, _ = np.linalg.svd(hidden, full_matrices=False)
    kept = singular > 1e-12 * singular[0]
    assert rank == kept.sum() == min(shape[0], shape[1] - 1)
    np.testing.assert_allclose(found["maximal_dimensionality"], np.square(U[:, kept]).sum(axis=1), atol=1e-7)
    assert found["maximal_dimensionality"].sum() == pytest.approx(rank)


@pytest.mark.parametrize("ratio", [1e-10, 1e-3, 1e6, 1e10])
def test_a_feature_of_another_size_keeps_its_dimension(ratio):
    hidden = np.random.default_rng(0).normal(size=(3_000, 6)).astype(np.float32)
    hidden[:, 0] *= ratio
    Q = np.linalg.qr(hidden / np.abs(hidden).max(axis=0).astype(float))[0]
    found, rank = layer_scores(hidden[:, None], batch=512)
    assert rank == 6
    np.testing.assert_allclose(found["maximal_dimensionality"], np.square(Q).sum(axis=1), rtol=1e-8)


def test_dimensions_of_rounding_are_not_counted():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 5)).astype(np.float32)
    mixed = inputs @ rng.normal(size=(5, 9)).astype(np.float32)  # as of a linear layer with more units than inputs
    centred = rng.normal(size=(300, 9)).astype(np.float32)
    centred = (centred - centred.mean(axis=1, keepdims=True)) / centred.std(axis=1, keepdims=True)  # as of a LayerNorm
    for rows, rank in ((inputs, 5), (mixed, 5), (centred, 8), (np.maximum(mixed, 0), 9)):
        found, own = layer_scores(rows[:, None])
        assert own == rank
        directions = np.linalg.svd(rows.astype(float), full_matrices=False)[0][:, :rank]
        np.testing.assert_allclose(found["maximal_dimensionality"], np.square(directions).sum(axis=1), rtol=1e-4)
        np.testing.assert_allclose(maximal_dimensionality(rows), found["maximal_dimensionality"], rtol=1e-6)


def test_positions_share_their_examples_budget():
    rows = np.random.default_rng(0).normal(size=(10, 4, 5))
    found, rank = layer_scores(rows, batch=3)
    flat = maximal_dimensionality(rows.reshape(40, 5)).reshape(10, 4).sum(axis=1)
    np.testing.assert_allclose(found["maximal_dimensionality"], flat)
    assert found["maximal_dimensionality"].sum() == pytest.approx(rank)


def test_positions_of_padding_change_nothing():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(30, 3, 5)), np.arange(30) % 3
    padded = np.concatenate([rows, np.zeros((30, 4, 5))], axis=1)
    expected, found = layer_scores(rows, labels, 3)[0], layer_scores(padded, labels, 3)[0]
    for name in ("class_dimensionality", "maximal_dimensionality", "example_dimensionality"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["other_class"], expected["other_class"], atol=1e-4)


def test_an_example_without_activation_holds_nothing():
    hidden, labels, _ = problem()
    hidden[3] = 0
    found, _ = layer_scores(hidden[:, None], labels, 3)
    assert found["example_dimensionality"][3] == found["maximal_dimensionality"][3] == 0
    assert all(np.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_a_layer_without_any_activation_has_no_rank(shape):
    found, rank = layer_scores(np.zeros((shape[0], 1, shape[1])), np.arange(shape[0]) % 2, 2)
    assert rank == 0
    assert set(found) == {"example_dimensionality", "maximal_dimensionality"}
    assert all((values == 0).all() for values in found.values())


@pytest.mark.parametrize("m", [6, 39, 40, 60])  # of 40 examples: rows that are summed, and rows that wait
def test_leaving_an_example_out_of_its_class_by_hand(m):
    hidden, labels, _ = problem(m=m)
    found, _ = layer_scores(hidden[:, None], labels, 3)
    average = hidden.T @ hidden / len(hidden)
    moments = [hidden[labels == c].T @ hidden[labels == c] + average for c in range(3)]
    regular = [m + RIDGE * np.trace(m) / len(m) * np.eye(len(m)) for m in moments]
    n_of = np.bincount(labels) + 1  # with the average, which counts as one
    for i in (0, 5, 17):
        h, own = hidden[i], labels[i]
        without = (n_of[own] - 1) * h @ np.linalg.inv(regular[own] - np.outer(h, h)) @ h
        others = min(n_of[c] * h @ np.linalg.inv(regular[c]) @ h for c in range(3) if c != own)
        assert found["class_dimensionality"][i] == pytest.approx(h @ np.linalg.inv(regular[own]) @ h)
        assert found["example_dimensionality"][i] == pytest.approx((h @ h) ** 2 / np.square(hidden @ h).sum())
        assert found["other_class"][i] == pytest.approx(np.log(without / others), abs=1e-5)  # of float32


@pytest.mark.parametrize("m", [6, 40, 60])
def test_a_ridge_regression_left_out_by_hand(m):
    hidden, labels, probabilities = problem(m=m)
    found = head_scores(hidden, probabilities, labels)["ridge_leave_one_out"]
    Y = np.eye(3)[labels]
    ridge = RIDGE * np.trace(hidden.T @ hidden) / hidden.shape[1] * np.eye(hidden.shape[1])
    for i in (0, 11, 39):
        rest = np.arange(len(hidden)) != i
        weights = np.linalg.solve(hidden[rest].T @ hidden[rest] + ridge, hidden[rest].T @ Y[rest])
        answer = hidden[i] @ weights
        assert found[i] == pytest.approx(np.delete(answer, labels[i]).max() - answer[labels[i]])


@pytest.mark.parametrize(("n", "m", "n_classes"), [(40, 6, 3), (20, 30, 3), (20, 6, 30)])
def test_the_gradients_own_moments_are_a_kronecker_product(n, m, n_classes):
    rng = np.random.default_rng(0)
    hidden, labels = rng.normal(size=(n, m)), rng.integers(0, n_classes, n)
    probabilities = rng.dirichlet(np.ones(n_classes), n)
    found = head_scores(hidden, probabilities, labels)
    delta = probabilities - np.eye(n_classes)[labels]
    gradients = np.einsum("ic,ih->ich", delta, hidden).reshape(len(hidden), -1)
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(gradients, axis=1))
    A, B = delta.T @ delta, hidden.T @ hidden
    A = A + 1e-6 * np.trace(A) / len(A) * np.eye(len(A))
    B = B + RIDGE * np.trace(B) / len(B) * np.eye(len(B))
    expected = np.einsum("ij,ij->i", gradients @ np.linalg.inv(np.kron(A, B)), gradients)
    np.testing.assert_allclose(found["gradient_dimensionality"], expected, rtol=1e-6)


def test_a_wrong_label_stands_out():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    hidden = rng.normal(size=(300, 8)) * 0.1 + rng.normal(size=(3, 8))[labels]
    given = labels.copy()
    given[7] = (given[7] + 1) % 3
    found, _ = layer_scores(hidden[:, None], given, 3)
    assert found["other_class"].argmax() == 7
    probabilities = np.full((300, 3), 1 / 3)
    assert head_scores(hidden, probabilities, given)["ridge_leave_one_out"].argmax() == 7


@pytest.mark.parametrize("rare", [(1, 1), (2, 2), (5, 5), (20, 20)])
def test_small_classes_are_no_suspects_and_wrong_labels_stand_out_beside_them_and_in_them(rare):
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(5), (150, 120, 100, *rare))
    hidden = np.maximum(3 * rng.normal(size=(5, 30))[true] + rng.normal(size=(len(true), 30)), 0)  # as after a ReLU
    given = true.copy()
    given[[7, 200]] = 2, 1  # of a large class, with the label of another
    if rare[0] > 1:  # with one that is right, nothing tells which of two
        given[40] = 3  # of a large class, with the label of a small one
    if rare[0] > 2:
        given[-1] = 0  # of a small class, with the label of a large one
    found, _ = layer_scores(hidden[:, None], given, 5)
    wrong = given != true
    assert found["other_class"][~wrong].max() < found["other_class"][wrong].min()
    assert found["other_class"][wrong].min() > 0
    assert (found["other_class"][~wrong] < 0).mean() > 0.95


@pytest.mark.parametrize("m", [6, 60])
def test_classes_that_the_data_lack_do_not_compete(m):
    hidden, labels, probabilities = problem(m=m)
    more = np.hstack([probabilities[:, :1] * 0, probabilities, probabilities[:, :1] * 0])
    unit = 1e-3
    expected, _ = layer_scores(hidden[:, None], labels, 3)
    found, _ = layer_scores(unit * hidden[:, None], labels + 1, 5)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    expected, found = head_scores(hidden, probabilities, labels), head_scores(unit * hidden, more, labels + 1)
    for name in ("ridge_leave_one_out", "residual_dimensionality"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)


def test_a_class_without_activations_does_not_compete():
    hidden, labels, _ = problem()
    hidden[labels == 2] = 0
    two = labels < 2
    expected, _ = layer_scores(hidden[two][:, None], labels[two], 3)
    found, _ = layer_scores(hidden[:, None], labels, 3)
    np.testing.assert_allclose(found["other_class"][two], expected["other_class"])
    assert (found["other_class"][~two] == 0).all()


def test_a_single_class_has_no_other_and_says_so():
    hidden, labels, probabilities = problem()
    moments = LayerMoments(6, 3, "layer fc")
    moments.add(hidden[:, None], labels * 0)
    assert "class_dimensionality" not in LayerScores(moments)(hidden[:, None], labels * 0)
    assert moments.without_classes.startswith("layer fc: the data have fewer than two classes")
    assert all(np.isfinite(v).all() for v in head_scores(hidden, probabilities, labels * 0).values())


@pytest.mark.parametrize("m", [6, 60])
def test_labels_that_only_the_second_pass_has_are_alone_in_their_class(m):
    hidden, labels, probabilities = problem(m=m)
    layer, head = LayerMoments(m, 4), HeadMoments(m, 4)
    more = np.hstack([probabilities, probabilities[:, :1] * 0])
    layer.add(hidden[:, None], labels)
    head.add(hidden, more, labels)
    found = LayerScores(layer)(hidden[:, None], labels * 0 + 3) | HeadScores(head)(hidden, more, labels * 0 + 3)
    assert all(np.isfinite(values).all() for values in found.values())
    np.testing.assert_array_equal(found["class_dimensionality"], 1)


@pytest.mark.parametrize("m", [5, 50])
def test_too_many_classes_go_without_scores_by_class_and_say_so(m, monkeypatch):
    rows, labels = np.random.default_rng(0).normal(size=(30, 1, m)), np.arange(30) % 3
    monkeypatch.setattr(module, "MOST_CLASS_BYTES", 2 * min(m, 30) ** 2 * 8)
    moments = LayerMoments(m, 1_000, "layer fc")
    moments.add(rows, labels)
    assert set(LayerScores(moments)(rows, labels)) == {"example_dimensionality", "maximal_dimensionality"}
    assert moments.without_classes.startswith(f"layer fc: moments of 3 classes or more at {min(m, 30)} dimensions")
    # Classes that only the head knows take nothing.
    two = LayerMoments(m, 1_000_000)
    two.add(rows, labels % 2)
    assert "other_class" in LayerScores(two)(rows, labels % 2)
    found, _ = layer_scores(rows, labels, None)
    assert "class_dimensionality" not in found


def test_what_would_not_fit_is_refused_with_what_does(monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10 * 10 * 8)
    rows, accepted = np.ones((3, 1, 40)), "up to 2 rows of that width, or any number of rows of up to 10 numbers"
    moments = LayerMoments(40, None, "layer fc")
    moments.add(rows[:2], None)
    with pytest.raises(ValueError, match=f"layer fc: received 3 rows or more of 40 numbers, .* accepted: {accepted}"):
        moments.add(rows[2:], None)
    narrow = LayerMoments(10, None)
    for _ in range(20):
        narrow.add(rows[:, :, :10], None)
    assert LayerScores(narrow).rank == 1
    with pytest.raises(ValueError, match="classes: received 3 rows or more of 40 numbers"):
        HeadMoments(2, 40).add(rows[:, 0, :2], rows[:, 0] / 40, np.arange(3))


def test_rows_that_wait_are_not_written_over():
    rows = np.random.default_rng(0).normal(size=(12, 1, 30))
    moments, buffer = LayerMoments(30, None), np.empty((4, 1, 30))
    for start in range(0, 12, 4):
        buffer[:] = rows[start : start + 4]
        moments.add(buffer, None)
    buffer[:] = 0
    np.testing.assert_allclose(LayerScores(moments)(rows, None)["maximal_dimensionality"], 1)
