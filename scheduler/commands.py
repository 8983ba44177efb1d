"""What the service adds to the command line by entry point: `serve`, and `config show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from scheduler.config import STORES, load

config_app = typer.Typer(help="Settings of the service.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings.", dir_okay=False)]


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="gRPC port; 0 takes any free one.")] = None,
    port_file: Annotated[Path | None, typer.Option(help="File that gets the port.")] = None,
    store: Annotated[str | None, typer.Option(help=f"{STORES}.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0 none, -1 any.")] = None,
    virtual: Annotated[bool | None, typer.Option("--virtual/--real", help="Virtual time only.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    while_stdin: Annotated[
        bool, typer.Option("--while-stdin", hidden=True, help="End when standard input, a pipe, is closed.")
    ] = False,
) -> None:
    """Run the service until it is told to stop. Prints `listening on HOST:PORT`, then `serving at revision N`.

    An answered submission is on disk: kill it and start it again with the same --store, and nothing is lost.

    Examples:

        suanli serve --store sqlite:///suanli.sqlite

        suanli serve --port 7461 --store memory --metrics-port 9470
    """
    flags = {
        "host": host, "port": port, "port_file": port_file, "store": store, "metrics_port": metrics_port,
        "virtual": virtual, "log_format": log_format, "log_level": log_level,
    }  # fmt: skip
    settings = load(flags, config).settings
    # the planner and its solver load only where a service runs
    from scheduler.app import run

    run(settings, lifeline=0 if while_stdin else None)


@config_app.command("show")
def show(
    config: ConfigFile = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml.")] = "table",
) -> None:
    """Print the settings in force: file, then environment, then flags.

    Example:

        suanli config show --origin
    """
    loaded = load({}, config)
    values = loaded.settings.model_dump(mode="json")
    tree: dict[str, Any] = {
        name: {"value": value, "origin": loaded.origin[name]} if origin else value
        for name, value in values.items()
    }
    if output == "json":
        typer.echo(json.dumps(tree, indent=2))
    elif output == "yaml":
        typer.echo(yaml.safe_dump(tree, sort_keys=False), nl=False)
    else:
        width = max(len(name) for name in values)
        for name, value in values.items():
            typer.echo(f"{name:<{width}}  {value}" + (f"  ({loaded.origin[name]})" if origin else ""))
