"""The audit as one HTML page that needs no network: for a reader who decides, and one who looks at every example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from byheart import page
from byheart.network.ids import ID
from byheart.network.listed import SORTED_BY
from byheart.network.page.charts import budget_bars, histogram, score_charts
from byheart.network.page.summary import concrete_example, data_address, facts, titles_of, what_now, words_of, worst
from byheart.network.score_table import scores_from
from byheart.network.verdicts import VERDICTS, WHAT_NOW, reasons
from byheart.page.encoding import Encoded, encode

if TYPE_CHECKING:
    from byheart.network.audit import Audit

_MOST_ROWS = 300_000  # examples whose numbers are on a page; of more, those that are listed
_RESULTS = {  # what the scores are turned into
    "score": "The best ranking that the evidence allows; larger means more memorized.",
    "probability": "That its memorization is above 0.25: networks trained without it miss it that much more often.",
    "low": "The lower end of its 95 % interval.",
    "high": "The upper end of its 95 % interval.",
    "copies": "How many other examples are the same, or nearly so.",
}
_LIMITS = (
    "The audit looks at one trained network. Training again, with another seed, memorizes other examples: memorization"
    " is a property of the training procedure on these data, and one network shows one draw of it.",
    "A high score does not say why: wrong labels, rare kinds and hard examples all stand out. Look at the examples.",
    "That an example is memorized does not say that it can be extracted from the network.",
)


def write_page(
    audit: Audit,
    path: str | Path,
    *,
    title: str,
    label_names: Sequence[str] = (),
) -> Path:
    """Write the page of an audit, and return its path.

    Args:
        audit: What was found.
        path: Of the page, replaced if it exists.
        title: Its heading.
        label_names: Of the classes; default their numbers.

    Raises:
        OSError: If the page cannot be written.
    """
    names = [str(name) for name in label_names]
    titles = titles_of(audit)
    charts = score_charts(audit, titles)
    meanings = {f"{titles[name]} ({name})": words for name, words in _RESULTS.items() if name in titles}
    meanings |= {f"{score.title} ({score.name})": score.sentence for score in scores_from(audit.evidence)}
    return page.write_page(
        Path(path),
        "network/page/page.html",
        style=page.asset("network/page/page.css"),
        scripts=[page.asset("page/figures.js"), page.asset("network/page/page.js")],
        data=_data(audit, names, titles),
        kind="byheart audit",
        title=title,
        summary=words_of(audit),
        concrete=concrete_example(audit, names),
        facts=facts(audit),
        worst=worst(audit, names),
        what_now=what_now(audit),
        spread=histogram(audit.table["score"].to_numpy(dtype=float), audit.table["flagged"].to_numpy()),
        charts=charts,
        budget=budget_bars(audit),
        shown_note=_shown_note(audit),
        notes=[*_LIMITS, *audit.notes],
        tables={
            "What each number means": meanings,
            "Versions and settings": {"ranking by": audit.score_name, **audit.provenance},
        },
    )


def _shown_note(audit: Audit) -> str:
    n, n_listed = len(audit.table), len(audit.listed)
    if n > _MOST_ROWS:
        return (
            f"{n_listed:,} of {n:,} examples are on this page: those with the largest numbers, and those that are worth"
            " looking at. The table has all of them."
        )
    if n_listed == n:
        return "All examples are on this page."
    return (
        f"The numbers of all {n:,} examples are on this page, and the pictures or texts of {n_listed:,} of them, those"
        " that are worth looking at."
    )


def _data(audit: Audit, label_names: list[str], titles: dict[str, str]) -> dict[str, Any]:
    """What the script reads: numbers of all examples by column, and what is kept of some by their number."""
    table = audit.table if len(audit.table) <= _MOST_ROWS else audit.table.iloc[np.sort(audit.listed)]
    listed = audit.listed.tolist()
    smallest_first = [c for s in scores_from(audit.evidence) if s.sign < 0 for c in s.columns(audit.layers)]
    counts = audit.table["verdict"].value_counts()
    return {
        "n_examples": len(audit.table),
        "ids": [str(each) for each in table[ID]] if ID in table else [],
        "n_flagged": int(audit.table["flagged"].sum()),
        "label_names": label_names,
        "columns": {name: _encoded(table, name) for name in ("index", *_columns(table), *titles)},
        "titles": titles,
        "numbers": list(titles),
        "sortable": [name for name in titles if name not in ("target", "low", "high", "prediction")],
        "smallest_first": smallest_first,
        "verdicts": [
            {
                "name": name,
                "meaning": meaning,
                "what_now": WHAT_NOW[name],
                "sort": SORTED_BY.get(name, "score") if SORTED_BY.get(name, "score") in titles else "score",
                "count": int(counts[name]),
            }
            for name, meaning in VERDICTS.items()
        ],
        "shown": {
            index: {"text": shown}
            if isinstance(shown, str)
            else {"image": data_address(shown[0]), "text": shown[1]}
            if isinstance(shown, tuple)
            else {"image": data_address(shown)}
            for index, shown in audit.shown.items()
        },
        "reasons": dict(zip(listed, reasons(audit, listed), strict=True)),
        "nearest": dict(zip(listed, audit.neighbours.tolist(), strict=True)),
    }


def _columns(table: pd.DataFrame) -> list[str]:
    """The columns that filters read, beside those that are shown as numbers."""
    return [name for name in ("label", "prediction", "verdict", "flagged", "other_label", "copy_of") if name in table]


def _encoded(table: pd.DataFrame, name: str) -> Encoded:
    if name == "index":
        return encode(table.index.to_numpy(), "u4")
    if name == "verdict":
        return encode(table[name].cat.codes.to_numpy(), "u2")
    values = table[name].to_numpy()
    if name in ("other_label", "copy_of"):
        return encode(values + 1, "u4")  # 0 for none
    if values.dtype.kind in "biu" and values.min(initial=0) >= 0:
        return encode(values, "u2" if values.max(initial=0) < 2**16 else "u4")
    return encode(values, "f4")
