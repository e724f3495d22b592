"""`gram demo`: a job runs through a throw-away gatekeeper, from nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from gram.cli.report import EXIT_INTERRUPTED, note, reporting, show, status_line

if TYPE_CHECKING:
    from gram.cli.demo_site import Site
    from gram.client import Job

GREETING: Final = "Hello from a job that a gatekeeper started."
SCRIPT: Final = f'echo "{GREETING}"; echo "account: $(id -un), directory: $(pwd)"'
JOB_TIMEOUT: Final = 30.0


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the first job; exit code 0 if all went well.")
    ] = False,
    account: Annotated[
        str, typer.Option(metavar="NAME", help="Started by root: the account to become.")
    ] = "nobody",
    switched: Annotated[bool, typer.Option("--switched", hidden=True)] = False,
) -> None:
    """Set up a throw-away site on this machine, run a job through it, and keep it until Ctrl-C.

    It makes a CA, host and user credentials, starts the service on a free loopback port, and
    removes everything at the end.  Nothing has to be installed or configured.
    """
    if os.geteuid() == 0:
        _become(account, once=once)
    from gram.cli.demo_site import DemoProblem

    with reporting():
        try:
            with _interruptible():
                code = _demo(once=once, switched=switched)
        except DemoProblem as problem:
            note(f"gram demo: {problem}")
            code = 1
        except KeyboardInterrupt:
            show("\nThe service is stopped and its directory removed.")
            code = EXIT_INTERRUPTED if once else 0
    raise typer.Exit(code)


def _become(name: str, *, once: bool) -> NoReturn:
    """Start this command again as an ordinary account: jobs are never run as root."""
    command = [sys.executable, "-m", "gram", "demo", "--switched"] + ["--once"] * once
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise typer.BadParameter(f"there is no account {name!r}", param_hint="--account") from None
    if account.pw_uid == 0:
        raise typer.BadParameter("jobs are never run as root", param_hint="--account")
    reason = _why_not(account)
    if reason:
        note(f"gram demo: jobs are never run as root, and {name} cannot use this installation:")
        note(f"  {reason}")
        note("Start the demo as an ordinary user, or name an account that can read")
        note(f"{sys.prefix} and the program: gram demo --account NAME")
        raise typer.Exit(1)
    show(f"Started by root: going on as {name}, since jobs are never run as root.")
    os.chdir("/")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.execve(sys.executable, command, _plain_environment())  # noqa: S606 - no shell is wanted


def _why_not(account: pwd.struct_passwd) -> str:
    """Return why an account cannot use this installation; empty when it can."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", "import gram.cli.demo_site, gram.client, gatekeeper.supervisor"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env=_plain_environment(),
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError as error:
        return str(error)
    if trial.returncode == 0:
        return ""
    return trial.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "it cannot start"


def _plain_environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "TERM", "TZ", "COLUMNS", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ}


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _uninterrupted() -> None:
    """Let nothing disturb the tidying up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _demo(*, once: bool, switched: bool) -> int:
    from gram.cli.demo_site import make_site, running_service

    clock = _Clock()
    with ExitStack() as stack:
        site = stack.enter_context(make_site())
        clock.show(f"CA, host and user credentials in {site.directory}")
        service = stack.enter_context(running_service(site))
        stack.callback(_uninterrupted)
        clock.show(f"service ready at {service.contact}")
        fine = asyncio.run(_first_job(site, service.contact, clock))
        if not once:
            _show_lines(site, service.contact, switched=switched)
            service.wait()
    return 0 if fine else 1


async def _first_job(site: Site, contact: str, clock: _Clock) -> bool:
    """Run the first job and show what happens; tell whether all was as it should be."""
    from gram.client import Client, WaitTimeout

    async with Client(site.proxy, trusted_certificates=site.certificates) as client:
        await client.ping(contact)
        clock.show(f"ping: {client.identity} may use the service")
        async with client.start(contact, ["/bin/sh", "-c", SCRIPT]) as running:
            clock.show(f"job {running.job.contact}")
            showing = asyncio.create_task(_show_events(running.job, clock))
            try:
                result = await running.wait(JOB_TIMEOUT)
                await showing
            except WaitTimeout as error:
                note(f"gram demo: {error.message}")
                return False
            finally:
                showing.cancel()
    output = (result.stdout or b"").decode(errors="replace")
    for line in output.splitlines():
        show(f"           | {line}")
    fine = result.status.succeeded and output.startswith(GREETING)
    if not fine:
        note("gram demo: the job did not end as it should")
    return fine


async def _show_events(job: Job, clock: _Clock) -> None:
    async for event in job.events():
        clock.show(f"  {status_line(event.status)}")


class _Clock:
    """Prints lines with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def show(self, text: str) -> None:
        show(f"{time.monotonic() - self._start:7.2f} s  {text}")


def _show_lines(site: Site, contact: str, *, switched: bool) -> None:
    """Print what to paste into another terminal."""
    gram = shlex.join([sys.executable, "-m", "gram"])
    show("\nIn another terminal:")
    if switched:
        # The proxy belongs to that account, and programs refuse other people's proxies.
        name = pwd.getpwuid(os.geteuid()).pw_name
        show(f"  cd /; runuser -u {name} -- env -i PATH=$PATH \\")
        for variable, value in site.environment.items():
            show(f"    {variable}={shlex.quote(value)} \\")
        show("    /bin/bash --norc")
    else:
        show("  unset X509_USER_CERT X509_USER_KEY")
        for variable, value in site.environment.items():
            if variable != "HOME":
                show(f"  export {variable}={shlex.quote(value)}")
    show("and there:")
    show(f"  {gram} run {contact} -- /bin/echo hello")
    show(f"  {gram} submit {contact} '&(executable=/bin/date)' --wait")
    show(f"  globusrun -o -r {contact} '&(executable=/bin/date)'")
    show(f"  globus-job-run {contact} /bin/hostname")
    show(f"The service's log is {site.log}.  Ctrl-C ends the demo.")
