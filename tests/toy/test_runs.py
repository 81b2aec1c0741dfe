from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.records import Record, digest, write
from byheart.storage import prepare_directory
from byheart.toy.config import TrainConfig
from byheart.toy.runs import Run, load_run, open_runs, read_header


def make_run(seed: int = 0, n_examples: int = 5, loss: float = 0.25, **fields: object) -> Run:
    fields = {"snapshot_steps": (0, 10), **fields}
    config = TrainConfig(n_examples=n_examples, n_features=30, sparsity=0.9, n_steps=10, seed=seed, **fields)
    rng = np.random.default_rng(seed)
    return Run(
        config=config,
        W=rng.normal(size=(2, 30)).astype(np.float32),
        b=np.array([0.0, -0.0, 1e-45, 3e38] + [1.5] * 26, dtype=np.float32),
        hidden=rng.normal(size=(n_examples, 2)).astype(np.float32),
        repeats=np.ones(n_examples, dtype=np.int64),
        history={"step": np.arange(3), "train_loss": rng.random(3), "W_norm": rng.random(3), "b_norm": rng.random(3)},
        snapshots={
            "step": np.array([0, 10]),
            "W": rng.normal(size=(2, 2, 30)).astype(np.float32),
            "b": rng.normal(size=(2, 30)).astype(np.float32),
            "hidden": rng.normal(size=(2, n_examples, 2)).astype(np.float32),
        },
        metrics={"train_loss": loss, "test_loss": None, "tiny": 5e-324, "third": 1 / 3},
        provenance={"kernel": "cpu", "wall_seconds": 1.25, "git_revision": None, "device": "Prozessor é"},
        data_digest="",
    )


def bits(run: Run) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    arrays = {"W": run.W, "b": run.b, "hidden": run.hidden, "repeats": run.repeats}
    arrays |= {f"history.{name}": array for name, array in run.history.items()}
    arrays |= {f"snapshots.{name}": array for name, array in run.snapshots.items()}
    return {name: (a.dtype.str, a.shape, np.ascontiguousarray(a).tobytes()) for name, a in arrays.items()}


def assert_refused(path: Path) -> str:
    """Loading must fail in one line that names the file."""
    with pytest.raises(ValueError, match="accepted: a whole run file") as error:
        load_run(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(seed=st.integers(0, 2**32), n_examples=st.integers(1, 9), data_digest=st.sampled_from(["", "abc"]))
def test_a_run_loads_as_it_was_saved_bit_by_bit(tmp_path_factory, seed, n_examples, data_digest):
    run = dataclasses.replace(make_run(seed, n_examples), data_digest=data_digest)
    path = run.save(tmp_path_factory.mktemp("runs"))
    assert path.name == f"{run.id}.safetensors"
    loaded = load_run(path)
    assert bits(loaded) == bits(run)
    for name in ("config", "metrics", "provenance", "data_digest", "id"):
        assert getattr(loaded, name) == getattr(run, name)


def test_arrays_that_are_views_are_saved_as_they_look(tmp_path):
    run = make_run()
    views = dataclasses.replace(run, W=np.asfortranarray(run.W), hidden=np.repeat(run.hidden, 2, axis=1)[:, ::2])
    assert bits(load_run(views.save(tmp_path))) == bits(run)


def test_saving_makes_the_directory_and_leaves_nothing_but_the_run(tmp_path):
    path = make_run().save(tmp_path / "new" / "folder")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = make_run().save(tmp_path)
    content = path.read_bytes()
    for length in sorted({0, 1, 7, 8, 9, 100, *range(0, len(content), 97), len(content) - 1}):
        path.write_bytes(content[:length])
        assert_refused(path)
    path.write_bytes(content + b"\0")
    assert_refused(path)


@pytest.mark.parametrize("content", [b"just some text\n" * 50, b"{}", b"\xff" * 4096, b"\0" * 4096])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = make_run().save(tmp_path)
    path.write_bytes(content)
    assert_refused(path)


def test_another_file_of_byhearts_is_refused(tmp_path):
    path = write(tmp_path / "audit.safetensors", Record({"x": np.ones(2)}, {"audit": "{}"}))
    assert "it is no run" in assert_refused(path)
    with pytest.warns(UserWarning, match=r"left out: .*audit\.safetensors \(it is no run\)"):
        assert len(open_runs(tmp_path)) == 0


def test_any_edited_byte_is_noticed(tmp_path):
    path = make_run().save(tmp_path)
    content = path.read_bytes()
    n_header = 8 + int.from_bytes(content[:8], "little")
    # One bit of every byte of the header and of every 11th of the arrays; whatever the edit, the answer is the same.
    for position in [*range(n_header), *range(n_header, len(content), 11), len(content) - 1]:
        edited = bytearray(content)
        edited[position] ^= 1 << (position % 7)
        if position < n_header and bytes(edited[:n_header]).split() == content[:n_header].split():
            continue  # white space that pads the header
        path.write_bytes(bytes(edited))
        assert_refused(path)
    path.write_bytes(content)
    load_run(path)


@pytest.mark.parametrize(
    ("old", "new"), [(b"0.25", b"0.15"), (b"wall_seconds", b"wall_secondz"), (b"n_steps", b"n_stepz")]
)
def test_an_edited_number_or_name_in_the_header_is_noticed_without_reading_the_arrays(tmp_path, old, new):
    path = make_run().save(tmp_path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert_refused(path)
    with pytest.warns(UserWarning, match="left out: .* accepted: a whole run file"):
        assert len(open_runs(tmp_path)) == 0


def test_a_renamed_file_is_refused_and_told_its_own_name(tmp_path):
    run = make_run()
    path = run.save(tmp_path).rename(tmp_path / "best.safetensors")
    assert run.id in assert_refused(path)
    other = make_run(seed=1)
    path.rename(tmp_path / f"{other.id}.safetensors")
    assert run.id in assert_refused(tmp_path / f"{other.id}.safetensors")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"W": np.zeros((2, 3))}, tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors")
    save_file({"W": np.zeros((2, 3))}, tmp_path / "a.safetensors", metadata={"config": "{}"})
    assert_refused(tmp_path / "a.safetensors")


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert_refused(tmp_path / "missing.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert_refused(tmp_path / "folder.safetensors")


_SAVE_ON_FULL_DISK = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_runs import make_run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    make_run().save(sys.argv[2])
except OSError as error:
    print("OSError", error)
"""


@pytest.mark.parametrize("limit", [0, 1, 1000, 2500])
def test_a_disk_that_fills_up_raises_oserror_and_leaves_no_file_behind(tmp_path, limit):
    arguments = [sys.executable, "-B", "-c", _SAVE_ON_FULL_DISK, str(Path(__file__).parent), str(tmp_path), str(limit)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("OSError"), result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_an_older_run_as_it_was(tmp_path):
    path = make_run().save(tmp_path)
    before = path.read_bytes()
    arguments = [sys.executable, "-B", "-c", _SAVE_ON_FULL_DISK, str(Path(__file__).parent), str(tmp_path), "1000"]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.startswith("OSError")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_written_is_told_before_any_work(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for directory in (in_the_way, in_the_way / "runs", Path("/proc/byheart")):
        with pytest.raises(OSError, match=r"file|proc"):
            prepare_directory(directory)
        with pytest.raises(OSError, match=r"file|proc"):
            make_run().save(directory)
    assert prepare_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_directory_is_opened_without_reading_any_array(tmp_path):
    path = make_run().save(tmp_path)
    content = bytearray(path.read_bytes())
    content[-4:] = b"\xff" * 4
    path.write_bytes(bytes(content))
    runs = open_runs(tmp_path)
    assert len(runs) == 1
    assert runs.table["train_loss"].tolist() == [0.25]
    assert read_header(path).metrics["test_loss"] is None
    assert "arrays" in assert_refused(path)


def test_opening_what_is_no_directory_is_refused(tmp_path):
    for path in (tmp_path / "missing", make_run().save(tmp_path)):
        with pytest.raises(ValueError, match=r"runs: received .*, accepted: a directory"):
            open_runs(path)


def test_other_files_and_runs_still_being_written_are_passed_over(tmp_path):
    run = make_run()
    run.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f".{run.id}.safetensors.123.tmp").write_bytes(b"half")
    assert [header.id for header in open_runs(tmp_path).headers] == [run.id]


def test_runs_are_found_by_id_and_by_what_they_were_trained_with(tmp_path):
    saved = [make_run(seed, n_examples) for seed in (0, 1) for n_examples in (3, 5)]
    for run in saved:
        run.save(tmp_path)
    runs = open_runs(tmp_path)
    assert len(runs) == 4
    assert bits(runs[saved[2].id]) == bits(saved[2])
    assert {run.id for run in runs} == {run.id for run in saved}
    assert {header.id for header in runs.where(seed=1).headers} == {saved[2].id, saved[3].id}
    assert [header.id for header in runs.where(seed=1, n_examples=5).headers] == [saved[3].id]
    assert len(runs.where(seed=7)) == 0
    with pytest.raises(KeyError):
        runs["0" * 16]
    with pytest.raises(ValueError, match=r"where: received \['n_hiden'\], accepted: .*n_hidden"):
        runs.where(n_hiden=2)


def test_the_table_has_one_row_per_run_with_config_and_metrics(tmp_path):
    make_run(0, 5, loss=0.5).save(tmp_path)
    make_run(0, 3, loss=0.75).save(tmp_path)
    infinite = make_run(0, 9, loss=1.0)
    dataclasses.replace(infinite, config=dataclasses.replace(infinite.config, n_examples="inf")).save(tmp_path)
    table = open_runs(tmp_path).table
    assert table["n_examples"].tolist() == [3, 5, math.inf]
    assert table["train_loss"].tolist() == [0.75, 0.5, 1.0]
    assert table["wall_seconds"].tolist() == [1.25] * 3
    assert table["id"].is_unique
    assert {field.name for field in dataclasses.fields(TrainConfig)} < set(table.columns)


def test_the_dataset_labels_the_metrics_with_the_swept_axes_and_marks_what_was_not_run(tmp_path):
    for seed, n_examples in ((0, 3), (0, 5), (1, 3)):
        make_run(seed, n_examples, loss=10 * n_examples + seed).save(tmp_path)
    runs = open_runs(tmp_path)
    assert set(runs.axes) == {"n_examples", "seed"}
    losses = runs.dataset["train_loss"]
    assert losses.sizes == {"n_examples": 2, "seed": 2}
    assert losses.sel(n_examples=3, seed=1) == 31
    assert losses.sel(n_examples=5, seed=0) == 50
    assert np.isnan(losses.sel(n_examples=5, seed=1))
    assert np.isnan(runs.dataset["test_loss"]).all()


def test_a_single_run_and_an_empty_directory_have_a_table_too(tmp_path):
    assert len(open_runs(tmp_path).table) == 0
    assert list(open_runs(tmp_path)) == []
    make_run().save(tmp_path)
    runs = open_runs(tmp_path)
    assert runs.axes == []
    assert runs.dataset["train_loss"].size == 1


def test_runs_that_differ_in_their_own_data_have_an_axis_for_it(tmp_path):
    for data_digest in ("a", "b"):
        dataclasses.replace(make_run(), data_digest=data_digest).save(tmp_path)
    assert open_runs(tmp_path).dataset.sizes["data_digest"] == 2
    assert len(open_runs(tmp_path).table) == 2


def test_runs_that_no_axis_tells_apart_cannot_be_a_dataset(tmp_path):
    run = make_run()
    for steps in ((), (0,)):
        dataclasses.replace(run, config=dataclasses.replace(run.config, snapshot_steps=steps)).save(tmp_path)
    with pytest.raises(ValueError, match="dataset: received several runs with the same"):
        _ = open_runs(tmp_path).dataset


def test_a_default_warm_up_is_no_axis_of_its_own(tmp_path):
    run = make_run()
    for n_steps in (40, 80):
        config = dataclasses.replace(run.config, n_steps=n_steps, warmup_steps=None, snapshot_steps=())
        dataclasses.replace(run, config=config).save(tmp_path)
    assert open_runs(tmp_path).axes == ["n_steps"]


def test_an_empty_directory_has_no_dataset(tmp_path):
    with pytest.raises(ValueError, match="dataset: received no runs"):
        _ = open_runs(tmp_path).dataset


def test_the_digest_tells_shape_type_and_content_apart():
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(8, np.float32), np.zeros(4, np.int64)]
    arrays += [np.array([0, 0, 0, -0.0])]
    assert len({digest(array) for array in arrays}) == len(arrays)
    assert digest(arrays[0]) == digest(np.zeros(8)[::2])


def test_runs_are_taken_by_position_config_and_slice(tmp_path):
    saved = [make_run(seed, n_examples) for n_examples in (3, 5) for seed in (0, 1)]  # the order of runs
    for run in saved:
        run.save(tmp_path)
    runs = open_runs(tmp_path)
    assert [runs[k].id for k in range(4)] == [run.id for run in saved]
    assert runs[np.int64(1)].id == runs[-3].id == saved[1].id
    assert runs[saved[2].config].id == saved[2].id
    assert [run.id for run in runs[1:3]] == [run.id for run in saved[1:3]]
    assert [run.id for run in runs[::2]] == [run.id for run in saved[::2]]
    assert len(runs[4:]) == 0
    with pytest.raises(IndexError, match="runs: received position 4, accepted: -4 to 3"):
        runs[4]
    with pytest.raises(IndexError, match="accepted: nothing, there are no runs"):
        runs[4:][0]
    with pytest.raises(KeyError, match="received 'x', accepted: the id, config or position of one of 4 runs"):
        runs["x"]
    with pytest.raises(ValueError, match="received a step of -1, accepted: steps of 1 or more"):
        runs[::-1]


def test_runs_say_what_they_share_what_was_varied_and_what_came_out(tmp_path):
    for n_examples, loss in ((3, 0.25), (1_000, 4.0)):
        make_run(0, n_examples, loss, initialization="pentagon").save(tmp_path)
    runs = open_runs(tmp_path)
    assert repr(runs).splitlines() == [
        "2 runs: n_features 30, sparsity 0.9, n_hidden 2, n_steps 10",
        "  n_examples: 3, 1,000",
        "  train_loss: 0.25 to 4",
    ]
    table = runs._repr_html_()
    assert table.startswith("<p>2 runs: n_features 30")
    assert table.count("<tr") == 3
    assert runs[0].id in table
    assert repr(runs[5:]) == "0 runs"
    assert runs[5:]._repr_html_() == "<p>0 runs</p>"


def test_a_run_says_what_it_is():
    run = make_run(3, 5)
    assert repr(run).startswith(f"Run {run.id} (n_examples=5, n_features=30, sparsity=0.9")
    assert repr(run).endswith("seed=3): train_loss 0.25")
    assert "array" not in repr(run)
    shown = dataclasses.replace(run, metrics={"<i>loss": 0.5, "test_loss": None})._repr_html_()
    assert "&lt;i&gt;loss" in shown
    assert "0.5" in shown
    assert "None" not in shown


def test_a_pipe_among_runs_is_named_and_left_out(tmp_path):
    run = make_run()
    run.save(tmp_path)
    os.mkfifo(tmp_path / f"{make_run(seed=1).id}.safetensors")
    with pytest.warns(UserWarning, match=r"left out: .*\(it is no regular file\)"):
        assert [header.id for header in open_runs(tmp_path).headers] == [run.id]


def test_arrays_that_do_not_fit_the_config_are_refused_by_name(tmp_path):
    run = make_run()
    for name, wrong in (("W", run.W[:, :5]), ("hidden", run.hidden[:2]), ("b", run.b.astype(np.float64))):
        record = run.to_record()
        arrays = {**record.arrays, name: wrong}
        path = write(tmp_path / name / f"{run.id}.safetensors", Record(arrays, record.header))
        assert f"({name} is float" in assert_refused(path)


def test_a_run_that_would_replace_something_else_is_refused(tmp_path):
    run = make_run()
    path = tmp_path / f"{run.id}.safetensors"
    for content in (b"my own notes", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="which is there and no whole run file"):
            run.save(tmp_path)
        assert path.read_bytes() == content
    path.unlink()
    for _ in range(2):  # of its own kind it is replaced
        run.save(tmp_path)
    load_run(path)
    audit = write(tmp_path / "audit.safetensors", Record({}, {"audit": "{}"}))
    with pytest.raises(ValueError, match="no whole run file"):
        write(audit, run.to_record(), "run file")
