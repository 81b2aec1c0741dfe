"""The verdicts in results/ are those that the claims compute from the tables kept beside them."""

from pathlib import Path

import pandas as pd
import pytest

from byheart.studies.catalogue import STUDIES
from byheart.studies.study import judge, read_tables

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", list(STUDIES))
def test_verdicts_follow_from_the_tables_beside_them(name):
    tables = read_tables((RESULTS / name).glob("*.csv"))
    kept = tables.pop("verdicts")
    pd.testing.assert_frame_equal(judge(STUDIES[name], tables), kept)


@pytest.mark.parametrize("name", list(STUDIES))
def test_figures_can_be_drawn_from_the_tables_beside_them(name):
    figures = STUDIES[name].figures(read_tables((RESULTS / name).glob("*.csv")))
    assert {f"{figure}.png" for figure in figures} == {path.name for path in (RESULTS / name).glob("*.png")}
