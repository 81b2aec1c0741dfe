"""What is in results/ follows from the tables in it alone: verdicts, figures and pages."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from byheart.studies import write_summary
from byheart.studies.catalogue import STUDIES
from byheart.studies.readme import MARK
from byheart.studies.study import judge, read_tables, write_results

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", list(STUDIES))
def test_verdicts_follow_from_the_tables_beside_them(name):
    tables = read_tables((RESULTS / name).glob("*.csv"))
    kept = tables.pop("verdicts")
    pd.testing.assert_frame_equal(judge(STUDIES[name], tables), kept)


@pytest.mark.parametrize("name", list(STUDIES))
def test_pages_and_figures_follow_from_the_tables_beside_them(name, tmp_path):
    if not (RESULTS / name / "cost.csv").exists():
        assert name == "mnist"
        pytest.skip("the tables of its figures, sorted.csv and images.csv, and of its cost come with its next training")
    page = (RESULTS / name / "README.md").read_text(encoding="utf-8")
    above, made = page.split(MARK)
    (tmp_path / "README.md").write_text(above + MARK, encoding="utf-8")
    names = re.findall(r"\[([\w-]+)\]\(\1\.csv\)", made)
    tables = read_tables(RESULTS / name / f"{table}.csv" for table in names if table != "verdicts")
    write_results(STUDIES[name], made.split("```\n")[1].strip(), tables, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in (RESULTS / name).glob("*.png")}
    for table in names:  # what is read and written again is the same
        pd.testing.assert_frame_equal(*(pd.read_csv(place / f"{table}.csv") for place in (tmp_path, RESULTS / name)))


def test_the_summary_is_of_these_verdicts(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    write_summary(tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()
