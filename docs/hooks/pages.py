"""Hook of mkdocs: which files the site is made of, and what must hold of the pages that come out.

Pages, tables and figures are taken from where they stand, at the same paths as in the repository. So nothing is copied,
and a relative link that works on a code host works on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import notebooks
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "RELEASING.md", "CHANGELOG.md", "docs/*.md", "docs/reference/*.md"),
    *("results/*.md", "results/*/*.md", "benchmarks/*.md"),
)
LINKED = (
    *("CITATION.cff", "docs/*.png", "docs/*.svg", "docs/*.css", "results/*/*.png", "results/*/*.csv"),
    *("benchmarks/*.csv", "examples/*.ipynb", "examples/*.py"),
)
# What a page loads by itself; a link that a reader clicks (<a>) may lead anywhere.
_LOADED_FROM_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the whole repository that belong on the site."""
    kept = [file for file in files if file.src_dir != config.docs_dir]  # what the theme brings
    for pattern in PAGES + LINKED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            kept.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    kept.append(File.generated(config, "cite.md", content=how_to_cite(ROOT / "CITATION.cff")))
    for path in sorted(ROOT.glob("examples/*.ipynb")):
        page = notebooks.as_page(path)
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        kept.append(File.generated(config, f"{name}.md", content=page.text))
        kept += [
            File.generated(config, f"examples/{picture}", content=content) for picture, content in page.pictures.items()
        ]
    return Files(kept)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to a notebook to its page, which shows what it gave."""
    if page.file.src_uri.startswith("examples/"):
        return markdown
    return re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load anything from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for url in _LOADED_FROM_ELSEWHERE.findall(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.name}: loads {url}, accepted: files of the site")


def how_to_cite(path: Path) -> str:
    """Return the page that says how to cite byheart, from its CITATION.cff."""
    citation = yaml.safe_load(path.read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in citation["authors"])
    lines = [
        "# How to cite\n",
        f"{citation['message']} The same as a file: [CITATION.cff](CITATION.cff).\n",
        "```bibtex",
        "@software{byheart,",
        f"  title = {{{citation['title']}}},",
        f"  author = {{{authors}}},",
        f"  version = {{{citation['version']}}},",
        f"  license = {{{citation['license']}}},",
        "}",
    ]
    for paper in citation["references"]:
        names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
        lines += [
            "",
            f"@article{{{paper['authors'][0]['family-names'].lower()}{paper['year']},",
            f"  title = {{{paper['title']}}},",
            f"  author = {{{names}}},",
            f"  journal = {{{paper['journal']}}},",
            f"  year = {{{paper['year']}}},",
            f"  url = {{{paper['url']}}},",
            "}",
        ]
    return "\n".join([*lines, "```", ""])
