"""Only what byheart wrote is replaced: a file is known by its content; anything else that is in the way is refused.

A page is known by the name of its generator, a table by some of its columns, Markdown by the mark above its made part,
JSON by its first name, a figure by its software or the README that byheart wrote beside it. An empty file is nothing,
and may be replaced by any of them.
(Records look after themselves: ``byheart.records.write``.)
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byheart.storage import read_bytes, read_start, write_atomically

if TYPE_CHECKING:
    import pandas as pd

MADE_BELOW = "<!-- below: made by byheart"
PAGE_MARK = '<meta name="generator" content="byheart">'
_START = 65_536  # bytes in which a mark or the columns are found
_KNOWN_BY = 3  # columns, the first ones
_FORMULA = re.compile(r"[=@\t\r\n']|[-+](?!\d+(\.\d+)? ±)")  # what a spreadsheet runs begins so, or is marked as text
_DRAWN_BY = "byheart, with Matplotlib"
_SOFTWARE = {"png": "Software", "pdf": "Creator", "svg": "Creator"}  # where a figure says what made it


def check_page(path: str | Path) -> None:
    """Refuse to replace what is no page of byheart's.

    Raises:
        ValueError: If there is something else.
    """
    _check(path, lambda start: PAGE_MARK.encode() in start, "a page that byheart wrote")


def check_table(path: str | Path, columns: Sequence[str]) -> None:
    """Refuse to replace what is no table, as CSV or Parquet, that has these columns, the first of them as its first.

    Raises:
        ValueError: If there is something else.
    """

    def known(start: bytes) -> bool:
        if str(path).endswith(".parquet"):
            there = _columns_of_parquet(Path(path))
        else:
            there = _columns_of_csv(start.decode(errors="replace"))
        return there[:1] == [columns[0]] and set(columns) <= set(there)

    _check(path, known, f"a table that byheart wrote, with the columns {', '.join(columns)}")


def check_marked(path: str | Path, mark: str) -> None:
    """Refuse to replace Markdown without the mark below which byheart writes.

    Raises:
        ValueError: If there is something else.
    """
    _check(path, lambda _: mark.encode() in read_bytes(Path(path)), f"one that byheart wrote, with the line {mark}")


def check_figure(path: str | Path) -> None:
    """Refuse to replace a picture that byheart did not draw.

    Raises:
        ValueError: If there is something else.
    """

    def known(_: bytes) -> bool:
        return _DRAWN_BY.encode() in read_bytes(Path(path)) or _is_shown_beside(Path(path))

    _check(path, known, "a figure that byheart drew")


def write_table(path: str | Path, table: pd.DataFrame, **options: Any) -> Path:
    """Write a table as CSV, whole or not at all, such that a spreadsheet runs no cell of it.

    Args:
        path: Of the file; a table with the same first three columns that is there is replaced.
        table: A row per line; its index is left out.
        options: Of ``DataFrame.to_csv``.

    Raises:
        ValueError: If there is something that byheart did not write.
        OSError: If it cannot be written.
    """
    chosen: dict[str, Any] = {"index": False, "lineterminator": "\n"} | options
    content: str = harmless(table).to_csv(None, **chosen)
    check_table(path, _columns_of_csv(content)[:_KNOWN_BY])
    write_atomically(path, content.encode(errors="backslashreplace"))
    return Path(path)


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of which a spreadsheet runs no cell: texts that begin as formulas have an apostrophe in front.

    So have those that begin with an apostrophe, so that each can be read as it was.
    """
    import pandas as pd

    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{str(name): table[name].map(_harmless) for name in words})


def as_it_was(cell: Any) -> Any:
    """Return a cell without the apostrophe that ``harmless`` put in front."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def as_they_were(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that was read from CSV, without the apostrophes that ``harmless`` put in front."""
    import pandas as pd

    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{str(name): table[name].map(as_it_was) for name in words})


def write_json(path: str | Path, values: dict[str, Any]) -> Path:
    """Write values by name as JSON, whole or not at all.

    Raises:
        ValueError: If there is something else than JSON with the same first name.
        OSError: If it cannot be written.
    """

    def known(_: bytes) -> bool:
        try:
            found = json.loads(read_bytes(Path(path)))
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and next(iter(found), None) == next(iter(values))

    _check(path, known, "a file of that name that byheart wrote")
    write_atomically(path, (json.dumps(values, indent=1, default=str) + "\n").encode())
    return Path(path)


def write_lines(path: str | Path, lines: Iterable[str], known: Callable[[str], bool], accepted: str) -> Path:
    """Write lines of text, whole or not at all.

    Args:
        path: Of the file; one whose first line is known is replaced.
        lines: Without their ends.
        known: Whether a file that begins with this line may be replaced.
        accepted: What such a file is, for the message.

    Raises:
        ValueError: If there is something else.
        OSError: If it cannot be written.
    """
    _check(path, lambda start: known(start.decode(errors="replace").partition("\n")[0]), accepted)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return Path(path)


def write_figure(path: str | Path, figure: Any) -> Path:
    """Write a figure of matplotlib as the format that its name ends in, whole or not at all.

    Raises:
        ValueError: If there is something that byheart did not draw.
        OSError: If it cannot be written.
    """
    check_figure(path)
    kind, buffer = Path(path).suffix[1:], io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={_SOFTWARE[kind]: _DRAWN_BY})
    write_atomically(path, buffer.getvalue())
    return Path(path)


def _is_shown_beside(path: Path) -> bool:
    """Whether the made part of a README.md of byheart's in the same directory shows the figure."""
    try:
        made = read_bytes(path.with_name("README.md")).decode(errors="replace").partition(MADE_BELOW)[2]
    except OSError:
        return False
    return f"]({path.stem}.png)" in made


def _check(path: str | Path, is_own: Callable[[bytes], bool], accepted: str) -> None:
    path = Path(path)
    try:
        start, size = read_start(path, _START)
        if not size or is_own(start):
            return
        why = "which byheart did not write"
    except FileNotFoundError:
        if not path.is_symlink():
            return
        why = "a link to nothing"
    except OSError as error:
        why = error.strerror or str(error)
    raise ValueError(f"out: received {path} ({why}), accepted: a free name, or {accepted}")


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _columns_of_csv(text: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error:
        return []


def _columns_of_parquet(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except pyarrow.ArrowException:
        return []
