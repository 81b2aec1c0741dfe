"""Kernels are compiled wherever the package lies."""

from __future__ import annotations

import multiprocessing
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
    return train(config).metrics["train_loss"]

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
@pytest.mark.parametrize("n_hidden", [2, 12])
def test_models_train_in_several_threads_and_in_forked_processes(tmp_path, n_hidden):
    script = tmp_path / "script.py"
    script.write_text(_THREADS_AND_FORKS.replace("n_hidden=12", f"n_hidden={n_hidden}"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr
