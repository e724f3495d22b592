"""`gram config`: the service's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gram.cli.report import Json, note, show, show_json

if TYPE_CHECKING:
    from gatekeeper.config import Config

app = typer.Typer(help="Check and show the service's configuration.", no_args_is_help=True)

EXIT_CONFIGURATION = 78

ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Configuration file (default: /etc/gram/gram.toml)."
    ),
]


def load(path: Path | None, *, as_json: bool = False) -> Config:
    """Load a configuration; what is wrong with it is printed, exit code 78.

    Without a path the usual file is read if there is one, otherwise the defaults count.
    """
    from gatekeeper.config import DEFAULT_PATH, ConfigError, load_config

    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    try:
        return load_config(path)
    except ConfigError as error:
        if as_json:
            show_json({"ok": False, "problems": list(error.problems)})
        else:
            for problem in error.problems:
                note(f"gram: {problem}")
        raise typer.Exit(EXIT_CONFIGURATION) from error


@app.command()
def check(path: ConfigFile = None, as_json: Json = False) -> None:
    """Check the configuration file; exit code 78 if it cannot be used."""
    load(path, as_json=as_json)
    if as_json:
        show_json({"ok": True, "problems": []})
    else:
        show("the configuration is fine")


@app.command("show")
def show_(path: ConfigFile = None) -> None:
    """Print the configuration in force, defaults included, as TOML."""
    from gatekeeper.config import effective

    show(effective(load(path)).rstrip("\n"))


@app.command()
def reference() -> None:
    """Print every key with its meaning and default, as a TOML file to start from."""
    from gatekeeper.config import reference as reference_text

    show(reference_text().rstrip("\n"))
