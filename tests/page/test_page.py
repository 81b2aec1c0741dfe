"""The shell: text stays text wherever it is handed over, and a page appears whole or not at all."""

import html
import json
import re
from pathlib import Path

import pytest
from markupsafe import Markup

from byheart.page import asset, write_page

HOSTILE = '</script><script>alert("x")</script></style></title><b>\u2028 {{ 7 * 7 }}'
PLAIN = {
    "kind": "a page",
    "title": "A title",
    "summary": ["One sentence."],
    "notes": ["A note."],
    "tables": {"A table": {"a name": "a value"}},
    "data": {"values": [1, 2]},
    "style": Markup("h2 { color: red; }"),
    "scripts": [Markup("let first;"), Markup("let second;")],
}
WITH_TEXT = {
    "kind": HOSTILE,
    "title": HOSTILE,
    "summary": [HOSTILE],
    "notes": [HOSTILE],
    "tables": {HOSTILE: {HOSTILE: HOSTILE}},
    "data": {HOSTILE: HOSTILE},
}


def written(tmp_path, **changed) -> str:
    return write_page(tmp_path / "page.html", "page/page.html", **PLAIN | changed).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_TEXT)
def test_text_cannot_break_out(tmp_path, name):
    plain = written(tmp_path, **{name: json.loads(json.dumps(WITH_TEXT[name]).replace(json.dumps(HOSTILE)[1:-1], "x"))})
    page = written(tmp_path, **{name: WITH_TEXT[name]})
    assert HOSTILE not in page
    assert re.findall(r"</?\w+", page) == re.findall(r"</?\w+", plain)  # the same elements
    if name != "data":
        assert HOSTILE in html.unescape(page)


def test_data_come_back_as_they_were_given(tmp_path):
    data = {"b": [HOSTILE, None, 0.1], "a": {"inner": "\u221e"}}
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', written(tmp_path, data=data), re.S)
    assert json.loads(found[1]) == data


def test_markup_is_written_as_it_is(tmp_path):
    assert "<dd><b>bold</b></dd>" in written(tmp_path, tables={"A table": {"a name": Markup("<b>bold</b>")}})


def test_style_notes_data_and_scripts_come_in_their_order(tmp_path):
    page = written(tmp_path)
    parts = [asset("page/page.css"), PLAIN["style"], "<h1>A title", "A note.", 'id="data"', *PLAIN["scripts"]]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert page.startswith("<!DOCTYPE html>\n")
    assert "default-src 'none'" in page


@pytest.mark.parametrize("already_there", [False, True])
def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch, already_there):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "made" / "page.html"
    before = {path: write_page(path, "page/page.html", **PLAIN).read_bytes()} if already_there else {}
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(path, "page/page.html", **PLAIN | {"title": "Another"})
    assert {found: found.read_bytes() for found in path.parent.iterdir()} == before


@pytest.mark.parametrize("name", WITH_TEXT)
def test_characters_that_reorder_others_are_shown_as_words(tmp_path, name):
    reordering = "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
    text = f"cat {reordering} dog \\u202e"
    changed = json.loads(json.dumps(WITH_TEXT[name]).replace(json.dumps(HOSTILE)[1:-1], json.dumps(text)[1:-1]))
    page = written(tmp_path, **{name: changed})
    assert not set(reordering) & set(page)
    data = re.search(r'id="data">(.*?)</script>', page)
    assert not set(reordering) & set(json.dumps(json.loads(data[1]), ensure_ascii=False))
    if name == "data":
        words = ["LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"]
        assert list(json.loads(data[1]).values()) == [f"cat {''.join(f'⟨{word}⟩' for word in words)} dog \\u202e"]


def test_text_of_any_direction_and_length_stays_in_its_place():
    style = asset("page/page.css")
    assert "unicode-bidi: isolate" in style
    assert "select, button { max-width: 100%; }" in style
