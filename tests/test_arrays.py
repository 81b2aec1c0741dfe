"""The door for numbers and labels: the same numbers from every container, and what is refused by name."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from byheart.arrays import as_array, as_labels, finite_array
from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.memorization import memorization
from byheart.network.baselines import neighbour_disagreement
from byheart.network.counterfactual import Counterfactual

X = np.arange(12.0).reshape(4, 3) - 5
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
SAME = {
    "longdouble": X.astype(np.longdouble),
    "big-endian": X.astype(">f4"),
    "negative strides": X[::-1].copy()[::-1],
    "every second column": np.repeat(X, 2, axis=1)[:, ::2],
    "a field of records": np.rec.fromarrays([np.zeros((4, 3), np.int8), X], names="a,b").b,
    "Fortran order": np.asfortranarray(X),
    "a matrix": np.asmatrix(X),
    "nothing masked": np.ma.masked_greater(X, 100),
    "objects": X.astype(object),
    "fractions": np.array([[Fraction(value) for value in row] for row in X]),
    "an array of arrays": np.array([*X, None], dtype=object)[:4],
    "lists": X.tolist(),
    "a list of arrays": list(X),
    "a list of tensors": list(torch.tensor(X, requires_grad=True)),
    "a tensor with gradient": torch.tensor(X, requires_grad=True),
    "bfloat16": torch.tensor(X).bfloat16(),
    "eight bits": torch.tensor(X).to(torch.float8_e4m3fn),
    "a transposed tensor": torch.tensor(X.T.copy()).t(),
    "a conjugate": torch.tensor(X, dtype=torch.complex64).conj().real,
    "a sparse tensor": torch.tensor(X).to_sparse(),
    "a sparse array": scipy.sparse.csr_array(X),
    "a sparse matrix": scipy.sparse.coo_matrix(X),
    "a table": FRAME,
    "a table of several types": FRAME.astype({"a": "Int64", "b": "Float32", "c": object}),
    "two columns of one name": FRAME.set_axis(["a", "a", "b"], axis=1),
    "a table of Arrow": pa.Table.from_pandas(FRAME),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_come_out_of_every_container(kind):
    found = as_array(SAME[kind], "x")
    np.testing.assert_array_equal(found, X)
    assert type(found) is np.ndarray
    assert found.dtype.isnative
    torch.as_tensor(found)  # which takes no negative strides


def test_memory_is_shared_where_it_can_be():
    tensor = torch.tensor(X, requires_grad=True)
    assert np.shares_memory(as_array(tensor, "x"), tensor.detach().numpy())
    assert as_array(X, "x") is X


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_stay_exact(values):
    for given_as in (values, np.array(values, dtype=object), np.array(values), pd.Series(values)):
        assert as_labels(given_as, "y")[0].tolist() == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "x: received NoneType, accepted: numbers in"),
        ("abc", "x: received str, accepted"),
        ({"a": X}, "x: received dict, accepted"),
        ((value for value in X), "x: received generator, accepted"),
        (object(), "x: received object, accepted"),
        (2**70, "x: received int, accepted"),
        ([2**70, 1], "x: received int, accepted"),
        (["a", "b"], r"x: received words \('a'\), accepted"),
        ([1.0, "a"], "x: received 'a' of example 1, accepted: numbers in"),
        ([1.0, None], "x: received None of example 1"),
        (np.array([[1.0, 2], [3, None]]), "x: received None of example 1, column 1"),
        ([[1, 2], [3]], r"x: received shape \(1,\) of example 1 and \(2,\) of example 0, accepted: one shape"),
        ([torch.ones(2), torch.ones(3)], r"x: received shape \(3,\) of example 1"),
        (np.ma.masked_greater(X, 4), "x: received a masked value of example 3, column 1, accepted"),
        (np.ones(2, [("left", "f4"), ("right", "f4")]), "structured array with the fields left, right, accepted"),
        (np.array(["2020-01-01"], "M8[D]"), r"x: received datetime64\[D\], accepted"),
        (FRAME.assign(b=["u", "v", "w", "x"]), r"x, column 'b': received words \('u'\), accepted"),
        (torch.ones(2, device="meta"), "x: received a tensor of torch.float32 .*, accepted"),
        (X + 1j, "x: received complex128, accepted: real"),
        (FRAME.mask(FRAME == 2), "x: received nan of example 2, column 'b', accepted: finite"),
        (FRAME.astype("Int64").mask(FRAME == 2), "x: received nan of example 2, column 'b', accepted: finite"),
        (np.where(X == 2, np.inf, X), "x: received inf of example 2, column 1, accepted: finite"),
        (torch.tensor([1, np.nan]), "x: received nan of example 1, accepted: finite"),
        (np.full((1, 2, 2), np.nan), r"x: received nan of example 0, place \(0, 0\), accepted: finite"),
    ],
)
def test_what_is_no_finite_number_is_refused_in_one_line(values, message):
    with pytest.raises(ValueError, match=message) as error:
        finite_array(values, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [
        ["dog", "cat", "dog"],
        np.array(["dog", "cat", "dog"]),
        np.array(["dog", "cat", "dog"], dtype=object),
        pd.Series(["dog", "cat", "dog"], index=[7, 8, 9]),
        np.array(["dog", "cat", "dog"], np.dtypes.StringDType(na_object=None)),
        pd.Series(["dog", "cat", "dog"], dtype="category"),
        pa.array(["dog", "cat", "dog"]),
        pd.DataFrame({"kind": ["dog", "cat", "dog"]}),
        pd.DataFrame({"kind": pd.Categorical(["dog", "cat", "dog"])}),
    ],
)
def test_words_are_numbered_and_named(labels):
    numbers, names = as_labels(labels, "y")
    assert numbers.dtype == np.int64
    assert names == ("cat", "dog")
    assert numbers.tolist() == [1, 0, 1]


def test_categories_keep_their_order():
    numbers, names = as_labels(pd.Categorical(["small", "large"], categories=["small", "medium", "large"]), "y")
    assert (numbers.tolist(), names) == ([0, 2], ("small", "medium", "large"))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "uint32", "uint64", ">i4"])
def test_integers_of_any_size_are_labels(dtype):
    numbers, names = as_labels(np.array([1, 0, 1], dtype=dtype), "y")
    assert (numbers.dtype, numbers.tolist(), names) == (np.int64, [1, 0, 1], None)
    assert as_labels([0.5, 1], "y")[0].tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pd.Series(["a", None], dtype="category"), "y: received no label of example 1"),
        (np.array([["a", "b"], ["b", "a"]]), r"y: received words of shape \(2, 2\), accepted: one word per example"),
        (pd.Series(["a", None]), "y: received nan of example 1, accepted: numbers alone, or words alone"),
        (["a", None], "y: received None of example 1, accepted: numbers alone, or words alone"),
        ([None, "a"], "y: received None of example 0, accepted: numbers alone, or words alone"),
        (["a", 1], "y: received 1 of example 1, accepted: numbers alone, or words alone"),
        ([1, None], "y: received None of example 1, accepted: numbers alone, or words alone"),
        (np.array([np.nan, "a"], dtype=object), "y: received nan of example 0, accepted: numbers alone, or words"),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), "y: received None of example 1, accepted"),
        ("abc", "y: received str, accepted: numbers alone, or words alone"),
        (np.array([2**64 - 1], np.uint64), "y: received 18446744073709551615, accepted: up to"),
    ],
)
def test_labels_that_are_missing_or_too_large_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        as_labels(labels, "y")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["a tensor with gradient", "bfloat16", "a sparse array", "a table", "lists"])
def test_dimensionalities_and_estimates_take_them_all(kind):
    for function in (example_dimensionality, maximal_dimensionality):
        np.testing.assert_allclose(function(SAME[kind]), function(X))
        counted = function(SAME[kind], torch.tensor([1, 2, 1, 3]))
        np.testing.assert_allclose(counted, function(X, np.array([1, 2, 1, 3])))
    mask = np.eye(4, 3) + np.eye(4, 3, -1) > 0
    expected = memorization(X, mask).mem
    np.testing.assert_allclose(memorization(SAME[kind], torch.tensor(mask)).mem, expected)
    np.testing.assert_allclose(
        Counterfactual(torch.tensor(mask), SAME[kind]).smoothed.mem, Counterfactual(mask, X).smoothed.mem
    )
    found = neighbour_disagreement(SAME[kind], ["u", "v", "u", "v"], 2)
    np.testing.assert_array_equal(found, neighbour_disagreement(X, np.array([0, 1, 0, 1]), 2))


@pytest.mark.parametrize("value", ["1e-400", "-1e400"])
def test_long_doubles_beyond_float64_are_refused_with_their_place(value):
    numbers = np.array([[1, 0], [np.inf, 2]], dtype=np.longdouble)
    assert as_array(numbers, "x").tolist() == [[1, 0], [np.inf, 2]]
    numbers[1, 1] = np.longdouble(value)
    with pytest.raises(ValueError, match=r"x: received .*400 at \[1, 1\], accepted: numbers that a float64 can hold"):
        as_array(numbers, "x")
    with pytest.raises(ValueError, match="a float64 can hold"):
        as_array(numbers.astype(np.clongdouble), "x")
