from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse
import threadpoolctl
import torch
from hypothesis import given
from hypothesis import strategies as st

from byheart.geometry import example_dimensionality
from byheart.toy.config import TrainConfig
from byheart.toy.data import SparseExamples
from byheart.toy.kernels import DivergedError, reference
from byheart.toy.measures import represented_features
from byheart.toy.runs import Run, load_run
from byheart.toy.train import draw_examples, draw_test_examples, train

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def small(**fields: object) -> TrainConfig:
    chosen = {"n_examples": 5, "n_features": 60, "sparsity": 0.9, "n_steps": 200, "learning_rate": 0.01, "n_test": 50}
    return TrainConfig(**{**chosen, **fields})


def same_bits(one: Run, other: Run) -> bool:
    arrays = [(one.W, other.W), (one.b, other.b), (one.hidden, other.hidden), (one.repeats, other.repeats)]
    for name in ("history", "snapshots"):
        mine, others = getattr(one, name), getattr(other, name)
        if set(mine) != set(others):
            return False
        arrays += [(mine[key], others[key]) for key in mine]
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in arrays) and one.metrics == other.metrics


def torch_training(
    X: np.ndarray, W: np.ndarray, b: np.ndarray, config: TrainConfig, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The paper's section "Experiment setup", written from the text: the loss before every step and after the last."""
    W, b = (torch.tensor(p, dtype=dtype, requires_grad=True) for p in (W, b))
    x = torch.tensor(X, dtype=dtype)
    decayed = {"params": [W, b] if config.decay_bias else [W], "weight_decay": config.weight_decay}
    groups = [decayed] if config.decay_bias else [decayed, {"params": [b], "weight_decay": 0.0}]
    rule = torch.optim.Adam if config.weight_decay_in_gradient else torch.optim.AdamW
    optimizer = rule(groups, lr=1.0, betas=(config.beta1, config.beta2), eps=config.eps)

    def loss() -> torch.Tensor:
        h = x @ W.T
        squared_error = (x - torch.relu(h @ W + b)) ** 2
        return squared_error.sum(dim=1).mean() if config.reduction == "sum" else squared_error.mean()

    losses = []
    for s in range(config.n_steps):
        if s < config.warmup_steps:
            rate = config.learning_rate * (s + 1) / config.warmup_steps
        else:
            after = (s - config.warmup_steps) / (config.n_steps - config.warmup_steps)
            rate = config.learning_rate * (1 + math.cos(math.pi * after)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        now = loss()
        now.backward()
        losses.append(now.item())
        optimizer.step()
    return W.detach().numpy(), b.detach().numpy(), [*losses, loss().item()]


@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize(
    ("n_hidden", "reduction", "in_gradient"),
    [(2, "sum", False), (2, "mean", False), (5, "sum", False), (2, "sum", True), (11, "sum", True)],
)
def test_training_is_that_of_an_independent_loop_in_torch(n_hidden, reduction, in_gradient, decay_bias):
    # More examples than can be learned by heart, and a large eps: at 1e-8, a gradient that rounds to one ulp instead of
    # zero is a whole step, and the order of torch's own examples changes a bias by up to 1e-3.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = small(
        n_examples=60, n_features=40, n_steps=400, warmup_steps=40, n_hidden=n_hidden, weight_decay=0.05,
        reduction=reduction, decay_bias=decay_bias, weight_decay_in_gradient=in_gradient, repeats=(3, 1, 2),
        learning_rate=3e-3, eps=1e-3,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(60, 40)) * (rng.uniform(size=(60, 40)) < 0.1)
    X = (X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    W, b = (rng.normal(0, 0.2, size).astype(np.float32) for size in ((n_hidden, 40), (40,)))
    written_out = np.repeat(X, [3, 1, 2] + [1] * 57, axis=0)
    exact_W, exact_b, exact_losses = torch_training(written_out, W, b, config, torch.float64)
    rounded_W, rounded_b, rounded_losses = torch_training(written_out, W, b, config, torch.float32)
    torch.set_num_threads(before)

    run = train(config, X, (W, b), kernel="reference")
    assert run.W.dtype == np.float64
    np.testing.assert_allclose(run.W, exact_W, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.b, exact_b, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.history["train_loss"], np.array(exact_losses)[run.history["step"]], rtol=1e-9)

    # Every one of the 400 steps rounds every weight (half an ulp each, an ulp with the step itself), and the errors
    # feed back through the gradients: torch in float32 shows by how much. A wrong rate or decay is 1,000 times that.
    fast = train(config, X, (W, b), kernel="cpu")
    assert fast.W.dtype == np.float32
    ulp = float(np.finfo(np.float32).eps)
    for result, exact, rounded in ((fast.W, exact_W, rounded_W), (fast.b, exact_b, rounded_b)):
        allowed = 4 * np.abs(rounded - exact).max() + np.sqrt(config.n_steps) * ulp * np.abs(exact).max()
        assert np.abs(result - exact).max() <= allowed
    losses = np.array(exact_losses)[fast.history["step"]]
    allowed = 4 * np.abs(np.array(rounded_losses) - exact_losses).max() + np.sqrt(config.n_steps) * ulp * losses.max()
    assert np.abs(fast.history["train_loss"] - losses).max() <= allowed


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_the_norms_at_the_end_are_those_of_the_history(kernel):
    run = train(small(), kernel=kernel)
    for name, weights in (("W_norm", run.W), ("b_norm", run.b)):
        assert run.metrics[name] == run.history[name][-1] == pytest.approx(np.linalg.norm(weights), rel=1e-6)


def test_a_run_says_what_it_did():
    config = small(n_steps=1000)
    steps = []
    run = train(config, on_progress=lambda step, loss: steps.append((step, loss)))
    assert run.config == config
    assert run.W.shape == (2, 60)
    assert run.b.shape == (60,)
    assert run.hidden.shape == (5, 2)
    np.testing.assert_allclose(run.hidden, draw_examples(config).to_scipy() @ run.W.T, rtol=1e-5, atol=1e-6)
    assert run.history["step"][0] == 0
    assert run.history["step"][-1] == 1000
    assert len(run.history["step"]) == 101
    assert (np.diff(run.history["step"]) > 0).all()
    assert run.metrics["train_loss"] == run.history["train_loss"][-1]
    assert run.metrics["W_norm"] == pytest.approx(np.linalg.norm(run.W), rel=1e-6)
    assert run.metrics["b_norm"] == pytest.approx(np.linalg.norm(run.b), rel=1e-6)
    assert run.metrics["example_dimensionality_max"] == pytest.approx(example_dimensionality(run.hidden).max())
    assert run.provenance["kernel"] == "cpu"
    assert {"byheart", "git_revision", "numpy", "numba", "device", "n_threads", "wall_seconds"} < set(run.provenance)
    assert [step for step, _ in steps] == sorted(step for step, _ in steps)
    assert steps[-1][0] == 1000
    assert all(np.isfinite(loss) for _, loss in steps)


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_the_losses_are_those_of_the_definition(kernel):
    config = small(reduction="mean", repeats=(4,))
    run = train(config, kernel=kernel)
    W, b = run.W.astype(np.float64), run.b.astype(np.float64)
    train_loss = reference.loss_and_gradient(W, b, draw_examples(config), "mean")[0]
    assert run.metrics["train_loss"] == pytest.approx(train_loss, rel=1e-4)
    test_losses = reference.example_losses(W, b, draw_test_examples(config)) / 60
    assert run.metrics["test_loss"] == pytest.approx(test_losses.mean(), rel=1e-5)
    assert run.metrics["test_loss_se"] == pytest.approx(test_losses.std(ddof=1) / np.sqrt(50), rel=1e-5)


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_the_same_config_gives_the_same_bits(kernel):
    assert same_bits(train(small(), kernel=kernel), train(small(), kernel=kernel))


def test_dataset_test_set_and_initial_weights_are_independent_streams_of_the_seed():
    sets = [draw(small(n_test=5, seed=seed)) for seed in (0, 1) for draw in (draw_examples, draw_test_examples)]
    assert len({examples.values.tobytes() for examples in sets}) == 4
    longer = draw_examples(small(n_test=7, n_hidden=9, n_steps=3))
    assert longer.values.tobytes() == sets[0].values.tobytes()
    starts = [train(small(seed=seed, snapshot_steps=(0,))).snapshots["W"][0] for seed in (0, 1)]
    assert not np.array_equal(*starts)
    other_data = train(small(snapshot_steps=(0,), n_examples=6)).snapshots["W"][0]
    assert np.array_equal(starts[0], other_data)


def test_the_zero_model_has_a_test_loss_of_one():
    config = small(n_steps=1, learning_rate=1e-30, weight_decay=0)
    run = train(config, initial=(np.zeros((2, 60)), np.zeros(60)))
    assert run.metrics["test_loss"] == pytest.approx(1, rel=1e-6)
    assert run.metrics["train_loss"] == pytest.approx(1, rel=1e-6)
    assert run.metrics["n_features_represented"] == 0
    assert run.metrics["example_dimensionality_max"] == 0


def test_one_example_is_learned_by_heart():
    run = train(small(n_examples=1, n_steps=2000, weight_decay=0))
    assert run.metrics["train_loss"] < 1e-6
    assert run.metrics["example_dimensionality_max"] == pytest.approx(1)
    assert run.metrics["test_loss"] > 0.9


def test_a_few_examples_are_learned_by_heart_as_the_corners_of_a_regular_polygon():
    # The paper's figure 2: every example of five takes 2/5 of the two dimensions.
    config = TrainConfig(
        n_examples=5, n_features=1000, sparsity=0.99, n_steps=4000, n_inits=3, n_test=10, learning_rate=3e-3
    )
    run = train(config)
    assert run.metrics["train_loss"] < 0.01
    np.testing.assert_allclose(example_dimensionality(run.hidden), 0.4, atol=0.05)


def test_repeats_equal_writing_the_rows_out():
    X = np.eye(4, 30, dtype=np.float32) + 0.3 * np.eye(4, 30, 1, dtype=np.float32)
    W, b = np.random.default_rng(0).normal(0, 0.3, (2, 30)), np.zeros(30)
    fields = {"n_features": 30, "n_steps": 300}
    short = train(small(n_examples=4, repeats=(3, 1, 2), **fields), X, (W, b))
    long = train(small(n_examples=7, **fields), np.repeat(X, [3, 1, 2, 1], axis=0), (W, b))
    np.testing.assert_allclose(short.history["train_loss"], long.history["train_loss"], rtol=1e-6)
    np.testing.assert_allclose(short.W, long.W, rtol=1e-5, atol=1e-6)
    assert short.repeats.tolist() == [3, 1, 2, 1]
    assert short.hidden.shape == (4, 2)
    assert short.metrics["example_dimensionality_max"] == pytest.approx(
        long.metrics["example_dimensionality_max"], rel=1e-4
    )
    assert short.metrics["example_dimensionality_mean"] == pytest.approx(
        long.metrics["example_dimensionality_mean"], rel=1e-4
    )


def test_of_several_initialisations_the_one_of_lowest_train_loss_is_kept():
    config = small(n_examples=30, n_inits=4, n_steps=300)
    progress = []
    kept = train(config, on_progress=lambda step, _: progress.append(step))
    first = train(dataclasses.replace(config, n_inits=1))
    starts = [train(dataclasses.replace(config, n_inits=n)).metrics["train_loss"] for n in (2, 3)]
    assert kept.metrics["train_loss"] <= min([first.metrics["train_loss"], *starts])
    assert kept.metrics["init_index"] in range(4)
    assert (kept.metrics["init_index"] == 0) == (kept.metrics["train_loss"] == first.metrics["train_loss"])
    assert progress[-1] == 4 * 300
    assert progress == sorted(progress)


@pytest.mark.parametrize("n_examples", [5, "inf"])
def test_snapshots_are_taken_before_the_asked_steps_and_the_last_is_the_result(n_examples):
    config = small(n_examples=n_examples, snapshot_steps=(0, 7, 33, 200), batch_size=16)
    run, plain = train(config), train(dataclasses.replace(config, snapshot_steps=()))
    assert run.snapshots["step"].tolist() == [0, 7, 33, 200]
    assert run.snapshots["W"].shape == (4, 2, 60)
    assert run.snapshots["b"].shape == (4, 60)
    assert run.snapshots["hidden"].shape == (4, len(run.hidden), 2)
    assert np.array_equal(run.snapshots["W"][-1], run.W)
    assert np.array_equal(run.snapshots["b"][-1], run.b)
    assert np.array_equal(run.snapshots["hidden"][-1], run.hidden)
    assert not run.snapshots["b"][0].any()
    assert np.array_equal(run.W, plain.W), "looking at a run must not change it"
    assert plain.snapshots == {}
    norms = dict(zip(run.history["step"].tolist(), run.history["W_norm"].tolist(), strict=True))
    assert norms[33] == pytest.approx(np.linalg.norm(run.snapshots["W"][2]), rel=1e-6)


def test_without_end_fresh_examples_are_drawn_at_every_step():
    config = small(n_examples="inf", n_steps=300, batch_size=32, n_features=20)
    run = train(config)
    assert same_bits(run, train(config))
    assert run.hidden.shape == (50, 2)
    # Nothing can be learned by heart: train and test loss are those of the same population.
    assert run.metrics["test_loss"] == pytest.approx(run.history["train_loss"][-30:].mean(), abs=0.1)
    fixed = train(small(n_examples=32, n_steps=300, n_features=20))
    assert fixed.metrics["train_loss"] < run.metrics["test_loss"] < fixed.metrics["test_loss"] + 0.05


def test_the_kernels_see_the_same_fresh_examples():
    config = small(n_examples="inf", n_steps=50, batch_size=16, n_hidden=3)
    one, other = (train(config, kernel=kernel) for kernel in ("cpu", "reference"))
    np.testing.assert_allclose(one.history["train_loss"], other.history["train_loss"], rtol=1e-3)
    np.testing.assert_allclose(one.W, other.W, atol=1e-3)


def test_a_run_already_there_is_loaded_and_not_trained_again(tmp_path):
    config = small()
    run = train(config, out=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{config.run_id()}.safetensors"
    assert same_bits(load_run(path), run)
    before = path.stat()
    called = []
    again = train(config, out=tmp_path, on_progress=lambda *_: called.append(1))
    assert same_bits(again, run)
    assert not called
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_damaged_run_in_the_way_is_told_and_not_overwritten(tmp_path):
    train(small(), out=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="run file: received"):
        train(small(), out=tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(small(n_steps=10**9), out=tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    "convert", [np.asarray, scipy.sparse.csr_array, SparseExamples.from_matrix, lambda a: a.tolist()]
)
def test_own_examples_and_weights_are_used_as_they_are(convert):
    X = np.random.default_rng(0).random(size=(5, 60)).astype(np.float32)
    W, b = np.random.default_rng(1).normal(size=(2, 60)), np.full(60, 0.1)
    run = train(small(n_steps=1, learning_rate=1e-30, weight_decay=0), convert(X), (W, b))
    np.testing.assert_allclose(run.hidden, X @ W.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run.W, W, rtol=1e-6)
    np.testing.assert_allclose(run.b, b, rtol=1e-6)
    assert run.metrics["test_loss"] is None
    assert run.metrics["test_loss_se"] is None


def test_what_no_answer_can_be_is_warned_of():
    X = np.eye(5, 60)
    X[3, :2] = -1, -0.5
    with pytest.warns(UserWarning, match=r"^examples: 2 of 7 nonzero values are below 0"):
        train(small(n_steps=3), X)
    with pytest.warns(UserWarning, match=r"^test_examples: 2 of 7 nonzero values are below 0"):
        train(small(n_steps=3), np.eye(5, 60), test_examples=X)


def test_own_test_examples_give_a_test_loss():
    X = np.eye(5, 60)
    run = train(small(), X, test_examples=np.eye(7, 60))
    W, b = run.W.astype(np.float64), run.b.astype(np.float64)
    expected = reference.example_losses(W, b, SparseExamples.from_matrix(np.eye(7, 60))).mean()
    assert run.metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_single_own_test_example_has_a_loss_and_no_standard_error():
    run = train(small(n_steps=3), np.eye(5, 60), test_examples=np.eye(1, 60))
    assert run.metrics["test_loss"] > 0
    assert run.metrics["test_loss_se"] is None or math.isnan(run.metrics["test_loss_se"])


def test_runs_on_other_data_or_weights_have_other_ids(tmp_path):
    config = small(n_steps=3)
    X, other = np.eye(5, 60), 2 * np.eye(5, 60)
    W = np.ones((2, 60)), np.zeros(60)
    arguments: list[dict[str, object]] = [
        {},
        {"examples": X},
        {"examples": other},
        {"test_examples": X},
        {"examples": X, "test_examples": other},
        {"examples": other, "test_examples": X},
        {"initial": W},
        {"initial": (2 * W[0], W[1])},
        {"examples": X, "initial": W},
    ]
    ids = [train(config, **given, out=tmp_path).id for given in arguments]
    assert len(set(ids)) == len(arguments)
    assert len(list(tmp_path.iterdir())) == len(arguments)
    assert ids[0] == config.run_id()
    assert train(config, X.astype(np.float32), out=tmp_path).id == ids[1]


def test_repeats_in_the_config_must_be_those_of_own_sparse_examples():
    with pytest.raises(ValueError, match=r"repeats: received .*accepted: "):
        train(small(n_steps=3, repeats=(4,)), SparseExamples.from_matrix(np.eye(5, 60)))
    run = train(small(n_steps=3, repeats=(4,)), SparseExamples.from_matrix(np.eye(5, 60), repeats=(4,)))
    assert run.repeats.tolist() == [4, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": np.eye(4, 60)}, r"examples: received shape \(4, 60\), accepted: .*\(5, 60\)"),
        ({"examples": np.eye(5, 61)}, r"examples: received shape \(5, 61\), accepted: .*\(5, 60\)"),
        ({"test_examples": np.eye(5, 61)}, r"test_examples: received shape \(5, 61\), accepted: .*60"),
        ({"examples": np.full((5, 60), np.nan)}, "examples: received NaN"),
        ({"initial": (np.zeros((3, 60)), np.zeros(60))}, r"initial: received W \(3, 60\).*accepted: W \(2, 60\)"),
        ({"initial": (np.zeros((2, 60)), np.zeros(61))}, r"initial: received .*b \(61,\), accepted: .*b \(60,\)"),
        ({"initial": (np.full((2, 60), np.nan), np.zeros(60))}, "initial: received NaN"),
        ({"initial": (np.zeros((2, 60)), np.full(60, np.inf))}, "initial: received NaN or infinite"),
        ({"kernel": "gpuu"}, "kernel: received 'gpuu', accepted: "),
    ],
)
def test_what_does_not_fit_the_config_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        train(small(), **arguments)
    assert "\n" not in str(error.value)


def test_own_examples_without_end_are_refused():
    with pytest.raises(ValueError, match="n_examples: received"):
        train(small(n_examples="inf"), np.eye(5, 60))


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_a_run_that_diverges_says_at_which_step_and_leaves_no_file(kernel, tmp_path):
    config = small(learning_rate=1e30, warmup_steps=0, snapshot_steps=tuple(range(11)))
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(DivergedError, match=r"at step \d+;") as error:
        train(config, kernel=kernel, out=tmp_path)
    assert 1 <= error.value.step <= 10
    assert list(tmp_path.iterdir()) == []


def test_a_feature_is_represented_if_it_comes_back_alone():
    W = np.zeros((2, 6), dtype=np.float32)
    W[0, 0], W[1, 2], W[0, 3] = 1, 1, -1  # feature 4 is too weak, feature 5 comes back with others
    W[0, 4] = 0.5
    b = np.zeros(6, dtype=np.float32)
    assert represented_features(W, b).tolist() == [0, 2, 3]
    assert represented_features(W, b - 2).tolist() == []
    assert represented_features(W, b + 1).tolist() == []
    assert represented_features(W, b, reference).tolist() == [0, 2, 3]


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.1, 0.5, 1.0]), bias=st.sampled_from([-0.3, 0.0, 0.1]))
def test_the_features_that_are_ruled_out_beforehand_are_none_that_the_model_represents(seed, scale, bias):
    W = np.random.default_rng(seed).normal(0, scale, (3, 40)).astype(np.float32)
    W[:, ::2] *= 0.01  # so that some are alone
    b = np.full(40, bias, np.float32)
    losses = reference.example_losses(W, b, SparseExamples.from_matrix(np.eye(40)))
    assert represented_features(W, b, reference).tolist() == np.flatnonzero(losses < 0.75).tolist()


def test_a_run_has_the_same_bits_whatever_the_number_of_threads():
    config = TrainConfig(n_examples=300, n_features=2100, sparsity=0.99, n_steps=4, n_test=50)
    runs = [train(config, n_threads=n_threads) for n_threads in (None, 1, 2)]
    assert runs[1].provenance["n_threads"] == 1
    for run in runs[1:]:
        for name in ("W", "b", "hidden"):
            assert getattr(run, name).tobytes() == getattr(runs[0], name).tobytes()
        assert run.metrics == runs[0].metrics


def test_metrics_have_the_same_bits_whatever_the_number_of_blas_threads():
    config = TrainConfig(n_examples=1_000, n_features=400, sparsity=0.97, n_hidden=130, n_steps=2, n_test=10)
    found = []
    for n_threads in (1, 2):
        with threadpoolctl.threadpool_limits(n_threads, user_api="blas"):
            found.append(train(config))
    assert found[0].metrics == found[1].metrics
    assert all((found[0].history[name] == found[1].history[name]).all() for name in found[0].history)


@pytest.mark.parametrize(
    ("kernel", "n_threads", "words"),
    [("cpu", 0, "received 0, accepted: an integer >= 1"), ("reference", 2, 'with the kernel "reference", accepted')],
)
def test_threads_that_there_cannot_be_are_refused(kernel, n_threads, words):
    with pytest.raises(ValueError, match=f"n_threads: .*{words}"):
        train(TrainConfig(n_examples=3, n_features=50, sparsity=0.9, n_steps=2), kernel=kernel, n_threads=n_threads)
