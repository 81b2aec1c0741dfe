"""The command line: one subcommand per verb, one file per wing; a subcommand's fields are its options.

Exit status: 0 done; 1 a run or a check failed; 2 bad input or an unusable file or directory; 130 interrupted; 141 no
one reads what is printed any more, as behind ``| head``.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from typing import Protocol

import byheart
from byheart.cli.console import complain
from byheart.cli.language import CounterfactualCommand
from byheart.cli.network import AuditCommand, CheckError
from byheart.cli.options import Parser, parse
from byheart.cli.studies import LeaderboardCommand, ReproduceCommand, VerdictsCommand
from byheart.cli.text import CopiedCommand, ReciteCommand
from byheart.cli.toy import ReportCommand, SweepCommand, TrainCommand
from byheart.jobs import JobsError
from byheart.network.counterfactual import CounterfactualError
from byheart.toy.config import brief
from byheart.toy.kernels import DivergedError
from byheart.toy.sweep import SweepError


class Command(Protocol):
    """A subcommand."""

    def run(self) -> None:
        """Do it, and print what a person wants to see."""


_COMMANDS: dict[str, type[Command]] = {
    "train": TrainCommand,
    "sweep": SweepCommand,
    "reproduce": ReproduceCommand,
    "verdicts": VerdictsCommand,
    "report": ReportCommand,
    "audit": AuditCommand,
    "leaderboard": LeaderboardCommand,
    "counterfactual": CounterfactualCommand,
    "recite": ReciteCommand,
    "copied": CopiedCommand,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's own backend may not be there
    try:
        _parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()  # a reader that went away is noticed here, not when Python exits
    except KeyboardInterrupt:
        complain("interrupted; finished runs are kept, and the same command goes on from them")
        return 130
    except SweepError as error:
        for failure in error.failures:
            complain(f"failed: {brief(failure.config)}: {failure.reason}")
        complain(f"byheart: {len(error.failures)} run(s) failed, all others are kept")
        return 1
    except (DivergedError, CounterfactualError, JobsError, CheckError) as error:
        complain(f"byheart: {error}")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is unwritten is not tried again at exit
        return 141
    except (ValueError, OSError, ModuleNotFoundError) as error:
        complain(f"byheart: {error}")
        return 2
    except MemoryError as error:
        complain(f"byheart: {error or 'out of memory'}; accepted: sizes that fit in memory")
        return 2
    return 0


def _parse(arguments: list[str]) -> Command:
    parser = Parser(prog="byheart", description=byheart.__doc__)
    parser.add_argument("--version", action="version", version=f"byheart {byheart.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in _COMMANDS.items():
        commands.add_parser(name, help=inspect.getdoc(command), add_help=False)
    name = arguments[0] if arguments else ""
    if name.startswith("-"):
        parser.parse_args(arguments[:1])
    if name not in _COMMANDS:
        parser.error(f"command: received {name!r}, accepted: {', '.join(_COMMANDS)}")
    return parse(_COMMANDS[name], arguments[1:], f"byheart {name}")
