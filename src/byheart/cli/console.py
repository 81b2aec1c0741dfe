"""Tables, shared by all commands; rich is imported when there is something to draw."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_WIDE = 200  # columns of a table that is not printed in a terminal
_STYLES = {"reproduced": "green", "differs": "red", "inconclusive": "yellow"}


class CheckError(Exception):
    """What a check looks for was found."""


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


def complain(words: str) -> None:
    """Print to stderr."""
    print(words, file=sys.stderr)
