"""`gram serve`: the gatekeeper and its job managers."""

from __future__ import annotations

import typer

from gram.cli.config import ConfigFile, load


def serve(path: ConfigFile = None) -> None:
    """Run the service until SIGTERM; running jobs are not touched.

    Prints `gram contact: HOST:PORT:SUBJECT` when it accepts connections; logs to standard error.
    """
    configuration = load(path)
    from gatekeeper import supervisor

    raise typer.Exit(supervisor.run(configuration))
