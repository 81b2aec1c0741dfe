"""Scores without a model: by hand, and on labels that are wrong."""

import numpy as np
import pytest

from byheart.datasets import digits, with_wrong_labels
from byheart.network.baselines import kernel_leave_one_out, neighbour_disagreement


def test_neighbours_by_hand():
    inputs, labels = np.array([[0.0], [1.0], [1.5], [9.0], [9.2]]), np.array([0, 0, 1, 1, 1])
    assert neighbour_disagreement(inputs, labels, 1).tolist() == [0, 1, 1, 0, 0]
    # The nearest counts 1, the next 1/2.
    assert neighbour_disagreement(inputs, labels, 2).tolist() == pytest.approx([1 / 3, 2 / 3, 1, 0, 0])


def test_leaving_one_out_equals_training_without_it():
    data = digits().take(np.arange(60))
    found = kernel_leave_one_out(data.inputs, data.labels)
    rows = data.inputs.reshape(60, -1).astype(float)
    squares = np.square(rows[:, None] - rows).sum(axis=2)
    median = np.sqrt(np.median(squares[np.triu_indices(60, 1)]))
    agree = []
    for width in (0.1, 0.2, 0.4, 0.8):
        kernel = np.exp(-squares / (2 * (width * median) ** 2))
        for ridge in (1e-3, 1e-2, 1e-1):
            rest = np.arange(60) != 7
            alpha = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(59), np.eye(10)[data.labels[rest]])
            answer = kernel[7, rest] @ alpha
            own = answer[data.labels[7]]
            agree.append(abs(np.delete(answer, data.labels[7]).max() - own - found[7]) < 1e-6)
    assert sum(agree) == 1


def test_classes_that_the_data_lack_are_no_answers():
    data = digits().take(np.arange(60))
    few = data.labels < 3
    inputs, labels = data.inputs[few], data.labels[few]
    found = kernel_leave_one_out(inputs, labels)
    np.testing.assert_array_equal(kernel_leave_one_out(inputs, labels * 50 - 1), found)


def test_wrong_labels_are_found_without_a_model():
    data, wrong = with_wrong_labels(digits().take(np.arange(600)), 0.05)
    for scores in (neighbour_disagreement(data.inputs, data.labels), kernel_leave_one_out(data.inputs, data.labels)):
        worst = np.argsort(-scores)[: wrong.sum()]
        assert wrong[worst].mean() > 0.85


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="n_neighbours: received 3, accepted: 1 to 2"):
        neighbour_disagreement(np.zeros((3, 2)), np.zeros(3, int), 3)
    with pytest.raises(ValueError, match="one class"):
        kernel_leave_one_out(np.zeros((3, 2)), np.zeros(3, int))
    with pytest.raises(ValueError, match="at most 20000"):
        neighbour_disagreement(np.zeros((20_001, 1)), np.zeros(20_001, int))
