"""Pools of processes: their tracker is told to be quiet, and nobody else is."""

import os
import subprocess
import sys

CODE = """
import os
import time
from byheart.jobs import process_pool

def start():
    pass

before = os.environ.get("PYTHONWARNINGS")
pool = process_pool(1, start)
assert os.environ.get("PYTHONWARNINGS") == before
from loky.backend import resource_tracker
tracker = resource_tracker._resource_tracker._pid
print("worker:", pool.submit(os.environ.get, "PYTHONWARNINGS").result())
while "resource_tracker" not in open(f"/proc/{tracker}/cmdline").read():
    time.sleep(0.01)  # it has not become a program of its own yet
print(open(f"/proc/{tracker}/environ").read().replace(chr(0), chr(10)))
pool.shutdown(kill_workers=True)
"""


def test_only_the_tracker_is_quiet():
    environment = {**os.environ, "PYTHONWARNINGS": "default::ImportWarning"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "PYTHONWARNINGS=default::ImportWarning,ignore:resource_tracker" in done.stdout.splitlines()
    assert "worker: default::ImportWarning" in done.stdout
