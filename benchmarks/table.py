"""All results of one kind of machine as a Markdown page, kept beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.agreement import STEPS_UP_TO
from benchmarks.config import TURN_SECONDS, TURN_STEPS
from benchmarks.contenders import CONTENDERS, NEAR, OURS
from benchmarks.results import KINDS, Measurement, Results, Size
from benchmarks.targets import (
    dense,
    fastest_peer,
    fastest_whole,
    over,
    over_fastest_peer,
    over_whole,
    ratio,
    share,
    whole_seconds,
)
from benchmarks.waits import WORDS
from byheart.own import check_marked
from byheart.storage import write_atomically

MARK = "<!-- made by python -m benchmarks -->"
_UNITS = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "µs"))

_HOW = """\
Every contender does the same steps on the same data and weights: loss, gradient and AdamW on the full batch, float32,
n = {n_features:,} features of which 1 in {one_in:,.0f} is active. Each runs in a process of its own, on {n_threads}
thread(s); all processes of a size take turns, {n_rounds} rounds of {seconds_per_round:g} s or one step, so that noise
hits all alike (byheart at trained weights longer, see there). Times are medians over the rounds (in brackets: fastest
and slowest). A contender whose loss, gradient or weights after three steps (up to m T n = {steps_up_to:,.0f}) are off
by more than float32 explains is not timed. "Memory kept" and everything compiled: the C library is told not to give
freed memory back to the system at every step, which makes PyTorch up to three times faster. Ratios compare the fastest
peer at that size with byheart, at random weights without skipping. PyTorch with dense X, which was the fastest nowhere
in earlier tables, is timed at the smallest width only."""

_FLOP = """\
FLOP: the three products of a step, 6 m per pair. A vector of pairs needs 3 m multiply-adds, and one maximum and one \
addition that are not counted (on Zen 4 they go to other pipes). Whole steps, AdamW included. Most possible: the ratio \
of a kernel that computes every pair at the multiply-add peak and needs no other time. Above eight hidden units \
byheart takes gradients from active outputs only, so that it can exceed these rates."""

_TRAINED = """\
Weights of whole runs by byheart, from the data and weights of the table of random weights, after so many steps. Timed
are byheart and the peers that are less than {near:g} times slower than the fastest at the start; without skipping,
byheart is timed at the ends. It skips tiles up to eight hidden units and, from three on, goes over to lists of the
pairs that can be active where that pays. AdamW's moments begin anew, and the learning rate is 1e-6, so that the weights
stay: lists are then hardly longer than what is active. At the full rate they are longer, and after as few steps as here
with more than eight hidden units not used yet: what such a run takes is in the table above, and nearer to the column
without skipping. With skipping a turn has at least {turn} steps, so that it includes making the lists once; where these
would take more than {turn_seconds:g} s it has fewer, and may not. Active: the outputs that are not zero, of 256
examples."""

_WHOLE = """\
byheart by the clock: the whole call of `bh.train`, with 100 looks at the loss, the test loss and the file. A peer: its
steps alone, by the trapezoid rule over the weights at which they were timed: those of the start, and of as many steps
of our run as the last column says. "Its steps" is the same rule for byheart."""

_WAITS = """\
The first five with one thread, the first run with an empty cache of compiled code. The rows of steps, looks and the
small run are the least of five, in one process."""


_RESIDENT = """\
Resident memory of the whole process in MB (10⁶ bytes), interpreter and libraries included, at its highest. Where \
memory is kept, that includes what was freed; where byheart's code is compiled for the first time, some 300 MB for \
that."""


def write_page(path: Path, text: str) -> None:
    """Write a page that begins with the mark that says who made it.

    Raises:
        ValueError: If there is a file without the mark.
        OSError: If it cannot be written.
    """
    check_marked(path, MARK)
    write_atomically(path, text.encode())


def page(results: Results) -> str:
    """Return everything as one Markdown page."""
    parts = [f"{MARK}\n# Benchmark, {kind(results)}\n\n{machine(results)}\n\n{_how(results)}"]
    if results.waits:
        parts += ["## What a person waits for\n\n" + _waits(results)]
    if results.sweep is not None:
        parts += ["## A sweep of small runs\n\n" + _sweep(results)]
    if results.runs:
        parts += ["## Whole runs\n\n" + _whole(results)]
    if results.sizes(trained=True):
        parts += ["## Time per step at trained weights\n\n" + _trained(results)]
    if results.sizes():
        parts += ["## Time per step at random weights\n\n" + _times(results)]
        parts += ["## Ratios and rates at random weights\n\n" + _rates(results)]
    if results.ceilings:
        parts += ["## Ceilings of the machine\n\n" + _ceilings(results)]
    if results.sizes():
        parts += ["## Peak memory\n\n" + _memory(results)]
    if results.measurements:
        parts += ["## Agreement\n\n" + _agreement(results)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def number(value: float) -> str:
    """Return a number above 0 with three digits, and without an exponent where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return a time in the unit in which a person would say it."""
    _, scale, unit = _unit(seconds)
    return f"{number(seconds / scale)} {unit}"


def kind(results: Results) -> str:
    """Return what the kind of machine is called."""
    return KINDS[results.machine["instructions"]]


def machine(results: Results) -> str:
    """Return machine, versions, revision and date in a line."""
    m = results.machine
    calls = f"; measured in {m['n_calls']} calls" if m["n_calls"] > 1 else ""
    when = f"{m['started'][:10]}; load at the start {m['load_before']:.2g}{calls}"
    versions = {name: m[name] for name in ("byheart", "python", "numpy", "numba")} | m["libraries"]
    gpu = f"GPU: {m['gpu']}, not measured here" if m["gpu"] else "no GPU"
    return (
        f"{m['device']}, {kind(results)}, {m['memory_bytes'] / 2**30:.0f} GiB, {gpu}; {m['n_threads']} thread(s);"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())};"
        f" revision {m['git_revision'] or 'unknown'}, {when}."
    )


def _how(results: Results) -> str:
    if not results.measurements:
        return "Nothing is measured yet."
    return _HOW.format(steps_up_to=STEPS_UP_TO, one_in=1 / (1 - results.machine["sparsity"]), **results.machine)


def _waits(results: Results) -> str:
    rows = [
        [WORDS[name], duration(wait.wall_seconds), duration(wait.cpu_seconds)] for name, wait in results.waits.items()
    ]
    return table(["what", "by the clock", "CPU time"], rows) + f"\n\n{_WAITS}"


def _whole(results: Results) -> str:
    rows = []
    for run in sorted(results.runs, key=lambda run: (run.size.n_hidden, run.size.n_examples, run.size.run_steps)):
        steps, peer = whole_seconds(results, run, "byheart"), fastest_whole(results, run)
        rows.append(
            [
                *_m_and_T(results, run.size),
                f"{run.size.run_steps:,}",
                duration(run.wall_seconds),
                "" if steps is None else duration(steps),
                "" if peer is None else f"{duration(peer[0])} ({CONTENDERS[peer[1]].title})",
                _times_faster(over_whole(results, run)),
                f"{len(run.points)}",
            ]
        )
    header = ["m", "T", "steps", "byheart", "its steps", "fastest peer", "over it", "points beside the start"]
    return f"{table(header, rows)}\n\n{_WHOLE}"


def _trained(results: Results) -> str:
    names = results.contenders(list(CONTENDERS))
    runs = {run.size: run for run in results.runs}
    rows = []
    for s in results.sizes(trained=True):
        found = {name: results.at(name, s) for name in names}
        peers = [m for name, m in found.items() if name not in OURS and m is not None and m.median is not None]
        fastest = min(peers, key=lambda m: m.median or 0.0, default=None)
        rows.append(
            [
                *_m_and_T(results, s),
                f"{s.trained_steps:,} of {s.run_steps:,}",
                f"{100 * runs[s].active:.2g} %" if s in runs else "",
                *(_time(found[name], spread=True) for name in names),
                _times_faster(ratio(fastest, found.get("byheart"))),
                _times_faster(ratio(found.get("byheart-dense"), found.get("byheart"))),
            ]
        )
    titles = [CONTENDERS[name].title for name in names]
    header = ["m", "T", "steps", "active", *titles, "over the fastest peer", "gain by skipping"]
    return f"{table(header, rows)}\n\n{_TRAINED.format(near=NEAR, turn=TURN_STEPS, turn_seconds=TURN_SECONDS)}"


def _per_contender(results: Results) -> tuple[list[str], list[str]]:
    """Names of the contenders that took part, and the header of a table with a row per size and a column for each."""
    names = results.contenders(list(CONTENDERS))
    return names, ["m", "T", *(CONTENDERS[name].title for name in names)]


def _times(results: Results) -> str:
    names, header = _per_contender(results)
    rows = [
        [*_m_and_T(results, s), *(_time(results.at(name, s), spread=True) for name in names)] for s in results.sizes()
    ]
    return table(header, rows)


def _rates(results: Results) -> str:
    best = results.best_ceilings()
    rows = []
    for s in results.sizes():
        at = results, s.n_hidden, s.n_examples
        ours, peer = dense(*at), fastest_peer(*at)
        if ours is None or ours.median is None:
            continue
        of_peak = share(peer, best.fma)
        rows.append(
            [
                *_m_and_T(results, s),
                _time(ours),
                "" if peer is None else f"{_time(peer)} ({CONTENDERS[peer.contender].title})",
                _times_faster(over_fastest_peer(*at)),
                _times_faster(None if of_peak is None else 1 / of_peak),
                _times_faster(over(results, "torch-eager", s.n_hidden, s.n_examples)),
                _times_faster(over(results, "torch-eager-sparse", s.n_hidden, s.n_examples)),
                number(s.pairs / ours.median / 1e9),
                number(s.product_flop / ours.median / 1e9),
                _percent(share(ours, best.fma)),
                _percent(share(ours, best.sgemm)),
            ]
        )
    header = ["m", "T", "byheart, no skipping", "fastest peer", "over it", "most possible", "over eager"]
    header += ["over eager, memory kept", "10⁹ pairs/s", "GFLOP/s", "of multiply-add peak", "of sgemm"]
    return f"{table(header, rows)}\n\n{_FLOP}"


def _ceilings(results: Results) -> str:
    best = results.best_ceilings()
    rows = []
    for name, field, unit in (
        ("multiply-add (float32, in registers)", "fma", "GFLOP/s"),
        ("sgemm (NumPy)", "sgemm", "GFLOP/s"),
        ("copy, read + write (256 MiB)", "copy", "GB/s"),
    ):
        values = [getattr(c, field) / 1e9 for c in results.ceilings]
        rows.append([name, f"{getattr(best, field) / 1e9:.4g} {unit}", f"{min(values):.4g} to {max(values):.4g}"])
    measured = f"over {len(results.ceilings)} measurements, one before each size"
    return table(["ceiling", "best (this is compared with)", measured], rows)


def _memory(results: Results) -> str:
    names, header = _per_contender(results)
    rows = [[*_m_and_T(results, s), *(_peak(results.at(name, s)) for name in names)] for s in results.sizes()]
    base = (max(m.base_bytes for m in results.measurements if m.contender == name) for name in names)
    rows.append(["", "before the problem", *(f"{value / 1e6:.0f}" for value in base)])
    return f"{table(header, rows)}\n\n{_RESIDENT}"


def _sweep(results: Results) -> str:
    s = results.sweep
    assert s is not None
    share_of_sum = s.wall_seconds / s.kernel_seconds
    return (
        f"{s.n_runs} runs (T = {', '.join(map(str, s.n_examples))}; {s.n_steps:,} steps each) on {s.n_workers}"
        f" worker(s): {s.wall_seconds:.1f} s. Their steps alone, one after the other on one thread:"
        f" {s.kernel_seconds:.1f} s; the sweep took {number(share_of_sum)} of that. {100 * s.efficiency:.0f} % of the"
        " workers' time went into steps; the rest is"
        " starting the workers, drawing examples, measuring the model and writing its file."
    )


def _agreement(results: Results) -> str:
    rows = []
    for name in results.contenders(list(CONTENDERS)):
        checked = [max(m.errors.values()) for m in results.measurements if m.contender == name and m.errors]
        rows.append([CONTENDERS[name].title, f"{len(checked)}", f"{max(checked):.2g}" if checked else ""])
    text = table(["contender", "sizes checked", "largest error, of what is tolerated"], rows)
    for m in results.measurements:
        if m.problem:
            where = "m = {}, T = {}".format(*_m_and_T(results, m.size))
            text += f"\n\nNot timed: {CONTENDERS[m.contender].title} at {where}: {m.problem}."
    idle = max(m.idle_cpu_seconds for m in results.measurements)
    return text + f"\n\nProcessor time that a contender used while it was not its turn: at most {idle:.2g} s per size."


def _m_and_T(results: Results, size: Size) -> tuple[str, str]:
    other = "" if size.n_features == results.machine["n_features"] else f" (n = {size.n_features:,})"
    return f"{size.n_hidden}", f"{size.n_examples:,}{other}"


def _time(measurement: Measurement | None, spread: bool = False) -> str:
    if measurement is None:
        return ""
    if measurement.median is None:
        return "disagrees" if measurement.problem.startswith("disagrees") else "failed"
    _, scale, unit = _unit(measurement.median)
    low, high = (value / scale for value in (min(measurement.seconds), max(measurement.seconds)))
    between = f" ({number(low)} to {number(high)})" if spread else ""
    return f"{number(measurement.median / scale)} {unit}{between}"


def _unit(seconds: float) -> tuple[float, float, str]:
    return next(unit for unit in _UNITS if seconds >= unit[0])


def _times_faster(value: float | None) -> str:
    return "" if value is None else f"{number(value)}x"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _peak(measurement: Measurement | None) -> str:
    return "" if measurement is None or not measurement.peak_bytes else f"{measurement.peak_bytes / 1e6:.0f}"
