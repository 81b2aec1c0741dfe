"""Rows of documents in batches, as trained models read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int64

from byheart.language.design import Design, Place


def in_batches(
    design: Design, rows: Iterable[Place], at_once: int
) -> Iterator[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, "n_rows longest"], Bool[np.ndarray, "n_rows longest"]]]:
    """Yield rows in batches of like length.

    Args:
        design: Holds the documents.
        rows: Some of its rows.
        at_once: Rows of a batch, at most.

    Returns:
        The numbers of a batch's tokens among those of all documents, row by row; inputs, the beginning and then all
        tokens of a row but the last; and where in them one of these tokens is predicted: shorter rows are filled up.
    """
    ordered = sorted(rows, key=lambda row: row.stop - row.start)
    for first in range(0, len(ordered), at_once):
        tokens = [design.tokens_of(row) for row in ordered[first : first + at_once]]
        sizes = np.array([own.stop - own.start for own in tokens])
        inputs = np.full((len(tokens), sizes[-1]), design.documents.vocabulary)
        for values, own in zip(inputs, tokens, strict=True):
            values[1 : own.stop - own.start] = design.documents.flat[own.start : own.stop - 1]
        numbers = np.concatenate([np.arange(own.start, own.stop) for own in tokens])
        yield numbers, inputs, np.arange(sizes[-1]) < sizes[:, None]
