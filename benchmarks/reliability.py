"""The page results/reliability/README.md, made of the tables beside it: ``python -m benchmarks.reliability``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import pandas as pd

from benchmarks import overhead
from benchmarks.faults.scene import Found
from byheart.markdown import table_of, write_below
from byheart.own import as_they_were

MARK = "<!-- made by python -m benchmarks.reliability -->"
_AIM_KILLS, _AIM_SECONDS, _AIM_OVERHEAD = 1_000, 2.0, 0.2
_OF_KILLS = {
    "n_lost": "result(s) lost",
    "n_different": "other result(s)",
    "n_stray_files": "file(s) left",
    "n_stray_processes": "process(es) that lived for five seconds",
    "n_shared_memory": "piece(s) of shared memory left",
    "n_temporary": "temporary file(s) left",
}
_TABLES = ("kills", "faults", "mutations", "listing", "overhead")

_KILLS = """\
## Kills at random moments

`python -m benchmarks.kills` starts a sweep of twelve runs, or twelve counterfactual models, kills -9 the command, its
workers one by one, or all of its processes at once, starts the same command again, several times over, and lets it
finish. Then every result is compared bit for bit with that of a command which nobody disturbed. *Starting* counts kills
during imports, before any result was computed; *in flight*, while results were; *ending*, after the last one was there.
`sweep` trains with the default kernel, `sweep-by-reference` with the reference kernel, whose start takes half as long.

Most of what such a kill costs are the imports of three processes. `forked-sweep` and `forked-counterfactual` leave them
out: commands and workers are forks of a process that has imported everything. All else is as above: each is a process
of its own, they are killed by the same signals, and write to the same disk; *starting* is short here. A hundred of
these kills are among the quick tests (`make test`), 25 of whole processes among the slow ones.

{n_kills:,} kills, {n_in_flight:,} of them in flight; {n_forked:,} were of forks, {n_whole:,} of whole processes. Of
{n_results:,} results in {n_stores} stores, lost: {n_lost}; different: {n_different}. Files and processes left behind:
{n_strays}."""

_FAULTS = """\
## Faults of every kind

`python -m benchmarks.faults` makes each fault at random moments of the command, as often as *n tried* says, undoes it,
and runs the same command again. *Lost*: finished results that were gone or changed; *different*: from those of a store
that nobody disturbed, in the end; *stray files* in the store; *old processes* that lived five seconds after their
command; *other answers*: another exit status or other words than promised, which are one line that names the run and
status 1 where a store fails, and one line and status 130 after Ctrl-C. Ctrl-C comes up to ten seconds after the first
imports. Rows *of forks* (`--forked`) have commands and workers that are forks of a process which has imported
everything, as above.

{n_tried} faults of {n_kinds} kinds; kinds with something lost, left or answered otherwise: {n_bad}."""

_MUTATIONS = """\
## Damaged files

`python -m benchmarks.mutations` damages a run file in every way that the table names, and opens it. *Refused*: in one
line that names the file; *same*: taken, with the very arrays and config of the run (what was changed was not part of
these, or was changed into itself); *wrong*: taken with other numbers; *crashed*: any other error. {tried:,} files were
tried, {wrong} taken wrongly, {crashed} crashed."""

_LISTING = """\
## Many results

`python -m benchmarks.listing` opens a store of many runs on a local disk as a table, by their headers: seconds of the
processor and of the clock, the fastest of five times. {n_runs:,} runs take {seconds:.2f} s (aim: under {aim:g} s)."""

_OVERHEAD = """\
## Tiny jobs

`python -m benchmarks.overhead` computes thousands of jobs that sleep for {sleep:g} ms and keep a record of a few bytes,
flushed to the disk, on two workers. *Overhead* is what that takes longer, the start of workers included, than two loops
that sleep and keep the same records without an engine; the engine flushes one record while the next is computed, which
such loops do not. *Overhead beside sleep* is beside the jobs alone, as if to keep a result took no time (aim: under
{aim:.0%})."""


def page(directory: Path) -> list[str]:
    """Return the parts of the page about the tables in a directory."""
    tables = {name: as_they_were(pd.read_csv(directory / f"{name}.csv", keep_default_na=False)) for name in _TABLES}
    killed, made, mutated, listed, added = tables.values()
    killed = killed[killed["n_kills"] > 0]  # a run that was just begun has none
    alone = added["n_jobs"] * overhead.SECONDS / added["n_workers"]
    added["overhead_beside_sleep"] = (added["seconds"] / alone - 1).round(3)
    strays = killed[[name for name in _OF_KILLS if name not in ("n_lost", "n_different")]]
    of_kills = killed.drop(columns="command").sum(numeric_only=True)
    n_forked = killed[killed["command"].str.startswith("forked-")]["n_kills"].sum()
    parts = [
        _KILLS.format(
            **of_kills,
            n_strays=strays.to_numpy().sum(),
            n_forked=n_forked,
            n_whole=of_kills["n_kills"] - n_forked,
        ),
        table_of(killed),
        _FAULTS.format(n_tried=made["n_tried"].sum(), n_kinds=len(made), n_bad=len(_not_well(made))),
        table_of(made),
        _MUTATIONS.format(**mutated[["tried", "wrong", "crashed"]].sum()),
        table_of(mutated),
        _LISTING.format(**listed.iloc[0][["n_runs", "seconds"]], aim=_AIM_SECONDS),
        table_of(listed),
        _OVERHEAD.format(sleep=1_000 * overhead.SECONDS, aim=_AIM_OVERHEAD),
        table_of(added),
    ]
    short = _falls_short(killed, made, listed["seconds"].max(), added)
    return [*parts, "## What falls short", "\n".join(f"- {words}" for words in short or ["Nothing that was aimed at."])]


def _not_well(made: pd.DataFrame) -> list[str]:
    names = [field.name for field in dataclasses.fields(Found)]
    rows = [Found(*row) for row in made[names].itertuples(index=False)]
    return [f"{row.fault}, {row.tried}" for row in rows if not row.is_well]


def _falls_short(killed: pd.DataFrame, made: pd.DataFrame, seconds: float, added: pd.DataFrame) -> list[str]:
    short = []
    if (n_kills := killed["n_kills"].sum()) < _AIM_KILLS:
        short.append(f"{n_kills:,} kills were made; the aim is {_AIM_KILLS:,}. The command goes on from the table.")
    if (most := added["overhead_beside_sleep"].max()) >= _AIM_OVERHEAD:
        short.append(f"The engine adds {most:.0%} to the jobs alone; the aim is under {_AIM_OVERHEAD:.0%}.")
    if seconds >= _AIM_SECONDS:
        short.append(f"To open a store took {seconds:.1f} s; the aim is under {_AIM_SECONDS:g} s.")
    short += [f"Not as promised: {name}." for name in _not_well(made)]
    short += [
        f"Not as promised: kills of {row.command} at {row.git_revision}: {getattr(row, name)} {words}."
        for row in killed.itertuples()
        for name, words in _OF_KILLS.items()
        if getattr(row, name)
    ]
    skipped = made[made["skipped"] != ""]
    return short + [f"Not tried: {row.fault}, {row.tried}: {row.skipped}." for row in skipped.itertuples()]


def main(arguments: list[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/reliability"), help="directory of tables and page")
    directory = parser.parse_args(arguments).out
    write_below(MARK, page(directory), directory / "README.md", "# What faults do")
    print(f"wrote {directory / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
