"""The table as a file: everything is in it, and no cell is a formula."""

import dataclasses
import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from byheart.cli.targets import read_table
from byheart.network.audit import Audit, audit
from byheart.network.verdicts import reason

NAMES = ("=1+1", "+a", "-b", "@c", "\td", "plain, 'quoted' \"twice\"")


@pytest.fixture(scope="module")
def found() -> Audit:
    """An audit of data whose classes are named as formulas, with a copy."""
    rng, labels = np.random.default_rng(0), np.arange(120) % len(NAMES)
    inputs = rng.normal(size=(120, 8)).astype(np.float32)
    inputs[7] = inputs[1]
    torch.manual_seed(0)
    made = audit(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6)), (inputs, np.array(NAMES)[labels]))
    assert set(made.label_names) == set(NAMES)
    return made


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_all_columns_come_back(found, tmp_path, suffix):
    path = found.save(tmp_path / "made" / f"scores{suffix}")
    table = read_table(path)
    assert table.index.tolist() == list(range(120))
    assert set(found.table) < set(table)
    for name in found.table.select_dtypes("number"):
        np.testing.assert_allclose(table[name], found.table[name], rtol=1e-6)
    assert table["verdict"].tolist() == found.table["verdict"].tolist()
    reasons = table["reason"].fillna("")
    assert all(reasons[i] == reason(found, i) for i in np.flatnonzero(found.table["verdict"] != "ordinary"))
    assert (reasons[found.table["verdict"] == "ordinary"] == "").all()


def test_what_a_spreadsheet_would_run_is_text_in_csv_and_as_it_was_in_parquet(found, tmp_path):
    names = np.array(found.label_names)[found.table["label"]]
    path = found.save(tmp_path / "scores.csv")
    in_csv = pd.read_csv(path)["label_name"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in in_csv)
    assert [cell.removeprefix("'") for cell in in_csv] == names.tolist()
    assert "plain, 'quoted' \"twice\"" in set(in_csv)
    for each in (path, found.save(tmp_path / "scores.parquet")):
        assert read_table(each)["label_name"].tolist() == names.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_ids_come_back_as_they_were(found, tmp_path, suffix):
    ids = ["=1+1", "007", "NA", "'=a", *(f"f{k}" for k in range(116))]
    named = dataclasses.replace(found, table=found.table.assign(id=ids))
    assert read_table(named.save(tmp_path / f"scores{suffix}"))["id"].tolist() == ids


@pytest.mark.parametrize("names", [["007", "010", "1e3", "1"], ["False", "True", "NA", "nan"]])
def test_names_of_classes_come_back_as_words(found, tmp_path, names):
    named = dataclasses.replace(found, label_names=[*names, "x", "y"])
    table = read_table(named.save(tmp_path / "scores.csv"))
    assert table["label_name"].tolist() == np.array(named.label_names)[found.table["label"]].tolist()


def test_numbers_below_zero_stay_numbers(found, tmp_path):
    assert read_table(found.save(tmp_path / "scores.csv"))["margin"].min() < 0


def test_one_list_alone(found, tmp_path):
    verdict = "not learned"
    table = read_table(found.save(tmp_path / "some.csv", verdict=verdict))
    assert table.index.tolist() == found.table.index[found.table["verdict"] == verdict].tolist()
    assert len(table) > 10
    with pytest.raises(ValueError, match="verdict: received 'wrong', accepted: suspected wrong label, memorized"):
        found.save(tmp_path / "some.csv", verdict="wrong")


def test_a_file_that_does_not_know_an_option_says_so(found, tmp_path):
    for name, options in (("a.csv", {"title": "A"}), ("a.html", {"verdict": "copy"}), ("a.txt", {})):
        with pytest.raises(ValueError, match=r"path: received .*accepted: a name that ends in \.html"):
            found.save(tmp_path / name, **options)


def test_without_pyarrow_it_says_how_to_install_it(found, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
        found.save(tmp_path / "a.parquet")
    with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
        read_table(tmp_path / "a.parquet")
