"""The shell that every page shares: one HTML file that opens from disk and asks for no network.

A wing keeps its contents, and the templates, style and scripts of its own sections; ``write_page`` puts them into the
shell. Text (``str``) is escaped wherever it stands, ``Markup`` is written as it is. Files are named from the package
on: "toy/page/sections.html".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from byheart.page.encoding import to_script_json
from byheart.records import write_atomically

if TYPE_CHECKING:
    import jinja2


def write_page(
    path: Path,
    *,
    kind: str,
    title: str,
    summary: Sequence[str],
    sections: Markup,
    data: object,
    style: Markup,
    scripts: Sequence[Markup],
    notes: Sequence[str] = (),
    tables: Mapping[str, Mapping[str, object]] | None = None,
) -> Path:
    """Write a page, and return its path; the same arguments give the same bytes.

    Args:
        path: File to write, replaced if it exists; its directory is made if missing.
        kind: What the page is, in two words above its title.
        title: Heading of the page.
        summary: Paragraphs below the heading.
        sections: The ``<section>`` elements of a wing, rendered.
        data: JSON values that the scripts read from the element ``#data``.
        style: Style of the sections, on top of the one that all pages share.
        scripts: Scripts in the order in which they run, after all other elements.
        notes: Sentences on how the page was made and what it does not show, at its end.
        tables: Folded tables below the notes: the versions and settings, by heading and name.

    Raises:
        OSError: If the page cannot be written; nothing is left behind.
    """
    page = render(
        "page/page.html",
        kind=kind,
        title=title,
        summary=summary,
        sections=sections,
        data=Markup(to_script_json(data)),
        style=asset("page/page.css") + style,
        scripts=scripts,
        notes=notes,
        tables=tables or {},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, page.encode("utf-8"))


def render(name: str, **context: Any) -> Markup:
    """Render a template of the package."""
    return Markup(_templates().get_template(name).render(context))


def asset(name: str) -> Markup:
    """Return a style or script of the package."""
    return Markup(resources.files("byheart").joinpath(name).read_text(encoding="utf-8"))


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("byheart", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
