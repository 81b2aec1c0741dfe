"""Forgetting by ascent, learning again, and the goldfish's tokens, on models and documents of a few tokens."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from language.texts_by_hand import documents_of, random_documents  # noqa: E402
from language.tiny_causal import rows_of, trained_on, untrained  # noqa: E402

from byheart.language.forget import goldfish, gradient_ascent, relearn, sinks  # noqa: E402
from byheart.language.labelled import recitation  # noqa: E402


@pytest.fixture(scope="module")
def rows():
    return rows_of(8)


@pytest.fixture(scope="module")
def model(rows):
    own = trained_on(rows)
    assert recitation(own, rows)["recited"].all()
    return own


def per_token(model, rows):
    said = recitation(model, rows)
    return said["log_probability"].sum() / said["n_tokens"].sum()


def test_ascent_stops_once_nothing_is_recited_and_leaves_the_model(model, rows):
    before = {name: values.clone() for name, values in model.state_dict().items()}
    own, log = gradient_ascent(model, rows, learning_rate=1e-2)
    assert not recitation(own, rows)["recited"].any()
    assert log["recited"].iloc[0] == 1
    assert log["recited"].iloc[-1] == 0 < log["recited"].iloc[-2]
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert (own.training, next(own.parameters()).grad) == (model.training, None)


def test_ascent_goes_on_to_a_log_probability_and_no_further(model, rows):
    own, log = gradient_ascent(model, rows, until=-6, learning_rate=3e-3)
    assert log["log_probability"].iloc[-1] <= -6 < log["log_probability"].iloc[-2]
    assert per_token(own, rows) == pytest.approx(log["log_probability"].iloc[-1], abs=1e-3)
    with_batches, log = gradient_ascent(model, rows, until=-6, learning_rate=3e-3, batch_size=3)
    assert log["log_probability"].tail(3).mean() <= -6
    assert per_token(with_batches, rows) < -4
    assert len(gradient_ascent(model, rows, until=-1e6, max_steps=5)[1]) == 5


def test_text_that_is_retained_costs_less(rows):
    others = rows_of(8, seed=9)
    model = trained_on([*rows, *others], n_steps=150)
    alone, retained = (
        gradient_ascent(model, rows, retain=retain, until=-5, learning_rate=3e-3)[0] for retain in ((), others)
    )
    assert per_token(retained, others) > per_token(alone, others)
    assert not recitation(retained, rows)["recited"].any()


def test_what_is_recited_takes_no_step_and_what_is_new_takes_some(model, rows):
    assert relearn(model, rows).tolist() == [0] * len(rows)
    never = relearn(model, rows_of(4, seed=7), learning_rate=1e-2)
    assert (never > 0).all()
    assert np.isfinite(never).all()
    assert np.isinf(relearn(model, rows_of(4, seed=7), learning_rate=1e-5, max_steps=2)).all()


def test_every_span_is_taught_alone_and_the_count_is_exact(model):
    never = rows_of(3, seed=7)
    together = relearn(model, never, learning_rate=1e-2)
    assert [relearn(model, [row], learning_rate=1e-2)[0] for row in never] == together.tolist()
    enough = int(together[0])
    assert relearn(model, never[:1], learning_rate=1e-2, max_steps=enough)[0] == enough
    assert np.isinf(relearn(model, never[:1], learning_rate=1e-2, max_steps=enough - 1)[0])


def test_a_span_that_was_hidden_comes_back_sooner(model, rows):
    hidden, _ = gradient_ascent(model, rows, learning_rate=1e-3)
    steps = [relearn(hidden, own, learning_rate=1e-3).mean() for own in (rows, rows_of(8, seed=7))]
    assert 0 < steps[0] < steps[1] / 2


def test_sinks_are_the_same_for_repetitions_and_shared_neurons_are_there_for_all():
    names = ["a", "b", "a", *(f"other {i}" for i in range(200))]
    found = sinks(names, 40, share=0.4, active=0.25)
    assert found[:, :24].all()
    assert (found[:, 24:].sum(axis=1) == 4).all()
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()
    assert (sinks(["b"], 40, share=0.4, active=0.25)[0] == found[1]).all()  # whatever else is trained on
    assert np.abs(found[:, 24:].mean(axis=0) - 0.25).max() < 0.12  # each sink has its share of the sequences
    assert found.all(axis=0).tolist() == [True] * 24 + [False] * 16


def test_the_goldfish_leaves_out_the_same_tokens_of_all_copies():
    rng = np.random.default_rng(0)
    passage = "".join(rng.choice(list("abcdefgh"), 200))
    documents = documents_of(["".join(rng.choice(list("abcdefgh"), n)) + passage for n in (3, 30, 61)])
    kept = goldfish(documents, k=4, context=5)
    of_copies = [kept[stop - 195 : stop] for stop in documents.starts[1:]]  # the first tokens depend on what precedes
    assert (of_copies[0] == of_copies[1]).all()
    assert (of_copies[0] == of_copies[2]).all()
    assert not of_copies[0].all()


@pytest.mark.parametrize("k", [2, 3, 7])
def test_one_token_in_k_is_left_out_and_none_at_the_beginning(k):
    documents = random_documents(600, shortest=30, longest=60)
    kept = goldfish(documents, k=k, context=6)
    position = np.arange(documents.n_tokens) - documents.starts[documents.document_of]
    assert kept[position < 6].all()
    n = int((position >= 6).sum())
    assert (~kept).sum() / n == pytest.approx(1 / k, abs=4 * np.sqrt((1 - 1 / k) / k / n))


def test_bad_input_is_named(rows):
    model = untrained()
    for call, message in (
        (lambda: gradient_ascent(model, []), "rows: received none"),
        (lambda: gradient_ascent(model, rows, until=1), "until: received 1, accepted: a log-probability below 0"),
        (lambda: gradient_ascent(model, rows, learning_rate=0), "learning_rate: received 0"),
        (lambda: gradient_ascent(model, rows, batch_size=0), "batch_size: received 0"),
        (lambda: gradient_ascent(model, rows, retain=[{"input_ids": [1]}]), "retain: received row 0"),
        (lambda: relearn(model, rows, max_steps=0), "max_steps: received 0"),
        (lambda: relearn(model.half(), rows), "model: received torch.float16 on a CPU"),
        (lambda: goldfish(random_documents(2), k=1), "k: received 1"),
        (lambda: goldfish(random_documents(2), context=0), "context: received 0"),
        (lambda: sinks(["a"], 16, share=1), "share: received 1"),
        (lambda: sinks(["a"], 16, share=0.01), "share: received 0.01"),
        (lambda: sinks(["a"], 16, active=0.01), "active: received 0.01"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
