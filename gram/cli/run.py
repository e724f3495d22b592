"""`gram run`: a program whose streams are ours."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from gram.cli.report import (
    EXIT_INTERRUPTED,
    Contact,
    exit_code_of,
    note,
    reporting,
    settings,
    show_json,
    status_line,
    status_values,
)
from gram.cli.source import parse_or_exit

if TYPE_CHECKING:
    from gram.client import Job, Program, RunResult


def run(
    context: typer.Context,
    contact: Contact,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="Program (its path on the server) and arguments, after --."
        ),
    ],
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="NAME=VALUE", help="Set a variable; repeatable."),
    ] = None,
    directory: Annotated[
        str | None, typer.Option("--directory", "-d", help="Working directory on the server.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Number of processes.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Queue or partition.")] = None,
    project: Annotated[str | None, typer.Option(help="Project to charge.")] = None,
    max_time: Annotated[
        int | None, typer.Option("--max-time", "-m", metavar="MINUTES", help="Time limit.")
    ] = None,
    extra: Annotated[
        str | None, typer.Option("--rsl", "-x", metavar="RSL", help="Further RSL; it comes first.")
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option("--stdin-from-here", "-i", help="Hand our standard input to the program."),
    ] = False,
    stdin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hand this file to the program as input.")
    ] = None,
    full_proxy: Annotated[
        bool, typer.Option("--full-proxy", help="Delegate a full proxy, not a limited one.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print how it ended as JSON on standard error."),
    ] = False,
) -> None:
    """Run a program on the server; its output comes here and its exit code is ours.

    Input is read to its end before the program starts; output comes when it has ended.  Ctrl-C
    cancels the job and waits for its end; a second one leaves at once.
    """
    program = _program(
        command, environment or [], directory, count, queue, project, max_time, extra
    )
    with reporting(as_json=as_json), _input(interactive, stdin) as given:
        result = asyncio.run(_work(context, contact, program, given, full_proxy))
        if result is None:
            raise typer.Exit(EXIT_INTERRUPTED)
        if as_json:
            note_json(result)
        elif not result.status.succeeded:
            note(f"gram: {status_line(result.status)}")
    raise typer.Exit(exit_code_of(result.status))
