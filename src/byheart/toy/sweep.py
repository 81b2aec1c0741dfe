"""A grid of runs: in parallel on the machine's cores, resumable, one file per run.

A run whose file is there is not trained again, so the same call after Ctrl-C, a kill or a power cut goes on where it
stopped; only the runs in flight are lost. The longest runs go first: large ones one at a time across all cores, then
small ones side by side, one core each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byheart import jobs
from byheart.jobs import Job, Report
from byheart.records import Record, Records
from byheart.toy.config import TrainConfig, brief
from byheart.toy.kernels import KERNELS, choose, kernel_for
from byheart.toy.memory import check_memory
from byheart.toy.runs import Runs, read_header
from byheart.toy.saved import check_kernel
from byheart.toy.train import check_threads, train

# From here on, (example, feature) pairs per step keep several cores busy.
_LARGE_PAIRS_PER_STEP = 5_000_000


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why in one line."""

    config: TrainConfig
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands: work is counted in (example, feature) pairs times steps."""

    n_runs: int
    n_finished: int
    work_done: float
    work_total: float
    loss: float | None
    """Train loss last reported by a run in flight."""


OnProgress = Callable[[Progress], None]


class SweepError(RuntimeError):
    """Some runs of a sweep failed; all others are finished and kept.

    Attributes:
        failures: The failed runs.
    """

    def __init__(self, failures: list[Failure]) -> None:
        first = failures[0]
        super().__init__(f"{len(failures)} run(s) failed; the first, {brief(first.config)}: {first.reason}")
        self.failures = failures


def grid(base: TrainConfig, axes: Mapping[str, Sequence[Any]], seeds: Iterable[int] = (0,)) -> list[TrainConfig]:
    """Return the configs of all combinations of the axes' values and seeds, e.g. ``{"n_examples": [3, 5, 10]}``.

    Raises:
        ValueError: If an axis is no field of TrainConfig, a value is outside its range, or batch sizes are to vary at a
            finite T, which has no batches.
    """
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - {"seed"}
    if unknown := set(axes) - fields:
        raise ValueError(f"axes: received {sorted(unknown)}, accepted: {sorted(fields)}")
    if single := [name for name, values in axes.items() if isinstance(values, str) or not isinstance(values, Iterable)]:
        raise ValueError(f"axes: received one value for {single}, accepted: a list of values for each")
    finite = [size for size in axes.get("n_examples", [base.n_examples]) if size != "inf"]
    if finite and len(set(batches := list(axes.get("batch_size", ())))) > 1:
        received = f"received {', '.join(map(str, batches))} with n_examples {finite[0]}"
        raise ValueError(f'batch_size: {received}, accepted: several values only where all n_examples are "inf"')
    # A warm-up that was left to its default follows n_steps.
    follow = "n_steps" in axes and "warmup_steps" not in axes and base.warmup_steps == round(0.05 * base.n_steps)
    fixed: dict[str, Any] = {"warmup_steps": None} if follow else {}
    return [
        dataclasses.replace(base, **fixed, **dict(zip(axes, values, strict=True)), seed=seed)
        for values in itertools.product(*axes.values())
        for seed in seeds
    ]


def sweep(
    configs: Sequence[TrainConfig],
    out: str | Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    kernel: str | None = None,
    n_threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Runs:
    """Train all configs that are not yet in ``out``, and return the runs of all of them.

    Args:
        configs: What to train; ``grid`` makes them.
        out: Directory of the run files, made if missing, or URL of an object store such as "s3://bucket/runs".
        n_workers: Number of cores to use, at least 1; default all.
        executor: Where to train instead: any ``concurrent.futures.Executor``; it is left running.
        kernel: As of ``train``; with "gpu" one model at a time (``kernels.gpu.Batch`` trains many at once).
        n_threads: Most threads of a large run, which has all cores to itself; as of ``train``.
        on_progress: Called a few times a second.

    Raises:
        ValueError: If ``n_workers`` or ``n_threads`` is below 1, the kernel cannot run here or takes no number of
            threads, a run takes more bytes than there is memory, or the header of a run file in the way is damaged.
        OSError: If ``out`` cannot be written.
        SweepError: After all other runs are finished, if some failed.
        KeyboardInterrupt: On Ctrl-C, at once; finished runs are kept.
    """
    store = Records(out)
    by_id = {config.run_id(): config for config in configs}
    missing = {run_id: config for run_id, config in by_id.items() if run_id not in store}
    for run_id in by_id.keys() - missing.keys():
        kept = read_header(store.path(run_id))
        check_kernel(kept.provenance, kernel, kernel_for(kept.config.variant, None), kept.path)
    for name, variant in {(kernel_for(config.variant, kernel), config.variant) for config in missing.values()}:
        choose(name, variant)  # a kernel that cannot run here fails once, not once per run
        check_threads(n_threads, name)
    for config in missing.values() if executor is None else ():  # elsewhere there may be more memory
        check_memory(config)
    if kernel is not None and kernel not in KERNELS:
        raise ValueError(f"kernel: received {kernel!r}, accepted: {', '.join(KERNELS)}")
    one_large_core = kernel is not None and KERNELS[kernel].device == "cuda"
    todo = [
        Job(
            run_id,
            _compute,
            (config, kernel, n_threads),
            cost=_work(config),
            all_cores=one_large_core or _pairs_per_step(config) >= _LARGE_PAIRS_PER_STEP,
        )
        for run_id, config in by_id.items()
    ]

    def report(p: jobs.Progress) -> None:
        assert on_progress is not None
        on_progress(Progress(p.n_jobs, p.n_finished, p.work_done, p.work_total, p.value))

    failures = jobs.run(
        todo, store, n_workers=n_workers, executor=executor, on_progress=None if on_progress is None else report
    )
    if failures:
        raise SweepError([Failure(by_id[failure.job.key], failure.reason) for failure in failures])
    return Runs([read_header(store.path(run_id)) for run_id in by_id])


def _compute(
    config: TrainConfig, kernel: str | None, most_threads: int | None, *, n_threads: int | None, report: Report
) -> Record:
    """Train one config in a worker, on so many threads."""
    name, total = kernel_for(config.variant, kernel), config.n_steps * config.n_inits
    allowed = min((n for n in (n_threads, most_threads) if n is not None), default=None)
    run = train(
        config,
        kernel=name,
        n_threads=allowed if name == "cpu" else None,
        on_progress=lambda steps, loss: report(steps / total, loss),
    )
    return run.to_record()


def _pairs_per_step(config: TrainConfig) -> float:
    rows = config.batch_size if config.n_examples == "inf" else config.n_examples + sum(r - 1 for r in config.repeats)
    return float(rows * config.n_features)


def _work(config: TrainConfig) -> float:
    """Estimate of a run's cost: pairs and parameters touched per step, by width and steps."""
    per_step = _pairs_per_step(config) + 20 * config.n_features
    return per_step * (1 + config.n_hidden) * min(config.n_steps * config.n_inits, 2**62)
