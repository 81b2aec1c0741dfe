"""What byheart is to reach, and whether it does: ratios of medians, shares of the machine's ceilings, waits, memory.

At random weights peers are compared with byheart's kernel without skipping, so that no luck with the weights enters; at
trained weights, which stay, and over whole runs, with byheart as it is. A whole run of a peer is the sum of its steps:
the trapezoid rule over the weights at which they were timed, the start included. Ours is by the clock, with all around.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from benchmarks.contenders import OURS, PEERS
from benchmarks.results import Measurement, Results, TrainedRun


@dataclass(frozen=True)
class Target:
    """A number to reach."""

    what: str
    value: float
    unit: str
    reached: float | None
    """The number reached; None if it was not measured."""
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Return "met", "not met" or "not measured"."""
        if self.reached is None:
            return "not measured"
        return "met" if (self.reached <= self.value if self.at_most else self.reached >= self.value) else "not met"


def targets(results: Results) -> list[Target]:
    """Return every target, and what the results reach of it."""
    return [*_over_peers(results), *_of_waits(results), *_of_the_kernel(results)]


def _over_peers(results: Results) -> list[Target]:
    whole = paper_run(results)
    reached = None if whole is None else over_whole(results, whole)
    found = [Target("a whole run, m = 2, T = 10,000, 50,000 steps: over the fastest peer", 120, "times", reached)]
    trained = ((8, 10_000, 12), (32, 10_000, 5), (64, 2_000, 4), (128, 10_000, 3), (512, 10_000, 2.2))
    for m, T, value in trained:
        reached = over_fastest_peer(results, m, T, trained=True)
        what = f"m = {m}, T = {T:,}, trained weights that stay: over the fastest peer"
        found.append(Target(what, value, "times", reached))
    for m in (32, 128, 512):
        cells = [over_fastest_peer(results, m, T) for T in (10, 100, 1_000)]
        least = min(cell for cell in cells if cell is not None) if None not in cells else None
        what = f"m = {m}, T = 10, 100 and 1,000, random weights: over the fastest peer, the least of the three"
        found.append(Target(what, 1.3, "times", least))
    for T, value in ((10, 15), (100, 25), (1_000, 80), (10_000, 80)):
        reached = over_fastest_peer(results, 2, T)
        found.append(Target(f"m = 2, T = {T:,}, random weights: over the fastest peer", value, "times", reached))
    return found


def _of_waits(results: Results) -> list[Target]:
    def cpu(name: str) -> float | None:
        return results.waits[name].cpu_seconds if name in results.waits else None

    def quotient(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one / other

    wider, again, small = cpu("wider"), cpu("again"), cpu("small")
    wall = {name: wait.wall_seconds for name, wait in results.waits.items()}
    of_sum = None if results.sweep is None else results.sweep.wall_seconds / results.sweep.kernel_seconds
    busy = quotient(wall.get("busy"), wall.get("idle"))
    return [
        Target("first run, m = 2, nothing compiled: CPU time", 8, "s", cpu("first"), at_most=True),
        Target(
            "then m = 8: CPU time, less that of a run with all compiled",
            3,
            "s",
            None if wider is None or again is None else wider - again,
            at_most=True,
        ),
        Target(
            "a run of T = 5, n = 1,000, 100 steps, its steps included: CPU time",
            20,
            "ms",
            None if small is None else 1000 * small,
            at_most=True,
        ),
        Target("a sweep of small runs, over the sum of their steps on one core", 0.6, "times", of_sum, at_most=True),
        Target(
            "T = 5, n = 10,000, 50,000 steps beside one busy process per core, over the same alone",
            2.5,
            "times",
            busy,
            at_most=True,
        ),
        Target(
            "a look at the train loss, T = 10,000, m = 2, over a dense step: CPU time",
            1,
            "times",
            quotient(cpu("look"), cpu("dense")),
            at_most=True,
        ),
        Target("byheart --help: CPU time", 0.5, "s", cpu("help"), at_most=True),
    ]


def _of_the_kernel(results: Results) -> list[Target]:
    best = results.best_ceilings()
    fma = share(dense(results, 2, 10_000), best.fma)
    products = share(results.find("byheart", 128, 10_000, trained=True), best.sgemm)
    large = results.find("byheart", 2, 1_000_000)
    peak = large.peak_bytes / 1e9 if large is not None and large.peak_bytes else None
    costs = [ratio(results.find(name, 2, 1_000_000), results.find(name, 2, 10_000)) for name in OURS]
    cost = None if None in costs else max(value for value in costs if value is not None) / 100
    return [
        Target(
            "m = 128, T = 10,000, trained weights: share of a step that one product takes at NumPy's best rate",
            60,
            "%",
            None if products is None else 100 * products / 3,
        ),
        Target(
            "m = 2, T = 10,000, random weights: share of the multiply-add peak",
            70,
            "%",
            None if fma is None else 100 * fma,
        ),
        *(
            Target(
                f"m = 2, T = {T:,}, trained weights: skipping over our own kernel without",
                value,
                "times",
                skipping_gain(results, 2, T),
            )
            for T, value in ((1_000, 4), (10_000, 5))
        ),
        Target("m = 2, T = 1,000,000: peak memory of the process", 1, "GB", peak, at_most=True),
        Target(
            "m = 2: a step's cost per example at T = 1,000,000 against T = 10,000 (5 % for noise)",
            1.05,
            "times",
            cost,
            at_most=True,
        ),
    ]


def paper_run(results: Results) -> TrainedRun | None:
    """Return the run of the paper's length, if it was measured."""
    runs = [run for run in results.runs if (run.size.n_hidden, run.size.n_examples) == (2, 10_000)]
    return next((run for run in runs if run.size.run_steps == 50_000), None)


def fastest_peer(results: Results, n_hidden: int, n_examples: int, trained: bool = False) -> Measurement | None:
    """Return the fastest peer at a size, if any was timed."""
    found = [results.find(name, n_hidden, n_examples, trained) for name in PEERS]
    timed = [m for m in found if m is not None and m.seconds]
    return min(timed, key=lambda m: m.median or math.inf, default=None)


def whole_seconds(results: Results, run: TrainedRun, contender: str) -> float | None:
    """Return how long the steps of a run take a contender, or None if it was not tried at every point.

    Weights at which float32 takes it too far from the reference to be timed count as those before and after them do, at
    the end as the last before; None, if these are the weights of the start or of the second half.
    """
    last, points = run.points[-1], []
    for step in (0, *run.points):
        size = dataclasses.replace(run.size, trained_steps=step) if step else run.size.start
        found = results.at(contender, size)
        if found is None:
            return None
        if found.median is not None:
            points.append((step, found.median))
    if not points or points[0][0] > 0 or 2 * points[-1][0] < last:
        return None
    if points[-1][0] < last:
        points.append((last, points[-1][1]))
    return sum((b - a) * (x + y) / 2 for (a, x), (b, y) in itertools.pairwise(points))


def fastest_whole(results: Results, run: TrainedRun) -> tuple[float, str] | None:
    """Return the seconds and the name of the peer whose steps of a run take least, if one was timed."""
    totals = [(whole_seconds(results, run, name), name) for name in PEERS]
    return min(((total, name) for total, name in totals if total is not None), default=None)


def over_whole(results: Results, run: TrainedRun) -> float | None:
    """Return how many times as long as our whole run the steps of the fastest peer take."""
    peer = fastest_whole(results, run)
    return None if peer is None else peer[0] / run.wall_seconds


def ratio(slower: Measurement | None, faster: Measurement | None) -> float | None:
    """Return how many times as long a step of the first takes, by medians; None if one was not timed."""
    if slower is None or faster is None or slower.median is None or faster.median is None:
        return None
    return slower.median / faster.median


def dense(results: Results, n_hidden: int, n_examples: int, trained: bool = False) -> Measurement | None:
    """Return what byheart without skipping was measured at."""
    return results.find("byheart-dense", n_hidden, n_examples, trained)


def over_fastest_peer(results: Results, n_hidden: int, n_examples: int, trained: bool = False) -> float | None:
    """Return how many times faster than the fastest peer byheart is; at random weights without skipping."""
    ours = results.find("byheart" if trained else "byheart-dense", n_hidden, n_examples, trained)
    return ratio(fastest_peer(results, n_hidden, n_examples, trained), ours)


def over(results: Results, contender: str, n_hidden: int, n_examples: int) -> float | None:
    """Return how many times faster than a contender byheart is, without skipping."""
    return ratio(results.find(contender, n_hidden, n_examples), dense(results, n_hidden, n_examples))


def skipping_gain(results: Results, n_hidden: int, n_examples: int) -> float | None:
    """Return how many times faster byheart's steps at trained weights are with skipping than without."""
    kept = results.find("byheart", n_hidden, n_examples, trained=True)
    return ratio(dense(results, n_hidden, n_examples, trained=True), kept)


def share(measurement: Measurement | None, ceiling: float) -> float | None:
    """Return the rate at which a step does its products, as a share of a ceiling in FLOP/s; None without either."""
    if measurement is None or measurement.median is None or not ceiling:
        return None
    return measurement.size.product_flop / measurement.median / ceiling
