"""Log-probabilities of the true tokens under every model: the only thing that the estimates take from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from byheart.language.design import Design

_SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
_ROUNDING = 1e-4  # how far above 0 half precision puts the logarithm of a probability of 1


@dataclass(frozen=True, eq=False)
class Logs:
    """What every model says of every token of all documents, whether it was trained on them or not.

    Attributes:
        log_probability: Natural logarithm of the probability of the true token, given what precedes it in its row.
        correct: Whether the true token is the most probable one; None if it is not known.
    """

    log_probability: Float32[np.ndarray, "n_models n_tokens"]
    correct: Bool[np.ndarray, "n_models n_tokens"] | None = None


def as_logs(given: Any, design: Design) -> Logs:
    """Return log-probabilities in one form, checked against the design.

    Args:
        given: ``Logs``, or an array (n_models, n_tokens) of natural logarithms, or a pair or a mapping of
            ``log_probability`` and ``correct``, or the path of a file that holds them: .npy, .npz, .safetensors, or
            .parquet with a row per model and token (columns ``model``, ``token``, or ``document`` and ``position``,
            ``log_probability``, and if known ``correct``; ``document`` is a number or a name).
        design: Design whose models they are of.

    Raises:
        ValueError: If the shape is not the design's, a number is not finite or above 0, or a token is missing or there
            twice.
        ModuleNotFoundError: If the package that reads .parquet is not there.
    """
    if isinstance(given, Logs):
        given = {"log_probability": given.log_probability, "correct": given.correct}
    elif isinstance(given, str | Path):
        given = _read(Path(given), design)
    elif isinstance(given, tuple):
        if len(given) != 2:
            raise ValueError(f"logs: received a tuple of {len(given)}, accepted: log_probability and correct")
        given = {"log_probability": given[0], "correct": given[1]}
    elif not isinstance(given, Mapping):
        given = {"log_probability": given}
    if "log_probability" not in given:
        raise ValueError(f"logs: received {', '.join(map(str, given))}, accepted: log_probability and correct")
    correct = given.get("correct")
    return Logs(
        _log_probabilities(given["log_probability"], design), None if correct is None else _bools(correct, design)
    )


def _log_probabilities(given: Any, design: Design) -> Float32[np.ndarray, "n_models n_tokens"]:
    values = np.asarray(given)
    _check_shape("log_probability", values, design)
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise ValueError(f"log_probability: received {values.dtype}, accepted: real numbers")
    wrong = ~(np.isfinite(values) & (values <= _ROUNDING))
    if wrong.any():
        model, token = (int(found) for found in np.argwhere(wrong)[0])
        raise ValueError(
            f"log_probability: received {values[model, token]} of model {model} at token {token}, accepted: finite"
            " natural logarithms of probabilities"
        )
    found: Float32[np.ndarray, "n_models n_tokens"] = np.minimum(values, 0).astype(np.float32)
    return found


def _bools(given: Any, design: Design) -> Bool[np.ndarray, "n_models n_tokens"]:
    values = np.asarray(given)
    _check_shape("correct", values, design)
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError(f"correct: received {values.dtype} other than 0 and 1, accepted: bools")
    return values.astype(np.bool_)


def _check_shape(name: str, values: np.ndarray, design: Design) -> None:
    expected = (design.n_models, design.documents.n_tokens)
    if values.shape != expected:
        raise ValueError(f"{name}: received shape {values.shape}, accepted: {expected}, (n_models, n_tokens)")


def _read(path: Path, design: Design) -> dict[str, Any]:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"logs: received {path}, accepted: a file {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"logs: received {path}, which is not there, accepted: a file")
    if path.suffix == ".npy":
        return {"log_probability": np.load(path)}
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise ModuleNotFoundError('logs: reading .parquet takes pyarrow: pip install "byheart[language]"') from error
    return _from_table(table, design)


def _from_table(table: pd.DataFrame, design: Design) -> dict[str, Any]:
    """Bring a row per model and token into arrays."""
    by_position = "token" not in table
    needed = ["model", "log_probability", *(["document", "position"] if by_position else ["token"])]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"logs: received a table without {', '.join(missing)}, accepted: {', '.join(needed)}")
    n_tokens = design.documents.n_tokens
    tokens = _tokens_of(table, design) if by_position else _whole(table, "token", n_tokens)
    cells = _whole(table, "model", design.n_models) * n_tokens + tokens
    counts = np.bincount(cells, minlength=design.n_models * n_tokens)
    if (counts != 1).any():
        cell = int(np.argmax(counts != 1))
        raise ValueError(
            f"logs: received model {cell // n_tokens} at token {cell % n_tokens} {counts[cell]} times, accepted: every"
            " model and token once"
        )
    order = np.argsort(cells)
    return {
        name: table[name].to_numpy()[order].reshape(design.n_models, n_tokens)
        for name in ("log_probability", "correct")
        if name in table
    }


def _tokens_of(table: pd.DataFrame, design: Design) -> np.ndarray:
    documents, column = design.documents, table["document"]
    if not pd.api.types.is_numeric_dtype(column):
        numbers = {name: number for number, name in enumerate(documents.names)}
        if len(numbers) < len(documents):
            raise ValueError("logs: received names of documents, of which some are equal, accepted: their numbers")
        table = table.assign(document=column.map(numbers).fillna(-1))
    rows = _whole(table, "document", len(documents))
    sizes = np.diff(documents.starts)[rows]
    positions = _whole(table, "position", int(sizes.max(initial=0)))
    if (positions >= sizes).any():
        row = int(np.argmax(positions >= sizes))
        raise ValueError(
            f"logs: received position {positions[row]} of document {rows[row]}, accepted: 0 to {sizes[row] - 1}"
        )
    found: np.ndarray = documents.starts[rows] + positions
    return found


def _whole(table: pd.DataFrame, name: str, stop: int) -> np.ndarray:
    values = table[name].to_numpy()
    inside = (values >= 0) & (values < stop) & (values == np.floor(values))
    if not inside.all():
        raise ValueError(f"{name}: received {values[np.argmin(inside)]} in a table, accepted: 0 to {stop - 1}")
    return values.astype(np.int64)
