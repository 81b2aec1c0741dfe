"""Kernels are compiled wherever the package lies."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import byheart
from byheart.toy.kernels.compile import told

_NOWHERE_TO_KEEP_THEM = """
from numba.core.caching import CacheImpl
for kind in (CacheImpl, *CacheImpl.__subclasses__()):
    kind._locator_classes = []
import tempfile
tempfile.gettempdir = lambda: "/proc/nowhere"
import byheart.toy.train
from byheart.toy.kernels.compile import relu
print(relu(-1), relu(2))
"""


@pytest.mark.slow
def test_kernels_that_cannot_be_kept_are_compiled_all_the_same():
    """As of an installation that is read-only, for a user without a home, where temporary files cannot be written."""
    done = subprocess.run([sys.executable, "-c", _NOWHERE_TO_KEEP_THEM], capture_output=True, text=True, check=False)
    assert done.stdout == "0.0 2.0\n", done.stderr
    assert "NUMBA_CACHE_DIR names another" in done.stderr


def test_it_is_told_when_the_compiler_begins_and_only_then():
    calls: list[None] = []
    compiled = numba.njit(lambda x: x + 1)
    with told(lambda: calls.append(None)):
        assert compiled(1) == 2
        assert (n_calls := len(calls)) > 0
        compiled(2)
    assert len(calls) == n_calls
    compiled(1.5)
    assert len(calls) == n_calls


def _without_places(directory: Path) -> dict[str, str]:
    """Install byheart in a directory where numba can write nothing, and return an environment that has no home."""
    package = directory / "site" / "byheart"
    shutil.copytree(Path(byheart.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "toy" / "kernels" / "__pycache__").write_text(
        "a file in the place of the cache, as for root all is writable"
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), "/proc/nowhere")
    places = {"PYTHONPATH": str(package.parent), "TMPDIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | nowhere | places


_RELU = "from byheart.toy.kernels.compile import relu; print(relu(-1), relu(2), sum(relu.stats.cache_hits.values()))"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a place in which nothing can be made")
def test_without_a_place_of_their_own_kernels_are_kept_among_temporary_files(tmp_path):
    environment = _without_places(tmp_path)
    for n_hits in (0, 1):  # a second process does not compile
        done = subprocess.run(
            [sys.executable, "-c", _RELU], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        assert done.stdout == f"0.0 2.0 {n_hits}\n"
    for arguments in (
        ["--help"],
        ["sweep", "--n-examples", "3", "--sparsity", "0.5", "--n-features", "9", "--n-steps", "2"],
    ):
        command = [sys.executable, "-m", "byheart", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_place_among_temporary_files_that_others_can_write_to_is_not_taken(tmp_path):
    """Whoever put a file there would choose what code runs."""
    environment = _without_places(tmp_path)
    (tmp_path / f"byheart-kernels-{os.getuid()}").mkdir(mode=0o700)
    (tmp_path / f"byheart-kernels-{os.getuid()}").chmod(0o777)
    done = subprocess.run([sys.executable, "-c", _RELU], env=environment, capture_output=True, text=True, check=False)
    assert "NUMBA_CACHE_DIR names another" in done.stderr
    assert done.stdout == "0.0 2.0 0\n"


_CALLED = """
from byheart.toy.kernels.compile import serial

@serial
def number():
    return NUMBER
"""
_CALLER = """
from byheart.toy.kernels.called import number
from byheart.toy.kernels.compile import serial

@serial
def twice():
    return 2 * number()
"""
_TWICE = "from byheart.toy.kernels.caller import twice; print(twice(), sum(twice.stats.cache_hits.values()))"


def test_after_an_edit_of_one_file_nothing_that_calls_it_runs_its_old_code(tmp_path):
    package = tmp_path / "site" / "byheart"
    shutil.copytree(Path(byheart.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    kernels, environment = package / "toy" / "kernels", os.environ | {"PYTHONPATH": str(package.parent)}
    environment.pop("NUMBA_CACHE_DIR", None)
    (kernels / "caller.py").write_text(_CALLER)
    for number, hits in ((1, 0), (1, 1), (20, 0)):
        (kernels / "called.py").write_text(_CALLED.replace("NUMBER", str(number)))
        done = subprocess.run(
            [sys.executable, "-c", _TWICE], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{2 * number} {hits}\n"


_BITS = """
from byheart.toy.config import TrainConfig
from byheart.toy.train import train
for n_examples, n_hidden in ((5, 2), (5, 12), (300, 3)):
    run = train(TrainConfig(n_examples=n_examples, n_features=300, n_hidden=n_hidden, n_steps=200, sparsity=0.9))
    print(run.W.tobytes().hex(), run.b.tobytes().hex(), run.metrics)
"""


@pytest.mark.slow
def test_the_process_that_compiles_has_the_bits_of_those_that_load_what_it_kept(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, loaded = (
        subprocess.run([sys.executable, "-c", _BITS], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert compiled.stdout == loaded.stdout


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
