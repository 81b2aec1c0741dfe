"""The examples that are kept for a reader: those with the largest scores, as pictures or texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8

from byheart.arrays import as_array

Show = Callable[[Any], "np.ndarray | str"]
Picture = UInt8[np.ndarray, "height width *colors"]
_COLORED = ("P", "PA", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB")
_LONGEST_TEXT = 2_000  # characters of an example that are kept


def largest(table: pd.DataFrame, most_shown: int) -> Int64[np.ndarray, " n_listed"]:
    """Return the examples with the largest scores and all that are flagged, from the largest score on."""
    ranks = table["score"].rank(ascending=False, method="first")
    return ranks[(ranks <= most_shown) | table["flagged"]].sort_values().index.to_numpy()


def picture_or_text(item: Any, show: Show | None) -> Picture | str:
    """Return what a person can look at of an input; values of a picture are stretched to the whole range of grey.

    Args:
        item: An input, as the dataset has it.
        show: Makes a picture, of shape (height, width) or (height, width, 3), or a text of an input; by default images
            are recognized by their shape, texts are texts, and of others the first numbers are shown.

    Raises:
        ValueError: If ``show`` returns neither.
    """
    shown = show(item) if show is not None else _look(item)
    if isinstance(shown, str):
        return shown[:_LONGEST_TEXT]
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
    return np.rint(255 * (values - low) / (high - low) if high > low else 0 * values).astype(np.uint8)


def _look(item: Any) -> np.ndarray | str:
    """A picture of what has the shape of one, else words."""
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        return _first_picture([(f"{name}: ", _look(value)) for name, value in item.items()])
    if isinstance(item, (tuple, list)) and not all(isinstance(value, (int, float)) for value in item):
        return _first_picture([("", _look(part)) for part in item])
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
    flat = values.ravel()
    words = ", ".join(f"{value:.4g}" for value in flat[:12].tolist())
    return f"{words}{', ...' if flat.size > 12 else ''}"


def _first_picture(parts: Sequence[tuple[str, np.ndarray | str]]) -> np.ndarray | str:
    """The first picture among the parts of an input; if there is none, all of them in words."""
    for _, look in parts:
        if not isinstance(look, str):
            return look
    return " | ".join(f"{name}{look}" for name, look in parts)
