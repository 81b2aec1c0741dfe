"""Measuring: every contender at a size in a process of its own, agreement first, then rounds in turn.

All contenders of a size are alive at once and take turns, in an order that is reversed every round, so that whatever
else the machine does hits all alike. Only one computes at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import waits
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
from benchmarks.config import FIRST_STEPS, TURN_SECONDS, TURN_STEPS, BenchConfig
from benchmarks.contenders import CONTENDERS, NEAR, NOT_EVERYWHERE, OURS, PEERS
from benchmarks.problem import Problem
from benchmarks.results import Ceilings, Measurement, Results, Size, SweepTiming, TrainedRun, kind_here
from byheart.toy.config import TrainConfig
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import AdamW
from byheart.toy.model import initial_weights
from byheart.toy.sweep import grid, sweep
from byheart.toy.train import kernel_provenance, train

_SEED, _TEST_SEED = 0, 1
_SWEEP_EXAMPLES = (3, 10, 30, 100)
_N_TEST = 10_000
_N_ACTIVE = 256  # examples over which the share of active outputs is taken
OnProgress = Callable[[float, float, str], None]
"""Called with the parts done, their number, and the part that comes next."""
_SAME = (
    "instructions",
    "device",
    "git_revision",
    "n_threads",
    "libraries",
    "numpy",
    "numba",
    "python",
    "n_features",
    "sparsity",
)


def benchmark(config: BenchConfig, on_progress: OnProgress, kept: Results | None = None) -> Iterator[Results]:
    """Measure what the config names and ``kept`` lacks; yields all results so far, after each part.

    Raises:
        ValueError: If ``kept`` was measured on another machine, at another revision or with other versions.
        ChildError: If a process that measures the machine or a sweep ended.
        DivergedError: If a run whose weights are wanted diverged.
    """
    with tempfile.TemporaryDirectory(prefix="byheart-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        results = _begin(config, kept)
        yield results
        machine = stack.enter_context(Process("", config.n_threads, False, directory))
        plan = list(_plan(config))
        for number, part in enumerate(plan):
            on_progress(number, len(plan), part if isinstance(part, str) else _words(part))
            if part == "waits":
                if not results.waits:
                    results = dataclasses.replace(results, waits=waits.measured(config.n_threads))
            elif part == "sweep":
                if results.sweep is None:
                    results = dataclasses.replace(results, sweep=_time_sweep(config, directory))
            elif isinstance(part, Size) and part.run_steps:
                for grown in _time_run(part, results, config, machine, directory):
                    results = grown
                    yield results
            else:
                assert isinstance(part, Size)
                results = _add(results, part, _initial(part), _at_start(part, config), config, machine, directory)
            yield results
        on_progress(len(plan), len(plan), "")


def _begin(config: BenchConfig, kept: Results | None) -> Results:
    here = _machine(config)
    if kept is None:
        return Results(here)
    differing = [name for name in _SAME if _comparable(kept.machine.get(name)) != _comparable(here[name])]
    if differing:
        raise ValueError(
            f"go_on: received results with {differing[0]} {kept.machine.get(differing[0])}, accepted: those with"
            f" {here[differing[0]]}, or a call without --go-on"
        )
    return dataclasses.replace(kept, machine=kept.machine | {"n_calls": kept.machine["n_calls"] + 1})


def _comparable(value: Any) -> Any:
    return value.removesuffix("+") if isinstance(value, str) else value  # results in the tree are changes to it


def _words(size: Size) -> str:
    steps = f", {size.run_steps:,} steps" if size.run_steps else ""
    return f"m = {size.n_hidden}, T = {size.n_examples:,}{steps}"


def _machine(config: BenchConfig) -> dict[str, Any]:
    """Instruction set, device, memory, load, versions, git revision, date and settings."""
    libraries = sorted({CONTENDERS[name].library for name in config.contenders} - {""})
    return kernel_provenance("cpu") | {
        "instructions": kind_here(),
        "n_features": config.n_features,
        "sparsity": config.sparsity,
        "n_threads": config.n_threads,
        "n_calls": 1,
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
                    steps[name] = _steps_per_turn(child, name, found[name].size, config)
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


def _steps_per_turn(child: Process, name: str, size: Size, config: BenchConfig) -> int:
    """Find how many steps fill a turn, by timing more and more of them."""
    skips = name == "byheart" and bool(size.trained_steps)
    if skips:
        child.ask("advance", n_steps=FIRST_STEPS)
    n_steps = 1
    while True:
        seconds: float = child.ask("advance", n_steps=n_steps)["seconds"]
        fitting = max(1, round(n_steps * config.seconds_per_round / max(seconds, 1e-9)))
        if seconds >= config.seconds_per_round / 4:
            longest = max(1, round(n_steps * TURN_SECONDS / seconds))
            return max(fitting, min(TURN_STEPS, longest)) if skips else fitting
        n_steps = min(fitting, 16 * n_steps)


def _rate(size: Size) -> float:
    """Trained weights are timed where they are: the moments of AdamW start anew, and full steps would lead away."""
    return LEARNING_RATE / 1000 if size.trained_steps else LEARNING_RATE


def _plan(config: BenchConfig) -> Iterator[str | Size]:
    """The parts in their order, without repeats; a run follows the steps at its start.

    First comes what most targets are about, so that an interrupted benchmark has it.
    """
    yield from (part for part in ("waits", "sweep") if part in config.only)
    sizes: list[Size] = []
    for run in config.run_sizes() if "trained" in config.only else ():
        sizes += [run.start, run]
    if "steps" in config.only:
        all_sizes = [
            Size(m, T, config.n_features, config.sparsity)
            for m, T in itertools.product(config.n_hidden, config.n_examples)
        ]
        sizes += sorted(all_sizes, key=lambda size: size.n_hidden != min(config.n_hidden))
    if "large" in config.only:
        sizes += [Size(2, T, config.n_features, config.sparsity) for T in _alone(config)]
    yield from dict.fromkeys(sizes)


def _at_start(size: Size, config: BenchConfig) -> Sequence[str]:
    """Names of those who are timed at initial weights."""
    if size.n_examples in _alone(config):
        return OURS
    return [name for name in CONTENDERS if size.n_hidden == min(config.n_hidden) or name not in NOT_EVERYWHERE]


def _alone(config: BenchConfig) -> list[int]:
    """Numbers of examples at which byheart is timed alone."""
    others = {*config.n_examples, *(size.n_examples for size in config.run_sizes())}
    return [T for T in config.large_examples if T not in others]


def _initial(size: Size) -> Problem:
    rng = np.random.default_rng(_SEED)
    examples = sample_examples(size.n_examples, size.n_features, size.sparsity, rng)
    return Problem(*initial_weights(size.n_hidden, size.n_features, "xavier_normal", rng), examples)


def _add(
    results: Results,
    size: Size,
    problem: Problem,
    names: Sequence[str],
    config: BenchConfig,
    machine: Process,
    directory: Path,
) -> Results:
    """Measure the machine, then those of ``names`` that take part, unless the results have the size."""
    wanted = [name for name in config.contenders if name in names]
    if not wanted or any(m.size == size for m in results.measurements):
        return results
    ceilings = Ceilings(**machine.ask("ceilings"))
    measured = measure(size, problem, wanted, config, config.n_threads, directory)
    return dataclasses.replace(
        results, measurements=(*results.measurements, *measured), ceilings=(*results.ceilings, ceilings)
    )


def _time_run(end: Size, results: Results, config: BenchConfig, machine: Process, directory: Path) -> Iterator[Results]:
    """Train from the weights of ``end.start``, then time the contenders at the weights on the way and at the end."""
    between = config.points if end == config.run_sizes()[0] else ()
    points = (*sorted({step for step in between if step < end.run_steps}), end.run_steps)
    at = {step: dataclasses.replace(end, trained_steps=step) for step in points}
    if {m.size for m in results.measurements} >= set(at.values()) and any(run.size == end for run in results.runs):
        return
    problem = _initial(end)
    settings = TrainConfig(
        end.n_examples, end.n_features, end.sparsity, end.n_hidden, end.run_steps, snapshot_steps=points
    )
    rng = np.random.default_rng(_TEST_SEED)
    test = sample_examples(_N_TEST, end.n_features, end.sparsity, rng)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        began = time.perf_counter()
        run = train(
            settings,
            problem.examples,
            (problem.W, problem.b),
            test_examples=test,
            n_threads=config.n_threads,
            out=folder,
        )
        seconds = time.perf_counter() - began
    timing = TrainedRun(end, points, seconds, _active(run.W, run.b, problem.examples))
    results = dataclasses.replace(results, runs=(*(r for r in results.runs if r.size != end), timing))
    near = near_the_fastest(results, end.start)
    for step in reversed(points):
        W, b = (run.snapshots[name][points.index(step)] for name in ("W", "b"))
        ours = OURS if step == end.run_steps else OURS[:1]
        there = Problem(W, b, problem.examples)
        results = _add(results, at[step], there, (*ours, *near), config, machine, directory)
        yield results


def near_the_fastest(results: Results, start: Size) -> list[str]:
    """Return the peers that are less than ``NEAR`` times slower than the fastest at initial weights."""
    found = [results.at(name, start) for name in PEERS]
    medians = {m.contender: m.median for m in found if m is not None and m.median is not None}
    return [name for name, median in medians.items() if median < NEAR * min(medians.values())]


def _active(W: np.ndarray, b: np.ndarray, examples: SparseExamples) -> float:
    rows = examples.to_scipy()[:_N_ACTIVE]
    return float(((rows @ W.T) @ W + b > 0).mean())


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
        (alone,) = measure(size, _initial(size), ["byheart"], config, 1, directory)
        if alone.median is None:
            raise ChildError(alone.problem)
        per_step[T] = alone.median
    total = sum(per_step[int(c.n_examples)] * c.n_steps for c in configs)
    return SweepTiming(len(configs), config.sweep_steps, used, config.n_threads, wall, total)
