"""What comes first, on the page and in a notebook: what memorized means, how much was found, the worst examples."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from byheart.network.listed import SORTED_BY, Picture
from byheart.network.score_table import scores_from
from byheart.network.verdicts import VERDICTS, WHAT_NOW

if TYPE_CHECKING:
    from byheart.network.audit import Audit

_PLURALS = {"suspected wrong label": "suspected wrong labels", "copy": "copies", "example": "examples"}
_N_WORST = 6
_LONGEST_TEXT = 160  # characters of a text among the worst examples
_SMALL = 96  # pixels; larger pictures are photographs more often than not, which JPEG keeps in a tenth of the bytes


def titles_of(audit: Audit) -> dict[str, str]:
    """Return by column of numbers what a page calls it, those that are read first at the beginning."""
    found = {"score": "memorization"}
    if "held_out" in audit.evidence:
        found |= {
            "probability": "probability of being memorized",
            "low": "memorization at least",
            "high": "memorization at most",
        }
    if "classes" not in audit.evidence and "target" in audit.table:
        found |= {"target": "target", "prediction": "the network's answer"}
    for score in scores_from(audit.evidence):
        several = len(score.columns(audit.layers)) > 1
        for layer, column in zip(audit.layers, score.columns(audit.layers), strict=False):
            found[column] = f"{score.title} ({layer})" if several else score.title
    return found | {"copies": "number of copies"}


def words_of(audit: Audit) -> list[str]:
    """Return what memorized means and how many examples are, in sentences."""
    table, n = audit.table, len(audit.table)
    flagged = int(table["flagged"].sum())
    first = (
        f"This network was trained on {n:,} examples. Most it answers by what it learned from all of them. Some it"
        " answers only because it saw them: it memorized these, or knows them by heart. A network that is trained on"
        " all the others misses them, so that right answers to them say little about how it does on anything new."
    )
    if "held_out" in audit.evidence:
        p = table["probability"].to_numpy(dtype=float)
        expected, spread = p.sum(), 2 * math.sqrt((p * (1 - p)).sum())
        low, high = max(expected - spread, 0), expected + spread
        second = (
            f"About {expected:,.0f} are memorized ({low:,.0f} to {high:,.0f} if the probabilities are right). The"
            f" {flagged:,} of which this is more likely than not are called memorized below."
        )
    elif not _are_judged(audit):
        those = "most likely one is" if flagged == 1 else f"{flagged:,} most likely ones are"
        second = (
            f"The {those} shown first below, and not called memorized: a large error now may be of what was never"
            " learned. A log of losses tells, or networks that are trained without some of the examples."
        )
    else:
        those = "most likely one is" if flagged == 1 else f"{flagged:,} most likely ones are"
        second = (
            f"The {those} called memorized below. This is a ranking: how many there are cannot be told without networks"
            " that are trained without some of the examples."
        )
    return [first, second]


def _are_judged(audit: Audit) -> bool:
    """Whether what is flagged is called memorized (``verdicts.judge``): of numbers only with a log or held-out run."""
    return bool(audit.evidence & {"classes", "log", "held_out"})


def concrete_example(audit: Audit, label_names: Sequence[str]) -> dict[str, Any] | None:
    """Return one memorized example with what shows that it is, for a reader who has not met the word."""
    table = audit.table
    chosen = table[table["flagged"] & _are_judged(audit)].sort_values("score", ascending=False)
    if "classes" in audit.evidence:  # what the network misses is a poor example of what it knows by heart
        chosen = chosen[chosen["prediction"] == chosen["label"]]
        missed = chosen["ridge_leave_one_out"] > 0 if "head" in audit.evidence else pd.Series(True, chosen.index)
        plain = chosen["verdict"] == "memorized"
        chosen = pd.concat([chosen[missed & plain], chosen[missed], chosen[plain], chosen])
    if not len(chosen):
        return None
    index, row = int(chosen.index[0]), chosen.iloc[0]
    number = f"number {index:,} of the dataset, counted from 0,"
    if "classes" in audit.evidence:
        label = name_of(label_names, row["label"])
        words = f"For example, {number} is labelled {label}, and the network answers {label}."
        if "held_out" in audit.evidence:
            words += (
                f" Of 100 networks that are trained without it, about {100 * row['estimate']:.0f} fewer answer so than"
                " of 100 that are trained with it (an estimate)."
            )
        elif row.get("ridge_leave_one_out", -1) > 0 and row.get("other_label", -1) >= 0:
            other = name_of(label_names, row["other_label"])
            words += f" But all other examples together say {other}: only having seen it tells the network otherwise."
        else:
            words += " Of the examples that it answers rightly, this is the one about which the others say least."
    elif "target" in table:
        words = (
            f"For example, the target of {number} is {row['target']:.4g}, and the network answers"
            f" {row['prediction']:.4g}. It is unlike the others, and they say something else, so that what the network"
            " gets right of it, it hardly has from them."
        )
    else:
        words = f"For example, {number} is unlike the others, and they say something else."
    return {**look(audit, index), "words": words}


def facts(audit: Audit) -> list[tuple[str, str, str]]:
    """Return the numbers that come first: what, how many, and their share."""
    table, n = audit.table, len(audit.table)
    found = [("training examples", f"{n:,}", "")]

    def share(name: str, count: int) -> None:
        found.append((name, f"{count:,}", f"{count / n:.1%} of all"))

    share("memorized" if "held_out" in audit.evidence else "most likely memorized", int(table["flagged"].sum()))
    if "classes" in audit.evidence:
        share("labels to check", int((table["verdict"] == "suspected wrong label").sum()))
        share("answered wrongly", int((table["prediction"] != table["label"]).sum()))
    share("with a copy in the data", int((table["copies"] > 0).sum()))
    return found


def worst(audit: Audit, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the two questions that people have, each with an answer in words, its first examples, and how to go on."""
    table = audit.table
    flagged = table["flagged"]
    n_suspects = int((table["verdict"] == "suspected wrong label").sum())
    both = int((flagged & (table["verdict"] == "suspected wrong label")).sum())
    of_them = "It" if both == flagged.sum() == 1 else f"{both:,} of them"
    also = f" {of_them} may have a wrong label." if both else ""
    if "classes" in audit.evidence and (missed := int((flagged & (table["prediction"] != table["label"])).sum())):
        of_them = "It" if missed == flagged.sum() == 1 else f"{missed:,} of them"
        also += f" {of_them} the network answers wrongly now."
    first = "the most memorized first" if _are_judged(audit) else "the most likely memorized first"
    memorized = {
        "question": "What did it memorize?",
        "heading": "Most memorized",
        "answer": f"{_counted(int(flagged.sum()), 'example')}, {first}.{also}"
        if flagged.any()
        else "Of no example it is more likely than not.",
        "examples": _first(audit, flagged, "score", label_names),
        "button": "Show these" if flagged.any() else "",
        "choice": {"flagged": "yes", "sort": "score"},
    }
    if "classes" in audit.evidence:
        return [
            memorized,
            {
                "question": "Which labels are wrong?",
                "heading": "Suspected wrong labels",
                "answer": (
                    "Perhaps this one. "
                    if n_suspects == 1
                    else f"Perhaps some of these {n_suspects:,}, the most suspicious first. "
                )
                + "At most 2 in 100 are listed, so that there may be more. Perfectly labelled"
                " data have suspects too: hard examples."
                if n_suspects
                else "None is suspected.",
                "examples": _first(
                    audit, table["verdict"] == "suspected wrong label", "wrong_label", label_names, may_be=True
                ),
                "button": "Show these" if n_suspects else "",
                "choice": {"verdict": "suspected wrong label", "sort": "wrong_label"},
            },
        ]
    return [
        memorized,
        {
            "question": "Where is it furthest off?",
            "heading": "Largest errors",
            "answer": "On these its error is largest: a wrong target, a rare kind, or too little training.",
            "examples": _first(audit, pd.Series(True, table.index), "loss", label_names),
            "button": "Show these",
            "choice": {"sort": "loss"},
        },
    ]


def what_now(audit: Audit) -> list[dict[str, str]]:
    """Return what to do about each verdict that is worth a look and that some examples have."""
    counts = audit.table["verdict"].value_counts()
    return [
        {"verdict": name, "heading": _counted(int(counts[name]), name), "words": WHAT_NOW[name]}
        | {"sort": SORTED_BY[name] if SORTED_BY[name] in audit.table else "score"}
        for name in VERDICTS
        if name in SORTED_BY and counts[name]
    ]


def look(audit: Audit, index: int) -> dict[str, Any]:
    """Return the picture of an example as a data address, the beginning of its text, or both."""
    shown = audit.shown.get(index)
    picture, text = shown if isinstance(shown, tuple) else (None, shown) if isinstance(shown, str) else (shown, "")
    text = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."
    return {"index": index, "image": "" if picture is None else data_address(picture), "text": text}


def name_of(label_names: Sequence[str], label: Any) -> str:
    """Return the name of a class, or its number."""
    return label_names[int(label)] if 0 <= int(label) < len(label_names) else str(int(label))


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name if number == 1 else _PLURALS.get(name, name)}"


def data_address(pixels: Picture) -> str:
    """Return an image as a data address."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    kind = "JPEG" if image.mode == "RGB" and max(image.size) > _SMALL else "PNG"
    image.save(buffer, kind, quality=85, optimize=True)  # the quality is JPEG's
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _first(
    audit: Audit, those: pd.Series[bool], column: str, label_names: Sequence[str], *, may_be: bool = False
) -> list[dict[str, Any]]:
    rows = audit.table[those & np.isin(audit.table.index, audit.listed)].nlargest(_N_WORST, column)
    found = []
    for index, row in rows.iterrows():
        if "classes" in audit.evidence:
            caption = f"labelled {name_of(label_names, row['label'])}"
            other = row["prediction"] if row["prediction"] != row["label"] else row.get("other_label", -1)
            if may_be and other >= 0:
                caption += f", may be {name_of(label_names, other)}"
        elif "target" in audit.table:
            caption = f"target {row['target']:.4g}, answered {row['prediction']:.4g}"
        else:
            caption = f"number {index}"
        found.append({**look(audit, int(index)), "caption": caption})  # type: ignore[call-overload]
    return found
