"""The command of stores: check the results of one, merge two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from byheart.cli.console import CheckError, complain

if TYPE_CHECKING:
    from byheart.records import Record
    from byheart.storage import Place


@dataclass
class StoreCommand:
    """Check every result of a store, or merge the results of one into another."""

    action: tuple[str, ...] = field(default=(), metadata={"positional": "check DIR | merge A B"})
    """check DIR reads every result in DIR and names the damaged, and those of a newer format, which it cannot check;
    merge A B copies into A what only B has. Each is a directory, or a URL such as s3://bucket/runs."""
    remove_damaged: bool = False
    """With check: remove damaged files that byheart wrote; the same sweep then computes them again."""

    def run(self) -> None:
        """Do it, and name what is damaged or differs; then the exit status is 1. A newer format alone leaves it 0."""
        match self.action:
            case ("check", directory):
                self._check(directory)
            case ("merge", into, other) if not self.remove_damaged:
                _merge(into, other)
            case _:
                received = " ".join([*self.action, *["--remove-damaged"] * self.remove_damaged]) or "nothing"
                raise ValueError(f"store: received {received}, accepted: check DIR [--remove-damaged], or merge A B")

    def _check(self, directory: str) -> None:
        from byheart.upkeep import check_store

        n_whole, found = check_store(directory, _check_record, remove_damaged=self.remove_damaged)
        for each in found:
            what = "removed" if each.removed else "newer format, not checked" if each.newer else "damaged"
            complain(f"{what}: {each.reason}")
        damaged = [each for each in found if not each.newer]
        n_newer = len(found) - len(damaged)
        newer = f"; {n_newer} of a newer format, not checked" if n_newer else ""
        left = sum(not each.removed for each in damaged)
        counts = f"{len(damaged)} damaged files, {len(damaged) - left} removed{newer}"
        print(f"{n_whole} whole results in {directory}; {counts}")
        if left:
            why = " that may be whole, or not byheart's, and were left" if self.remove_damaged else ""
            raise CheckError(f"{left} damaged file(s) in {directory}{why}")


def _merge(into: str, other: str) -> None:
    from byheart.upkeep import merge_stores

    merged = merge_stores(into, other, _check_record)
    for each in merged.left:
        complain(f"{'newer format, not copied' if each.newer else 'not copied'}: {each.reason}")
    for key in merged.differing:
        complain(f"not copied: {key} of {other} has other arrays than that of {into}, which is kept")
    print(f"{len(merged.copied)} results copied into {into}; it had {len(merged.same)} of them already")
    if n_left := len(merged.left) + len(merged.differing):
        raise CheckError(f"{n_left} file(s) of {other} not copied")


def _check_record(path: Place, record: Record) -> None:
    """Check of a run that it is one; of other results the digests say enough."""
    if "config" in record.header and "data_digest" in record.header:
        from byheart.toy.runs import as_run

        as_run(path, record)
