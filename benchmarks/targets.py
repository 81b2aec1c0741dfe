"""What byheart is to reach, and whether it does: ratios of medians, shares of the machine's ceilings, memory, growth.

Peers are compared with byheart's kernel without skipping, so that no luck with the weights enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.contenders import COMPILED, OURS
from benchmarks.results import Measurement, Results


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
    at_size: list[tuple[int, int, float]] = [(2, 10, 15), (2, 100, 25), (2, 1_000, 80), (2, 10_000, 80)]
    at_size += [(8, 10_000, 25), (32, 10_000, 4), (128, 10_000, 2), (512, 10_000, 1.3)]
    peer = "over the fastest of torch.compile and JAX"
    eager = {"torch-eager": "as installed", "torch-eager-sparse": "sparse X and memory kept"}
    best = results.best_ceilings()
    fma, sgemm = share(dense(results, 2, 10_000), best.fma), share(dense(results, 512, 10_000), best.sgemm)
    skipping = "skipping over our own kernel without, at trained weights"
    large = results.find("byheart", 2, 1_000_000)
    peak = large.peak_bytes / 1e9 if large is not None and large.peak_bytes else None
    costs = [ratio(results.find(name, 2, 1_000_000), results.find(name, 2, 10_000)) for name in OURS]
    cost = None if None in costs else max(value for value in costs if value is not None) / 100
    return [
        *(
            Target(f"m = {m}, T = {T:,}: {peer}", value, "times", over_fastest_peer(results, m, T))
            for m, T, value in at_size
        ),
        *(
            Target(f"m = 2, T = {T:,}: over PyTorch eager, {how}", 400, "times", over(results, name, 2, T))
            for name, how in eager.items()
            for T in (1_000, 10_000)
        ),
        Target("m = 2, T = 10,000: share of the multiply-add peak", 70, "%", None if fma is None else 100 * fma),
        Target("m = 512, T = 10,000: share of the sgemm rate", 75, "%", None if sgemm is None else 100 * sgemm),
        *(
            Target(f"m = 2, T = {T:,}: {skipping}", value, "times", skipping_gain(results, 2, T))
            for T, value in ((1_000, 4), (10_000, 5), (100_000, 10))
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


def fastest_peer(results: Results, n_hidden: int, n_examples: int) -> Measurement | None:
    """Return the fastest way of torch.compile and JAX at a size, if any was timed."""
    found = [results.find(name, n_hidden, n_examples) for name in COMPILED]
    timed = [m for m in found if m is not None and m.seconds]
    return min(timed, key=lambda m: m.median or math.inf, default=None)


def ratio(slower: Measurement | None, faster: Measurement | None) -> float | None:
    """Return how many times as long a step of the first takes, by medians; None if one was not timed."""
    if slower is None or faster is None or slower.median is None or faster.median is None:
        return None
    return slower.median / faster.median


def dense(results: Results, n_hidden: int, n_examples: int, trained: bool = False) -> Measurement | None:
    """Return what byheart without skipping was measured at."""
    return results.find("byheart-dense", n_hidden, n_examples, trained)


def over_fastest_peer(results: Results, n_hidden: int, n_examples: int) -> float | None:
    """Return how many times faster than the fastest of torch.compile and JAX byheart is, without skipping."""
    return ratio(fastest_peer(results, n_hidden, n_examples), dense(results, n_hidden, n_examples))


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
