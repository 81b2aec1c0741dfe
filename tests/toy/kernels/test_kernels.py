"""Every fast kernel against the reference, on every case."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
from cases import CASES, SMALL_CASES, case, terms

from byheart.toy.data import sample_examples
from byheart.toy.kernels import KERNELS, AdamW, DivergedError, Kernel, choose, cpu, reference

pytestmark = pytest.mark.usefixtures("one_blas_thread")

# The GPU's are run by test_gpu.py in Triton's interpreter, and by make test-gpu.
# "torch" is automatic differentiation of variants of the model: test_with_torch.py.
# "lists": the CPU's kernel as it is once few outputs are active, from the first step on.
NAMES = [pytest.param(name, marks=pytest.mark.gpu if name == "gpu" else ()) for name in KERNELS if name != "torch"]
NAMES.insert(0, "lists")
every_kernel = pytest.mark.parametrize("kernel", NAMES, indirect=True)
every_fast_kernel = pytest.mark.parametrize("kernel", NAMES[:-1], indirect=True)  # all but the reference
both_reductions = pytest.mark.parametrize("reduction", ["sum", "mean"])

_ULP = float(np.finfo(np.float32).eps)


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return ByLists() if request.param == "lists" else choose(request.param)


class ByLists:
    """The CPU's kernel, with lists from the first step on."""

    example_losses = staticmethod(cpu.example_losses)

    def start(self, W, b, examples, optimizer, reduction):
        training = cpu.start(W, b, examples, optimizer, reduction)
        training.may_list = False  # or not: as it is now it stays
        training._list(training.tiled.parameters[0], 1)
        return training

    def loss_and_gradient(self, W, b, examples, reduction):
        loss, *_ = cpu.loss_and_gradient(W, b, examples, reduction)
        return loss, *self.start(W, b, examples, AdamW(), reduction).gradient()


def tolerance(exact: np.ndarray, numpy32: np.ndarray, scale: float) -> float:
    """Twice the error of NumPy in float32, plus a floor of one ulp of ``scale``.

    The same sums in another order have other rounding errors, of the same size: hence the factor. Where NumPy happens
    to be exact (one example, one feature) it allows nothing, hence the floor. ``scale`` is the size of the result's
    terms before they cancel: a gradient that is zero but for rounding has no correct digit in any float32 kernel.
    """
    return 2 * float(np.abs(numpy32 - exact).max()) + _ULP * scale


def assert_as_precise_as_numpy(name: str, exact: object, numpy32: object, result: object, scale: float) -> None:
    exact, numpy32, result = (np.asarray(array, dtype=np.float64) for array in (exact, numpy32, result))
    assert result.shape == exact.shape
    error = np.abs(result - exact).max()
    theirs, ulp = np.abs(numpy32 - exact).max(), _ULP * scale
    assert error <= tolerance(exact, numpy32, scale), (
        f"{name}: off by {error / ulp:.2f} ulps, NumPy by {theirs / ulp:.2f}"
    )


@every_fast_kernel
@pytest.mark.parametrize("name", CASES)
def test_example_losses_agree_with_the_reference(kernel, name):
    problem = case(name)
    results = [
        k.example_losses(*problem.weights(dtype), problem.examples)
        for k, dtype in ((reference, np.float64), (reference, np.float32), (kernel, np.float32))
    ]
    assert results[2].dtype == np.float64
    assert len(results[2]) == problem.examples.n_examples
    assert_as_precise_as_numpy("losses", *results, scale=4 * results[0].max())  # four roundings per term


@every_fast_kernel
@both_reductions
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_agree_with_the_reference(kernel, name, reduction):
    problem = case(name)
    results = [
        k.loss_and_gradient(*problem.weights(dtype), problem.examples, reduction)
        for k, dtype in ((reference, np.float64), (reference, np.float32), (kernel, np.float32))
    ]
    quantities, scales = ("loss", "gradient of W", "gradient of b"), terms(problem, reduction)
    for quantity, scale, *values in zip(quantities, scales, *results, strict=True):
        assert_as_precise_as_numpy(quantity, *values, scale)


@every_fast_kernel
@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_one_step_agrees_with_the_reference(kernel, name, decay_bias):
    # AdamW's first step is learning_rate * g / (|g| + eps). Where |g| is about eps, an error dg of the gradient comes
    # out as learning_rate * dg * eps / (|g| + eps)^2, for any correct kernel: that is added to the tolerance.
    problem, rate = case(name), 1e-3
    optimizer = AdamW(weight_decay=0.1, decay_bias=decay_bias)
    gradients = [
        reference.loss_and_gradient(*problem.weights(d), problem.examples, "sum") for d in (np.float64, np.float32)
    ]
    steps = []
    for k, dtype in ((reference, np.float64), (reference, np.float32), (kernel, np.float32)):
        training = k.start(*problem.weights(dtype), problem.examples, optimizer, "sum")
        training.advance(np.array([rate]))
        assert training.step == 1
        steps.append((training.W, training.b))
    for i, quantity in enumerate(("W", "b")):
        exact, numpy32, result = (np.asarray(step[i], dtype=np.float64) for step in steps)
        g, g32 = gradients[0][1 + i], gradients[1][1 + i]
        dg = tolerance(g, g32, terms(problem, "sum")[1 + i])
        amplified = np.minimum(rate * dg * optimizer.eps / np.square(np.abs(g) + optimizer.eps), 2 * rate)
        scale = 4 * (np.abs(exact).max() + rate)  # four roundings per step
        excess = np.abs(result - exact) - tolerance(exact, numpy32, scale) - amplified
        assert (excess <= 0).all(), f"{quantity}: {excess.max() / (_ULP * np.abs(exact).max()):.1f} ulps too far off"


@every_fast_kernel
@both_reductions
@pytest.mark.parametrize("name", [name for name in CASES if "memorized" in name or "small random" in name])
def test_many_steps_agree_with_the_reference(kernel, name, reduction):
    # eps is a hundredth of the gradient's terms, so that the rounding of gradients near zero, which no kernel can
    # avoid, is not blown up to whole steps; the default eps is tested over one step above.
    problem = case(name)
    optimizer = AdamW(eps=0.01 * max(terms(problem, reduction)[1:]) + 1e-12)
    rates = np.linspace(1e-3, 2e-3, 70)
    results = []
    for k, dtype in ((reference, np.float64), (reference, np.float32), (kernel, np.float32)):
        training = k.start(*problem.weights(dtype), problem.examples, optimizer, reduction)
        training.advance(rates[:10])
        training.advance(rates[10:10])
        training.advance(rates[10:])
        assert training.step == len(rates)
        results.append((training.W, training.b))
    # A pre-activation may pass 0 at a nonzero target a step earlier or later for a rounding error: a few weights are
    # then off by more. The median weight is not; an error of formula is 1,000 times larger.
    for quantity, exact, numpy32, result in zip("Wb", *results, strict=True):
        scale = 4 * (np.abs(exact).max() + rates.max())
        typical = (np.atleast_1d(np.median(np.abs(values - exact))) for values in (exact, numpy32, result))
        assert_as_precise_as_numpy(f"median of {quantity}", *typical, scale)
        assert np.abs(result - exact).max() <= 10 * tolerance(exact, numpy32, scale)


@every_kernel
@pytest.mark.parametrize("name", SMALL_CASES[::7])
def test_the_mean_over_the_example_losses_is_the_loss_repeats_counted(kernel, name):
    problem = case(name)
    losses = kernel.example_losses(*problem.weights(np.float64), problem.examples)
    loss = kernel.loss_and_gradient(*problem.weights(np.float64), problem.examples, "sum")[0]
    assert loss == pytest.approx(np.repeat(losses, problem.examples.repeats).mean(), rel=1e-6)


@every_kernel
def test_repeats_equal_writing_the_rows_out(kernel):
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(3, 40)), rng.normal(size=40)
    repeated = sample_examples(6, 40, 0.8, rng, repeats=(4, 1, 9))
    once, many = (kernel.loss_and_gradient(W, b, e, "sum") for e in (repeated, repeated.expanded()))
    for one, other in zip(once, many, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@every_kernel
def test_the_order_of_the_examples_does_not_matter(kernel):
    problem = case("eight hidden units: large bias")
    examples = problem.examples
    order = np.random.default_rng(0).permutation(examples.n_examples)
    shuffled = type(examples).from_matrix(examples.to_scipy()[order])
    W, b = problem.weights(np.float64)
    np.testing.assert_allclose(
        kernel.example_losses(W, b, shuffled), kernel.example_losses(W, b, examples)[order], rtol=1e-6
    )


@every_kernel
def test_the_zero_model_scores_one_on_unit_examples(kernel):
    examples = sample_examples(50, 1500, 0.99, np.random.default_rng(0))
    losses = kernel.example_losses(np.zeros((2, 1500)), np.zeros(1500), examples)
    np.testing.assert_allclose(losses, 1, rtol=1e-6)


@every_kernel
def test_a_model_that_is_never_active_has_no_gradient_and_only_decays(kernel):
    problem = case("three hidden units, dense: all inactive")
    _, grad_W, grad_b = kernel.loss_and_gradient(problem.W, problem.b, problem.examples, "sum")
    assert not grad_W.any()
    assert not grad_b.any()
    training = kernel.start(problem.W, problem.b, problem.examples, AdamW(weight_decay=0.5, decay_bias=False), "sum")
    training.advance(np.array([0.1, 0.1]))
    np.testing.assert_allclose(training.W, problem.W * 0.95**2, rtol=1e-6)
    assert np.array_equal(training.b, problem.b)


@every_kernel
def test_training_and_measuring_leave_the_given_weights_alone(kernel):
    problem = case("three blocks: small random")
    W, b = problem.weights(np.float32)
    kernel.loss_and_gradient(W, b, problem.examples, "sum")
    kernel.example_losses(W, b, problem.examples)
    kernel.start(W, b, problem.examples, AdamW(), "sum").advance(np.full(3, 0.1))
    assert np.array_equal(W, problem.W)
    assert np.array_equal(b, problem.b)


@every_kernel
def test_weights_may_be_given_in_any_layout(kernel):
    problem = case("nine hidden units: small random")
    expected = kernel.loss_and_gradient(problem.W, problem.b, problem.examples, "sum")
    wide = np.zeros((problem.W.shape[0], 2 * problem.W.shape[1]), dtype=np.float32)
    wide[:, ::2] = problem.W
    for W in (np.asfortranarray(problem.W), wide[:, ::2]):
        result = kernel.loss_and_gradient(W, problem.b, problem.examples, "sum")
        np.testing.assert_allclose(result[1], expected[1], rtol=1e-5, atol=1e-7)
        assert np.allclose(
            kernel.example_losses(W, problem.b, problem.examples),
            kernel.example_losses(problem.W, problem.b, problem.examples),
        )


@every_kernel
@pytest.mark.parametrize("n_hidden", [2, 9])
def test_changing_the_examples_in_training_keeps_weights_moments_and_step(kernel, n_hidden):
    rng = np.random.default_rng(0)
    first, second = (sample_examples(t, 40, 0.8, rng) for t in (5, 9))
    W, b = rng.normal(size=(n_hidden, 40)).astype(np.float32), np.zeros(40, dtype=np.float32)
    changed, expected = (
        kernel.start(W, b, first, AdamW(), "sum"),
        reference.start(W.astype(float), b.astype(float), first, AdamW(), "sum"),
    )
    for training in (changed, expected):
        training.advance(np.full(3, 0.01))
        training.set_examples(second)
        assert training.step == 3
        training.advance(np.full(3, 0.01))
        assert training.step == 6
    np.testing.assert_allclose(changed.W, expected.W, atol=1e-5)
    np.testing.assert_allclose(changed.b, expected.b, atol=1e-5)


@every_kernel
@pytest.mark.parametrize("n_hidden", [1, 2, 3, 8, 9, 17])
@pytest.mark.parametrize(("n_examples", "n_features"), [(9, 5), (9, 1100), (1300, 50), (1300, 48)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [3, -1])
@pytest.mark.parametrize("where", ["W", "b"])
def test_a_nan_or_infinity_anywhere_in_the_weights_shows_in_the_loss_and_stops_training(
    kernel, n_hidden, n_examples, n_features, value, where, place
):
    rng = np.random.default_rng(0)
    examples = sample_examples(n_examples, n_features, 0.5, rng)
    for bias in (0, -50):
        W, b = rng.normal(size=(n_hidden, n_features)), bias + rng.normal(size=n_features)
        W, b = W.astype(np.float32), b.astype(np.float32)
        (W if where == "W" else b).reshape(-1)[place] = value
        with np.errstate(invalid="ignore", over="ignore"):
            losses = kernel.example_losses(W, b, examples)
            loss, *_ = kernel.loss_and_gradient(W, b, examples, "sum")
            assert not np.isfinite(losses).all()
            assert not np.isfinite(loss)
            if np.isnan(value):
                assert np.isnan(losses).all(), "every example's answer depends on every weight of the output"
                assert np.isnan(loss)
            training = kernel.start(W, b, examples, AdamW(), "sum")
            with pytest.raises(DivergedError) as error:
                training.advance(np.full(5, 1e-3))
        assert error.value.step == training.step == 0


@every_kernel
def test_a_nan_in_one_answer_of_one_example_is_not_lost_behind_the_relu(kernel):
    # Feature 0 is in the first example only and the bias keeps all answers at zero: ReLU must pass NaN, not drop it.
    examples = type(case(CASES[0]).examples).from_matrix(np.eye(4))
    W, b = np.ones((2, 4), dtype=np.float32), np.full(4, -100, dtype=np.float32)
    W[0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        losses = kernel.example_losses(W, b, examples)
    assert np.isnan(losses).all()  # in the first through its hidden vector, in the others through the answer at 0


@every_kernel
@pytest.mark.parametrize("n_hidden", [1, 2, 3, 9])
@pytest.mark.parametrize("n_features", [1, 5, 100])
def test_what_overflows_is_reported_and_does_not_freeze_training(kernel, n_hidden, n_features):
    # The squared gradient overflows float32 although the loss does not: a step of m / inf = 0 would stand still unseen.
    rng = np.random.default_rng(0)
    examples = sample_examples(5, n_features, 0.0, rng)
    W = (1e8 * rng.uniform(0.5, 1, (n_hidden, n_features))).astype(np.float32)
    training = kernel.start(W, np.zeros(n_features, np.float32), examples, AdamW(weight_decay=0), "sum")
    with np.errstate(over="ignore", invalid="ignore"), contextlib.suppress(DivergedError):
        training.advance(np.full(5, 1e5))
    assert not np.array_equal(training.W, W)


@every_kernel
def test_a_huge_learning_rate_diverges_at_the_first_step_whose_loss_is_not_finite(kernel):
    problem = case("repeats: small random")
    training = kernel.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
    with np.errstate(over="ignore", invalid="ignore"):
        training.advance(np.full(4, 1e-3))
        with pytest.raises(DivergedError) as error:
            training.advance(np.full(50, 1e30))
        # The weights of that step, reached in one more by itself, have a loss that is not finite; those before have.
        assert training.step == error.value.step
        again = kernel.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
        again.advance(np.full(4, 1e-3))
        for _ in range(4, error.value.step):
            assert np.isfinite(kernel.loss_and_gradient(again.W, again.b, problem.examples, "sum")[0])
            again.advance(np.array([1e30]))
        assert not np.isfinite(kernel.loss_and_gradient(again.W, again.b, problem.examples, "sum")[0])
    assert f"at step {error.value.step};" in str(error.value)


def test_divergence_keeps_its_step_between_processes():
    error = pickle.loads(pickle.dumps(DivergedError(17)))
    assert isinstance(error, DivergedError)
    assert error.step == 17
    assert "step 17" in str(error)


def test_an_unknown_kernel_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=f"kernel: received 'gpuu', accepted: {', '.join(KERNELS)}"):
        choose("gpuu")


@every_kernel
def test_a_kernel_has_what_the_protocol_asks_for(kernel):
    wanted = [attribute for attribute in vars(Kernel) if not attribute.startswith("_")]
    assert set(wanted) == {"start", "example_losses", "loss_and_gradient"}
    assert all(callable(getattr(kernel, attribute)) for attribute in wanted)
