"""The gate before every timing: it lets correct float32 code through, and nothing that is wrong."""

import dataclasses

import numpy as np
import pytest

from benchmarks.agreement import Answer, answer, ask, check_optimizer, disagreement, errors
from benchmarks.config import BenchConfig
from benchmarks.contenders import CONTENDERS, OURS, Byheart
from benchmarks.problem import Problem
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW, reference
from byheart.toy.model import initial_weights

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def problem(n_hidden=2, n_examples=200, n_features=300):
    rng = np.random.default_rng(0)
    examples = sample_examples(n_examples, n_features, 0.98, rng)
    return Problem(*initial_weights(n_hidden, n_features, "xavier_normal", rng), examples)


def truths(given):
    exact = answer(given, np.float64, None, 2)
    return exact, answer(given, np.float32, check_optimizer(exact.grad_W), 2)


def verdict(contender, given):
    exact, numpy32 = truths(given)
    return disagreement(errors(ask(contender, given, check_optimizer(exact.grad_W), 3), exact, numpy32))


def test_the_reference_in_chunks_is_the_reference_kernel():
    given = problem(n_examples=150)
    exact, _ = truths(given)
    W, b = given.W.astype(float), given.b.astype(float)
    loss, grad_W, grad_b = reference.loss_and_gradient(W, b, given.examples, "sum")
    np.testing.assert_allclose(exact.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(exact.grad_W, grad_W, atol=1e-12)
    np.testing.assert_allclose(exact.grad_b, grad_b, atol=1e-12)
    training = reference.start(W, b, given.examples, check_optimizer(exact.grad_W), "sum")
    training.advance(np.full(3, 1e-3))
    np.testing.assert_allclose(exact.change_W, training.W - W, atol=1e-12)
    np.testing.assert_allclose(exact.change_b, training.b - b, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if "compile" not in name])
def test_every_contender_agrees(name):
    pytest.importorskip(CONTENDERS[name].library or "numpy")
    given = problem(n_hidden=3, n_examples=1100)
    assert verdict(CONTENDERS[name].load()(given), given) == ""


@pytest.mark.large
@pytest.mark.filterwarnings("ignore")  # of what PyTorch's compiler imports
@pytest.mark.parametrize("name", [name for name in CONTENDERS if "compile" in name])
def test_every_compiled_contender_agrees(name):
    given = problem(n_hidden=3)
    assert verdict(CONTENDERS[name].load()(given), given) == ""


class Wrong(Byheart):
    """byheart with one mistake."""

    def __init__(self, given, mistake):
        super().__init__(given, skipping=True)
        self.mistake = mistake

    def loss_and_gradient(self):
        loss, (grad_W, grad_b) = super().loss_and_gradient()
        if self.mistake == "half precision":
            grad_W = grad_W.astype(np.float16)
        if self.mistake == "a pair too few":
            grad_b = grad_b.copy()
            grad_b[np.argmax(np.abs(grad_b))] *= 1 - 1 / 200
        if self.mistake == "loss of another reduction":
            loss /= 300
        if self.mistake == "not a number":
            grad_W = grad_W * np.where(np.arange(300) == 7, np.nan, 1)
        if self.mistake == "another shape":
            grad_W = grad_W.T
        return loss, (grad_W, grad_b)

    def restart(self, optimizer, learning_rate):
        changes = {
            "no decay": {"weight_decay": 0.0},
            "another beta1": {"beta1": 0.8},
            "eps forgotten": {"eps": 1e-8},
        }
        super().restart(dataclasses.replace(optimizer, **changes.get(self.mistake, {})), learning_rate)

    def advance(self, n_steps):
        super().advance(n_steps - (self.mistake == "a step too few"))


@pytest.mark.parametrize(
    ("mistake", "quantity"),
    [
        ("half precision", "grad_W"),
        ("a pair too few", "grad_b"),
        ("loss of another reduction", "loss"),
        ("not a number", "grad_W"),
        ("another shape", "grad_W"),
        ("no decay", "change_W"),
        ("another beta1", "change_W"),
        ("eps forgotten", "change_W"),
        ("a step too few", "change_W"),
    ],
)
def test_a_mistake_is_found_and_named(mistake, quantity):
    given = problem()
    words = verdict(Wrong(given, mistake), given)
    assert words.startswith("disagrees: ")
    assert f"{quantity} off by" in words
    assert verdict(Wrong(given, ""), given) == ""


def test_what_is_exact_agrees_even_where_nothing_is_tolerated():
    zero = Answer(*(np.zeros(shape) for shape in ((), (2, 3), 3, (2, 3), 3)))
    assert errors(zero, zero, zero) == dict.fromkeys(("loss", "grad_W", "grad_b", "change_W", "change_b"), 0.0)
    off = dataclasses.replace(zero, grad_b=np.full(3, 1e-30))
    assert errors(off, zero, zero)["grad_b"] == np.inf


def test_answers_and_problems_survive_their_files(tmp_path):
    given = problem(n_examples=5)
    given.save(tmp_path / "p.npz")
    read = Problem.load(tmp_path / "p.npz")
    assert np.array_equal(read.W, given.W)
    assert np.array_equal(read.examples.to_scipy().toarray(), given.examples.to_scipy().toarray())
    exact, _ = truths(given)
    exact.save(tmp_path / "a.npz")
    assert errors(Answer.load(tmp_path / "a.npz"), exact, exact) == dict.fromkeys(
        ("loss", "grad_W", "grad_b", "change_W", "change_b"), 0.0
    )


def test_examples_without_any_feature_do_not_break_the_chunks():
    rows = np.zeros((130, 40))
    rows[[0, 64, 129], [3, 5, 7]] = 1
    given = Problem(
        *initial_weights(2, 40, "xavier_normal", np.random.default_rng(0)), SparseExamples.from_matrix(rows)
    )
    assert verdict(CONTENDERS["byheart"].load()(given), given) == ""


def test_a_missing_library_is_answered_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    BenchConfig(contenders=OURS).check_installed()
    with pytest.raises(
        ValueError, match=r"received jax without jax installed, accepted: after pip install .*\[bench\]"
    ):
        BenchConfig(contenders=("byheart", "jax")).check_installed()


def test_the_settings_of_the_check_are_adamw_with_a_decay_that_shows():
    optimizer = check_optimizer(np.array([[1.0, -4.0]]))
    assert optimizer == AdamW(eps=pytest.approx(0.04), weight_decay=10.0)
