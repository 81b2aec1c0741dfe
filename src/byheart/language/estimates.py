"""What is memorized, from every model's log-probabilities: documents, spans, tokens, and how far to trust it.

Memorization of a document is a mean over models that train on it less one over models that do not (Feldman and Zhang
2020; Zhang et al. 2021). Memorization of a span is the same for its bit, among models that train on the document it is
measured in: what its tokens' loss adds, all copies together, to reading the rest. Errors are over models, never over
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart import records
from byheart.language.design import Design
from byheart.language.differences import Difference, Parts, Places, compare, compare_places, measures_of
from byheart.language.doses import chance_table, dose_table
from byheart.language.logs import Logs, as_logs
from byheart.language.reliability import reliability_table, underpowered, verdict
from byheart.language.tables import read_tables, write_tables
from byheart.memorization import influence as influence_of

_WHAT = "estimates"
_NATS = float(np.log(2))  # in a bit


@dataclass(frozen=True, eq=False)
class Estimates:
    """Tables of what is memorized.

    Scores are ``accuracy`` (share of the tokens that are most probable), ``log_probability`` (nats per token) and
    ``bits`` (log-probability in bits, summed over a document or one copy of a span). A column named after a score is
    memorization in it, ``_se`` its standard error over models; what cannot be estimated is NaN.

    Attributes:
        n_models: Number of models.
        documents: A row per document: name, role, n_tokens, n_in, n_out (models that tell, of the token that fewest
            tell of: where a span is off, a model does not tell of its tokens); memorization, and the means ``_in``
            and ``_out``. ``_rest`` are the same of its tokens in no span.
        spans: A row per span: text, kind, n_copies, n_tokens (of a place, mean), planned and changed (settings),
            n_seen (copies that a measured model with the span on trains on, mean); memorization, and the means ``_on``
            and ``_off``; recited_on and recited_off, the shares of models and places where every token is most
            probable; document_log_probability, document_bits and document_accuracy, what the document's bit does at the
            same tokens while the span is on; rest and rest_se, what the span's bit does to the documents that hold it,
            in nats per token, in their tokens of no span.
        tokens: A row per token: document, span (-1 for none), log_probability (by the span's bit in spans, by the
            document's bit elsewhere), log_probability_se.
        reliability: A row per unit and score (see ``reliability_table``).
        dose: A row per number of exact copies and per setting of near-copies (see ``dose_table``).
        chance: What models that learned nothing say (see ``chance_table``).
    """

    n_models: int
    documents: pd.DataFrame
    spans: pd.DataFrame
    tokens: pd.DataFrame
    reliability: pd.DataFrame
    dose: pd.DataFrame
    chance: pd.DataFrame

    @property
    def rest(self) -> pd.DataFrame:
        """What each span's bit does to the other tokens of its documents: text, rest and rest_se in nats per token."""
        return self.spans[["text", "rest", "rest_se"]]

    def headline(self) -> str:
        """Say how many documents and spans are memorized, or that there are too few models to say it.

        A unit counts where its bits are above 0 in a one-sided t test, with at most 5 % of those counted expected to
        be false (Benjamini and Hochberg 1995). The smallest effect that is told from 0 with probability 0.8 (5 %,
        two-sided) is 2.8 standard errors, here of the median unit. Nothing is counted with fewer than eight models, or
        where more than half of the estimates are below that effect: then there are too few models, or little to find.
        """
        if self.n_models < 8:
            return (
                f"Underpowered: {self.n_models} models are too few; at least 8 are needed to count what is memorized."
            )
        degrees = self.n_models - 2
        parts = [verdict(self.documents, "documents", degrees)]
        spans = self.spans[self.spans["kind"] != "probe"]
        if len(spans):
            parts.append(verdict(spans, "spans", degrees))
        return " ".join(parts)

    @property
    def underpowered(self) -> bool:
        """Whether there are too few models to count memorized documents (see ``headline``)."""
        return self.n_models < 8 or underpowered(self.documents)

    def save(self, path: str | Path) -> Path:
        """Write all tables to one file, and return its path."""
        return write_tables(path, {name: getattr(self, name) for name in _TABLES}, {"n_models": self.n_models}, _WHAT)

    @classmethod
    def load(cls, path: str | Path) -> Estimates:
        """Read estimates that ``save`` wrote.

        Raises:
            ValueError: If the file is missing, damaged or holds something else.
        """
        tables, header = read_tables(path, _WHAT)
        if set(tables) != set(_TABLES) or "n_models" not in header:
            raise records.not_whole(Path(path), "it holds other tables", _WHAT)
        return cls(header["n_models"], **tables)


_TABLES = ("documents", "spans", "tokens", "reliability", "dose", "chance")


def estimate(design: Design, logs: Any) -> Estimates:
    """Estimate what documents, spans and tokens are memorized.

    Args:
        design: Who was trained on what.
        logs: Log-probabilities of all tokens under every model (see ``as_logs``).

    Raises:
        ValueError: If the design has fewer than four models, or the log-probabilities are not its models'.

    References:
        Feldman and Zhang 2020; Zhang et al. 2021. Bits of spans are ours.
    """
    if design.n_models < 4:
        raise ValueError(f"n_models: received {design.n_models}, accepted: at least 4; two have no error (see single)")
    found = as_logs(logs, design)
    places = Places.of(design)
    spans = _spans(design, found, places)
    return Estimates(
        design.n_models,
        _documents(design, found),
        spans,
        _tokens(design, found),
        reliability_table(design, found, places),
        dose_table(design, found, places, spans),
        chance_table(design, found, places),
    )


def _documents(design: Design, logs: Logs) -> pd.DataFrame:
    random = np.array(design.roles) == "random"
    sizes = np.diff(design.documents.starts)
    columns: dict[str, Any] = {"name": list(design.documents.names), "role": list(design.roles), "n_tokens": sizes}
    for suffix, parts in (("", Parts.of(design)), ("_rest", Parts.of(design, design.span_of < 0))):
        for name, values in measures_of(logs).items():
            found = parts.compare(parts.sums(values))
            if not suffix:
                columns |= {"n_in": found.n_on, "n_out": found.n_off}
            told = np.where(random & np.isfinite(found.standard_error), 1.0, np.nan)
            columns |= _columns(name + suffix, found, ("in", "out"), told)
    columns |= {f"bits{end}": columns[f"log_probability{end}"] * sizes / _NATS for end in ("", "_se", "_in", "_out")}
    return pd.DataFrame(columns)


def _columns(
    name: str, found: Difference, sides: tuple[str, str], told: Float64[np.ndarray, " n_units"] | float = 1.0
) -> dict[str, Any]:
    means = {f"{name}_{sides[0]}": found.on, f"{name}_{sides[1]}": found.off}
    return {name: found.difference * told, f"{name}_se": found.standard_error * told, **means}


def _spans(design: Design, logs: Logs, places: Places) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "text": [span.text for span in design.spans],
        "kind": [span.kind for span in design.spans],
        "n_copies": np.array([len(span.copies) for span in design.spans], dtype=np.int64),
        "n_tokens": places.per_span(places.n_tokens[None])[0],
        "planned": np.array([span.settings.get("n_copies", np.nan) for span in design.spans], dtype=np.float64),
        "changed": np.array([span.settings.get("changed", np.nan) for span in design.spans], dtype=np.float64),
        "n_seen": _seen(design, places),
    }
    for name, values in measures_of(logs).items():
        sums = places.sums(values)
        found = places.compare(sums / places.n_tokens)
        columns |= _columns(name, found, ("on", "off"))
        columns[f"document_{name}"] = _by_document(places, sums / places.n_tokens)
        if name == "log_probability":
            columns |= {"n_on": found.n_on, "n_off": found.n_off}
            columns |= _columns("bits", places.compare(sums / _NATS), ("on", "off"))
            columns["document_bits"] = _by_document(places, sums / _NATS)
    recited = places.recited(logs)
    sides = (design.span_mask, ~design.span_mask)
    for side, rows in zip(("on", "off"), sides, strict=True):
        counts = rows[:, places.span_of] & places.valid
        columns[f"recited_{side}"] = places.shares(recited, counts)
    rest = _rest(design, logs)
    columns |= {"rest": rest.difference, "rest_se": rest.standard_error}
    return pd.DataFrame(columns)


def _seen(design: Design, places: Places) -> Float64[np.ndarray, " n_spans"]:
    """Copies that a model trains on which tells of the span at a place, mean over models with it on and places."""
    read = np.stack(
        [design.document_mask[:, [copy.document for copy in span.copies]].sum(axis=1) for span in design.spans]
        or [np.zeros(design.n_models)],
        axis=1,
    )
    on = design.span_mask[:, places.span_of] & places.valid
    return places.shares(read[:, places.span_of], on)


def _by_document(places: Places, scores: np.ndarray) -> Float64[np.ndarray, " n_spans"]:
    """What the document's bit does at each place while the span is on, averaged over the places of a span."""
    design = places.design
    inside = design.document_mask[:, [place.document for place in places.places]]
    effect = compare(scores, inside, design.span_mask[:, places.span_of]).difference
    found: Float64[np.ndarray, " n_spans"] = places.per_span(effect[None])[0]
    return found


def _rest(design: Design, logs: Logs) -> Difference:
    """What each span's bit does to the tokens of no span in the documents that hold it."""
    pairs = sorted({(number, copy.document) for number, span in enumerate(design.spans) for copy in span.copies})
    span_of, documents = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    scores = Parts.of(design, design.span_of < 0).means(logs.log_probability)[:, documents]
    valid = design.document_mask[:, documents] & np.isfinite(scores)
    return compare_places(scores, span_of, valid, design.span_mask)


def _tokens(design: Design, logs: Logs) -> pd.DataFrame:
    """Compare models token by token, one model at a time, since all tokens of all models are many numbers."""
    documents = design.documents.document_of
    span_of = design.span_of.copy()
    for number, span in enumerate(design.spans):
        for place in span.measured:
            tokens = design.tokens_of(place)
            span_of[tokens] = np.where(span_of[tokens] < 0, number, span_of[tokens])
    roles = np.array(design.roles)[documents]
    n, total, squares = (np.zeros((2, len(span_of))) for _ in range(3))
    middle = logs.log_probability.mean(axis=0, dtype=np.float64)
    for model, row in enumerate(logs.log_probability):
        inside = design.document_mask[model][documents]
        on = np.where(span_of >= 0, np.append(design.span_mask[model], False)[span_of], inside)
        counts = np.where(span_of >= 0, inside | (roles == "never"), roles == "random")
        centred = row - middle
        for side, rows in enumerate((on & counts, ~on & counts)):
            n[side] += rows
            total[side] += np.where(rows, centred, 0)
            squares[side] += np.where(rows, centred**2, 0)
    means = total / np.where(n >= 1, n, np.nan)
    variances = np.maximum(squares - n * means**2, 0) / np.where(n >= 2, (n - 1) * n, np.nan)
    columns = {"document": documents, "span": span_of, "log_probability": means[0] - means[1]}
    return pd.DataFrame(columns | {"log_probability_se": np.sqrt(variances.sum(axis=0))})


@dataclass(frozen=True, eq=False)
class Influence:
    """How much each document and span changes the log-probability (nats per token) of each document.

    Attributes:
        documents: Effect of training on a document (columns) on another (rows); NaN for one that is in all models or
            none, or the same models as the other. The diagonal is memorization.
        documents_se: Its standard errors, Welch's.
        spans: Effect of a span being on, in models with the document in or out alike.
        spans_se: Its standard errors, Welch's.
    """

    documents: Float64[np.ndarray, "n_documents n_documents"]
    documents_se: Float64[np.ndarray, "n_documents n_documents"]
    spans: Float64[np.ndarray, "n_documents n_spans"]
    spans_se: Float64[np.ndarray, "n_documents n_spans"]


def influence(design: Design, logs: Any) -> Influence:
    """Estimate the influence of documents and spans on documents.

    What a document's own bit does to it is taken away before the others are estimated: it would be their largest noise.

    Args:
        design: Who was trained on what.
        logs: Log-probabilities of all tokens under every model (see ``as_logs``).

    Raises:
        ValueError: If the design has fewer than four models, or the log-probabilities are not its models'.

    References:
        Feldman and Zhang 2020; Zhang et al. 2021.
    """
    values, parts = as_logs(logs, design).log_probability, Parts.of(design)
    sizes = np.diff(design.documents.starts)
    scores = np.add.reduceat(values, design.documents.starts[:-1], axis=1, dtype=np.float64) / sizes
    random = np.flatnonzero(np.array(design.roles) == "random")
    mask = design.document_mask
    own = compare(scores, mask)
    others = scores.copy()
    others[:, random] -= np.where(mask, own.on, own.off)[:, random]
    own_bits = np.where(np.array(design.roles) == "random", 2.0 * mask - 1, 0)
    effects, errors = (np.full((scores.shape[1], scores.shape[1]), np.nan) for _ in range(2))
    if len(random):
        effects[:, random], errors[:, random] = _influence(others, own_bits, mask[:, random])
        memorized = parts.compare(parts.sums(values))
        effects[random, random] = memorized.difference[random]
        errors[random, random] = memorized.standard_error[random]
    if not design.spans:
        return Influence(effects, errors, *(np.zeros((scores.shape[1], 0)) for _ in range(2)))
    return Influence(effects, errors, *_influence(others, own_bits, design.span_mask))


def _influence(others: np.ndarray, own_bits: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate influence on scores freed from their own bits, which took a part of it where bits agree by chance."""
    effects, errors = influence_of(others, bits)
    kept = 1 - (own_bits.T @ (2.0 * bits - 1) / len(bits)) ** 2
    kept = np.where(kept > 0, kept, np.nan)
    return effects / kept, errors / kept
