"""Training with up to eight hidden units: when pairs are skipped and reordered, and long steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, terms
from hypothesis import given
from hypothesis import strategies as st
from test_cpu import seem_slow
from test_kernels import assert_as_precise_as_numpy

from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, narrow, reference, skipping
from byheart.toy.kernels.compile import threads

_ULP = float(np.finfo(np.float32).eps)
pytestmark = pytest.mark.usefixtures("one_blas_thread")


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps before which an order was made; it is looked at more often than usual."""
    for name, steps in (("_CHECK_ORDER_EVERY", 4), ("_RENEW_ORDER_EVERY", 16), ("_TRY_AGAIN_AFTER", 12)):
        monkeypatch.setattr(narrow, name, steps)
    made, renew = [], narrow.Training._renew_order

    def recorded(training: narrow.Training) -> bool:
        made.append(training.step)
        return renew(training)

    monkeypatch.setattr(narrow.Training, "_renew_order", recorded)
    return made


def problem(
    n_hidden: int = 2,
    n_features: int = 150,
    n_examples: int = 700,
    spread: float = 1.0,
    bias: float = 0.0,
    scale: float = 1.0,
    seed: int = 0,
) -> Case:
    """Weights around a few directions, or anywhere if the spread is large; b is compared to W h."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n_hidden, 5))[:, rng.integers(0, 5, n_features)]
    W = scale * (W + spread * rng.normal(size=(n_hidden, n_features)))
    b = scale * scale * (bias + spread * rng.normal(size=n_features))
    examples = sample_examples(n_examples, n_features, 0.9, rng)
    return Case(W.astype(np.float32), b.astype(np.float32), examples)


def start(problem: Case, optimizer: AdamW = AdamW(), *, skip: bool = True) -> narrow.Training:  # noqa: B008
    return narrow.Training(problem.W, problem.b, problem.examples, optimizer, "sum", skip)


def bits(training: narrow.Training) -> list[bytes]:
    return [training.W.tobytes(), training.b.tobytes()]


def assert_trained_as_by_the_reference(
    problem: Case, optimizer: AdamW, parts: list[tuple[Any, np.ndarray]], **settings: bool
) -> narrow.Training:
    """Train on each part's examples at its learning rates, in both kernels."""
    results, training = [], start(problem, optimizer, **settings)
    exact, numpy32 = (
        reference.start(*problem.weights(dtype), problem.examples, optimizer, "sum")
        for dtype in (np.float64, np.float32)
    )
    for k in (exact, numpy32, training):
        for examples, rates in parts:
            if examples is not problem.examples:
                k.set_examples(examples)
            k.advance(rates)
        results.append((k.W, k.b))
    for quantity, *values in zip("Wb", *results, strict=True):
        scale = 4 * (np.abs(values[0]).max() + max(rates.max() for _, rates in parts))  # as in test_kernels
        assert_as_precise_as_numpy(quantity, *values, scale)
    return training


def steady(problem: Case, **settings: Any) -> AdamW:
    """As in test_kernels: an eps that does not blow the rounding of gradients near zero up to whole steps."""
    return AdamW(eps=0.01 * max(terms(problem, "sum")[1:]), **settings)


@given(
    n_hidden=st.sampled_from([1, 2, 3, 8]),
    n_features=st.integers(1, 90),
    n_examples=st.integers(256, 700),
    spread=st.sampled_from([0.0, 0.01, 1.0]),
    bias=st.sampled_from([0.0, 0.3, -0.3, 3.0, -3.0, 100.0, -100.0]),
    scale=st.sampled_from([1e-12, 1e-4, 1.0, 1e4, 1e8]),
    seed=st.integers(0, 2**32),
)
def test_the_gradient_is_exact_with_and_without_skipping(n_hidden, n_features, n_examples, spread, bias, scale, seed):
    given = problem(n_hidden, n_features, n_examples, spread, bias, scale, seed)
    _, *exact = reference.loss_and_gradient(*given.weights(np.float64), given.examples, "sum")
    for skip in (True, False):
        training = start(given, skip=skip)
        assert training._prepare() == skip
        for result, expected, size in zip(training.gradient(), exact, terms(given, "sum")[1:], strict=True):
            # Rounding errors, a few ulps of the terms without cancellation. In each of several groups an addition is
            # off by half an ulp of the sum so far, at most, and where examples are equal all are the same way.
            assert np.abs(result - expected).max() <= (8 + n_examples / 8) * _ULP * size


@pytest.mark.parametrize("n_hidden", [1, 2, 8])
@pytest.mark.parametrize("decay_bias", [True, False])
def test_weights_keep_their_places_through_renewals(n_hidden, decay_bias, renewals):
    given = problem(n_hidden, n_features=133, spread=0.1, bias=-0.2)
    optimizer = steady(given, weight_decay=0.5, decay_bias=decay_bias)
    training = assert_trained_as_by_the_reference(given, optimizer, [(given.examples, np.full(50, 0.01))])
    assert len(renewals) >= 4
    assert sorted(training.features.tolist()) == list(range(133))
    assert sorted(training.examples.tolist()) == list(range(700))
    assert training.features.tolist() != list(range(133))


@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize(("n_hidden", "n_features", "n_examples"), [(1, 33, 40), (2, 1040, 300), (3, 48, 257)])
def test_steps_with_strong_decay_are_those_of_the_reference(n_hidden, n_features, n_examples, decay_bias):
    given = problem(n_hidden, n_features, n_examples, scale=0.3)
    optimizer = steady(given, weight_decay=5.0, decay_bias=decay_bias)
    for skip in (True, False):
        assert_trained_as_by_the_reference(given, optimizer, [(given.examples, np.linspace(1e-2, 0, 30))], skip=skip)


@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("n_others", [(600,), (40,), (257, 40, 3000)])
def test_the_examples_may_change_in_the_middle_of_training(n_others, decay_bias, renewals):
    given, rng = problem(spread=0.1, bias=-0.2), np.random.default_rng(1)
    parts = [(given.examples, np.full(18, 0.01))]
    parts += [(sample_examples(n, 150, 0.95, rng), np.full(9, 0.01)) for n in n_others]
    optimizer = steady(given, weight_decay=0.5, decay_bias=decay_bias)
    training = assert_trained_as_by_the_reference(given, optimizer, parts)
    assert training.step == 18 + 9 * len(n_others)
    assert renewals[0] == 0
    assert max(renewals) < 18  # fresh examples have no order


def test_examples_changed_after_an_order_was_made_but_before_the_first_step():
    given = problem()
    other = sample_examples(300, 150, 0.9, np.random.default_rng(1))
    training, fresh = start(given), start(Case(given.W, given.b, other))
    training.gradient()
    training.set_examples(other)
    assert training.W.tobytes() == given.W.tobytes()
    for result, expected in zip(training.gradient(), fresh.gradient(), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


def test_hardly_a_tile_of_clustered_weights_and_examples_is_computed():
    rng, W = np.random.default_rng(0), np.repeat(np.eye(2), 400, axis=1) * 5
    b = np.full(800, -1.0)
    first = sample_examples(512, 400, 0.9, rng).to_scipy().toarray()
    rows = np.zeros((1024, 800), np.float32)
    rows[:512, :400], rows[512:, 400:] = first, first  # h on two axes, W on the same
    order = rng.permutation(1024)
    given = Case(W[:, rng.permutation(800)].astype(np.float32), b.astype(np.float32), problem().examples)
    given = Case(W.astype(np.float32), b.astype(np.float32), type(given.examples).from_matrix(rows[order]))
    training = start(given)
    training.advance(np.full(3, 1e-6))
    assert training._prepare()
    assert training.cut_share < 0.05


def test_where_nothing_can_be_skipped_it_stops_and_tries_again_later(renewals):
    given = problem(8, spread=100.0)
    given = Case(given.W, np.zeros_like(given.b), given.examples)
    training = start(given)
    training.advance(np.full(1, 1e-6))
    assert training.least_share > 0.6
    assert not training._prepare()
    training.advance(np.full(29, 1e-6))
    assert renewals == [0, 12, 24]
    assert bits(training) != bits(start(given))


def cut(given: Case, stretches: list[int], rate: float) -> list[bytes]:
    training = start(given)
    for n_steps in stretches:
        training.advance(np.full(n_steps, rate))
        training.gradient()  # asking for it must not change anything either
    return bits(training)


@pytest.mark.parametrize("stretches", [[1] * 50, [3, 10, 20, 2, 15], [13, 37], [0, 5, 0, 45]])
@pytest.mark.parametrize("pays", [True, False])
def test_the_bits_do_not_depend_on_stretches_where_orders_are_renewed(stretches, pays, renewals, monkeypatch):
    if not pays:
        monkeypatch.setattr(narrow, "_SKIP_BELOW_SHARE", 0.0)
    given = problem(spread=0.3, bias=-0.2)
    expected = cut(given, [50], 0.02)
    of_one_stretch = renewals.copy()
    renewals.clear()
    assert len(of_one_stretch) > 3
    assert cut(given, stretches, 0.02) == expected
    assert renewals == of_one_stretch


def test_orders_are_renewed_only_where_they_are_looked_at():
    for steps in (narrow._RENEW_ORDER_EVERY, narrow._TRY_AGAIN_AFTER):
        assert steps % narrow._CHECK_ORDER_EVERY == 0


def test_steps_with_fewer_cut_tiles_are_no_credit_for_steps_with_more(monkeypatch):
    training, shares = start(problem()), {1: 0.2, 32: 0.1, 64: 0.1, 96: 0.12}
    monkeypatch.setattr(narrow.Training, "cut_share", property(lambda training: shares[training.step]))
    monkeypatch.setattr(narrow, "_RENEW_ORDER_AFTER", 0.6)
    training.renewed_at = 0
    for training.step in shares:
        training._judge_order()
    assert training.lost == pytest.approx(32 * 0.02)
    assert training.renewed_at == -1


@pytest.mark.parametrize("lost", [0.1, 1000.0])
def test_an_order_that_lost_more_than_a_new_one_costs_is_renewed_before_its_time(lost, renewals, monkeypatch):
    monkeypatch.setattr(narrow, "_RENEW_ORDER_EVERY", 1000)
    monkeypatch.setattr(narrow, "_RENEW_ORDER_AFTER", lost)
    start(problem(spread=0.1, bias=-0.2)).advance(np.full(128, 0.1))
    assert (len(renewals) > 1) == (lost < 1)


def record(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many units each call of compiled steps did, from here on."""
    calls, run = [], narrow.side_by_side
    monkeypatch.setattr(
        narrow,
        "side_by_side",
        lambda n, f, numbers, last, *a: (calls.append(last - numbers[0]), run(n, f, numbers, last, *a)),
    )
    return calls


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    ("size", "n_units", "n_blocks"),
    [((2, 300, 700), 2 * 4, 1), ((2, 48, 9001), 9 * 8, 1), ((3, 2100, 40), 5, 3), ((2, 2500, 700), 2 * 4, 3)],
)
def test_on_a_slow_machine_a_step_is_left_after_every_unit_with_the_same_bits(
    size, n_units, n_blocks, skip, monkeypatch
):
    monkeypatch.setattr(narrow, "_SKIP_BELOW_SHARE", 1.0)
    given = problem(*size, spread=0.3, bias=-0.2)
    training = start(given, skip=skip)
    training.advance(np.full(6, 0.01))
    expected, expected_gradient = bits(training), training.gradient()
    seem_slow(monkeypatch)
    calls = record(monkeypatch)
    with threads(1):
        training = start(given, skip=skip)
        training.advance(np.full(6, 0.01))
        assert bits(training) == expected
        assert [g.tobytes() for g in training.gradient()] == [g.tobytes() for g in expected_gradient]
    # In six steps and the gradient, chunks of 128 examples of every group; of few examples, blocks of 1,024 features
    # and what comes before and after. Where pairs are skipped the bounds of each block; and in each step every block.
    if skip and size[2] >= 256:
        n_units += n_blocks
    assert calls == [1] * (7 * n_units + 6 * n_blocks)


def test_on_a_slow_machine_an_order_is_made_split_after_split(monkeypatch):
    points = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    expected, n_points, split = skipping._compact_order(points, 16), [], skipping._split
    monkeypatch.setattr(skipping, "_POINTS_OF_FIRST_PIECE", 1)
    monkeypatch.setattr(skipping, "_split", lambda *a: (n_points.append(a[-1]), split(*a))[1])
    seem_slow(monkeypatch)
    assert np.array_equal(skipping._compact_order(points, 16), expected)
    assert n_points == [1] * 125  # 62 places between runs of 16, and 63 runs


@pytest.mark.parametrize("where", ["W", "b"])
@pytest.mark.parametrize("in_pieces", [True, False])
def test_what_is_no_longer_finite_stops_training_while_it_skips(where, in_pieces, monkeypatch):
    if in_pieces:
        seem_slow(monkeypatch)
    training = start(problem(spread=0.1, bias=-0.2))
    training.advance(np.full(5, 1e-3))
    theta = training.state.theta.reshape(-1, 3, 16)
    theta[1, 0 if where == "W" else 2, 3] = np.nan
    with pytest.raises(narrow.DivergedError) as error:
        training.advance(np.full(5, 1e-3))
    assert error.value.step == training.step == 5
