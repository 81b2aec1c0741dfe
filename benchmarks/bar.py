"""What byheart is to reach, and whether it does: ratios of medians, shares of the machine's ceilings, memory, growth.

Peers are compared with byheart's kernel without skipping, so that no luck with the weights enters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.contenders import COMPILED, EAGER
from benchmarks.results import Measurement, Results

Verdict = Literal["met", "not met", "not measured"]
Unit = Literal["times", "%", "GB"]


@dataclass(frozen=True)
class Target:
    """A number to reach."""

    what: str
    value: float
    unit: Unit
    reached: Callable[[Results], float | None]
    """The number reached; None if it was not measured."""
    at_most: bool = False


@dataclass(frozen=True)
class Row:
    """A target, and what became of it."""

    what: str
    target: str
    reached: str
    verdict: Verdict


def bar(results: Results) -> list[Row]:
    """Hold the results against every target."""
    rows = []
    for target in TARGETS:
        value = target.reached(results)
        sign = "at most" if target.at_most else "at least"
        verdict: Verdict = "not measured"
        if value is not None:
            verdict = "met" if (value <= target.value if target.at_most else value >= target.value) else "not met"
        reached = "" if value is None else f"{number(value)} {target.unit}"
        rows.append(Row(target.what, f"{sign} {target.value:g} {target.unit}", reached, verdict))
    return rows


def number(value: float) -> str:
    """Return a number above 0 with three digits, and without an exponent where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


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
    """Return the rate at which a step does its products, as a share of a ceiling in FLOP/s."""
    if measurement is None or measurement.median is None:
        return None
    return measurement.size.product_flop / measurement.median / ceiling


def growth(results: Results, contender: str, fewer: int, more: int) -> float | None:
    """Return how many times more a step costs per example at ``more`` examples than at ``fewer``, at m = 2."""
    value = ratio(results.find(contender, 2, more), results.find(contender, 2, fewer))
    return None if value is None else value * fewer / more


def _share_of(ceiling: Literal["fma", "sgemm"], n_hidden: int, n_examples: int, results: Results) -> float | None:
    if not results.ceilings:
        return None
    value = share(dense(results, n_hidden, n_examples), getattr(results.best_ceilings(), ceiling))
    return None if value is None else 100 * value


def _peak(results: Results) -> float | None:
    found = results.find("byheart", 2, 1_000_000)
    return found.peak_bytes / 1e9 if found is not None and found.peak_bytes else None


def _growth(results: Results) -> float | None:
    values = [growth(results, name, 10_000, 1_000_000) for name in ("byheart", "byheart-dense")]
    return None if None in values else max(value for value in values if value is not None)


def _targets() -> list[Target]:
    peer: list[tuple[int, int, float]] = [(2, 10, 15), (2, 100, 25), (2, 1_000, 80), (2, 10_000, 80)]
    peer += [(8, 10_000, 25), (32, 10_000, 4), (128, 10_000, 2), (512, 10_000, 1.3)]
    targets = [
        Target(
            f"m = {m}, T = {T:,}: over the fastest of torch.compile and JAX",
            value,
            "times",
            functools.partial(over_fastest_peer, n_hidden=m, n_examples=T),
        )
        for m, T, value in peer
    ]
    words = dict(zip(EAGER, ("PyTorch eager, as installed", "PyTorch eager, sparse X and memory kept"), strict=True))
    targets += [
        Target(
            f"m = 2, T = {T:,}: over {words[name]}",
            400,
            "times",
            functools.partial(over, contender=name, n_hidden=2, n_examples=T),
        )
        for name in EAGER
        for T in (1_000, 10_000)
    ]
    targets += [
        Target(
            "m = 2, T = 10,000: share of the multiply-add peak",
            70,
            "%",
            lambda results: _share_of("fma", 2, 10_000, results),
        ),
        Target(
            "m = 512, T = 10,000: share of the sgemm rate",
            75,
            "%",
            lambda results: _share_of("sgemm", 512, 10_000, results),
        ),
    ]
    targets += [
        Target(
            f"m = 2, T = {T:,}: skipping over our own kernel without, at trained weights",
            value,
            "times",
            functools.partial(skipping_gain, n_hidden=2, n_examples=T),
        )
        for T, value in ((1_000, 4), (10_000, 5), (100_000, 10))
    ]
    return [
        *targets,
        Target("m = 2, T = 1,000,000: peak memory of the process", 1, "GB", _peak, at_most=True),
        Target(
            "m = 2: a step's cost per example at T = 1,000,000 against T = 10,000 (5 % for noise)",
            1.05,
            "times",
            _growth,
            at_most=True,
        ),
    ]


TARGETS = _targets()
