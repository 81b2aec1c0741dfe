"""Training with more than eight hidden units: decay, changed examples, and long steps."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from cases import Case, terms
from test_cpu import large, record, seem_slow
from test_kernels import assert_as_precise_as_numpy

from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu, reference, wide
from byheart.toy.kernels.compile import threads

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def start(given: Case, optimizer: AdamW) -> wide.Training:
    training = cpu.start(given.W, given.b, given.examples, optimizer, "sum")
    assert isinstance(training, wide.Training)
    return training


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


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("size", "n_units"),
    [
        ((17, 2900, 300), (3, 2, 6, 2, 2, 23, 17)),  # three blocks of features against two groups of examples
        ((9, 30, 8191), (1, 33, 8 + 8, 32 + 1, 33, 1, 9)),  # with repeats, two passes of eight groups
    ],
)
def test_on_a_slow_machine_a_step_is_left_after_every_piece(size, n_units, n_threads, monkeypatch):
    seem_slow(monkeypatch)
    monkeypatch.setattr(wide, "_SERIAL_BELOW", 0)
    calls = record(monkeypatch, wide, -4)
    with threads(n_threads):
        start(large(*size), AdamW()).advance(np.full(2, 1e-3))
        assert max(n for _, n in calls) <= numba.get_num_threads()
    for part, n in enumerate(n_units, wide._BEGIN):
        assert sum(done for called, done in calls if called == part) == 2 * n


def test_what_is_no_longer_finite_stops_long_steps_too(monkeypatch):
    seem_slow(monkeypatch)
    training = start(large(9, 40, 30), AdamW())
    training.advance(np.full(3, 1e-3))
    training.W[2, 5] = np.nan
    with pytest.raises(wide.DivergedError) as error:
        training.advance(np.full(3, 1e-3))
    assert error.value.step == training.step == 3
