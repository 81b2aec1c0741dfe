"""What a study is: a question, the runs that answer it, claims with verdicts computed from them, and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byheart.config import TrainConfig
from byheart.plots import is_paper_setup
from byheart.store import Runs
from byheart.sweep import OnProgress, sweep

Scale = Literal["quick", "paper"]
Verdict = Literal["reproduced", "differs", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim: our value in words, with its spread over seeds, and the verdict."""

    ours: str
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A statement of a source, and the test of it on runs."""

    id: str
    statement: str
    source: str
    paper: str
    """The source's value, in words."""
    test: Callable[[Runs], Finding]
    paper_setup_only: bool = False
    """Whether the value holds only at the paper's n, S, m and number of steps."""


@dataclass(frozen=True)
class Study:
    """One question of the paper, its comments or its follow-ups."""

    name: str
    question: str
    configs: Callable[[Scale], list[TrainConfig]]
    claims: Sequence[Claim]
    figures: Callable[[Runs], dict[str, Figure]]
    tables: Callable[[Runs], dict[str, pd.DataFrame]]


def reproduce(
    study: Study,
    scale: Scale,
    out: Path,
    *,
    max_examples: int | None = None,
    n_workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Run a study, and write ``runs/`` and what ``write_results`` makes of them to ``out``.

    Args:
        study: What to reproduce.
        scale: "quick" (minutes on a laptop) or "paper" (the paper's sizes).
        out: Directory for everything the study leaves.
        max_examples: Leave out larger training sets.
        n_workers: Cores to use; default all.
        on_progress: Called a few times a second while runs are trained.

    Returns:
        The table of verdicts: claim, statement, source, paper, ours, verdict.

    Raises:
        ValueError: If ``max_examples`` leaves nothing to run.
        SweepError: If runs failed; the others are kept, and the same call tries again.
    """
    configs = [
        config
        for config in study.configs(scale)
        if max_examples is None or (config.n_examples != "inf" and config.n_examples <= max_examples)
    ]
    if not configs:
        raise ValueError(f"max_examples: received {max_examples}, accepted: at least the study's smallest T")
    runs = sweep(configs, out / "runs", n_workers=n_workers, on_progress=on_progress)
    return write_results(study, runs, out)


def write_results(study: Study, runs: Runs, out: Path) -> pd.DataFrame:
    """Write tables (runs, verdicts, cost, the study's own) and figures of finished runs to ``out``; return verdicts."""
    out.mkdir(parents=True, exist_ok=True)
    runs.table.drop(columns=["snapshot_steps", "data_digest"]).to_csv(
        out / "runs.csv", index=False, float_format="%.7g"
    )
    verdicts = judge(study, runs)
    for name, table in {"verdicts": verdicts, "cost": cost(runs), **study.tables(runs)}.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    for name, figure in study.figures(runs).items():
        figure.savefig(out / f"{name}.png", dpi=200)
    return verdicts


def cost(runs: Runs) -> pd.DataFrame:
    """Return what made the runs and what they cost: a row per version of the software, kernel, device and threads."""
    provenance = pd.DataFrame([header.provenance for header in runs.headers])
    keys = [name for name in provenance if name not in ("started", "wall_seconds")]
    grouped = provenance.groupby(keys, dropna=False)
    return grouped.agg(
        n_runs=("wall_seconds", "size"), wall_hours=("wall_seconds", lambda s: s.sum() / 3600), first=("started", "min")
    ).reset_index()


def judge(study: Study, runs: Runs) -> pd.DataFrame:
    """Test every claim of a study that applies at these runs' sizes."""
    at_paper_setup = is_paper_setup(runs) and all(h.config.n_steps == 50_000 for h in runs.headers)
    rows = []
    for claim in study.claims:
        if claim.paper_setup_only and not at_paper_setup:
            continue
        finding = claim.test(runs)
        rows.append((claim.id, claim.statement, claim.source, claim.paper, finding.ours, finding.verdict))
    return pd.DataFrame(rows, columns=["claim", "statement", "source", "paper", "ours", "verdict"])


def compare(values: Sequence[float] | np.ndarray, paper: float, tolerance: float, form: str = ".4f") -> Finding:
    """Compare the mean over seeds with the paper's value, as an equivalence test.

    With the interval mean +- 2 standard errors and the band paper +- tolerance: reproduced if the interval lies in the
    band, differs if they do not touch, inconclusive otherwise (or with fewer than two seeds).
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Finding(_not_enough(values, form), "inconclusive")
    mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    ours = f"{mean:{form}} \N{PLUS-MINUS SIGN} {error:.1g} (standard error, {len(values)} seeds)"
    low, high = mean - 2 * error, mean + 2 * error
    if paper - tolerance <= low and high <= paper + tolerance:
        return Finding(ours, "reproduced")
    if high < paper - tolerance or low > paper + tolerance:
        return Finding(ours, "differs")
    return Finding(ours, "inconclusive")


def share(holds: Sequence[bool], what: str) -> Finding:
    """Judge a claim that each seed either shows or not: reproduced if all do, differs if none does."""
    if len(holds) < 2:
        return Finding(f"{sum(holds)} of {len(holds)} seeds {what}", "inconclusive")
    verdict: Verdict = "reproduced" if all(holds) else "inconclusive" if any(holds) else "differs"
    return Finding(f"{sum(holds)} of {len(holds)} seeds {what}", verdict)


def not_run(what: str) -> Finding:
    """Say that the runs a claim needs are missing."""
    return Finding(f"not run: {what}", "inconclusive")


def _not_enough(values: np.ndarray, form: str) -> str:
    return f"{values[0]:{form}} (one seed)" if len(values) else "not run"
