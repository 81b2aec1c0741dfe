"""The command that compares a language model before and after an edit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from byheart.cli.console import print_table
from byheart.own import check_table, write_table
from byheart.storage import prepare_directory

if TYPE_CHECKING:
    from byheart.language.labelled import Row
    from byheart.language.reciters import Reciter


@dataclass
class ForgottenCommand:
    """Find what an edit made a causal language model forget, what it cost, and whether it is gone or hidden."""

    before_and_after: tuple[str, ...] = field(default=(), metadata={"positional": "BEFORE AFTER"})
    """Each smollm2, gemma3-270m, a name in Hugging Face's local cache, a folder or a .gguf file; both with the same
    tokenizer."""
    spans: Path | None = None
    """JSON list of what was to be forgotten: strings, or {"prefix", "text"}."""
    never: Path | None = None
    """The same, of spans of the same kind that were never trained on: with them, spans are taught again."""
    held_out: tuple[Path, ...] = ()
    """Text files that neither was trained on (.jsonl: a document a line, in the field "text"), to tell the cost: a
    text per paragraph, whose lines are joined or stay, as BEFORE says them best."""
    prefix: int = 16
    """Tokens that precede the span in a string."""
    max_steps: int = 200
    """Steps of training after which a span is given up."""
    learning_rate: float = 3e-4
    """Of that training."""
    encoding: str | None = None
    """Encoding of text files; default UTF-8."""
    seed: int = 0
    """Seed of the bootstrap."""
    out: Path = Path("forgotten")
    """Directory of the tables summary.csv, spans.csv and relearned.csv."""

    def run(self) -> None:
        """Ask both models, print the comparison, and write the tables."""
        from byheart.language.forget import check_training
        from byheart.language.forgotten import forgotten, span_rows, spans_of_file
        from byheart.language.labelled import check_readable
        from byheart.language.reciters import reciter
        from byheart.language.texts import read_texts

        if len(self.before_and_after) != 2 or self.spans is None:
            raise ValueError("before, after, --spans: received too few, accepted: byheart forgotten A B --spans FILE")
        check_training(self.learning_rate, self.max_steps)
        spans = spans_of_file(self.spans)
        never = [] if self.never is None else spans_of_file(self.never)
        if self.seed < 0:
            raise ValueError(f"--seed: received {self.seed}, accepted: an integer >= 0")
        held_out = read_texts(self.held_out, split="files", encoding=self.encoding) if self.held_out else None
        before, after = (reciter(name) for name in self.before_and_after)
        _check_same(before, after, [span if isinstance(span, str) else "".join(span) for span in spans])
        tokenizer, head = before.tokenizer, before.head
        context = min(before.context, after.context) - len(head)
        way, rows, note = _spelled(before, after, spans, never, self.prefix)
        told = () if held_out is None else _told(before, held_out.texts, min(context, 512))
        unlearned = (
            span_rows(tokenizer, [_respelled(way, own) for own in never], prefix=self.prefix, head=head)
            if never
            else ()
        )
        for these, what in ((rows, "spans"), (told, "held_out"), (unlearned, "never")):
            if len(these):
                check_readable(before.model, these, what)
        prepare_directory(self.out)
        check_table(self.out / "relearned.csv", ("spans", "n", "given_up"))
        found = forgotten(
            before.model,
            after.model,
            rows,
            held_out=told,
            never=unlearned,
            learning_rate=self.learning_rate,
            max_steps=self.max_steps,
            seed=self.seed,
        )
        print("\n".join([found.headline(), note, *(() if held_out is None else held_out.notes)]))
        words = [span if isinstance(span, str) else span[1] for span in spans]
        tables = {"summary": found.summary, "spans": found.spans.assign(text=words), "relearned": found.relearned}
        for name, table in tables.items():
            if table is None:
                (self.out / f"{name}.csv").unlink(missing_ok=True)  # that of a call before would seem to be of this one
            else:
                write_table(self.out / f"{name}.csv", table)
                if name != "spans":
                    print_table(table.columns, table.itertuples(index=False), title=name)
        print(f"wrote {self.out / 'summary.csv'} and {self.out / 'spans.csv'}")


def _check_same(before: Reciter, after: Reciter, texts: list[str]) -> None:
    """Refuse models that cut texts otherwise: their spans would not be the same."""
    ids = [own.tokenizer(texts)["input_ids"] for own in (before, after)]
    if ids[0] != ids[1]:
        raise ValueError(
            f"after: received {after.name}, whose tokenizer cuts the spans otherwise than that of {before.name},"
            " accepted: the same model after an edit"
        )


def _respelled(way: str, span: str | tuple[str, str]) -> str | tuple[str, str]:
    from byheart.language.recite import SPELLINGS

    spell = SPELLINGS[way]
    return spell(span) if isinstance(span, str) else (spell(span[0]), spell(span[1]))


def _spelled(
    before: Reciter,
    after: Reciter,
    spans: Sequence[str | tuple[str, str]],
    never: Sequence[str | tuple[str, str]],
    prefix: int,
) -> tuple[str, Sequence[Row], str]:
    """The spelling of white space in which the model before the edit recites most spans, their rows, and a sentence.

    The sentence says so if the model after does better in another one. A spelling that cannot be read, in which a span
    is too short, or in which spans that differ become the same, is not tried.
    """
    from byheart.language.forgotten import span_rows
    from byheart.language.labelled import check_readable, recitation
    from byheart.language.recite import SPELLINGS

    ways: dict[str, list[str | tuple[str, str]]] = {}
    for way in SPELLINGS:
        own = [_respelled(way, span) for span in spans]
        others = [_respelled(way, span) for span in never]
        if own not in ways.values() and len({*own, *others}) == len({*spans, *never}):
            ways[way] = own
    rows: dict[str, Sequence[Row]] = {}
    said: dict[str, tuple[float, float]] = {}  # share recited, and mean log-probability per token (nats)
    said_after: dict[str, tuple[float, float]] = {}
    refused: ValueError | None = None
    for way, own in ways.items():
        try:
            rows[way] = span_rows(before.tokenizer, own, prefix=prefix, head=before.head)
            for reader in (before, after):
                check_readable(reader.model, rows[way], "spans")
        except ValueError as error:
            rows.pop(way, None)
            refused = error  # the last one is that of the spans as they stand
            continue
        for reader, name, kept in ((before, "before", said), (after, "after", said_after)):
            found = recitation(reader.model, rows[way], what="spans", name=name)
            kept[way] = (float(found["recited"].mean()), float((found["log_probability"] / found["n_tokens"]).mean()))
    if refused and not said:
        raise refused
    best = max(said, key=lambda way: said[way])
    if len(said) == 1:
        return best, rows[best], f"White space of the spans: {best}."
    tried = ", ".join(f"{way} ({said[way][0]:.0%} recited)" for way in said)
    note = f"White space of the spans: {best}, which the model before knows best of {tried}."
    if said_after[other := max(said_after, key=lambda way: said_after[way])] > said_after[best]:
        (recited, log_probability), there = said_after[other], said_after[best]
        note += (
            f" The model after knows them best as {other}: {recited:.0%} recited, {log_probability:.2f} nats per token,"
            f" in place of {there[0]:.0%}, {there[1]:.2f}."
        )
    return best, rows[best], note


def _told(before: Reciter, texts: Sequence[str], context: int) -> Sequence[Row]:
    """Held-out texts, a row per paragraph, their lines joined or as they stand: as the model before the edit says best.

    Pieces of a long paragraph are rows of their own.
    """
    from byheart.language.forgotten import text_rows
    from byheart.language.labelled import recitation

    paragraphs = [own for text in texts for own in re.split(r"\n\s*\n", re.sub(r"\r\n?", "\n", text)) if own.strip()]
    ways = [[" ".join(own.split()) for own in paragraphs], paragraphs]
    said = []
    for way in ways[: 1 if ways[0] == ways[1] else 2]:
        rows = text_rows(before.tokenizer, way, context=context, head=before.head)
        said.append((float(recitation(before.model, rows, what="held_out")["log_probability"].sum()), rows))
    return max(said, key=lambda pair: pair[0])[1]
