"""The command and its subcommands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from gram.cli import config, demo, jobs, proxy, rsl, run, serve, submit, watch
from gram.cli.report import Settings, show

app = typer.Typer(
    name="gram",
    help="Submit and control jobs through GRAM gatekeepers, and run one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        show(f"gram {version('gram-gatekeeper')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    proxy_file: Annotated[
        Path | None,
        typer.Option(
            "--proxy",
            metavar="FILE",
            help="Proxy to use (default: what GSI programs find, e.g. $X509_USER_PROXY).",
        ),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Trusted CAs (default: $X509_CERT_DIR and the like)."),
    ] = None,
    callback_host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Our name for job managers (default: $GLOBUS_HOSTNAME or address)."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell more on standard error.")
    ] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options before the subcommand."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="gram: %(message)s")
    context.obj = Settings(proxy_file, certificates, callback_host)


_CLIENT, _TOOLS, _SERVICE = "Jobs", "Tools", "Service"

app.command(rich_help_panel=_CLIENT)(jobs.ping)
app.command(rich_help_panel=_CLIENT)(jobs.version)
app.command(rich_help_panel=_CLIENT)(run.run)
app.command(rich_help_panel=_CLIENT)(submit.submit)
app.command(rich_help_panel=_CLIENT)(jobs.status)
app.command(rich_help_panel=_CLIENT)(watch.watch)
app.command(rich_help_panel=_CLIENT)(jobs.output)
app.command(rich_help_panel=_CLIENT)(jobs.cancel)
app.command(rich_help_panel=_CLIENT)(jobs.signal)
app.command(rich_help_panel=_CLIENT)(jobs.renew)
app.add_typer(proxy.app, name="proxy", rich_help_panel=_TOOLS)
app.add_typer(rsl.app, name="rsl", rich_help_panel=_TOOLS)
app.command(rich_help_panel=_SERVICE)(demo.demo)
app.command(rich_help_panel=_SERVICE)(serve.serve)
app.add_typer(config.app, name="config", rich_help_panel=_SERVICE)
