"""One door for numbers and labels: what holds them becomes a NumPy array that all else can use, or is refused by name.

Tensors of any type, device and layout, with gradients or without; arrays of any stride, byte order and precision;
scipy's sparse matrices; tables and columns of pandas, polars and Arrow; lists, also of these. Only scipy is imported
for it: the others are known by what they can do.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

_ACCEPTED = "numbers in an array, a tensor, a sparse matrix, a table or lists"
_LABELS = "numbers alone, or words alone, one of each example"
_NUMBERS, _WORDS = "biufc", "UST"  # kinds of NumPy's types


def as_array(values: Any, name: str) -> np.ndarray:
    """Return numbers as an array in the machine's own byte order, which shares memory where it can.

    Extended precision becomes float64, and a table's columns get a type that holds all of them.

    Args:
        values: Numbers in any of the containers above.
        name: What the caller calls them, for messages.

    Raises:
        ValueError: If these are no numbers, some are missing or masked, a float64 cannot hold one, or rows differ in
            shape.
    """
    array = _of_any(values, name)
    if array.dtype.kind in _WORDS:
        word = str(array.ravel()[0]) if array.size else ""
        raise ValueError(f"{name}: received words ({word!r:.60}), accepted: {_ACCEPTED}")
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(f"{name}: received {array.dtype}, accepted: {_ACCEPTED}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = _narrowed(array, np.float64, name)
    if array.dtype.kind == "c" and array.dtype.itemsize > 16:
        array = _narrowed(array, np.complex128, name)
    return _plain(array)


def _narrowed(array: np.ndarray, dtype: type, name: str) -> np.ndarray:
    """Numbers of more than 64 bits as such of 64; those that would become infinite or zero are refused."""
    with np.errstate(over="ignore", under="ignore"):
        result: np.ndarray = array.astype(dtype)
    lost = (np.isinf(result) & ~np.isinf(array)) | ((result == 0) & (array != 0))
    if lost.any():
        place = np.argwhere(lost)[0].tolist()
        raise ValueError(
            f"{name}: received {array[tuple(place)]!s} at {place}, accepted: numbers that a float64 can hold"
        )
    return result


def finite_array(values: Any, name: str) -> np.ndarray:
    """Return real numbers as an array, all of which are finite.

    Raises:
        ValueError: As ``as_array``; if they are complex; or if one is not finite, with its example and column.
    """
    array = as_array(values, name)
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: received {array.dtype}, accepted: real numbers")
    wrong = ~np.isfinite(array)
    if wrong.any():
        place = np.argwhere(wrong)[0].tolist()
        columns = [str(column) for column in getattr(values, "columns", ())]
        raise ValueError(
            f"{name}: received {array[tuple(place)]} of {_where(place, columns)}, accepted: finite numbers"
        )
    return array


def as_labels(values: Any, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return targets as numbers, and the names of the classes where they are words.

    Whole numbers become int64, as do True and False; other numbers stay as they are. Words are numbered in alphabetical
    order, categories of pandas in their own.

    Args:
        values: One target per example, or a row of them.
        name: What the caller calls them, for messages.

    Raises:
        ValueError: As ``as_array``, but for words; or if a label is missing, or too large for int64.
    """
    if hasattr(values, "to_numpy") and len(getattr(values, "columns", ())) == 1:  # a table of labels alone
        values = values.iloc[:, 0] if hasattr(values, "iloc") else values[values.columns[0]]
    categorical = getattr(values, "cat", values)  # a Series has it there; a Categorical is one itself
    if hasattr(categorical, "codes") and hasattr(categorical, "categories"):
        codes = np.asarray(categorical.codes).astype(np.int64)
        if (codes < 0).any():
            raise ValueError(f"{name}: received no label of example {int((codes < 0).argmax())}, accepted: one each")
        return codes, tuple(str(category) for category in categorical.categories)
    array = _of_any(values, name, labels=True)
    if array.dtype.kind in _WORDS:
        if array.ndim != 1:
            raise ValueError(f"{name}: received words of shape {array.shape}, accepted: one word per example")
        words, numbers_of = np.unique(array.astype(str), return_inverse=True)
        return numbers_of.astype(np.int64), tuple(words.tolist())
    array = as_array(array, name)
    return (whole_numbers(array, name) if array.dtype.kind in "biu" else array), None


def whole_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Return integers, signed or not, and truth values as int64.

    Raises:
        ValueError: If one is too large for it.
    """
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: received {array.max()}, accepted: up to {np.iinfo(np.int64).max}")
    return array.astype(np.int64, copy=False)


def _of_any(values: Any, name: str, *, labels: bool = False) -> np.ndarray:
    """An array of numbers or words, of any byte order; of ``labels``, messages accept words too."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        place = np.argwhere(np.ma.getmaskarray(values))[0].tolist()
        raise ValueError(f"{name}: received a masked value of {_where(place)}, accepted: arrays without any (.filled)")
    if scipy.sparse.issparse(values):
        array = values.toarray()
    elif hasattr(values, "detach"):
        array = _of_tensor(values, name)
    elif isinstance(values, (list, tuple)):
        array = _of_sequence(values, name, labels=labels)
    elif hasattr(values, "columns") and hasattr(values, "to_numpy"):
        array = _of_table(values, name)
    elif isinstance(values, (str, bytes, Mapping, set, frozenset)) or values is None:
        raise ValueError(f"{name}: received {type(values).__name__}, accepted: {_LABELS if labels else _ACCEPTED}")
    else:
        array = _converted(values, name)
    if array.dtype.names is not None:
        raise ValueError(
            f"{name}: received a structured array with the fields {', '.join(array.dtype.names)}, accepted:"
            f" {_ACCEPTED}; numpy.lib.recfunctions.structured_to_unstructured makes columns of fields"
        )
    if array.dtype.kind == "T":  # words of any length, among which some may be missing
        array = array.astype(object)
    return _of_objects(array, name, labels=labels) if array.dtype.kind == "O" else array


def _converted(values: Any, name: str) -> np.ndarray:
    """What has a conversion of its own: NumPy's arrays and numbers, columns of pandas, polars and Arrow, others'."""
    try:
        array = (
            np.asarray(values) if hasattr(values, "__array__") or not hasattr(values, "to_numpy") else values.to_numpy()
        )
        if array.dtype.kind == "O" and hasattr(values, "isna") and "string" not in str(getattr(values, "dtype", "")):
            numeric = getattr(values.dtype, "_is_numeric", False)  # Int64 with missing values
            array = values.to_numpy(dtype=np.float64, na_value=np.nan) if numeric else array
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        words = " ".join(str(error).split())[:120]
        raise ValueError(f"{name}: received {type(values).__name__} ({words}), accepted: {_ACCEPTED}") from error
    if array.ndim == 0 and array.dtype.kind == "O":
        raise ValueError(f"{name}: received {type(values).__name__}, accepted: {_ACCEPTED}")
    return np.asarray(array)


def _of_tensor(tensor: Any, name: str) -> np.ndarray:
    """An array of a torch tensor; of types that NumPy lacks, such as bfloat16, in float32."""
    tensor = tensor.detach()
    if getattr(tensor, "is_nested", False):
        raise ValueError(f"{name}: received a nested tensor, accepted: one shape for all examples")
    try:
        if getattr(tensor, "is_quantized", False):
            tensor = tensor.dequantize()
        if str(tensor.layout) != "torch.strided":
            tensor = tensor.to_dense()
        tensor = tensor.cpu().resolve_conj().resolve_neg()
        try:
            found: np.ndarray = tensor.numpy()
        except TypeError:
            found = tensor.float().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        words = " ".join(str(error).split())[:120]
        raise ValueError(f"{name}: received a tensor of {tensor.dtype} ({words}), accepted: {_ACCEPTED}") from error
    return found


def _of_table(table: Any, name: str) -> np.ndarray:
    """A matrix of a table's columns, each of which holds numbers."""
    found = []
    for position, column in enumerate(table.columns):
        values = table.iloc[:, position] if hasattr(table, "iloc") else table[column]
        found.append(as_array(values, f"{name}, column {str(column)!r}"))
    return np.stack(found, axis=1) if found else np.zeros((len(table), 0))


def _of_sequence(values: Sequence[Any], name: str, *, labels: bool = False) -> np.ndarray:
    """An array of numbers, of words, or of arrays of the same shape."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in _NUMBERS:
            return array
    except (TypeError, ValueError, RuntimeError):
        pass  # rows of several lengths, or parts that NumPy does not convert: each is looked at below
    if any(isinstance(value, str) or value is None for value in values):
        return _of_objects(np.fromiter(values, dtype=object, count=len(values)), name, labels=labels)
    parts: list[np.ndarray] = []
    for i, value in enumerate(values):
        part = _of_any(value, name)
        if i and part.shape != parts[0].shape:
            raise ValueError(
                f"{name}: received shape {part.shape} of example {i} and {parts[0].shape} of example 0, accepted: one"
                " shape for all (else a torch Dataset, and a DataLoader with a collate_fn)"
            )
        parts.append(part)
    return np.stack(parts) if parts else np.zeros(0)


def _of_objects(array: np.ndarray, name: str, *, labels: bool = False) -> np.ndarray:
    """Numbers or words that were kept as objects; of several kinds the one that is named is no word among words."""
    values = array.ravel().tolist()
    if all(isinstance(value, str) for value in values):
        return array.astype(str)
    if all(isinstance(value, numbers.Real) for value in values):
        found = np.array([float(v) if not isinstance(v, (int, np.number)) else v for v in values])
        if found.dtype.kind in _NUMBERS:
            return found.reshape(array.shape)
    if array.ndim == 1 and all(hasattr(value, "__len__") and not isinstance(value, str) for value in values):
        return _of_sequence(values, name)
    expected = str if labels and any(isinstance(value, str) for value in values) else numbers.Real
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, expected)), 0)
    place = np.unravel_index(wrong, array.shape) if array.ndim else ()
    raise ValueError(
        f"{name}: received {values[wrong]!r:.60} of {_where([int(i) for i in place])},"
        f" accepted: {_LABELS if labels else _ACCEPTED}"
    )


def _plain(array: np.ndarray) -> np.ndarray:
    """An array as every library takes it: no subclass, in the machine's byte order, with strides of whole numbers."""
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return array


def _where(place: Sequence[int], columns: Sequence[str] = ()) -> str:
    """A place in an array in words."""
    example = f"example {place[0]}" if place else "the only one"
    if len(place) == 2:
        return f"{example}, column {repr(columns[place[1]]) if columns else place[1]}"
    return example if len(place) < 2 else f"{example}, place {tuple(place[1:])}"
