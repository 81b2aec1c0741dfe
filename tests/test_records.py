"""Results on disk: whole or not at all, read as written, and never taken for another one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import byheart
from byheart import storage
from byheart.records import Record, Records, read, read_header, write

ARRAYS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=3,
)
TEXTS = st.dictionaries(st.text("xyz", min_size=1, max_size=4), st.text(max_size=20), max_size=3)


@given(arrays=ARRAYS, header=TEXTS)
def test_a_record_is_read_as_it_was_written(tmp_path_factory, arrays, header):
    path = write(tmp_path_factory.mktemp("records") / "one.safetensors", Record(arrays, header))
    found = read(path)
    assert {name: text for name, text in found.header.items() if not name.endswith(("_digest", "format"))} == header
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].tobytes() == np.ascontiguousarray(array).tobytes()
        assert found.arrays[name].shape == array.shape


def test_records_are_found_by_key(tmp_path):
    records = Records(tmp_path / "new")
    assert records.keys() == []
    assert "a" not in records
    with pytest.raises(OSError, match="b.safetensors .*No such file"):
        records.write("b", Record({}, {}))  # a store that vanished is not made again
    (tmp_path / "new").mkdir()
    records.write("b", Record({"x": np.arange(3)}, {}))
    records.write("a", Record({}, {"note": "é"}))
    assert records.keys() == ["a", "b"]
    assert "a" in records
    assert records.read("b").arrays["x"].tolist() == [0, 1, 2]
    assert read_header(records.path("a"))["note"] == "é"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_result_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return Record({"x": np.ones(2)}, {})

    for _ in range(3):
        found = Records(tmp_path).read_or_compute("k", compute, {"seed": 1})
        assert found.arrays["x"].tolist() == [1, 1]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"seed": 2, "data": "abc"}, "seed"),
        ({"seed": 1}, "data"),
        ({"seed": 1, "data": "abc", "model": [1, 2]}, "model"),
        ({"seed": 2, "data": "x"}, "seed, data"),
        ({}, "seed, data"),
    ],
)
def test_a_result_of_something_else_is_refused_by_name(tmp_path, asked, names):
    records = Records(tmp_path)
    records.write("k", Record({"x": np.ones(2)}, {}), {"seed": 1, "data": "abc"})
    records.check("k", {"data": "abc", "seed": 1})
    with pytest.raises(ValueError, match=rf"k\.safetensors of other {names}, accepted: an empty directory"):
        records.check("k", asked)
    with pytest.raises(ValueError, match="of other"):
        records.read_or_compute("k", lambda: pytest.fail("computed"), asked)


def test_an_edited_array_or_header_is_refused(tmp_path):
    records = Records(tmp_path)
    path = records.write("k", Record({"x": np.arange(4.0)}, {"seed": "1"}))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"seed":"1"', b'"seed":"2"'))
    with pytest.raises(ValueError, match="its header does not match its digest"):
        records.check("k")
    path.write_bytes(content[:-1] + b"\x01")
    records.check("k")  # the header alone is whole
    with pytest.raises(ValueError, match="its arrays do not match their digest"):
        records.read("k")
    path.write_bytes(content[:50])
    with pytest.raises(ValueError, match="accepted: a whole file"):
        records.read("k")


def test_a_result_of_another_version_is_taken_with_a_warning_and_one_of_a_newer_format_refused(tmp_path, monkeypatch):
    records = Records(tmp_path)
    for version, key in ((byheart.__version__, "now"), ("0.0.1", "then")):
        records.write(key, Record({}, {"provenance": json.dumps({"byheart": version})}))
    records.check("now")
    with pytest.warns(UserWarning, match=f"results of byheart 0.0.1, .* this is {byheart.__version__}"):
        records.check("then")
    monkeypatch.setattr("byheart.records.FORMAT", "2")
    path = records.write("newer", Record({}, {}))
    monkeypatch.undo()
    for reading in (read_header, read):
        with pytest.raises(ValueError, match=r"newer\.safetensors of format 2, accepted: format 1"):
            reading(path)


def test_what_a_record_depends_on_stands_in_its_file(tmp_path):
    path = Records(tmp_path).write("k", Record({}, {}), {"seed": 3})
    assert json.loads(read_header(path)["identity"]) == {"seed": 3}


def test_an_object_that_is_replaced_between_its_size_and_its_contents_is_read_again(monkeypatch):
    records = Records("memory://replaced")
    records.write("k", Record({"x": np.arange(3)}, {"seed": "1"}))
    read_start, n_reads = storage.read_start, 0

    def stale_at_first(where, n_bytes):
        nonlocal n_reads
        n_reads += 1
        start, size = read_start(where, n_bytes)
        return start, size + (n_reads == 1)

    monkeypatch.setattr(storage, "read_start", stale_at_first)
    assert read_header(records.path("k"))["seed"] == "1"
    n_reads = 0
    records.write("k", Record({"x": np.arange(3)}, {"seed": "1"}))  # asks what is there first
    monkeypatch.setattr(storage, "read_start", lambda where, n_bytes: (read_start(where, n_bytes)[0], 10**6))
    with pytest.raises(ValueError, match="its header says"):
        read_header(records.path("k"))
