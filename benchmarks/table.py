"""The results as Markdown: the page that is kept beside them, and the short table for the README."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.bar import (
    bar,
    dense,
    fastest_peer,
    growth,
    number,
    over,
    over_fastest_peer,
    share,
    skipping_gain,
)
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.results import Measurement, Results, Size

BEGIN, END = "<!-- benchmark: made by byheart bench -->", "<!-- benchmark: end -->"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

_HOW = """\
Every contender does the same steps on the same data and weights: loss, gradient and AdamW on the full batch, float32,
n = {n_features:,} features of which 1 in {one_in:,.0f} is active. Each runs in a process of its own, on {n_threads}
thread(s); all processes of a size take turns, {n_rounds} rounds of {seconds_per_round:g} s or one step, so that noise
hits all alike. Times are medians over the rounds (in brackets: fastest and slowest). A contender whose loss, gradient
or weights after three steps are off by more than float32 explains is not timed. "Memory kept" and everything compiled:
the C library is told not to give freed memory back to the system at every step, which makes PyTorch up to three times
faster. Ratios compare with byheart without skipping, and with the fastest way of torch.compile and JAX at that size."""


def page(results: Results) -> str:
    """Return everything as one Markdown page."""
    parts = [f"# Benchmark\n\n{_machine(results)}\n\n{_how(results)}"]
    if results.measurements:
        parts += ["## The bar\n\n" + _bar(results)]
    if results.sizes():
        parts += ["## Time per step\n\n" + _times(results), "## Ratios and rates\n\n" + _rates(results)]
    if results.ceilings:
        parts += ["## Ceilings of the machine\n\n" + _ceilings(results)]
    if results.sizes(trained=True):
        parts += ["## Exact skipping at trained weights\n\n" + _skipping(results)]
    if results.sizes():
        parts += ["## Peak memory\n\n" + _memory(results)]
    if _large(results):
        parts += ["## Growth with the number of examples, m = 2\n\n" + _growth(results)]
    if results.sweep is not None:
        parts += ["## A sweep of small runs\n\n" + _sweep(results)]
    if results.measurements:
        parts += ["## Agreement\n\n" + _agreement(results)]
    return "\n\n".join(parts) + "\n"


def summary(results: Results) -> str:
    """Return the README's table: at each size byheart, the fastest peer and PyTorch eager."""
    rows = []
    for size in results.sizes():
        m, T = size.n_hidden, size.n_examples
        peer, eager = fastest_peer(results, m, T), results.find("torch-eager", m, T)
        if peer is None and eager is None:
            continue
        ours = dense(results, m, T)
        rows.append(
            [
                f"{m}",
                f"{T:,}",
                _time(ours),
                "" if peer is None else f"{_time(peer)} ({CONTENDERS[peer.contender].title})",
                _times_faster(over_fastest_peer(results, m, T)),
                _time(eager),
                _times_faster(over(results, "torch-eager", m, T)),
            ]
        )
    header = ["m", "T", "byheart", "fastest of torch.compile and JAX", "ratio", "PyTorch eager", "ratio"]
    verdicts = [row.verdict for row in bar(results)]
    missed = [f"{row.what} ({row.target}; {row.reached})" for row in bar(results) if row.verdict == "not met"]
    measured = len(verdicts) - verdicts.count("not measured")
    last = f"Targets met: {verdicts.count('met')} of {measured} measured" + (
        ". Not met: " + "; ".join(missed) + "." if missed else "."
    )
    return f"Time per training step. {_machine(results)}\n\n{_table(header, rows)}\n\n{last}"


def put_in_readme(path: Path, text: str) -> None:
    """Replace what stands between the benchmark's two marks in a file.

    Raises:
        ValueError: If the marks are not there, once and in order.
    """
    before, middle, after = _split(path)
    del middle
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def check_readme(path: Path) -> None:
    """Raise a ValueError, before any time is spent, if the file has no place for the table."""
    _split(path)


def _split(path: Path) -> tuple[str, str, str]:
    whole = path.read_text() if path.is_file() else ""
    before, begin, rest = whole.partition(BEGIN)
    middle, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"readme: received {path}, accepted: a file with the lines {BEGIN} and {END}")
    return before, middle, after


def _machine(results: Results) -> str:
    m = results.machine
    versions = {name: m[name] for name in ("byheart", "python", "numpy", "numba")} | m["libraries"]
    gpu = f"GPU: {m['gpu']}, not measured here" if m["gpu"] else "no GPU"
    return (
        f"{m['device']}, {m['memory_bytes'] / 2**30:.0f} GiB, {gpu}; {m['n_threads']} thread(s);"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())};"
        f" revision {m['git_revision'] or 'unknown'}, {m['started'][:10]}; load at the start {m['load_before']:.2g}."
    )


def _how(results: Results) -> str:
    if not results.measurements:
        return "Nothing is measured yet."
    size = results.measurements[0].size
    words = {name: results.machine[name] for name in ("n_threads", "n_rounds", "seconds_per_round")}
    return _HOW.format(n_features=size.n_features, one_in=1 / (1 - size.sparsity), **words)


def _bar(results: Results) -> str:
    rows = [[row.what, row.target, row.reached, row.verdict] for row in bar(results)]
    return _table(["what", "target", "reached", "verdict"], rows)


def _times(results: Results) -> str:
    names = results.contenders(list(CONTENDERS))
    rows = [
        [f"{s.n_hidden}", f"{s.n_examples:,}"]
        + [_time(results.find(name, s.n_hidden, s.n_examples), spread=True) for name in names]
        for s in results.sizes()
    ]
    return _table(["m", "T", *(CONTENDERS[name].title for name in names)], rows)


def _rates(results: Results) -> str:
    best = results.best_ceilings()
    rows = []
    for s in results.sizes():
        m, T = s.n_hidden, s.n_examples
        ours, peer = dense(results, m, T), fastest_peer(results, m, T)
        if ours is None or ours.median is None:
            continue
        rows.append(
            [
                f"{m}",
                f"{T:,}",
                _time(ours),
                "" if peer is None else CONTENDERS[peer.contender].title,
                _times_faster(over_fastest_peer(results, m, T)),
                _times_faster(None if (limit := share(peer, best.fma)) is None else 1 / limit),
                _times_faster(over(results, "torch-eager", m, T)),
                _times_faster(over(results, "torch-eager-sparse", m, T)),
                number(s.pairs / ours.median / 1e9),
                number(s.product_flop / ours.median / 1e9),
                _percent(share(ours, best.fma)),
                _percent(share(ours, best.sgemm)),
            ]
        )
    header = ["m", "T", "byheart, no skipping", "fastest peer", "over it", "most possible", "over eager"]
    header += ["over eager, memory kept", "10⁹ pairs/s", "GFLOP/s", "of multiply-add peak", "of sgemm"]
    note = (
        "FLOP: the three products of a step, 6 m per pair. A vector of pairs needs 3 m multiply-adds, and one maximum"
        " and one addition that are not counted (on Zen 4 they go to other pipes). Whole steps, AdamW included. Most"
        " possible: the ratio of a kernel that computes every pair at the multiply-add peak and needs no other time."
    )
    return _table(header, rows) + "\n\n" + note


def _ceilings(results: Results) -> str:
    best = results.best_ceilings()
    rows = []
    for name, field, scale, unit in (
        ("multiply-add (float32, in registers)", "fma", 1e9, "GFLOP/s"),
        ("sgemm (NumPy)", "sgemm", 1e9, "GFLOP/s"),
        ("copy, read + write (256 MiB)", "copy", 1e9, "GB/s"),
    ):
        values = [getattr(c, field) / scale for c in results.ceilings]
        rows.append([name, f"{getattr(best, field) / scale:.4g} {unit}", f"{min(values):.4g} to {max(values):.4g}"])
    measured = f"over {len(results.ceilings)} measurements, one before each size"
    return _table(["ceiling", "best (this is compared with)", measured], rows)


def _skipping(results: Results) -> str:
    rows = [
        [
            f"{s.n_hidden}",
            f"{s.n_examples:,}",
            f"{s.trained_steps:,}",
            _time(results.find("byheart", s.n_hidden, s.n_examples, trained=True), spread=True),
            _time(dense(results, s.n_hidden, s.n_examples, trained=True), spread=True),
            _times_faster(skipping_gain(results, s.n_hidden, s.n_examples)),
        ]
        for s in results.sizes(trained=True)
    ]
    return _table(["m", "T", "trained for (steps)", "byheart", "byheart, no skipping", "gain"], rows)


def _memory(results: Results) -> str:
    names = results.contenders(list(CONTENDERS))
    rows = []
    for s in results.sizes():
        found = [results.find(name, s.n_hidden, s.n_examples) for name in names]
        rows.append(
            [f"{s.n_hidden}", f"{s.n_examples:,}"]
            + ["" if m is None or not m.peak_bytes else f"{m.peak_bytes / 1e6:.0f}" for m in found]
        )
    base = {name: max(m.base_bytes for m in results.measurements if m.contender == name) / 1e6 for name in names}
    rows.append(["", "before the problem", *(f"{base[name]:.0f}" for name in names)])
    note = (
        "Resident memory of the whole process in MB (10⁶ bytes), interpreter and libraries included, at its highest."
        " Where memory is kept, that includes what was freed; where byheart's code is compiled for the first time, some"
        " 300 MB for that."
    )
    return _table(["m", "T", *(CONTENDERS[name].title for name in names)], rows) + "\n\n" + note


def _large(results: Results) -> list[Size]:
    sizes = [s for s in results.sizes() if s.n_hidden == 2]
    return sizes if len(sizes) > 1 else []


def _growth(results: Results) -> str:
    sizes = _large(results)
    first = next((s.n_examples for s in sizes if s.n_examples >= 10_000), sizes[0].n_examples)
    rows = []
    for s in sizes:
        found = [results.find(name, 2, s.n_examples) for name in OURS]
        per_example = [growth(results, name, first, s.n_examples) for name in OURS]
        rows.append(
            [f"{s.n_examples:,}"]
            + [_time(m, spread=True) for m in found]
            + ["" if value is None else f"{value:.3g}" for value in per_example]
            + ["" if m is None or not m.peak_bytes else f"{m.peak_bytes / 1e6:.0f} MB" for m in found]
        )
    titles = [CONTENDERS[name].title for name in OURS]
    header = ["T", *titles, *(f"{t}: cost per example, T = {first:,} is 1" for t in titles)]
    return _table([*header, *(f"{t}: peak memory" for t in titles)], rows)


def _sweep(results: Results) -> str:
    s = results.sweep
    assert s is not None
    return (
        f"{s.n_runs} runs (T = {', '.join(map(str, s.n_examples))}; {s.n_steps:,} steps each) on {s.n_workers}"
        f" worker(s): {s.wall_seconds:.1f} s. Their steps alone, one after the other on one thread:"
        f" {s.kernel_seconds:.1f} s, so {100 * s.efficiency:.0f} % of the workers' time went into steps; the rest is"
        " starting the workers, drawing examples, measuring the model and writing its file."
    )


def _agreement(results: Results) -> str:
    rows = []
    for name in results.contenders(list(CONTENDERS)):
        checked = [m for m in results.measurements if m.contender == name and m.errors]
        worst = max((max(m.errors.values()) for m in checked), default=None)
        rows.append([CONTENDERS[name].title, f"{len(checked)}", "" if worst is None else f"{worst:.2g}"])
    text = _table(["contender", "sizes checked", "largest error, of what is tolerated"], rows)
    for m in results.measurements:
        if m.problem:
            where = f"m = {m.size.n_hidden}, T = {m.size.n_examples:,}"
            text += f"\n\nNot timed: {CONTENDERS[m.contender].title} at {where}: {m.problem}."
    idle = max(m.idle_cpu_seconds for m in results.measurements)
    return text + f"\n\nProcessor time that a contender used while it was not its turn: at most {idle:.2g} s per size."


def _time(measurement: Measurement | None, spread: bool = False) -> str:
    if measurement is None:
        return ""
    if measurement.median is None:
        return "disagrees" if measurement.problem.startswith("disagrees") else "failed"
    scale, unit = next(((s, u) for s, u in _UNITS if measurement.median >= s), _UNITS[-1])
    low, high = (value / scale for value in (min(measurement.seconds), max(measurement.seconds)))
    between = f" ({number(low)} to {number(high)})" if spread else ""
    return f"{number(measurement.median / scale)} {unit}{between}"


def _times_faster(value: float | None) -> str:
    return "" if value is None else f"{number(value)}x"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
