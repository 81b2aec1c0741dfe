"""Workers on other machines: those of a Dask scheduler, as an executor.

Every worker takes one job at a time, of one thread, and those that were submitted first come first. A job whose worker
is gone is given to another one by the scheduler.
"""

from __future__ import annotations

import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

_SECONDS_TO_ANSWER, _SECONDS_TO_CLOSE, _SECONDS_PER_LOOK = 10, 2, 1
_GONE = "the scheduler is gone"


class Cluster(Executor):
    """The workers of a Dask scheduler."""

    n_threads = 1
    """Of a job."""

    def __init__(self, client: Any, resources: Mapping[str, float] | None) -> None:
        self.n_workers = len(client.nthreads())
        self._client, self._pending, self._closed = client, set[Future[Any]](), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self._executor = client.get_executor(pure=False, **({"resources": dict(resources)} if resources else {}))
        self._n_submitted = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call a function; of what waits, what was submitted first is started first."""
        import cloudpickle

        self._n_submitted += 1
        content = cloudpickle.dumps((function, args, kwargs))  # which Dask does not look into
        done: Future[Any] = Future()
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        theirs = self._executor.submit(_call, content, priority=-self._n_submitted)
        done.add_done_callback(lambda done: theirs.cancel() if done.cancelled() else None)
        theirs.add_done_callback(lambda theirs: _pass_on(theirs, done))
        return done

    def _watch(self) -> None:
        """Give up what was submitted once the scheduler is gone: Dask's own futures may wait for ever then."""
        while not self._closed.wait(_SECONDS_PER_LOOK):
            if self._client.status != "running":
                for done in self._pending.copy():
                    with suppress(InvalidStateError):  # it ended meanwhile
                        done.set_exception(BrokenExecutor(_GONE))

    def close(self) -> None:
        """Disconnect; it may try for half a minute to reach a scheduler that is gone, which is not waited for."""
        self._closed.set()
        closing = threading.Thread(target=self._client.close, args=(_SECONDS_TO_CLOSE,), daemon=True)
        closing.start()
        closing.join(2 * _SECONDS_TO_CLOSE)


def _call(content: bytes) -> Any:
    import pickle

    function, args, kwargs = pickle.loads(content)
    return function(*args, **kwargs)


def _pass_on(theirs: Future[Any], done: Future[Any]) -> None:
    """Pass on what became of a call; what Dask itself raises means that workers or scheduler are gone."""
    error = BrokenExecutor(_GONE) if theirs.cancelled() else theirs.exception()
    if error is not None and type(error).__module__.startswith("distributed"):
        error = BrokenExecutor(" ".join(str(error).split()))
    with suppress(InvalidStateError):  # it was cancelled or given up meanwhile
        if error is None:
            done.set_result(theirs.result())
        else:
            done.set_exception(error)


@contextmanager
def connected(address: str, resources: Mapping[str, float] | None = None) -> Iterator[Cluster]:
    """Connect to the scheduler of a Dask cluster, and disconnect after the block.

    Args:
        address: Of the scheduler, such as "tcp://HOST:8786".
        resources: What a worker must have left to start a job, by name, as in ``dask worker --resources "GPU=1"``.

    Raises:
        ModuleNotFoundError: If Dask is missing; the message says how to install it.
        OSError: If no scheduler answers.
        ValueError: If a worker takes several jobs at once, which would share what PyTorch has one of per process; or
            byheart is missing on one, or is of another version.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('cluster: needs dask.distributed: pip install "byheart[cluster]"') from error
    _silence_dask()
    # One that was never connected is closed by its finalizer, which waits for an answer in vain and says so.
    quiet = type("Client", (distributed.Client,), {"__del__": lambda _: None})
    try:
        client = quiet(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except Exception as error:  # of what is no scheduler, Dask raises what its answer leads to, such as MemoryError
        why = " ".join(str(error).split())
        raise OSError(f"cluster: received {address} ({why}), accepted: the address of a Dask scheduler") from error
    found = Cluster(client, resources)
    try:
        if several := {n for n in client.nthreads().values() if n != 1}:
            raise ValueError(
                f"cluster: received workers of {max(several)} threads, accepted: of one (dask worker --nthreads 1"
                " --nworkers N)"
            )
        ours = _version()
        for worker, theirs in client.run(_version, on_error="return").items():
            if theirs != ours:
                its = theirs if isinstance(theirs, str) else repr(theirs)
                raise ValueError(f"cluster: received {worker} with {its}, accepted: byheart {ours} on every worker")
        yield found
    finally:
        found.close()


def _silence_dask() -> None:
    """What it has to say becomes one line of ours; what its callbacks raise is logged by tornado and asyncio.

    Its advice on large data is about ways to send them that a killed worker would lose.
    """
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("tornado.application", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_of_dask)


def _is_not_of_dask(record: logging.LogRecord) -> bool:
    trace = record.exc_info[2] if record.exc_info else None
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace))
    return not any(name.startswith("distributed") for name in modules)


def _version() -> str:
    """Version of byheart; called on workers, some of which may lack it."""
    return version("byheart")
