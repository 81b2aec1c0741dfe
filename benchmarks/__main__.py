"""The command ``python -m benchmarks``, from the root of the repository.

Exit status: 0 done; 1 a child process or a run failed; 2 bad input or an unusable file or directory; 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from rich.console import Console
from rich.progress import Progress

from benchmarks.child import ChildError
from benchmarks.config import BenchConfig
from benchmarks.measure import benchmark
from benchmarks.results import Results
from benchmarks.table import page
from byheart.records import prepare_directory
from byheart.toy.kernels import DivergedError
from byheart.toy.sweep import SweepError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"benchmarks: {message} (see python -m benchmarks --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks",
        description="Time byheart beside PyTorch and JAX, after checking that they agree; keep and print the tables.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks"),
        help="directory of results.json and README.md, written anew after every size",
    )
    parser.add_argument(
        "--tables-only",
        action="store_true",
        help="measure nothing; write README.md from the results.json that is there",
    )
    help_of = {p.arg_name: p.description for p in docstring_parser.parse_from_object(BenchConfig).params}
    for field in dataclasses.fields(BenchConfig):
        several: dict[str, Any] = {}
        value = field.default
        if isinstance(value, tuple):
            several, value = {"nargs": "*"}, value[0]
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=field.default, help=help_of[field.name], **several)
    return parser


def _measure(config: BenchConfig, out: Path) -> None:
    prepare_directory(out)
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def report(done: float, total: float, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)

        for results in benchmark(config, report):
            results.save(out / "results.json")
            (out / "README.md").write_text(page(results))


def main(arguments: list[str] | None = None) -> int:
    """Measure, unless only the tables are wanted; write and print the page; return the exit status."""
    options = vars(_parser().parse_args(arguments))
    out, tables_only = options.pop("out"), options.pop("tables_only")
    try:
        if not tables_only:
            values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}
            _measure(BenchConfig(**values), out)
        text = page(Results.load(out / "results.json"))
        (out / "README.md").write_text(text)
    except KeyboardInterrupt:
        print(f"interrupted; the sizes measured so far are kept in {out}", file=sys.stderr)
        return 130
    except (ChildError, DivergedError, SweepError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
