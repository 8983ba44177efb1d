"""The `suanli` command: its own commands, and by entry point those of the other wings.

work.py       submit get list watch cancel why plan        operate.py  sites nodes … policy placements rounds plans
lazy.py       the group, exit codes, other wings           output.py   tables, JSON, YAML      common.py  options
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from suanli.cli import operate, work
from suanli.cli.lazy import EXIT_CODES, SuanliGroup

HELP = f"""Place AI jobs and digital twins across a city's cloud and edge sites: within their latency, within the PUE
caps, at the least energy cost.

{EXIT_CODES}

Examples: `suanli submit jobs.yaml`, `suanli why v2x-07`, `suanli plan twin.yaml`, `suanli sites`.
"""

app = typer.Typer(
    cls=SuanliGroup,
    name="suanli",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    work.PANEL: {
        "submit": work.submit,
        "get": work.get,
        "list": work.list_,
        "watch": work.watch,
        "cancel": work.cancel,
        "why": work.why,
        "plan": work.plan,
    },
    operate.FLEET_PANEL: {
        "sites": operate.sites,
        "nodes": operate.nodes,
        "cordon": operate.cordon,
        "uncordon": operate.uncordon,
        "drain": operate.drain,
    },
    operate.DECISIONS_PANEL: {
        "placements": operate.placements,
        "rounds": operate.rounds,
        "plans": operate.plans,
        "operations": operate.operations,
    },
}
for panel, functions in COMMANDS.items():
    for name, function in functions.items():
        app.command(name, rich_help_panel=panel)(function)
app.add_typer(operate.fleet_app, name="fleet", rich_help_panel=operate.FLEET_PANEL)
app.add_typer(operate.policy_app, name="policy", rich_help_panel=operate.DECISIONS_PANEL)


def _version(wanted: bool) -> None:
    if wanted:
        from suanli import __version__

        typer.echo(f"suanli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


root.__doc__ = HELP


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="suanli")


if __name__ == "__main__":
    main()
