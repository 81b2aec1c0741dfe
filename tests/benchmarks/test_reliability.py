"""The page of reliability says what its tables say, and what falls short."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from benchmarks import reliability

RESULTS = Path(__file__).parents[2] / "results" / "reliability"


def test_the_page_is_that_of_its_tables():
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert text.split(reliability.MARK)[1].strip() == "\n\n".join(reliability.page(RESULTS))


def test_what_falls_short_is_said(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    for name, changes in {
        "kills": {"n_kills": 1, "n_stray_processes": 0, "n_lost": 4},
        "faults": {"n_lost": 2, "skipped": "no disk"},
        "listing": {"seconds": 3.0},
        "overhead": {"n_jobs": 1_000, "n_workers": 2, "seconds": 37.5},
    }.items():
        table = pd.read_csv(tmp_path / f"{name}.csv")
        for column, value in changes.items():
            table[column] = value
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    short = reliability.page(tmp_path)[-1]
    n_kills, n_faults = (len(pd.read_csv(tmp_path / f"{name}.csv")) for name in ("kills", "faults"))
    assert f"{n_kills} kills were made; the aim is 1,000" in short
    assert short.count(": 4 result(s) lost.") == n_kills
    assert short.count("Not as promised: ") == n_kills + n_faults
    assert short.count("Not tried: ") == n_faults
    assert "took 3.0 s; the aim is under 2 s" in short
    assert "The engine adds 50%" in short
