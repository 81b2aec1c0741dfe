"""Scores against their definitions, written out; laws of the dimension budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byheart.geometry import example_dimensionality, maximal_dimensionality
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


def test_positions_share_their_examples_budget():
    rows = np.random.default_rng(0).normal(size=(10, 4, 5))
    found, rank = layer_scores(rows, batch=3)
    flat = maximal_dimensionality(rows.reshape(40, 5)).reshape(10, 4).sum(axis=1)
    np.testing.assert_allclose(found["maximal_dimensionality"], flat)
    assert found["maximal_dimensionality"].sum() == pytest.approx(rank)


def test_an_example_without_activation_holds_nothing():
    hidden, labels, _ = problem()
    hidden[3] = 0
    found, _ = layer_scores(hidden[:, None], labels, 3)
    assert found["example_dimensionality"][3] == found["maximal_dimensionality"][3] == 0
    assert all(np.isfinite(values).all() for values in found.values())


def test_leaving_an_example_out_of_its_class_by_hand():
    hidden, labels, _ = problem()
    found, _ = layer_scores(hidden[:, None], labels, 3)
    moments = [hidden[labels == c].T @ hidden[labels == c] for c in range(3)]
    regular = [m + RIDGE * np.trace(m) / len(m) * np.eye(len(m)) for m in moments]
    for i in (0, 5, 17):
        h, own = hidden[i], labels[i]
        without = h @ np.linalg.inv(regular[own] - np.outer(h, h)) @ h
        others = min(h @ np.linalg.inv(regular[c]) @ h for c in range(3) if c != own)
        assert found["class_dimensionality"][i] == pytest.approx(h @ np.linalg.inv(regular[own]) @ h)
        assert found["other_class"][i] == pytest.approx(np.log(without / others))


def test_a_ridge_regression_left_out_by_hand():
    hidden, labels, probabilities = problem()
    found = head_scores(hidden, probabilities, labels)["ridge_leave_one_out"]
    Y = np.eye(3)[labels]
    ridge = RIDGE * np.trace(hidden.T @ hidden) / hidden.shape[1] * np.eye(hidden.shape[1])
    for i in (0, 11, 39):
        rest = np.arange(len(hidden)) != i
        weights = np.linalg.solve(hidden[rest].T @ hidden[rest] + ridge, hidden[rest].T @ Y[rest])
        answer = hidden[i] @ weights
        assert found[i] == pytest.approx(np.delete(answer, labels[i]).max() - answer[labels[i]])


def test_the_gradients_own_moments_are_a_kronecker_product():
    hidden, labels, probabilities = problem()
    found = head_scores(hidden, probabilities, labels)
    delta = probabilities - np.eye(3)[labels]
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


def test_many_classes_go_without_moments_by_class():
    assert len(LayerMoments(512, 1_000).by_class) == 0
    found, _ = layer_scores(np.random.default_rng(0).normal(size=(30, 1, 5)), np.arange(30) % 3, None)
    assert "class_dimensionality" not in found
