"""The table of an audit as a file for other programs: CSV for spreadsheets, Parquet for data frames."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from byheart.network.verdicts import VERDICTS, reasons
from byheart.own import check_table, harmless
from byheart.storage import prepare_directory, write_atomically

if TYPE_CHECKING:
    from byheart.network.audit import Audit

SUFFIXES = (".csv", ".parquet")
KNOWN_BY = ("example", "verdict", "reason", "score", "flagged")  # columns that every table has


def write_table(audit: Audit, path: Path, verdict: str | None = None) -> Path:
    """Write a row per example: all columns, names of labels where the data have them, and the reason for the verdict.

    Cells of text that a spreadsheet would run as a formula begin with an apostrophe in CSV. Numbers have seven digits
    there, and all of them in Parquet.

    Args:
        audit: What was found.
        path: Name that ends in .csv or .parquet; its directory is made if missing.
        verdict: Of the examples that are written; None for all.

    Raises:
        ValueError: If there is no such verdict, or a file that is no such table is in the way.
        ModuleNotFoundError: If pyarrow is missing, which writes Parquet; the message says how to install it.
        OSError: If the file cannot be written.
    """
    if verdict is not None and verdict not in VERDICTS:
        raise ValueError(f"verdict: received {verdict!r}, accepted: {', '.join(VERDICTS)}")
    table = _with_words(audit)
    if verdict is not None:
        table = table[table["verdict"] == verdict]
    check_table(path, KNOWN_BY)
    prepare_directory(path.parent)
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        harmless(table).to_csv(
            buffer, index_label="example", float_format="%.7g", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )
    else:
        require_pyarrow()
        table.rename_axis("example").reset_index().to_parquet(buffer, engine="pyarrow", index=False)
    write_atomically(path, buffer.getvalue())
    return path


def require_pyarrow() -> None:
    """Raise an error that says how to install pyarrow, if it is missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError("a table as Parquet needs pyarrow: pip install pyarrow; or write it as .csv")


def _with_words(audit: Audit) -> pd.DataFrame:
    """The table with names of labels behind their numbers, and reasons for verdicts that are worth a look."""
    table = audit.table.copy()
    for name in ("other_label", "prediction", "label"):
        if audit.label_names and "classes" in audit.evidence and name in table:
            names = {number: _plain(each) for number, each in enumerate(audit.label_names)}
            found = [names.get(number, "") for number in table[name].tolist()]
            table.insert(list(table).index(name) + 1, f"{name}_name", np.array(found, dtype=object))
    worth = np.flatnonzero(table["verdict"] != "ordinary")
    words = np.full(len(table), "", dtype=object)
    words[worth] = [_plain(reason) for reason in reasons(audit, worth.tolist())]
    table.insert(list(table).index("verdict") + 1, "reason", words)
    return table


def _plain(words: str) -> str:
    """Words that every encoding of Unicode can hold."""
    return words.encode("utf-8", errors="backslashreplace").decode("utf-8")
