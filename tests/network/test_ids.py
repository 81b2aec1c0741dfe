"""Names of examples: what is one, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from byheart.network.ids import as_ids


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["b", "a", "c"], ["b", "a", "c"]),
        (pd.Series(["b", "a", "c"], dtype="category"), ["b", "a", "c"]),
        (np.array([3, 1, 2], dtype=">i4"), [3, 1, 2]),
        (range(3), [0, 1, 2]),
    ],
)
def test_words_and_whole_numbers_stay_what_they_are(given, expected):
    assert as_ids(given, 3).tolist() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2], "received 2, accepted: one for each of the dataset's 3 examples"),
        (["a", "b", "a"], "received 'a' 2 times, accepted: each once"),
        ([5, 5, 5], "received 5 3 times"),
        ([0.5, 1.5, 2.5], "received float64 of shape"),
        ([[1], [2], [3]], "of shape .3, 1."),
        (["a", "", "b"], "empty word"),
        (["a", None, "b"], "ids: received"),
        ("abc", "ids: received str"),
    ],
)
def test_others_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_ids(given, 3)
