"""Options made from a dataclass: the names, types, defaults and docstrings of its fields; there is no second list.

A field that is a dataclass itself adds its own fields. The metadata of a field may hold "positional", the name of an
argument without a flag, and "help", where there is no docstring. argparse splits the command line and prints the help;
texts become values here, so that every message names what is accepted.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import os
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar

T = TypeVar("T")


def _path(text: str) -> Path:
    if "://" in text:  # which would be a directory of that name
        raise ValueError
    return Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib raises where there is no such user


def _text(text: str) -> str:
    """A text, of which a leading ~/ is the home directory: a shell expands it only where a word starts."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text  # noqa: PTH111 - as above


# What stands for a value in the help, what is accepted in words, and how a text becomes a value.
_KINDS: dict[Any, tuple[str, str, Callable[[str], Any]]] = {
    int: ("INT", "an integer", int),
    float: ("FLOAT", "a number", float),
    str: ("TEXT", "a text", _text),
    Path: ("PATH", "a path of this machine", _path),
    bool: ("{True,False}", "True, False", {"True": True, "False": False}.__getitem__),
    NoneType: ("", "", {"None": None}.__getitem__),
}


@dataclass(frozen=True)
class Option:
    """An option, made from a field of a dataclass."""

    name: str
    """Name of the field."""
    hint: Any
    """One of the types above, a Literal of texts, a union of these, or a tuple of one of all these."""
    default: Any
    """Default of the field, or dataclasses.MISSING."""
    help: str
    """What the field means."""
    positional: str = ""
    """Name of the argument, if it has no flag."""

    @property
    def label(self) -> str:
        """The option as a person writes it: --n-examples, --from (of a field from_), or TARGET."""
        return self.positional or "--" + self.name.rstrip("_").replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Let argparse know the option; values stay texts, and defaults are left to the dataclass."""
        words = self.help
        if self.required:
            words += " (required)"
        elif self.default not in (None, (None,), (), ""):
            default = self.default if isinstance(self.default, tuple) else (self.default,)
            words += f" (default: {' '.join(map(str, default))})"
        words = words.replace("%", "%%")
        several = typing.get_origin(self.hint) is tuple
        if self.positional:
            parser.add_argument(self.name, nargs="*" if several else "?", metavar=self.positional, help=words)
        elif self.hint is bool:
            parser.add_argument(self.label, dest=self.name, action=argparse.BooleanOptionalAction, help=words)
        else:
            shown = "|".join(shown for shown, _, _ in self._kinds() if shown)
            parser.add_argument(self.label, dest=self.name, nargs="*" if several else None, metavar=shown, help=words)

    def value(self, given: Any) -> Any:
        """Convert what argparse found.

        Raises:
            ValueError: If it is no value of the option's type.
        """
        if isinstance(given, list):
            return tuple(self._value(text) for text in given)
        return given if isinstance(given, bool) else self._value(given)

    def _value(self, text: str) -> Any:
        for _, _, convert in self._kinds():
            try:
                return convert(text)
            except (ValueError, KeyError):
                continue
        accepted = ", ".join(words for _, words, _ in self._kinds() if words)
        raise ValueError(f"{self.label}: received {text!r}, accepted: {accepted}")

    def _kinds(self) -> Iterator[tuple[str, str, Callable[[str], Any]]]:
        hint = typing.get_args(self.hint)[0] if typing.get_origin(self.hint) is tuple else self.hint
        is_one = hint in _KINDS or typing.get_origin(hint) is Literal
        members = (hint,) if is_one else sorted(typing.get_args(hint), key=lambda member: member is not NoneType)
        for member in members:
            if member in _KINDS:
                yield _KINDS[member]
            else:
                values = {value: value for value in typing.get_args(member)}
                yield f"{{{','.join(values)}}}", ", ".join(values), values.__getitem__


def options(cls: type) -> Iterator[Option]:
    """Yield the options that the fields of a dataclass make, in their order."""
    hints, docstrings = typing.get_type_hints(cls), _docstrings(cls)
    for field in dataclasses.fields(cls):
        hint, metadata = hints[field.name], field.metadata
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast(type, hint))
        else:
            words = metadata.get("help") or docstrings.get(field.name, "")
            yield Option(field.name, hint, field.default, words, metadata.get("positional", ""))


def parse(cls: type[T], arguments: Sequence[str], prog: str) -> T:
    """Make a dataclass from the arguments of a command line; with --help, print help and exit.

    Args:
        cls: Dataclass; its docstring describes the program.
        arguments: Arguments, without the program's name.
        prog: Name of the program.

    Raises:
        ValueError: If an argument is missing, unknown or no value of its field's type, or the dataclass refuses it.
    """
    known = {option.name: option for option in options(cls)}
    named = [option for option in known.values() if option.required or option.positional]
    shown = (option.label if option.required else f"[{option.label}]" for option in named)
    parser = Parser(
        prog=prog,
        usage=" ".join([prog, *shown, "[option ...]"]),
        description=inspect.getdoc(cls),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for option in known.values():
        option.add_to(parser)
    dashed = [re.sub(r"^--\w+", lambda flag: flag[0].replace("_", "-"), argument) for argument in arguments]
    flags = [argument.split("=")[0] for argument in dashed if argument.startswith("--")]
    if twice := [flag for flag in dict.fromkeys(flags) if flags.count(flag) > 1]:
        parser.error(f"{twice[0]}: received {flags.count(twice[0])} times, accepted: once, with all its values")
    found, unknown = parser.parse_known_intermixed_args(dashed)
    if unknown:
        parser.error(f"received {' '.join(unknown)}, accepted: options of this command")
    for option in known.values():
        if option.required and option.name not in found:
            parser.error(f"{option.label}: received nothing, accepted: {option.help.rstrip('.')}")
    try:
        values = {name: known[name].value(given) for name, given in vars(found).items()}
    except ValueError as error:
        parser.error(str(error))
    return _build(cls, values)


class Parser(argparse.ArgumentParser):
    """A parser that raises on bad input, instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a ValueError with the message, and where to read on."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def _build(cls: type[T], values: dict[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    nested = {name: _build(hints[name], values) for name in names if dataclasses.is_dataclass(hints[name])}
    return cls(**nested, **{name: values[name] for name in names if name in values})


def _docstrings(cls: type) -> dict[str, str]:
    """Return the texts below the fields of a class, by field; of a class without source, none."""
    try:
        source = inspect.getsource(cls)
    except OSError:
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
