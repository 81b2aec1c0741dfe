"""The results as one Markdown page, kept beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.results import Measurement, Results, Size
from benchmarks.targets import dense, fastest_peer, over, over_fastest_peer, share, skipping_gain, targets
from byheart.own import check_marked
from byheart.storage import write_atomically

MARK = "<!-- made by python -m benchmarks -->"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

_HOW = """\
Every contender does the same steps on the same data and weights: loss, gradient and AdamW on the full batch, float32,
n = {n_features:,} features of which 1 in {one_in:,.0f} is active. Each runs in a process of its own, on {n_threads}
thread(s); all processes of a size take turns, {n_rounds} rounds of {seconds_per_round:g} s or one step, so that noise
hits all alike. Times are medians over the rounds (in brackets: fastest and slowest). A contender whose loss, gradient
or weights after three steps are off by more than float32 explains is not timed. "Memory kept" and everything compiled:
the C library is told not to give freed memory back to the system at every step, which makes PyTorch up to three times
faster. Ratios compare with byheart without skipping, and with the fastest way of torch.compile and JAX at that size."""

_FLOP = """\
FLOP: the three products of a step, 6 m per pair. A vector of pairs needs 3 m multiply-adds, and one maximum and one \
addition that are not counted (on Zen 4 they go to other pipes). Whole steps, AdamW included. Most possible: the ratio \
of a kernel that computes every pair at the multiply-add peak and needs no other time."""

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
    parts = [f"{MARK}\n# Benchmark\n\n{_machine(results)}\n\n{_how(results)}"]
    if results.measurements:
        parts += ["## Targets\n\n" + _targets(results)]
    if results.sizes():
        parts += ["## Time per step\n\n" + _times(results), "## Ratios and rates\n\n" + _rates(results)]
    if results.ceilings:
        parts += ["## Ceilings of the machine\n\n" + _ceilings(results)]
    if results.sizes(trained=True):
        parts += ["## Exact skipping at trained weights\n\n" + _skipping(results)]
    if results.sizes():
        parts += ["## Peak memory\n\n" + _memory(results)]
    if results.sweep is not None:
        parts += ["## A sweep of small runs\n\n" + _sweep(results)]
    if results.measurements:
        parts += ["## Agreement\n\n" + _agreement(results)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def number(value: float) -> str:
    """Return a number above 0 with three digits, and without an exponent where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


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
    return _HOW.format(n_features=size.n_features, one_in=1 / (1 - size.sparsity), **results.machine)


def _targets(results: Results) -> str:
    found = targets(results)
    verdicts = [target.verdict for target in found]
    measured = len(found) - verdicts.count("not measured")
    rows = [
        [
            t.what,
            f"{'at most' if t.at_most else 'at least'} {t.value:g} {t.unit}",
            "" if t.reached is None else f"{number(t.reached)} {t.unit}",
            t.verdict,
        ]
        for t in found
    ]
    met = f"{verdicts.count('met')} of {measured} measured targets are met"
    rest = "what limits the others: [LIMITS.md](LIMITS.md)"
    return f"{met}; {rest}.\n\n" + table(["what", "target", "reached", "verdict"], rows)


def _per_contender(results: Results) -> tuple[list[str], list[str]]:
    """Names of the contenders that took part, and the header of a table with a row per size and a column for each."""
    names = results.contenders(list(CONTENDERS))
    return names, ["m", "T", *(CONTENDERS[name].title for name in names)]


def _times(results: Results) -> str:
    names, header = _per_contender(results)
    rows = [
        [*_m_and_T(s), *(_time(results.find(name, s.n_hidden, s.n_examples), spread=True) for name in names)]
        for s in results.sizes()
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
                *_m_and_T(s),
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


def _skipping(results: Results) -> str:
    rows = []
    for s in results.sizes(trained=True):
        ours = (results.find(name, s.n_hidden, s.n_examples, trained=True) for name in OURS)
        gain = _times_faster(skipping_gain(results, s.n_hidden, s.n_examples))
        rows.append([*_m_and_T(s), f"{s.trained_steps:,}", *(_time(m, spread=True) for m in ours), gain])
    return table(["m", "T", "trained for (steps)", *(CONTENDERS[name].title for name in OURS), "gain"], rows)


def _memory(results: Results) -> str:
    names, header = _per_contender(results)
    rows = [
        [*_m_and_T(s), *(_peak(results.find(name, s.n_hidden, s.n_examples)) for name in names)]
        for s in results.sizes()
    ]
    base = (max(m.base_bytes for m in results.measurements if m.contender == name) for name in names)
    rows.append(["", "before the problem", *(f"{value / 1e6:.0f}" for value in base)])
    return f"{table(header, rows)}\n\n{_RESIDENT}"


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
        checked = [max(m.errors.values()) for m in results.measurements if m.contender == name and m.errors]
        rows.append([CONTENDERS[name].title, f"{len(checked)}", f"{max(checked):.2g}" if checked else ""])
    text = table(["contender", "sizes checked", "largest error, of what is tolerated"], rows)
    for m in results.measurements:
        if m.problem:
            where = f"m = {m.size.n_hidden}, T = {m.size.n_examples:,}"
            text += f"\n\nNot timed: {CONTENDERS[m.contender].title} at {where}: {m.problem}."
    idle = max(m.idle_cpu_seconds for m in results.measurements)
    return text + f"\n\nProcessor time that a contender used while it was not its turn: at most {idle:.2g} s per size."


def _m_and_T(size: Size) -> tuple[str, str]:
    return f"{size.n_hidden}", f"{size.n_examples:,}"


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


def _peak(measurement: Measurement | None) -> str:
    return "" if measurement is None or not measurement.peak_bytes else f"{measurement.peak_bytes / 1e6:.0f}"
