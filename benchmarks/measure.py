"""Measuring: every contender at a size in a process of its own, agreement first, then rounds in turn.

All contenders of a size are alive at once and take turns, in an order that is reversed every round, so that whatever
else the machine does hits all alike. Only one computes at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agreement import (
    LEARNING_RATE,
    Answer,
    answer,
    check_optimizer,
    check_steps,
    disagreement,
    errors,
    terms,
)
from benchmarks.child import ChildError, Process
from benchmarks.config import BenchConfig
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.problem import Problem
from benchmarks.results import Ceilings, Measurement, Results, Size, SweepTiming
from byheart.toy.config import TrainConfig
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW
from byheart.toy.model import initial_weights
from byheart.toy.sweep import grid, sweep
from byheart.toy.train import draw_examples, kernel_provenance, train

_SEED = 0
_SWEEP_EXAMPLES = (3, 10, 30, 100)
_TURN_STEPS = 64  # at least, at trained weights: what skipping redoes only every so many steps, every turn must pay
OnProgress = Callable[[float, float, str], None]
"""Called with the parts done, their number, and the part that comes next."""


def benchmark(config: BenchConfig, on_progress: OnProgress) -> Iterator[Results]:
    """Measure everything the config names; yields all results so far, after each part.

    Raises:
        ValueError: If a run in ``config.runs`` that is needed is damaged.
        OSError: If runs cannot be written there.
        ChildError: If the machine's ceilings could not be measured.
    """
    results = Results(_machine(config))
    plan = _plan(config)
    n_parts = len(plan) + (config.sweep_runs > 0)
    with tempfile.TemporaryDirectory(prefix="byheart-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        machine = stack.enter_context(Process("", config.n_threads, False, directory))
        if config.sweep_runs:
            on_progress(0, n_parts, "sweep")
            results = dataclasses.replace(results, sweep=_time_sweep(config, directory))
            yield results
        for part, (size, contenders) in enumerate(plan, start=n_parts - len(plan)):
            on_progress(part, n_parts, f"m = {size.n_hidden}, T = {size.n_examples:,}")
            training = functools.partial(_report_training, on_progress, part, n_parts)
            problem = _problem(config, size, training)
            ceilings = Ceilings(**machine.ask("ceilings"))
            measured = measure(size, problem, contenders, config, config.n_threads, directory)
            results = dataclasses.replace(
                results,
                measurements=(*results.measurements, *measured),
                ceilings=(*results.ceilings, ceilings),
            )
            yield results
        on_progress(n_parts, n_parts, "")


def _machine(config: BenchConfig) -> dict[str, Any]:
    """Device, memory, load, versions, git revision, date and settings."""
    libraries = sorted({CONTENDERS[name].library for name in config.contenders} - {""})
    return kernel_provenance("cpu") | {
        "n_threads": config.n_threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
        "load_before": os.getloadavg()[0],  # of others: threads that wait for each other lose most
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "n_rounds": config.n_rounds,
        "seconds_per_round": config.seconds_per_round,
    }


def _gpu() -> str:
    """The models that the NVIDIA driver names; empty if there is none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return ", ".join(line.split(":", 1)[1].strip() for line in lines if "Model" in line)


def measure(
    size: Size, problem: Problem, contenders: list[str], config: BenchConfig, n_threads: int, directory: Path
) -> list[Measurement]:
    """Check the contenders on a problem, and time those that agree with the reference.

    Args:
        size: Size of the problem.
        problem: Data and weights.
        contenders: Names in ``CONTENDERS``.
        config: Number and length of rounds.
        n_threads: Threads of each contender, at least 1.
        directory: Directory for the files that the processes exchange.
    """
    exact = answer(problem, np.float64, None, n_threads)
    optimizer = check_optimizer(exact.grad_W) if check_steps(problem) else AdamW()
    numpy32 = answer(problem, np.float32, optimizer, n_threads)
    sizes_of_terms = terms(problem) if size.trained_steps else {}
    problem.save(directory / "problem.npz")
    found = {name: Measurement(size, name) for name in contenders}
    with contextlib.ExitStack() as stack:
        children: dict[str, Process] = {}
        for name in contenders:
            child = Process(name, n_threads, CONTENDERS[name].keeps_memory, directory)
            children[name] = stack.enter_context(child)
            child.send("build", problem=str(directory / "problem.npz"))
            child.send(
                "answer",
                optimizer=dataclasses.asdict(optimizer),
                n_steps=check_steps(problem),
                path=str(directory / f"{name}.npz"),
            )
        for name, child in list(children.items()):
            try:
                base = child.receive()["base_bytes"]
                child.receive()
                multiples = errors(Answer.load(directory / f"{name}.npz"), exact, numpy32, sizes_of_terms)
                found[name] = dataclasses.replace(found[name], base_bytes=base, errors=multiples)
                problem_found = disagreement(multiples)
            except ChildError as error:
                problem_found = str(error)
            if problem_found:
                found[name] = dataclasses.replace(found[name], problem=problem_found)
                del children[name]
        _time(found, children, config)
    return list(found.values())


def _time(found: dict[str, Measurement], children: dict[str, Process], config: BenchConfig) -> None:
    """Time the children in turn; put the times, or what went wrong, into what was found."""
    seconds: dict[str, list[float]] = {name: [] for name in children}
    idle = dict.fromkeys(children, 0.0)
    steps: dict[str, int] = {}
    for turn in range(-1, config.n_rounds):  # the first finds how many steps fill a turn
        for name in list(children)[:: -1 if turn % 2 else 1]:
            child = children[name]
            try:
                if turn < 0:
                    child.ask("start", learning_rate=_rate(found[name].size))
                    steps[name] = _steps_per_turn(child, found[name].size, config)
                    continue
                reply = child.ask("advance", n_steps=steps[name])
                seconds[name].append(reply["seconds"] / steps[name])
                idle[name] += reply["idle_cpu_seconds"]
            except ChildError as error:
                found[name] = dataclasses.replace(found[name], problem=str(error))
                del children[name]
    for name, child in children.items():
        found[name] = dataclasses.replace(
            found[name],
            seconds=tuple(seconds[name]),
            steps_per_round=steps[name],
            idle_cpu_seconds=idle[name],
            peak_bytes=child.ask("memory")["peak_bytes"],
        )


def _steps_per_turn(child: Process, size: Size, config: BenchConfig) -> int:
    """Find how many steps fill a turn, by timing more and more of them."""
    at_least = _TURN_STEPS if size.trained_steps else 1
    n_steps = 1
    while True:
        seconds: float = child.ask("advance", n_steps=n_steps)["seconds"]
        fitting = max(1, round(n_steps * config.seconds_per_round / max(seconds, 1e-9)))
        if seconds >= config.seconds_per_round / 4:
            return max(fitting, at_least)
        n_steps = min(fitting, 16 * n_steps)


def _rate(size: Size) -> float:
    """Trained weights are timed where they are: the moments of AdamW start anew, and full steps would lead away."""
    return LEARNING_RATE / 1000 if size.trained_steps else LEARNING_RATE


def _plan(config: BenchConfig) -> list[tuple[Size, list[str]]]:
    """The sizes and who is timed at each, without repeats.

    First come trained weights, then two edges of the grid: most of what the targets are about, so that an interrupted
    benchmark has it.
    """
    everyone = list(config.contenders)
    ours = [name for name in everyone if name in OURS]
    grid = list(itertools.product(config.n_hidden, config.n_examples))
    edges = [(m, T) for m, T in grid if m == min(config.n_hidden) or max(config.n_examples) == T]
    trained = [(2, T) for T in config.trained_examples]
    trained += [(m, max(config.n_examples)) for m in config.trained_hidden if config.n_examples]
    plan: dict[Size, list[str]] = {}
    for sizes, steps, names in (
        (trained, config.trained_steps, ours),
        (edges, 0, everyone),
        ([(2, T) for T in config.large_examples], 0, ours),
        (grid, 0, everyone),
    ):
        for m, T in sizes:
            size = Size(m, T, config.n_features, config.sparsity, steps)
            plan[size] = max(plan.get(size, []), names, key=len)
    return [(size, names) for size, names in plan.items() if names]


def _problem(config: BenchConfig, size: Size, on_progress: Callable[[float], None]) -> Problem:
    if size.trained_steps:
        steps = size.trained_steps
        wanted = TrainConfig(size.n_examples, size.n_features, size.sparsity, size.n_hidden, steps, seed=_SEED)
        run = train(wanted, out=config.runs, on_progress=lambda done, _: on_progress(done / steps))
        return Problem(run.W, run.b, draw_examples(run.config))
    rng = np.random.default_rng(_SEED)
    examples = sample_examples(size.n_examples, size.n_features, size.sparsity, rng)
    return Problem(*initial_weights(size.n_hidden, size.n_features, "xavier_normal", rng), examples)


def _report_training(report: OnProgress, part: int, n_parts: int, share: float) -> None:
    report(part + share, n_parts, "training")


def _time_sweep(config: BenchConfig, directory: Path) -> SweepTiming:
    used = _SWEEP_EXAMPLES[: config.sweep_runs]
    n_seeds = -(-config.sweep_runs // len(used))
    base = TrainConfig(used[0], config.n_features, config.sparsity, n_steps=config.sweep_steps)
    configs = grid(base, {"n_examples": used}, range(n_seeds))[: config.sweep_runs]
    began = time.perf_counter()
    sweep(configs, directory / "sweep", n_workers=config.n_threads)
    wall = time.perf_counter() - began
    per_step = {}
    for T in used:
        size = Size(2, T, config.n_features, config.sparsity)
        (alone,) = measure(size, _problem(config, size, lambda _: None), ["byheart"], config, 1, directory)
        if alone.median is None:
            raise ChildError(alone.problem)
        per_step[T] = alone.median
    total = sum(per_step[int(c.n_examples)] * c.n_steps for c in configs)
    return SweepTiming(len(configs), config.sweep_steps, used, config.n_threads, wall, total)
