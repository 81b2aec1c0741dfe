"""The commands of language models: what documents and spans they memorized, and that as files for other tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from byheart.cli.console import print_table
from byheart.cli.where import Where
from byheart.language.counterfactual import CounterfactualConfig, counterfactual, report
from byheart.language.ensemble import EnsembleConfig
from byheart.own import check_page
from byheart.progress import bar
from byheart.storage import prepare_directory

if TYPE_CHECKING:
    from byheart.language.counterfactual import Found
    from byheart.language.texts import Texts

_CORPORA = ("kjv", "shakespeare", "factbook")
_SIZES = {"quick": (300, 16, 1), "full": (1_000, 32, 4)}  # documents of a built-in corpus, models, canaries


@dataclass
class CounterfactualCommand:
    """Find which documents and passages small language models memorize, by training many on random halves of them."""

    texts: tuple[str, ...] = field(metadata={"positional": "TEXTS"})
    """kjv, shakespeare or factbook, or text files of your own (.jsonl: a document a line, in the field "text")."""
    training: EnsembleConfig
    spans: Path | None = None
    """List of the passages to measure, .json, .jsonl or .csv: texts, or columns "text", "secret" or "canary", or
    "document", "start" and "stop" in characters; default all passages that occur more than once."""
    column: str | None = None
    """Column of the passages in such a list, where names leave it open."""
    skip_absent: bool = False
    """Leave out passages of the list that stand in no text, such as canaries that were held out."""
    models: int | None = None
    """Number of models, even, at least 8 (default: 32; quick: 16)."""
    scale: Literal["quick", "full"] = "full"
    """quick: 300 documents of a built-in corpus, 16 models, fewer canaries; about a minute on two cores."""
    documents: int | None = None
    """Number of documents of a built-in corpus, drawn at random (default: 1,000; quick: 300)."""
    split: Literal["paragraphs", "lines", "files"] = "paragraphs"
    """What a document is, in text files of your own."""
    encoding: str | None = None
    """Encoding of text files of your own; default UTF-8."""
    folder: Path = Path()
    """Where the archive of shakespeare or factbook lies."""
    tokenizer: Path | None = None
    """A tokenizer.json; default one trained on the texts."""
    vocabulary: int = 1024
    """Tokens of the tokenizer that is trained on the texts, at least 257."""
    context: int = 128
    """Tokens that a model reads at once, at least 8; longer documents are cut."""
    min_tokens: int = 8
    """Length in tokens from which a repeated passage is measured, at least 2."""
    join_near_copies: bool = False
    """Switch near-copies of a passage (other case, punctuation, edition) off with it."""
    canaries: int | None = None
    """Random texts planted for every number of copies, as a yardstick; 0 plants none (default: 4; quick: 1)."""
    seed: int = 0
    """Seed of everything that is drawn."""
    where: Where = field(default_factory=Where)
    out: Path = Path("counterfactual")
    """Directory of models, tables and the page report.html."""

    def run(self) -> None:
        """Train, estimate, and write tables and the page."""
        from byheart.language.exchange import read_spans

        n_documents, models, canaries = _SIZES[self.scale]
        config = CounterfactualConfig(
            models if self.models is None else self.models,
            self.vocabulary,
            self.context,
            self.min_tokens,
            self.join_near_copies,
            canaries if self.canaries is None else self.canaries,
            self.seed,
        )
        texts = self._texts(n_documents if self.documents is None else self.documents)
        if self.spans is None and (self.column is not None or self.skip_absent):
            raise ValueError("--column, --skip-absent: received without --spans, accepted: with a list of spans")
        spans = None
        if self.spans is not None:
            spans = read_spans(self.spans, texts, column=self.column, skip_absent=self.skip_absent)
        check_page(self.out / "report.html")
        prepare_directory(self.out)
        with self.where.executor() as executor, bar("models") as advance:
            found = counterfactual(
                texts,
                config,
                self.training,
                out=self.out,
                spans=spans,
                tokenizer=self.tokenizer,
                name=", ".join(Path(text).name for text in self.texts),
                n_workers=self.where.n_workers,
                executor=executor,
                on_progress=lambda done, total: advance(done, total, ""),
            )
        _print(found)
        print(f"wrote {report(self.out, self.out / 'report.html')}")

    def _texts(self, n_documents: int) -> Texts:
        from byheart.language.texts import corpus, read_texts

        if not self.texts:
            raise ValueError(f"texts: received none, accepted: {', '.join(_CORPORA)}, or text files")
        built_in = [name for name in self.texts if name in _CORPORA]
        if not built_in:
            if self.documents is not None or self.folder != Path():
                raise ValueError("documents, folder: received with files, accepted: with a built-in corpus")
            if missing := [text for text in self.texts if not Path(text).exists()]:
                raise FileNotFoundError(
                    f"texts: received {missing[0]}, accepted: {', '.join(_CORPORA)}, or text files that are there"
                )
            return read_texts(self.texts, split=self.split, encoding=self.encoding)
        if len(self.texts) > 1:
            raise ValueError(f"texts: received {' '.join(self.texts)}, accepted: one built-in corpus, or files")
        if self.split != "paragraphs" or self.encoding is not None:
            raise ValueError(f"split, encoding: received with {built_in[0]}, accepted: with text files")
        return corpus(built_in[0], n_documents, self.seed, folder=self.folder)


@dataclass
class ExportCommand:
    """Write the spans and the log-probability of every token of what byheart counterfactual left, for other tools."""

    directory: Path = field(metadata={"positional": "DIRECTORY"})
    """What byheart counterfactual wrote."""
    prefix: int = 200
    """Characters before a span that are written with it, at most."""
    out: Path = Path("exported")
    """Directory of spans.jsonl, garak.tsv and tokens.parquet."""

    def run(self) -> None:
        """Read the models' answers, and write the files."""
        from byheart.language.counterfactual import opened
        from byheart.language.exchange import write_garak, write_spans, write_tokens

        if self.prefix < 1:
            raise ValueError(f"--prefix: received {self.prefix}, accepted: an integer >= 1")
        found = opened(self.directory)
        design = found.design
        print(f"wrote {write_tokens(self.out / 'tokens.parquet', design, found.logs)}")
        if not design.spans:
            print("no spans were measured: no spans.jsonl and no garak.tsv")
            return
        print(f"wrote {write_spans(self.out / 'spans.jsonl', design, n_characters=self.prefix)}")
        print(f"wrote {write_garak(self.out / 'garak.tsv', design, n_characters=self.prefix)}")


def _print(found: Found) -> None:
    print("\n".join([found.estimates.headline(), *found.notes]))
    for table, columns in (
        (found.estimates.documents, ("name", "n_tokens", "bits", "bits_se", "accuracy")),
        (found.estimates.spans, ("text", "kind", "n_copies", "bits", "bits_se", "recited_on", "recited_off")),
    ):
        if len(table):
            told = table[table["bits"].notna()]
            top = told.sort_values("bits", ascending=False).head(10)
            short = top.assign(**{columns[0]: [f"{' '.join(text.split()):.48}" for text in top[columns[0]]]})
            what = "documents" if columns[0] == "name" else "spans"
            print_table(columns, short[list(columns)].itertuples(index=False), title=f"most memorized {what}")
