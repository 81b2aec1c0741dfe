"""A table text x model of what is recited: kept over several calls in one directory, and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from byheart import markdown
from byheart.language.recite import CONTROLS, LENGTH, PREFIXES, RECITED, Recitation
from byheart.own import MADE_BELOW, as_they_were, check_marked, check_table, write_table

MARK = f"{MADE_BELOW} recite -->"
_TABLES = {"recite.csv": ("text", "model", "n_tokens"), "windows.csv": ("text", "model", "start")}
_LEGEND = (
    f"A window is {LENGTH} tokens; it is recited if their p_z, the probability that sampling at temperature 1 writes"
    f" them, is {RECITED} or more after {max(PREFIXES)} tokens. Intervals are of a bootstrap over blocks of windows, or"
    " exact ones of independent windows where none, or every one, is recited. The longest run of first guesses is in"
    " tokens, given up to 512 before it; the edit distance is that of what the model writes greedily, over the"
    f" {LENGTH} tokens. Loss is in nats per token of the continuation, with its standard deviation over windows; then"
    " that of each control. CPU seconds are without loading the model; those of the text never published, which the"
    " texts of a call share, count for the first of them."
)


def check_results(out: Path, readme: bool = False) -> None:
    """Refuse, before anything is computed, to replace what ``keep`` or ``write_readme`` did not write.

    Raises:
        ValueError: If there is something else.
    """
    for name, columns in _TABLES.items():
        check_table(out / name, columns)
    if readme:
        check_marked(out / "README.md", MARK)


def keep(out: Path, found: Sequence[Recitation]) -> None:
    """Write recite.csv, a row per text and model, and windows.csv, a row per window; others' rows that are there stay.

    Raises:
        ValueError: If there are other files of these names.
        OSError: If they cannot be written.
    """
    windows = []
    for one in found:
        own = one.windows.copy()
        own.insert(0, "text", one.text)
        own.insert(1, "model", one.model)
        windows.append(own)
    new = {"recite.csv": pd.DataFrame([one.row() for one in found]), "windows.csv": pd.concat(windows)}
    for name, table in new.items():
        if (out / name).is_file():
            old = read(out / name)
            pairs = set(zip(table["text"], table["model"], strict=True))
            stay = [pair not in pairs for pair in zip(old["text"], old["model"], strict=True)]
            table = pd.concat([old[stay], table]) if any(stay) else table
        write_table(out / name, table, float_format="%.6g")


def read(path: Path) -> pd.DataFrame:
    """Return a table that ``keep`` wrote."""
    names = {"text": str, "model": str}  # also one that looks like a number
    return as_they_were(pd.read_csv(path, converters=names))


def write_readme(out: Path) -> Path:
    """Write README.md about all that recite.csv and windows.csv hold, below its mark, and return its path.

    Raises:
        ValueError: If there is a README.md without the mark.
        OSError: If it cannot be written.
    """
    rows, windows = read(out / "recite.csv"), read(out / "windows.csv")
    longest = max(PREFIXES)
    spread = (windows[f"log_p_{longest}"] / -LENGTH).groupby([windows["text"], windows["model"]]).std()
    header = [
        "text",
        "model",
        "white space",
        "characters",
        "tokens",
        "windows",
        "recited (95 %)",
        "highest p_z (log10)",
    ]
    header += ["longest run", "edit distance", "loss ± spread", *CONTROLS, "CPU s"]
    lines = [
        [
            row["text"],
            row["model"],
            "" if pd.isna(row.get("white_space")) else row["white_space"],  # rows of before it was told
            *(f"{row[f'n_{of}']:,}" for of in ("characters", "tokens", "windows")),
            f"{row[f'recited_{longest}']:.0%} ({row[f'recited_{longest}_low']:.0%} to"
            f" {row[f'recited_{longest}_high']:.0%})",
            round(row["log10_p_z_highest"]),
            row["longest_run"],
            f"{row['edit_distance']:.2f}",
            f"{row[f'loss_{longest}']:.2f} ± {spread[row['text'], row['model']]:.2f}",
            *(f"{row[f'loss {name}']:.2f}" for name in CONTROLS),
            f"{row['cpu_seconds']:.0f}",
        ]
        for row in rows.to_dict("records")
    ]
    parts = [*_said(windows), markdown.table(header, lines), _LEGEND]
    markdown.write_below(MARK, parts, out / "README.md", "# recite")
    return out / "README.md"


def _said(windows: pd.DataFrame) -> list[str]:
    """How many windows are recited, and how many of each control, in a sentence per model."""
    said = []
    for model, own in windows.groupby("model", sort=False):
        most = own["text"] == own["text"].value_counts().index[0]
        rows = {name: own[f"log_p {name}"].dropna() for name in CONTROLS}
        rows["never published"] = rows["never published"][most]  # the same windows for every text
        controls = ", ".join(f"{name} {_n_recited(logs)} of {len(logs)}" for name, logs in rows.items())
        after = ", ".join(f"{_n_recited(own[f'log_p_{size}'])} after {size} tokens" for size in PREFIXES)
        said.append(
            f"Of {len(own)} windows, {markdown.escape(model)} recites {after}, and"
            f" {own[f'greedy_{max(PREFIXES)}'].sum()} greedily; controls: {controls}."
        )
    return said


def _n_recited(logs: pd.Series) -> int:
    return int((logs >= np.log(RECITED)).sum())
