"""Training with more than eight hidden units: decay, changed examples, and long steps."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, terms
from test_cpu import large, seem_slow
from test_kernels import assert_as_precise_as_numpy

from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu, reference, wide
from byheart.toy.kernels.compile import threads

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def start(given: Case, optimizer: AdamW) -> wide.Training:
    return wide.Training(given.W, given.b, given.examples, optimizer, "sum")


@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("n_other", [7, 300])
def test_changed_examples_and_strong_decay_are_those_of_the_reference(n_other, decay_bias):
    given = large(17, 1100, 50)
    other = sample_examples(n_other, 1100, 0.99, np.random.default_rng(1))
    optimizer = AdamW(eps=0.01 * max(terms(given, "sum")[1:]), weight_decay=5.0, decay_bias=decay_bias)
    results = []
    for kernel, dtype in ((reference, np.float64), (reference, np.float32), (cpu, np.float32)):
        training = kernel.start(*given.weights(dtype), given.examples, optimizer, "sum")
        training.advance(np.full(10, 0.01))
        training.set_examples(other)
        training.advance(np.linspace(0.01, 0, 20))
        assert training.step == 30
        results.append((training.W, training.b))
    for quantity, *values in zip("Wb", *results, strict=True):
        assert_as_precise_as_numpy(quantity, *values, 4 * (np.abs(values[0]).max() + 0.01))


@pytest.mark.parametrize("bias", [-1.5, -0.9, -0.6, -0.3, 1.0])  # next to none, few, about the limit, half, all
@pytest.mark.parametrize("size", [(17, 1100, 300), (64, 70, 1500), (150, 530, 40)])
def test_however_many_outputs_are_active_the_gradient_is_that_of_the_reference(size, bias):
    given = large(*size)
    given = Case(given.W / np.float32(np.sqrt(size[0])), given.b + np.float32(bias), given.examples)
    expected, theirs, ours = (
        kernel.loss_and_gradient(*given.weights(dtype), given.examples, "sum")
        for kernel, dtype in ((reference, np.float64), (reference, np.float32), (cpu, np.float32))
    )
    largest = terms(given, "sum")
    for quantity, *values, term in zip(("loss", "W", "b"), expected, theirs, ours, largest, strict=True):
        assert_as_precise_as_numpy(quantity, *values, term)


@pytest.mark.parametrize(
    ("size", "n_units"),
    [
        ((17, 2900, 300), (2 + 6 + 2, 23)),  # six blocks of features against one group of examples
        ((9, 30, 9001), (36 + 2 * (8 + 32), 1)),  # with repeats, two passes of eight groups
    ],
)
def test_on_a_slow_machine_a_step_is_left_after_every_unit_with_the_same_bits(size, n_units, monkeypatch):
    given = large(*size)
    training = start(given, AdamW())
    training.advance(np.full(2, 1e-3))
    expected, expected_gradient = training.W.tobytes(), [g.tobytes() for g in training.gradient()]
    seem_slow(monkeypatch)
    calls, run = [], wide.side_by_side
    monkeypatch.setattr(
        wide,
        "side_by_side",
        lambda n, f, numbers, last, *a: (calls.append(last - numbers[0]), run(n, f, numbers, last, *a)),
    )
    with threads(1):
        training = start(given, AdamW())
        training.advance(np.full(2, 1e-3))
        assert training.W.tobytes() == expected
        assert [g.tobytes() for g in training.gradient()] == expected_gradient
    assert calls == [1] * (3 * n_units[0] + 2 * n_units[1])


def test_what_is_no_longer_finite_stops_long_steps_too(monkeypatch):
    seem_slow(monkeypatch)
    training = start(large(9, 40, 30), AdamW())
    training.advance(np.full(3, 1e-3))
    training.state.W[5, 2] = np.nan
    with pytest.raises(wide.DivergedError) as error:
        training.advance(np.full(3, 1e-3))
    assert error.value.step == training.step == 3
