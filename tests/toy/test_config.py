from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.toy.config import TrainConfig, learning_rates, log_spaced_steps


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    n_steps = draw(st.integers(1, 300))
    n_examples = draw(st.one_of(st.integers(1, 10**6), st.just("inf")))
    repeats = [] if n_examples == "inf" else draw(st.lists(st.integers(1, 9), max_size=min(n_examples, 4)))
    return {
        "n_examples": n_examples,
        "n_features": draw(st.integers(10, 10**5)),
        "sparsity": draw(st.floats(0, 0.999)),
        "n_hidden": draw(st.integers(1, 99)),
        "n_steps": n_steps,
        "learning_rate": draw(st.floats(1e-9, 1e9)),
        "warmup_steps": draw(st.one_of(st.none(), st.integers(0, n_steps))),
        "weight_decay": draw(st.floats(0, 9)),
        "decay_bias": draw(st.booleans()),
        "reduction": draw(st.sampled_from(["sum", "mean"])),
        "initialization": draw(st.sampled_from(["xavier_normal", "xavier_uniform"])),
        "n_inits": draw(st.integers(1, 9)),
        "repeats": tuple(repeats),
        "snapshot_steps": tuple(sorted(draw(st.sets(st.integers(0, n_steps), max_size=4)))),
        "seed": draw(st.integers(0, 2**70)),
    }


@given(fields())
def test_a_config_survives_json(fields):
    config = TrainConfig(**fields)
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.run_id() == config.run_id()


@given(fields(), fields())
def test_ids_are_equal_exactly_where_the_configs_are(one, other):
    one, other = TrainConfig(**one), TrainConfig(**other)
    assert (one.run_id() == other.run_id()) == (one == other)
    assert len(one.run_id()) == 16
    int(one.run_id(), 16)


CHANGES = {
    "n_examples": 8,
    "n_features": 9_999,
    "sparsity": 0.998,
    "n_hidden": 3,
    "n_steps": 49_999,
    "learning_rate": 0.002,
    "warmup_steps": 2_501,
    "weight_decay": 0.0,
    "decay_bias": False,
    "beta1": 0.8,
    "beta2": 0.99,
    "eps": 1e-7,
    "reduction": "mean",
    "weight_decay_in_gradient": True,
    "loss": "absolute",
    "hidden_relu": True,
    "tied": False,
    "unit_norm": False,
    "keep_empty": True,
    "initialization": "xavier_uniform",
    "bias_initialization": "uniform",
    "n_inits": 2,
    "repeats": (2,),
    "batch_size": 7,
    "n_test": 9,
    "snapshot_steps": (0,),
    "seed": 1,
}


def test_every_field_is_part_of_the_id():
    base = TrainConfig(n_examples=5)
    assert set(CHANGES) == {field.name for field in dataclasses.fields(TrainConfig)}
    ids = {dataclasses.replace(base, **{name: value}).run_id() for name, value in CHANGES.items()}
    assert len(ids | {base.run_id(), base.run_id("of own data")}) == len(CHANGES) + 2


def test_fields_that_were_added_later_leave_the_ids_of_old_runs_as_they_are():
    assert TrainConfig(n_examples=3, snapshot_steps=log_spaced_steps(50_000, 24)).run_id() == "6f813fd41913d7e5"


def test_the_id_is_the_same_in_another_process():
    script = (
        "from byheart.toy.config import TrainConfig; print(TrainConfig(n_examples=5, seed=3, repeats=(2, 1)).run_id())"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == TrainConfig(n_examples=5, seed=3, repeats=(2, 1)).run_id()


@pytest.mark.usefixtures("unchecked")
def test_numbers_written_in_another_way_are_the_same_run():
    one = TrainConfig(n_examples=5, weight_decay=1, learning_rate=1)
    assert one.run_id() == TrainConfig(n_examples=5, weight_decay=1.0, learning_rate=np.float64(1)).run_id()
    assert one.run_id() == TrainConfig(n_examples=5, weight_decay=1, learning_rate=1, warmup_steps=2_500).run_id()


@pytest.mark.usefixtures("unchecked")
def test_a_list_instead_of_a_tuple_is_the_same_run_and_can_be_hashed():
    for fields in ({"repeats": []}, {"snapshot_steps": []}, {"repeats": [3, 1]}, {"snapshot_steps": [0, 5]}):
        config = TrainConfig(n_examples=5, **fields)
        as_tuple = TrainConfig(n_examples=5, **{name: tuple(value) for name, value in fields.items()})
        assert config.run_id() == as_tuple.run_id()
        assert config == as_tuple
        assert hash(config) == hash(as_tuple)


def test_the_defaults_are_the_papers():
    config = TrainConfig(n_examples=5)
    assert (config.n_features, config.sparsity, config.n_hidden) == (10_000, 0.999, 2)
    assert (config.n_steps, config.warmup_steps, config.learning_rate, config.weight_decay) == (
        50_000,
        2_500,
        1e-3,
        1e-2,
    )
    assert (config.beta1, config.beta2, config.eps) == (0.9, 0.999, 1e-8)  # those of torch.optim.AdamW
    assert config.reduction == "sum"


def test_warm_up_is_five_percent_of_the_steps_unless_it_is_given():
    assert TrainConfig(n_examples=5, n_steps=300).warmup_steps == 15
    assert TrainConfig(n_examples=5, n_steps=300, warmup_steps=0).warmup_steps == 0


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig(n_examples=5).seed = 1


BAD = [
    ("n_examples", 0),
    ("n_examples", -1),
    ("n_examples", 2.5),
    ("n_examples", True),
    ("n_examples", "many"),
    ("n_examples", None),
    ("n_features", 0),
    ("n_features", 3.0),
    ("sparsity", 1.0),
    ("sparsity", -0.1),
    ("sparsity", math.nan),
    ("sparsity", "high"),
    ("sparsity", 0.999999999),
    ("n_hidden", 0),
    ("n_hidden", 1.5),
    ("n_steps", 0),
    ("n_steps", 10.5),
    ("n_steps", "ten"),
    ("n_steps", None),
    ("learning_rate", 0),
    ("learning_rate", -1e-3),
    ("learning_rate", math.nan),
    ("learning_rate", math.inf),
    ("learning_rate", "fast"),
    ("learning_rate", None),
    ("warmup_steps", -1),
    ("warmup_steps", 50_001),
    ("warmup_steps", 2.5),
    ("weight_decay", -0.1),
    ("weight_decay", math.inf),
    ("weight_decay", math.nan),
    ("decay_bias", "no"),
    ("decay_bias", None),
    ("beta1", 1.0),
    ("beta1", -0.1),
    ("beta2", 1.0),
    ("beta2", math.nan),
    ("eps", 0.0),
    ("eps", math.inf),
    ("reduction", "average"),
    ("reduction", None),
    ("initialization", "zeros"),
    ("loss", "cubed"),
    ("hidden_relu", 1),
    ("tied", None),
    ("unit_norm", "no"),
    ("keep_empty", 0),
    ("weight_decay_in_gradient", "yes"),
    ("bias_initialization", "ones"),
    ("n_inits", 0),
    ("repeats", (0,)),
    ("repeats", (1.5,)),
    ("repeats", (1,) * 6),
    ("repeats", 3),
    ("batch_size", 0),
    ("n_test", 1),
    ("snapshot_steps", (-1,)),
    ("snapshot_steps", (50_001,)),
    ("snapshot_steps", (5, 3)),
    ("snapshot_steps", (3, 3)),
    ("snapshot_steps", (1.5,)),
    ("snapshot_steps", 3),
    ("seed", -1),
    ("seed", 0.5),
    ("seed", None),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value}" for name, value in BAD])
def test_a_field_out_of_range_is_refused_with_its_name_its_value_and_what_is_accepted(name, value):
    with pytest.raises(ValueError, match=f"^{name}: received .*accepted: ") as error:
        TrainConfig(**{"n_examples": 5, name: value})
    shown = str(error.value).split("accepted")[0]
    assert repr(value) in shown or str(value) in shown
    assert "\n" not in str(error.value)


def test_repeats_need_a_finite_training_set():
    with pytest.raises(ValueError, match=r"repeats: received \(2,\)"):
        TrainConfig(n_examples="inf", repeats=(2,))


def test_a_dictionary_with_unknown_fields_or_without_examples_is_refused():
    with pytest.raises(ValueError, match=r"config: received unknown fields \['n_hiden'\], accepted: \["):
        TrainConfig.from_dict({"n_examples": 5, "n_hiden": 3})
    with pytest.raises(ValueError, match="config: received no n_examples"):
        TrainConfig.from_dict({"seed": 5})


@pytest.mark.parametrize(
    ("n_steps", "warmup"), [(1000, 50), (1000, 0), (1000, 1), (1000, 999), (1000, 1000), (1, 0), (1, 1)]
)
def test_the_learning_rate_rises_linearly_to_its_peak_and_falls_to_zero_along_a_cosine(n_steps, warmup):
    peak = 0.003
    rates = learning_rates(TrainConfig(n_examples=5, n_steps=n_steps, warmup_steps=warmup, learning_rate=peak))
    expected = []
    for s in range(n_steps):
        if s < warmup:
            expected.append(peak * (s + 1) / warmup)
        else:
            expected.append(peak * (1 + math.cos(math.pi * (s - warmup) / (n_steps - warmup))) / 2)
    assert rates.dtype == np.float64
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates.max() == peak
    assert (rates > 0).all()


def test_snapshot_steps_on_a_log_scale_begin_at_the_start_and_end_at_the_end():
    steps = log_spaced_steps(50_000, 20)
    assert steps[0] == 0
    assert steps[-1] == 50_000
    assert len(steps) <= 20
    ratios = np.diff(np.log(np.array(steps[-8:])))
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=1e-2)
    for n_steps, count in ((1, 1), (1, 50), (7, 50), (100, 2)):
        TrainConfig(n_examples=5, n_steps=n_steps, snapshot_steps=log_spaced_steps(n_steps, count))


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_that_a_float64_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="learning_rate: received .*, accepted: a number that a float64 can hold"):
        TrainConfig(n_examples=3, learning_rate=value)


def test_minus_zero_is_zero():
    one, other = (TrainConfig(n_examples=3, weight_decay=value, sparsity=value) for value in (0.0, -0.0))
    assert one == other
    assert one.run_id() == other.run_id()
