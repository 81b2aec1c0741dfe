"""Two audits compared: what changed, matched by id or position, and whether noise explains it."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, fisher_exact

from byheart.cli.targets import read_table
from byheart.network.audit import audit
from byheart.network.changes import _p_value_of_count, _p_value_of_others, changes

BEFORE = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "label": [0, 1, 2, 0],
        "score": [0.1, 0.2, 0.9, 0.8],
        "flagged": [False, False, True, True],
    }
)
PLAIN = BEFORE.drop(columns="id")


def made(rng, n=400, n_flagged=20, shift=None, calibrated=False):
    """A table of one training: scores that a seed changes; shift makes some examples larger."""
    score = np.linspace(0, 1, n) + rng.normal(size=n) * 0.03
    if shift is not None:
        score[shift] += 2
    flagged = score >= np.sort(score)[-n_flagged]
    table = pd.DataFrame({"label": 0, "score": score, "flagged": flagged})
    return table.assign(probability=np.where(flagged, 0.9, 0.1)) if calibrated else table


def test_by_position_what_is_flagged_in_one_only_has_changed():
    after = PLAIN.assign(score=[0.8, 0.2, 0.1, 0.8], flagged=[True, False, False, True])
    found = changes(PLAIN, after)
    assert found.table["example"].tolist() == [0, 2]
    assert found.table["change"].tolist() == ["newly memorized", "no longer"]
    assert found.table["score_after"].tolist() == [0.8, 0.1]
    assert (found.newly, found.no_longer, found.n_after, found.noise) == (1, 1, 4, None)
    assert str(found) == "1 newly memorized, 1 no longer"
    same = changes(PLAIN, PLAIN)
    assert same.table.empty
    assert list(same.table) == list(found.table)


def test_by_id_examples_are_added_removed_relabelled_and_sorted_anew():
    after = pd.DataFrame(
        {
            "id": ["e", "d", "b", "a"],
            "label": [1, 2, 1, 0],
            "score": [0.9, 0.1, 0.7, 0.1],
            "flagged": [True, False, True, False],
        }
    )
    found = changes(BEFORE, after)
    table = found.table.set_index("id")
    assert table["change"].to_dict() == {"b": "newly memorized", "e": "added", "c": "removed", "d": "relabelled"}
    assert table["example"].to_dict() == {"b": 2, "e": 0, "c": 2, "d": 1}
    assert table.loc["d", ["label_before", "label_after", "flagged_before"]].tolist() == [0, 2, True]
    assert table["score_before"].isna().to_dict() == {"b": False, "e": True, "c": False, "d": False}
    assert table["label_after"].isna().to_dict() == {"b": False, "e": False, "c": True, "d": False}
    assert {k: v for k, v in found.numbers.items() if v} == {
        **dict.fromkeys(("newly", "added", "removed", "relabelled"), 1),
        "p_value_new": pytest.approx(1 - (2 / 4) * (1 / 3)),  # that neither of the two has one of the two flags
    }
    assert changes(BEFORE, BEFORE.sample(frac=1, random_state=0)).table.empty


def test_whole_numbers_are_the_ids_that_a_file_has_as_words():
    numbers = BEFORE.assign(id=[3, 1, 4, 2])
    assert changes(numbers, numbers.assign(id=numbers["id"].astype(str))[::-1]).table.empty


def test_labels_are_compared_by_name_where_both_audits_have_names(tmp_path):
    torch = pytest.importorskip("torch")

    x = np.eye(6, dtype=np.float32)

    def answering(words):
        """The audit of a network that answers all of these."""
        model = torch.nn.Sequential(torch.nn.Linear(6, len(set(words))))
        with torch.no_grad():
            model[0].weight[:] = torch.tensor(np.array(sorted(set(words)))[:, None] == np.array(words)) * 5.0
        return audit(model, (x, np.array(words)), ids=range(6), most_shown=1)

    two, three = answering(list("bbbccc")), answering(list("bbaccc"))
    found = changes(two, three)
    assert found.relabelled == 1
    changed = found.table[found.table["change"] == "relabelled"]
    assert changed[["id", "label_before", "label_after"]].to_numpy().tolist() == [["2", "b", "a"]]
    assert changes(two.table, three.table).relabelled == 5  # these tables have no names
    for name, each in (("two", two), ("three", three)):
        each.save(tmp_path / f"{name}.csv")
    in_files = changes(read_table(tmp_path / "two.csv"), read_table(tmp_path / "three.csv"))
    pd.testing.assert_frame_equal(in_files.table, found.table, rtol=1e-5)
    assert changes(read_table(tmp_path / "two.csv"), three).relabelled == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (PLAIN, PLAIN[:2], "before, after: received 4 and 2 examples, accepted: .* ids in both"),
        (BEFORE, PLAIN[:2], "accepted: .* ids in both"),
        (PLAIN, PLAIN[::-1], "2 of 4 examples with other labels, accepted: the same order, or ids"),
        (BEFORE, BEFORE.assign(id=list("wxyz")), "without one in common"),
        (
            BEFORE.assign(id=[1, 2, 3, 40]),
            BEFORE.assign(id=["001", "002", "003", "40"]),
            "numbers of before and words such as '001' of after",
        ),
        (BEFORE, BEFORE.assign(id=list("aabc")), "after: received an id twice"),
        (PLAIN.drop(columns="flagged"), PLAIN, "before: received a table without flagged"),
        (PLAIN, PLAIN.assign(score="x"), "after: received a table without score"),
        (PLAIN, PLAIN.assign(score=np.nan), "finite score"),
        (PLAIN[:0], PLAIN[:0], "received 0 examples"),
        (PLAIN, PLAIN.assign(mean_loss=1), "only after with mean_loss"),
        (PLAIN, "after.csv", "after: received str"),
    ],
)
def test_what_cannot_be_matched_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        changes(before, after)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (PLAIN, "noise 1: received the same scores as before"),
        (PLAIN.assign(score=1.0, label=[0, 1, 2, 1]), "noise 1: received 1 of 4 examples with other labels"),
    ],
)
def test_noise_of_other_examples_or_no_other_seed_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        changes(PLAIN, PLAIN, [other])
    fewer = BEFORE[1:].assign(label=[1, 2, 1])
    with pytest.raises(ValueError, match="0 examples more than before, 1 less, 1 with other labels, accepted: another"):
        changes(BEFORE, BEFORE, [fewer])


def test_intervals_that_do_not_touch_are_apart():
    before = PLAIN.assign(low=[0, 0, 0.5, 0.5], high=[0.2, 0.2, 1, 1])
    after = before.assign(flagged=[True, True, False, False], low=[0.3, 0.1, 0, 0], high=[1, 0.9, 0.5, 0.4])
    assert changes(before, after).table["apart"].tolist() == [True, False, False, True]


def test_with_one_other_training_the_test_is_the_sign_test():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 60)) < 0.3
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    expected = binomtest(only_one, only_one + only_other, alternative="greater").pvalue
    assert _p_value_of_others(one, [other]) == pytest.approx(expected)
    assert _p_value_of_others(one, [one]) == 1


def test_with_several_trainings_each_is_as_likely_to_have_a_mark():
    """All arrangements of each example's marks over the trainings are counted."""
    rng = np.random.default_rng(1)
    marks = rng.random((3, 6)) < 0.5
    arrangements = [list(set(itertools.permutations(column))) for column in marks.T.tolist()]
    counts = [sum(column[0] for column in drawn) for drawn in itertools.product(*arrangements)]
    expected = np.mean(np.array(counts) >= marks[0].sum())
    assert _p_value_of_others(marks[0], list(marks[1:])) == pytest.approx(expected)


def test_counts_are_compared_by_student_s_t():
    assert _p_value_of_count(100, [100, 100, 100]) == pytest.approx(0.5)
    one = _p_value_of_count(120, [100, 110, 90])
    assert 0.05 < one < 0.25  # two deviations, of which three counts say little
    assert _p_value_of_count(120, [100] * 30) == pytest.approx(0.042, abs=0.02)  # a count's own deviation
    assert _p_value_of_count(200, [100, 110, 90]) < one


def test_added_and_relabelled_examples_are_tested_as_fisher_did():
    rng = np.random.default_rng(2)
    before = made(rng).assign(id=range(400))
    after = made(rng, n=440).assign(id=range(440), label=np.repeat([0, 1, 0], [390, 10, 40]))
    new = after.index >= 390
    table = pd.crosstab(new, after["flagged"]).to_numpy()
    found = changes(before, after)
    assert (found.added, found.relabelled) == (40, 10)
    assert found.p_value_new == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


@pytest.mark.parametrize("calibrated", [False, True])
def test_seeds_are_noise_at_the_stated_rate_and_planted_examples_are_not(calibrated):
    rng = np.random.default_rng(3)
    seeds, planted = [], []
    for _ in range(60):
        before, *noise = (made(rng, calibrated=calibrated) for _ in range(4))
        seeds.append(changes(before, made(rng, calibrated=calibrated), noise).noise.p_value)
        after = made(rng, n_flagged=40 if calibrated else 20, shift=np.arange(15), calibrated=calibrated)
        planted.append(changes(before, after, noise).noise.p_value)
    assert np.mean(np.array(seeds) < 0.05) <= 0.1
    assert np.mean(np.array(planted) < 0.05) > 0.95


def test_relabelled_examples_are_no_noise():
    """Correcting labels frees places among the largest scores; that others take them is no change."""
    rng = np.random.default_rng(4)
    wrong = np.arange(15)
    before, *noise = (made(rng, shift=wrong) for _ in range(3))
    after = made(rng).assign(label=np.where(np.arange(400) < 15, 1, 0))
    found = changes(before, after, noise)
    assert found.relabelled == 15
    assert found.noise.p_value > 0.05


def test_what_two_seeds_differ_by_is_counted_over_all_pairs():
    rng = np.random.default_rng(5)
    before, after, *noise = (made(rng, n_flagged=n, calibrated=True) for n in (20, 20, 20, 30))
    trainings = [table["flagged"] for table in (before, *noise)]
    expected = [int((~a & b).sum()) for a, b in itertools.permutations(trainings, 2)]
    found = changes(before, after, noise)
    assert list(found.noise.newly) == expected
    assert found.noise.deviation == pytest.approx(np.std(expected, ddof=1))
    assert found.numbers["excess"] == pytest.approx(found.newly - np.mean(expected))
    assert "within noise" in str(found)
    one = changes(before, after, noise[:1]).noise
    assert one.deviation >= np.sqrt(one.expected)
