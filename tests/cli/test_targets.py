"""Files and names that an audit is made of, and tables."""

import json
import sys

import pandas as pd
import pytest

from byheart.cli.targets import built_in, loaded, read_table

SCRIPT = """
import torch
import helper_of_a_target
def pair(): return torch.nn.Linear(2, 2), ([[0., 1.]], [0])
def named(): return {"model": torch.nn.Linear(2, 2), "dataset": None, "layer": "x"}
def neither(): return 3
def broken(): raise RuntimeError("no such\\ncheckpoint")
def false(): assert False, "n must be even"
def no_file(): return helper_of_a_target.read()
def stops(): raise SystemExit(3)
def unknown(): return {"model": 1, "dataset": 2, "colour": 3, "size": 4}
constant = 1
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "helper_of_a_target.py").write_text("def read():\n    return open('nowhere')")
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def test_a_function_gives_what_is_audited(script):
    with loaded(f"{script}:pair") as given:
        assert set(given) == {"model", "dataset"}
    with loaded(f"{script}:named") as given:
        assert given["layer"] == "x"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neither", "received int from"),
        ("broken", r"RuntimeError in mine.py line \d+: no such checkpoint"),
        ("constant", "without such a function"),
        ("missing", "without such a function"),
        ("false", r"AssertionError in mine.py line \d+: n must be even"),
        ("no_file", r"FileNotFoundError in helper_of_a_target.py line 2: "),
        ("stops", r"SystemExit in mine.py line \d+: 3"),
        ("unknown", r"received colour, size from '.*:unknown', accepted: model, dataset, layer"),
        ("1", "accepted: FILE.py:function, mnist, fashion-mnist, digits"),
    ],
)
def test_other_functions_are_refused(script, name, message):
    with pytest.raises(ValueError, match=message) as error, loaded(f"{script}:{name}"):
        pass
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_refused():
    with (
        pytest.raises(ValueError, match=r"received 'nowhere.py:f', but there is no file nowhere.py"),
        loaded("nowhere.py:f"),
    ):
        pass


def test_two_files_of_one_name_have_neighbours_of_their_own(tmp_path):
    found = []
    for width in (5, 9):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "net.py").write_text(f"WIDTH = {width}")
        (folder / "mine.py").write_text("import net\ndef make(): return net.WIDTH, None")
        with loaded(f"{folder / 'mine.py'}:make") as given:
            found.append(given["model"])
            assert sys.modules["mine"].__file__ == str(folder / "mine.py")
        assert not {"net", "mine"} & set(sys.modules)
    assert found == [5, 9]


def test_a_file_sees_no_options_of_ours(tmp_path, monkeypatch):
    path = tmp_path / "json.py"  # and hides a module of that name from no one else
    path.write_text("import sys\ndef make(): return sys.argv, None")
    monkeypatch.setattr(sys, "argv", ["byheart", "audit", "--out", "x.html"])
    with loaded(f"{path}:make") as given:
        assert given["model"] == [str(path)]
    assert sys.argv[0] == "byheart"
    assert sys.modules["json"] is json


TABLE = pd.DataFrame({"probability": [0.95, 0.5, 0.99], "loss": [1.0, 2.0, 0.1], "note": ["a", "b", "c"]})


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(ValueError, match="No such file"):
        read_table(path)
    TABLE.to_csv(path, index=False)
    with pytest.raises(ValueError, match="Index example invalid.*accepted: a table as byheart audit --table writes it"):
        read_table(path)
    TABLE.to_csv(path, index_label="example")
    pd.testing.assert_frame_equal(read_table(path), TABLE.rename_axis("example"))


def test_ids_of_a_table_are_words(tmp_path):
    path = tmp_path / "scores.csv"
    TABLE.assign(id=["007", "NA", "7"]).to_csv(path, index_label="example")
    assert read_table(path)["id"].tolist() == ["007", "NA", "7"]


def test_a_class_named_na_is_no_missing_number(tmp_path):
    path = tmp_path / "scores.csv"
    TABLE.assign(label_name=["NA", "null", "a"], loss=[1.0, None, 0.1]).to_csv(path, index_label="example")
    table = read_table(path)
    assert table["label_name"].tolist() == ["NA", "null", "a"]
    assert table["loss"].isna().tolist() == [False, True, False]


def test_digits_come_with_a_log_and_a_held_out_run(tmp_path):
    given = built_in("digits", 0, tmp_path)
    assert len(given["log"]) == len(given["dataset"]) == 1_797
    assert given["held_out"].train_mask.shape == (1, 1_797)
    assert given["held_out"].train_mask.mean() == pytest.approx(0.6, abs=0.05)
    assert set(built_in("digits", 0, None)) == {"model", "dataset", "log"}
