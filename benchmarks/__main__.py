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
from benchmarks.results import Results
from benchmarks.table import MARK, page, write_page
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
    """Directory of results.json and README.md, written anew after every size."""
    tables_only: bool = False
    """Measure nothing; write README.md from the results.json that is there."""

    def run(self) -> None:
        """Measure, unless only the tables are wanted; write and print the page."""
        if not self.tables_only:
            self.config.check_installed()
            check_marked(self.out / "README.md", MARK)
            prepare_directory(self.out)
            with bar("benchmark") as advance:
                for results in benchmark(self.config, advance):
                    results.save(self.out / "results.json")
                    write_page(self.out / "README.md", page(results))
        text = page(Results.load(self.out / "results.json"))
        write_page(self.out / "README.md", text)
        print(text, end="")


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
        complain(f"interrupted; the sizes measured so far are kept in {command.out}")
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
