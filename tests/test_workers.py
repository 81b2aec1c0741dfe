"""Worker processes end with their parent, from their first moment on; what they compute is tested with the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Pipe

from processes import PATIENCE

from byheart.workers import _PROGRAM


def test_a_worker_whose_parent_is_gone_before_it_is_told_anything_ends():
    ours, theirs = Pipe()
    with ours, theirs:
        another = os.getppid()  # stands for a parent that has ended
        command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(another)]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0) as process:
            assert process.wait(PATIENCE) == -signal.SIGKILL
