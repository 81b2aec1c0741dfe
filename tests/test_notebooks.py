"""The notebooks run from their first cell to their last and find what they say; they are kept without outputs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))


@pytest.fixture
def run(monkeypatch):
    """Run a notebook of this name; returns what it printed."""
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    import notebooks

    def printed(name):
        cells = notebooks.run(ROOT / "examples" / f"{name}.ipynb").cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "".join(output["text"] for output in outputs if output.get("name") == "stdout")

    yield printed
    del sys.modules["notebooks"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_to_a_file_leads_to_one(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert target.startswith("http") or (path.parent / target).exists(), target


def test_the_paper_is_in_ten_cells():
    cells = nbformat.read(ROOT / "examples" / "paper_in_ten_cells.ipynb", as_version=4).cells
    assert sum(cell.cell_type == "code" for cell in cells) == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the client are none of ours
def test_the_paper_in_ten_cells(run):
    printed = run("paper_in_ten_cells")
    gaps = [float(x) for x in re.search(r"neighbours: \[(.*?)\]", printed)[1].split()]
    assert len(gaps) == 5
    assert sum(gaps) == pytest.approx(360, abs=0.5)
    assert all(60 < gap < 84 for gap in gaps)  # a pentagon
    test_loss = {
        size.strip(): float(x) for size, x in re.findall(r"T = +([\d,]+): train loss .*, test loss ([\d.]+)", printed)
    }
    assert test_loss["200"] > test_loss["5"] > test_loss["5,000"]  # double descent


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_audit_your_model(run):
    printed = run("audit_your_model")
    found, chance = re.search(r"they are (\d+)% of the \d+ highest scores, by chance (\d+)%", printed).groups()
    assert int(found) > 50 > 5 * int(chance)
    assert re.search(r"Audit\(Logits, layer model.classifier.input: \d+ of 600", printed)
