"""Studies as a person runs them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from byheart.cli.studies import ReproduceCommand
from byheart.studies.catalogue import STUDIES

RESULTS = Path(__file__).parents[2] / "results"


def test_reproduce_lists_its_studies(run):
    status, out, _ = run("reproduce", "--list")
    assert status == 0
    assert "double-descent" in out
    assert "mnist  Are the training images" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist", "--max-examples", 3), "max_examples: received 3 with mnist, accepted: with other studies"),
        (("polygons", "--folder", "x"), "folder: received 'x' with polygons, accepted: with mnist, text"),
        (("moons",), "study: received 'moons', accepted: double-descent, "),
        (
            ("polygons", "--from-tables", "--max-examples", 5),
            "max_examples: received 5 with from_tables, accepted: without",
        ),
        (("polygons", "--from-tables", "--add"), "add: received True with from_tables, accepted: without"),
        (("polygons", "--add"), "add: received polygons, accepted: a study of which tables can be added up"),
        (("all", "--add"), "add: received all, accepted: one study"),
        (("polygons", "--from-tables"), "without a README.md of results, accepted: what reproduce left"),
        (("all", "--from-tables"), "without results, accepted: a directory with one of a study in it"),
        (("all", "--max-examples", 2), "max_examples: received 2, accepted: at least the smallest T"),
        (("all", "--max-seeds", 0), "max_seeds: received 0, accepted: at least 1"),
        (("polygons", "--from-tables", "--max-seeds", 1), "max_seeds: received 1 with from_tables, accepted: without"),
    ],
)
def test_what_a_study_does_not_take_is_refused(run, tmp_path, arguments, message):
    status, out, err = run("reproduce", *arguments, "--out", tmp_path)
    assert (status, out) == (2, "")
    assert message in err


def test_each_study_of_all_gets_the_options_that_it_takes(run, tmp_path, monkeypatch):
    chosen = {name: STUDIES[name] for name in ("double-descent", "mnist")}
    made = []

    def reproduce(study, scale, out, *, max_examples, folder, **_):
        made.append((study.name, max_examples, folder))

    monkeypatch.setattr("byheart.studies.catalogue.STUDIES", chosen)
    monkeypatch.setattr("byheart.studies.reproduce", reproduce)
    monkeypatch.setattr("byheart.studies.write_summary", lambda out: pd.DataFrame(columns=["verdict"]))
    (tmp_path / "folder").mkdir()
    run("reproduce", "all", "--out", tmp_path, "--folder", tmp_path / "folder")
    run("reproduce", "all", "--out", tmp_path, "--max-examples", 10)
    assert made == [("double-descent", None, None), ("mnist", None, tmp_path / "folder"), ("double-descent", 10, None)]


def test_figures_are_made_again_from_tables_and_old_ones_are_left(run, tmp_path):
    for name in ("two-views", "mnist"):
        shutil.copytree(RESULTS / name, tmp_path / name)
    (tmp_path / "mnist" / "cost.csv").unlink()  # as of tables that an older version made
    old = (tmp_path / "mnist" / "sorted.png").read_bytes()
    status, out, err = run("reproduce", "all", "--from-tables", "--figure-format", "pdf", "--out", tmp_path)
    assert status == 0
    assert "figures and README.md of 1 studies" in out
    assert "mnist left as it is: out: received" in err
    assert (tmp_path / "two-views" / "two-views.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "mnist" / "sorted.png").read_bytes() == old


@pytest.mark.slow
def test_reproduce_all_runs_every_study_that_has_so_small_sets_and_gathers_the_verdicts(run, tmp_path):
    status, out, err = run("reproduce", "all", "--max-examples", 3, "--out", tmp_path)
    assert (status, err) == (0, "")
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    small = {"as-published", "double-descent", "double-descent-averaged", "double-descent-m4", "polygons", "two-views"}
    assert made == small
    for name in made:
        assert {"README.md", "verdicts.csv", "report.html"} <= {path.name for path in (tmp_path / name).iterdir()}
        assert name in out
    page = (tmp_path / "README.md").read_text()
    assert "[polygons](polygons/README.md)" in page
    mine = f"# Mine\n\n{page[page.index('<!--') :]}"
    (tmp_path / "README.md").write_text(mine)
    assert run("verdicts", tmp_path)[0] == 0
    assert (tmp_path / "README.md").read_text() == mine
    (tmp_path / "README.md").write_text("# Mine\n")
    status, _, err = run("verdicts", tmp_path)
    assert (status, len(err.splitlines())) == (2, 1)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_reproduce_all_says_at_once_what_it_leaves_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(
        "byheart.studies.catalogue.STUDIES", {name: STUDIES[name] for name in ("double-descent", "variants", "mnist")}
    )
    made = []
    monkeypatch.setattr(ReproduceCommand, "_reproduce", lambda self, study, out, folder: made.append((study.name, out)))
    monkeypatch.setattr("byheart.studies.write_summary", lambda out: pd.DataFrame(columns=["verdict"]))
    status, _, err = run("reproduce", "all", "--out", tmp_path)
    assert (status, made) == (0, [("double-descent", tmp_path / "double-descent")])
    assert err.count("variants left out") == err.count("mnist left out") == 2  # at the start and at the end
    assert 'pip install "byheart[audit]"' in err


def test_a_folder_that_is_not_there_is_noticed_before_anything_is_trained(run, tmp_path):
    status, _, err = run("reproduce", "all", "--folder", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert status == 2
    assert "nowhere' accepted: a folder of data" in err.replace(",", "")
    assert not (tmp_path / "out").exists()
