"""What language models memorized of a corpus as one HTML page that needs no network: its text, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from byheart import page
from byheart.language.page import texts
from byheart.language.page.controls import controls
from byheart.language.page.curves import dose_figure, extraction_figure
from byheart.language.page.texts import number

if TYPE_CHECKING:
    from byheart.language.design import Design
    from byheart.language.estimates import Estimates

_ROWS = 2_000  # of a table
_CHARACTERS = 300  # of a name or a span in a table
_QUANTILE = 1.96  # standard errors in half of a 95 % interval


def write_page(
    path: str | Path,
    design: Design,
    estimates: Estimates,
    *,
    title: str,
    notes: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    extraction: pd.DataFrame | None = None,
) -> Path:
    """Write the page of an ensemble, and return its path.

    Args:
        path: File to write, replaced if it exists.
        design: Design of the ensemble.
        estimates: Estimates from its models.
        title: Heading of the page.
        notes: Sentences on how this was made, beside those that every page has.
        settings: Versions and settings by name, shown as they are.
        extraction: Table of ``byheart.language.extraction.extraction``; without it the page has no such section.

    Raises:
        OSError: If the page cannot be written.
    """
    order = _by_size(estimates.documents)
    shown = texts.listed(design, estimates, order)
    rows = {document: row for row, document in enumerate(dict.fromkeys([*order[:_ROWS], *shown]))}
    shown_texts = texts.as_json(design, estimates, {document: rows[document] for document in shown})
    spans = [s for s in _by_size(estimates.spans) if estimates.spans["kind"][s] != "probe"]
    in_texts = sorted({place[2] for text in shown_texts for place in text["places"]})
    data = {
        "n_documents": len(design.documents),
        "scale": _scale(shown_texts),
        "texts": shown_texts,
        "documents": [_document(estimates.documents, document, row) for document, row in rows.items()],
        "spans": [_span(estimates.spans, extraction, span) for span in spans[:_ROWS]],
        "span_facts": {
            span: {"kind": design.spans[span].kind, "n_copies": len(design.spans[span].copies)} for span in in_texts
        },
    }
    figures = [dose_figure(estimates), extraction_figure(extraction)]
    return page.write_page(
        Path(path),
        "language/page/page.html",
        style=page.asset("language/page/page.css"),
        scripts=[page.asset("language/page/page.js")],
        data=data,
        kind="byheart: what language models memorized",
        title=_writable(title),
        summary=[_first_words(design), estimates.headline()],
        how_to_read=_HOW_TO_READ,
        facts=_facts(design, estimates),
        about_text=_ABOUT_TEXT[: 2 if design.spans else 1],
        about_documents=_ABOUT_DOCUMENTS + _cut("documents", len(rows), len(order)),
        about_spans=[
            _ABOUT_SPANS + _cut("spans", min(len(spans), _ROWS), len(spans)),
            _ABOUT_COLUMNS + ("" if extraction is None else _ABOUT_TRIES),
        ],
        figures=[figure for figure in figures if figure],
        controls=controls(design, estimates),
        notes=[_writable(note) for note in (*design.documents.notes, *notes, *_LIMITS)],
        tables={"Versions and settings": {_writable(str(k)): _writable(str(v)) for k, v in settings.items()}}
        if settings
        else {},
    )


_HOW_TO_READ = (
    "A bit is a doubling: a sentence with 10 bits of memorization is about a thousand times more probable under models"
    " that read it. A false discovery rate of 5 % means that of those counted about one in twenty is expected to be"
    " counted wrongly; an effect that is told from 0 with probability 0.8 stands out from chance differences between"
    " models four times in five."
)
_ABOUT_TEXT = (
    "A token is a word or a part of one, what a language model reads and writes in one step. Orange tokens are more"
    " probable under models that trained on the document than under those that did not: memorized. Blue ones are less"
    " probable. Point at a token, or move through a text with the arrow keys, to read its memorization and its standard"
    " error, the usual size of the chance error in it. Listed are the documents with most memorization, and those that"
    " hold the strongest spans.",
    "Underlined are spans: passages that are switched on or off as a whole, in all their copies. Where a span is off,"
    " the model still reads its words but never learns to write them. The color of a span's tokens is therefore what"
    " switching the span on does, among models that read the document. Click on a span to see its next copy. A dotted"
    " underline marks places where a span is measured but not trained on.",
)
_ABOUT_DOCUMENTS = (
    "Memorization in bits over the whole document: how much more probable its text is under models that read it. Where"
    " a span is off, a model does not count for the span's words. The interval covers the value that very many models"
    " would give in about 95 of 100 cases; the thin line in the drawing is 0. “Right” is the share of tokens that are"
    " the model's first guess. Click a heading to sort."
)
_ABOUT_SPANS = (
    "Memorization in bits over one copy of the span: how much more probable it is under models in which it is on, in"
    " documents that they read either way. “Canaries” were planted for this test, “near-copies” are canaries that were"
    " planted with some words changed, “repeats” were found in the corpus, and “joined” spans are repeats that differ"
    " a little."
)
_ABOUT_COLUMNS = (
    "A span is recited if each of its tokens is the model's first guess, given what stands before it; “on” and “off”"
    " are the shares of models and places. “Bits by the document alone” is what reading this one document adds to the"
    " same passage while the span is on: little, where other copies teach it as well."
)
_ABOUT_TRIES = (
    " “Tries” is how often the median model must be asked to continue the text, drawing each token by its probability,"
    " until it is as likely as not to have written the span word for word."
)
_LIMITS = (
    "Memorization here is a difference between models that trained on a text and models that did not, all else drawn at"
    " random (Zhang et al. 2021, “Counterfactual memorization in neural language models”). A text that any model of"
    " this corpus would predict is not memorized, even if it is always recited.",
    "Errors are over models: they say how the numbers would vary with other models trained in the same way, not with"
    " another corpus.",
    "That a span is memorized by these small models does not say that a larger model, trained otherwise, memorizes it;"
    " that it is not does not say that a larger one does not.",
    "A color says how much more probable training on the text made a token. It does not say that the token can be"
    " extracted by someone who does not know the words before it.",
    "Tokens are many and each is measured by a few models: single colors are noisy, and some are large by chance.",
)


def _first_words(design: Design) -> str:
    n = len(design.documents)
    half = design.roles.count("random")
    words = f"{design.n_models} language models of one kind were trained on random halves of {n:,} documents."
    if half < n:
        words = (
            f"{design.n_models} language models of one kind were trained on {n:,} documents: {half:,} of them are in a"
            f" random half of the models each, {design.roles.count('always'):,} in all, and"
            f" {design.roles.count('never'):,} in none."
        )
    return (
        f"{words} Where models that read a document predict its words better than models that did not, they can only"
        " have them from that document: they memorized it."
    )


def _facts(design: Design, estimates: Estimates) -> list[tuple[str, str, str]]:
    told = estimates.documents[estimates.documents["bits"].notna()]
    facts = [
        ("models", f"{design.n_models:,}", "each trained on its own half"),
        ("documents", f"{len(design.documents):,}", f"{design.documents.n_tokens:,} tokens"),
    ]
    if len(told):
        total, size = told["bits"].sum(), told["n_tokens"].sum()
        facts.append(("bits memorized of a document, median", f"{told['bits'].median():.3g}", ""))
        facts.append(("bits memorized of a token, mean", f"{total / size:.2g}", f"{total:,.0f} bits in all documents"))
    spans = estimates.spans[estimates.spans["kind"] != "probe"]
    if len(spans):
        facts.append(("spans", f"{len(spans):,}", f"{spans['n_copies'].sum():,} copies"))
    if spans["recited_on"].notna().any():
        on, off = (f"{100 * spans[f'recited_{side}'].mean():.1f} %" for side in ("on", "off"))
        facts.append(("of spans are recited word for word", on, f"{off} where they are off"))
    return facts


def _cut(what: str, shown: int, total: int) -> str:
    return f" The table has {shown:,} of {total:,} {what}: those with most." if shown < total else ""


def _by_size(table: pd.DataFrame) -> list[int]:
    """Rows from the largest memorization in bits on, those without an estimate at the end."""
    values = table["bits"].to_numpy(dtype=float)
    return [int(row) for row in np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")]


def _document(table: pd.DataFrame, document: int, row: int) -> dict[str, Any]:
    size = int(table["n_tokens"][document])
    return {
        "at": row,
        "name": _short(table["name"][document]),
        "role": table["role"][document],
        "n_tokens": size,
        "per_token": number(table["bits"][document] / size),
        **_interval(table, document),
        **{name: number(table[name][document]) for name in ("accuracy_in", "accuracy_out")},
    }


def _span(table: pd.DataFrame, extraction: pd.DataFrame | None, span: int) -> dict[str, Any]:
    found = {
        "at": span,
        "text": _short(table["text"][span]),
        "kind": table["kind"][span],
        **_interval(table, span),
        **{n: number(table[n][span]) for n in ("n_copies", "n_tokens", "recited_on", "recited_off", "document_bits")},
    }
    for side in ("on", "off"):
        found[f"tries_{side}"] = None if extraction is None else _tries(extraction[f"log_p_{side}"][span])
    return found


def _tries(log_p: float) -> float | None:
    """Decimal logarithm of the tries until success is as likely as not, from a probability that may be tiny."""
    if log_p > -30:
        return number(math.log10(max(math.log(0.5) / math.log1p(-math.exp(min(log_p, -1e-12))), 1)))
    return number((math.log(math.log(2)) - log_p) / math.log(10))


def _interval(table: pd.DataFrame, row: int) -> dict[str, float | None]:
    bits, half = table["bits"][row], _QUANTILE * table["bits_se"][row]
    return {"bits": number(bits), "low": number(bits - half), "high": number(bits + half)}


def _scale(shown: list[dict[str, Any]]) -> float:
    """A round number of bits from which on the color is full: few tokens are above it."""
    bits = [abs(value) for text in shown for value in text["bits"] if value is not None]
    largest = float(np.percentile(bits, 98)) if bits else 0.0
    if largest < 1e-3:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return float(f"{next(k * power for k in (1, 2, 5, 10) if k * power >= largest):.3g}")


def _short(words: str) -> str:
    return words if len(words) <= _CHARACTERS else words[:_CHARACTERS] + "…"


def _writable(words: str) -> str:
    """Text without lone surrogates, which UTF-8 does not have."""
    return words.encode("utf-8", "replace").decode("utf-8")
