"""`gram run`: a program whose streams are ours."""

from __future__ import annotations

import asyncio
import base64
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
    Value,
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
        bool, typer.Option("--json", help="Print the result with the output as one JSON object.")
    ] = False,
) -> None:
    """Run a program on the server; its output comes here and its exit code is ours.

    Input is read to its end before the program starts; output comes when it has ended.  Ctrl-C
    cancels the job and waits for its end; a second one leaves at once.
    """
    from gram.client import Program

    program = Program(
        argv=command,
        environment=_pairs(environment or []),
        directory=directory,
        count=count,
        queue=queue,
        project=project,
        max_time=max_time,
        extra=None if extra is None else parse_or_exit(extra.encode("utf-8", "surrogateescape")),
    )
    with reporting(as_json=as_json), _input(interactive, stdin) as given:
        result = asyncio.run(_work(context, contact, program, given, full_proxy, as_json))
        if result is None:
            raise typer.Exit(EXIT_INTERRUPTED)
        if as_json:
            show_json(_values(result))
        elif not result.status.succeeded:
            note(f"gram: {status_line(result.status)}")
    raise typer.Exit(exit_code_of(result.status))


def _pairs(definitions: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in definitions]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise typer.BadParameter("write NAME=VALUE", param_hint="--env")
    return {name: value for name, _, value in pairs}


@contextmanager
def _input(interactive: bool, file: Path | None) -> Iterator[BinaryIO | None]:
    """Give the program's input as a file that can be read again, if the server has to."""
    with ExitStack() as stack:
        if interactive and file is not None:
            raise typer.BadParameter("-i and --stdin exclude each other")
        if interactive:
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.seek(0)
            yield copy
        elif file is not None:
            yield stack.enter_context(file.open("rb"))
        else:
            yield None


async def _work(
    context: typer.Context,
    contact: str,
    program: Program,
    stdin: BinaryIO | None,
    full_proxy: bool,
    as_json: bool,
) -> RunResult | None:
    """Run to the end; None when the user left before."""
    async with (
        settings(context).client() as client,
        client.start(
            contact,
            program,
            stdin=stdin,
            stdout=None if as_json else sys.stdout.buffer,
            stderr=None if as_json else sys.stderr.buffer,
            full_delegation=full_proxy,
        ) as running,
    ):
        waiting = asyncio.create_task(running.wait())
        interruptions = Interruptions(running.job, waiting)
        with interruptions.handled():
            try:
                return await waiting
            except asyncio.CancelledError:
                if not interruptions.left:
                    raise
        return None


class Interruptions:
    """Ctrl-C: the first one cancels the job, the second one ends our waiting (`left`)."""

    def __init__(self, job: Job, waiting: asyncio.Task[RunResult]) -> None:
        self._job = job
        self._waiting = waiting
        self._cancelling: asyncio.Task[None] | None = None
        self.left = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGINT here for a while."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._cancelling is not None:
                self._cancelling.cancel()

    def _interrupt(self) -> None:
        if self._cancelling is None:
            note("gram: cancelling the job; interrupt again to leave at once")
            self._cancelling = asyncio.ensure_future(self._cancel())
        elif not self.left:
            self.left = True
            note(f"gram: left the job {self._job.contact}")
            self._waiting.cancel()

    async def _cancel(self) -> None:
        from gram.client import GramClientError

        try:
            await self._job.cancel()
        except GramClientError as error:
            note(f"gram: {error.message}")


def _values(result: RunResult) -> dict[str, Value]:
    return {
        "contact": result.contact,
        **status_values(result.status),
        **_text("stdout", result.stdout or b""),
        **_text("stderr", result.stderr or b""),
    }


def _text(name: str, data: bytes) -> dict[str, Value]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
