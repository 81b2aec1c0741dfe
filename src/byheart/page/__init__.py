"""The shell that every page shares: one HTML file that opens from disk and asks for no network.

A wing keeps its contents, and a template, style and scripts of its own in its folder; its template extends
"page/page.html" and fills the block ``sections``. Text is escaped wherever it stands, ``Markup`` is written as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from byheart.own import check_page
from byheart.page.encoding import shown, to_script_json
from byheart.storage import write_atomically

if TYPE_CHECKING:
    import jinja2


def write_page(
    path: Path, template: str, *, style: Markup, scripts: Iterable[Markup], data: object, **contents: Any
) -> Path:
    """Write a page, and return its path; the same arguments give the same bytes.

    Args:
        path: File to write, replaced if it is a page of byheart's; its directory is made if missing.
        template: Template of the page as a path in the package, e.g. "toy/page/page.html".
        style: Style of the page, on top of the one that all pages share.
        scripts: Scripts in the order in which they run, after all elements of the page.
        data: JSON values for the scripts, which read them from the element ``#data``, and for the template.
        contents: Other values that the template and the shell show, by name.

    Raises:
        ValueError: If a file that byheart did not write is in the way.
        OSError: If the page cannot be written; nothing is left behind.
    """
    check_page(path)
    page = render(
        template,
        **contents,
        style=asset("page/page.css") + style,
        scripts=scripts,
        data=data,
        data_text=Markup(to_script_json(data)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, shown(page).encode("utf-8", errors="backslashreplace"))
    return path


def render(template: str, **contents: Any) -> str:
    """Return what a template of the package makes of values, by name."""
    return _templates().get_template(template).render(contents)


def asset(name: str) -> Markup:
    """Return a style or script by its path in the package."""
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
