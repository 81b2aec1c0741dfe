"""Names of examples that stay when others are added, removed or sorted anew: what two audits are matched by."""

from __future__ import annotations

from typing import Any

import numpy as np

from byheart.arrays import as_labels

ID = "id"  # the column of an audit's table


def as_ids(values: Any, n_examples: int) -> np.ndarray:
    """Return a name per example, in the order of the dataset.

    Args:
        values: Words or whole numbers, each once, in any container that ``byheart.arrays`` takes.
        n_examples: Of the dataset.

    Returns:
        int64, or an array of str objects, of shape (n_examples,).

    Raises:
        ValueError: If there are more or fewer, one is missing, empty, no word or whole number, or one occurs twice.
    """
    numbers, words = as_labels(values, "ids")
    if numbers.ndim != 1 or numbers.dtype.kind != "i":
        raise ValueError(
            f"ids: received {numbers.dtype} of shape {numbers.shape}, accepted: a word or a whole number per example"
        )
    if len(numbers) != n_examples:
        raise ValueError(f"ids: received {len(numbers)}, accepted: one for each of the dataset's {n_examples} examples")
    found = numbers if words is None else np.array(words, dtype=object)[numbers]
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = found.tolist()[first[counts > 1][0]]
        raise ValueError(f"ids: received {twice!r:.60} {counts.max()} times, accepted: each once")
    if words is not None and "" in words:
        raise ValueError("ids: received an empty word, accepted: words and whole numbers")
    return found
