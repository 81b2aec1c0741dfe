"""The one engine that computes many results: a job = one record, on the machine's cores or on any executor.

A job whose record is there is not computed again, so the same call after Ctrl-C, a kill or a power cut goes on where it
stopped; only the jobs in flight are lost. The longest go first. The engine knows nothing of what a job computes.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from byheart.records import Identity, Record, Records
from byheart.storage import prepare_directory

_SECONDS_PER_REPORT = 0.2
_BATCHES_PER_WORKER = 32  # of thousands of tiny jobs, several travel together
_TRIES = 2  # of a job whose worker is killed
_STARTED, _DONE = 1e-12, 1.0  # fractions of a job
_QUIET = "ignore:resource_tracker"

Report = Callable[[float, float], None]
"""Takes the fraction of a job that is done, in [0, 1], and a value to show beside it, such as the last loss."""


@dataclass(frozen=True, eq=False)
class Job:
    """One result to be computed.

    ``compute(*args, n_threads=..., report=...)`` is called in the process that computes it. The number of threads is
    None where the executor is the user's own.
    """

    key: str
    """Name of its record."""
    compute: Callable[..., Record]
    args: tuple[Any, ...] = ()
    identity: Identity = field(default_factory=dict)
    """What the result depends on beyond its key: a record that was made from something else is refused."""
    cost: float = 1.0
    """Estimate of its work, above 0, in any unit that all jobs of a call share."""
    all_cores: bool = False
    """Whether it keeps all cores busy by itself, so that it is computed alone."""


@dataclass(frozen=True, eq=False)
class Failure:
    """A job that did not finish, and why."""

    job: Job
    error: Exception

    @property
    def reason(self) -> str:
        """The error in one line."""
        return " ".join(str(self.error).split()) or type(self.error).__name__


class JobsError(RuntimeError):
    """Some jobs failed; the records of all others are kept.

    Attributes:
        failures: The failed jobs.
    """

    def __init__(self, failures: list[Failure]) -> None:
        first = failures[0]
        super().__init__(f"{len(failures)} job(s) failed; the first, {first.job.key}: {first.reason}")
        self.failures = failures


@dataclass(frozen=True)
class Progress:
    """How far a call has come."""

    n_jobs: int
    n_finished: int
    """Number of jobs that are done, those among them that were there before or failed."""
    work_done: float
    work_total: float
    """In units of the jobs' cost, without the jobs that were there before."""
    value: float | None
    """Last value reported by a job in flight."""


OnProgress = Callable[[Progress], None]


def run(
    jobs: Sequence[Job],
    records: Records,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> list[Failure]:
    """Compute all jobs whose records are not there yet, and return those that failed.

    A worker process that is killed is replaced; each job that it had begun is tried once more, alone. Worker processes
    end when their parent does.

    Args:
        jobs: What to compute; jobs with the same key are computed once.
        records: Where each result is kept as soon as it is finished.
        n_workers: Number of cores to use, at least 1; default all.
        executor: Where to compute instead; it is left running, and jobs of a broken one fail.
        on_progress: Called a few times a second.

    Raises:
        ValueError: If ``n_workers`` is below 1, or a record that is there is damaged or has another identity.
        OSError: If the records cannot be written.
        KeyboardInterrupt: On Ctrl-C, at once; finished records are kept.
    """
    if n_workers is not None and n_workers < 1:
        raise ValueError(f"n_workers: received {n_workers}, accepted: an integer >= 1")
    prepare_directory(records.directory)
    wanted = {job.key: job for job in jobs}
    for key in [key for key in wanted if key in records]:
        records.check(key, wanted.pop(key).identity)
    todo = sorted(wanted.values(), key=lambda job: job.cost, reverse=True)
    n_jobs = len({job.key for job in jobs})
    with tempfile.TemporaryDirectory(prefix="byheart-") as directory:
        board = _Board(Path(directory) / "progress", todo, n_jobs, on_progress)
        if executor is not None:
            return _on_executor(todo, records, executor, board)
        if not todo:
            return []
        n_cores = n_workers or _n_cores()
        failures = _in_processes([job for job in todo if job.all_cores], records, 1, n_cores, board)
        return failures + _in_processes([job for job in todo if not job.all_cores], records, n_cores, 1, board)


class _Board:
    """Where workers write how far their jobs are: a memory-mapped file, so that no lock dies with a worker."""

    def __init__(self, path: Path, jobs: list[Job], n_jobs: int, on_progress: OnProgress | None) -> None:
        self.path, self.n_jobs, self.on_progress = path, n_jobs, on_progress
        self.rows = {job.key: row for row, job in enumerate(jobs)}
        self.work = np.array([job.cost for job in jobs])
        self.values = np.memmap(path, np.float64, "w+", shape=(max(len(jobs), 1), 2))  # fraction done, value
        self.report()

    def fraction(self, job: Job) -> float:
        return float(self.values[self.rows[job.key], 0])

    def set(self, job: Job, fraction: float) -> None:
        self.values[self.rows[job.key], 0] = fraction

    def report(self) -> None:
        if self.on_progress is None:
            return
        fractions, values = self.values[: len(self.work)].T
        in_flight = values[(fractions > 0) & (fractions < _DONE) & (values > 0)]
        value = float(in_flight[0]) if in_flight.size else None
        n_finished = self.n_jobs - int((fractions < _DONE).sum())
        work_done = float((self.work * fractions).sum())
        self.on_progress(Progress(self.n_jobs, n_finished, work_done, float(self.work.sum()), value))


def _on_executor(jobs: list[Job], records: Records, executor: Executor, board: _Board) -> list[Failure]:
    """Compute jobs on the user's own executor, each by itself."""
    failures: list[Failure] = []
    futures: dict[Future[Any], list[Job]] = {}
    try:
        for job in jobs:
            futures[executor.submit(_compute, [job], records, None, None, [])] = [job]
        for batch, future in _ended(futures, board):
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                failures.append(Failure(batch[0], RuntimeError(f"its executor broke: {error}")))
            else:
                failures += _outcomes(batch, future)
            board.set(batch[0], _DONE)
    finally:
        for future in futures:
            future.cancel()
    board.report()
    return failures


def _in_processes(jobs: list[Job], records: Records, n_workers: int, n_threads: int, board: _Board) -> list[Failure]:
    """Compute jobs in worker processes. If one is killed, each job that was under way is tried once more, alone."""
    failures: list[Failure] = []
    crashes: Counter[str] = Counter()
    while jobs:
        suspects = [job for job in jobs if crashes[job.key]]
        now, jobs = suspects or jobs, [job for job in jobs if suspects and not crashes[job.key]]
        batches = [[job] for job in now] if suspects else _batches(now, n_workers)
        pool = process_pool(1 if suspects else min(n_workers, len(batches)), _start_worker, (os.getpid(),))
        try:
            futures = {
                pool.submit(_compute, batch, records, n_threads, board.path, [board.rows[job.key] for job in batch]): (
                    batch
                )
                for batch in batches
            }
            under_way: set[str] | None = None  # when the pool broke; what is not counted here is simply computed again
            for batch, future in _ended(futures, board):
                if not isinstance(future.exception(), BrokenExecutor):
                    failures += _outcomes(batch, future)
                    continue
                if under_way is None:
                    begun = {job.key for job in now if 0 < board.fraction(job) < _DONE}
                    under_way = begun or {job.key for job in now}  # a worker that dies before any job: all are suspects
                for job in batch:
                    if job.key in records:
                        continue
                    crashes[job.key] += job.key in under_way
                    if crashes[job.key] < _TRIES:
                        board.set(job, 0)
                        jobs.append(job)
                    else:
                        board.set(job, _DONE)
                        failures.append(Failure(job, RuntimeError("its process was killed twice (out of memory?)")))
        finally:
            pool.shutdown(kill_workers=True)
        board.report()
    return failures


def _ended(futures: dict[Future[Any], list[Job]], board: _Board) -> Iterator[tuple[list[Job], Future[Any]]]:
    """Yield batches with their futures as they end, and report meanwhile."""
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=_SECONDS_PER_REPORT, return_when=FIRST_COMPLETED)
        for future in ended:
            yield futures[future], future
        board.report()


def _batches(jobs: list[Job], n_workers: int) -> list[list[Job]]:
    """Split jobs, longest first, such that what travels together is a small share of the work and of the jobs."""
    n_shares = _BATCHES_PER_WORKER * n_workers
    most, share = 1 + len(jobs) // n_shares, sum(job.cost for job in jobs) / n_shares
    batches: list[list[Job]] = []
    cost = math.inf
    for job in jobs:
        if cost + job.cost > share or len(batches[-1]) == most:
            batches.append([])
            cost = 0.0
        batches[-1].append(job)
        cost += job.cost
    return batches


def _outcomes(batch: list[Job], future: Future[Any]) -> list[Failure]:
    """The failures of a batch.

    Raises:
        OSError: If a record could not be written: the others could not be either.
    """
    errors: list[Exception | None] = future.result()
    return [Failure(job, error) for job, error in zip(batch, errors, strict=True) if error is not None]


def _compute(
    batch: list[Job], records: Records, n_threads: int | None, board: Path | None, rows: list[int]
) -> list[Exception | None]:
    """Compute jobs one after the other in this process, and return what each raised."""
    values = None if board is None else np.memmap(board, np.float64, "r+")
    errors: list[Exception | None] = []
    for place, job in enumerate(batch):

        def report(fraction: float, value: float, place: int = place) -> None:
            if values is not None:
                values[2 * rows[place] : 2 * rows[place] + 2] = min(max(fraction, _STARTED), 1 - _STARTED), value

        report(0, 0)
        try:
            record = job.compute(*job.args, n_threads=n_threads, report=report)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a job raises is reported, the others go on
            errors.append(_portable(error))
        else:
            records.write(job.key, record, job.identity)
            errors.append(None)
        if values is not None:
            values[2 * rows[place]] = _DONE
    return errors


def _portable(error: Exception | SystemExit) -> Exception:
    """The error itself if it can travel between processes, else one that says the same."""
    saying_the_same = RuntimeError(f"{type(error).__name__}: {error}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class of the user's may fail in any way when it is rebuilt
        return saying_the_same
    return error if isinstance(error, Exception) else saying_the_same


def process_pool(size: int, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> Any:
    """Return an executor of so many processes; ``shutdown(kill_workers=True)`` ends them at once.

    The process that frees what killed workers leave warns of what another has freed already: it is started such that
    it does not.
    """
    import loky
    from loky.backend import resource_tracker

    usual = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{usual},{_QUIET}" if usual else _QUIET
    try:
        resource_tracker.ensure_running()
    finally:
        if usual is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = usual
    return loky.ProcessPoolExecutor(size, initializer=initializer, initargs=initargs)


def _start_worker(parent: int) -> None:
    from loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf  # where psutil is installed, it restarts workers that grow
    usual = multiprocessing.get_all_start_methods()[0]
    multiprocessing.set_start_method(usual, force=True)  # or a job's own processes, as of a DataLoader, do not start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once its parent was killed: nobody waits for its results."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_PER_REPORT)
    os._exit(1)


def _n_cores() -> int:
    import loky

    found: int = loky.cpu_count()
    return found
