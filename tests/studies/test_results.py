"""What is in results/ follows from the tables in it alone: verdicts, figures and pages."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from byheart.studies import write_summary
from byheart.studies.catalogue import STUDIES
from byheart.studies.readme import MARK
from byheart.studies.study import judge, read_tables, remake, train_toy, write_results
from byheart.toy.reference import smaller_ridge

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", list(STUDIES))
def test_verdicts_follow_from_the_tables_beside_them(name):
    tables = read_tables((RESULTS / name).glob("*.csv"))
    kept = tables.pop("verdicts")
    pd.testing.assert_frame_equal(judge(STUDIES[name], tables), kept)


@pytest.mark.parametrize("name", list(STUDIES))
def test_pages_and_figures_follow_from_the_tables_beside_them(name, tmp_path):
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


@pytest.mark.parametrize("name", list(STUDIES))
def test_below_every_figure_stands_what_it_shows_with_sizes_seeds_and_bars(name):
    page = (RESULTS / name / "README.md").read_text(encoding="utf-8")
    captions = dict(re.findall(r"!\[([\w-]+)\]\(\1\.png\)\n\n(.+)\n", page.split(MARK)[1]))
    assert {f"{figure}.png" for figure in captions} == {path.name for path in (RESULTS / name).glob("*.png")}
    for caption in captions.values():
        if STUDIES[name].train is train_toy:
            assert re.search(r"n = [\d,]+ features, sparsity S = .+, m = .+ hidden units; [\d to]+ seeds? \(", caption)
        else:
            assert re.search("models|network", caption)
        if "means over" in caption:
            assert "bar" in caption


def test_the_ridge_that_is_laid_over_that_of_the_papers_size_is_the_one_in_the_results():
    kept, run = pd.read_csv(RESULTS / "phase-map" / "ridge.csv"), pd.read_csv(RESULTS / "phase-map" / "runs.csv")
    laid_over = smaller_ridge()
    columns = ["n_hidden", "n_examples"]
    pd.testing.assert_frame_equal(laid_over[columns], kept[columns])
    assert set(laid_over["n_features"]) == set(run["n_features"])
    assert set(laid_over["sparsity"]) == set(run["sparsity"])
    assert set(run["reduction"]) == {"sum"}


def test_figures_and_page_are_made_again_without_runs_and_tables_stay_as_they_are(tmp_path):
    shutil.copytree(RESULTS / "two-views", tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    page = (tmp_path / "README.md").read_bytes()
    (tmp_path / "two-views.png").unlink()
    verdicts = remake("two-views", tmp_path, "svg")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == before
    assert (tmp_path / "README.md").read_bytes() == page
    assert list(verdicts["claim"]) == [claim.id for claim in STUDIES["two-views"].claims]
    assert {path.name for path in tmp_path.glob("two-views.*")} == {"two-views.png", "two-views.svg"}
    assert "<svg" in (tmp_path / "two-views.svg").read_text(encoding="utf-8")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"without a README\.md of results"):
        remake("two-views", tmp_path)
    shutil.copy(RESULTS / "two-views" / "README.md", tmp_path)
    with pytest.raises(ValueError, match=r"without cost\.csv, accepted: all tables of two-views"):
        remake("two-views", tmp_path)
    with pytest.raises(ValueError, match="figure_format: received 'jpg', accepted: png, pdf, svg"):
        remake("two-views", tmp_path, "jpg")
    with pytest.raises(ValueError, match="study: received 'three-views', accepted: double-descent"):
        remake("three-views", tmp_path)


def test_the_summary_is_of_these_verdicts(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    write_summary(tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()
