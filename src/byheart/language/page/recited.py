"""What a model recites of texts as one HTML page that needs no network: the texts, coloured, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byheart import page
from byheart.language.recite import LENGTH, RECITED, Recitation

_LEVELS = (0.1, 0.5, 0.9)  # probabilities at which the colour changes
_SHORTEST_RUN = 10  # tokens of a run that is underlined
_MOST = 20_000  # tokens of a text that are shown
_ABOUT_COLORS = (
    "Each token is coloured by its probability after up to 512 tokens before it: white below 10 %, then below 50 %,"
    f" below 90 %, and orange from there. Underlined are runs of at least {_SHORTEST_RUN} tokens each of which is the"
    " model's first guess. Common words are easy to guess: colour alone is no sign of memorization."
)
_ABOUT_TABLE = (
    f"Windows of {LENGTH} tokens after a prefix of 16, 32 or 64; recited where sampling at temperature 1 writes them"
    f" with probability {RECITED} or more. Controls after 64 tokens: the same continuation after the prefix of another"
    " window, a twin with names and numbers swapped, text made up on the spot, and an n-gram model of the rest of the"
    " text without any network. Where a control is recited too, recitation says nothing of memory. Loss is in nats per"
    " token."
)
_LIMITS = (
    "That a model recites a text does not say from which copy it learned it; that it does not, does not say that it"
    " never read it.",
    "The twin keeps most of the words: its loss is only a little higher where a model knows the language, and recited"
    " twins mean that the model fills in what stands in the prefix.",
)


def write_recited_page(path: str | Path, found: Sequence[Recitation], table: pd.DataFrame) -> Path:
    """Write the page of recitations, and return its path.

    Raises:
        OSError: If the page cannot be written.
    """
    shown = table.drop(columns=["seed"])
    rows = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in shown.itertuples(index=False)]
    return page.write_page(
        Path(path),
        "language/page/recited.html",
        style=page.asset("language/page/page.css") + page.asset("language/page/recited.css"),
        scripts=[],
        data={},
        kind="byheart: what a language model recites",
        title=", ".join(dict.fromkeys(one.model for one in found)),
        summary=[one.headline() for one in found],
        about_table=_ABOUT_TABLE,
        about_colors=_ABOUT_COLORS,
        columns=list(shown),
        rows=rows,
        texts=[{"name": one.text, "headline": one.headline(), "tokens": _tokens(one)} for one in found],
        notes=[*dict.fromkeys(note for one in found for note in one.notes), *_LIMITS, *_cut(found)],
        tables={},
    )


def _tokens(one: Recitation) -> list[dict[str, Any]]:
    edges = np.flatnonzero(np.diff(np.r_[0, one.first.astype(np.int8), 0])).reshape(-1, 2)
    in_run = np.zeros(len(one.first), dtype=bool)
    for start, stop in edges.tolist():
        in_run[start:stop] = stop - start >= _SHORTEST_RUN
    chances = np.exp(one.log_probability)
    text, offsets = one.documents.texts[0], one.documents.offsets[0]
    return [
        {
            "text": text[start:stop],
            "of": f"p{np.searchsorted(_LEVELS, chance, side='right')}{' run' if run else ''}",
            "title": f"{chance:.2g}",
        }
        for (start, stop), chance, run in zip(offsets[:_MOST].tolist(), chances, in_run, strict=False)
    ]


def _cut(found: Sequence[Recitation]) -> list[str]:
    long = [one.text for one in found if len(one.first) > _MOST]
    return [f"Of {', '.join(long)}, the first {_MOST:,} tokens are shown."] if long else []
