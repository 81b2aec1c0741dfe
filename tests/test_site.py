"""The site is complete before it is built: every public name has its place in the reference, every page in the nav.

``make docs`` builds it, and fails on any warning.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
REFERENCE = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/reference/*.md"))
DESCRIBED = set(re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE))


def public(module: str) -> set[str]:
    """The names that a package offers: what its ``__init__`` imports as itself."""
    path = ROOT / "src" / module.replace(".", "/") / "__init__.py"
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname == alias.name}


@pytest.mark.parametrize("module", ["byheart", "byheart.language"])
def test_every_public_name_is_in_the_reference(module):
    names = public(module) - {"datasets", "language"}  # modules, whose names are described by themselves
    folder = ROOT / "src" / module.replace(".", "/")
    modules = {path.stem for path in folder.glob("*.py")}  # whose names would be taken for the module
    assert len(names) > 15
    assert {f"{module}.{name}.{name}" if name in modules else f"{module}.{name}" for name in names} - DESCRIBED == set()


def test_what_the_reference_describes_exists_and_has_a_docstring():
    import pkgutil

    for name in DESCRIBED:
        assert pkgutil.resolve_name(name).__doc__, name


@pytest.fixture
def hooks(monkeypatch):
    pytest.importorskip("mkdocs", reason="pip install byheart[docs]")
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    yield
    for name in ("pages", "notebooks", "shapes"):
        sys.modules.pop(name, None)


def leaves(nav):
    for entry in nav if isinstance(nav, list) else nav.values():
        yield from [entry] if isinstance(entry, str) else leaves(entry)


def test_every_page_is_in_the_navigation_once(hooks):
    import pages

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = sorted(leaves(yaml.safe_load(text.partition("\nnav:")[2])))
    found = [path for pattern in pages.PAGES for path in ROOT.glob(pattern)]
    found += [path.with_suffix(".md") for path in ROOT.glob("examples/*.ipynb")]
    assert listed == sorted(["cite.md", *(path.relative_to(ROOT).as_posix() for path in found)])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('Float[np.ndarray, "n_examples n_hidden"]', "Float[n_examples, n_hidden]"),
        ('Float64[np.ndarray, " n_examples"] | None', "Float64[n_examples] | None"),
        ('Float32[np.ndarray, "n_examples ..."]', "Float32[n_examples, ...]"),
        ('dict[str, tuple[Bool[np.ndarray, "a b"], int]]', "dict[str, tuple[Bool[a, b], int]]"),
        ("Sequence[Mapping[str, Any]]", "Sequence[Mapping[str, Any]]"),
    ],
)
def test_shapes_are_shown_as_lists_of_axes(hooks, written, shown):
    griffe = pytest.importorskip("griffe")
    import shapes

    with griffe.temporary_visited_module(f"def f(x: {written}) -> {written}: ...") as module:
        function = module["f"]
        shapes.ReadableShapes().on_function(func=function)
        assert str(function.parameters["x"].annotation) == str(function.returns) == shown


def test_a_page_that_loads_something_from_elsewhere_is_refused(hooks, tmp_path):
    import pages
    from mkdocs.exceptions import PluginError

    class Config:
        site_dir = tmp_path

    (tmp_path / "page.html").write_text(
        '<a href="https://example.org/x.js">read</a> <script src="assets/x.js"></script>'
    )
    pages.on_post_build(Config)
    for tag in ('<script src="https://example.org/x.js">', "<img alt=x src=//example.org/x.png>"):
        (tmp_path / "page.html").write_text(tag)
        with pytest.raises(PluginError, match="example.org"):
            pages.on_post_build(Config)


def test_the_version_to_cite_is_that_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_the_page_that_says_how_to_cite_has_version_and_papers(hooks):
    import pages

    text = pages.how_to_cite(ROOT / "CITATION.cff")
    assert "  version = {" in text
    assert "author = {Henighan, Tom and Carter, Shan" in text
    assert text.count("```") == 2


def test_a_notebook_becomes_a_page(hooks, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    import notebooks

    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", name="stderr", text="a warning"),
        v4.new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m"),
        v4.new_output("display_data", {"text/html": '<style scoped>x</style><table border="1" class="dataframe">'}),
        v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"}),
    ]
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell("1 + 1", outputs=outputs)])
    monkeypatch.setattr(notebooks, "with_outputs", lambda path: notebook)
    page = notebooks.as_page(Path("n.ipynb"))
    assert page.text.startswith("# Title\n")
    assert "```python\n1 + 1\n```" in page.text
    assert "```text\nred\n```" in page.text
    assert "warning" not in page.text
    assert "<div markdown='0'>\n<table>\n</div>" in page.text
    assert "![What the cell draws](n-1.png)" in page.text
    assert page.pictures == {"n-1.png": b"\x00\x00\x00"}
