"""`gram submit`: a job described in RSL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from gram.cli.report import (
    Contact,
    JsonLines,
    Value,
    event_values,
    exit_code_of,
    reporting,
    settings,
    show,
    show_json,
    status_line,
)
from gram.cli.source import File, Text, parse_or_exit, read_rsl

if TYPE_CHECKING:
    from gram.client import Job
    from rsl import Specification


class Until(Enum):
    """When the command is done."""

    ACCEPTED = "accepted"
    STARTED = "started"
    ENDED = "ended"


def submit(
    context: typer.Context,
    contact: Contact,
    rsl: Text = None,
    file: File = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end; print every state.")
    ] = False,
    batch: Annotated[
        bool,
        typer.Option("--batch", "-b", help="Wait until files are staged in and the job is queued."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Have the request checked only.")
    ] = False,
    full_proxy: Annotated[
        bool, typer.Option("--full-proxy", help="Delegate a full proxy, not a limited one.")
    ] = False,
    as_json: JsonLines = False,
) -> None:
    """Submit a job and print its contact.

    Streams that the RSL does not name are kept on the server for `gram output`.  With --wait the
    exit code is the program's, or the GRAM error of a job that failed.
    """
    if wait and batch:
        raise typer.BadParameter("--wait and --batch exclude each other")
    until = Until.ENDED if wait else Until.STARTED if batch else Until.ACCEPTED
    spec = parse_or_exit(read_rsl(rsl, file), as_json=as_json)
    with reporting(as_json=as_json):
        code = asyncio.run(
            _work(context, contact, _prepare(spec, dry_run=dry_run), until, full_proxy, as_json)
        )
    raise typer.Exit(code)


def _prepare(spec: Specification, *, dry_run: bool) -> Specification:
    from gram.client import with_stored_output
    from gram.client.request import with_dry_run

    return with_dry_run(spec) if dry_run else with_stored_output(spec)


async def _work(
    context: typer.Context,
    contact: str,
    spec: Specification,
    until: Until,
    full_proxy: bool,
    as_json: bool,
) -> int:
    from gram.client import ErrorCode, JobRequestFailed

    follow = until is not Until.ACCEPTED
    async with settings(context).client(callbacks=follow) as client:
        try:
            job = await client.submit(contact, spec, full_delegation=full_proxy, callbacks=follow)
        except JobRequestFailed as error:
            if error.code is not ErrorCode.DRYRUN:
                raise
            _say("dry run: the request is fine", {"dry_run": True}, as_json)
            return 0
        _say(job.contact, {"contact": job.contact}, as_json)
        return await _follow(job, until, as_json) if follow else 0


async def _follow(job: Job, until: Until, as_json: bool) -> int:
    from gram.client import JobFailed, JobState

    early = (JobState.UNSUBMITTED, JobState.STAGE_IN)
    async for event in job.events():
        _say(status_line(event.status), event_values(event), as_json)
        if until is Until.STARTED and event.status.state not in early:
            if event.status.state is JobState.FAILED:
                raise JobFailed(event.status.failure_code, f"the job failed: {event.status.reason}")
            return 0
    return exit_code_of(await job.wait())


def _say(text: str, values: Mapping[str, Value], as_json: bool) -> None:
    if as_json:
        show_json(values)
    else:
        show(text)
