from __future__ import annotations

import os

import numpy as np
import pytest

from byheart.records import Record, Records
from byheart.storage import prepare_directory
from byheart.upkeep import check_store, merge_stores


def record(value: float) -> Record:
    return Record({"x": np.full(3, value)}, {"note": "n"})


def anything(path, found):
    pass


def damaged_store(directory):
    """A store with two whole results, and files of which two are byheart's own."""
    records = Records(prepare_directory(directory))
    for key in ("good", "better", "edited"):
        records.write(key, record(1))
    content = records.path("edited").read_bytes()
    records.path("edited").write_bytes(content[:-1] + b"\x01")
    (directory / "0123456789abcdef.safetensors").write_bytes(b"")
    (directory / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b'{"w":{}}'.ljust(16))
    os.mkfifo(directory / "pipe.safetensors")
    return records


def test_damaged_files_are_named_and_only_byhearts_own_are_removed(tmp_path):
    records = damaged_store(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    n_whole, damaged = check_store(tmp_path, anything)
    assert n_whole == 2
    assert len(damaged) == 4
    assert all(str(each.path) in each.reason and not each.removed for each in damaged)
    assert {path.name for path in tmp_path.iterdir()} == before
    _, damaged = check_store(tmp_path, anything, remove_damaged=True)
    assert {each.path.name for each in damaged if each.removed} == {
        "edited.safetensors",
        "0123456789abcdef.safetensors",
    }
    assert records.keys() == ["better", "good", "pipe", "weights"]


def test_what_is_whole_is_never_removed(tmp_path, monkeypatch):
    """Of a newer byheart, or under another name: it may be all that there is."""
    Records(tmp_path).write("0123456789abcdef", record(1))
    monkeypatch.setattr("byheart.records.FORMAT", "2")
    Records(tmp_path).write("fedcba9876543210", record(2))
    monkeypatch.undo()

    def refuse(path, found):
        raise ValueError(f"{path} is another one")

    n_whole, damaged = check_store(tmp_path, refuse, remove_damaged=True)
    assert n_whole == 0
    assert [each.removed for each in damaged] == [False, False]
    assert "a newer byheart reads it" in damaged[1].reason
    assert len(list(tmp_path.iterdir())) == 2


def test_what_else_a_result_must_be_is_asked_for(tmp_path):
    Records(tmp_path).write("a", record(1))

    def refuse(path, found):
        assert found.arrays["x"].tolist() == [1, 1, 1]
        raise ValueError(f"{path} is none")

    assert check_store(tmp_path, refuse)[0] == 0
    with pytest.raises(ValueError, match="store: received .*missing, accepted: a directory"):
        check_store(tmp_path / "missing", refuse)


@pytest.mark.parametrize("into", ["directory", "memory"])
def test_a_merge_copies_what_is_lacking_and_replaces_nothing(tmp_path, into):
    other = damaged_store(tmp_path / "other")
    target = Records(prepare_directory(tmp_path / "into" if into == "directory" else f"memory://{tmp_path.name}"))
    target.write("good", record(2))
    merged = merge_stores(target.directory, tmp_path / "other", anything)
    assert (merged.copied, merged.same, merged.differing) == (("better",), (), ("good",))
    assert len(merged.left) == 4
    assert all(str(each.path) in each.reason for each in merged.left)
    assert target.read("good").arrays["x"].tolist() == [2, 2, 2]
    assert target.keys() == ["better", "good"]
    again = merge_stores(target.directory, tmp_path / "other", anything)
    assert (again.copied, again.same, again.differing) == ((), ("better",), ("good",))
    if into == "directory":
        assert target.path("better").read_bytes() == other.path("better").read_bytes()
