"""Who trains on what: for each model, which documents it reads and which spans of them carry loss.

Each document is in the training set of a random half of the models (Zhang et al. 2021). Each span, a substring with all
its copies, is on in a random half of the models, independently; where it is off, its tokens stay in the documents as
context, but as targets they carry no loss, in any copy. Models 2j and 2j + 1 are complements of each other: what is in
or on for one is out or off for the other. The bits of a pair depend on the seed and its number only, so that a design
of more models begins with the same ones.

Of many random halves, each pair gets the one whose tokens are most nearly half of all (rerandomisation, Morgan and
Rubin 2012). So all models read and learn about as much: how much a model learns is otherwise its largest source of
error, and the same for all of its documents.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from byheart import records
from byheart.language.documents import Documents
from byheart.records import Record, digest

if TYPE_CHECKING:
    from byheart.language.collate import Collator
    from byheart.language.estimates import Estimates

Role = Literal["random", "always", "never"]
_WHAT = "design"
_DRAWS = 64  # random halves, of which the one is taken that is most nearly half of the tokens


@dataclass(frozen=True, order=True)
class Place:
    """Tokens [start, stop) of a document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Span:
    """A substring with all its copies, which carry loss together or not at all.

    A span without copies is a probe: nothing of it is trained on, so that what is measured at its places is chance.
    """

    text: str
    """What it says."""
    kind: str
    """Where it comes from: "given", "repeat", "joined" (near-copies joined), "canary", "near-copies" or "probe"."""
    copies: tuple[Place, ...]
    """Where its tokens carry no loss when it is off."""
    measured: tuple[Place, ...] = ()
    """Where it is measured; default its copies. A canary that is only planted in near-copies is measured elsewhere."""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Of planted spans: "n_copies", and of near-copies "changed", the share of the words that differ."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it is measured."""
        return self.measured or self.copies


@dataclass(frozen=True, eq=False)
class Design:
    """For each model, the documents it trains on and the spans that carry loss.

    Attributes:
        documents: What there is to train on.
        spans: Spans; their copies may not overlap with those of other spans.
        n_models: Number of models, even and at least 2.
        seed: Of the random bits.
        roles: For each document "random" (in half of the models), "always" or "never" (in all, in none); default all
            random.
        context: Tokens that a model reads at once, at least 2: a longer document is cut into rows of so many.
        pairs: Numbers of the pairs of complements that the models are; default the first ones (see ``of_pairs``).

    Raises:
        ValueError: If a number is out of range, the documents are none, or a span is outside of its document or
            overlaps another one.
    """

    documents: Documents
    spans: tuple[Span, ...] = ()
    n_models: int = 32
    seed: int = 0
    roles: tuple[Role, ...] = ()
    context: int = 128
    pairs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.documents, Documents):
            raise ValueError(
                f"documents: received {type(self.documents).__name__}, accepted: Documents, such as tokenize returns"
            )
        if self.n_models < 2 or self.n_models % 2:
            raise ValueError(f"n_models: received {self.n_models}, accepted: an even number >= 2")
        object.__setattr__(self, "pairs", tuple(self.pairs) or tuple(range(self.n_models // 2)))
        if 2 * len(self.pairs) != self.n_models or len(set(self.pairs)) < len(self.pairs) or min(self.pairs) < 0:
            raise ValueError(f"pairs: received {self.pairs}, accepted: {self.n_models // 2} different numbers >= 0")
        if self.context < 2:
            raise ValueError(f"context: received {self.context}, accepted: an integer >= 2")
        object.__setattr__(self, "spans", tuple(self.spans))
        object.__setattr__(self, "roles", tuple(self.roles) or ("random",) * len(self.documents))
        if len(self.roles) != len(self.documents) or set(self.roles) - {"random", "always", "never"}:
            raise ValueError(
                f"roles: received {len(self.roles)} of {', '.join(sorted(set(self.roles)))}, accepted:"
                f" {len(self.documents)} of random, always, never"
            )
        self._check_spans()

    def _check_spans(self) -> None:
        taken = np.full(self.documents.n_tokens, -1)
        for number, span in enumerate(self.spans):
            if not span.places:
                raise ValueError(f"spans: received {span.text!r:.60} without a place, accepted: spans that occur")
            for place in (*span.copies, *span.measured):
                size = len(self.documents.tokens[place.document]) if place.document < len(self.documents) else 0
                if not 0 <= place.start < place.stop <= size:
                    raise ValueError(f"spans: received {place} of {span.text!r:.60}, accepted: tokens of a document")
            for place in span.copies:
                tokens = taken[self.tokens_of(place)]
                if (tokens >= 0).any():
                    other = self.spans[int(tokens[tokens >= 0][0])].text
                    raise ValueError(
                        f"spans: received {span.text!r:.60}, which overlaps {other!r:.60} in"
                        f" {self.documents.names[place.document]!r}, accepted: spans that do not overlap"
                    )
                taken[self.tokens_of(place)] = number

    @cached_property
    def document_mask(self) -> Bool[np.ndarray, "n_models n_documents"]:
        """Which model trains on which document."""
        mask = np.zeros((self.n_models, len(self.documents)), dtype=bool)
        roles = np.array(self.roles)
        random = np.flatnonzero(roles == "random")
        mask[:, random] = self._bits(0, np.diff(self.documents.starts)[random])
        mask[:, roles == "always"] = True
        return mask

    @cached_property
    def span_mask(self) -> Bool[np.ndarray, "n_models n_spans"]:
        """In which model which span is on."""
        sizes = [sum(place.stop - place.start for place in span.copies) for span in self.spans]
        return self._bits(1, np.array(sizes, dtype=np.int64))

    def _bits(self, stream: int, sizes: Int64[np.ndarray, " n_units"]) -> Bool[np.ndarray, "n_models n_units"]:
        """Half of the units for every model, in complementary pairs; of an odd number, one more or less."""
        mask = np.zeros((self.n_models, len(sizes)), dtype=bool)
        for row, pair in enumerate(self.pairs):
            rng = np.random.default_rng([self.seed, stream, pair])
            n_in = (len(sizes) + int(rng.integers(2))) // 2
            draws = [rng.permutation(len(sizes)) < n_in for _ in range(_DRAWS)]
            mask[2 * row] = min(draws, key=lambda draw: abs(2 * int(sizes[draw].sum()) - int(sizes.sum())))
            mask[2 * row + 1] = ~mask[2 * row]
        return mask

    def of_pairs(self, pairs: Sequence[int] | np.ndarray) -> Design:
        """Return the design of some of the pairs, by their places in this one; models 2j and 2j + 1 are pair j.

        Raises:
            ValueError: If there is none of them, or one is not there or is named twice.
        """
        chosen = [int(pair) for pair in pairs]
        if not chosen or min(chosen) < 0 or max(chosen) >= len(self.pairs):
            raise ValueError(f"pairs: received {chosen}, accepted: some of 0 to {len(self.pairs) - 1}")
        return dataclasses.replace(self, n_models=2 * len(chosen), pairs=tuple(self.pairs[pair] for pair in chosen))

    def tokens_of(self, place: Place) -> slice:
        """Return the numbers of a place's tokens among those of all documents."""
        start = int(self.documents.starts[place.document])
        return slice(start + place.start, start + place.stop)

    @cached_property
    def span_of(self) -> Int64[np.ndarray, " n_tokens"]:
        """The span of which each token is part of a copy; -1 for none."""
        found = np.full(self.documents.n_tokens, -1, dtype=np.int64)
        for number, span in enumerate(self.spans):
            for place in span.copies:
                found[self.tokens_of(place)] = number
        return found

    def carries_loss(self, model: int) -> Bool[np.ndarray, " n_tokens"]:
        """Return which tokens carry loss, as targets, in a model's training."""
        off = np.append(~self.span_mask[model], False)  # the last is for tokens of no span
        mask: np.ndarray = self.document_mask[model][self.documents.document_of] & ~off[self.span_of]
        return mask

    @cached_property
    def rows(self) -> tuple[Place, ...]:
        """What a model reads at once: whole documents, or pieces of ``context`` tokens of longer ones."""
        return tuple(
            Place(document, start, min(start + self.context, len(tokens)))
            for document, tokens in enumerate(self.documents.tokens)
            for start in range(0, len(tokens), self.context)
        )

    def rows_of(self, model: int) -> Int64[np.ndarray, " n_rows"]:
        """Return the rows that a model trains on."""
        documents = np.array([row.document for row in self.rows])
        found: np.ndarray = np.flatnonzero(self.document_mask[model][documents])
        return found

    @cached_property
    def tokens_per_row(self) -> float:
        """Mean number of targets of a row, on or off, in or out: what the loss of a row is divided by in all models."""
        return self.documents.n_tokens / len(self.rows)

    @property
    def identity(self) -> dict[str, Any]:
        """What a model's training depends on, as JSON values."""
        return {
            "documents": digest(self.documents.flat, self.documents.starts),
            "vocabulary": self.documents.vocabulary,
            "spans": digest(self.span_of),
            "roles": digest(np.array(self.roles)),
            "seed of the design": self.seed,
            "context": self.context,
        }

    def collate(
        self, model: int, *, batch_size: int = 32, beginning: int | None = None, padding: int | None = None
    ) -> Collator:
        """Return what makes a model's batches: for a loop of your own, and for a Hugging Face ``Trainer``.

        Args:
            model: Number of the model.
            batch_size: Rows of one step of the optimizer, at least 1.
            beginning: Token that every row begins with; default the one after the vocabulary.
            padding: Token that fills rows up; default the same.

        Raises:
            ValueError: If there is no such model, or ``batch_size`` is out of range.
        """
        from byheart.language.collate import Collator

        return Collator(self, model, batch_size, beginning, padding)

    def estimate(self, logs: Any) -> Estimates:
        """Estimate what documents and spans are memorized, from every model's log-probabilities (see ``estimate``)."""
        from byheart.language.estimates import estimate

        return estimate(self, logs)

    def save(self, path: str | Path) -> Path:
        """Write the design to a file with all its texts and bits, and return its path."""
        docs = self.documents
        arrays = {
            "tokens": docs.flat,
            "starts": docs.starts,
            "offsets": np.concatenate(docs.offsets),
            "document_mask": self.document_mask,
            "span_mask": self.span_mask,
        }
        spans = [
            {
                "text": span.text,
                "kind": span.kind,
                "copies": [(p.document, p.start, p.stop) for p in span.copies],
                "measured": [(p.document, p.start, p.stop) for p in span.measured],
                "settings": span.settings,
            }
            for span in self.spans
        ]
        header = {
            "names": docs.names,
            "texts": docs.texts,
            "vocabulary": docs.vocabulary,
            "notes": docs.notes,
            "spans": spans,
            "roles": self.roles,
            "n_models": self.n_models,
            "seed": self.seed,
            "context": self.context,
            "pairs": self.pairs,
        }
        record = Record(arrays, {name: json.dumps(value) for name, value in header.items()})
        records.write(path, record, _WHAT)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Design:
        """Read a design that ``save`` wrote.

        Raises:
            ValueError: If the file is damaged or no design, or its bits are not those that its seed gives.
        """
        path = Path(path)
        record = records.read(path, _WHAT)
        try:
            header = {name: json.loads(record.header[name]) for name in _HEADER}
            starts = record.arrays["starts"][1:-1]
            tokens = tuple(np.split(record.arrays["tokens"], starts))
            offsets = tuple(np.split(record.arrays["offsets"], starts))
            bits = record.arrays["document_mask"], record.arrays["span_mask"]
        except KeyError as error:
            raise records.not_whole(path, f"it has no {error}", _WHAT) from error
        documents = Documents(
            tuple(header["names"]),
            tuple(header["texts"]),
            tokens,
            offsets,
            header["vocabulary"],
            tuple(header["notes"]),
        )
        spans = tuple(
            Span(
                span["text"],
                span["kind"],
                tuple(Place(*place) for place in span["copies"]),
                tuple(Place(*place) for place in span["measured"]),
                span["settings"],
            )
            for span in header["spans"]
        )
        roles, pairs = (tuple(header[name]) for name in ("roles", "pairs"))
        design = cls(documents, spans, header["n_models"], header["seed"], roles, header["context"], pairs)
        if not all(map(np.array_equal, bits, (design.document_mask, design.span_mask))):
            raise records.not_whole(path, "its bits are not those of its seed", _WHAT)
        return design


def models_of(pairs: np.ndarray) -> Int64[np.ndarray, " n_models"]:
    """Return the numbers of the models of some pairs."""
    found: np.ndarray = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
    return found


_HEADER = ("names", "texts", "vocabulary", "notes", "spans", "roles", "n_models", "seed", "context", "pairs")
