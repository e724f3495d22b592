"""Short questions to gatekeepers and job managers."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated

import typer

from gram.cli.report import (
    Contact,
    JobArgument,
    Json,
    exit_code_of,
    reporting,
    settings,
    show,
    show_json,
    status_line,
    status_values,
)


def ping(
    context: typer.Context,
    contact: Contact,
    user: Annotated[
        str | None, typer.Option(metavar="ACCOUNT", help="Ask for this local account.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that the gatekeeper would take your jobs."""

    async def work() -> None:
        async with settings(context).client() as client:
            start = time.monotonic()
            await client.ping(contact, user=user)
            milliseconds = (time.monotonic() - start) * 1000
        if as_json:
            show_json(
                {
                    "contact": contact,
                    "identity": client.identity,
                    "milliseconds": round(milliseconds, 1),
                }
            )
        else:
            show(f"{contact} accepts {client.identity} ({milliseconds:.0f} ms)")

    with reporting(as_json=as_json):
        asyncio.run(work())


def version(context: typer.Context, contact: Contact, as_json: Json = False) -> None:
    """Print the version of the service behind a contact."""

    async def work() -> None:
        async with settings(context).client() as client:
            found = await client.version(contact)
        if as_json:
            show_json({"version": found.version, "toolkit_version": found.toolkit_version})
        else:
            show(f"job manager {found.version}, toolkit {found.toolkit_version}")

    with reporting(as_json=as_json):
        asyncio.run(work())


def status(context: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Print the state of a job.

    Exits with 156 when the server does not know the job, which says nothing about how it ended.
    """

    async def work() -> None:
        async with settings(context).client() as client:
            found = await client.job(job).status()
        if as_json:
            show_json({"contact": job, **status_values(found)})
        else:
            show(status_line(found))
        if found.gone:
            raise typer.Exit(exit_code_of(found))

    with reporting(as_json=as_json):
        asyncio.run(work())


def cancel(
    context: typer.Context,
    job: JobArgument,
    wait: Annotated[bool, typer.Option(help="Wait until the job has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Cancel a job."""

    async def work() -> None:
        async with settings(context).client(callbacks=wait) as client:
            target = client.job(job)
            if wait:
                await target.follow()
            found = await target.cancel()
            if wait:
                found = await target.wait()
        if as_json:
            show_json({"contact": job, **status_values(found)})
        else:
            show(status_line(found) if wait else "cancel requested")

    with reporting(as_json=as_json):
        asyncio.run(work())


def signal(
    context: typer.Context,
    job: JobArgument,
    name: Annotated[
        str,
        typer.Argument(
            help="suspend, resume, priority, commit-request, commit-extend, stdio-update, "
            "stdio-size, stop-manager, commit-end, cancel; or a number"
        ),
    ],
    argument: Annotated[str, typer.Argument(help="What the signal needs, e.g. a priority.")] = "",
    as_json: Json = False,
) -> None:
    """Send a signal to a job."""
    from protocol.tables import Signal

    try:
        number = int(name) if name.isdigit() else int(Signal[name.upper().replace("-", "_")])
    except KeyError:
        raise typer.BadParameter(f"there is no signal {name!r}", param_hint="NAME") from None

    async def work() -> None:
        async with settings(context).client(callbacks=False) as client:
            found = await client.job(job).signal(number, argument)
        if as_json:
            show_json({"contact": job, **status_values(found)})
        else:
            show(status_line(found))

    with reporting(as_json=as_json):
        asyncio.run(work())


def renew(
    context: typer.Context,
    job: JobArgument,
    full: Annotated[
        bool, typer.Option("--full", help="Delegate a full proxy, not a limited one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hand your current proxy to a job, before the one it has expires."""

    async def work() -> None:
        async with settings(context).client(callbacks=False) as client:
            found = await client.job(job).renew(full=full)
        if as_json:
            show_json({"contact": job, **status_values(found)})
        else:
            show(f"credential renewed; the job is {status_line(found)}")

    with reporting(as_json=as_json):
        asyncio.run(work())


def output(
    context: typer.Context,
    job: JobArgument,
    resource: Annotated[
        str | None,
        typer.Option(
            "--resource",
            "-r",
            metavar="CONTACT",
            help="Gatekeeper of the job (default: the job contact's host, port 2119).",
        ),
    ] = None,
    stderr: Annotated[bool, typer.Option("--stderr", help="Standard error instead.")] = False,
) -> None:
    """Print the stored output of a job that `gram submit` or globus-job-submit submitted."""

    async def work() -> None:
        async with settings(context).client() as client:
            await client.output(
                job,
                "stderr" if stderr else "stdout",
                resource=resource,
                to=sys.stdout.buffer,
            )

    with reporting():
        asyncio.run(work())
