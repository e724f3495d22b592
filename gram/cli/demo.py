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
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from gram.cli.report import note, reporting, show, status_line

if TYPE_CHECKING:
    from gram.cli.demo_site import Site
    from gram.client import Client

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
            code = asyncio.run(_until_interrupted(once=once, switched=switched))
        except DemoProblem as problem:
            note(f"gram demo: {problem}")
            code = 1
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
    if trial.returncode != 0:
        reason = trial.stderr.decode(errors="replace").strip().rpartition("\n")[2]
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


def _plain_environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "TERM", "TZ", "COLUMNS", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ}


async def _until_interrupted(*, once: bool, switched: bool) -> int:
    """Run the demo; SIGINT and SIGTERM end it in good order."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_demo(once=once, switched=switched))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        show("\nThe service is stopped and its directory removed.")
        return 130 if once else 0


async def _demo(*, once: bool, switched: bool) -> int:
    from gram.cli.demo_site import make_site, running_service
    from gram.client import Client

    clock = _Clock()
    with make_site() as site:
        clock.show(f"CA, host and user credentials in {site.directory}")
        with running_service(site) as contact:
            clock.show(f"service ready at {contact}")
            async with Client(site.proxy, trusted_certificates=site.certificates) as client:
                fine = await _first_job(client, contact, clock)
            if once:
                return 0 if fine else 1
            _show_lines(site, contact, switched=switched)
            await asyncio.Event().wait()
    return 0


async def _first_job(client: Client, contact: str, clock: _Clock) -> bool:
    await client.ping(contact)
    clock.show(f"ping: {client.identity} may use the service")
    async with client.start(contact, ["/bin/sh", "-c", SCRIPT]) as running:
        clock.show(f"job {running.job.contact}")
        async with asyncio.timeout(JOB_TIMEOUT):
            async for event in running.job.events():
                clock.show(f"  {status_line(event.status)}")
        result = await running.wait(JOB_TIMEOUT)
    output = (result.stdout or b"").decode(errors="replace")
    for line in output.splitlines():
        show(f"           | {line}")
    fine = result.status.succeeded and output.startswith(GREETING)
    if not fine:
        note("gram demo: the job did not end as it should")
    return fine


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
