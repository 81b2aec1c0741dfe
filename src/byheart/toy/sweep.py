"""A grid of runs: in parallel on the machine's cores, resumable, one file per run.

A run whose file is there is not trained again, so the same call after Ctrl-C, a kill or a power cut goes on where it
stopped; only the runs in flight are lost. The longest runs go first: large ones one at a time across all cores, then
small ones side by side, one core each.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from byheart.jobs import process_pool
from byheart.toy.config import TrainConfig
from byheart.toy.kernels import choose
from byheart.toy.runs import SUFFIX, Runs, prepare_directory, read_header
from byheart.toy.train import kernel_of, train

# From here on, (example, feature) pairs per step keep several cores busy.
_LARGE_PAIRS_PER_STEP = 5_000_000
_SECONDS_PER_REPORT = 0.2


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
        ValueError: If an axis is no field of TrainConfig, or a value is outside its range.
    """
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - {"seed"}
    if unknown := set(axes) - fields:
        raise ValueError(f"axes: received {sorted(unknown)}, accepted: {sorted(fields)}")
    if single := [name for name, values in axes.items() if isinstance(values, str) or not isinstance(values, Iterable)]:
        raise ValueError(f"axes: received one value for {single}, accepted: a list of values for each")
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
    kernel: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Runs:
    """Train all configs that are not yet in ``out``, and return the runs of all of them.

    Args:
        configs: What to train; ``grid`` makes them.
        out: Directory of the run files, made if missing.
        n_workers: Cores to use, at least 1; default all.
        kernel: "cpu", "gpu" (one model at a time; ``kernels.gpu.Batch`` trains many at once) or "reference".
        on_progress: Called a few times a second.

    Raises:
        ValueError: If ``n_workers`` is below 1, the kernel cannot run here, or the header of a run file in the way is
            damaged.
        OSError: If ``out`` cannot be written.
        SweepError: After all other runs are finished, if some failed.
        KeyboardInterrupt: On Ctrl-C, at once; finished runs are kept.
    """
    n_workers = n_workers if n_workers is not None else numba.config.NUMBA_NUM_THREADS
    if n_workers < 1:
        raise ValueError(f"n_workers: received {n_workers}, accepted: an integer >= 1")
    out = prepare_directory(out)
    paths = {config.run_id(): out / (config.run_id() + SUFFIX) for config in configs}
    jobs = {config.run_id(): config for config in configs}
    for run_id in [run_id for run_id, path in paths.items() if path.exists()]:
        read_header(paths[run_id])
        del jobs[run_id]
    for name, variant in {(kernel_of(config, kernel), config.variant) for config in jobs.values()}:
        choose(name, variant)  # a kernel that cannot run here fails once, not once per run
    longest_first = sorted(jobs.values(), key=_work, reverse=True)
    least = 0 if kernel == "gpu" else _LARGE_PAIRS_PER_STEP  # a GPU is one large core
    large = [config for config in longest_first if _pairs_per_step(config) >= least]
    small = [config for config in longest_first if _pairs_per_step(config) < least]
    with tempfile.TemporaryDirectory(prefix="byheart-") as directory:
        board = _Board(Path(directory) / "progress", longest_first, len(paths), on_progress)
        failures = _train_all(large, out, 1, n_workers, kernel, board)
        failures += _train_all(small, out, n_workers, 1, kernel, board)
    if failures:
        raise SweepError(failures)
    return Runs([read_header(path) for path in paths.values()])


class _Board:
    """Where the workers write how far their runs are: a memory-mapped file, so that no lock dies with a worker."""

    def __init__(self, path: Path, configs: list[TrainConfig], n_runs: int, on_progress: OnProgress | None) -> None:
        self.path, self.n_runs, self.on_progress = path, n_runs, on_progress
        self.rows = {config.run_id(): row for row, config in enumerate(configs)}
        self.work = np.array([_work(config) for config in configs])
        self.values = np.memmap(path, np.float64, "w+", shape=(max(len(configs), 1), 2))  # fraction done, loss
        self.n_ended = n_runs - len(configs)
        self.report()

    def started(self, config: TrainConfig) -> bool:
        return bool(self.values[self.rows[config.run_id()], 0] > 0)

    def end(self, config: TrainConfig) -> None:
        self.values[self.rows[config.run_id()], 0] = 1
        self.n_ended += 1

    def report(self) -> None:
        if self.on_progress is None:
            return
        fractions, losses = self.values[: len(self.work)].T
        in_flight = losses[(fractions > 0) & (fractions < 1) & (losses > 0)]
        loss = float(in_flight[0]) if in_flight.size else None
        done = float((self.work * fractions).sum())
        self.on_progress(Progress(self.n_runs, self.n_ended, done, float(self.work.sum()), loss))


def _train_all(
    configs: list[TrainConfig], out: Path, n_workers: int, n_threads: int, kernel: str, board: _Board
) -> list[Failure]:
    """Train the configs in worker processes. If a worker is killed, each run in flight is tried once more, alone."""
    failures: list[Failure] = []
    crashes: Counter[TrainConfig] = Counter()
    while configs:
        suspects = [config for config in configs if crashes[config]]
        batch, configs = suspects or configs, [config for config in configs if suspects and not crashes[config]]
        size = 1 if suspects else min(n_workers, len(batch))
        executor = process_pool(size, _start_worker, (n_threads,))
        try:
            futures = {
                executor.submit(
                    _train_one, config, out, kernel, board.path, board.rows[config.run_id()], os.getpid()
                ): config
                for config in batch
            }
            while futures:
                ended, _ = wait(futures, timeout=_SECONDS_PER_REPORT, return_when=FIRST_COMPLETED)
                for future in ended:
                    config = futures.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        crashes[config] += board.started(config) or not any(map(board.started, batch))
                        if crashes[config] < 2:
                            board.values[board.rows[config.run_id()]] = 0
                            configs.append(config)
                            continue
                        failures.append(Failure(config, "its process was killed twice (out of memory?)"))
                    elif isinstance(error, OSError):  # the disk, not the run: the others would fail as well
                        raise error
                    elif error is not None:
                        failures.append(Failure(config, str(error)))
                    board.end(config)
                board.report()
        finally:
            executor.shutdown(kill_workers=True)
    return failures


def _start_worker(n_threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))


def _train_one(config: TrainConfig, out: Path, kernel: str, board: Path, row: int, parent: int) -> None:
    values = np.memmap(board, np.float64, "r+")
    values[2 * row] = 1e-12
    total = config.n_steps * config.n_inits

    def report(steps: int, loss: float) -> None:
        if os.getppid() != parent:  # the parent was killed: do not train on unseen
            os._exit(1)
        values[2 * row : 2 * row + 2] = min(max(steps / total, 1e-12), 1 - 1e-12), loss

    train(config, kernel=kernel, out=out, on_progress=report)


def _pairs_per_step(config: TrainConfig) -> float:
    rows = config.batch_size if config.n_examples == "inf" else config.n_examples + sum(r - 1 for r in config.repeats)
    return float(rows * config.n_features)


def _work(config: TrainConfig) -> float:
    """Estimate of a run's cost: pairs and parameters touched per step, by width and steps."""
    per_step = _pairs_per_step(config) + 20 * config.n_features
    return per_step * (1 + config.n_hidden) * config.n_steps * config.n_inits


def brief(config: TrainConfig) -> str:
    """Return the fields of a config that differ from the defaults, in one line."""
    default = TrainConfig(n_examples=config.n_examples, n_steps=config.n_steps)
    named = {"n_examples", "seed"} | {n for n, v in config.to_dict().items() if v != getattr(default, n)}
    return ", ".join(f"{name}={value}" for name, value in config.to_dict().items() if name in named)
