"""The examples that are kept for a reader: those with the largest scores, as pictures or texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8

Show = Callable[[Any], "np.ndarray | str"]
Picture = UInt8[np.ndarray, "height width *colors"]
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
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * (values - low) / (high - low if high > low else 1)).astype(np.uint8)


def _look(item: Any) -> np.ndarray | str:
    """A picture of what has the shape of one, else words."""
    if isinstance(item, str):
        return item
    if isinstance(item, (tuple, list)):
        return " | ".join(str(_look(part)) for part in item)
    values = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    if values.ndim == 3 and values.shape[0] in (1, 3) and min(values.shape[1:]) > 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if (values.ndim == 2 and min(values.shape) > 3) or (values.ndim == 3 and values.shape[2] == 3):
        return values
    flat = values.ravel()
    words = ", ".join(f"{value:.4g}" for value in flat[:12].tolist())
    return f"{words}{', ...' if flat.size > 12 else ''}"
