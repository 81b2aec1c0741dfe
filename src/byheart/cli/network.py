"""The command of a user's own network: audit, and the comparison of two audits."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byheart.cli.console import print_table
from byheart.cli.targets import BUILT_IN, OF_AUDITS, OF_CHANGES, FailOn, built_in, compared, loaded, read_table
from byheart.network.audit import audit
from byheart.network.export import SUFFIXES, require_pyarrow
from byheart.network.listed import SORTED_BY
from byheart.network.score_table import SCORES
from byheart.network.verdicts import WHAT_NOW, Verdict, reasons
from byheart.progress import bar
from byheart.records import prepare_directory

if TYPE_CHECKING:
    import pandas as pd

    from byheart.network.audit import Audit


_MOST_PRINTED, _MOST_ASKED = 5, 100  # examples of a list


class CheckError(Exception):
    """What ``--fail-on`` names was found."""


@dataclass
class AuditCommand:
    """Find the training examples that a network memorized, and write a page about them; or compare two audits."""

    target: tuple[str, ...] = field(metadata={"positional": "TARGET"})
    """FILE.py:function, which returns (model, dataset) or a dict of the arguments of bh.audit; or mnist, fashion-mnist
    or digits, on which a network is trained; or: diff A B, two tables or FILE.py:functions."""
    out: Path = Path("audit.html")
    """The page."""
    table: Path | None = None
    """Where to write the scores of all examples, with verdicts and reasons: a name that ends in .csv or .parquet."""
    verdict: str | None = None
    """Print more examples with this verdict, and write only these to the table: suspected wrong label, memorized, not
    learned or copy."""
    layer: str | None = None
    """Name of a layer, or a glob pattern; default what the last linear layer reads."""
    head: str | None = None
    """Name of the layer that makes the output, where it is not found."""
    axes: str | None = None
    """What each axis of the layer holds, where that stays open: n examples, u units, other letters positions."""
    held_out: bool = True
    """Of mnist, fashion-mnist and digits: also train a network without some of the data, for probabilities."""
    fail_on: str | None = None
    """Exit with status 1 if so many examples are like that: "probability>0.9 count>10", conditions on columns of the
    table with > >= < or <=, all of which an example meets, and on their count (default >0). A probability needs a
    held-out run."""
    seed: int = 0
    """Of the network that is trained on mnist, fashion-mnist or digits."""

    def run(self) -> None:
        """Audit or compare, and print what was found."""
        fail_on = None if self.fail_on is None else FailOn.parse(self.fail_on)
        is_diff = self.target[:1] == ("diff",)
        if fail_on is not None:
            fail_on.check(OF_CHANGES if is_diff else (*OF_AUDITS, *SCORES))
        if is_diff:
            self._compare(fail_on)
            return
        if len(self.target) != 1:
            received, names = " ".join(self.target) or "none", ", ".join(BUILT_IN)
            raise ValueError(f"target: received {received}, accepted: FILE.py:function, {names}, or diff A B")
        if self.target[0] not in BUILT_IN and (self.seed, self.held_out) != (0, True):
            raise ValueError(
                f"seed, held_out: received {self.seed}, {self.held_out} with {self.target[0]}, accepted: with"
                f" {', '.join(BUILT_IN)}, on which a network is trained"
            )
        if self.verdict is not None and self.verdict not in SORTED_BY:
            raise ValueError(f"verdict: received {self.verdict!r}, accepted: {', '.join(SORTED_BY)}")
        if self.out.suffix != ".html":
            raise ValueError(f"out: received {self.out}, accepted: a name that ends in .html")
        if self.table is not None and self.table.suffix not in SUFFIXES:
            raise ValueError(f"table: received {self.table}, accepted: a name that ends in {' or '.join(SUFFIXES)}")
        if self.table is not None and self.table.suffix == ".parquet":
            require_pyarrow()
        for path in filter(None, (self.out, self.table)):
            prepare_directory(path.parent)
        found = self._audited(self.target[0])
        print("\n".join(found.notes))
        top = found.table.sort_values("score", ascending=False).head(10)
        columns = [c for c in ("label", "prediction", "loss", "score", "probability") if c in top]
        n_flagged = int(found.table["flagged"].sum())
        title = f"the largest scores; flagged: {n_flagged:,} of {len(found.table):,}"
        print_table(("example", *columns), top[columns].itertuples(), title=title)
        for verdict in SORTED_BY:
            if self.verdict in (None, verdict):
                _print_list(found, verdict, _MOST_ASKED if self.verdict else _MOST_PRINTED)
        print(f"wrote {found.save(self.out, title=Path(self.target[0]).name)}")
        if self.table is not None:
            print(f"wrote {found.save(self.table, verdict=self.verdict)}")
        _check(fail_on, found.table)

    def _audited(self, target: str) -> Audit:
        if target in BUILT_IN:
            with tempfile.TemporaryDirectory() as store:
                return self._audit(built_in(target, self.seed, Path(store) if self.held_out else None))
        with loaded(target) as given:
            return self._audit(given)

    def _audit(self, given: dict[str, Any]) -> Audit:
        options = {"layer": self.layer, "head": self.head, "axes": self.axes}
        given = given | {name: value for name, value in options.items() if value is not None}
        size = given["dataset"].dataset if hasattr(given["dataset"], "batch_sampler") else given["dataset"]
        total = len(size) if hasattr(size, "__len__") and not isinstance(size, tuple) else None
        with bar("audit") as advance:
            return audit(**given, on_progress=lambda done, what: advance(done, total, what))

    def _compare(self, fail_on: FailOn | None) -> None:
        if len(self.target) != 3:
            received = " ".join(self.target)
            raise ValueError(
                f"target: received {received}, accepted: diff A B, two tables of byheart audit --table, or two"
                " FILE.py:function"
            )
        if (self.out, self.table, self.verdict) != (Path("audit.html"), None, None):
            raise ValueError("out, table, verdict: received with diff, which has none of them, accepted: without")
        before, after = (
            read_table(name) if name.endswith(SUFFIXES) else self._audited(name).table for name in self.target[1:]
        )
        changes = compared(before.reset_index(drop=True), after.reset_index(drop=True))
        print_table((str(name).replace("_", " ") for name in changes), changes.itertuples(index=False))
        counts = changes["change"].value_counts()
        newly, no_longer = counts.get("newly memorized", 0), counts.get("no longer", 0)
        if "probability" not in before or "probability" not in after:
            print("Uncalibrated: without a held-out run each audit flags its top 1 %, so that as many come as go.")
        print(f"{newly} newly memorized examples, {no_longer} no longer")
        _check(fail_on, changes[changes["change"] == "newly memorized"])


def _print_list(found: Audit, verdict: Verdict, most: int) -> None:
    """Print the first examples with a verdict, and what to do about them; nothing if there are none."""
    those = found.table[found.table["verdict"] == verdict]
    first = those.sort_values(SORTED_BY[verdict], ascending=False).head(most).index.tolist()
    if first:
        title = f"{verdict}: {len(those):,} of {len(found.table):,}. {WHAT_NOW[verdict]}"
        rows = zip(first, reasons(found, first), strict=True)
        if "label" not in found.table:
            print_table(("example", "reason"), rows, title=title)
            return
        names = dict(enumerate(found.label_names))
        labels = {index: names.get(label, label) for index, label in found.table["label"][first].items()}
        print_table(("example", "label", "reason"), ((i, labels[i], words) for i, words in rows), title=title)


def _check(fail_on: FailOn | None, table: pd.DataFrame) -> None:
    count = None if fail_on is None else fail_on.failing(table)
    if fail_on is not None and count is not None:
        raise CheckError(f"check failed: {count} examples, {fail_on.text}")
