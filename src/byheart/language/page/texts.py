"""The texts that the page shows, token by token: which documents, which part of a long one, and where spans are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from byheart.language.design import Design
    from byheart.language.estimates import Estimates

N_DOCUMENTS = 60
_N_TOKENS = 1_500  # of a document
_N_TOKENS_OF_ALL = 40_000
_COPIES_PER_SPAN = 4
_BITS = 1 / np.log(2)  # in a nat


def listed(design: Design, estimates: Estimates, order: Sequence[int]) -> list[int]:
    """Return the documents whose text is shown: those with most memorization, and those that hold the strongest spans.

    Args:
        design: Of the ensemble.
        estimates: What was found.
        order: All documents, those with most memorization first.
    """
    spans = np.argsort(-np.nan_to_num(estimates.spans["bits"].to_numpy(dtype=float), nan=-np.inf), kind="stable")
    holding = [
        place.document
        for first in range(0, _COPIES_PER_SPAN, 2)  # two copies of each span, to go from one to the other, then more
        for span in spans
        for place in design.spans[span].places[first : first + 2]
    ]
    half = N_DOCUMENTS // 2
    chosen = list(dict.fromkeys([*order[:half], *list(dict.fromkeys(holding))[: half + half // 2], *order]))
    sizes = [min(len(design.documents.tokens[d]), _N_TOKENS) for d in chosen]
    fitting = max(1, int((np.cumsum(sizes) <= _N_TOKENS_OF_ALL).sum()))
    rank = {d: r for r, d in enumerate(order)}
    return sorted(chosen[: min(fitting, N_DOCUMENTS)], key=rank.__getitem__)


def as_json(design: Design, estimates: Estimates, rows: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return the pieces of each text with their memorization in bits, and the spans in it, as JSON values.

    Args:
        design: Of the ensemble.
        estimates: What was found.
        rows: The documents, each with its row in the page's table.
    """
    bits = estimates.tokens["log_probability"].to_numpy(dtype=float) * _BITS
    errors = estimates.tokens["log_probability_se"].to_numpy(dtype=float) * _BITS
    copies: dict[int, list[tuple[int, int, int, bool]]] = {}
    for number, span in enumerate(design.spans):
        for place in span.copies:
            copies.setdefault(place.document, []).append((place.start, place.stop, number, True))
        for place in set(span.measured) - set(span.copies):
            copies.setdefault(place.document, []).append((place.start, place.stop, number, False))
    return [
        {"row": row, **_text(design, document, bits, errors, copies.get(document, []))}
        for document, row in rows.items()
    ]


def _text(
    design: Design, document: int, bits: np.ndarray, errors: np.ndarray, copies: list[tuple[int, int, int, bool]]
) -> dict[str, Any]:
    first, after = (int(s) for s in design.documents.starts[document : document + 2])
    start, stop = _window(bits[first:after])
    owner = np.zeros(after - first, dtype=int)
    pieces: list[str] = []
    values, spread = [], []
    for begin, end, words in _pieces(design, document, start, stop):
        owner[begin:end] = len(pieces)
        pieces.append(words)
        values.append(number(bits[first + begin : first + end].sum()))
        spread.append(number(errors[first + begin : first + end].sum()))
    return {
        "start": start,
        "n_tokens": after - first,
        "part": stop - start,
        "pieces": pieces,
        "bits": values,
        "se": spread,
        "places": [
            [int(owner[max(a, start)]), int(owner[min(b, stop) - 1]) + 1, span, exact]
            for a, b, span, exact in sorted(copies)
            if a < stop and b > start
        ],
    }


def _window(bits: np.ndarray) -> tuple[int, int]:
    """Return the part of a long document that holds most memorization."""
    if len(bits) <= _N_TOKENS:
        return 0, len(bits)
    total = np.cumsum([0.0, *np.nan_to_num(bits)])
    start = int(np.argmax(total[_N_TOKENS:] - total[:-_N_TOKENS]))
    return start, start + _N_TOKENS


def _pieces(design: Design, document: int, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    """Yield tokens with the text they stand for; tokens that share a character, such as an emoji's, as one piece."""
    words, offsets = design.documents.texts[document], design.documents.offsets[document]
    reach = int(offsets[start, 0])
    begin = start
    for token in range(start, stop):
        until = max(reach, int(offsets[token, 1]))
        shared = token + 1 < stop and int(offsets[token + 1, 0]) < until
        if token + 1 == stop or (until > reach and not shared):
            yield begin, token + 1, words[reach:until]
            begin, reach = token + 1, until


def number(value: Any) -> float | None:
    """Return a number in four digits, and None for one that is not finite."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
