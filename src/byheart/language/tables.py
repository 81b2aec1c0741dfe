"""Tables in one file: numbers as arrays, words in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from byheart import records
from byheart.records import Record


def write_tables(path: str | Path, tables: Mapping[str, pd.DataFrame], header: Mapping[str, Any], what: str) -> Path:
    """Write tables and a few JSON values to a file, and return its path."""
    arrays, words = {}, {}
    for name, table in tables.items():
        for column in table:
            key = f"{name}/{column}"
            if pd.api.types.is_numeric_dtype(table[column]):
                arrays[key] = table[column].to_numpy()
            else:
                words[key] = table[column].tolist()
    columns = {name: list(table) for name, table in tables.items()}
    kept = {"columns": columns, "words": words, "header": dict(header)}
    records.write(path, Record(arrays, {name: json.dumps(value) for name, value in kept.items()}), what)
    return Path(path)


def read_tables(path: str | Path, what: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return tables and JSON values that ``write_tables`` wrote.

    Raises:
        ValueError: If the file is missing, damaged or holds something else.
    """
    record = records.read(path, what)
    try:
        columns, words, header = (json.loads(record.header[name]) for name in ("columns", "words", "header"))
        tables = {
            name: pd.DataFrame(
                {c: words[k] if (k := f"{name}/{c}") in words else record.arrays[k] for c in of_table}, columns=of_table
            )
            for name, of_table in columns.items()
        }
    except KeyError as error:
        raise records.not_whole(Path(path), f"it has no {error}", what) from error
    return tables, header
