"""What byheart wrote is replaced; whatever else is in the way stays as it is, and is named in one line."""

from __future__ import annotations

import os

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from byheart import markdown
from byheart.own import (
    as_it_was,
    as_they_were,
    check_page,
    check_table,
    harmless,
    write_figure,
    write_json,
    write_table,
)
from byheart.page import write_page

TABLE = pd.DataFrame({"name": ["a"], "bits": [1.5], "copies": [2], "more": [0]})
FOREIGN = {
    "model.py": b"def data(): ...\n",
    "notes.md": b"# My own notes\n",
    "labels.csv": b"example,label\n0,cat\n",
    "page.html": b"<!DOCTYPE html><html><head><title>byheart report</title></head></html>",
    "binary": bytes(range(256)) * 300,
}


def figure():
    drawn, axes = plt.subplots()
    axes.plot([0, 1])
    plt.close(drawn)
    return drawn


def page(path):
    return write_page(path, "page/page.html", style="", scripts=[], data={}, kind="byheart", title="t", notes=[],
                      summary=[], tables={})  # fmt: skip


WRITERS = {
    "page": page,
    "table": lambda path: write_table(path, TABLE),
    "README": lambda path: markdown.write_below("<!-- mark -->", ["made"], path, "# Title"),
    "JSON": lambda path: write_json(path, {"name": 1, "more": [2]}),
    "figure": lambda path: write_figure(path, figure()),
}
SUFFIX = {"page": ".html", "table": ".csv", "README": ".md", "JSON": ".json", "figure": ".png"}


@pytest.mark.parametrize("kind", WRITERS)
def test_only_its_own_kind_is_replaced(tmp_path, kind):
    path = tmp_path / f"one{SUFFIX[kind]}"
    for _ in range(2):
        WRITERS[kind](path)
    own = path.read_bytes()
    path.write_bytes(b"")  # empty, as mktemp leaves it
    WRITERS[kind](path)
    assert path.read_bytes() == own
    others = {other: write for other, write in WRITERS.items() if other != kind}
    for other, write in others.items():
        write(tmp_path / f"other{SUFFIX[other]}")
    contents = [*FOREIGN.values(), *((tmp_path / f"other{SUFFIX[other]}").read_bytes() for other in others)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"received .*one\.\w+ \(which byheart did not write\)") as error:
            WRITERS[kind](path)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", WRITERS)
def test_links_pipes_and_folders_are_refused(tmp_path, kind):
    path = tmp_path / f"one{SUFFIX[kind]}"
    (tmp_path / "precious").write_text("mine")
    for make in (lambda: path.symlink_to(tmp_path / "precious"), lambda: path.symlink_to("nowhere"),
                 lambda: os.mkfifo(path), path.mkdir):  # fmt: skip
        make()
        with pytest.raises(ValueError, match=r"received .*, accepted: "):
            WRITERS[kind](path)
        assert os.path.lexists(path)
        path.rmdir() if path.is_dir() else path.unlink()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_figure_is_known_by_the_readme_beside_it_too(tmp_path):
    path = tmp_path / "one.png"
    figure().savefig(path)
    (tmp_path / "README.md").write_text("![one](one.png)\n<!-- below: made by byheart reproduce -->\nNo figure.")
    with pytest.raises(ValueError, match="which byheart did not write"):
        write_figure(path, figure())
    (tmp_path / "README.md").write_text("<!-- below: made by byheart reproduce -->\n![one](one.png)\n")
    write_figure(path, figure())
    (tmp_path / "README.md").unlink()
    write_figure(path, figure())


def test_a_persons_text_above_the_mark_is_kept(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Mine\n\nWords.\n\n<!-- mark -->\n\nold\n")
    WRITERS["README"](path)
    assert path.read_text() == "# Mine\n\nWords.\n\n<!-- mark -->\n\nmade\n"


def test_a_table_is_known_by_its_columns(tmp_path):
    write_table(tmp_path / "t.csv", TABLE)
    check_table(tmp_path / "t.csv", ("name", "more"))
    for columns in (("bits", "name"), ("name", "label")):
        with pytest.raises(ValueError, match=f"with the columns {', '.join(columns)}"):
            check_table(tmp_path / "t.csv", columns)
    TABLE.to_parquet(tmp_path / "t.parquet")
    check_table(tmp_path / "t.parquet", ("name", "bits"))
    with pytest.raises(ValueError, match="did not write"):
        check_table(tmp_path / "t.parquet", ("example",))
    (tmp_path / "u.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="did not write"):
        check_table(tmp_path / "u.parquet", ("name",))
    check_page(tmp_path / "free.html")


def test_a_spreadsheet_runs_no_cell_and_each_is_read_as_it_was(tmp_path):
    words = ["=1+1", "+a", "-a", "@x", "\tx", "'quoted", "''", "plain", "-0.16 ± 0.5", "- list", "-5", ""]
    table = pd.DataFrame({"name": words, "number": range(len(words))})
    write_table(tmp_path / "t.csv", table)
    kept = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype={"name": str})
    run = [cell for cell in kept["name"] if cell[:1] in "=+-@\t\r\n" and cell]
    assert run == ["-0.16 ± 0.5"]
    pd.testing.assert_frame_equal(as_they_were(kept), table)
    assert [as_it_was(cell) for cell in harmless(table)["name"]] == words
