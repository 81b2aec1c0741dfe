"""Every type of field becomes an option, and what is no value of it is named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from byheart.cli.options import parse


@dataclass(frozen=True)
class Inner:
    needed: int | Literal["inf"]
    """As in 5 % of cases."""
    sizes: tuple[int, ...] = (1, 2)
    flags: tuple[bool, ...] = (True,)


@dataclass(frozen=True)
class Outer:
    """A program."""

    inner: Inner
    targets: tuple[str, ...] = field(default=(), metadata={"positional": "TARGET"})
    """What it is
    about."""
    rate: float | None = None
    out: Path | None = None
    """"runs" is usual."""
    kind: Literal["a", "b"] = field(default="a", metadata={"help": "One of two."})
    on: bool = True


def parsed(*words):
    return parse(Outer, words, "prog")


def test_defaults_are_those_of_the_dataclass():
    assert parsed("--needed", "3") == Outer(Inner(3))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--needed", "inf"], Outer(Inner("inf"))),
        (["--needed=3", "--rate=-1e-3"], Outer(Inner(3), rate=-1e-3)),
        (["--needed", "3", "--rate", "-0.5"], Outer(Inner(3), rate=-0.5)),
        (["--needed", "3", "--rate", "None", "--out", "None"], Outer(Inner(3))),
        (["--needed", "3", "--sizes"], Outer(Inner(3, sizes=()))),
        (["--needed", "3", "--sizes", "4", "5", "--flags", "False", "True"], Outer(Inner(3, (4, 5), (False, True)))),
        (
            ["--needed", "3", "--no-on", "--kind", "b", "--out", "x/y"],
            Outer(Inner(3), (), None, Path("x/y"), "b", False),
        ),
        (["one", "--needed", "3", "two", "--on"], Outer(Inner(3), ("one", "two"))),
    ],
)
def test_texts_become_values(words, expected):
    assert parsed(*words) == expected


def test_underscores_are_dashes():
    @dataclass
    class Dashed:
        two_words: str = "a_b"

    assert parse(Dashed, ["--two_words", "c_d"], "prog") == parse(Dashed, ["--two-words=c_d"], "prog") == Dashed("c_d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"--needed: received nothing, accepted: As in 5 % of cases \(see prog --help\)"),
        (["--needed", "x"], r"--needed: received 'x', accepted: an integer, inf \(see prog --help\)"),
        (["--needed", "1.5"], "--needed: received '1.5', accepted: an integer, inf"),
        (["--needed", "3", "--rate", "x"], "--rate: received 'x', accepted: a number"),
        (["--needed", "3", "--sizes", "1", "x"], "--sizes: received 'x', accepted: an integer"),
        (["--needed", "3", "--flags", "yes"], "--flags: received 'yes', accepted: True, False"),
        (["--needed", "3", "--kind", "c"], "--kind: received 'c', accepted: a, b"),
        (["--needed", "3", "--out", "s3://x/y"], "--out: received 's3://x/y', accepted: a path of this machine"),
        (["--needed", "3", "--unknown"], "received --unknown, accepted: "),
        (["--need", "3"], "received --need, accepted: "),
        (["--needed"], "--needed: expected one argument"),
        (["--needed", "3", "--needed", "4"], "--needed: received 2 times, accepted: once, with all its values"),
    ],
)
def test_what_is_no_value_is_named(words, message):
    with pytest.raises(ValueError, match=message) as error:
        parsed(*words)
    assert "\n" not in str(error.value)


def test_help_is_made_of_docstrings_types_and_defaults(capsys):
    with pytest.raises(SystemExit) as error:
        parsed("--help")
    assert error.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "usage: prog --needed [TARGET] [option ...] A program." in words
    for option in (
        "TARGET What it is about.",
        "--needed INT|{inf} As in 5 % of cases. (required)",
        "--sizes [INT ...] (default: 1 2)",
        "--rate FLOAT --out",
        '--out PATH "runs" is usual.',
        "--kind {a,b} One of two. (default: a)",
        "--on, --no-on (default: True)",
    ):
        assert option in words


def test_a_leading_tilde_is_the_home_directory_but_not_in_urls(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = parsed("--needed=3", "--out=~/x", "~/net.py:make", "s3://~/x", "a~/x", "~")
    assert found.out == tmp_path / "x"
    assert found.targets == (f"{tmp_path}/net.py:make", "s3://~/x", "a~/x", str(tmp_path))
    assert parsed("--needed=3", "--out=~nobody-here/x").out == Path("~nobody-here/x")
