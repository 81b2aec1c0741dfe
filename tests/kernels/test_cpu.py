"""What only the compiled kernel has: scratch memory, threads, and the GIL."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator

import numba
import numpy as np
import pytest
from cases import CASES, Case, case

from byheart.data import sample_examples
from byheart.kernels import AdamW, cpu

# Blocks of features, groups of examples and passes, for both paths of the kernel (two hidden units, and any number).
_LARGE = [(2, 2500, 700), (2, 300, 1200), (2, 60, 9001), (17, 1100, 300), (17, 60, 5000), (1, 1100, 300), (9, 2100, 20)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def large(n_hidden: int, n_features: int, n_examples: int) -> Case:
    rng = np.random.default_rng(n_hidden)
    W, b = (
        rng.normal(0, 0.3, (n_hidden, n_features)).astype(np.float32),
        rng.normal(0, 0.1, n_features).astype(np.float32),
    )
    return Case(W, b, sample_examples(n_examples, n_features, 0.9, rng, repeats=(3,)))


def everything(problem: Case, n_steps: int = 5) -> list[bytes]:
    """The bits of all that the kernel computes."""
    losses = cpu.example_losses(problem.W, problem.b, problem.examples)
    loss, grad_W, grad_b = cpu.loss_and_gradient(problem.W, problem.b, problem.examples, "sum")
    training = cpu.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
    training.advance(np.full(n_steps, 1e-3))
    assert np.isfinite(training.W).all()
    return [np.asarray(a).tobytes() for a in (losses, loss, grad_W, grad_b, training.W, training.b)]


@pytest.mark.parametrize("name", CASES[::3])
def test_scratch_memory_is_written_before_it_is_read(name, monkeypatch):
    expected = everything(case(name))

    def nan_filled(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(cpu, "_empty", nan_filled)
    assert everything(case(name)) == expected


@pytest.mark.parametrize("size", _LARGE)
def test_scratch_memory_of_large_problems_is_written_before_it_is_read(size, monkeypatch):
    expected = everything(large(*size))
    monkeypatch.setattr(cpu, "_empty", lambda shape, dtype=np.float32: np.full(shape, np.nan, dtype))
    assert everything(large(*size)) == expected


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("size", _LARGE)
def test_the_bits_do_not_depend_on_the_number_of_threads(size):
    problem, results = large(*size), []
    for n_threads in (1, 2, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(n_threads)
        results.append(everything(problem))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("size", _LARGE)
def test_the_bits_are_the_same_from_run_to_run(size):
    assert everything(large(*size)) == everything(large(*size))


@pytest.mark.parametrize("size", [(2, 60, 700), (17, 60, 700)])
def test_the_bits_do_not_depend_on_how_the_steps_are_cut_into_stretches(size):
    problem, results = large(*size), []
    for stretches in ([20], [1] * 20, [3, 10, 7]):
        training = cpu.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
        for n_steps in stretches:
            training.advance(np.full(n_steps, 1e-3))
        results.append((training.W.tobytes(), training.b.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("size", [(2, 1000, 500), (17, 1000, 200)])
def test_other_python_threads_run_while_the_kernel_does(size):
    problem = large(*size)
    training = cpu.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
    began = time.perf_counter()
    training.advance(np.full(3, 1e-6))
    n_steps = int(np.clip(3 / (time.perf_counter() - began), 3, 20_000))  # about a second
    busy = threading.Thread(target=training.advance, args=(np.full(n_steps, 1e-6),))
    turns = 0
    busy.start()
    while busy.is_alive():
        time.sleep(0.001)
        turns += 1
    busy.join()
    assert training.step == 3 + n_steps
    assert turns > 20  # with the GIL held there would be one


def test_the_outputs_of_all_examples_are_never_in_memory_at_once():
    examples = sample_examples(3_000, 10_000, 0.999, np.random.default_rng(0))
    for n_hidden in (2, 3):
        W, b = np.zeros((n_hidden, 10_000), np.float32), np.zeros(10_000, np.float32)
        tracemalloc.start()
        cpu.start(W, b, examples, AdamW(), "sum")
        cpu.example_losses(W, b, examples)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3_000 * 10_000 * 4 / 10
