"""How well each score ranks memorised examples, against counterfactual truth, on sets and networks of many kinds.

Half of the examples of each task, drawn once, were there to decide on scores and settings; the other half is what is
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from byheart.memorization import Memorization, memorization
from byheart.network.calibration import MEMORIZED, calibrate
from byheart.network.counterfactual import Counterfactual
from byheart.network.ranking import best_score
from byheart.network.score_table import SCORES, Evidence
from byheart.records import prepare_directory
from byheart.studies.leaderboard.cost import cost
from byheart.studies.leaderboard.detectors import detection
from byheart.studies.leaderboard.metrics import calibration, follows, ranking
from byheart.studies.leaderboard.page import write_page
from byheart.studies.leaderboard.scores import HELD_OUT_SEED, audited, truth
from byheart.studies.leaderboard.tasks import TASKS, Task

WITH_DETECTORS = ("mnist-mlp", "mnist-cnn", "fashion-mlp", "fashion-cnn")  # images with their own labels
_SET_ASIDE = 10  # models of the truth, to calibrate with one to eight of them
_BASE = "fashion-wrong-mlp"  # what its variants, fitted otherwise, are compared with
_LAYERS = ["the last layer's input"]  # one, so that scores go by their own names
_CHECKPOINT: frozenset[Evidence] = frozenset({"model", "classes", "class_moments", "head"})
_LOG: frozenset[Evidence] = _CHECKPOINT | {"log"}
OnProgress = Callable[[float, float | None, str], None]


def leaderboard(
    out: Path,
    tasks: Sequence[str] = (),
    *,
    n_models: int = 48,
    n_seeds: int = 2,
    n_workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Train the models of every task, score them, and write tables and README.md to ``out``.

    Args:
        out: Directory; ``runs/`` in it keeps models and scores, and is gone on from.
        tasks: Names of tasks; default all.
        n_models: For the truth of each task.
        n_seeds: Networks that are audited in each task.
        n_workers: Processes; default all cores.
        on_progress: Called with the models trained, of all, and the task.

    Returns:
        The table of rankings: task, target ("memorised" or "wrong label"), score, and the columns of ``ranking``.

    Raises:
        ValueError: If a task is unknown.
        ModuleNotFoundError, FileNotFoundError: If a dataset or pytorch-ood is missing; the message says how to get it.
    """
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise ValueError(f"tasks: received {unknown[0]!r}, accepted: {', '.join(TASKS)}")
    chosen = [TASKS[name] for name in tasks or TASKS]
    found: dict[str, _Measured] = {}
    for number, task in enumerate(chosen):

        def advance(done: int, total: int, first: int = number, name: str = task.name) -> None:
            if on_progress is not None:
                on_progress(first * n_models + done, len(chosen) * n_models, name)

        directory = prepare_directory(out / "runs" / task.name)
        models = truth(task, n_models, directory / "models", n_workers=n_workers, on_progress=advance)
        held_out = truth(task, 1, directory / "held-out", seed=HELD_OUT_SEED, n_workers=n_workers)
        found[task.name] = _Measured(task, models, held_out, [audited(task, s, directory) for s in range(n_seeds)])
        if task.name in WITH_DETECTORS:
            mem = models.memorization.mem
            found[task.name].detectors = [detection(task, mem, s, directory) for s in range(n_seeds)]
        _write(found, out, {})
    _write(found, out, {"cost": cost()})
    return pd.concat([measured.rankings for measured in found.values()], ignore_index=True)


class _Measured:
    """A task's truth, and what its scores are worth on the half of the examples that is reported."""

    def __init__(
        self, task: Task, models: Counterfactual, held_out: Counterfactual, tables: list[pd.DataFrame]
    ) -> None:
        self.task = task
        self.truth: Memorization = models.memorization
        self.models = models
        self.report = reported(len(self.truth.mem))
        self.wrong = tables[0]["wrong"].to_numpy(dtype=bool)
        self.scores = _scores(tables)
        without_log = [calibrate(table, _LAYERS, _CHECKPOINT, held_out) for table in tables]
        with_log = [calibrate(table, _LAYERS, _LOG, held_out) for table in tables]
        self.scores["held-out run, checkpoint"] = [table["estimate"].to_numpy() for table in without_log]
        self.scores["held-out run, log"] = [table["estimate"].to_numpy() for table in with_log]
        rows = self.report
        half = {name: [values[rows] for values in by_seed] for name, by_seed in self.scores.items()}
        parts = [
            ("memorised", ranking(half, self.truth.mem[rows] > MEMORIZED)),
            ("wrong label", ranking(half, self.wrong[rows])),
        ]
        parts.append(("memorised", self._ceiling()))
        self.rankings = pd.concat(
            [part.assign(task=task.name, target=target) for target, part in parts if len(part)], ignore_index=True
        )
        self.calibration = pd.DataFrame(
            [
                calibration(calibrated, self.truth, rows, self.wrong).rename(name)
                for name, calibrated in (("checkpoint", without_log), ("log", with_log))
            ]
        )
        self.by_runs = self._by_runs(tables[0])
        self.detectors: list[pd.DataFrame] = []
        self.seconds = pd.DataFrame([table.attrs["seconds"] for table in tables]).mean()

    def _ceiling(self) -> pd.DataFrame:
        """How well one half of the models ranks what the other half finds memorised, where both halves know it."""
        correct, inside = self.models.margins > 0, self.models.train_mask
        halves = np.array_split(np.arange(len(correct)), 2)
        counts = [n for rows in halves for n in (inside[rows].sum(axis=0), (~inside[rows]).sum(axis=0))]
        known = self.report & (np.min(counts, axis=0) >= 2)
        if not known.any():
            return pd.DataFrame()
        found = [memorization(correct[rows][:, known].astype(float), inside[rows][:, known]).mem for rows in halves]
        return ranking({"half of the models of the truth": [found[0]]}, found[1] > MEMORIZED)

    def _by_runs(self, table: pd.DataFrame) -> pd.DataFrame:
        """What calibration is worth by the number of held-out runs: some of the truth's models, beside the others."""
        mask, margins = self.models.train_mask, self.models.margins
        if len(mask) < 2 * _SET_ASIDE:
            return pd.DataFrame()
        others = memorization((margins[_SET_ASIDE:] > 0).astype(float), mask[_SET_ASIDE:])
        rows = []
        for n_runs in (n for n in (1, 2, 4, 8) if n <= _SET_ASIDE):
            firsts = range(0, _SET_ASIDE - n_runs + 1, n_runs)
            runs = [Counterfactual(mask[k : k + n_runs], margins[k : k + n_runs]) for k in firsts]
            found = calibration([calibrate(table, _LAYERS, _LOG, run) for run in runs], others, self.report, self.wrong)
            rows.append({"n_runs": n_runs, **found})
        return pd.DataFrame(rows)


def reported(n_examples: int) -> Bool[np.ndarray, " n_examples"]:
    """Return the half of a task's examples that results are reported on; the other was there to decide on."""
    found: Bool[np.ndarray, " n_examples"] = np.random.default_rng(0).permutation(n_examples) >= n_examples // 2
    return found


def _scores(tables: list[pd.DataFrame]) -> dict[str, list[np.ndarray]]:
    """Every score by name, larger meaning more memorised, of each audited network; without a model first."""
    found = {
        name: [score.sign * table[name].to_numpy() for table in tables]
        for name, score in SCORES.items()
        if name in tables[0]  # words have no curvature
    }
    for name, evidence in (("score, checkpoint", _CHECKPOINT), ("score, log", _LOG)):
        found[name] = [best_score(table, _LAYERS, evidence)[1].to_numpy() for table in tables]
    return found


def _write(found: dict[str, _Measured], out: Path, more: dict[str, pd.DataFrame]) -> None:
    """Write the tables of the tasks measured so far, and the page."""
    rankings = pd.concat([measured.rankings for measured in found.values()], ignore_index=True)
    first = ["task", "target", "score"]
    rankings = rankings[[*first, *(name for name in rankings if name not in first)]]
    calibrations = pd.concat(
        {name: m.calibration for name, m in found.items()}, names=["task", "evidence"]
    ).reset_index()
    sizes = pd.DataFrame(
        [
            {
                "task": name,
                "n_models": len(m.models.margins),
                "memorised": float((m.truth.mem > MEMORIZED).mean()),
                "train_accuracy": float((m.models.margins > 0)[m.models.train_mask].mean()),
                "unseen_accuracy": float((m.models.margins > 0)[~m.models.train_mask].mean()),
                **{f"{part}_seconds": value for part, value in m.seconds.items()},
            }
            for name, m in found.items()
        ]
    )
    tables = {"rankings": rankings, "calibration": calibrations, "tasks": sizes}
    by_runs = [m.by_runs.assign(task=name) for name, m in found.items() if len(m.by_runs)]
    if by_runs:
        together = pd.concat(by_runs, ignore_index=True)
        tables["held-out-runs"] = together[["task", *together.columns.drop("task")]]
    variants = [name for name in found if name.startswith(f"{_BASE}-") and _BASE in found]
    if variants:
        parts = [
            follows(found[name].scores, found[_BASE].truth.mem, found[name].truth.mem).assign(task=name)
            for name in variants
        ]
        judged = [part for part in parts if "score" in part]  # others have too few examples of a kind
        if judged:
            tables["follows"] = pd.concat(judged, ignore_index=True)
    detected = {name: pd.concat(m.detectors) for name, m in found.items() if m.detectors}
    if detected:
        tables["detectors"] = pd.concat(detected, names=["task"]).reset_index("task")
    tables |= more
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    write_page(tables, out / "README.md")
