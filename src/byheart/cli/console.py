"""Tables and the progress bar, shared by all commands; rich is imported when there is something to draw."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_WIDE = 200  # columns of a table that is not printed in a terminal
_STYLES = {"reproduced": "green", "differs": "red", "inconclusive": "yellow"}

Advance = Callable[[float, float | None, str], None]
"""Takes the work done, the whole of it if known, and a note."""


def print_table(columns: Iterable[Any], rows: Iterable[Iterable[Any]], **settings: Any) -> None:
    """Print a table, with four digits of every float, and verdicts in their colours.

    Args:
        columns: Headers, or rich's columns.
        rows: Cells of each row.
        settings: Arguments of rich's table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, **settings)
    for row in rows:
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Advance]:
    """Draw a progress bar while the block runs, in a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, total, note: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=300,
    )
    with progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total, note: progress.update(task, completed=done, total=total, note=note)


def complain(words: str) -> None:
    """Print to stderr."""
    print(words, file=sys.stderr)
