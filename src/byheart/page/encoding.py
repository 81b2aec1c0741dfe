"""Arrays as short text: little-endian numbers in base64, decoded in the browser by ``decode`` of figures.js.

An encoded array is ``{"type": "u2", "data": "..."}``, and its values are the decoded integers times ``"scale"`` where
that is given. A JSON number takes about 10 bytes, a quantised one 2.7.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from jaxtyping import Float64

_INT16_MAX = 32_767

_NAMES = {
    **dict(zip(range(0x202A, 0x202F), ("LRE", "RLE", "PDF", "LRO", "RLO"), strict=True)),
    **dict(zip(range(0x2066, 0x206A), ("LRI", "RLI", "FSI", "PDI"), strict=True)),
}
_REORDERING = {chr(code): f"\u27e8{name}\u27e9" for code, name in _NAMES.items()}

Encoded = dict[str, Any]


def encode(array: np.ndarray, dtype: str) -> Encoded:
    """Encode an array, flattened, as "i2", "u2", "u4" or "f4".

    Raises:
        ValueError: If an integer type cannot hold the values.
    """
    flat = np.asarray(array).ravel()
    if dtype != "f4" and flat.size:
        limits = np.iinfo(dtype)
        if flat.min() < limits.min or flat.max() > limits.max:
            raise ValueError(
                f"array: received values {flat.min()} to {flat.max()}, accepted: {limits.min} to {limits.max} ({dtype})"
            )
    return {"type": dtype, "data": base64.b64encode(flat.astype("<" + dtype).tobytes()).decode("ascii")}


def quantise(array: np.ndarray) -> Encoded:
    """Encode real numbers in 16 bits each, with an error of at most 1/65,534 of the largest magnitude."""
    largest = float(np.abs(array).max(initial=0.0))
    scale = largest / _INT16_MAX or 1.0
    return encode(np.rint(np.asarray(array, dtype=np.float64) / scale), "i2") | {"scale": scale}


def decode(encoded: Encoded) -> Float64[np.ndarray, " size"]:
    """Return the numbers of an encoded array, as the page does."""
    raw = np.frombuffer(base64.b64decode(encoded["data"]), dtype="<" + encoded["type"])
    return raw.astype(np.float64) * float(encoded.get("scale", 1))


def to_script_json(value: object) -> str:
    """Return JSON that may stand inside a ``<script>`` element: no text in it can close the element."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if r"\u20" in text:
        text = json.dumps(json.loads(shown(json.dumps(json.loads(text), ensure_ascii=False))), separators=(",", ":"))
    return text.replace("<", "\\u003c")


def shown(text: str) -> str:
    """Return a text in which characters that reorder others around them are visible words."""
    for character, word in _REORDERING.items():
        text = text.replace(character, word)
    return text
