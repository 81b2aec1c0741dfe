"""The command of a user's own network: audit, and the comparison of two audits."""

from __future__ import annotations

import csv
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byheart.cli.console import CheckError, print_table
from byheart.cli.fail_on import FailOn
from byheart.cli.targets import BUILT_IN, built_in, checked_spec, loaded, read_table
from byheart.network.audit import audit
from byheart.network.changes import changes
from byheart.network.export import KNOWN_BY, SUFFIXES, require_pyarrow
from byheart.network.listed import SORTED_BY
from byheart.network.verdicts import WHAT_NOW, Verdict, reasons
from byheart.own import check_page, check_table, write_table
from byheart.progress import bar
from byheart.storage import prepare_directory

if TYPE_CHECKING:
    import pandas as pd

    from byheart.network.audit import Audit
    from byheart.network.score_table import Evidence

_MOST_PRINTED = 20  # examples of each kind of change
_MOST_LISTED, _MOST_ASKED = 5, 100  # examples of each verdict


@dataclass
class AuditCommand:
    """Find the training examples that a network memorized, and write a page about them; or compare two audits."""

    target: tuple[str, ...] = field(metadata={"positional": "TARGET"})
    """FILE.py:function, which returns (model, dataset) or a dict of the arguments of bh.audit; or mnist, fashion-mnist
    or digits, on which a network is trained; or: diff A B, each a table of --table or one of these."""
    out: Path = Path("audit.html")
    """The page; diff writes none."""
    table: Path | None = None
    """Where to write the scores of all examples, with verdicts and reasons: a name that ends in .csv or .parquet; with
    diff, all examples that changed, as .csv."""
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
    noise: tuple[str, ...] = ()
    """With diff: further trainings of A with other seeds, given as A and B are; they tell what changes by itself."""
    fail_on: str | None = None
    """Exit with status 1 if all conditions hold, such as "other_class>0 share>0.02": on columns of the table with > >=
    < <= == !=, all of which an example must meet, on their count (default >0) or share of all examples; with diff on
    its columns, "change==added flagged_after>0", and on newly, no_longer, added, removed, relabelled, excess, p_value
    and p_value_new, "p_value<0.01"."""
    seed: int = 0
    """Of the network that is trained on mnist, fashion-mnist or digits."""
    traceback: bool = False
    """Print the whole traceback of an error, such as one that your function raises."""

    def run(self) -> None:
        """Audit or compare, and print what was found."""
        try:
            self._run()
        except (ValueError, OSError, ModuleNotFoundError):
            if self.traceback:
                traceback.print_exc()
            raise

    def _run(self) -> None:
        is_diff = self.target[:1] == ("diff",)
        fail_on = None if self.fail_on is None else FailOn.parse(self.fail_on, "diff" if is_diff else "audit")
        if is_diff:
            self._compare(fail_on)
            return
        if len(self.target) != 1:
            received, names = " ".join(self.target) or "none", ", ".join(BUILT_IN)
            raise ValueError(f"target: received {received}, accepted: FILE.py:function, {names}, or diff A B")
        if self.noise:
            raise ValueError(f"noise: received {self.noise[0]} without diff, accepted: with diff A B")
        if self.verdict is not None and self.verdict not in SORTED_BY:
            raise ValueError(f"verdict: received {self.verdict!r}, accepted: {', '.join(SORTED_BY)}")
        if self.out.suffix != ".html":
            raise ValueError(f"out: received {self.out}, accepted: a name that ends in .html")
        if self.table is not None and self.table.suffix not in SUFFIXES:
            raise ValueError(f"table: received {self.table}, accepted: a name that ends in {' or '.join(SUFFIXES)}")
        if self.table is not None and self.table.suffix == ".parquet":
            require_pyarrow()
        self._check_targets(self.target)
        check_page(self.out)
        if self.table is not None:
            check_table(self.table, KNOWN_BY)
        for path in filter(None, (self.out, self.table)):
            prepare_directory(path.parent)
        found = self._audited(self.target[0], fail_on)
        print("\n".join(found.notes))
        top = found.table.sort_values("score", ascending=False).head(10)
        columns = [c for c in ("id", "label", "prediction", "loss", "score", "probability") if c in top]
        n_flagged = int(found.table["flagged"].sum())
        title = f"the largest scores; flagged: {n_flagged:,} of {len(found.table):,}"
        print_table(("example", *columns), top[columns].itertuples(), title=title)
        for verdict in SORTED_BY:
            if self.verdict in (None, verdict):
                _print_list(found, verdict, _MOST_ASKED if self.verdict else _MOST_LISTED)
        print(f"wrote {found.save(self.out, title=Path(self.target[0]).name)}")
        if self.table is not None:
            print(f"wrote {found.save(self.table, verdict=self.verdict)}")
        _check(fail_on, found.table, {}, len(found.table))

    def _check_targets(self, targets: tuple[str, ...]) -> None:
        """Refuse what is no target, or options that these do not take, before anything is run."""
        trained = [target for target in targets if target in BUILT_IN]
        for target in targets:
            if target not in BUILT_IN:
                checked_spec(target)
        if not trained and (self.seed, self.held_out) != (0, True):
            raise ValueError(
                f"seed, held_out: received {self.seed}, {self.held_out} with {' '.join(self.target)}, accepted: with"
                f" {', '.join(BUILT_IN)}, on which a network is trained"
            )

    def _audited(self, target: str, fail_on: FailOn | None) -> Audit:
        if target in BUILT_IN:
            if fail_on is not None:
                held_out: set[Evidence] = {"held_out"} if self.held_out else set()
                fail_on.check_evidence({"log", *held_out}, target)
            with tempfile.TemporaryDirectory() as store:
                return self._audit(built_in(target, self.seed, Path(store) if self.held_out else None))
        with loaded(target) as given:
            if fail_on is not None:
                fail_on.check_evidence(_evidence(given), target)
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
                f"target: received {received}, accepted: diff A B, each a table of byheart audit --table, a"
                f" FILE.py:function, or {', '.join(BUILT_IN)}"
            )
        if self.out != Path("audit.html") or self.verdict is not None:
            raise ValueError("out, verdict: received with diff, which has neither, accepted: without")
        if self.table is not None and self.table.suffix == ".parquet":
            raise ValueError(f"table: received {self.table} with diff, accepted: a name that ends in .csv")
        if fail_on is not None:
            fail_on.check_noise(len(self.noise))
        if self.table is not None:
            prepare_directory(self.table.parent)
        names = (*self.target[1:], *self.noise)
        self._check_targets(tuple(name for name in names if not name.endswith(SUFFIXES)))
        tables = {name: read_table(name) for name in names if name.endswith(SUFFIXES)}  # before anything is trained
        for name, table in tables.items():
            if fail_on is not None:
                fail_on.check_evidence(_evidence_of(table), name)
        before, after, *noise = (tables[name] if name in tables else self._audited(name, fail_on) for name in names)
        found = changes(before, after, noise)
        shown = found.table.groupby("change", sort=False).head(_MOST_PRINTED)
        cells = shown.astype(object).where(shown.notna(), "")
        print_table((str(name).replace("_", " ") for name in shown), cells.itertuples(index=False))
        if len(shown) < len(found.table):
            print(f"{len(found.table) - len(shown):,} more; --table writes all")
        if self.table is not None:
            write_table(self.table, found.table, float_format="%.7g", quoting=csv.QUOTE_NONNUMERIC)
            print(f"wrote {self.table}")
        is_calibrated = "probability_before" in found.table
        if not is_calibrated:
            print("Uncalibrated: without a held-out run each audit flags its top 1 %, so that as many come as go.")
        if not noise:
            apart = f" {int(found.table['apart'].sum())} have intervals that do not touch." if is_calibrated else ""
            print(f"How many of these are noise is not known without --noise.{apart}")
        print(found)
        _check(fail_on, found.table, found.numbers, found.n_after)


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


def _evidence(given: Mapping[str, Any]) -> set[Evidence]:
    """What the arguments of an audit have of what a condition may need."""
    checkpoints, curvature = len(given.get("checkpoints", ())) > 0, bool(given.get("curvature", False))
    there: dict[Evidence, bool] = {
        "held_out": given.get("held_out") is not None,
        "log": given.get("log") is not None or checkpoints,
        "checkpoints": checkpoints,
        "curvature": curvature,
    }
    return {name for name, is_there in there.items() if is_there}


def _evidence_of(table: pd.DataFrame) -> set[Evidence]:
    """What a table's scores were made from, as far as a condition on changes may need it."""
    return {"held_out"} if "probability" in table else set()


def _check(fail_on: FailOn | None, table: pd.DataFrame, numbers: Mapping[str, float], n_examples: int) -> None:
    if fail_on is None:
        return
    found = fail_on.failing(table, numbers, n_examples)
    if found is not None:
        raise CheckError(f"check failed: {found}")
    print(f"check passed: not {fail_on.text}")
