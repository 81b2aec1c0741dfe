"""An audit as one record: its arrays, and all else as JSON; a column of words is an array of the bytes of its JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from byheart.network.detector import Carriers
from byheart.records import Record

if TYPE_CHECKING:
    from byheart.network.audit import Audit

_AS_JSON = ("layers", "rank", "width", "score_name", "notes", "provenance", "label_names")


def to_record(audit: Audit) -> Record:
    """Return the record of an audit."""
    arrays = {"listed": audit.listed, "neighbours": audit.neighbours}
    verdicts = audit.table["verdict"].cat
    for name, column in audit.table.assign(verdict=verdicts.codes).items():
        if pd.api.types.is_string_dtype(column):
            arrays[f"words/{name}"] = np.frombuffer(json.dumps(column.tolist()).encode(), dtype=np.uint8)
        else:
            arrays[f"table/{name}"] = column.to_numpy()
    pairs = {i: shown if isinstance(shown, tuple) else (shown, shown) for i, shown in audit.shown.items()}
    arrays |= {f"shown/{index}": shown for index, (shown, _) in pairs.items() if not isinstance(shown, str)}
    carriers = {} if audit.carriers is None else asdict(audit.carriers)
    arrays |= {f"carriers/{name}": value for name, value in carriers.items() if isinstance(value, np.ndarray)}
    header = {name: getattr(audit, name) for name in _AS_JSON}
    header["verdicts"] = list(verdicts.categories)
    header["evidence"] = sorted(audit.evidence)
    header["columns"] = [str(name) for name in audit.table]
    header["texts"] = {str(index): shown for index, (_, shown) in pairs.items() if isinstance(shown, str)}
    header["carriers"] = {name: value for name, value in carriers.items() if isinstance(value, str)}
    return Record(arrays, {"audit": json.dumps(header)})


def from_record(record: Record) -> dict[str, Any]:
    """Return the fields of the audit that a record holds."""
    header, arrays = json.loads(record.header["audit"]), record.arrays

    def named(kind: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}

    columns: dict[str, Any] = dict(named("table"))
    columns |= {name: json.loads(content.tobytes()) for name, content in named("words").items()}
    columns["verdict"] = pd.Categorical.from_codes(columns["verdict"], header["verdicts"])
    carriers = named("carriers")
    pictures, texts = named("shown"), header["texts"]
    shown = {int(index): value for index, value in (pictures | texts).items()}
    shown |= {int(index): (pictures[index], texts[index]) for index in pictures.keys() & texts.keys()}
    return {name: header[name] for name in _AS_JSON} | {
        "table": pd.DataFrame({name: columns[name] for name in header["columns"]}),
        "evidence": frozenset(header["evidence"]),
        "listed": arrays["listed"],
        "neighbours": arrays["neighbours"],
        "shown": dict(sorted(shown.items())),
        "carriers": Carriers(**(header["carriers"] | carriers)) if carriers else None,
    }
