"""The commands of single texts: what a model recites, and what its output copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from byheart.cli.console import print_table
from byheart.records import prepare_directory

if TYPE_CHECKING:
    from byheart.language.copied import Copied


@dataclass
class CopiedCommand:
    """Find the spans of a generated text that stand in training files, against the chance level of held-out text."""

    output: Path | None = field(default=None, metadata={"positional": "OUTPUT"})
    """The generated text."""
    from_: tuple[Path, ...] = ()
    """The training files (.jsonl: a document a line, in the field "text")."""
    held_out: tuple[Path, ...] = ()
    """Files like them that were not trained on; default passages of the training files, sought outside themselves."""
    min_characters: int = 50
    """Length from which a match is a copy."""
    passages: int = 20
    """Number of held-out passages, each as long as the output."""
    encoding: str | None = None
    """Encoding of all files; default UTF-8."""
    seed: int = 0
    """Seed of the draw of passages."""
    out: Path = Path("copied")
    """Directory of the tables copies.csv and places.csv."""

    def run(self) -> None:
        """Search, print the longest copies, and write the tables."""
        from byheart.language import copied
        from byheart.language.texts import read_texts

        if self.output is None or not self.from_:
            raise ValueError("output, --from: received none, accepted: byheart copied OUTPUT.txt --from FILES...")
        (output,) = read_texts(self.output, split="files", encoding=self.encoding).texts
        texts = read_texts(self.from_, split="files", encoding=self.encoding)
        held_out = read_texts(self.held_out, split="files", encoding=self.encoding) if self.held_out else None
        if overlap := {*map(Path.resolve, self.from_)} & {*map(Path.resolve, self.held_out)}:
            raise ValueError(f"--held-out: received {min(overlap)}, accepted: files that are not in --from")
        prepare_directory(self.out)
        found = copied(
            output,
            texts,
            held_out=held_out,
            min_characters=self.min_characters,
            n_passages=self.passages,
            seed=self.seed,
        )
        print("\n".join([found.headline(), *found.notes]))
        _print_longest(found)
        for name, table in (("copies", found.copies), ("places", found.places)):
            table.to_csv(self.out / f"{name}.csv", index=False)
        print(f"wrote {self.out / 'copies.csv'} and {self.out / 'places.csv'}")


def _print_longest(found: Copied) -> None:
    if found.copies.empty:
        return
    longest = found.copies.sort_values("n_characters", ascending=False, kind="stable").head(10)
    first = found.places.drop_duplicates("copy").set_index("copy").loc[longest.index]
    rows = zip(
        (f"{start}-{stop}" for start, stop in zip(longest["start"], longest["stop"], strict=True)),
        *(longest[column] for column in ("n_characters", "n_places", "chance")),
        (f"{name}:{start}-{stop}" for name, start, stop in first[["name", "start", "stop"]].itertuples(index=False)),
        (f"{' '.join(text.split()):.48}" for text in longest["text"]),
        strict=True,
    )
    print_table(("output", "characters", "places", "chance", "first place", "text"), rows, title="longest copies")
