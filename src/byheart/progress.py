"""How far long work has come: a bar in a terminal or a notebook, and nothing where nobody looks on."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator

_PATIENCE = 2.0  # seconds before a bar that nobody asked for appears
_BETWEEN = 0.2  # seconds between two pictures of a notebook's bar

Advance = Callable[[float, float | None, str], None]
"""Takes the work done, the whole of it if known, and a note."""


@contextlib.contextmanager
def bar(what: str) -> Iterator[Advance]:
    """Draw a progress bar while the block runs, in a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, total, note: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=300,
    )
    with progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total, note: progress.update(task, completed=done, total=total, note=note)


@contextlib.contextmanager
def bar_for_a_person(what: str) -> Iterator[Advance]:
    """Draw a bar if the block takes longer than two seconds, in a notebook or where Python is typed to; else nothing.

    Scripts, tests and pipes see none of it.
    """
    notebook = _in_notebook()
    if not notebook and not (hasattr(sys, "ps1") and sys.stderr.isatty()):
        yield lambda done, total, note: None
        return
    begun, drawn = time.monotonic(), list[Advance]()
    with contextlib.ExitStack() as stack:

        def advance(done: float, total: float | None, note: str) -> None:
            if not drawn and time.monotonic() - begun >= _PATIENCE:
                drawn.append(stack.enter_context(_notebook_bar(what) if notebook else bar(what)))
            for draw in drawn:
                draw(done, total, note)

        yield advance


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython(), "kernel") if ipython is not None else False


@contextlib.contextmanager
def _notebook_bar(what: str) -> Iterator[Advance]:
    """A bar below the cell, gone when the block ends."""
    from IPython.display import display

    nothing = {"text/plain": "", "text/html": ""}
    handle, last = display(nothing, raw=True, display_id=True), [-_BETWEEN]

    def advance(done: float, total: float | None, note: str) -> None:
        if time.monotonic() - last[0] >= _BETWEEN:
            last[0] = time.monotonic()
            filled = f'value="{done:g}" max="{total:g}"' if total else ""
            words = f"{what}: {note}"
            drawn = f"<progress {filled}></progress> {html.escape(words)}"
            handle.update({"text/plain": words, "text/html": drawn}, raw=True)

    try:
        yield advance
    finally:
        handle.update(nothing, raw=True)
