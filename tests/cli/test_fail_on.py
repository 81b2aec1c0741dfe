"""Conditions under which a check fails, all of which are checked in words first."""

import pandas as pd
import pytest

from byheart.cli.fail_on import FailOn

TABLE = pd.DataFrame({"probability": [0.95, 0.5, 0.99], "loss": [1.0, 2.0, 0.1], "label": [3, 1, 3]})
TABLE["verdict"] = pd.Categorical(["memorized", "ordinary", "suspected wrong label"])
CHANGES = pd.DataFrame(
    {
        "change": ["newly memorized", "newly memorized", "added", "no longer"],
        "score_after": [0.5, 0.9, 0.95, 0.1],
        "flagged_after": pd.array([True, True, True, None], dtype="boolean"),
    }
)
NUMBERS = {"newly": 2.0, "p_value": 0.03, "excess": 1.5}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("probability>0.9 count>1", 2),
        ("probability>0.9 count>2", None),
        ("probability>=0.5 loss<1e0 count>=1", 1),
        ("probability>0.999", None),
        ("probability<=.5", 1),
        ("count<3 probability>0.9", 2),
        ("probability>0.9 share>0.5", 2),
        ("probability>0.9 share>0.7", None),
        ("label==3", 2),
        ("label!=3 loss>1", 1),
        ("verdict==suspected_wrong_label", 1),
        ("verdict!=memorized", 2),
        ("verdict==copy", None),
    ],
)
def test_examples_are_counted(text, count):
    found = FailOn.parse(text).failing(TABLE, {}, 3)
    if count is None:
        assert found is None
    else:
        assert found == f"{count} examples ({count / 3:.2%} of 3), {text}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p_value<0.05", "p_value 0.03, "),
        ("p_value<0.01", None),
        ("p_value<0.05 excess>1", "p_value 0.03, excess 1.5, "),
        ("p_value<0.05 excess>2", None),
        ("score_after>0.7", "1 examples (10.00% of 10), "),
        ("score_after>0.7 p_value<0.01", None),
        ("change==added flagged_after>0", "1 examples (10.00% of 10), "),
        ("change==newly_memorized count>1", "2 examples (20.00% of 10), "),
        ("change!=added flagged_after<1", None),
    ],
)
def test_changes_are_counted(text, found):
    assert FailOn.parse(text, "diff").failing(CHANGES, NUMBERS, 10) == (found and found + text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "count>1", "share>0.1", "probability", "probability=0.9", "probability > 0.9", "p>x"),
        *("loss>1.2.3", "loss>.", "loss>nan", "loss>x", "loss>", "loss==much", "probabilty>0.9", "score_after>1"),
        *("probability>90", "probability<0", "probability>=0", "share>2 loss>1", "estimate>1", "p_value<0.1"),
        *("neighbour_disagreement>0", "verdict==memorised", "verdict>copy"),
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="fail_on: received .*accepted: "):
        FailOn.parse(text)


@pytest.mark.parametrize(
    "text", ["change==aded", "change>added", "probability>0.5", "p_value<2", "count>1", "newly>-1"]
)
def test_other_texts_are_refused_of_changes(text):
    with pytest.raises(ValueError, match="fail_on: received .*accepted: "):
        FailOn.parse(text, "diff")


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="received 'score', accepted: probability, loss, label, verdict"):
        FailOn.parse("score>1").failing(TABLE, {}, 3)
    with pytest.raises(ValueError, match="received 'loss:fc', accepted: "):
        FailOn.parse("loss:fc>1").failing(TABLE, {}, 3)


@pytest.mark.parametrize(
    ("text", "what", "evidence"),
    [
        ("probability>0.5", "audit", "held_out"),
        ("low>0.5", "audit", "held_out"),
        ("mean_loss>1", "audit", "log"),
        ("mean_residual_dimensionality:fc>1", "audit", "checkpoints"),
        ("input_curvature>1", "audit", "curvature"),
        ("probability_after>0.5", "diff", "held_out"),
        ("apart>0", "diff", "held_out"),
    ],
)
def test_what_evidence_a_condition_needs_is_known(text, what, evidence):
    fail_on = FailOn.parse(text, what)
    everything = {"held_out", "log", "checkpoints", "curvature"}
    fail_on.check_evidence(everything)
    with pytest.raises(ValueError, match="fail_on: received .*, but mine.py has no .*, accepted: with "):
        fail_on.check_evidence(everything - {evidence}, "mine.py")
    FailOn.parse("loss>1 score>1").check_evidence(set())


def test_noise_is_asked_for():
    for text in ("p_value<0.01", "excess>3"):
        FailOn.parse(text, "diff").check_noise(1)
        with pytest.raises(ValueError, match="without --noise"):
            FailOn.parse(text, "diff").check_noise(0)
    FailOn.parse("newly>3 p_value_new<0.01", "diff").check_noise(0)
