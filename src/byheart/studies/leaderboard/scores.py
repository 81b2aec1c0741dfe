"""Every score of one audited network of a task, and what each cost: a job."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from byheart.geometry import maximal_dimensionality
from byheart.jobs import Job, Report
from byheart.network.audit import audit
from byheart.network.baselines import kernel_leave_one_out, neighbour_disagreement
from byheart.network.counterfactual import Counterfactual, counterfactual
from byheart.network.fit import recorded
from byheart.network.layers import watched
from byheart.network.log import TrainingLog
from byheart.records import Record, digest
from byheart.studies.leaderboard.tasks import Task, bags_of_words

HELD_OUT_SEED = 1_000_000  # of the one held-out run, which is not among the models of the truth


def audit_job(task: Task, seed: int) -> Job:
    """Return the job of training a network of a task on all its data and auditing it; see ``table_of``.

    It has the machine to itself, since its parts are timed.
    """
    data, _, fit = task.load()
    identity = {"dataset": digest(data.inputs, data.labels), "settings": fit.settings, "seed": seed}
    return Job(f"audit-{seed}", _audit, (task, seed), identity, all_cores=True)


def table_of(record: Record) -> pd.DataFrame:
    """Return every score of every example from a record, and which labels are ``wrong``; ``seconds`` has its header."""
    return pd.DataFrame(dict(record.arrays))


def _audit(task: Task, seed: int, *, n_threads: int | None, report: Report) -> Record:
    """Every score of every example, and the seconds that each part took."""
    data, wrong, fit = task.load()
    given = data.inputs, data.labels
    everything = np.arange(len(data))
    seconds: dict[str, float] = {}
    states: list[dict[str, Any]] = []
    log = TrainingLog(len(data))
    with recorded(n_threads) as header:
        with _timed(seconds, "training"):
            model = fit(everything, seed)
        with _timed(seconds, "log"):
            fit(everything, seed, log)
        seconds["log"] = max(seconds["log"] - seconds["training"], 0.0)
        fit(everything, seed, on_epoch=lambda then: states.append(copy.deepcopy(then.state_dict())))
        with _timed(seconds, "audit"):
            table = audit(model, given, log=log).table.drop(columns=["score", "flagged"])
        with _timed(seconds, "dimensionality"):
            maximal_dimensionality(_hidden(model, data.inputs))
        if data.inputs.dtype.kind == "f":
            with _timed(seconds, "curvature"):
                table["input_curvature"] = audit(model, given, curvature=True).table["input_curvature"]
            seconds["curvature"] = max(seconds["curvature"] - seconds["audit"], 0.0)
        with _timed(seconds, "checkpoints"):
            found = audit(model, given, checkpoints=states[1:]).table
        table["mean_residual_dimensionality"] = found["mean_residual_dimensionality"]
        inputs = data.inputs if data.inputs.dtype.kind == "f" else bags_of_words(data.inputs)
        with _timed(seconds, "neighbour_disagreement"):
            table["neighbour_disagreement"] = neighbour_disagreement(inputs, data.labels)
        with _timed(seconds, "kernel_leave_one_out"):
            table["kernel_leave_one_out"] = kernel_leave_one_out(inputs, data.labels)
    arrays = {name: table[name].to_numpy() for name in table if name != "verdict"} | {"wrong": wrong}
    return Record(arrays, header | {"seconds": json.dumps(seconds)})


def truth(task: Task, n_models: int, directory: Path, **options: Any) -> Counterfactual:
    """Return the models of a task that were each trained on 60 % of its data; options as of ``counterfactual``.

    Copies are in or out one by one, as in the paper.
    """
    data, _, fit = task.load()
    return counterfactual(fit, (data.inputs, data.labels), n_models, store=directory, groups=False, **options)


def _hidden(model: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """What the last linear layer reads."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    with watched(model, [f"{head}.input"]) as seen, torch.no_grad():
        model(torch.as_tensor(inputs))
    found: np.ndarray = seen[f"{head}.input"][0].numpy()
    return found


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
