"""What the results of all kinds of machines come to: the page of this directory, and four rows in words for README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import CONTENDERS, OURS, PEERS
from benchmarks.results import KINDS, Results, file_of
from benchmarks.table import MARK, duration, kind, machine, number, table, write_page
from benchmarks.table import page as page_of_machine
from benchmarks.targets import Target, fastest_whole, paper_run, targets
from byheart.storage import write_atomically

FRONT = ("<!-- speed: made by python -m benchmarks -->", "<!-- end of speed -->")
"""Marks between which the rows stand in README.md."""

_ABOUT = """\
What a person waits for, and the time of a training step (loss, gradient and AdamW on the full batch) beside PyTorch and
JAX, on two kinds of machines where both were at hand. `python -m benchmarks` measures the kind that it runs on and
writes these pages; `--tables-only` writes them from the results that are there. All rows: {pages}. What limits what is
not met: [LIMITS.md](LIMITS.md)."""


def load_all(directory: Path) -> dict[str, Results]:
    """Return the results in a directory, by kind of machine.

    Raises:
        ValueError: If there are none, or a file is damaged.
    """
    found = {kind: file_of(directory, kind) for kind in KINDS if file_of(directory, kind).exists()}
    if not found:
        where = file_of(directory, "KIND")
        raise ValueError(f"results: received {where}, accepted: what python -m benchmarks wrote")
    return {kind: Results.load(path) for kind, path in found.items()}


def write_all(directory: Path, front: Path) -> str:
    """Write the page of every kind, that of the directory, and the rows of ``front`` if it has the marks.

    Returns:
        The text of the directory's page.
    """
    results = load_all(directory)
    for name, found in results.items():
        write_page(directory / f"{name}.md", page_of_machine(found))
    text = page(results)
    write_page(directory / "README.md", text)
    if front.is_file() and all(mark in front.read_text(encoding="utf-8") for mark in FRONT):
        write_atomically(front, with_rows(front.read_text(encoding="utf-8"), results).encode())
    return text


def page(results: Mapping[str, Results]) -> str:
    """Return the page of the directory."""
    pages = ", ".join(f"[{KINDS[name]}]({name}.md)" for name in results)
    machines = "\n".join(f"- {machine(found)}" for found in results.values())
    return "\n\n".join(
        [
            f"{MARK}\n# Benchmark",
            _ABOUT.format(pages=pages),
            machines,
            f"## What a person waits for\n\n{rows_in_words(results)}",
            f"## Targets\n\n{_targets(results)}\n",
        ]
    )


def with_rows(text: str, results: Mapping[str, Results]) -> str:
    """Return the text of README.md with the rows of the results between its marks."""
    before, rest = text.split(FRONT[0], 1)
    after = rest.split(FRONT[1], 1)[1]
    counts = "; ".join(
        f"{sum(t.verdict == 'met' for t in found)} of {sum(t.reached is not None for t in found)} targets are met"
        f" with {KINDS[name]}"
        for name, found in ((name, targets(one)) for name, one in results.items())
    )
    where = f"{counts[:1].upper()}{counts[1:]}: [benchmarks](benchmarks/README.md), [limits](benchmarks/LIMITS.md)."
    return f"{before}{FRONT[0]}\n{rows_in_words(results)}\n\n{where}\n{FRONT[1]}{after}"


def rows_in_words(results: Mapping[str, Results]) -> str:
    """Return four rows that a newcomer reads, with two columns per kind of machine."""
    header = ["what you wait for"]
    for found in results.values():
        header += [f"byheart, {kind(found)}", "beside it"]
    columns = [_answers(found) for found in results.values()]
    rows = [[words, *(cell for column in columns for cell in column[k])] for k, words in enumerate(_WORDS)]
    return table(header, rows)


_WORDS = (
    "the first small run after installing: all code is compiled",
    "a sweep of many small runs (3 to 100 examples of 10,000 features)",
    "a run of the paper's size: 10,000 examples, two hidden units, 50,000 steps",
    "the memory for it",
)
_MISSING = ("not measured", "")


def _answers(results: Results) -> list[tuple[str, str]]:
    """Cells of the rows: byheart's, and what stands beside it."""
    return [_first_run(results), _sweep(results), *_whole(results)]


def _first_run(results: Results) -> tuple[str, str]:
    w = results.waits
    if not w:
        return _MISSING
    return duration(w["first"].wall_seconds), f"{duration(w['again'].wall_seconds)} from then on"


def _sweep(results: Results) -> tuple[str, str]:
    s = results.sweep
    if s is None:
        return _MISSING
    runs = f"{s.n_runs} runs of {s.n_steps:,} steps on {s.n_workers} core(s): {duration(s.wall_seconds)}"
    return runs, f"{duration(s.kernel_seconds)}: nothing but their steps, on one core"


def _whole(results: Results) -> list[tuple[str, str]]:
    run = paper_run(results)
    if run is None:
        return [_MISSING, _MISSING]
    peer = fastest_whole(results, run)
    beside = "no other was timed"
    if peer is not None:
        ratio = number(peer[0] / run.wall_seconds)
        beside = (
            f"{duration(peer[0])}, {ratio} times as long: {CONTENDERS[peer[1]].title}, the fastest of PyTorch and JAX"
        )
    # At the start everyone is timed; PyTorch and JAX need as much at all weights.
    ours, *others = (
        [m.peak_bytes for name in names if (m := results.at(name, run.size.start)) is not None and m.peak_bytes]
        for names in (OURS[:1], PEERS)
    )
    memory = f"{max(ours) / 1e6:,.0f} MB" if ours else _MISSING[0]
    least = f"{min(others[0]) / 1e6:,.0f} MB: the least that one of them takes" if others[0] else ""
    return [(duration(run.wall_seconds), beside), (memory, least)]


def _targets(results: Mapping[str, Results]) -> str:
    columns = [targets(found) for found in results.values()]
    header = ["what", "target"]
    counts = []
    for found, column in zip(results.values(), columns, strict=True):
        header += [kind(found), "verdict"]
        verdicts = [target.verdict for target in column]
        measured = len(verdicts) - verdicts.count("not measured")
        counts.append(f"{verdicts.count('met')} of {measured} measured targets are met with {kind(found)}")
    rows = [
        [
            first.what,
            _wanted(first),
            *(cell for target in (first, *rest) for cell in (_reached(target), target.verdict)),
        ]
        for first, *rest in zip(*columns, strict=True)
    ]
    return f"{'; '.join(counts)}.\n\n{table(header, rows)}"


def _wanted(target: Target) -> str:
    return f"{'at most' if target.at_most else 'at least'} {target.value:g} {target.unit}"


def _reached(target: Target) -> str:
    return "" if target.reached is None else f"{number(target.reached)} {target.unit}"
