"""Only what byheart wrote is replaced: a file is known by its content; anything else that is in the way is refused.

A page is known by the name of its generator, a table by its first columns, Markdown by the mark above its made part,
JSON by its first name, a figure by its software. An empty file holds nothing, and may be replaced by any of them.
(Records look after themselves: ``byheart.records.write``.)
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byheart.storage import read_bytes, read_start, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAGE_MARK = '<meta name="generator" content="byheart">'
_START = 65_536  # bytes in which a mark or the columns are found
_KNOWN_BY = 3  # columns
_SOFTWARE = {"png": "Software", "pdf": "Creator", "svg": "Creator"}  # where a figure says what made it


def check_page(path: str | Path) -> None:
    """Refuse to replace what is no page of byheart's.

    Raises:
        ValueError: If there is something else.
    """
    _check(path, lambda start: PAGE_MARK.encode() in start, "a page that byheart wrote")


def check_table(path: str | Path, columns: Sequence[str]) -> None:
    """Refuse to replace what is no table, as CSV or Parquet, with these first columns.

    Raises:
        ValueError: If there is something else.
    """
    first = [str(name) for name in columns[:_KNOWN_BY]]

    def known(start: bytes) -> bool:
        if str(path).endswith(".parquet"):
            return _columns_of_parquet(Path(path))[: len(first)] == first
        rows = csv.reader(io.StringIO(start.decode(errors="replace"), newline=""))
        return next(rows, [])[: len(first)] == first

    _check(path, known, f"a table that byheart wrote, with the columns {', '.join(first)}")


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
    _check(path, lambda _: b"byheart" in read_bytes(Path(path)), "a figure that byheart drew")


def write_table(path: str | Path, table: pd.DataFrame, **options: Any) -> Path:
    """Write a table as CSV, whole or not at all, without its index unless asked for; options are those of pandas.

    Raises:
        ValueError: If there is something that byheart did not write.
        OSError: If it cannot be written.
    """
    content = table.to_csv(**({"index": False, "lineterminator": "\n"} | options))
    check_table(path, next(csv.reader(io.StringIO(content, newline=""))))
    write_atomically(path, content.encode(errors="backslashreplace"))
    return Path(path)


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


def write_figure(path: str | Path, figure: Figure) -> Path:
    """Write a figure as the format that its name ends in, whole or not at all.

    Raises:
        ValueError: If there is something that byheart did not draw.
        OSError: If it cannot be written.
    """
    check_figure(path)
    kind, buffer = Path(path).suffix[1:], io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={_SOFTWARE[kind]: "byheart, with Matplotlib"})
    write_atomically(path, buffer.getvalue())
    return Path(path)


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


def _columns_of_parquet(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except pyarrow.ArrowException:
        return []
