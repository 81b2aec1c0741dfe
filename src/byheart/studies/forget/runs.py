"""The models of a seed: trained side by side, each arm with other tokens that carry loss, then edited, then taught."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from byheart.jobs import Job, Report
from byheart.language.collate import IGNORED
from byheart.language.design import Design, Place
from byheart.language.ensemble import Batches, EnsembleConfig
from byheart.language.forget import goldfish, gradient_ascent, relearn, sinks
from byheart.language.kfac import curvature
from byheart.language.labelled import recitation
from byheart.provenance import provenance
from byheart.records import Record
from byheart.studies.forget.design import Setting, design_of, of_first_copies, sequences
from byheart.studies.study import Scale, run_jobs
from byheart.toy.sweep import OnProgress

TRAINED = (
    "plain",
    "span mask",
    "span mask, other seed",
    "deduplication",
    "near-deduplication",
    "goldfish loss",
    "weight decay 0.3",
    "weight decay 1",
    "sinks 0.25",
    "sinks 0.5",
)
KEPT = (0.99, 0.95, 0.9, 0.8, 0.6, 0.4)  # shares of the curvature
ASCENT, ASCENT_RETAINING = "gradient ascent", "gradient ascent, retaining"
ASCENT_EARLY = "gradient ascent, stopped early"
EDITED = (ASCENT, ASCENT_RETAINING, ASCENT_EARLY, *(f"K-FAC edit {keep:g}" for keep in KEPT))
ARMS = (*TRAINED, *EDITED)
_DECAY = {"weight decay 0.3": 0.3, "weight decay 1": 1.0}
SINKS = {"sinks 0.25": 0.25, "sinks 0.5": 0.5}  # share of the neurons; a quarter of them is active in a document
_LIKE = {"span mask, other seed": 1}  # first parameters and order; all others have those of the plain model
_CURVATURE_ROWS = 400
_ASCENT_RATE, _RELEARN_RATE, _MAX_STEPS = 1e-4, 3e-4, 300

_SETTINGS: dict[Scale, list[Setting]] = {
    "quick": [
        Setting(seed, n_verses=200, n_spans=12, n_epochs=10, n_held_out=80, width=32, n_layers=1, n_relearned=3)
        for seed in range(2)
    ],
    "medium": [Setting(seed) for seed in range(4, 9)],  # 0 to 3 chose copies and epochs
    "paper": [Setting(seed, n_verses=4_000, n_spans=48, n_held_out=1_000) for seed in range(8)],
}


def groups(scale: Scale) -> dict[str, list[Setting]]:
    """Return the settings of a scale: one per seed."""
    return {"seeds": _SETTINGS[scale]}


def train(
    groups: Mapping[str, list[Setting]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, dict[Setting, Record]], list[dict[str, Any]]]:
    """Train, edit and teach the models of all seeds, and return what each says."""
    todo = {setting: _job(setting) for own in groups.values() for setting in own}
    jobs = list(todo.values())
    records = run_jobs(jobs, directory, n_workers=n_workers, executor=executor, on_progress=on_progress)
    made = {setting: records.read(job.key) for setting, job in todo.items()}
    found = {label: {setting: made[setting] for setting in own} for label, own in groups.items()}
    return found, [json.loads(record.header["provenance"]) for record in made.values()]


def _job(setting: Setting) -> Job:
    identity = dataclasses.asdict(setting) | {"arms": list(ARMS), "rates": [_ASCENT_RATE, _RELEARN_RATE]}
    work = setting.n_epochs * (setting.n_verses + setting.n_spans * setting.n_copies) * setting.width**2
    return Job(f"seed-{setting.seed:04d}", _of_seed, (setting,), identity=identity, cost=float(work))


def _of_seed(setting: Setting, *, n_threads: int | None, report: Report) -> Record:
    """Make the models of all arms in a worker, and ask each about spans and verses that are held out."""
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    made_by = provenance("torch", n_threads=torch.get_num_threads())
    began = time.perf_counter()
    design = design_of(setting)
    spans = [_row(design, span.measured[0]) for span in design.spans]
    n_first, every = len(design.documents) - setting.n_held_out, list(enumerate(design.documents.tokens))
    held_out, verses = (
        [_row(design, Place(document, 0, min(len(tokens), design.context - 1))) for document, tokens in own]
        for own in (every[n_first:], every[: setting.n_verses])
    )
    parameters, active = _trained(setting, design, lambda done, loss: report(0.6 * done, loss))
    shared = {arm: np.asarray(active[arm].all(axis=0)) for arm in TRAINED}
    models = {arm: _causal(setting, design, _only(parameters[arm], shared[arm])) for arm in TRAINED}
    models |= _edited(models["plain"], design, spans, verses)
    chosen = _relearned(design, setting)
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in ("log_probability", "recited", "held_out", "steps")}
    for done, arm in enumerate(ARMS):
        said = recitation(models[arm], spans)
        arrays["log_probability"].append((said["log_probability"] / said["n_tokens"]).to_numpy())
        arrays["recited"].append(said["recited"].to_numpy())
        told = recitation(models[arm], held_out, batch_size=32)
        arrays["held_out"].append(told["log_probability"].to_numpy())
        steps = np.full(len(spans), np.nan)
        steps[chosen] = relearn(
            models[arm], [spans[i] for i in chosen], learning_rate=_RELEARN_RATE, max_steps=_MAX_STEPS
        )
        arrays["steps"].append(steps)
        report(0.7 + 0.3 * (done + 1) / len(ARMS), 0.0)
    found = {name: np.stack(values) for name, values in arrays.items()}
    found["recited_with_sinks"] = np.full((len(ARMS), len(spans)), np.nan)
    for arm in SINKS:
        for i, (span, row) in enumerate(zip(design.spans, spans, strict=True)):
            with_its_own = _only(parameters[arm], active[arm][span.measured[0].document])
            said = recitation(_causal(setting, design, with_its_own), [row])
            found["recited_with_sinks"][ARMS.index(arm), i] = said["recited"].item()
    found["n_tokens"] = told["n_tokens"].to_numpy()
    made_by["wall_seconds"] = time.perf_counter() - began
    return Record(found, {"provenance": json.dumps(made_by)})


def _row(design: Design, place: Place) -> dict[str, np.ndarray]:
    """What precedes a place in its document, and its tokens, which alone have labels."""
    tokens = design.documents.tokens[place.document][: place.stop]
    labels = np.where(np.arange(place.stop) >= place.start, tokens, IGNORED)
    return {"input_ids": np.append(design.documents.vocabulary, tokens), "labels": np.append(IGNORED, labels)}


def _relearned(design: Design, setting: Setting) -> np.ndarray:
    """Spans that are taught again: the first exact ones, on and off in the plain model."""
    exact = np.array([span.kind == "exact" for span in design.spans])
    on = design.span_mask[0]
    found: np.ndarray = np.concatenate([np.flatnonzero(exact & side)[: setting.n_relearned] for side in (on, ~on)])
    return found


def loss_masks(design: Design) -> dict[str, Bool[np.ndarray, " n_tokens"]]:
    """Return, for each arm that is trained, which tokens carry loss."""
    plain = design.carries_loss(0)
    oracle = design.document_mask[0][design.documents.document_of] & (design.span_of < 0)
    masks = dict.fromkeys(TRAINED, plain) | {"span mask": oracle, "span mask, other seed": oracle}
    masks["deduplication"] = plain & of_first_copies(design, near=False)
    masks["near-deduplication"] = plain & of_first_copies(design, near=True)
    masks["goldfish loss"] = plain & goldfish(design.documents)
    return masks


def _trained(
    setting: Setting, design: Design, report: Report
) -> tuple[dict[str, dict[str, Any]], dict[str, Bool[np.ndarray, "n_documents n_neurons"]]]:
    """Return the parameters of each arm, and which neurons were active in each document."""
    import torch

    from byheart.language.stacked import Stack, adamw, learning_rate

    config, sizes = EnsembleConfig(setting.n_layers, setting.width, n_epochs=setting.n_epochs), _sizes(setting, design)
    like = [2 * setting.seed + _LIKE.get(arm, 0) for arm in TRAINED]
    stack = Stack(sizes, design.documents.vocabulary, like)
    optimizer = adamw(stack, weight_decay=0.0)
    decay = [_DECAY.get(arm, config.weight_decay) for arm in TRAINED]
    active = _active(setting, design)
    batches = Batches(design, [0] * len(TRAINED), config.batch_size)
    batches.models = like  # seeds of their orders
    batches.carries = list(loss_masks(design).values())
    document_of = np.array([row.document for row in design.rows])
    scale = 1 / (config.batch_size * design.tokens_per_row)
    n_steps, step = config.n_epochs * batches.n_steps, 0
    for epoch in range(config.n_epochs):
        for batch in batches.epoch(epoch):
            rate = learning_rate(step, n_steps, config.learning_rate)
            optimizer.param_groups[0]["lr"] = rate
            neurons = torch.ones(*batch.inputs.shape[:2], 4 * setting.width)
            for model, arm in enumerate(TRAINED):
                if arm in SINKS:
                    own = active[arm][document_of[batch.rows[model]]]
                    neurons[model, : len(own)] = torch.from_numpy(own).float()
            said = stack.train_on(batch.inputs, batch.where, batch.targets, scale, neurons)
            _shrink(stack, [1 - rate * own for own in decay])  # as AdamW does: each model has its own
            optimizer.step()
            step += 1
            report(step / n_steps, -float(said[0].mean()) if len(said[0]) else 0.0)
    return {arm: stack.parameters_of(model) for model, arm in enumerate(TRAINED)}, active


def _active(setting: Setting, design: Design) -> dict[str, Bool[np.ndarray, "n_documents n_neurons"]]:
    """Which neurons of every hidden layer each arm uses in each document: all, but for sinks of other documents."""
    names, n_neurons = sequences(design), 4 * setting.width
    every: np.ndarray = np.ones((len(names), n_neurons), dtype=bool)
    return {arm: sinks(names, n_neurons, share=SINKS[arm]) if arm in SINKS else every for arm in TRAINED}


def _only(parameters: Mapping[str, Any], neurons: Bool[np.ndarray, " n_neurons"]) -> dict[str, Any]:
    """Parameters without what other neurons read and write; without either, training cannot bring them back."""
    import torch

    kept = torch.from_numpy(neurons)
    read, written = parameters["hidden_in"] * kept, parameters["hidden_out"] * kept[:, None]
    return {**parameters, "hidden_in": read, "hidden_out": written}


def _sizes(setting: Setting, design: Design) -> Any:
    from byheart.language.model import ModelConfig

    return ModelConfig(setting.n_layers, setting.width, EnsembleConfig().n_heads, design.context)


def _causal(setting: Setting, design: Design, parameters: Mapping[str, Any]) -> Any:
    from byheart.language.causal import Causal
    from byheart.language.model import Transformer

    return Causal(Transformer(_sizes(setting, design), design.documents.vocabulary, dict(parameters)))


def _shrink(stack: Any, factors: list[float]) -> None:
    import torch

    with torch.no_grad():
        for values in stack.weights.values():
            for own, factor in zip(values, factors, strict=True):
                own.mul_(factor)


def _edited(plain: Any, design: Design, spans: list[Any], verses: list[Any]) -> dict[str, Any]:
    """Edit the plain model: of spans, ascent is told which are on; the K-FAC edit sees verses only."""
    exact = np.array([span.kind == "exact" for span in design.spans])
    on = design.span_mask[0]
    learned = [spans[i] for i in np.flatnonzero(on)]
    unknown = recitation(plain, [spans[i] for i in np.flatnonzero(exact & ~on)])
    until = float(unknown["log_probability"].sum() / unknown["n_tokens"].sum())
    found = {
        arm: gradient_ascent(plain, learned, retain=retain, until=stop, learning_rate=_ASCENT_RATE)[0]
        for arm, retain, stop in ((ASCENT, (), until), (ASCENT_RETAINING, verses, until), (ASCENT_EARLY, (), None))
    }
    measured = curvature(plain, verses[:_CURVATURE_ROWS])
    found |= {f"K-FAC edit {keep:g}": measured.edited(plain, keep)[0] for keep in KEPT}
    return found


def tables(groups: Mapping[str, Mapping[Setting, Record]]) -> dict[str, pd.DataFrame]:
    """Return a row for each seed, arm and kind of copies."""
    rows = []
    for setting, record in groups["seeds"].items():
        design, arrays = design_of(setting), record.arrays
        kinds, on = np.array([span.kind for span in design.spans]), design.span_mask[0]
        loss = -arrays["held_out"].sum(axis=1) / arrays["n_tokens"].sum()
        oracle = arrays["log_probability"][ARMS.index("span mask")]
        for number, arm in enumerate(ARMS):
            for kind in ("exact", "near-copies"):
                learned, never = (kinds == kind) & on, (kinds == kind) & ~on
                row: dict[str, Any] = {"seed": setting.seed, "arm": arm, "kind": kind}
                row |= {"n_on": int(learned.sum()), "n_off": int(never.sum())}
                for side, spans in (("on", learned), ("off", never)):
                    row[f"recited_{side}"] = _mean(arrays["recited"][number, spans])
                    row[f"log_probability_{side}"] = _mean(arrays["log_probability"][number, spans])
                    steps = arrays["steps"][number, spans]
                    row[f"steps_{side}"] = _mean(np.minimum(steps[~np.isnan(steps)], _MAX_STEPS))
                row["recited_with_sinks"] = _mean(arrays["recited_with_sinks"][number, learned])
                row["distance"] = _mean(np.abs(arrays["log_probability"][number] - oracle)[learned])
                row |= {"held_out": loss[number], "rise": np.exp(loss[number] - loss[0]) - 1}
                rows.append(row)
    return {"arms": pd.DataFrame(rows), "setting": pd.DataFrame([dataclasses.asdict(s) for s in groups["seeds"]])}


def _mean(values: np.ndarray) -> float:
    """The mean; NaN of none."""
    return float(values.mean()) if len(values) else float("nan")
