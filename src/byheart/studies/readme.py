"""The README of a study's results, and that of all: what was asked, what came out, what it cost.

Text above the mark is a person's, and is kept.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from byheart import markdown
from byheart.own import MADE_BELOW, as_they_were
from byheart.toy.config import TrainConfig

MARK = f"{MADE_BELOW} reproduce -->"
HOW_JUDGED = """How verdicts are computed: where the source has a number and a tolerance, a claim is *reproduced* if our
mean, two standard errors either way, lies within it, and *differs* if it lies outside. What each dataset either shows
or not is *reproduced* if all show it, *differs* if none does. Any other claim *differs* if what would refute it is
seen. What is neither is *inconclusive*."""
HOW_BUMPS_ARE_JUDGED = """The height of a bump is the difference of mean log test losses, at the peak and at the higher
of the lowest ones on either side, in standard errors; its loss is a geometric mean. Noise alone has bumps of more than
3 standard errors in 2 to 6 % of rows with four seeds, in 8 to 16 % with two."""
_ALWAYS = {"n_features", "sparsity", "n_hidden", "n_steps", "learning_rate", "weight_decay"}
_MEASURED = ("n_runs", "wall_hours", "n_threads")
_LABELS = {"reproduced": "**reproduced**", "differs": "**differs**", "inconclusive": "inconclusive"}


def write_summary(directory: Path) -> pd.DataFrame:
    """Write one table of all verdicts below the mark in ``directory/README.md``, and return it.

    Args:
        directory: Holds a directory per study, each with its verdicts.csv.

    Raises:
        ValueError: If there is none.
    """
    found = {
        path.parent.name: as_they_were(pd.read_csv(path, dtype=str))
        for path in sorted(directory.glob("*/verdicts.csv"))
    }
    if not found:
        raise ValueError(f"directory: received {directory} without STUDY/verdicts.csv, accepted: one with results")
    verdicts = pd.concat(found, names=["study"]).reset_index("study")
    rows = []
    for name, own in verdicts.groupby("study", sort=False):
        runs = directory / str(name) / "runs.csv"  # studies of other networks have none
        size = f"{pd.read_csv(runs, usecols=['n_features'])['n_features'].max():,}" if runs.exists() else ""
        for row in own.itertuples():
            words = (row.statement, row.source, row.paper, row.ours, _LABELS[str(row.verdict)])
            rows.append((f"[{name}]({name}/README.md)", size, *words))
    table = markdown.table(("study", "n", "claim", "source", "value there", "ours", "verdict"), rows)
    counts = ", ".join(f"{n} {label}" for label, n in verdicts["verdict"].value_counts().items())
    parts = (f"{len(verdicts)} claims: {counts}.", table, _how_judged(verdicts))
    markdown.write_below(MARK, parts, directory / "README.md", "# Results")
    return verdicts


def _how_judged(verdicts: pd.DataFrame) -> str:
    bumps = verdicts["ours"].str.contains("standard errors high").any()
    return f"{HOW_JUDGED}\n\n{HOW_BUMPS_ARE_JUDGED}" if bumps else HOW_JUDGED


def write_readme(
    question: str,
    command: str,
    setup: str,
    verdicts: pd.DataFrame,
    captions: Mapping[str, str],
    tables: Sequence[str],
    path: Path,
) -> None:
    """Write figures with captions, claims, setup and cost below the mark in ``path``; what is above it is kept."""
    header = ("claim", "source", "value there", "ours", "verdict", "refuted if")
    rows = [
        (row.statement, row.source, row.paper, row.ours, _LABELS[str(row.verdict)], row.refuted_if)
        for row in verdicts.itertuples()
    ]
    parts = [
        *(f"![{figure}]({figure}.png)\n\n{caption}" for figure, caption in captions.items()),
        f"## Claims\n\n{markdown.table(header, rows)}\n\n{_how_judged(verdicts)}",
        f"## Setup and cost\n\n{setup}",
        f"```\n{command}\n```",
        "Tables: " + ", ".join(f"[{table}]({table}.csv)" for table in ("verdicts", *tables)) + ".",
    ]
    markdown.write_below(MARK, parts, path, f"# {question}")


def made_from(path: Path) -> tuple[str, list[str]]:
    """Return the command that a study's README names, and the names of its tables, verdicts left out.

    Raises:
        ValueError: If there is no README that ``write_readme`` wrote.
    """
    made = path.read_text(encoding="utf-8").partition(MARK)[2] if path.exists() else ""
    fenced = made.split("```\n")
    if len(fenced) < 2:
        raise ValueError(f"out: received {path.parent} without a README.md of results, accepted: what reproduce left")
    names = re.findall(r"\[([\w-]+)\]\(\1\.csv\)", made)
    return fenced[1].strip(), [name for name in names if name != "verdicts"]


def sizes_of(runs: pd.DataFrame, by: Sequence[str] = ("n_examples",), of: str = "point") -> str:
    """Return n, S, m and the number of seeds of a table of the toy's runs, as the end of a figure's caption.

    Args:
        runs: A row per run.
        by: The columns that tell apart what seeds are counted of.
        of: A word for it.
    """
    features, sparsity, hidden = (_range(runs[name]) for name in ("n_features", "sparsity", "n_hidden"))
    seeds = _range(runs.groupby(list(by))["seed"].nunique())
    return (
        f"n = {features} features, sparsity S = {sparsity}, m = {hidden} hidden units;"
        f" {seeds} seed{'s' * (seeds != '1')} (dataset{'s' * (seeds != '1')}) for each {of}."
    )


def _range(values: Iterable[float]) -> str:
    values = list(values)
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def setup_of(runs: pd.DataFrame) -> str:
    """Return what was fixed and what was varied in a table of the toy's runs, in words."""
    fixed, varied = [], []
    for field in dataclasses.fields(TrainConfig):
        if field.name not in runs:  # the steps of snapshots are not in the table
            continue
        used = runs[np.isinf(runs["n_examples"].astype(float))] if field.name == "batch_size" else runs
        name = f"{field.name}{' (of infinite data)' * (field.name == 'batch_size')}"
        values = sorted(set(used[field.name]), key=lambda value: (str(type(value)), value))
        words = [f"{value:g}" if isinstance(value, float) else _brief(value) for value in values]
        if (field.name in _ALWAYS and len(values) == 1) or (len(values) == 1 and values[0] != field.default):
            fixed.append(f"{name} {words[0]}")
        elif len(values) > 1:
            varied.append(f"{name}: {', '.join(words[:24])}{', ...' if len(words) > 24 else ''}")
    return f"{runs['id'].nunique()} runs: {', '.join(fixed)}, all else the defaults. Varied: {'; '.join(varied)}."


def _brief(value: object) -> str:
    if isinstance(value, tuple) and len(set(value)) == 1:
        return f"{len(value)} x {value[0]}"
    return str(value)


def cost_in_words(cost: pd.DataFrame) -> str:
    """Return what runs cost, from the table that ``study.cost`` makes."""
    trained_by = "kernel" if "kernel" in cost else "torch"
    words = cost.assign(**{str(name): cost[name].map(markdown.escape) for name in cost if name not in _MEASURED})
    rows = (
        f"{row.n_runs} runs, {row.wall_hours:.2f} h of {row.n_threads} thread(s) of {row.device}"
        f" (byheart {row.byheart}, revision {row.git_revision}, {trained_by} {getattr(row, trained_by)})"
        for row in words.itertuples()
    )
    return "Cost: " + "; ".join(rows) + "."
