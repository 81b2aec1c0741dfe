"""An ensemble: the models of a design, trained, with what each says of every token of every document.

Models are trained in stacks of a fixed size, each stack a job of the shared engine: a stack that is there is not
trained again, and the same seed gives the same bits on one machine, wherever training was interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32

from byheart import jobs
from byheart.jobs import Job, JobsError, Report
from byheart.language.design import Design
from byheart.language.logs import Logs
from byheart.language.rows import in_batches
from byheart.provenance import provenance
from byheart.records import Record, Records, digest

if TYPE_CHECKING:
    import torch

    from byheart.language.model import Transformer

STACK = 8  # models: more side by side gain nothing on a core
_ROWS_PER_BATCH_OF_ANSWERS = 64
_POOL = 8  # batches among which rows of like length are put together


@dataclass(frozen=True)
class EnsembleConfig:
    """How every model of an ensemble is made and trained.

    Raises:
        ValueError: If a number is out of range.
    """

    n_layers: int = 1
    """Layers of each model, at least 1."""
    width: int = 64
    """Entries of the vector that stands for a token; a multiple of n_heads."""
    n_heads: int = 4
    """Heads of the attention, at least 1."""
    n_epochs: int = 16
    """Times that each model reads its documents, at least 1."""
    batch_size: int = 16
    """Rows per step, at least 1."""
    learning_rate: float = 5e-3
    """AdamW's, at its peak, above 0; it rises over the first twentieth of the steps and falls to 0 along a cosine."""
    weight_decay: float = 0.01
    """AdamW's, times the learning rate; at least 0."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "width", "n_heads", "n_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: received {getattr(self, name)}, accepted: an integer >= 1")
        if self.width % self.n_heads:
            raise ValueError(f"width: received {self.width}, accepted: a multiple of n_heads, {self.n_heads}")
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate: received {self.learning_rate}, accepted: a finite number > 0")
        if not 0 <= self.weight_decay < np.inf:
            raise ValueError(f"weight_decay: received {self.weight_decay}, accepted: a finite number >= 0")


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The trained models of a design.

    Attributes:
        design: Who trained on what.
        config: How.
        logs: What every model says of every token.
        training: By name, per model and token, log-probabilities while it was trained on: "first_epoch", and
            "mean_of_epochs"; NaN where the token carried no loss.
        provenance: What made each stack of models.
        store: Where the models are kept.
        name: What their files are called by, if the store holds those of several designs.
    """

    design: Design
    config: EnsembleConfig
    logs: Logs
    training: Mapping[str, Float32[np.ndarray, "n_models n_tokens"]]
    provenance: tuple[Mapping[str, Any], ...]
    store: Path
    name: str = ""

    def model(self, number: int) -> Transformer:
        """Return one of the models, as a torch module.

        Raises:
            ValueError: If there is no such model, or its file is damaged.
        """
        import torch

        from byheart.language.model import Transformer

        if not 0 <= number < self.design.n_models:
            raise ValueError(f"model: received {number}, accepted: 0 to {self.design.n_models - 1}")
        first = number // STACK * STACK
        arrays = Records(self.store).read(_key(self.name, first)).arrays
        parameters = {
            name.removeprefix("parameters."): torch.from_numpy(values[number - first].copy())
            for name, values in arrays.items()
            if name.startswith("parameters.")
        }
        return Transformer(_sizes(self.config, self.design), self.design.documents.vocabulary, parameters)


def train(
    design: Design,
    config: EnsembleConfig | None = None,
    *,
    store: str | Path,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> Ensemble:
    """Train the models of a design, and ask every one about every token of every document.

    Args:
        design: Who trains on what.
        config: Sizes of the models and settings of their training; default ``EnsembleConfig()``.
        store: Directory of the models, made if missing; models that are there are not trained again.
        n_workers: Processes, one core each; default all cores.
        executor: Where to train instead: any ``concurrent.futures.Executor``; it is left running.
        on_progress: Called a few times a second with the models' worth of training that is done, and of all.

    Raises:
        ValueError: If the store holds models of another design or other settings.
        OSError: If the store cannot be written.
        ModuleNotFoundError: If PyTorch is missing.
        JobsError: After all other models are finished, if some failed.
        KeyboardInterrupt: On Ctrl-C, at once; finished stacks are kept.

    References:
        Zhang et al. 2021, "Counterfactual memorization in neural language models", section 3.
    """
    given = {"": (design, config or EnsembleConfig())}
    return train_all(given, store=store, n_workers=n_workers, executor=executor, on_progress=on_progress)[""]


def train_all(
    given: Mapping[str, tuple[Design, EnsembleConfig]],
    *,
    store: str | Path,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> dict[str, Ensemble]:
    """Train the models of several designs, by name, all in one go; otherwise as ``train``."""
    from byheart.language.extras import require

    require("torch")
    records = Records(store)
    todo = {name: _jobs(name, design, config) for name, (design, config) in given.items()}
    work = sum(job.cost for own in todo.values() for job in own)
    n_models = sum(design.n_models for design, _ in given.values())

    def report(progress: jobs.Progress) -> None:
        assert on_progress is not None
        on_progress(n_models * (1 - (progress.work_total - progress.work_done) / work), n_models)

    failures = jobs.run(
        [job for own in todo.values() for job in own],
        records,
        n_workers=n_workers,
        executor=executor,
        on_progress=None if on_progress is None else report,
    )
    if failures:
        raise JobsError(failures)
    return {name: _read(name, *given[name], store, own) for name, own in todo.items()}


def kept(design: Design, config: EnsembleConfig, store: str | Path) -> Ensemble:
    """Return the models that ``train`` left in a directory; nothing is trained.

    Raises:
        ValueError: If one is missing or damaged, or they are of another design or other settings.
    """
    todo, records = _jobs("", design, config), Records(store)
    for job in todo:
        records.check(job.key, job.identity)
    return _read("", design, config, store, todo)


def _read(name: str, design: Design, config: EnsembleConfig, store: str | Path, todo: list[Job]) -> Ensemble:
    made = [Records(store).read(job.key) for job in todo]
    arrays = {own: np.concatenate([record.arrays[own] for record in made]) for own in _PER_TOKEN}
    logs = Logs(arrays.pop("log_probability"), arrays.pop("correct"))
    made_by = tuple(json.loads(record.header["provenance"]) for record in made)
    return Ensemble(design, config, logs, arrays, made_by, Path(store), name)


def _jobs(name: str, design: Design, config: EnsembleConfig) -> list[Job]:
    """A job for each stack of models."""
    stacks = [range(first, min(first + STACK, design.n_models)) for first in range(0, design.n_models, STACK)]
    identity = design.identity | dataclasses.asdict(config)
    weights = design.documents.vocabulary * config.width + 12 * config.n_layers * config.width**2
    return [
        Job(
            _key(name, models[0]),
            _train_stack,
            (design, config, list(models)),
            identity={**identity, "models": [models[0], models[-1]], "bits": _bits(design, models)},
            cost=float(len(models) * config.n_epochs * design.documents.n_tokens * weights),
        )
        for models in stacks
    ]


def _bits(design: Design, models: range) -> str:
    rows = slice(models.start, models.stop)
    return digest(design.document_mask[rows], design.span_mask[rows])


_PER_TOKEN = ("log_probability", "correct", "first_epoch", "mean_of_epochs")


def _key(name: str, first: int) -> str:
    return f"{name}{'-' if name else ''}models-from-{first:04d}"


def _sizes(config: EnsembleConfig, design: Design) -> Any:
    from byheart.language.model import ModelConfig

    return ModelConfig(config.n_layers, config.width, config.n_heads, design.context)


def _train_stack(
    design: Design, config: EnsembleConfig, models: list[int], *, n_threads: int | None, report: Report
) -> Record:
    """Train models side by side in a worker."""
    import torch

    from byheart.language.stacked import Stack, adamw, learning_rate

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    made_by = provenance("torch", n_threads=torch.get_num_threads())
    began = time.perf_counter()
    documents = design.documents
    stack = Stack(_sizes(config, design), documents.vocabulary, [_seed(design.seed, model, 0) for model in models])
    optimizer = adamw(stack, config.weight_decay)
    scale = 1 / (config.batch_size * design.tokens_per_row)  # the same whatever is in or on
    n_tokens = documents.n_tokens
    sums, first = (np.zeros((len(models), n_tokens), dtype=np.float32) for _ in range(2))
    batches = Batches(design, models, config.batch_size)
    n_steps = config.n_epochs * batches.n_steps
    step = 0
    for epoch in range(config.n_epochs):
        for batch in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(step, n_steps, config.learning_rate)
            found = stack.train_on(batch.inputs, batch.where, batch.targets, scale)
            optimizer.step()
            for model, (tokens, values) in enumerate(zip(batch.tokens, found, strict=True)):
                sums[model, tokens] += values.numpy()
                if epoch == 0:
                    first[model, tokens] = values.numpy()
            step += 1
            report(0.97 * step / n_steps, -float(found[0].mean()) if len(found[0]) else 0.0)
    untouched = ~np.stack([design.carries_loss(model) for model in models])
    log_probability, correct = answers(design, stack)
    if not np.isfinite(log_probability).all():
        raise ValueError(f"learning_rate: received {config.learning_rate}, at which training diverges")
    arrays = {
        "log_probability": log_probability,
        "correct": correct,
        "first_epoch": np.where(untouched, np.float32(np.nan), first),
        "mean_of_epochs": np.where(untouched, np.float32(np.nan), sums / config.n_epochs),
        **{f"parameters.{name}": values.detach().numpy() for name, values in stack.weights.items()},
    }
    made_by["wall_seconds"] = time.perf_counter() - began
    return Record(arrays, {"provenance": json.dumps(made_by)})


def _seed(seed: int, model: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, model, stream]).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class Batch:
    """A step's rows of several models."""

    inputs: torch.Tensor
    """Model x row x place: the beginning, then all tokens of the row but the last."""
    where: list[torch.Tensor]
    """Of each model, which places of its rows, all in a line, have targets that carry loss."""
    targets: list[torch.Tensor]
    """Those targets."""
    tokens: list[np.ndarray]
    """Their numbers among the tokens of all documents."""
    rows: list[np.ndarray]
    """Of each model, the numbers of its rows among those of the design."""


class Batches:
    """The batches of several models, side by side; an epoch has as many steps for every model of the design.

    Rows are shuffled, and rows of like length among a few batches are put together, so that little is filled up.
    """

    def __init__(self, design: Design, models: list[int], batch_size: int) -> None:
        self.design, self.models = design, models
        rows = np.array([(design.documents.starts[r.document] + r.start, r.stop - r.start) for r in design.rows])
        self.first, self.length = rows.T
        self.rows = [design.rows_of(model) for model in models]
        self.carries = [design.carries_loss(model) for model in models]
        most = max(len(design.rows_of(model)) for model in range(min(design.n_models, STACK)))
        self.n_steps = max(1, -(-most // batch_size))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, in an order that depends on the seed, the model and the epoch only."""
        shared = np.random.default_rng([self.design.seed, 2, epoch]).permutation(self.n_steps)
        own = [self._in_batches(model, epoch) for model in range(len(self.models))]
        for step in shared:
            yield self._batch([batches[step] for batches in own])

    def _in_batches(self, model: int, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.design.seed, 3, self.models[model], epoch])
        rows = rng.permutation(self.rows[model])
        batches: list[np.ndarray] = []
        pools = np.array_split(np.arange(self.n_steps), -(-self.n_steps // _POOL))
        shares = np.array_split(rows, self.n_steps)
        for pool in pools:
            pooled = np.concatenate([shares[step] for step in pool])
            batches += np.array_split(pooled[np.argsort(self.length[pooled], kind="stable")], len(pool))
        return batches

    def _batch(self, rows: list[np.ndarray]) -> Batch:
        import torch

        longest = max(int(self.length[own].max(initial=1)) for own in rows)
        inputs = np.full((len(rows), max(map(len, rows)), longest), self.design.documents.vocabulary)
        where, targets, tokens = [], [], []
        for model, own in enumerate(rows):
            places = np.arange(longest)
            there = places < self.length[own, None]
            number = np.where(there, self.first[own, None] + places, 0)
            text = self.design.documents.flat[number]
            inputs[model, : len(own), 1:] = np.where(there, text, self.design.documents.vocabulary)[:, :-1]
            carries = (there & self.carries[model][number]).ravel()
            where.append(torch.from_numpy(np.flatnonzero(carries)))
            targets.append(torch.from_numpy(text.ravel()[carries]))
            tokens.append(number.ravel()[carries])
        return Batch(torch.from_numpy(inputs), where, targets, tokens, rows)


def answers(design: Design, stack: Any) -> tuple[Float32[np.ndarray, "n_models n_tokens"], Bool[np.ndarray, ...]]:
    """Return every model's log-probability of every token, and whether it is the most probable one."""
    import torch

    documents = design.documents
    log_probability = np.empty((stack.n_models, documents.n_tokens), dtype=np.float32)
    correct = np.empty(log_probability.shape, dtype=bool)
    for tokens, inputs, there in in_batches(design, design.rows, _ROWS_PER_BATCH_OF_ANSWERS):
        targets = np.zeros_like(inputs)
        targets[there] = documents.flat[tokens]
        found, right = stack.answers(torch.from_numpy(inputs), torch.from_numpy(targets))
        log_probability[:, tokens] = found.numpy()[:, there]
        correct[:, tokens] = right.numpy()[:, there]
    return log_probability, correct
