"""The GPU kernel: here in Triton's interpreter, in a process of its own; ``make test-gpu`` runs all on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, terms
from test_kernels import assert_as_precise_as_numpy

from byheart.toy import kernels
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, choose, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# What takes about a minute in the interpreter, where a step takes 0.1 s and more.
IN_INTERPRETER = """
    test_gpu
    or (example_losses or never_active or left_as or layout or order_of or repeats_equal or protocol)
        and not many and not mean
    or loss_and_gradient and sum and (memorized or nine and inactive) and not many and not 64
    or one_step and True and (feature or repeats or nine) and (memorized or large) and not many
    or many_steps and sum and single and memorized
    or (W-3-nan-9-5 or b--1-inf-9-5 or overflows and 5) and (2-gpu or 17-gpu)
    or changing_the_examples or nan_in_one_answer
"""

# n_hidden, n_features, n_examples.
SIZES = [(2, 150, 300), (17, 60, 70)]


@pytest.mark.slow
def test_all_of_it_in_tritons_interpreter():
    if INTERPRETED:
        pytest.skip("this is that process")
    pytest.importorskip("triton")
    here = Path(__file__).parent
    files = [str(here / "test_kernels.py"), str(here / "test_gpu.py")]
    selected = " ".join(IN_INTERPRETER.split())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "-k", selected, *files],
        cwd=here.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


def test_without_a_gpu_or_triton_one_line_says_what_to_do(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="no CUDA device was found") as error:
        choose("gpu")
    assert "\n" not in str(error.value)
    monkeypatch.delattr(kernels, "gpu")
    monkeypatch.delitem(sys.modules, "byheart.toy.kernels.gpu")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ValueError, match=r'without triton; run pip install "byheart\[gpu\]"'):
        choose("gpu")


@pytest.fixture
def gpu() -> Any:
    return choose("gpu")


@pytest.fixture
def small_pieces(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems are cut as large ones are."""
    monkeypatch.setattr(gpu, "_OUTPUTS_AT_ONCE", 64 * 64)
    monkeypatch.setattr(gpu, "_ENTRIES_OF_A_LONG_COLUMN", 38)
    monkeypatch.setattr(gpu, "_FEATURES_PER_PART", 64)
    monkeypatch.setattr(gpu, "_OWNED", 64)


def problem(n_hidden: int, n_features: int, n_examples: int, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    W = rng.normal(0, 0.3, (n_hidden, n_features)).astype(np.float32)
    b = rng.normal(0, 0.1, n_features).astype(np.float32)
    return Case(W, b, sample_examples(n_examples, n_features, 0.9, rng, repeats=(3,)))


def everything(gpu: Any, p: Case) -> list[bytes]:
    """The bits of all that the kernel computes."""
    losses = gpu.example_losses(p.W, p.b, p.examples)
    loss, grad_W, grad_b = gpu.loss_and_gradient(p.W, p.b, p.examples, "sum")
    training = gpu.start(p.W, p.b, p.examples, AdamW(), "sum")
    training.advance(np.full(2, 1e-3))
    assert np.isfinite(training.W).all()
    return [np.asarray(a).tobytes() for a in (losses, loss, grad_W, grad_b, training.W, training.b)]


def bits(batch: Any, model: int) -> list[bytes]:
    return [array.tobytes() for array in batch.model(model)]


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
def test_small_pieces_are_as_precise(gpu, small_pieces, size):
    p = problem(*size)
    results = [
        k.loss_and_gradient(*p.weights(dtype), p.examples, "sum")
        for k, dtype in ((reference, np.float64), (reference, np.float32), (gpu, np.float32))
    ]
    for name, scale, *values in zip(("loss", "W", "b"), terms(p, "sum"), *results, strict=True):
        assert_as_precise_as_numpy(name, *values, scale)


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
def test_scratch_memory_is_written_before_it_is_read_and_the_bits_are_the_same(gpu, small_pieces, size, monkeypatch):
    expected = everything(gpu, problem(*size))
    empty = gpu._empty

    def nan_filled(shape: tuple[int, ...], *dtype: Any) -> Any:
        array = empty(shape, *dtype)
        return array.fill_(np.nan) if array.is_floating_point() else array

    monkeypatch.setattr(gpu, "_empty", nan_filled)
    assert everything(gpu, problem(*size)) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
def test_a_model_has_the_same_bits_alone_and_with_others(gpu, small_pieces, size):
    n_hidden, n_features, n_examples = size
    models = [problem(n_hidden, n_features, n, seed) for seed, n in enumerate((n_examples, 5))]
    rates = np.array([[1e-3, 2e-3], [0.01, 0.02]])
    together = gpu.Batch([p.W for p in models], [p.b for p in models], [p.examples for p in models], AdamW(), "sum")
    together.advance(rates)
    for i, p in enumerate(models):
        alone = gpu.Batch([p.W], [p.b], [p.examples], AdamW(), "sum")
        alone.advance(rates[i : i + 1])
        assert bits(together, i) == bits(alone, 0)


@pytest.mark.gpu
def test_a_model_that_diverges_leaves_the_others_alone(gpu):
    models = [problem(2, 40, n, n) for n in (9, 20)]
    models[0].W[0, 3] = np.nan
    together = gpu.Batch([p.W for p in models], [p.b for p in models], [p.examples for p in models], AdamW(), "sum")
    alone = gpu.Batch([models[1].W], [models[1].b], [models[1].examples], AdamW(), "sum")
    with np.errstate(invalid="ignore"):
        for _ in range(2):
            together.advance(np.full((2, 2), 1e-3))
            alone.advance(np.full((1, 2), 1e-3))
    assert together.diverged == [0, None]
    assert bits(together, 1) == bits(alone, 0)


@pytest.mark.gpu
def test_the_bits_do_not_depend_on_how_the_steps_are_cut_into_stretches(gpu):
    p, results = problem(2, 40, 20), []
    for stretches in ([4], [1] * 4, [3, 1]):
        training = gpu.start(p.W, p.b, p.examples, AdamW(), "sum")
        for n_steps in stretches:
            training.advance(np.full(n_steps, 1e-3))
        results.append((training.W.tobytes(), training.b.tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no tensor cores")
@pytest.mark.parametrize("size", [(32, 3000, 1000), (128, 3000, 1000), (512, 3000, 5000)])
def test_the_tensor_cores_are_as_precise_as_float32(gpu, size):
    p = problem(*size)
    results = [
        k.loss_and_gradient(*p.weights(dtype), p.examples, "sum")
        for k, dtype in ((reference, np.float64), (reference, np.float32), (gpu, np.float32))
    ]
    for name, scale, *values in zip(("loss", "W", "b"), terms(p, "sum"), *results, strict=True):
        assert_as_precise_as_numpy(name, *values, scale)


@pytest.mark.gpu
def test_models_of_several_shapes_are_refused(gpu):
    one, other = problem(2, 40, 5), problem(3, 40, 5)
    with pytest.raises(ValueError, match="one shape for all"):
        gpu.Batch([one.W, other.W], [one.b, other.b], [one.examples, other.examples], AdamW(), "sum")
