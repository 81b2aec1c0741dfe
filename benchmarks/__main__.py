"""The command ``python -m benchmarks``, from the root of the repository.

Exit status: 0 done; 1 a child process or a run failed; 2 bad input or an unusable file or directory; 130 interrupted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import ChildError
from benchmarks.config import BenchConfig
from benchmarks.measure import benchmark
from benchmarks.results import Results, file_of, kind_here
from benchmarks.summary import write_all
from benchmarks.table import MARK
from byheart.cli.console import complain
from byheart.cli.options import parse
from byheart.own import check_marked
from byheart.progress import bar
from byheart.storage import prepare_directory
from byheart.toy.kernels import DivergedError
from byheart.toy.sweep import SweepError


@dataclass
class Command:
    """Time byheart beside PyTorch and JAX, after checking that they agree; keep and print the tables."""

    config: BenchConfig
    out: Path = Path("benchmarks")
    """Directory of the results and pages, written anew after every size; README.md beside it gets its rows of speed."""
    go_on: bool = False
    """Keep what this machine's results hold of the same revision and versions, and measure the rest."""
    tables_only: bool = False
    """Measure nothing; write the pages from the results that are there."""

    def run(self) -> None:
        """Measure, unless only the tables are wanted; write the pages and print the first."""
        front = self.out.resolve().parent / "README.md"
        if not self.tables_only:
            self.config.check_installed()
            path = file_of(self.out, kind_here())
            for name in ("README.md", f"{kind_here()}.md"):
                check_marked(self.out / name, MARK)
            kept = Results.load(path) if self.go_on else None
            prepare_directory(self.out)
            with bar("benchmark") as advance:
                for results in benchmark(self.config, advance, kept):
                    results.save(path)
                    write_all(self.out, front)
        print(write_all(self.out, front), end="")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        command = parse(Command, sys.argv[1:] if arguments is None else arguments, "python -m benchmarks")
    except ValueError as error:
        complain(f"benchmarks: {error}")
        return 2
    try:
        command.run()
    except KeyboardInterrupt:
        complain(f"interrupted; the sizes measured so far are kept in {command.out}: --go-on measures the rest")
        return 130
    except (ChildError, DivergedError, SweepError) as error:
        complain(f"benchmarks: {error}")
        return 1
    except (ValueError, OSError, MemoryError) as error:
        complain(f"benchmarks: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
