"""`gram watch`: the states of a job as they change."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gram.cli.report import (
    JobArgument,
    JsonLines,
    event_values,
    exit_code_of,
    note,
    reporting,
    settings,
    show,
    show_json,
    status_line,
)

if TYPE_CHECKING:
    from gram.client import JobEvent


def watch(
    context: typer.Context,
    job: JobArgument,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Leave after so long.")
    ] = None,
    as_json: JsonLines = False,
) -> None:
    """Print the states of a job as they change, until it ends.  Ctrl-C leaves; the job goes on.

    Exits with the program's exit code, or the GRAM error of a job that failed.
    """

    async def work() -> int:
        async with settings(context).client() as client:
            target = client.job(job)
            with progress(enabled=not as_json and sys.stdout.isatty()):
                async with asyncio.timeout(timeout):
                    async for event in target.events():
                        show_event(event, as_json=as_json)
            return exit_code_of(await target.wait())

    with reporting(as_json=as_json):
        try:
            code = asyncio.run(work())
        except TimeoutError:
            note(f"gram: the job has not ended within {timeout} seconds")
            raise typer.Exit(1) from None
    raise typer.Exit(code)


def show_event(event: JobEvent, *, as_json: bool) -> None:
    """Print an event as a line of JSON, or with the time for people."""
    if as_json:
        show_json(event_values(event))
    else:
        show(f"{event.received.astimezone():%H:%M:%S}  {status_line(event.status)}")


@contextmanager
def progress(*, enabled: bool, text: str = "waiting for the next state") -> Iterator[None]:
    """Show on a terminal's standard error that something goes on."""
    if not enabled:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
