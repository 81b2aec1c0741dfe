"""Lists of the pairs that can be active: that they have all of them, step after step, and when they are made."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, terms
from hypothesis import given
from hypothesis import strategies as st
from test_cpu import fill_scratch_memory, seem_slow
from test_kernels import assert_as_precise_as_numpy
from test_narrow import steady

from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, DivergedError, cpu, neighbours, reference, wide
from byheart.toy.kernels.compile import threads

_ULP = float(np.finfo(np.float32).eps)
pytestmark = pytest.mark.usefixtures("one_blas_thread")
PROBE, RATE = 8, 1e-3


def problem(n_hidden: int = 5, n_features: int = 300, n_examples: int = 400, bias: float = -1.0, seed: int = 0) -> Case:
    """Weights in all directions, and biases with which few outputs are active."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n_hidden, n_features)).astype(np.float32)
    b = (bias * rng.uniform(0.5, 1.5, n_features)).astype(np.float32)
    return Case(W, b, sample_examples(n_examples, n_features, max(0.0, 1 - 3 / n_features), rng))


def start(problem: Case, optimizer: AdamW = AdamW(), rate: float = RATE) -> cpu.Training:  # noqa: B008
    """Training by lists, after some steps in tiles that say how fast the weights move; lists are kept."""
    training = cpu.Training(problem.W, problem.b, problem.examples, optimizer, "sum")
    before = training.tiled.parameters[0]
    training.tiled.advance(np.full(PROBE, rate))
    training._list(before, PROBE)
    training.may_list = False
    return training


def lists(training: cpu.Training) -> neighbours.State:
    assert training.listed is not None
    return training.listed.state


def bits(training: cpu.Training) -> list[bytes]:
    return [rows.tobytes() for rows in training._now.parameters]


def listed(training: cpu.Training) -> np.ndarray:
    """Whether each pair is on a list."""
    if isinstance(training.listed, wide.Listed):
        words = training.listed.lists.words.astype("<u8").view(np.uint8)
        return np.unpackbits(words, axis=1, bitorder="little")[:, : len(training.b)].astype(bool)
    state = lists(training)
    found = np.zeros((len(state.h), len(state.everything)), bool)
    for i, n in enumerate(state.n_listed):
        found[i, state.everything if n < 0 else state.lists[i, :n]] = True
    return found


def pairs(training: cpu.Training, problem: Case) -> tuple[np.ndarray, np.ndarray]:
    """All z, in float64, and the size of their terms."""
    W, b = training.W.astype(np.float64), training.b.astype(np.float64)
    h = problem.examples.expanded().to_scipy() @ W.T
    return h @ W + b, np.abs(h) @ np.abs(W) + np.abs(b)


@given(
    n_hidden=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 600]),
    n_features=st.integers(1, 300),
    n_examples=st.sampled_from([1, 2, 63, 300, 1100]),
    bias=st.sampled_from([0.0, -1.0, -3.0, 1.0]),
    rate=st.sampled_from([1e-6, 1e-4, 1e-3, 0.1, 3.0]),
    seed=st.integers(0, 2**32),
)
def test_every_active_pair_is_on_its_list_and_gradients_are_exact_whatever_the_weights_do(
    n_hidden, n_features, n_examples, bias, rate, seed
):
    given = problem(n_hidden, n_features, n_examples, bias, seed)
    training = start(given)
    for rates in ([], [rate], [rate / 10] * 3, [rate * 10]):
        training.advance(np.array(rates))
        z, size = pairs(training, given)
        now = Case(training.W, training.b, given.examples)
        gradient = training.gradient()
        assert (z[~listed(training)] <= (8 + n_hidden) * _ULP * size[~listed(training)]).all()
        _, *exact = reference.loss_and_gradient(*now.weights(np.float64), given.examples, "sum")
        for result, expected, scale in zip(gradient, exact, terms(now, "sum")[1:], strict=True):
            assert (
                np.abs(result - expected).max() <= (8 + n_hidden + n_examples / 8) * _ULP * scale
            )  # as in test_narrow


@pytest.mark.parametrize("rate", [1e-5, 1e-4])
@pytest.mark.parametrize("n_hidden", [2, 5, 8, 12])
def test_what_is_on_no_list_stays_inactive_however_weights_move_within_their_radii(n_hidden, rate):
    given = problem(n_hidden, bias=-4)
    training = start(given, rate=rate)
    training.advance(np.full(20, rate))
    if n_hidden > 8:
        found = training.listed.lists
        W, b, r = found.W_then[:, :n_hidden], found.b_then, found.W_then[:, n_hidden]
        h, s = found.h_then[:, :n_hidden], found.h_then[:, n_hidden + 1]
    else:
        state, n = lists(training), len(training.b)
        W, b, r = state.W_then[:n, :n_hidden], state.b_then[:n], state.radius[:n]
        h, s = state.h_then[:, :n_hidden], state.reach[:, 1]
    W, b, r, h, s = (values.astype(np.float64) for values in (W, b, r, h, s))
    assert r.min() > 0
    assert s.max() > 0
    # The farthest that (W, b) can go along (h, 1), and then h along W, for every pair.
    along = r[None, :] / np.sqrt((h**2).sum(axis=1) + 1)[:, None]
    W_far, b_far = W[None] + along[:, :, None] * h[:, None], b[None] + along
    h_far = h[:, None] + s[:, None, None] * W_far / np.linalg.norm(W_far, axis=2, keepdims=True)
    z = (W_far * h_far).sum(axis=2) + b_far
    on_list = listed(training)
    assert 0 < on_list.mean() < 1
    assert z[~on_list].max() < 1e-5
    assert (z[on_list] > -0.1 * r.max()).mean() > 0.9  # and lists are hardly longer than need be


@pytest.mark.parametrize("n_hidden", [5, 12])
def test_lists_are_short_and_last_where_weights_move_evenly(n_hidden):
    given = problem(n_hidden, n_examples=1500, bias=-3)
    training, began = start(given), []
    for _ in range(300):
        training.advance(np.full(1, 1e-5))
        of = training.listed.lists if n_hidden > 8 else training.listed.state
        began.append(int(of.began_at[0]))
    assert len(set(began)) < 12
    assert max(began) > PROBE + 128  # also where nothing is beyond its radius
    z, _ = pairs(training, given)
    share, active = listed(training).mean(), (z > 0).mean()
    assert active <= share < active + 0.03
    assert training.listed.listed_share == pytest.approx(share)
    assert share <= training.listed.computed_share() < 1


def test_the_making_of_lists_is_counted_among_the_pairs_that_are_computed():
    training = start(problem(12))
    training.advance(np.full(3, 1e-6))
    training.listed.computed_share()
    training.advance(np.full(1, 1e-6))
    share = training.listed.computed_share()
    assert share == pytest.approx(training.listed.listed_share)
    training.listed.lists.moved[:] = True
    training.advance(np.full(1, 1e-6))
    made = training.listed.computed_share() - training.listed.listed_share
    assert made == pytest.approx(wide._COST_OF_A_LIST, rel=0.01)


def test_a_feature_beyond_its_radius_has_all_distances_begin_anew():
    training = start(problem())
    training.advance(np.full(5, 1e-6))
    state = lists(training)
    began = state.began_at.copy()
    training.advance(np.full(1, 1e-6))
    assert np.array_equal(state.began_at, began)
    state.W[7, 0] += 2 * state.radius[7]
    training.advance(np.full(2, 1e-6))  # it is noticed after a step
    assert (state.began_at == training.step - 1).all()
    assert (state.listed_at == training.step - 1).all()


def test_an_example_beyond_its_radius_has_its_list_made_anew_and_no_other_has():
    training = start(problem())
    training.advance(np.full(2, 1e-6))
    state = lists(training)
    state.radius[:] = np.inf
    state.reach[:, 1] = np.inf
    state.reach[5, 1] = 0
    training.advance(np.full(1, 1e-6))
    assert state.listed_at[5] == training.step - 1
    assert (np.delete(state.listed_at, 5) < training.step - 1).all()


def test_with_many_hidden_units_whatever_moved_far_has_all_distances_begin_anew():
    training = start(problem(12))
    training.advance(np.full(2, 1e-6))
    found = training.listed.lists
    for of, place in ((found.W_then, 12), (found.h_then, 13)):
        training.advance(np.full(3, 1e-6))
        assert found.began_at[0] < training.step - 1
        of[5, place] = 0  # its radius
        training.advance(np.full(2, 1e-6))
        assert (found.began_at >= training.step - 2).all()
        assert len(set(found.began_at.tolist())) == 1


def test_an_example_with_more_features_than_a_list_holds_is_computed_against_all():
    given = problem(n_features=2000, bias=1.0)
    training = start(given)
    training.advance(np.full(3, RATE))
    assert (lists(training).n_listed == -1).all()
    assert training.listed.computed_share() >= 1
    results = training.gradient()
    exact = reference.loss_and_gradient(training.W.astype(float), training.b.astype(float), given.examples, "sum")
    for result, expected in zip(results, exact[1:], strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("decay_in_gradient", [True, False])
@pytest.mark.parametrize(
    "size", [(1, 90, 40), (3, 65, 600), (4, 64, 1), (6, 1100, 300), (8, 130, 1300), (17, 600, 300)]
)
def test_steps_are_those_of_the_reference(size, decay_bias, decay_in_gradient):
    given = problem(*size)
    optimizer = steady(given, weight_decay=0.5, decay_bias=decay_bias, decay_in_gradient=decay_in_gradient)
    results, rates = [], np.linspace(RATE, 0, 40)
    for dtype in (np.float64, np.float32):
        training = reference.start(*given.weights(dtype), given.examples, optimizer, "sum")
        training.advance(np.full(PROBE, RATE))
        training.advance(rates)
        results.append((training.W, training.b))
    training = start(given, optimizer)
    training.advance(rates)
    assert training.step == PROBE + len(rates)
    for quantity, *values in zip("Wb", *results, (training.W, training.b), strict=True):
        assert_as_precise_as_numpy(quantity, *values, 4 * (np.abs(values[0]).max() + RATE))


def cut(given: Case, stretches: list[int], spoiled: bool = False) -> list[bytes]:
    training = start(given)
    if spoiled and isinstance(training.listed, wide.Listed):  # it has the scratch memory of the steps before
        state = training.listed.state
        for scratch in (state.h, state.grad_h, state.shares_W, state.shares_b, state.shares_h):
            scratch[:] = np.nan
        state.finite[:] = False
    for n_steps in stretches:
        training.advance(np.full(n_steps, RATE))
        before = training.listed.listed_share
        training.gradient()  # asking for it must not change anything
        training.gradient()
        assert n_steps == 0 or training.listed.listed_share <= 1.5 * before + 0.01
    return bits(training)


@pytest.mark.parametrize(
    "size", [(2, 60, 9001), (3, 2100, 40), (8, 1100, 1300), (9, 30, 9001), (17, 2100, 300), (400, 700, 40)]
)
def test_the_bits_depend_neither_on_threads_nor_on_stretches_nor_on_how_long_anything_takes(size, monkeypatch):
    for module in (neighbours, wide):
        monkeypatch.setattr(module, "_SERIAL_BELOW", 0)
    given = problem(*size)
    expected = cut(given, [30])
    for stretches in ([1] * 30, [7, 0, 23]):
        assert cut(given, stretches) == expected
    with threads(1):
        assert cut(given, [30]) == expected
    fill_scratch_memory(monkeypatch)
    assert cut(given, [30], spoiled=True) == expected
    seem_slow(monkeypatch)
    assert cut(given, [30]) == expected


@pytest.mark.parametrize("n_hidden", [5, 12])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["W", "b"])
def test_what_is_no_longer_finite_stops_training(where, value, n_hidden):
    training = start(problem(n_hidden))
    training.advance(np.full(5, RATE))
    state = lists(training)
    (state.W if where == "W" else state.b).reshape(-1)[11] = value
    with np.errstate(invalid="ignore"), pytest.raises(DivergedError) as error:
        training.advance(np.full(5, RATE))
    assert error.value.step == training.step == PROBE + 5
