"""The definition itself: by hand, by finite differences, and by torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases import SMALL_CASES, case, terms
from hypothesis import assume, given
from hypothesis import strategies as st

from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW, reference

pytestmark = pytest.mark.usefixtures("one_blas_thread", "one_torch_thread")


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_loss(W: torch.Tensor, b: torch.Tensor, X: torch.Tensor, reduction: str) -> torch.Tensor:
    """The loss as the paper writes it; X has one row per example, repeats written out."""
    squared_errors = (torch.relu((W.T @ (W @ X.T)).T + b) - X) ** 2
    return squared_errors.sum(dim=1).mean() if reduction == "sum" else squared_errors.mean()


def test_a_case_by_hand_with_all_features_active():
    # h = 1, z = (1.5, 1), r = (0.5, 1), d = 2 r = (1, 2), W d = 5, dW = h d + (W d) x.
    examples = SparseExamples.from_matrix(np.array([[1.0, 0]]))
    W, b = np.array([[1.0, 2]]), np.array([0.5, -1])
    loss, grad_W, grad_b = reference.loss_and_gradient(W, b, examples, "sum")
    assert loss == 1.25
    assert reference.example_losses(W, b, examples).tolist() == [1.25]
    assert grad_W.tolist() == [[6, 2]]
    assert grad_b.tolist() == [1, 2]
    loss, grad_W, grad_b = reference.loss_and_gradient(W, b, examples, "mean")
    assert loss == 0.625
    assert grad_W.tolist() == [[3, 1]]
    assert grad_b.tolist() == [0.5, 1]


def test_a_case_by_hand_with_an_inactive_feature_and_a_repeated_example():
    # First example: h = 2, z = (-1, 3), r = (0, 2), d = (0, 4), W d = 8, dW = (0, 2 * 4 + 8). Second: as it is not
    # active anywhere (z = (-2, -3)), its loss is 4 and its gradient 0. Of three examples, the first occurs twice.
    examples = SparseExamples.from_matrix(np.array([[0.0, 1], [2, 0]]), repeats=(2,))
    W, b = np.array([[1.0, 2]]), np.array([-3.0, -1])
    second = SparseExamples.from_matrix(np.array([[2.0, 0]]))
    low = np.array([-5.0, -9])
    assert reference.example_losses(W, low, second).tolist() == [4]
    assert not reference.loss_and_gradient(W, low, second, "sum")[1].any()
    # At b = (-3, -1) the second has h = 2, z = (-1, 3), r = (-2, 3), d = (0, 6), W d = 12, dW = (0 + 12 * 2, 2 * 6).
    assert reference.example_losses(W, b, examples).tolist() == [4, 13]
    loss, grad_W, grad_b = reference.loss_and_gradient(W, b, examples, "sum")
    assert loss == pytest.approx((4 + 4 + 13) / 3)
    assert grad_W.ravel() == pytest.approx([24 / 3, (16 + 16 + 12) / 3])
    assert grad_b == pytest.approx([0, (4 + 4 + 6) / 3])


def test_a_first_step_by_hand():
    # m^ = g and v^ = g^2 after one step, so that W moves by the learning rate against the sign of g.
    examples = SparseExamples.from_matrix(np.array([[1.0, 0]]))
    W, b = np.array([[1.0, 2]]), np.array([0.5, -1])
    training = reference.start(W, b, examples, AdamW(eps=0.5, weight_decay=0.2, decay_bias=False), "sum")
    training.advance(np.array([0.1]))
    assert training.W.ravel() == pytest.approx([0.98 - 0.1 * 6 / 6.5, 2 * 0.98 - 0.1 * 2 / 2.5])
    assert training.b == pytest.approx([0.5 - 0.1 * 1 / 1.5, -1 - 0.1 * 2 / 2.5])


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from(["sum", "mean"]),
    st.lists(st.integers(1, 4), max_size=2),
    st.integers(0, 2**32),
)
def test_the_gradient_is_that_of_central_finite_differences(n_hidden, n_features, n_examples, reduction, repeats, seed):
    rng = np.random.default_rng(seed)
    examples = sample_examples(n_examples, n_features, 0.4, rng, repeats[:n_examples])
    W, b = rng.normal(size=(n_hidden, n_features)), rng.normal(size=n_features)
    X = examples.to_scipy().toarray().astype(np.float64)
    assume(np.abs(X @ W.T @ W + b).min() > 1e-3)  # no kink within reach of the differences
    _, grad_W, grad_b = reference.loss_and_gradient(W, b, examples, reduction)
    step = 1e-5  # of the third derivative step^2 = 1e-10 is left, of rounding 1e-16 / step = 1e-11

    def loss_at(parameter: np.ndarray, index: tuple[int, ...], change: float) -> float:
        moved = parameter.copy()
        moved[index] += change
        weights = (moved, b) if parameter is W else (W, moved)
        return reference.loss_and_gradient(*weights, examples, reduction)[0]

    for parameter, gradient in ((W, grad_W), (b, grad_b)):
        for index in np.ndindex(parameter.shape):
            difference = (loss_at(parameter, index, step) - loss_at(parameter, index, -step)) / (2 * step)
            assert gradient[index] == pytest.approx(difference, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", SMALL_CASES)
def test_loss_and_gradient_are_those_of_torch(name, reduction):
    problem = case(name)
    W, b = (torch.tensor(p, requires_grad=True) for p in problem.weights(np.float64))
    loss = torch_loss(W, b, torch.tensor(problem.dense()), reduction)
    loss.backward()
    result, grad_W, grad_b = reference.loss_and_gradient(*problem.weights(np.float64), problem.examples, reduction)
    assert result == pytest.approx(loss.item(), rel=1e-9, abs=1e-20)
    _, *scales = terms(problem, reduction)
    for gradient, expected, scale in zip((grad_W, grad_b), (W.grad.numpy(), b.grad.numpy()), scales, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-14 * scale)


def test_the_relu_has_no_slope_at_zero_as_in_torch():
    examples = SparseExamples.from_matrix(np.array([[1.0, 0]]))
    W, b = np.zeros((2, 2)), np.zeros(2)
    _, grad_W, grad_b = reference.loss_and_gradient(W, b, examples, "sum")
    assert not grad_W.any()
    assert not grad_b.any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize(
    ("name", "eps"),
    [
        ("three hidden units, dense: large bias", 1e-8),
        ("nine hidden units: small random", 1e-8),
        # It is learned by heart within 100 steps. AdamW then divides vanishing gradients by vanishing moments, and
        # with the default eps the last bit would grow to 1e-4 in any two implementations.
        ("repeats: small random", 1e-5),
    ],
)
def test_300_steps_are_those_of_torch_adamw(name, eps, decay_bias, reduction):
    problem, betas, decay = case(name), (0.85, 0.995), 0.05
    rates = np.concatenate([np.linspace(1e-5, 1e-3, 100), np.linspace(1e-3, 0, 200)])
    W, b = (torch.tensor(p, requires_grad=True) for p in problem.weights(np.float64))
    groups = [{"params": [W], "weight_decay": decay}, {"params": [b], "weight_decay": decay if decay_bias else 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps)
    X = torch.tensor(problem.dense())
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.zero_grad()
        torch_loss(W, b, X, reduction).backward()
        optimizer.step()
    ours = AdamW(*betas, eps, weight_decay=decay, decay_bias=decay_bias)
    training = reference.start(*problem.weights(np.float64), problem.examples, ours, reduction)
    training.advance(rates)
    np.testing.assert_allclose(training.W, W.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(training.b, b.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_is_computed_in_the_precision_of_the_weights(dtype):
    problem = case("repeats: small random")
    _, grad_W, grad_b = reference.loss_and_gradient(*problem.weights(dtype), problem.examples, "mean")
    assert grad_W.dtype == grad_b.dtype == dtype
    training = reference.start(*problem.weights(dtype), problem.examples, AdamW(), "mean")
    training.advance(np.full(2, 1e-3))
    assert training.W.dtype == training.b.dtype == dtype


@pytest.mark.parametrize("n_examples", [3, 4, 5, 10, 30])
def test_the_polygon_of_the_papers_theory_answers_without_error(n_examples):
    # Disjoint examples on a circle of radius r, r^2 = 1 / (1 - cos(2 pi / T)), b = -r^2 cos(2 pi / T): the answer is
    # 1 at the example, 0 at its neighbours and negative, hence 0, farther off.
    angles = 2 * np.pi * np.arange(n_examples) / n_examples
    squared_radius = 1 / (1 - np.cos(angles[1]))
    W = np.sqrt(squared_radius) * np.stack([np.cos(angles), np.sin(angles)])
    b = np.full(n_examples, -squared_radius * np.cos(angles[1]))
    examples = SparseExamples.from_matrix(np.eye(n_examples))
    assert reference.loss_and_gradient(W, b, examples, "sum")[0] < 1e-24
    assert (reference.example_losses(W, b, examples) < 1e-24).all()
