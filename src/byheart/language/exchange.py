"""Spans and per-token results to and from other tools: canary lists, replay probes of garak, Parquet.

References:
    garak 0.17.1, https://github.com/NVIDIA/garak: its probes ``leakreplay`` read a table without a header, whose two
    columns, with a tab between, are what is masked, and a passage that holds [MASK] in its place.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.extras import require
from byheart.language.logs import as_logs
from byheart.language.spans import pattern_of
from byheart.language.texts import Texts
from byheart.own import check_table, write_lines
from byheart.storage import prepare_directory, write_atomically

TEXT_COLUMNS = ("text", "secret", "canary")
PREFIX = 200  # characters
MASK = "[MASK]"
_SUFFIXES = (".csv", ".json", ".jsonl")
_ENTRY = (
    'accepted: a list of texts, or entries with one of "text", "secret" and "canary", or with "document", "start" and'
    ' "stop" in characters'
)


class _Entry(NamedTuple):
    label: str  # for messages
    values: dict[str, Any]


def read_spans(
    path: str | Path, texts: Texts | Documents, *, column: str | None = None, skip_absent: bool = False
) -> list[str | tuple[str, int, int]]:
    """Read spans from a list that a user or another tool wrote, and check them against the texts.

    An entry has the passage in the column "text", "secret" or "canary", or says where it stands: "document" (a name),
    "start" and "stop" (characters, the last exclusive). With both, the passage must stand there. Other columns are left
    alone. White space of any kind and length matches any other. A passage that is listed several times is one span.

    Args:
        path: A .csv with a header; a .json list of texts or objects, or an object with such a list as "canaries", as
            memaudit writes; or a .jsonl, an entry a line. All in UTF-8.
        texts: Where the spans are.
        column: Column of the passages, if none or several have one of the names above.
        skip_absent: Whether passages that stand nowhere, such as canaries that were held out, are left out with a
            warning.

    Returns:
        Strings, or (document, first character, last character, exclusive) each, as ``given_spans`` takes them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such list or an empty one, columns are ambiguous, or an entry is not in the texts.

    Warns:
        UserWarning: How many passages were left out.
    """
    path = Path(path)
    entries = list(_entries(path))
    if not entries:
        raise ValueError(f"spans: received {path}, which has no entry, {_ENTRY}")
    column = _column(path, entries, column)
    found: dict[str, str | tuple[str, int, int]] = {}
    absent = []
    for entry in entries:
        text, place = _text_of(entry, column), _place_of(entry, texts)
        if place is not None:
            there = texts.texts[texts.names.index(place[0])][place[1] : place[2]]
            if text and text.split() != there.split():
                raise ValueError(
                    f"spans: received {text!r:.60} as {entry.label}, accepted: what stands there, {there!r:.60}"
                )
            text = there
        if not text.strip():
            raise ValueError(f"spans: received {entry.label} without a passage, {_ENTRY}")
        if place is None and not _stands(text, texts):
            absent.append(text)
            continue
        found.setdefault(" ".join(text.split()), text if place is None else place)
    if absent:
        several = f"{len(absent)} of {len(entries)} passages that stand in no text, such as {absent[0]!r:.60}"
        if not skip_absent or not found:
            raise ValueError(f"spans: received {path} with {several}, accepted: passages of the texts (--skip-absent)")
        warnings.warn(f"spans: {several}, were left out of {path}", stacklevel=2)
    return list(found.values())


def write_spans(path: str | Path, design: Design, *, n_characters: int = PREFIX) -> Path:
    """Write the places of a design's spans as JSON lines, which ``read_spans`` and other tools read.

    A line has the "document" and the characters "start" to "stop" where it stands, the "text", the "prefix" before it
    in the document, the number of the "span", its "kind" and "n_copies".

    Args:
        path: Of the file; one of the same kind that is there is replaced.
        design: Whose spans are written, where they are measured.
        n_characters: Length of a prefix at most, at least 0; it is shorter at the beginning of a document.

    Raises:
        ValueError: If ``n_characters`` is out of range, the design has no span, or there is something else.
        OSError: If it cannot be written.
    """
    rows = _places(design, n_characters)
    first = list(rows[0])
    prepare_directory(Path(path).parent)

    def known(line: str) -> bool:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and list(found) == first

    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return write_lines(path, lines, known, "spans that byheart wrote")


def write_garak(path: str | Path, design: Design, *, n_characters: int = PREFIX) -> Path:
    """Write spans as data of garak's probes "leakreplay": a prefix for a model to continue, and the span to come.

    White space of any kind and length becomes one space, as it separates columns and lines here. Places without a
    prefix are left out, since garak leaves them out too, and those whose prefix holds "[MASK]".

    Args:
        path: Of the file; one of the same kind that is there is replaced.
        design: Whose spans are written, where they are measured.
        n_characters: Length of a prefix at most, at least 1.

    Raises:
        ValueError: If ``n_characters`` is out of range, no place is left, or there is something else.
        OSError: If it cannot be written.

    Warns:
        UserWarning: How many places were left out.
    """
    rows = _places(design, n_characters)
    pairs = [(" ".join(row["text"].split()), " ".join(row["prefix"].split())) for row in rows]
    fit = dict.fromkeys((text, before) for text, before in pairs if text and before and MASK not in before)
    left_out = sum(pair not in fit for pair in pairs)
    if not fit:
        raise ValueError(f"spans: received {len(pairs)} places without a prefix, accepted: spans with text before them")
    if left_out:
        warnings.warn(
            f"garak: {left_out} of {len(pairs)} places were left out, which have no prefix, or {MASK} in it",
            stacklevel=2,
        )
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerows((text, f"{b}{MASK}") for text, b in fit)
    prepare_directory(Path(path).parent)
    lines = buffer.getvalue().splitlines()  # no field has another end of a line: white space is spaces
    return write_lines(path, lines, _is_replay, "replay data that byheart wrote")


def write_tokens(path: str | Path, design: Design, logs: Any) -> Path:
    """Write what every model says of every token as Parquet, which ``Design.estimate`` reads.

    A row per model and token: model, token (number among those of all documents), document (name), position (in the
    document), start and stop (characters), id (in the vocabulary), trained (whether the model was trained on the
    document), learned (whether the token carried loss), log_probability (nats), and if known correct (whether it is
    the model's first guess).

    Args:
        path: Of the file, ending in .parquet; such a table that is there is replaced.
        design: Who trained on what.
        logs: Log-probabilities of all tokens under every model (see ``as_logs``).

    Raises:
        ValueError: If the log-probabilities are not the design's models', or there is something else.
        ModuleNotFoundError: If the package pyarrow is missing.
        OSError: If it cannot be written.
    """
    of_tokens, checked = token_places(design.documents), as_logs(logs, design)

    def of_models() -> Iterator[pd.DataFrame]:
        for model in range(design.n_models):
            trained = design.document_mask[model][design.documents.document_of]
            columns = {"trained": trained, "learned": design.carries_loss(model)}
            columns["log_probability"] = checked.log_probability[model]
            if checked.correct is not None:
                columns["correct"] = checked.correct[model]
            table = of_tokens.assign(**columns)
            table.insert(0, "model", np.int32(model))
            yield table

    return write_parquet(path, of_models())


def token_places(documents: Documents) -> pd.DataFrame:
    """Return a row per token of all documents: token, document, position, start, stop (characters), id."""
    offsets = np.concatenate(documents.offsets)
    n_tokens = np.arange(documents.n_tokens)
    return pd.DataFrame(
        {
            "token": n_tokens,
            "document": pd.Series(documents.names, dtype="object").to_numpy()[documents.document_of],
            "position": n_tokens - documents.starts[documents.document_of],
            "start": offsets[:, 0],
            "stop": offsets[:, 1],
            "id": documents.flat,
        }
    )


def write_parquet(path: str | Path, tables: Iterator[pd.DataFrame]) -> Path:
    """Write tables of the same columns, one below the other, whole or not at all; one at a time is in memory.

    Raises:
        ValueError: If the name does not end in .parquet, or something is there that is no such table.
        ModuleNotFoundError: If the package pyarrow is missing.
        OSError: If it cannot be written.
    """
    if Path(path).suffix != ".parquet":
        raise ValueError(f"out: received {path}, accepted: a name that ends in .parquet")
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    prepare_directory(Path(path).parent)
    buffer, first = io.BytesIO(), next(tables)
    check_table(path, [str(column) for column in first])
    schema = pyarrow.Schema.from_pandas(first, preserve_index=False).remove_metadata()
    with pyarrow.parquet.ParquetWriter(buffer, schema) as writer:
        for table in (first, *tables):
            writer.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))
    write_atomically(path, buffer.getvalue())
    return Path(path)


def _places(design: Design, n_characters: int) -> list[dict[str, Any]]:
    """A row per place where a span is measured."""
    if n_characters < 0:
        raise ValueError(f"n_characters: received {n_characters}, accepted: an integer >= 0")
    if not design.spans:
        raise ValueError("spans: received a design without one, accepted: a design with spans")
    documents, rows = design.documents, []
    for number, span in enumerate(design.spans):
        for place in span.places:
            text, offsets = documents.texts[place.document], documents.offsets[place.document]
            start, stop = int(offsets[place.start, 0]), int(offsets[place.stop - 1, 1])
            where = {"document": documents.names[place.document], "start": start, "stop": stop}
            said = {"text": text[start:stop], "prefix": text[max(0, start - n_characters) : start]}
            rows.append({**where, **said, "span": number, "kind": span.kind, "n_copies": len(span.copies)})
    return rows


def _is_replay(line: str) -> bool:
    """Whether a line is one of ours: what is masked stands at the end. In garak's own data it stands anywhere."""
    row = next(csv.reader([line], delimiter="\t"), [])
    return len(row) == 2 and row[1].endswith(MASK)


def _entries(path: Path) -> Iterator[_Entry]:
    """Yield the entries of a list; a text alone becomes one with the column "text"."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"spans: received {path}, accepted: a file {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"spans: received {path}, accepted: a file {', '.join(_SUFFIXES)}")
    try:
        content = path.read_bytes().decode("utf-8-sig")
        made = _rows_of_csv(content) if path.suffix.lower() == ".csv" else _rows_of_json(path, content)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"spans: received {path} ({error}), {_ENTRY}") from None
    for number, row in enumerate(made, 1):
        label = f"entry {number} of {path}"
        values = {"text": row} if isinstance(row, str) else row
        if not isinstance(values, dict):
            raise ValueError(f"spans: received {json.dumps(row):.60} as {label}, {_ENTRY}")
        yield _Entry(label, {name: value for name, value in values.items() if value is not None and value != ""})


def _rows_of_csv(content: str) -> list[dict[str, str]]:
    rows = [row for row in csv.reader(io.StringIO(content, newline=""), strict=True) if row]
    if not rows:
        return []
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise ValueError(f"a column is there twice: {', '.join(header):.100}")
    if wrong := next((n for n, row in enumerate(rows[1:], 1) if len(row) != len(header)), 0):
        raise ValueError(f"entry {wrong} has {len(rows[wrong])} columns in place of {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


def _rows_of_json(path: Path, content: str) -> Sequence[Any]:
    if path.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in content.split("\n") if line.strip()]
    found = json.loads(content)
    if isinstance(found, dict):
        found = found.get("canaries")
    if not isinstance(found, list):
        raise ValueError("it is no list, and has none by the name of canaries")
    return found


def _column(path: Path, entries: Sequence[_Entry], column: str | None) -> str | None:
    """The column of the passages; none where entries only say where they stand."""
    there = list(dict.fromkeys(name for entry in entries for name in entry.values))
    if column is not None:
        if column not in there:
            raise ValueError(f"column: received {column!r}, accepted: one of {path}, {', '.join(there):.100}")
        return column
    named = [name for name in TEXT_COLUMNS if name in there]
    if len(named) > 1:
        raise ValueError(
            f"spans: received {path} with the columns {', '.join(named)}, accepted: one of them, named as column"
        )
    if not named and not {"document", "start", "stop"} <= set(there):
        raise ValueError(f"spans: received {path} with the columns {', '.join(there) or 'none':.100}, {_ENTRY}")
    return named[0] if named else None


def _text_of(entry: _Entry, column: str | None) -> str:
    text = "" if column is None else entry.values.get(column, "")
    if not isinstance(text, str):
        raise ValueError(f"spans: received {json.dumps(text):.60} as {column} of {entry.label}, accepted: a text")
    return text


def _place_of(entry: _Entry, texts: Texts | Documents) -> tuple[str, int, int] | None:
    """Where an entry says that it stands, checked; None if it does not say."""
    start, stop = (_whole(entry, name) for name in ("start", "stop"))
    if start is None and stop is None:
        return None
    name = entry.values.get("document")
    if name is None or start is None or stop is None:
        raise ValueError(f"spans: received {entry.label} without all of document, start and stop, {_ENTRY}")
    if (several := texts.names.count(name)) != 1:
        which = f"{several} documents" if several else "no document"
        raise ValueError(
            f"spans: received {name!r:.60} as {entry.label}, which names {which}, accepted: one such as"
            f" {texts.names[0]!r:.60}"
        )
    size = len(texts.texts[texts.names.index(name)])
    if not 0 <= start < stop <= size:
        raise ValueError(f"spans: received characters {start} to {stop} as {entry.label}, accepted: 0 to {size}")
    return name, start, stop


def _whole(entry: _Entry, name: str) -> int | None:
    value = entry.values.get(name)
    if value is None or type(value) is int:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 16:
        return int(value)
    raise ValueError(f"spans: received {json.dumps(value):.60} as {name} of {entry.label}, accepted: an integer >= 0")


def _stands(text: str, texts: Texts | Documents) -> bool:
    pattern = pattern_of(text)
    return any(pattern.search(whole) for whole in texts.texts)
