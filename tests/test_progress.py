"""The bar: for a person who waits, and nobody else."""

import io
import sys

import numpy as np
import pytest

from byheart import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def advanced(what: str = "audit") -> None:
    with progress.bar_for_a_person(what) as advance:
        advance(1, 4, "moments")
        advance(2, 4, "moments")


def a_terminal(monkeypatch) -> Terminal:
    """Errors go to a terminal from here on; pytest would take them back after a fixture."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    return found


def test_a_script_has_no_bar(monkeypatch):
    terminal = a_terminal(monkeypatch)
    advanced()
    assert terminal.getvalue() == ""


def test_where_python_is_typed_to_there_is_a_bar(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    advanced()
    assert "audit" in terminal.getvalue()
    assert "50%" in terminal.getvalue()


def test_what_is_quick_has_no_bar(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(progress, "_PATIENCE", 1e9)
    advanced()
    assert terminal.getvalue() == ""


def test_a_pipe_has_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    advanced()
    assert capsys.readouterr() == ("", "")


def test_a_notebook_has_a_bar_that_goes(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def update(self, made, raw):
            assert raw
            shown.append(made)

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    monkeypatch.setattr(display, "display", lambda *_, **__: Handle())
    advanced("<b>audit")
    assert shown[0]["text/html"] == '<progress value="1" max="4"></progress> &lt;b&gt;audit: moments'
    assert shown[0]["text/plain"] == "<b>audit: moments"
    assert set(shown[-1].values()) == {""}


def test_an_audit_shows_a_bar_unless_it_is_told_otherwise(monkeypatch):
    torch = pytest.importorskip("torch")
    from byheart.network.audit import audit

    terminal, net = a_terminal(monkeypatch), torch.nn.Sequential(torch.nn.Linear(6, 2))
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    data, told = (np.eye(6, dtype=np.float32), np.arange(6) % 2), []
    audit(net, data, on_progress=lambda done, what: told.append((done, what)))
    assert terminal.getvalue() == ""
    assert told[0] == (6, "moments")
    audit(net, data)
    assert "audit" in terminal.getvalue()
