"""The examples that are kept for a reader, as pictures and texts: all worth looking at, up to a number each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8

from byheart.arrays import as_array
from byheart.network.verdicts import Verdict

Picture = UInt8[np.ndarray, "height width *colors"]
Shown = Picture | str | tuple[Picture, str]
"""What a reader looks at: a picture, a text, or both."""
Show = Callable[[Any], "np.ndarray | str | tuple[np.ndarray, str]"]
SORTED_BY: dict[Verdict, str] = {
    "suspected wrong label": "wrong_label",
    "memorized": "score",
    "not learned": "loss",
    "copy": "copies",
}
"""The column whose largest values come first among the examples with a verdict that is worth looking at."""
_COLORED = ("P", "PA", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB")
_LONGEST_TEXT = 2_000  # characters of an example that are kept
_MOST_NUMBERS = 12  # of an example that are shown
_MOST_NAMED = 40
_MASK = "attention_mask"  # of a text's tokens, which says nothing to a reader


def to_list(table: pd.DataFrame, most_shown: int) -> Int64[np.ndarray, " n_listed"]:
    """Return the examples that are kept for a reader, from the largest score on.

    These are the ``most_shown`` with the largest scores, as many with the largest ``wrong_label``, and as many of each
    verdict but "ordinary".
    """
    chosen = pd.Series(False, table.index)
    for column in ("score", "wrong_label"):
        if column in table:
            chosen[table[column].nlargest(most_shown).index] = True
    for verdict, column in SORTED_BY.items():
        chosen[table.loc[table["verdict"] == verdict].get(column, table["score"]).nlargest(most_shown).index] = True
    return table["score"][chosen].sort_values(ascending=False, kind="stable").index.to_numpy()


def picture_or_text(
    item: Any, show: Show | None, feature_names: Mapping[str, Sequence[str]], largest_side: int
) -> Shown:
    """Return what a person can look at of an input; values of a picture are stretched to the whole range of grey.

    Args:
        item: An input, as the dataset has it.
        show: Makes a picture, of shape (height, width) or (height, width, 3), a text, or a pair of both of an input; by
            default images are recognized by their shape, texts are texts, and of others the first numbers are shown.
        feature_names: Of the numbers of an input, by the name of the input, "" if there is one only.
        largest_side: Of a picture, in pixels; larger ones are made smaller.

    Raises:
        ValueError: If ``show`` returns none of these.
    """
    shown = show(item) if show is not None else _look(item, feature_names)
    if isinstance(shown, str):
        return shown[:_LONGEST_TEXT]
    if isinstance(shown, tuple) and len(shown) == 2 and isinstance(shown[1], str):
        return _picture(shown[0], largest_side), shown[1][:_LONGEST_TEXT]
    return _picture(shown, largest_side)


def _picture(shown: Any, largest_side: int) -> Picture:
    values = np.asarray(shown)
    if values.dtype.kind not in "biuf" or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise ValueError(
            f"show: received {values.dtype} of shape {values.shape}, accepted: a text, or numbers of shape (height,"
            " width) or (height, width, 3)"
        )
    values = values.astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = float(known.min(initial=np.inf)), float(known.max(initial=-np.inf))
    values = np.clip(np.nan_to_num(values, nan=low), low, high) if known.size else np.zeros_like(values)
    pixels = np.rint(255 * (values - low) / (high - low) if high > low else 0 * values).astype(np.uint8)
    if max(pixels.shape[:2]) <= largest_side:
        return pixels
    from PIL import Image

    smaller = Image.fromarray(pixels)
    smaller.thumbnail((largest_side, largest_side))
    return np.asarray(smaller)


def _look(item: Any, names: Mapping[str, Sequence[str]]) -> np.ndarray | str | tuple[np.ndarray, str]:
    """A picture of what has the shape of one, and words of all else."""
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        parts = {str(name): part for name, part in item.items() if name != _MASK}
        return _together([(f"{name}: ", _look(part, {"": names.get(name, ())})) for name, part in parts.items()])
    if isinstance(item, (tuple, list)) and not all(isinstance(value, (int, float)) for value in item):
        return _together([("", _look(part, {})) for part in item])
    if getattr(item, "mode", None) in _COLORED:  # an image of PIL, whose numbers are no shades of grey
        item = item.convert("RGB")
    try:
        values = as_array(item, "inputs")
    except ValueError:  # some object of the user's own
        return " ".join(str(item).split())
    if values.ndim == 3 and values.shape[0] in (1, 3) and min(values.shape[1:]) > 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_picture = (values.ndim == 2 and min(values.shape) > 3) or (values.ndim == 3 and values.shape[2] == 3)
    if is_picture and values.dtype.kind != "c":
        return values
    flat, of_columns = values.ravel(), names.get("", ())
    named = len(of_columns) == flat.size
    words = [f"{value:.4g}" for value in flat[: _MOST_NAMED if named else _MOST_NUMBERS].tolist()]
    more = ["..."] if flat.size > len(words) else []
    pairs = [f"{name}: {word}" for name, word in zip(of_columns, words, strict=False)] if named else words
    return ", ".join(pairs + more)


def _together(
    parts: Sequence[tuple[str, np.ndarray | str | tuple[np.ndarray, str]]],
) -> np.ndarray | str | tuple[np.ndarray, str]:
    """The first picture among the parts of an input, and all words."""
    pictures: list[np.ndarray] = []
    words: list[str] = []
    for name, look in parts:
        picture, text = look if isinstance(look, tuple) else (None, look) if isinstance(look, str) else (look, "")
        pictures += [] if picture is None else [picture]
        words += [f"{name}{text}"] if text else []
    text = " | ".join(words)
    if not pictures:
        return text
    return (pictures[0], text) if text else pictures[0]
