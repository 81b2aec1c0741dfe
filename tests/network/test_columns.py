"""Rows and batches that are dicts: inputs by the names of forward's parameters, targets by theirs."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from byheart.network.audit import audit
from byheart.network.columns import Columns, collate_rows
from byheart.network.fit import margins_of
from byheart.network.inputs import inputs_only

N = 30
A, B = torch.randn(2, N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


class Two(nn.Module):
    """Two inputs, one of which may be left out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)

    def forward(self, a, b=0, labels=None):
        assert labels is None
        return {"logits": self.fc(a - 2 * b), "others": a}


def rows(target="labels", **more):
    return [{"a": A[i], "b": B[i], target: int(Y[i]), **{k: v[i] for k, v in more.items()}} for i in range(N)]


@pytest.mark.parametrize("target", ["labels", "label", "label_ids", "target", "targets"])
@pytest.mark.parametrize("loader", [False, True])
def test_columns_are_given_by_name_and_targets_never(target, loader):
    data = rows(target, text=["x"] * N, idx=range(N))
    found = audit(Two(), DataLoader(data, 7) if loader else data)
    expected = audit(Two(), ({"a": A, "b": B}, Y))
    pd.testing.assert_frame_equal(found.table, expected.table, atol=1e-6)
    assert "Columns that the model's forward does not take were left out: text, idx." in found.notes
    np.testing.assert_allclose(margins_of(Two(), data), expected.table["margin"], atol=1e-6)
    assert target not in str(found.shown[0])
    swapped = audit(Two(), [{"b": row["b"], "a": row["a"], "label": row[target]} for row in data])
    pd.testing.assert_frame_equal(swapped.table, expected.table, atol=1e-6)


def test_two_rows_are_rows_and_words_are_labels():
    found = audit(Two(), [{"a": [1.0, 0, 0, 0], "label": 1}, {"a": [0.0, 1, 0, 0], "label": 2}], most_shown=2)
    assert found.table["label"].tolist() == [1, 2]
    words = audit(Two(), [{"a": A[i], "label": "xyz"[Y[i]]} for i in range(N)])
    assert words.label_names == ["x", "y", "z"]


def test_one_column_may_have_any_name_but_not_two():
    plain = nn.Sequential(nn.Linear(4, 3))
    found = audit(plain, [{"picture": A[i], "label": int(Y[i])} for i in range(N)])
    pd.testing.assert_frame_equal(found.table, audit(plain, (A, Y)).table, atol=1e-6)
    with pytest.raises(ValueError, match=r"columns a, b, accepted: some that the model's forward takes \(input\)"):
        audit(plain, rows())


def test_what_is_open_is_refused_by_name():
    with pytest.raises(ValueError, match="columns a, b, labels, label, accepted: one of labels, label"):
        audit(Two(), rows(label=Y))
    with pytest.raises(ValueError, match="columns a, b, answer, accepted: one of labels"):
        audit(Two(), rows("answer"))
    ragged = [{"a": [1.0] * (1 + i), "label": 0} for i in range(3)]
    with pytest.raises(ValueError, match="column a rows of shape \\(1,\\) and \\(2,\\), .*accepted: rows of one"):
        audit(Two(), ragged)
    with pytest.raises(ValueError, match="accepted: rows of one length"):
        audit(Two(), [{"a": torch.ones(1 + i), "label": 0} for i in range(3)])
    with pytest.raises(ValueError, match="column a object objects, accepted: numbers"):
        audit(Two(), [{"a": object(), "label": 0}] * 3)
    with pytest.raises(ValueError, match="column a lists, .*accepted: tensors"):
        audit(Two(), DataLoader([{"a": [1.0, 2, 3, 4], "label": 0}] * 4, 2))


def test_rows_are_collated_without_turning_lists_round():
    batch = collate_rows([{"ids": [1, 2, 3], "x": 0.5, "t": "a"}, {"ids": [4, 5, 6], "x": 1, "t": "b"}])
    assert batch["ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (batch["x"].dtype, batch["t"]) == (torch.float32, ["a", "b"])
    pair = collate_rows([(A[0], 1), (A[1], 2)])
    assert torch.equal(pair[0], A[:2])


def test_inputs_alone_may_be_a_dict_or_rows_without_targets():
    without = [{"a": A[i], "b": B[i], "idx": i} for i in range(N)]
    for given in ({"a": A, "b": B, "idx": torch.arange(N)}, without, DataLoader(without, 8)):
        batches = list(inputs_only(given, 8, Two()))
        assert all(set(batch) == {"a", "b"} for batch in batches)
        assert torch.equal(torch.cat([batch["b"] for batch in batches]), B)


def test_a_model_that_takes_any_keyword_gets_all_that_is_no_target():
    class Any(nn.Module):
        def forward(self, **columns):
            return columns

    assert Columns(Any()).names is None
    taken, targets, notes = Columns(Any()).split({"x": A, "idx": Y, "label": Y}, by_default=True)
    assert (set(taken), targets is Y, notes) == ({"x", "idx"}, True, [])


class Logits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("form", [Logits, lambda t: {"logits": t}])
def test_outputs_with_logits_are_read_in_one_place(form):
    class Model(Two):
        def forward(self, a):
            return form(self.fc(a))

    plain = nn.Sequential(nn.Linear(4, 3))
    model = Model()
    plain[0].load_state_dict(model.fc.state_dict())
    found, expected = audit(model, (A, Y)), audit(plain, (A, Y))
    pd.testing.assert_frame_equal(found.table, expected.table)
    np.testing.assert_array_equal(margins_of(model, (A, Y)), margins_of(plain, (A, Y)))
    ours, theirs = found.detector(model, A, 0.2)(A), expected.detector(plain, A, 0.2)(A)
    pd.testing.assert_frame_equal(ours, theirs)
    own = audit(model, (A, Y), loss=lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"))
    np.testing.assert_allclose(own.table["loss"], expected.table["loss"])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda t: (t, t[:, :1]), r"a tuple of 0 \(30, 3\), 1 \(30, 1\)"),
        (lambda t: {"scores": t, "name": "x"}, r"a dict of 'scores' \(30, 3\), 'name' str"),
    ],
)
def test_other_outputs_are_refused_with_a_way_out(form, words):
    class Model(Two):
        def forward(self, a):
            return form(self.fc(a))

    for look in (audit, margins_of):
        with pytest.raises(ValueError, match=f"outputs that are {words}, accepted: .*register_forward_hook"):
            look(Model(), (A, Y))
