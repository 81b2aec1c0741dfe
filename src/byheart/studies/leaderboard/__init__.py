"""How well each score ranks memorized examples, against counterfactual truth, on sets and networks of many kinds.

Half of the examples of each task, drawn once, were there to decide on scores and settings; the other half is what is
reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byheart import jobs
from byheart.jobs import JobsError
from byheart.own import check_marked, write_table
from byheart.records import Records
from byheart.studies.leaderboard.cost import cost_of_audit
from byheart.studies.leaderboard.detectors import detection_job, shares_of
from byheart.studies.leaderboard.page import MARK, write_page
from byheart.studies.leaderboard.scores import HELD_OUT_SEED, audit_job, truth
from byheart.studies.leaderboard.tables import tables_of
from byheart.studies.leaderboard.tasks import TASKS
from byheart.studies.study import cost

WITH_DETECTORS = ("mnist-mlp", "mnist-cnn", "fashion-mlp", "fashion-cnn")  # images with their own labels
_BASE = "fashion-wrong-mlp"  # what its variants, fitted otherwise, are compared with
_FEWEST_MODELS = 5  # of which three of five train on each example: in and out of two of them each
OnProgress = Callable[[float, float | None, str], None]


def leaderboard(
    out: Path,
    tasks: Sequence[str] = (),
    *,
    n_models: int = 48,
    n_seeds: int = 2,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Train the models of every task, score them, and write tables and README.md to ``out``.

    Args:
        out: Directory; ``runs/`` in it keeps models and scores, and is gone on from.
        tasks: Names of tasks; default all.
        n_models: Number of models for the truth of each task, at least 5.
        n_seeds: Number of networks that are audited in each task.
        n_workers: Number of processes; default all cores. Audited networks are trained one at a time, on all cores.
        executor: Where to train instead: any ``concurrent.futures.Executor``; it is left running.
        on_progress: Function called with the number of models trained, that of all, and the task.

    Returns:
        The table of rankings: task, target ("memorized" or "wrong label"), score, and the columns of ``ranking``.

    Raises:
        ValueError: If a task is unknown, or ``out`` has networks of other data or settings.
        ModuleNotFoundError, FileNotFoundError: If a dataset or pytorch-ood is missing; the message says how to get it.
        CounterfactualError, JobsError: If networks failed; the others are kept, and the same call tries again.
    """
    for name, value, fewest in (("n_models", n_models, _FEWEST_MODELS), ("n_seeds", n_seeds, 1)):
        if value < fewest:
            raise ValueError(f"{name}: received {value}, accepted: at least {fewest}")
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise ValueError(f"tasks: received {unknown[0]!r}, accepted: {', '.join(TASKS)}")
    chosen = [task for task in TASKS.values() if not tasks or task.name in tasks]
    check_marked(out / "README.md", MARK)
    found: dict[str, dict[str, pd.DataFrame]] = {}
    made_by: list[dict[str, Any]] = []
    base: np.ndarray | None = None
    for number, task in enumerate(chosen):

        def advance(done: int, total: int, first: int = number, name: str = task.name) -> None:
            if on_progress is not None:
                on_progress(first * n_models + done, len(chosen) * n_models, name)

        runs = out / "runs" / task.name
        records = Records(runs)
        models = truth(task, n_models, runs / "models", n_workers=n_workers, executor=executor, on_progress=advance)
        held_out = truth(task, 1, runs / "held-out", seed=HELD_OUT_SEED, n_workers=n_workers, executor=executor)
        mem = models.memorization.mem
        audits = [audit_job(task, seed) for seed in range(n_seeds)]
        detections = [detection_job(task, mem, seed) for seed in range(n_seeds) if task.name in WITH_DETECTORS]
        if failures := jobs.run(audits + detections, records, n_workers=n_workers, executor=executor):
            raise JobsError(failures)
        audited, detected = ([records.read(job.key) for job in own] for own in (audits, detections))
        is_variant = task.name.startswith(f"{_BASE}-")
        found[task.name] = tables_of(models, held_out, audited, base if is_variant else None)
        if detected:
            found[task.name]["detectors"] = pd.concat([shares_of(record) for record in detected])
        base = mem if task.name == _BASE else base
        stores = (Records(runs / name) for name in ("models", "held-out"))
        trained = [store.read(key) for store in stores for key in store.keys()[:n_models]]
        made_by += [json.loads(record.header["provenance"]) for record in trained + audited + detected]
        _write(found, {"provenance": cost(made_by)}, out)
    return _write(found, {"provenance": cost(made_by), "cost": cost_of_audit()}, out)["rankings"]


def _write(
    found: dict[str, dict[str, pd.DataFrame]], more: dict[str, pd.DataFrame], out: Path
) -> dict[str, pd.DataFrame]:
    """Write and return the tables of the tasks measured so far, and the page."""
    tables = {
        name: pd.concat({task: own[name] for task, own in found.items() if name in own}, names=["task"])
        .reset_index("task")
        .reset_index(drop=True)
        for name in dict.fromkeys(name for own in found.values() for name in own)
    } | more
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table, float_format="%.5g")
    write_page(tables, out / "README.md")
    return tables
