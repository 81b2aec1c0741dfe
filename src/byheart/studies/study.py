"""What a study is: a question, the runs that answer it, claims with verdicts computed from them, and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byheart.studies.readme import setup_and_cost, write_readme
from byheart.toy.config import TrainConfig
from byheart.toy.figures import is_paper_setup, style
from byheart.toy.model import Reduction
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import OnProgress, sweep

Scale = Literal["quick", "medium", "paper"]
Verdict = Literal["reproduced", "differs", "inconclusive"]


N_SEEDS: dict[Scale, int] = {"quick": 2, "medium": 4, "paper": 4}


def setup(scale: Scale, **fields: Any) -> TrainConfig:
    """Return the paper's setup, or below its scale n = 1,000, S = 0.99 and 15,000 steps, with these fields changed.

    References:
        M. Hobbhahn, comment in Henighan et al. 2023 (sizes); the ARENA 3.0 exercise on it (steps).
    """
    small = {"n_features": 1_000, "sparsity": 0.99, "n_steps": 15_000}
    return TrainConfig(**({"n_examples": 3} | ({} if scale == "paper" else small) | fields))


# M. Hobbhahn's comment: n = 1,000 and S = 0.99 in so few steps, at a learning rate that is five times the paper's.
FEW_STEPS: dict[str, Any] = {"n_steps": 3_000, "warmup_steps": 750, "learning_rate": 5e-3}
# A quarter of his n: double descent in half a second a run, for quick scales of many runs.
SMALLEST: dict[str, Any] = {"n_features": 250, "sparsity": 0.96, **FEW_STEPS}
SMALLEST_T = (20, 40, 80, 160, 320, 640)  # to both sides of its bump, for m up to 8

WORDS_OF_REDUCTION: dict[Reduction, str] = {"sum": "squared errors summed", "mean": "squared errors averaged"}


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
    test: Callable[[Any], Finding]
    """Of the runs; in a study of real networks, of its table."""
    paper_setup_only: bool = False
    """Whether the value holds only at the paper's n, S, m and number of steps."""
    refuted_if: str = "our mean, with its interval of two standard errors, lies outside the tolerance"
    """What the runs would have to show for the verdict "differs"."""


@dataclass(frozen=True)
class Study:
    """One question of the paper, its comments or its follow-ups."""

    name: str
    question: str
    configs: Callable[[Scale], list[TrainConfig]]
    claims: Sequence[Claim]
    figures: Callable[[Runs], dict[str, Figure]]
    tables: Callable[[Runs], dict[str, pd.DataFrame]]

    def configs_up_to(self, scale: Scale, max_examples: int | None) -> list[TrainConfig]:
        """Return the configs of a scale, without larger training sets if ``max_examples`` is given."""
        return [
            config
            for config in self.configs(scale)
            if max_examples is None or (config.n_examples != "inf" and config.n_examples <= max_examples)
        ]


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
        scale: "quick" (two minutes on a laptop), "medium" (n = 1,000, more seeds and values) or "paper" (its sizes).
        out: Directory for everything the study leaves.
        max_examples: Leave out larger training sets.
        n_workers: Cores to use; default all.
        on_progress: Called a few times a second while runs are trained.

    Returns:
        The table of verdicts: claim, statement, source, paper, ours, verdict, refuted_if.

    Raises:
        ValueError: If ``max_examples`` leaves nothing to run.
        SweepError: If runs failed; the others are kept, and the same call tries again.
    """
    configs = study.configs_up_to(scale, max_examples)
    if not configs:
        smallest = min(c.n_examples for c in study.configs(scale) if c.n_examples != "inf")
        raise ValueError(
            f"max_examples: received {max_examples}, accepted: at least {smallest}, the study's smallest T"
        )
    runs = sweep(configs, out / "runs", n_workers=n_workers, on_progress=on_progress)
    at_most = "" if max_examples is None else f" --max-examples {max_examples}"
    return write_results(study, f"byheart reproduce {study.name} --scale {scale}{at_most}", runs, out)


def write_results(study: Study, command: str, runs: Runs, out: Path) -> pd.DataFrame:
    """Write tables, figures and README.md of finished runs, made by ``command``, to ``out``; return the verdicts."""
    out.mkdir(parents=True, exist_ok=True)
    runs.table.drop(columns=["snapshot_steps", "data_digest"]).to_csv(
        out / "runs.csv", index=False, float_format="%.7g"
    )
    verdicts, spent, tables = judge(study, runs), cost(runs), study.tables(runs)
    for name, table in {"verdicts": verdicts, "cost": spent, **tables}.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    with style():
        figures = study.figures(runs)
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png")
    names = ["runs", "cost", *tables]
    words = setup_and_cost(runs, spent)
    write_readme(study.name, study.question, command, words, verdicts, list(figures), names, out / "README.md")
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
        rows.append(verdict_row(claim, runs))
    return pd.DataFrame(rows)


def verdict_row(claim: Claim, found: Any) -> dict[str, str]:
    """Test a claim on runs or a table: claim, statement, source, paper, ours, verdict, refuted_if."""
    finding = claim.test(found)
    return {
        "claim": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "paper": claim.paper,
        "ours": finding.ours,
        "verdict": finding.verdict,
        "refuted_if": claim.refuted_if,
    }


def compare(values: Sequence[float] | np.ndarray, paper: float, tolerance: float, form: str = ".4f") -> Finding:
    """Compare the mean over seeds with the paper's value, as an equivalence test.

    With the interval mean +- 2 standard errors and the band paper +- tolerance: reproduced if the interval lies in the
    band, differs if they do not touch, inconclusive otherwise (or with fewer than two seeds).
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Finding(_not_enough(values, form), "inconclusive")
    mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    ours = f"{mean:{form}} \N{PLUS-MINUS SIGN} {one_digit(error)} (standard error, {len(values)} seeds)"
    low, high = mean - 2 * error, mean + 2 * error
    if paper - tolerance <= low and high <= paper + tolerance:
        return Finding(ours, "reproduced")
    if high < paper - tolerance or low > paper + tolerance:
        return Finding(ours, "differs")
    return Finding(ours, "inconclusive")


def compare_curve(
    table: pd.DataFrame, value: str, paper: pd.Series[float], tolerance: float, form: str = ".4f"
) -> Finding:
    """Compare the means of a column at each T with the paper's: reproduced if all are, differs if one does.

    ``paper`` is indexed by T; the T that both have are compared.
    """
    grouped = {float(str(size)): rows.to_numpy() for size, rows in table.groupby("n_examples")[value]}
    both = [size for size in grouped if size in paper.index]
    found = {size: compare(grouped[size], float(paper[size]), tolerance, form) for size in both}
    words = ", ".join(f"{own.ours.split(' (')[0]} ({paper[size]:{form}}) at {size:g}" for size, own in found.items())
    verdicts = {f"{size:g}": own.verdict for size, own in found.items()}
    not_same = {label: ", ".join(t for t, v in verdicts.items() if v == label) for label in ("inconclusive", "differs")}
    return judged(
        f"ours (the paper's): {words}; not surely within {tolerance:g} at: {not_same['inconclusive'] or 'none'};"
        f" surely not at: {not_same['differs'] or 'none'}",
        set(verdicts.values()) == {"reproduced"},
        "differs" in verdicts.values(),
    )


def one_digit(error: float) -> str:
    """Return an error with one significant digit: 0.03, 2e-05, 40."""
    return f"{error:.1g}" if error < 10 else f"{float(f'{error:.1g}'):.0f}"


def share(holds: Sequence[bool], what: str, of: str = "seeds") -> Finding:
    """Judge a claim that each seed (or run) either shows or not: reproduced if all do, differs if none does."""
    ours = f"{sum(holds)} of {len(holds)} {of} {what}"
    return judged(ours, len(holds) > 1 and all(holds), len(holds) > 1 and not any(holds))


@dataclass(frozen=True)
class Bump:
    """The highest mean of a positive quantity along an axis, and how far it stands above the lowest on either side.

    Means, errors and heights are of logarithms, since at a bump datasets differ by factors. Of rows of 7 to 12 values
    that are noise alone, 2 to 6 % have a bump of more than three standard errors with four seeds, 8 to 16 % with two:
    look at the height.
    """

    at: float
    """Where on the axis."""
    mean: float
    """Geometric mean over seeds."""
    error: float
    """Its standard error."""
    height: float
    """In standard errors of the difference, above the higher of the two lowest means; 0 at an end of the axis."""
    where: Literal["inside", "first", "last"]
    """Whether the highest mean is inside the range, or at an end of it."""

    @classmethod
    def along(cls, table: pd.DataFrame, axis: str, value: str = "test_loss") -> Bump | None:
        """Find the bump in a table with a row per run; None with fewer than three values of the axis or one seed."""
        grouped = np.log(table[value]).groupby(table[axis])
        mean, error, at = grouped.mean().to_numpy(), grouped.sem().to_numpy(), list(grouped.groups)
        if len(at) < 3 or grouped.size().min() < 2:
            return None
        peak = int(mean.argmax())
        where: Literal["inside", "first", "last"] = (
            "first" if peak == 0 else "last" if peak == len(at) - 1 else "inside"
        )
        height = 0.0
        if where == "inside":
            beside = int(mean[:peak].argmin()), peak + 1 + int(mean[peak + 1 :].argmin())
            height = min(float((mean[peak] - mean[k]) / math.hypot(error[peak], error[k])) for k in beside)
        highest = math.exp(mean[peak])
        return cls(float(str(at[peak])), highest, highest * float(error[peak]), height, where)

    def __str__(self) -> str:
        words = f"{self.mean:.4g} \N{PLUS-MINUS SIGN} {one_digit(self.error)} at {self.at:g}"
        return f"{words}, {self.height:.1f} standard errors high" if self.where == "inside" else f"{words} (at an end)"


def judge_bump(table: pd.DataFrame, missing: str) -> Finding:
    """Judge that test loss has a bump along T: reproduced above 3 standard errors, differs if it only falls.

    ``missing`` names the runs that are needed.
    """
    bump = Bump.along(table, "n_examples")
    return not_run(missing) if bump is None else judged(str(bump), bump.height > 3, bump.where == "first")


def mean_losses(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the mean test loss over seeds with its standard error, a row per combination of these columns."""
    grouped = table.groupby(by)["test_loss"]
    return grouped.agg(seeds="size", test_loss="mean", test_loss_se="sem").reset_index()


def losses_with(runs: Runs, reduction: Reduction) -> pd.DataFrame:
    """Return the runs with this reduction, with test losses summed over features."""
    table = summed(runs.table)
    return table[table["reduction"] == reduction]


def peaks_by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the highest test loss over T, by seed (rows) and the values of a column (columns)."""
    return table.pivot_table(index="seed", columns=column, values="test_loss", aggfunc="max")


def onsets(table: pd.DataFrame, holds: pd.Series[bool], axis: str = "n_examples") -> pd.Series[float]:
    """Return, by seed, the smallest value of the axis from which on something holds; infinite if not at the largest."""
    found = {}
    for seed, rows in table.assign(holds=holds).sort_values(axis).groupby("seed"):
        lasting = np.logical_and.accumulate(rows["holds"].to_numpy(dtype=bool)[::-1])[::-1]
        found[seed] = float(rows[axis].to_numpy()[lasting.argmax()]) if lasting.any() else math.inf
    return pd.Series(found, dtype=float)


def judged(ours: str, holds: bool, refuted: bool) -> Finding:
    """Judge by two conditions: reproduced if the claim holds, differs if it is refuted, inconclusive if neither."""
    return Finding(ours, "reproduced" if holds else "differs" if refuted else "inconclusive")


def not_run(what: str) -> Finding:
    """Say that the runs a claim needs are missing."""
    return Finding(f"not run: {what}", "inconclusive")


def _not_enough(values: np.ndarray, form: str) -> str:
    return f"{values[0]:{form}} (one seed)" if len(values) else "not run"
