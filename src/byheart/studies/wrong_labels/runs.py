"""Train and audit every network, and rank its examples in all ways that are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from byheart.datasets import Labelled, with_wrong_labels
from byheart.jobs import Job, Report
from byheart.network.audit import audit
from byheart.network.fit import recorded
from byheart.network.log import TrainingLog
from byheart.records import Record, digest
from byheart.studies.study import Scale, run_jobs
from byheart.studies.wrong_labels.networks import DATA, Network, trained

if TYPE_CHECKING:
    from byheart.toy.sweep import OnProgress

RANKINGS = {
    "wrong_label": "wrong_label, with a log",
    "wrong_label_without_log": "wrong_label, one checkpoint",
    "loss": "loss",
    "mean_loss": "mean loss over training",
    "margin": "normalized margin",
    "loss_of_folds": "confidence, three folds",
    "margin_of_folds": "normalized margin, three folds",
    "score": "score of memorization",
}
_BESIDE = {"wrong_label": ("loss", "mean_loss", "margin"), "wrong_label_without_log": ("loss", "margin")}
_SEEDS = (2, 3)
_N_FOLDS = 3
_N_DRAWS = 400  # of the bootstrap
_SLOW = ("ResNet", "BERT")
_CHOSEN = (
    ("digits", "MLP", (60,)),
    ("tabular", "deep MLP", (10, 40)),
    ("MNIST", "MLP", (4, 30)),
    ("Fashion-MNIST", "MLP", (6, 80)),
    ("verses", "MLP", (10,)),
    ("Fashion-MNIST", "CNN", (8, 40)),
    ("verses", "CNN", (15,)),
    ("Fashion-MNIST", "ResNet", (3, 8)),
    ("verses", "BERT", (4, 8)),
)


def groups(scale: Scale) -> dict[str, list[Network]]:
    """The networks on planted wrong labels, and on the same data without."""
    chosen = [(d, k, n) for d, k, lengths in _CHOSEN for n in lengths if scale != "quick" or d in ("digits", "tabular")]
    planted = [Network(data, kind, n_epochs, seed) for seed in _SEEDS for data, kind, n_epochs in chosen]
    clean = [Network(d, k, n, 2, 0.0) for d, k, n in chosen if k not in _SLOW]
    return {"planted": planted, "clean": clean}


def train(
    groups: Mapping[str, list[Network]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, list[tuple[Network, Mapping[str, np.ndarray]]]], list[dict[str, Any]]]:
    """Train and audit all networks, and return what was found of each."""
    todo = {network: _job(network) for own in groups.values() for network in own}
    jobs = list(todo.values())
    records = run_jobs(jobs, directory, n_workers=n_workers, executor=executor, on_progress=on_progress)
    found = {network: records.read(job.key) for network, job in todo.items()}
    by_group = {label: [(network, found[network].arrays) for network in own] for label, own in groups.items()}
    return by_group, [json.loads(record.header["provenance"]) for record in found.values()]


def _job(network: Network) -> Job:
    data = DATA[network.data]()
    identity = {"data": digest(data.inputs, data.labels), "share_wrong": network.share_wrong}
    cost = network.n_epochs * len(data) * (100 if network.kind in _SLOW else 1)
    return Job(network.key, _run, (network,), {**identity, "seed": network.seed}, cost=cost)


def _run(network: Network, *, n_threads: int | None, report: Report) -> Record:
    """What the audit with and without a log finds, and what networks say that were trained without a third of it."""
    with recorded(n_threads) as header:
        data, wrong = with_wrong_labels(DATA[network.data](), network.share_wrong, seed=network.seed)
        log, everything = TrainingLog(len(data)), np.arange(len(data))
        model = trained(network, data, everything, network.seed, log)
        report(1 / _N_FOLDS, 0)
        given = data.inputs, data.labels
        with_log, without = audit(model, given, log=log).table, audit(model, given).table
        of_folds = _of_folds(network, data) if network.share_wrong else np.zeros((2, len(data)))
        loss, margin = _confidences(with_log)
    arrays = {
        "wrong": wrong,
        "answered": (with_log["prediction"] == with_log["label"]).to_numpy(),
        "suspected": (with_log["verdict"] == "suspected wrong label").to_numpy(),
        "other_is_true": with_log["other_label"].to_numpy() == DATA[network.data]().labels,
        "wrong_label": with_log["wrong_label"].to_numpy(),
        "wrong_label_without_log": without["wrong_label"].to_numpy(),
        "mean_loss": with_log["mean_loss"].to_numpy(),
        "score": with_log["score"].to_numpy(),
        "loss": loss,
        "margin": margin,
        "loss_of_folds": of_folds[0],
        "margin_of_folds": of_folds[1],
    }
    return Record(arrays, header)


def _of_folds(network: Network, data: Labelled) -> Float64[np.ndarray, "2 n_examples"]:
    """Confidences of each example in a network that was trained without the third of the data that it is in."""
    fold = np.random.default_rng(network.seed).permutation(np.arange(len(data)) % _N_FOLDS)
    found = np.zeros((2, len(data)))
    for k in range(_N_FOLDS):
        other = trained(network, data, np.flatnonzero(fold != k), 100 + network.seed * _N_FOLDS + k)
        found[:, fold == k] = _confidences(audit(other, (data.inputs, data.labels)).table)[:, fold == k]
    return found


def _confidences(table: pd.DataFrame) -> Float64[np.ndarray, "2 n_examples"]:
    """The loss, and minus the normalized margin: the probability of the label less the largest other one.

    Source: Northcutt et al. 2021, "Confident learning"; Kuan and Mueller 2022 (scores of label quality).
    """
    own = np.exp(-table["loss"].to_numpy())
    return np.stack([table["loss"].to_numpy(), own * (np.exp(-table["margin"].to_numpy()) - 1)])


def tables(groups: Mapping[str, list[tuple[Network, Mapping[str, np.ndarray]]]]) -> dict[str, pd.DataFrame]:
    """Return precision by ranking, differences from the best others, and what the suspects are, by network and seed."""
    precisions, differences, suspects = [], [], []
    for network, arrays in [*groups["planted"], *groups["clean"]]:
        key = {"network": network.name, "seed": network.seed}
        suspects.append(key | {"share_wrong": network.share_wrong} | _of_suspects(arrays))
        if network.share_wrong:
            drawn = _drawn(arrays)
            precisions += [key | {"ranking": name} | _with_interval(values) for name, values in drawn.items()]
            for ours, beside in _BESIDE.items():
                best = max(beside, key=lambda name: float(drawn[name][0]))
                differences.append(key | {"ours": ours, "best": best} | _with_interval(drawn[ours] - drawn[best]))
            folds = max(("loss_of_folds", "margin_of_folds"), key=lambda name: float(drawn[name][0]))
            differences.append(
                key | {"ours": "beside folds", "best": folds} | _with_interval(drawn["wrong_label"] - drawn[folds])
            )
    return {
        "precision": pd.DataFrame(precisions),
        "difference": pd.DataFrame(differences),
        "suspects": pd.DataFrame(suspects),
    }


def _of_suspects(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    wrong, suspected = arrays["wrong"], arrays["suspected"]
    return {
        "n_examples": len(wrong),
        "n_wrong": int(wrong.sum()),
        "answered": arrays["answered"].mean(),
        "wrong_fitted": arrays["answered"][wrong].mean() if wrong.any() else np.nan,
        "n_suspected": int(suspected.sum()),
        "wrong_of_suspected": wrong[suspected].mean() if suspected.any() else np.nan,
        "other_label_is_true": arrays["other_is_true"][wrong].mean() if wrong.any() else np.nan,
    }


def _drawn(arrays: Mapping[str, np.ndarray]) -> dict[str, Float64[np.ndarray, " n_draws"]]:
    """By ranking, the precision at the number of wrong labels: of all examples, then of draws of them."""
    rng, n = np.random.default_rng(0), len(arrays["wrong"])
    draws = [np.arange(n), *rng.integers(0, n, (_N_DRAWS, n))]
    return {
        name: np.array([_precision(arrays[name][draw], arrays["wrong"][draw]) for draw in draws]) for name in RANKINGS
    }


def _precision(ranking: Float64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> float:
    """Of as many first examples as labels are wrong, the share that is."""
    n_wrong = int(wrong.sum())
    first = np.argpartition(-ranking, n_wrong - 1)[:n_wrong]
    return float(wrong[first].mean())


def _with_interval(values: Float64[np.ndarray, " n_draws"]) -> dict[str, float]:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
