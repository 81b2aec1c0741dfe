"""Kernels are compiled wherever the package lies."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

_NOWHERE_TO_KEEP_THEM = """
from numba.core.caching import CacheImpl
for kind in (CacheImpl, *CacheImpl.__subclasses__()):
    kind._locator_classes = []
import byheart.toy.train
from byheart.toy.kernels.compile import relu
print(relu(-1), relu(2))
"""


@pytest.mark.slow
def test_kernels_that_cannot_be_kept_are_compiled_all_the_same():
    """As of an installation that is read-only, for a user without a home."""
    done = subprocess.run([sys.executable, "-c", _NOWHERE_TO_KEEP_THEM], capture_output=True, text=True, check=False)
    assert done.stdout == "0.0 2.0\n", done.stderr
    assert "NUMBA_CACHE_DIR names another" in done.stderr


_THREADS_AND_FORKS = """
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from byheart.toy.config import TrainConfig
from byheart.toy.train import train

def loss(config):
    try:
        return train(config).metrics["train_loss"]
    except RuntimeError as error:
        return str(error)

if __name__ == "__main__":
    configs = [TrainConfig(n_examples=60, n_features=400, n_hidden=12, n_steps=200, seed=s) for s in range(3)]
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(loss, configs))
    assert at_once == [loss(config) for config in configs]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (forked,) = pool.map_async(loss, configs[:1]).get(100)
    print("the same" if forked == at_once[0] else forked)
"""


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no processes are forked here")
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_wide_models_train_in_several_threads_and_a_forked_process_is_told_what_it_cannot(tmp_path, layer):
    """Where it may not, numba ends the process without a word of Python."""
    script = tmp_path / "script.py"
    script.write_text(_THREADS_AND_FORKS)
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"numba has no {layer} here")
    assert done.returncode == 0, done.stderr
    told = "training: received in a process forked"
    assert done.stdout.startswith("the same" if layer == "workqueue" else told)
