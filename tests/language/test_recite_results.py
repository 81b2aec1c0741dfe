"""Tables and README of recitations, from recitations made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from byheart.language.recite import CONTROLS, LENGTH, PREFIXES, Recitation
from byheart.language.recite_results import MARK, check_results, keep, read, write_readme
from byheart.language.tokens import tokenize


def recitation(text="poem", model="small", p_z=(0.5, 1e-9, 1e-9), seconds=3.0):
    """Three windows, of which some are recited after 64 tokens, and none of a control."""
    documents = tokenize([text], ["the quick brown fox " * 20])
    n = documents.n_tokens
    logs = np.log(p_z)
    columns = {"start": np.arange(len(p_z)), "stop": np.arange(len(p_z)) + LENGTH}
    for size in PREFIXES:
        columns |= {f"log_p_{size}": logs if size == 64 else logs - 30, f"greedy_{size}": logs > -1}
    columns["edit_distance"] = np.linspace(0, 1, len(p_z))
    columns |= {f"log_p {name}": np.full(len(p_z), -100.0) for name in CONTROLS}
    columns["log_p twin"] = np.r_[np.nan, columns["log_p twin"][1:]]
    first = np.arange(n) % 5 > 0
    return Recitation(
        text, model, documents, np.full(n, -2.0), first, pd.DataFrame(columns), (), "single spaces", seconds
    )


def test_rows_of_other_texts_and_models_stay(tmp_path):
    keep(tmp_path, [recitation(), recitation("007", seconds=1.0)])
    keep(tmp_path, [recitation(model="large"), recitation("007", seconds=2.0)])
    table = read(tmp_path / "recite.csv")
    assert list(zip(table["text"], table["model"], table["cpu_seconds"], strict=True)) == [
        ("poem", "small", 3),
        ("poem", "large", 3),
        ("007", "small", 2),
    ]
    windows = read(tmp_path / "windows.csv")
    assert len(windows) == 9
    assert windows.groupby(["text", "model"]).size().eq(3).all()


def test_the_readme_says_what_the_tables_hold(tmp_path):
    keep(tmp_path, [recitation(), recitation("song", p_z=(1e-9, 1e-9))])
    path = write_readme(tmp_path)
    content = path.read_text(encoding="utf-8")
    assert (
        "Of 5 windows, small recites 0 after 16 tokens, 0 after 32 tokens, 1 after 64 tokens, and 1 greedily" in content
    )
    assert "wrong prefix 0 of 5, twin 0 of 3, never published 0 of 3, n-gram 0 of 5." in content
    (line,) = [line for line in content.splitlines() if line.startswith("| poem |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    losses = -np.log([0.5, 1e-9, 1e-9]) / LENGTH
    assert cells[2] == "single spaces"
    assert cells[3] == f"{len('the quick brown fox ' * 20):,}"
    assert cells[6].startswith("33% (")
    assert cells[7] == "0"
    assert cells[10] == f"{losses.mean():.2f} ± {losses.std(ddof=1):.2f}"
    assert cells[11:15] == ["2.00"] * 4
    path.write_text(content.replace("# recite", "# What is recited\n\nIn my words."), encoding="utf-8")
    keep(tmp_path, [recitation("ode")])
    again = write_readme(tmp_path).read_text(encoding="utf-8")
    assert "In my words." in again
    assert "| ode |" in again
    assert again.count(MARK) == 1


def test_other_files_are_refused_before_anything_is_read(tmp_path):
    keep(tmp_path, [recitation()])
    check_results(tmp_path, readme=True)
    (tmp_path / "README.md").write_text("mine")
    check_results(tmp_path)
    with pytest.raises(ValueError, match="accepted: a free name, or one that byheart wrote"):
        check_results(tmp_path, readme=True)
    (tmp_path / "windows.csv").write_text("mine,yours\n1,2\n")
    with pytest.raises(ValueError, match=r"windows\.csv .* accepted: a free name, or a table that byheart wrote"):
        check_results(tmp_path)
