"""The one engine that computes many results: a job = one record, on the machine's cores or on any executor.

A job whose record is there is not computed again, so the same call after Ctrl-C, a kill or a power cut goes on where it
stopped; only the jobs in flight are lost. The longest go first. While a record is flushed to the disk, the next job is
computed; a job has ended once its record is there. The engine knows nothing of what a job computes.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byheart.records import Identity, Record, Records
from byheart.storage import prepare_directory
from byheart.workers import Tell, Workers, n_cores, portable, throttled

_SECONDS_PER_REPORT = 0.2
_SECONDS_OF_GRACE = 2.0  # after Ctrl-C, for what is nearly done
_BATCHES_PER_WORKER = 32  # of an executor: of thousands of tiny jobs, several travel together
_USUAL_WORKERS = 16  # of an executor that does not say how many it has
_TRIES = 2  # of a job whose worker is killed

Keep = Callable[[], Exception | None]
"""Keeps the record of a job that was computed, and returns what went wrong, then or before."""
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


class StoreError(OSError):
    """What was computed could not be kept, as on a full disk; what was kept before stays."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while jobs were computed.

    Attributes:
        n_kept: Number of jobs whose records are there.
    """

    def __init__(self, n_kept: int) -> None:
        super().__init__(f"{n_kept} job(s) are finished and kept")
        self.n_kept = n_kept


def run(
    jobs: Sequence[Job],
    records: Records,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> list[Failure]:
    """Compute all jobs whose records are not there yet, and return those that failed.

    A worker process that is killed is replaced, and its job is tried once more, alone. Worker processes end when their
    parent does.

    Args:
        jobs: What to compute; jobs with the same key are computed once.
        records: Where each result is kept as soon as it is finished; workers elsewhere must have the same place.
        n_workers: Number of cores to use, at least 1; default all. Of an executor: how many workers it has, so that of
            thousands of jobs several travel together; default what it says of itself, or 16.
        executor: Where to compute instead: a ``concurrent.futures.Executor``, or what has its ``submit`` and returns
            what has its futures' ``done``, ``exception``, ``result`` and ``cancel``. It is left running, and jobs of a
            broken one fail.
        on_progress: Called a few times a second.

    Raises:
        ValueError: If ``n_workers`` is below 1, a record that is there is damaged or has another identity, or the
            records are kept in the memory of this process, which worker processes do not see.
        OSError: If the records cannot be written.
        StoreError: If that turns out while jobs are computed, or records vanish; it is an OSError.
        Interrupted: On Ctrl-C. No job is started any more, and those that finish within two seconds are kept too; on
            the next Ctrl-C, at once. It is a KeyboardInterrupt.
    """
    if n_workers is not None and n_workers < 1:
        raise ValueError(f"n_workers: received {n_workers}, accepted: an integer >= 1")
    prepare_directory(records.directory)
    wanted = {job.key: job for job in jobs}
    n_jobs = len(wanted)
    for key in [key for key in wanted if key in records]:
        records.check(key, wanted.pop(key).identity)
    if wanted and executor is None and str(records.directory).startswith("memory://"):
        accepted = "a directory, or a store that other processes see"
        raise ValueError(f"store: received {records.directory}, accepted: {accepted}")
    todo = sorted(wanted.values(), key=lambda job: job.cost, reverse=True)
    board = _Board(todo, n_jobs, on_progress)
    try:
        board.report()
        if executor is not None:
            _on_executor(todo, records, executor, n_workers, board)
        else:
            n_workers = n_workers or n_cores()
            _in_processes([job for job in todo if job.all_cores], records, 1, n_workers, board)
            _in_processes([job for job in todo if not job.all_cores], records, n_workers, 1, board)
    except KeyboardInterrupt as error:
        raise Interrupted(n_jobs - len(todo) + board.n_kept) from error
    _check_kept(jobs, records, board.failures)
    return board.failures


def _check_kept(jobs: Sequence[Job], records: Records, failures: list[Failure]) -> None:
    """Check that every record is there in the end: a disk that was taken away leaves an empty directory behind.

    Raises:
        StoreError: If one is not.
    """
    there = {*records.keys(), *(failure.job.key for failure in failures)}
    for job in jobs:
        if job.key not in there:
            words = f"{records.path(job.key)} was finished and is there no more, accepted: a directory that stays"
            raise StoreError(f"store: {words}")


class _Board:
    """How far each job is, and which failed."""

    def __init__(self, jobs: list[Job], n_jobs: int, on_progress: OnProgress | None) -> None:
        self.n_jobs, self.on_progress = n_jobs, on_progress
        self.left = {job.key: job for job in jobs}
        self.in_flight: dict[str, tuple[float, float]] = {}  # fraction, value
        self.failures: list[Failure] = []
        self.work = self.work_left = sum(job.cost for job in jobs)
        self.n_kept = 0

    def end(self, job: Job, error: Exception | None) -> None:
        """Note that a job is kept, or why it failed.

        Raises:
            StoreError: If its record could not be kept: the others could not be either.
        """
        if isinstance(error, StoreError):
            raise error
        if self.left.pop(job.key, None) is None:
            return
        self.in_flight.pop(job.key, None)
        self.work_left = self.work_left - job.cost if self.left else 0.0
        self.n_kept += error is None
        if error is not None:
            self.failures.append(Failure(job, error))

    def report(self) -> None:
        if self.on_progress is None:
            return
        under_way = sum(self.left[key].cost * fraction for key, (fraction, _) in self.in_flight.items())
        value = next((value for fraction, value in self.in_flight.values() if fraction > 0 and value > 0), None)
        work_done = self.work - self.work_left + under_way
        self.on_progress(Progress(self.n_jobs, self.n_jobs - len(self.left), work_done, self.work, value))


def _in_processes(jobs: list[Job], records: Records, n_workers: int, n_threads: int, board: _Board) -> None:
    """Compute jobs in worker processes; the job of one that is killed is tried once more, when no other is computed."""
    waiting, again, crashes = deque(jobs), list[Job](), Counter[str]()
    with Workers[Job](n_workers) as workers:
        try:
            while waiting or again or workers.is_busy:
                while waiting and workers.is_free:
                    _start(workers, waiting.popleft(), records, n_threads, board)
                if again and not workers.is_busy:
                    _start(workers, again.pop(), records, n_threads, board)
                for event in workers.wait(_SECONDS_PER_REPORT):
                    job = event.call
                    if event.kind == "told":
                        board.in_flight[job.key] = event.value
                    elif event.kind == "ended":
                        board.end(job, event.value)
                    elif job.key in records:  # it died just afterwards
                        board.end(job, None)
                    else:
                        crashes[job.key] += 1
                        board.in_flight.pop(job.key, None)
                        if crashes[job.key] < _TRIES:
                            again.append(job)
                        else:
                            why = f"its process {event.value}, twice"
                            board.end(job, RuntimeError(why))
                board.report()
        except KeyboardInterrupt:
            end = time.monotonic() + _SECONDS_OF_GRACE
            while workers.is_busy and (left := end - time.monotonic()) > 0:
                for event in workers.wait(left):
                    if event.kind == "ended":
                        board.end(event.call, event.value)
            raise


def _start(workers: Workers[Job], job: Job, records: Records, n_threads: int, board: _Board) -> None:
    try:
        workers.start(job, _compute_and_tell, job, records, n_threads)
    except Exception as error:  # noqa: BLE001 - what cannot be pickled raises whatever it likes
        board.end(job, portable(error))


def _compute_and_tell(tell: Tell, job: Job, records: Records, n_threads: int) -> Keep:
    """Compute a job in a worker process, and return what keeps its record."""
    tell_now_and_then = throttled(tell, _SECONDS_PER_REPORT)
    return _compute(job, records, n_threads, lambda fraction, value: tell_now_and_then((min(fraction, 1.0), value)))


def _on_executor(jobs: list[Job], records: Records, executor: Executor, n_workers: int | None, board: _Board) -> None:
    """Compute jobs on the user's own executor, thousands of them in batches."""
    known = n_workers or getattr(executor, "n_workers", None) or getattr(executor, "_max_workers", None)
    n_threads = getattr(executor, "n_threads", None)
    where = records.directory  # of a worker, another directory may be the current one
    there = Records(where.absolute() if isinstance(where, Path) else where)
    futures: dict[Any, list[Job]] = {}
    try:
        for batch in _batches(jobs, known or _USUAL_WORKERS):
            futures[executor.submit(_compute_batch, batch, there, n_threads)] = batch
        for future in _ended(set(futures), board):
            _note(futures[future], future, records, board)
    except KeyboardInterrupt:
        running = {future for future in futures if not future.cancel() and not future.done()}
        end = time.monotonic() + _SECONDS_OF_GRACE
        while running and time.monotonic() < end:
            running -= _wait(running)
        for future, batch in futures.items():
            if future.done():
                _note(batch, future, records, board)
        raise
    finally:
        for future in futures:
            future.cancel()


def _note(batch: list[Job], future: Any, records: Records, board: _Board) -> None:
    """Note what became of a batch."""
    errors: list[Exception | None]
    try:
        error = future.exception()
        errors = [error] * len(batch) if error is not None else future.result()
    except CancelledError:
        errors = [BrokenExecutor("it was cancelled")] * len(batch)
    for job, found in zip(batch, errors, strict=True):
        is_there = (found is None or isinstance(found, BrokenExecutor)) and job.key in records
        if is_there:
            board.end(job, None)
        elif found is None:
            path = records.path(job.key)
            words = f"{path} was finished elsewhere and is not here, accepted: workers with the same directory"
            raise StoreError(f"store: {words}")
        elif isinstance(found, BrokenExecutor):
            board.end(job, RuntimeError(f"its executor broke: {found}"))
        else:
            board.end(job, found)


def _ended(waiting: set[Any], board: _Board) -> Iterator[Any]:
    """Yield futures as they end, and report meanwhile."""
    while waiting:
        ended = _wait(waiting)
        yield from ended
        waiting = waiting - ended
        board.report()


def _wait(waiting: set[Any]) -> set[Any]:
    """Return the futures that have ended, or nothing if none does for a while."""
    if all(isinstance(future, Future) for future in waiting):
        return set(wait(waiting, timeout=_SECONDS_PER_REPORT, return_when=FIRST_COMPLETED).done)
    if not (ended := {future for future in waiting if future.done()}):
        time.sleep(_SECONDS_PER_REPORT)
    return ended


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


def _compute_batch(batch: list[Job], records: Records, n_threads: int | None) -> list[Exception | None]:
    """Compute jobs one after the other on an executor; one that was cut off is gone on with from what is there."""
    with ThreadPoolExecutor(1) as aside:
        ended: list[Future[Exception | None]] = []
        for job in batch:
            keep = _nothing if job.key in records else _compute(job, records, n_threads, lambda *_: None)
            wait(ended[-1:])  # at most one record is being kept while the next is computed
            ended.append(aside.submit(keep))
        return [each.result() for each in ended]


def _nothing() -> None:
    return None


def _compute(job: Job, records: Records, n_threads: int | None, report: Report) -> Keep:
    """Compute a job in this process, and return what keeps its record: a function that returns what went wrong."""
    try:
        record = job.compute(*job.args, n_threads=n_threads, report=report)
        write = records.writing(job.key, record, job.identity)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a job raises is reported, the others go on
        found = portable(error)
        return lambda: found

    def keep() -> Exception | None:
        try:
            write()
        except OSError as error:
            return StoreError(str(error))
        except Exception as error:  # noqa: BLE001 - as of what is in the way
            return portable(error)
        return None

    return keep
