"""Stores checked and merged as a person does it."""

import warnings

import pytest

from byheart.toy.runs import open_runs

SMALL = ["--n-features", "30", "--sparsity", "0.9", "--n-steps", "20", "--n-test", "10", "--kernel", "reference"]


@pytest.fixture
def store(run, tmp_path):
    for seed in (0, 1):
        assert run("train", "--n-examples", 3, "--seed", seed, *SMALL, "--out", tmp_path / "a")[0] == 0
    return tmp_path / "a"


def test_a_damaged_run_is_named_removed_and_trained_again(run, store):
    assert run("store", "check", store)[0] == 0
    path = sorted(store.iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    status, out, err = run("store", "check", store)
    assert status == 1
    assert "1 whole results" in out
    assert str(path) in err
    assert path.exists()
    status, out, err = run("store", "check", store, "--remove-damaged")
    assert status == 0
    assert "1 removed" in out
    assert not path.exists()
    seed = 1 - open_runs(store).headers[0].config.seed
    assert run("train", "--n-examples", 3, "--seed", seed, *SMALL, "--out", store)[0] == 0
    assert path.exists()


def test_a_run_with_damaged_arrays_is_named_and_left_out_of_a_page(run, store):
    for path, n_left in zip(sorted(store.iterdir()), (1, 0), strict=True):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            status, _, err = run("report", store, "--out", store / "report.html")
        assert status == (0 if n_left else 2)
        assert f"left out: run file: received {path} (its arrays do not match their digest)" in err
    assert "without a whole run file" in err


def test_two_stores_become_one(run, store, tmp_path):
    status, out, _ = run("store", "merge", tmp_path / "b", store)
    assert status == 0
    assert "2 results copied" in out
    assert len(open_runs(tmp_path / "b")) == len(open_runs(store)) == 2
    status, out, _ = run("store", "merge", tmp_path / "b", store)
    assert "0 results copied" in out
    assert "2 of them already" in out


@pytest.mark.parametrize(
    "arguments", [(), ("check",), ("merge", "a"), ("merge", "a", "b", "--remove-damaged"), ("x", "a")]
)
def test_other_actions_are_refused(run, arguments):
    status, _, err = run("store", *arguments)
    assert status == 2
    assert "accepted: check DIR [--remove-damaged], or merge A B" in err


def test_a_run_of_another_kernel_is_not_taken_silently(run, store):
    common = ["--n-examples", 3, *SMALL[:-2], "--out", store]
    status, _, err = run("train", *common, "--kernel", "cpu")
    assert status == 2
    assert 'kernel: received "cpu", but' in err
    assert 'made by "reference"' in err
    for verb in ("train", "sweep"):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            status, _, err = run(verb, *common)
        assert status == 0
        assert err == f'byheart: {store}: has runs of the kernel "reference", which are taken as they are\n'
    status, _, err = run("sweep", *common, "--kernel", "cpu")
    assert status == 2
    assert 'kernel: received "cpu", but' in err


def test_what_is_in_the_way_of_a_page_is_refused(run, store, tmp_path):
    for path in (sorted(store.iterdir())[0], tmp_path / "notes.html"):
        if not path.exists():
            path.write_text("my own notes")
        before = path.read_bytes()
        status, _, err = run("report", store, "--out", path)
        assert status == 2
        assert "which byheart did not write" in err
        assert path.read_bytes() == before


def test_a_result_of_a_newer_format_is_named_and_not_counted_as_damaged(run, store, monkeypatch):
    monkeypatch.setattr("byheart.records.FORMAT", 0)
    status, out, err = run("store", "check", store, "--remove-damaged")
    assert status == 0
    assert "0 damaged files, 0 removed; 2 of a newer format, not checked" in out
    assert err.count("newer format, not checked: ") == 2
    assert len(list(store.iterdir())) == 2


def test_a_merge_names_results_of_a_newer_format_and_does_not_copy_them(run, store, tmp_path, monkeypatch):
    monkeypatch.setattr("byheart.records.FORMAT", 0)
    status, out, err = run("store", "merge", tmp_path / "b", store)
    assert status == 1
    assert "0 results copied" in out
    assert err.count("newer format, not copied: ") == 2
