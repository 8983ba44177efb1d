"""A wing of its own, as an entry point would bring it; imported by name in the tests of the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from suanli.model import NotFound

tools = typer.Typer(help="Small tools.", no_args_is_help=True)


def shout(
    word: str,
    times: Annotated[int, typer.Option(help="How often.")] = 1,
    fail: Annotated[bool, typer.Option("--fail", help="End with an error of the model.")] = False,
) -> None:
    """Say it loudly."""
    if fail:
        raise NotFound(word)
    for _ in range(times):
        typer.echo(word.upper())


@tools.command()
def add(a: int, b: int) -> None:
    """Add two numbers."""
    typer.echo(str(a + b))


@tools.command()
def nothing() -> None:
    """Do nothing."""
