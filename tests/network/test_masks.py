"""Masks of positions that a user gives fit the layer, or are refused with both sizes."""

import numpy as np
import pytest
import torch

from byheart.network.audit import audit
from byheart.network.layout import rows_of


@pytest.mark.parametrize("mask", [np.ones((2, 3)), np.ones((2, 5)), np.eye(2, 5), np.array([5, 1])])
def test_a_given_mask_of_another_width_is_refused(mask):
    with pytest.raises(ValueError, match=r"layer body: received 4 positions and a mask of [35], accepted: as many"):
        rows_of([torch.ones(2, 4, 3)], "body", "npu", np.arange(2), mask, exact=True)


def test_a_mask_that_was_found_may_be_wider():
    rows = rows_of([torch.ones(2, 4, 3)], "body", "npu", np.arange(2), np.eye(2, 5))
    assert rows.sum(axis=(1, 2)).tolist() == [3, 3]


@pytest.mark.parametrize("mask", [np.eye(2, 4), np.eye(2, 8)])
def test_a_given_mask_is_of_one_call_or_of_all(mask):
    calls = [torch.ones(2, 4, 3), torch.ones(2, 4, 3)]
    rows = rows_of(calls, "body", "npu", np.arange(2), mask, exact=True)
    assert rows.sum(axis=(1, 2)).tolist() == [3 * 8 // mask.shape[1]] * 2


def test_a_mask_for_layers_without_positions_is_said_to_change_nothing():
    data = np.eye(8, 4, dtype=np.float32), np.arange(8) % 2
    found = audit(torch.nn.Sequential(torch.nn.Linear(4, 2)), data, mask=np.ones((8, 99), bool))
    assert "mask= changes nothing: no layer that is looked at has positions." in found.notes
    assert not any("what mask= says" in note for note in found.notes)
