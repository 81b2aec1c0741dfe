"""The leaderboard as a page: a row per score, a column per task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from byheart.markdown import table, table_of, write_below
from byheart.network.score_table import SCORES, Score
from byheart.own import MADE_BELOW
from byheart.studies.readme import cost_in_words

MARK = f"{MADE_BELOW} leaderboard -->"
_COMBINED = {  # what is made of several scores: from what, and the part of the measured seconds beyond training
    "score, checkpoint": ("one checkpoint", "audit"),
    "score, log": ("log and one D*", "dimensionality"),
    "held-out run, checkpoint": ("held-out run", "training"),
    "held-out run, log": ("held-out run and log", "training"),
    "half of the models of the truth": ("half of the truth", ""),
}


def write_page(tables: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write the tables below the mark in ``path``; what stands above it is kept."""
    rankings = tables["rankings"]
    memorized = rankings[rankings["target"] == "memorized"]
    wrong = rankings[rankings["target"] == "wrong label"]
    seconds = tables["tasks"].set_index("task").mean(numeric_only=True)
    parts = [
        "## Memorization above 0.25\n\nAverage precision, with its 95 % interval over examples.\n\n"
        + _grid(memorized, "ap", seconds),
        "Area under the ROC curve.\n\n" + _grid(memorized, "auroc", seconds),
        "Precision at as many examples as are memorized.\n\n" + _grid(memorized, "precision_at_n", seconds),
    ]
    if len(wrong):
        parts.append("## Wrong labels\n\nArea under the ROC curve.\n\n" + _grid(wrong, "auroc", seconds))
        parts.append("Average precision.\n\n" + _grid(wrong, "ap", seconds))
    parts.append(
        "## Estimates and probabilities from one held-out run\n\nrmse: of the estimates of memorization; truth_rmse:"
        " what of it the truth's own models make; calibration_error: of the probability that it is above 0.25;"
        " coverage: of the 95 % intervals, widened by one of the truth's models, and of those of wrong labels.\n\n"
        + table_of(tables["calibration"])
    )
    if "held-out-runs" in tables:
        parts.append(
            "## Estimates and probabilities from more held-out runs\n\nWith the log. The runs are some of the truth's"
            " models; the others are the truth.\n\n" + table_of(tables["held-out-runs"])
        )
    if "follows" in tables:
        parts.append(
            "## Does a score follow the model, or only the data?\n\nThe same data, fitted in another way: of the"
            " examples that the first network memorized, which has the other one memorized too? Area under the ROC"
            " curve.\n\n" + _grid(tables["follows"], "auroc", seconds)
        )
    if "detectors" in tables:
        parts.append(_detectors(tables["detectors"]))
    if "cost" in tables:
        parts.append(
            "## What an audit takes\n\nOf a layer of 512 units and ten classes, beyond the three passes through the"
            " network, in a process of its own, on all cores.\n\n" + table_of(tables["cost"])
        )
    parts.append("## Tasks\n\n" + table_of(tables["tasks"]))
    if "provenance" in tables:
        parts.append(cost_in_words(tables["provenance"]))
    files = ", ".join(f"[{name}]({name}.csv)" for name in tables)
    parts.append(f"```\nbyheart leaderboard --out results/leaderboard\n```\n\nTables: {files}.")
    write_below(MARK, parts, path, "# Leaderboard")


def _grid(rankings: pd.DataFrame, metric: str, seconds: pd.Series) -> str:
    tasks, scores = list(dict.fromkeys(rankings["task"])), list(dict.fromkeys(rankings["score"]))
    lines = []
    cells = rankings.set_index(["score", "task"])
    best = rankings[rankings["score"] != "half of the models of the truth"].groupby("task")[metric].max()
    for score in scores:
        evidence, part = _COMBINED.get(score) or _made_from(SCORES[score])
        row = [score.replace("_", " "), evidence, _cost(part, seconds)]
        for task in tasks:
            if (score, task) not in cells.index:
                row.append("")
                continue
            value = cells.loc[(score, task)]
            words = f"{value[metric]:.3f} ({value[metric + '_low']:.3f} to {value[metric + '_high']:.3f})"
            row.append(f"**{words}**" if value[metric] == best[task] and "half" not in score else words)
        lines.append(row)
    return table(("score", "made from", "cost in trainings", *tasks), lines)


def _made_from(score: Score) -> tuple[str, str]:
    """What a score is made from, and the part of the measured seconds that it takes beyond training."""
    if "inputs" in score.evidence:
        return "no model", score.name
    if "checkpoints" in score.evidence:
        return "checkpoints", "checkpoints"
    if "log" in score.evidence:
        return "log", "log"
    return "one checkpoint", "curvature" if "curvature" in score.evidence else "audit"


def _detectors(flagged: pd.DataFrame) -> str:
    """Shares that are flagged, means over seeds with the standard error, and how often the right example is first."""
    parts = [
        "## Inputs whose prediction leans on a few training examples\n\nShare that is flagged, at a threshold that"
        " flags 5 % of ordinary inputs; mean over networks \N{PLUS-MINUS SIGN} standard error. Bold: the most."
    ]
    for task, rows in flagged.groupby("task", sort=False):
        cells = rows.groupby(["detector", "inputs"], sort=False)["flagged"].agg(["mean", "sem"])
        kinds = list(dict.fromkeys(rows["inputs"]))
        lines = []
        most = cells["mean"].groupby("inputs").max()
        for name in dict.fromkeys(rows["detector"]):
            words = []
            for kind in kinds:
                mean, spread = cells.loc[(name, kind)]
                text = f"{mean:.2f} \N{PLUS-MINUS SIGN} {spread:.2f}"
                words.append(f"**{text}**" if mean == most[kind] and not kind.startswith("ordinary") else text)
            lines.append((name, *words))
        first = rows.dropna().groupby(["detector", "inputs"], sort=False)["right_first"].mean().reset_index()
        named = "; ".join(
            f"{r.detector}, {str(r.inputs).split(': ')[1]}: {r.right_first:.2f}" for r in first.itertuples()
        )
        parts.append(table((task, *kinds), lines) + f"\n\nThe near-duplicate's own original named first: {named}.")
    return "\n\n".join(parts)


def _cost(part: str, seconds: pd.Series) -> str:
    if not part or f"{part}_seconds" not in seconds:
        return ""
    return f"{seconds[f'{part}_seconds'] / seconds['training_seconds']:.2g}"
