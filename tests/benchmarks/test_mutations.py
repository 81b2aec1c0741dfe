from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks import mutations
from byheart.records import Record
from byheart.toy.runs import load_run


def test_no_mutated_or_crafted_run_file_is_taken_for_the_run(tmp_path):
    table, _ = mutations.try_all(240, 1, tmp_path, lambda done: None, cut_every=47)
    assert table["tried"].min() >= 30
    assert table["wrong"].sum() == 0
    assert table["crashed"].sum() == 0
    assert (table["refused"] > 0).all()
    own = table.set_index("kind")
    assert own.loc["cut short", "refused"] == own.loc["cut short", "tried"]
    assert own.loc["right digest, wrong contents", "refused"] == own.loc["right digest, wrong contents", "tried"] > 100


@pytest.mark.slow
def test_no_one_of_ten_thousand_others_is(tmp_path):
    table, _ = mutations.try_all(10_000, 2, tmp_path, lambda done: None)
    assert table[["wrong", "crashed"]].to_numpy().sum() == 0


def test_a_wrong_number_a_crash_and_a_message_without_the_file_would_be_counted(tmp_path, monkeypatch):
    trial = mutations.Trial(tmp_path)
    assert trial.outcome(trial.content) == "same"

    def edited(path):
        run = load_run(path)
        return dataclasses.replace(run, b=np.nextafter(run.b, run.b.dtype.type(1)))

    monkeypatch.setattr(mutations, "load_run", edited)
    assert trial.outcome(trial.content) == "wrong"
    for error in (KeyError("W"), ValueError("no file is named")):
        monkeypatch.setattr(mutations, "load_run", lambda path, error=error: (_ for _ in ()).throw(error))
        assert trial.outcome(trial.content) == "crashed"


def test_crafted_files_differ_from_the_run():
    run = mutations.small_run()
    good = run.to_record()
    names = [name for name, _ in mutations.crafted(run)]
    assert len(set(names)) == len(names)
    for name, record in mutations.crafted(run):
        assert isinstance(record, Record)
        same = record.header == good.header and all(
            np.array_equal(array, record.arrays.get(key)) and array.dtype == record.arrays[key].dtype
            for key, array in good.arrays.items()
        )
        assert not same or len(record.arrays) > len(good.arrays), name
