"""The commands of single texts: what a model recites, and what its output copies."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from byheart.cli.console import print_table
from byheart.own import check_page, write_table
from byheart.progress import bar
from byheart.storage import prepare_directory

if TYPE_CHECKING:
    from byheart.language.copied import Copied


@dataclass
class ReciteCommand:
    """Find what of well-known texts, or of yours, a causal language model recites, beside four controls."""

    model_and_texts: tuple[str, ...] = field(default=(), metadata={"positional": "MODEL TEXT"})
    """smollm2, gemma3-270m, a name in Hugging Face's local cache, a folder or a .gguf file; then constitution,
    declaration, hamlet, sonnets, genesis, pride-and-prejudice, gpl-3, gpl-2, lgpl-3, apache-2.0, mpl-2.0, or text
    files."""
    windows: int = 40
    """Windows of a text at most, spread evenly."""
    characters: int | None = None
    """Read only so many characters of a text, from its beginning (default: all)."""
    folder: Path = Path()
    """Where the archive of hamlet and sonnets lies."""
    encoding: str | None = None
    """Encoding of text files of your own; default UTF-8."""
    seed: int = 0
    """Seed of the controls and the bootstrap."""
    out: Path = Path("recite")
    """Directory of recite.csv and windows.csv, where rows of other texts and models stay, and of tokens.parquet and
    the page report.html, of this call."""
    readme: bool = False
    """Write README.md there too: the table of all texts and models that recite.csv holds."""

    def run(self) -> None:
        """Read the texts with the model, print the headlines, and write tables and the page."""
        from byheart.language.books import book
        from byheart.language.exchange import write_parquet
        from byheart.language.page.recited import write_recited_page
        from byheart.language.recite import recite
        from byheart.language.recite_results import check_results, keep, write_readme
        from byheart.language.reciters import reciter

        if len(self.model_and_texts) < 2:
            raise ValueError("model, text: received too few, accepted: byheart recite MODEL TEXT...")
        name, *texts = self.model_and_texts
        if self.characters is not None and self.characters < 1:
            raise ValueError(f"--characters: received {self.characters}, accepted: an integer >= 1")
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"text: received {twice[0]} twice, accepted: each once")
        said: list[str] = []
        read = {
            Path(text).name: book(text, folder=self.folder, encoding=self.encoding, on_note=said.append)[
                : self.characters
            ]
            for text in texts
        }
        if len(read) < len(texts):
            raise ValueError(f"text: received {' '.join(texts)}, accepted: files of different names")
        check_page(self.out / "report.html")
        check_results(self.out, self.readme)
        # Before PyTorch is loaded: beside other work, its threads would mostly spin while they wait for one another.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with bar("texts") as advance:
            found = recite(
                reciter(name),
                read,
                n_windows=self.windows,
                seed=self.seed,
                on_progress=lambda done, total: advance(done, total, ""),
            )
        prepare_directory(self.out)
        table = pd.DataFrame([one.row() for one in found])
        keep(self.out, found)
        if self.readme:
            write_readme(self.out)
        write_parquet(self.out / "tokens.parquet", (one.tokens() for one in found))
        notes = dict.fromkeys([*said, *(note for one in found for note in one.notes)])
        print("\n".join([*(one.headline() for one in found), *notes]))
        columns = ("text", "n_windows", "loss", "loss twin", "loss wrong prefix", "loss n-gram", "edit_distance")
        print_table(columns, table[list(columns)].itertuples(index=False), title=name)
        print(f"wrote {write_recited_page(self.out / 'report.html', found, table)}")


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
        outputs = read_texts(self.output, split="files", encoding=self.encoding)
        if (n := len(outputs.texts)) > 1:
            raise ValueError(f"output: received {self.output} of {n} documents, accepted: a single text")
        texts = read_texts(self.from_, split="files", encoding=self.encoding)
        held_out = read_texts(self.held_out, split="files", encoding=self.encoding) if self.held_out else None
        if overlap := {*map(Path.resolve, self.from_)} & {*map(Path.resolve, self.held_out)}:
            raise ValueError(f"--held-out: received {min(overlap)}, accepted: files that are not in --from")
        found = copied(
            outputs.texts[0],
            texts,
            held_out=held_out,
            min_characters=self.min_characters,
            n_passages=self.passages,
            seed=self.seed,
        )
        prepare_directory(self.out)
        notes = dict.fromkeys([*found.notes, *outputs.notes, *(held_out.notes if held_out else ())])
        print("\n".join([found.headline(), *notes]))
        _print_longest(found)
        for name, table in (("copies", found.copies), ("places", found.places)):
            write_table(self.out / f"{name}.csv", table)
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
