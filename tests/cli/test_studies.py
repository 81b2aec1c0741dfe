"""Studies as a person runs them."""

import pandas as pd
import pytest

from byheart.cli.studies import ReproduceCommand
from byheart.studies.catalogue import STUDIES


def test_reproduce_lists_its_studies(run):
    status, out, _ = run("reproduce", "--list")
    assert status == 0
    assert "double-descent" in out


@pytest.mark.slow
def test_reproduce_all_runs_every_study_that_has_so_small_sets_and_gathers_the_verdicts(run, tmp_path):
    status, out, err = run("reproduce", "all", "--max-examples", 3, "--out", tmp_path)
    assert (status, err) == (0, "")
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"double-descent", "double-descent-averaged", "double-descent-m4", "polygons", "two-views"}
    for name in made:
        assert {"README.md", "verdicts.csv", "report.html"} <= {path.name for path in (tmp_path / name).iterdir()}
        assert name in out
    page = (tmp_path / "README.md").read_text()
    assert "[polygons](polygons/README.md)" in page
    (tmp_path / "README.md").write_text("# Mine\n")
    status, out, _ = run("verdicts", tmp_path)
    assert status == 0
    assert (tmp_path / "README.md").read_text().startswith("# Mine\n")
    assert page.split("-->")[1] == (tmp_path / "README.md").read_text().split("-->")[1]


def test_reproduce_all_says_at_once_what_it_leaves_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(
        "byheart.studies.catalogue.STUDIES", {name: STUDIES[name] for name in ("double-descent", "variants")}
    )
    made = []
    monkeypatch.setattr(ReproduceCommand, "_reproduce", lambda self, study, out: made.append((study.name, out)))
    monkeypatch.setattr("byheart.studies.write_summary", lambda out: pd.DataFrame(columns=["verdict"]))
    status, _, err = run("reproduce", "all", "--out", tmp_path)
    assert (status, made) == (0, [("double-descent", tmp_path / "double-descent")])
    assert err.count("variants left out") == err.count("mnist left out") == 2  # at the start and at the end
    assert 'pip install "byheart[audit]"' in err
