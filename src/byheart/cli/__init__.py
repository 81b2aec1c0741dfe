"""The command line: one subcommand per verb, one file per wing; a subcommand's fields are its options.

Exit status: 0 done; 1 a run or a check failed, or results could not be kept any more; 2 bad input or an unusable file
or directory; 130 interrupted; 141 no one reads what is printed any more, as behind ``| head``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import sys
import warnings
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import byheart
from byheart import interrupts
from byheart.cli.console import CheckError, complain
from byheart.cli.options import Parser, parse


class Command(Protocol):
    """A subcommand."""

    def run(self) -> None:
        """Do it, and print what a person wants to see."""


# The file of each subcommand and its class there, which is imported once it is asked for.
_COMMANDS = {
    "train": ("toy", "TrainCommand"),
    "sweep": ("toy", "SweepCommand"),
    "reproduce": ("studies", "ReproduceCommand"),
    "verdicts": ("studies", "VerdictsCommand"),
    "report": ("toy", "ReportCommand"),
    "audit": ("network", "AuditCommand"),
    "leaderboard": ("studies", "LeaderboardCommand"),
    "counterfactual": ("language", "CounterfactualCommand"),
    "export": ("language", "ExportCommand"),
    "recite": ("text", "ReciteCommand"),
    "copied": ("text", "CopiedCommand"),
    "forgotten": ("forgotten", "ForgottenCommand"),
    "store": ("store", "StoreCommand"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    usual = warnings.showwarning
    warnings.showwarning = _say_in_one_line
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's own backend may not be there
    try:
        _parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()  # a reader that went away is noticed here, not when Python exits
    except KeyboardInterrupt as error:
        n_kept = getattr(error, "n_kept", 0)
        runs = "1 finished run is" if n_kept == 1 else f"{n_kept} finished runs are"
        interrupts.say(
            f"interrupted; {runs} kept, and the same command goes on from there" if n_kept else "interrupted"
        )
        return interrupts.STATUS
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is unwritten is not tried again at exit
        return 141
    except (ValueError, OSError, ModuleNotFoundError) as error:
        complain(f"byheart: {error}")
        if not isinstance(error, OSError):
            return 2
        from byheart.jobs import StoreError

        return 1 if isinstance(error, StoreError) else 2
    except MemoryError as error:
        complain(f"byheart: {error or 'out of memory'}; accepted: sizes that fit in memory")
        return 2
    except Exception as error:
        if not _is_said(error):
            raise
        return 1
    finally:
        warnings.showwarning = usual
    return 0


def _say_in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *where: object, **more: object
) -> None:
    """Print what byheart warns of as one line, and leave the warnings of others to Python."""
    if category is UserWarning and Path(filename).is_relative_to(Path(byheart.__file__).parent):
        complain(f"byheart: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _is_said(error: Exception) -> bool:
    """Say that a run or a check failed, if that is what the error means."""
    from byheart.jobs import JobsError
    from byheart.network.counterfactual import CounterfactualError
    from byheart.toy.config import brief
    from byheart.toy.kernels import DivergedError
    from byheart.toy.sweep import SweepError

    if isinstance(error, SweepError):
        for failure in error.failures:
            complain(f"failed: {brief(failure.config)}: {failure.reason}")
        complain(f"byheart: {len(error.failures)} run(s) failed, all others are kept")
        return True
    if isinstance(error, DivergedError | CounterfactualError | JobsError | CheckError):
        complain(f"byheart: {error}")
        return True
    return False


def _parse(arguments: list[str]) -> Command:
    name = arguments[0] if arguments else ""
    parser = Parser(prog="byheart", description=inspect.cleandoc(byheart.__doc__.split("\n\n")[0]))
    if name in _COMMANDS:
        file, cls = _COMMANDS[name]
        command: type[Command] = getattr(importlib.import_module(f"byheart.cli.{file}"), cls)
        return parse(command, arguments[1:], f"byheart {name}")
    if name.startswith("-"):
        parser.add_argument("--version", action="version", version=f"byheart {byheart.__version__}")
        commands = parser.add_subparsers(title="commands", metavar="COMMAND")
        for known, (file, cls) in _COMMANDS.items():
            commands.add_parser(known, help=_docstring(f"byheart.cli.{file}", cls), add_help=False)
        parser.parse_args(arguments[:1])
    return parser.error(f"command: received {name!r}, accepted: {', '.join(_COMMANDS)}")


def _docstring(module: str, cls: str) -> str:
    """Return the docstring of a class whose module is not imported."""
    spec = find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, InspectLoader)
    (found,) = (
        node
        for node in ast.parse(spec.loader.get_source(module) or "").body
        if isinstance(node, ast.ClassDef) and node.name == cls
    )
    return ast.get_docstring(found) or ""
