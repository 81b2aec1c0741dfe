"""Verdicts: the first that applies, for the reasons that are stated, and planted wrong labels among the suspects."""

import numpy as np
import pandas as pd
import pytest
from torch import nn

from byheart.datasets import digits, with_wrong_labels
from byheart.network.audit import Audit, audit
from byheart.network.fit import Fit
from byheart.network.log import TrainingLog
from byheart.network.verdicts import SUSPECTED_SHARE, VERDICTS, judge, reason, reasons, wrong_label_score

EVIDENCE = {"model", "classes", "class_moments", "head"}


def table(n: int = 100, **columns) -> pd.DataFrame:
    plain = {"label": 0, "prediction": 0, "flagged": False, "copies": 0, "copy_of": -1, "wrong_label": 0.0}
    plain |= {"ridge_leave_one_out": -1.0, "other_class": -1.0}
    made = pd.DataFrame({name: np.full(n, value) for name, value in plain.items()})
    for name, values in columns.items():
        for index, value in values.items():
            made.loc[index, name] = value
    return made


def test_the_first_verdict_that_applies():
    given = table(
        wrong_label={0: 9.0, 1: 8.0, 2: 7.0},
        prediction={0: 1, 2: 1, 3: 1, 4: 1},
        flagged={1: True, 3: True, 5: True},
        copies={0: 1, 5: 1, 6: 1},
        copy_of={0: 5, 5: 0, 6: 7},
    )
    found = judge(given, ["fc"], EVIDENCE)
    assert found[:8].tolist() == [
        *("suspected wrong label", "memorized", "not learned", "not learned", "not learned"),
        *("memorized", "copy", "ordinary"),
    ]  # fmt: skip
    assert list(found.cat.categories) == list(VERDICTS)


@pytest.mark.parametrize("column", ["ridge_leave_one_out", "other_class"])
def test_one_score_that_says_another_class_is_enough(column):
    given = table(**{"wrong_label": {4: 9.0}, column: {4: 0.5}})
    assert judge(given, ["fc"], EVIDENCE)[4] == "suspected wrong label"
    assert judge(table(wrong_label={4: 9.0}), ["fc"], EVIDENCE)[4] == "ordinary"


def test_a_copy_with_another_label_says_another_class():
    given = table(wrong_label={4: 9.0}, copies={4: 1, 9: 1}, copy_of={4: 9, 9: 4}, label={9: 2}, prediction={9: 2})
    assert judge(given, ["fc"], EVIDENCE)[4] == "suspected wrong label"


def test_with_a_log_the_first_are_suspected_whatever_the_network_says_now():
    given = table(wrong_label={4: 9.0, 5: 8.0}).assign(mean_loss=0.1)
    found = judge(given, ["fc"], EVIDENCE | {"log"})
    assert (found == "suspected wrong label").to_numpy().nonzero()[0].tolist() == [4, 5]
    assert (judge(given, ["fc"], EVIDENCE) == "ordinary").all()


def test_without_classes_there_are_no_suspects():
    given = table(flagged={2: True})[["flagged", "copies", "copy_of"]]
    assert judge(given, ["fc"], {"model", "log"}).value_counts()[["memorized", "ordinary"]].tolist() == [1, 99]
    assert (judge(given, ["fc"], {"model"}) == "ordinary").all()  # a large loss may be of what was never learned


def test_other_class_counts_as_far_as_it_tells_the_classes_apart():
    rng = np.random.default_rng(0)
    loss, other = rng.random(1_000), rng.normal(size=1_000)
    apart = pd.DataFrame({"loss": loss, "other_class": other - 100})
    mixed = pd.DataFrame({"loss": loss, "other_class": other + 100})
    of_loss = wrong_label_score(mixed, ["fc"], EVIDENCE)
    assert (np.argsort(of_loss) == np.argsort(loss)).all()
    assert (np.argsort(wrong_label_score(apart, ["fc"], EVIDENCE)) == np.argsort(other)).all()
    logged = apart.assign(mean_loss=loss[::-1])  # other_class says another class of none
    of_log = wrong_label_score(logged, ["fc"], EVIDENCE | {"log"})
    assert (np.argsort(of_log) == np.argsort(loss[::-1])).all()
    without = wrong_label_score(logged, ["fc"], {"model", "classes", "log"})
    assert (np.argsort(without) == np.argsort(loss[::-1])).all()


@pytest.fixture(scope="module")
def digits_with_wrong_labels() -> tuple[Audit, np.ndarray]:
    data, wrong = with_wrong_labels(digits(), 0.03, seed=0)
    data.inputs[0] = data.inputs[100]
    fit = Fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), data.inputs, data.labels)
    log = TrainingLog(len(data))
    return audit(fit(np.arange(len(data)), 0, log), data, log=log), wrong


def test_planted_wrong_labels_are_suspected(digits_with_wrong_labels):
    found, wrong = digits_with_wrong_labels
    suspected = found.table["verdict"] == "suspected wrong label"
    assert suspected.sum() <= SUSPECTED_SHARE * len(wrong)
    assert wrong[suspected].mean() > 0.8


def test_the_other_label_of_a_wrong_one_is_mostly_the_true_one(digits_with_wrong_labels):
    found, wrong = digits_with_wrong_labels
    assert (found.table["other_label"][wrong] == digits().labels[wrong]).mean() > 0.9
    assert (found.table["other_label"] != found.table["label"]).all()


def test_what_is_answered_wrongly_is_not_memorized(digits_with_wrong_labels):
    table = digits_with_wrong_labels[0].table
    memorized = table[table["verdict"] == "memorized"]
    assert len(memorized)
    assert (memorized["prediction"] == memorized["label"]).all()


def test_reasons_say_what_is_so(digits_with_wrong_labels):
    found, _ = digits_with_wrong_labels
    rows = found.table
    for index in (0, 100, *rows.index[rows["verdict"] != "ordinary"][:40]):
        words = reason(found, int(index))
        assert words.endswith(".")
        answered = rows["prediction"][index] == rows["label"][index]
        assert answered == ("but the network answers" not in words)
        assert ("opy" in words) == (rows["copies"][index] > 0)
    assert reason(found, int(rows.index[rows["verdict"] == "ordinary"][0])) == "Nothing stands out."


def test_reasons_of_many_are_the_reasons_of_each(digits_with_wrong_labels):
    found, _ = digits_with_wrong_labels
    some = found.table.index[::97].tolist()
    assert reasons(found, some) == [reason(found, index) for index in some]


def test_no_share_is_rounded_up_to_all(digits_with_wrong_labels):
    found, _ = digits_with_wrong_labels
    top = int(found.table["score"].idxmax())
    assert "larger than that of 99.9% of all" in reason(found, top)


def test_planted_wrong_labels_are_suspected_in_a_network_that_has_a_dimension_for_every_example():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    inputs = rng.normal(size=(200, 20)).astype(np.float32) + 4 * np.eye(3, 20, dtype=np.float32)[labels]
    wrong = np.zeros(200, dtype=bool)
    wrong[:6] = True
    labels[wrong] = (labels[wrong] + 1) % 3
    fit = Fit(nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 3)), inputs, labels, n_epochs=100)
    log = TrainingLog(200)
    found = audit(fit(np.arange(200), 0, log), (inputs, labels), log=log)
    assert (found.table["prediction"] == found.table["label"]).all()
    assert any("has a dimension of its own" in note for note in found.notes)
    suspected = found.table["verdict"] == "suspected wrong label"
    assert suspected.sum() == round(SUSPECTED_SHARE * 200)
    assert wrong[suspected].all()
