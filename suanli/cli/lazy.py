"""The command group: commands of other wings by entry point, errors without traceback, documented exit codes.

Entry points of group `suanli.commands` name a command and `module:attribute`; the attribute is a function with Typer
annotations, or a `typer.Typer` with commands of its own. They are imported only when invoked, so that `suanli --help`
stays fast; what help says of them stands here.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

ENTRY_POINT_GROUP = "suanli.commands"
DEBUG_VARIABLE = "SUANLI_DEBUG"
WING_PANEL = "Service, solver and simulation"

EXIT_OK = 0
EXIT_FAILED_CHECK = 1
EXIT_BAD_INPUT = 2
EXIT_NOT_FOUND = 3
EXIT_UNAVAILABLE = 4
EXIT_WOULD_WAIT = 5
EXIT_CONFLICT = 6
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

EXIT_CODES = """Exit codes: 0 done; 1 a check failed; 2 bad input; 3 not found; 4 service not reached;
5 plan: something would wait; 6 changed meanwhile, or not possible in this state; 70 internal error; 130 interrupted."""


@dataclass(frozen=True, slots=True)
class Wing:
    """What help says of a command that another wing brings, and the extra that installs what it needs."""

    help: str
    extra: str


WINGS: dict[str, Wing] = {
    "serve": Wing("Run the service: API, planner and store in one process.", "server"),
    "config": Wing("Show the service's settings and where each comes from.", "server"),
    "solve": Wing("Solve a dumped placement problem.", "server"),
    "verify": Wing("Check a plan against its problem, without any solver.", "server"),
    "simulate": Wing("Play a scenario or a trace in virtual time.", "sim"),
    "demo": Wing("One day of the city from nothing to a report.", "sim"),
    "audit": Wing("Check the event log of a played day against its fleet, rule by rule.", "sim"),
    "dev": Wing("Service, planner and simulated city in real time, for trying things.", "sim"),
}
_OURS = ("suanli", "scheduler", "solvers", "cluster_sim")


class WingCommand(TyperCommand):
    """Stands for a command of another wing until it is invoked."""

    def __init__(self, name: str, entry_point: EntryPoint | None) -> None:
        wing = WINGS.get(name)
        text = (
            wing.help
            if wing
            else f"From {entry_point.value.partition(':')[0] if entry_point else 'elsewhere'}."
        )
        if entry_point is None and wing is not None:
            text += f" Not installed: pip install 'suanli[{wing.extra}]'."
        super().__init__(name, help=text, rich_help_panel=WING_PANEL)
        self._entry_point = entry_point
        self._extra = wing.extra if wing else ""

    def load(self) -> Any:
        """The command itself.

        Raises:
            NotInstalled: its wing is not, or lacks a dependency.
        """
        assert self.name is not None
        if self._entry_point is None:
            raise NotInstalled(self.name, self._extra)
        try:
            target = self._entry_point.load()
        except ModuleNotFoundError as error:
            raise NotInstalled(self.name, self._extra, error.name or "") from error
        return as_command(self.name, target)


class NotInstalled(Exception):
    """The command needs an extra that is not installed."""

    def __init__(self, command: str, extra: str, missing: str = "") -> None:
        what = f" (module {missing} is missing)" if missing else ""
        how = f"pip install 'suanli[{extra}]'" if extra else "install the package that brings it"
        super().__init__(f"`suanli {command}` is not installed{what}: {how}")


def as_command(name: str, target: Any) -> Any:
    """A Typer app or a function with Typer annotations as a command of that name."""
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
    else:
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
        command = typer.main.get_command(app)
    command.name = name
    return command


class SuanliGroup(TyperGroup):
    """The root group; turns every error into a message and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        found = {e.name: e for e in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)}
        for name in (*WINGS, *(n for n in found if n not in WINGS)):
            if name not in self.commands:
                self.add_command(WingCommand(name, found.get(name)))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command to invoke; another wing's is imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, WingCommand):
            command = command.load()
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors become exit codes."""
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            # the reader has had enough, as in `suanli list | head`; keep the interpreter from flushing once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_OK) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            raise typer.Exit(report(error)) from None


def report(error: Exception) -> int:
    """Say what went wrong on stderr, every problem of it, and return the exit code."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, NotInstalled):
        _say(str(error))
        return EXIT_BAD_INPUT
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in _OURS:
        _say(
            f"module {error.name} is missing; pip install 'suanli[server]', or 'suanli[sim]' for simulations"
        )
        return EXIT_BAD_INPUT
    if isinstance(error, ExceptionGroup):
        codes = [report(one) for one in error.exceptions]
        return codes[0]
    from suanli.model import SuanliError

    if isinstance(error, SuanliError):
        return _report_ours(error)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        _say(f"{name}{error.strerror or error}")
        return EXIT_BAD_INPUT
    _say(f"internal error: {type(error).__name__}: {error}; {DEBUG_VARIABLE}=1 shows where")
    return EXIT_INTERNAL


def _report_ours(error: Any) -> int:
    from suanli import model

    if isinstance(error, model.InvalidRequest):
        problems = error.problems
        _say(str(problems[0]) if len(problems) == 1 else f"{len(problems)} problems")
        if len(problems) > 1:
            for problem in problems:
                typer.echo(f"  {problem}", err=True)
        return EXIT_BAD_INPUT
    _say(str(error) or type(error).__name__)
    if isinstance(error, model.NotFound):
        return EXIT_NOT_FOUND
    if isinstance(error, model.Unavailable):
        if str(error).startswith(("nothing answers", "there is no host")):
            typer.echo(
                "  `make dev` runs a city to try things on, `suanli serve` starts an empty service; "
                "--address or SUANLI_ADDRESS names another",
                err=True,
            )
        return EXIT_UNAVAILABLE
    if isinstance(error, (model.Conflict, model.AlreadyExists, model.FailedPrecondition, model.WatchExpired)):
        return EXIT_CONFLICT
    return EXIT_INTERNAL


def warn(text: str) -> None:
    """Something on stderr that stops nothing."""
    typer.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    typer.echo(text, err=True)


def _say(text: str) -> None:
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(text, err=True)
