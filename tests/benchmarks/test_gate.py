"""What the gate is measured on."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
from benchmarks.gate import N_WRONG, planted, sign_test_of_flags
from byheart.datasets import digits


def test_the_planted_labels_are_wrong_and_no_others():
    pytest.importorskip("sklearn")
    labels, chosen = planted(digits())
    assert len(chosen) == N_WRONG
    np.testing.assert_array_equal(np.flatnonzero(labels != digits().labels), chosen)
    assert set(labels) == set(range(10))


def test_the_plain_sign_test_calls_a_common_shift_a_change():
    few, many = np.arange(100) < 2, np.arange(100) < 60
    tables = [pd.DataFrame({"flagged": flagged}) for flagged in (few, few, many)]
    assert sign_test_of_flags(tables) == pytest.approx(2 / 6)
    assert sign_test_of_flags(tables[:1] * 3) == 0
