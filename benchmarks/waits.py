"""What a person waits for, in CPU seconds (user and system): the first minute, small runs, looks at the loss, copies.

``python -m benchmarks.waits`` prints the rows of LIMITS.md, two minutes on one core. CPU time depends little on what
else the machine does; where two threads help each other, it is not what a clock shows. Of an older revision, check that
out and call this file with its ``src`` in PYTHONPATH.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import byheart as bh
from byheart.toy.config import learning_rates
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu
from byheart.toy.model import initial_weights

_TRAIN = ["train", "--n-examples", "5", "--n-features", "1000", "--n-steps", "100", "--kernel", "cpu"]
_REPEATS = 5
_N_BYTES, _N_OUTPUT = 10_000_000, 10_000


def main() -> None:
    """Measure and print."""
    for what, seconds in (*_commands(), *_in_this_process(), ("copied: 10 MB of files, 10,000 characters", _copied())):
        print(f"{what:55} {seconds:8.5f}", flush=True)


def _commands() -> Iterator[tuple[str, float]]:
    """Whole commands, one thread each; the first with a cache of compiled code that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        alone = {"NUMBA_CACHE_DIR": f"{folder}/cache", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

        def byheart(*arguments: str) -> float:
            command = [sys.executable, "-m", "byheart", *arguments]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=os.environ | alone, cwd=folder, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        yield "byheart --help", byheart("--help")
        yield "byheart train, m = 2, nothing compiled", byheart(*_TRAIN, "--n-hidden", "2", "--out", "a")
        yield "byheart train, then m = 8", byheart(*_TRAIN, "--n-hidden", "8", "--out", "b")
        yield "byheart train, all compiled", byheart(*_TRAIN, "--n-hidden", "2", "--seed", "1", "--out", "c")


def _in_this_process() -> Iterator[tuple[str, float]]:
    """A whole small run with its file, then a step and a look at the loss of a large one."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = iter(range(100))

        def run() -> None:
            bh.train(bh.TrainConfig(n_examples=5, n_features=1_000, n_steps=100, seed=next(seeds)), out=folder)

        yield "a run of T = 5, n = 1,000, 100 steps, file included", _least(run)
    large = bh.TrainConfig(n_examples=10_000, n_features=10_000, n_steps=1_000)
    for when, n_steps in (("from random weights", 10), ("after 5,000 steps", 5_000)):
        yield f"a step, T = 5, n = 10,000, m = 2, {when}", _of_few(n_steps)
    rng = np.random.default_rng(0)
    examples, (W, b) = sample_examples(10_000, 10_000, 0.999, rng), initial_weights(2, 10_000, "xavier_normal", rng)
    training = cpu.start(W, b, examples, AdamW(weight_decay=large.weight_decay), large.reduction, skipping=False)
    rates = learning_rates(large)
    yield "a step, T = n = 10,000, m = 2, dense", _least(lambda: training.advance(rates[:1]))
    yield "a look at the loss, T = n = 10,000, m = 2", _least(lambda: cpu.example_losses(W, b, examples))


def _of_few(n_before: int, n_steps: int = 200) -> float:
    """A step with few examples, after so many."""
    config, rng = bh.TrainConfig(n_examples=5, n_features=10_000, n_steps=50_000), np.random.default_rng(0)
    examples, (W, b) = sample_examples(5, 10_000, 0.999, rng), initial_weights(2, 10_000, "xavier_normal", rng)
    training = cpu.start(W, b, examples, AdamW(weight_decay=config.weight_decay), config.reduction)
    rates = learning_rates(config)
    training.advance(rates[:n_before])
    return _least(lambda: training.advance(rates[training.step : training.step + n_steps])) / n_steps


def _copied() -> float:
    words = np.array(["the", "a", "of", "king", "river", "went", "said", "over", "stone", "light", "never", "north"])
    drawn = " ".join(np.random.default_rng(0).choice(words, _N_BYTES // 5))
    output = drawn[1_000 : 1_000 + _N_OUTPUT]
    return _least(lambda: bh.language.copied(output, bh.language.Texts(("words",), (drawn,))), repeats=1)


def _least(call: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The least CPU time of some calls, after one that compiles."""
    taken = []
    for number in range(repeats + (repeats > 1)):
        began = time.process_time()
        call()
        if number or repeats == 1:
            taken.append(time.process_time() - began)
    return min(taken)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
