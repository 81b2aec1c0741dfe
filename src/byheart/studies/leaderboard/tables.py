"""What the scores of a task's audited networks are worth, on the half of its examples that is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from byheart.memorization import memorization
from byheart.network.calibration import MEMORIZED, calibrate
from byheart.network.counterfactual import Counterfactual
from byheart.network.ranking import best_score
from byheart.network.score_table import SCORES, Evidence
from byheart.records import Record
from byheart.studies.leaderboard.metrics import calibration, follows, ranking
from byheart.studies.leaderboard.scores import table_of

_SET_ASIDE = 10  # models of the truth, to calibrate with one to eight of them
_LAYERS = ["the last layer's input"]  # one, so that scores go by their own names
_CHECKPOINT: frozenset[Evidence] = frozenset({"model", "classes", "class_moments", "head"})
_EVIDENCE: dict[str, frozenset[Evidence]] = {"checkpoint": _CHECKPOINT, "log": _CHECKPOINT | {"log"}}


def tables_of(
    models: Counterfactual,
    held_out: Counterfactual,
    audited: Sequence[Record],
    base: Float64[np.ndarray, " n_examples"] | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the tables of a task by name, without those that have no rows.

    Args:
        models: Models of the truth.
        held_out: The one run that scores are calibrated with.
        audited: Records of the audited networks.
        base: Memorization of the same examples by a network that was fitted otherwise.
    """
    tables = [table_of(record) for record in audited]
    truth, wrong = models.memorization, tables[0]["wrong"].to_numpy(dtype=bool)
    rows = reported(len(wrong))
    calibrated = {
        name: [calibrate(table, _LAYERS, evidence, held_out) for table in tables]
        for name, evidence in _EVIDENCE.items()
    }
    scores = _scores(tables)
    for name, own in calibrated.items():
        scores[f"held-out run, {name}"] = [table["estimate"].to_numpy() for table in own]
    half = {name: [values[rows] for values in by_seed] for name, by_seed in scores.items()}
    rankings = {
        "memorized": pd.concat([ranking(half, truth.mem[rows] > MEMORIZED), _ceiling(models, rows)]),
        "wrong label": ranking(half, wrong[rows]),
    }
    right, seconds = models.margins > 0, [json.loads(record.header["seconds"]) for record in audited]
    size = {
        "n_models": len(right),
        "memorized": (truth.mem > MEMORIZED).mean(),
        "train_accuracy": right[models.train_mask].mean(),
        "unseen_accuracy": right[~models.train_mask].mean(),
        **pd.DataFrame(seconds).mean().add_suffix("_seconds"),
    }
    found = {
        "rankings": pd.concat({t: part for t, part in rankings.items() if len(part)}, names=["target"]).reset_index(0),
        "calibration": pd.DataFrame(
            [{"evidence": name, **calibration(own, truth, rows, wrong)} for name, own in calibrated.items()]
        ),
        "tasks": pd.DataFrame([size]),
        "held-out-runs": _by_runs(models, tables[0], rows, wrong),
        "follows": pd.DataFrame() if base is None else follows(scores, base, truth.mem),
    }
    return {name: table for name, table in found.items() if len(table)}


def reported(n_examples: int) -> Bool[np.ndarray, " n_examples"]:
    """Return the half of a task's examples that results are reported on; the other was there to decide on."""
    found: Bool[np.ndarray, " n_examples"] = np.random.default_rng(0).permutation(n_examples) >= n_examples // 2
    return found


def _scores(tables: list[pd.DataFrame]) -> dict[str, list[np.ndarray]]:
    """Every score by name, larger meaning more memorized, of each audited network; without a model first."""
    found = {
        name: [score.sign * table[name].to_numpy() for table in tables]
        for name, score in SCORES.items()
        if name in tables[0]  # words have no curvature
    }
    for name, evidence in _EVIDENCE.items():
        found[f"score, {name}"] = [best_score(table, _LAYERS, evidence)[1].to_numpy() for table in tables]
    return found


def _ceiling(models: Counterfactual, rows: np.ndarray) -> pd.DataFrame:
    """How well one half of the models ranks what the other half finds memorized, where both halves know it."""
    correct, inside = models.margins > 0, models.train_mask
    halves = np.array_split(np.arange(len(correct)), 2)
    counts = [n for half in halves for n in (inside[half].sum(axis=0), (~inside[half]).sum(axis=0))]
    known = rows & (np.min(counts, axis=0) >= 2)
    if not known.any():
        return pd.DataFrame()
    found = [memorization(correct[half][:, known].astype(float), inside[half][:, known]).mem for half in halves]
    return ranking({"half of the models of the truth": [found[0]]}, found[1] > MEMORIZED)


def _by_runs(models: Counterfactual, table: pd.DataFrame, rows: np.ndarray, wrong: np.ndarray) -> pd.DataFrame:
    """What calibration is worth by the number of held-out runs: some of the truth's models, beside the others."""
    mask, margins = models.train_mask, models.margins
    if len(mask) < 2 * _SET_ASIDE:
        return pd.DataFrame()
    others = memorization((margins[_SET_ASIDE:] > 0).astype(float), mask[_SET_ASIDE:])
    found = []
    for n_runs in (n for n in (1, 2, 4, 8) if n <= _SET_ASIDE):
        firsts = range(0, _SET_ASIDE - n_runs + 1, n_runs)
        runs = [Counterfactual(mask[k : k + n_runs], margins[k : k + n_runs]) for k in firsts]
        calibrated = [calibrate(table, _LAYERS, _EVIDENCE["log"], run) for run in runs]
        found.append({"n_runs": n_runs, **calibration(calibrated, others, rows, wrong)})
    return pd.DataFrame(found)
