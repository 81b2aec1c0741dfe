"""Markdown pages of results: tables, and a made part below a mark that leaves a person's text above it alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from byheart.own import check_marked
from byheart.storage import write_atomically

_MARKUP = re.compile(r"([\\`*_{}\[\]|#!~])")


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table: a missing cell is empty, a float has three digits, and a ``|`` is escaped."""
    first, *others = ("| " + " | ".join(map(_cell, line)) + " |" for line in (header, *rows))
    return "\n".join((first, "|---" * len(header) + "|", *others))


def table_of(frame: pd.DataFrame) -> str:
    """Return a data frame as a table, without its index; spaces replace the underscores of its column names."""
    return table([str(name).replace("_", " ") for name in frame], frame.itertuples(index=False))


def escape(words: object) -> str:
    """Return words of unknown origin, such as a device's name in a file, as one line that stays text in Markdown."""
    line = " ".join(str(words).split())
    return _MARKUP.sub(r"\\\1", line).replace("<", "&lt;")


def write_below(mark: str, parts: Sequence[str], path: Path, title: str) -> None:
    """Write ``parts`` below ``mark``, and keep what stands above it; a new page has ``title`` there.

    Raises:
        ValueError: If there is a file without the mark.
        OSError: If the page cannot be written; nothing is left behind.
    """
    check_marked(path, mark)
    above = path.read_text(encoding="utf-8").split(mark)[0].rstrip() if path.exists() else ""
    write_atomically(path, ("\n\n".join((above or title, mark, *parts)) + "\n").encode(errors="backslashreplace"))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}"
    return "" if value is None else " ".join(str(value).splitlines()).replace("|", "\\|")
