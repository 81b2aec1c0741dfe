"""Worker processes end with their parent, from their first moment on; what they compute is tested with the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Pipe

from processes import PATIENCE

from byheart.workers import _PROGRAM, Workers


def test_a_worker_whose_parent_is_gone_before_it_is_told_anything_ends():
    ours, theirs = Pipe()
    with ours, theirs:
        another = os.getppid()  # stands for a parent that has ended
        command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(another)]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0) as process:
            assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_worker_is_free_before_its_call_has_ended():
    """The other way round, one of many calls would leave a worker that nobody listens to any more."""

    def call(tell):
        submit = ThreadPoolExecutor.submit

        def submit_and_wait(*args):
            future = submit(*args)
            time.sleep(0.2)  # the other thread has its time
            return future

        ThreadPoolExecutor.submit = submit_and_wait
        return int

    with Workers[str](1) as workers:
        workers.start("a call", call)
        (worker,) = workers._workers
        assert [worker.connection.recv() for _ in range(2)] == [("computed", None), ("ended", 0)]
