"""Extension of griffe, which reads the docstrings for the site: it shows the shapes of arrays as lists of axes.

``Float[np.ndarray, "n_examples n_hidden"]`` becomes ``Float[n_examples, n_hidden]``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import griffe

KINDS = {"Bool", "Float", "Float32", "Float64", "Int", "Int32", "Int64", "Num", "Shaped", "UInt8"}


class ReadableShapes(griffe.Extension):
    """Writes the shapes of jaxtyping as lists of axes."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Rewrite what a function takes and returns."""
        for parameter in func.parameters:
            parameter.annotation = readable(parameter.annotation)
        func.returns = readable(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Rewrite what an attribute is, and what a property returns."""
        attr.annotation = readable(attr.annotation)


def readable(annotation: Any) -> Any:
    """Return an annotation, or a part of one, with its shapes as lists of axes."""
    if isinstance(annotation, list):
        return [readable(part) for part in annotation]
    if not isinstance(annotation, griffe.Expr):
        return annotation
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) in KINDS:
        assert isinstance(annotation.slice, griffe.ExprTuple)
        _, shape = annotation.slice.elements  # the container, and its axes as one string
        return f"{annotation.left}[{', '.join(str(shape).strip(chr(39) + chr(34)).split())}]"
    for field in dataclasses.fields(annotation):
        if field.name != "parent":
            setattr(annotation, field.name, readable(getattr(annotation, field.name)))
    return annotation
