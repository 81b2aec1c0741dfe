"""What a person waits for: the first minute, small runs, looks at the loss, work beside other work, copies.

``python -m benchmarks.waits`` prints it in CPU seconds (user and system), some three minutes on one core; ``python -m
benchmarks`` keeps the same numbers, and seconds by the clock. CPU time depends little on what else the machine does;
where two threads help each other, it is not what a clock shows. Of an older revision, check that out and call this file
with its ``src`` and the root of this one in PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

import byheart as bh
from benchmarks.results import Wait
from byheart.toy.config import learning_rates
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu
from byheart.toy.model import initial_weights

WORDS = {
    "help": "byheart --help",
    "first": "byheart train, m = 2, nothing compiled",
    "wider": "byheart train, then m = 8",
    "wide": "byheart train, then m = 32, without lists",
    "again": "byheart train, all compiled",
    "idle": "byheart train, T = 5, n = 10,000, 50,000 steps",
    "busy": "the same beside one busy process per core",
    "small": "a run of T = 5, n = 1,000, 100 steps, file included",
    "step": "a step, T = 5, n = 10,000, m = 2, from random weights",
    "late": "a step, T = 5, n = 10,000, m = 2, after 5,000 steps",
    "dense": "a step, T = n = 10,000, m = 2, dense",
    "look": "a look at the loss, T = n = 10,000, m = 2",
}
"""What each of the waits is."""
_TRAIN = ["train", "--n-examples", "5", "--n-features", "1000", "--n-steps", "100", "--kernel", "cpu"]
_LONG = ["train", "--n-examples", "5", "--n-features", "10000", "--kernel", "cpu"]
_REPEATS = 5
_N_BYTES, _N_OUTPUT = 10_000_000, 10_000


def main() -> None:
    """Measure and print."""
    for name, wait in _each(os.cpu_count() or 1):
        _show(WORDS[name], wait)
    _show("copied: 10 MB of files, 10,000 characters", _copied())


def measured(n_threads: int) -> dict[str, Wait]:
    """Return what is in ``WORDS``, with so many busy processes at "busy"."""
    return dict(_each(n_threads))


def _each(n_threads: int) -> Iterator[tuple[str, Wait]]:
    yield from _commands(n_threads)
    yield from _in_this_process()


def _show(words: str, wait: Wait) -> None:
    print(f"{words:55} {wait.cpu_seconds:8.5f}", flush=True)


def _commands(n_threads: int) -> Iterator[tuple[str, Wait]]:
    """Whole commands: the first minute with one thread and a new cache of compiled code, then a longer run."""
    with tempfile.TemporaryDirectory() as folder:
        cache, one = {"NUMBA_CACHE_DIR": f"{folder}/cache"}, {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

        def byheart(*arguments: str, limits: dict[str, str]) -> Wait:
            command = [sys.executable, "-m", "byheart", *arguments]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, env=os.environ | cache | limits, cwd=folder, check=True, capture_output=True)
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            return Wait(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

        yield "help", byheart("--help", limits=one)
        yield "first", byheart(*_TRAIN, "--n-hidden", "2", "--out", "a", limits=one)
        yield "wider", byheart(*_TRAIN, "--n-hidden", "8", "--out", "b", limits=one)
        yield "wide", byheart(*_TRAIN, "--n-hidden", "32", "--out", "w", limits=one)
        yield "again", byheart(*_TRAIN, "--n-hidden", "2", "--seed", "1", "--out", "c", limits=one)
        several = dict.fromkeys(one, str(n_threads))
        byheart(*_LONG, "--n-steps", "200", "--out", "d", limits=several)  # so that nothing is compiled below
        yield "idle", byheart(*_LONG, "--out", "e", limits=several)
        with contextlib.ExitStack() as stack:
            for _ in range(n_threads):
                busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(busy.kill)
            yield "busy", byheart(*_LONG, "--out", "f", limits=several)


def _in_this_process() -> Iterator[tuple[str, Wait]]:
    """A whole small run with its file, then a step and a look at the loss of a large one."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = iter(range(100))

        def run() -> None:
            bh.train(bh.TrainConfig(n_examples=5, n_features=1_000, n_steps=100, seed=next(seeds)), out=folder)

        yield "small", _least(run)
    large = bh.TrainConfig(n_examples=10_000, n_features=10_000, n_steps=1_000)
    for name, n_steps in (("step", 10), ("late", 5_000)):
        yield name, _of_few(n_steps)
    rng = np.random.default_rng(0)
    examples, (W, b) = sample_examples(10_000, 10_000, 0.999, rng), initial_weights(2, 10_000, "xavier_normal", rng)
    training = cpu.start(W, b, examples, AdamW(weight_decay=large.weight_decay), large.reduction, skipping=False)
    rates = learning_rates(large)
    yield "dense", _least(lambda: training.advance(rates[:1]))
    yield "look", _least(lambda: cpu.example_losses(W, b, examples))


def _of_few(n_before: int, n_steps: int = 200) -> Wait:
    """A step with few examples, after so many."""
    config, rng = bh.TrainConfig(n_examples=5, n_features=10_000, n_steps=50_000), np.random.default_rng(0)
    examples, (W, b) = sample_examples(5, 10_000, 0.999, rng), initial_weights(2, 10_000, "xavier_normal", rng)
    training = cpu.start(W, b, examples, AdamW(weight_decay=config.weight_decay), config.reduction)
    rates = learning_rates(config)
    training.advance(rates[:n_before])
    taken = _least(lambda: training.advance(rates[training.step : training.step + n_steps]))
    return Wait(taken.wall_seconds / n_steps, taken.cpu_seconds / n_steps)


def _copied() -> Wait:
    words = np.array(["the", "a", "of", "king", "river", "went", "said", "over", "stone", "light", "never", "north"])
    drawn = " ".join(np.random.default_rng(0).choice(words, _N_BYTES // 5))
    output = drawn[1_000 : 1_000 + _N_OUTPUT]
    return _least(lambda: bh.language.copied(output, bh.language.Texts(("words",), (drawn,))), repeats=1)


def _least(call: Callable[[], object], repeats: int = _REPEATS) -> Wait:
    """The least times of some calls, after one that compiles."""
    walls, cpus = [], []
    for number in range(repeats + (repeats > 1)):
        cpu_began, began = time.process_time(), time.perf_counter()
        call()
        if number or repeats == 1:
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - cpu_began)
    return Wait(min(walls), min(cpus))


if __name__ == "__main__":
    main()
