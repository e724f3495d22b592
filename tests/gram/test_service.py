"""The command and the library against our own service."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gram.client import (
    Client,
    ErrorCode,
    JobGone,
    JobState,
    OutputNotFound,
    Program,
    SyncClient,
    with_stored_output,
)
from protocol.gsi.credential import Credential
from rsl import parse
from tests.support.server import Server
from tests.support.site import Site, User

GRAM = (sys.executable, "-m", "gram")


def client(site: Site, user: User) -> Client:
    proxy = Credential.from_pem(user.proxy.read_bytes())
    return Client(proxy, trusted_certificates=site.certificates)


@pytest.fixture
def alice(site: Site) -> User:
    return site.alice


def gram(user: User, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return user.run(*GRAM, *words, stdin=stdin)


@contextmanager
def killing(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind, whatever happens."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


# --- the command ----------------------------------------------------------------------------------


def test_ping_and_version(server: Server, site: Site, alice: User) -> None:
    result = gram(alice, "ping", server.contact, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["identity"] == alice.identity
    assert gram(alice, "version", server.contact).returncode == 0
    refused = gram(site.mallory, "ping", server.contact)
    assert refused.returncode == ErrorCode.AUTHORIZATION
    assert b"grid-mapfile" in refused.stderr
    assert gram(alice, "ping", f"{server.contact}/none").returncode == 93


def test_run_hands_streams_and_exit_code_through(server: Server, alice: User) -> None:
    result = gram(
        alice,
        *("run", "-i", "-e", "NAME=a b", "-d", "/tmp", server.contact, "--"),
        *("/bin/sh", "-c", 'cat; echo "$1 $NAME $PWD"; echo err >&2; exit 3', "sh", "-x"),
        stdin=b"\0\xffin\n",
    )
    assert result.returncode == 3, result.stderr
    assert result.stdout == b"\0\xffin\n-x a b /tmp\n"
    assert result.stderr == b"err\n"


def test_run_as_json(server: Server, alice: User) -> None:
    result = gram(alice, "run", "--json", server.contact, "--", "/bin/echo", "hello")
    values = json.loads(result.stdout)
    assert (values["state"], values["exit_code"], values["stdout"]) == ("DONE", 0, "hello\n")


def test_run_of_a_missing_program(server: Server, alice: User) -> None:
    result = gram(alice, "run", server.contact, "--", "/no/such/program")
    assert result.returncode == ErrorCode.EXECUTABLE_NOT_FOUND
    assert b"FAILED" in result.stderr


def test_interrupted_run_cancels_the_job(server: Server, alice: User) -> None:
    marker = alice.directory / "started"
    script = f"touch {marker}; sleep 60"
    process = alice.start(*GRAM, "run", server.contact, "--", "/bin/sh", "-c", script)
    with killing(process):
        deadline = time.monotonic() + 30
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == ErrorCode.USER_CANCELLED, errors
    assert b"cancelling" in errors


def test_life_of_a_submitted_job(server: Server, alice: User) -> None:
    script = "echo out; echo err >&2; sleep 1; exit 5"
    submitted = gram(
        alice, "submit", server.contact, f"&(executable=/bin/sh)(arguments=-c '{script}')"
    )
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.decode().strip()
    watched = gram(alice, "watch", job, "--json")
    states = [json.loads(line)["state"] for line in watched.stdout.splitlines()]
    assert states[-1] == "DONE"
    assert watched.returncode == 5
    for stream, expected in ((), b"out\n"), (("--stderr",), b"err\n"):
        output = gram(alice, "output", job, "-r", server.contact, *stream)
        assert (output.returncode, output.stdout) == (0, expected), output.stderr


def test_submit_and_wait(server: Server, alice: User) -> None:
    (alice.directory / "job.rsl").write_text("&(executable=/bin/false)")
    result = gram(alice, "submit", server.contact, "-f", "job.rsl", "--wait")
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines()[-1] == b"DONE (exit code 1)"
    failed = gram(alice, "submit", server.contact, "&(executable=/none)", "--wait")
    assert failed.returncode == ErrorCode.EXECUTABLE_NOT_FOUND
    failed = gram(alice, "submit", server.contact, "&(executable=/none)", "--batch")
    assert failed.returncode == ErrorCode.EXECUTABLE_NOT_FOUND
    dry = gram(alice, "submit", server.contact, "&(executable=/bin/true)", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, b"dry run: the request is fine\n")


def test_status_cancel_signal_renew(server: Server, site: Site, alice: User) -> None:
    submitted = gram(
        alice, "submit", server.contact, "&(executable=/bin/sleep)(arguments=60)", "--batch"
    )
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.decode().split()[0]
    assert gram(alice, "status", job).stdout == b"ACTIVE\n"
    assert gram(alice, "renew", job).returncode == 0
    assert gram(alice, "signal", job, "commit-end").returncode == ErrorCode.INVALID_COMMIT
    stranger = gram(site.mallory, "cancel", job)
    assert stranger.returncode == ErrorCode.AUTHORIZATION
    cancelled = gram(alice, "cancel", job, "--wait", "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["failure_code"] == ErrorCode.USER_CANCELLED


def test_output_of_an_unknown_job(server: Server, alice: User) -> None:
    result = gram(alice, "output", "https://localhost:1/2/3/", "-r", server.contact)
    assert (result.returncode, result.stdout) == (ErrorCode.OPENING_CACHE, b"")


# --- the library ----------------------------------------------------------------------------------


async def test_events_to_the_end(server: Server, site: Site, alice: User) -> None:
    async with client(site, alice) as own:
        job = await own.submit(server.contact, "&(executable=/bin/sleep)(arguments=1)")
        states = [event.status.state async for event in job.events()]
        assert states == [JobState.ACTIVE, JobState.DONE]
        final = await job.wait(10)
        assert (final.succeeded, final.exit_code) == (True, 0)


async def test_two_phase(server: Server, site: Site, alice: User) -> None:
    async with client(site, alice) as own:
        job = await own.submit(server.contact, "&(executable=/bin/true)(two_phase=30)")
        assert (await job.wait(30)).succeeded
        with pytest.raises(JobGone):
            await own.job(job.contact).commit_end()


async def test_attached_waiting(server: Server, site: Site, alice: User) -> None:
    async with client(site, alice) as own:
        job = await own.submit(
            server.contact, "&(executable=/bin/sleep)(arguments=2)", callbacks=False
        )
        async with client(site, alice) as other:
            assert (await other.job(job.contact).wait(30)).succeeded


async def test_run_with_many_processes(server: Server, site: Site, alice: User) -> None:
    async with client(site, alice) as own:
        program = Program(["/bin/echo", "hello"], count=3)
        result = await own.run(server.contact, program, timeout=60, check=True)
    assert result.stdout == b"hello\n" * 3


async def test_large_output(server: Server, site: Site, alice: User, tmp_path: Path) -> None:
    size = 30_000_000
    target = tmp_path / "out"
    async with client(site, alice) as own:
        result = await own.run(
            server.contact, ["/usr/bin/head", "-c", str(size), "/dev/zero"], stdout=target
        )
    assert result.status.succeeded
    assert result.stdout is None
    assert target.stat().st_size == size


async def test_stored_output(server: Server, site: Site, alice: User) -> None:
    async with client(site, alice) as own:
        job = await own.submit(
            server.contact, with_stored_output(parse("&(executable=/bin/echo)(arguments=hi)"))
        )
        await job.wait(30)
        assert await own.output(job.contact, resource=server.contact) == b"hi\n"
        assert await own.output(job.contact, "stderr", resource=server.contact) == b""
        with pytest.raises(OutputNotFound):
            await own.output("https://localhost:1/2/3/", resource=server.contact)


def test_output_without_naming_the_gatekeeper(site: Site, alice: User) -> None:
    """A contact that is served by the gatekeeper itself says where that is."""
    server = site.configure("shared", gatekeeper='job_contacts = "shared"').start()
    try:
        text = "&(executable=/bin/echo)(arguments=hi)"
        submitted = gram(alice, "submit", server.contact, text, "--wait")
        assert submitted.returncode == 0, submitted.stderr
        job = submitted.stdout.decode().splitlines()[0]
        assert job.endswith(f":{server.subject}")
        output = gram(alice, "output", job)
        assert (output.returncode, output.stdout) == (0, b"hi\n"), output.stderr
    finally:
        assert server.stop() == 0


def test_blocking_client(server: Server, site: Site, alice: User) -> None:
    proxy = Credential.from_pem(alice.proxy.read_bytes())
    with SyncClient(proxy, trusted_certificates=site.certificates) as own:
        assert own.run(server.contact, ["/bin/echo", "hello"]).stdout == b"hello\n"


# --- the demo -------------------------------------------------------------------------------------


def test_demo() -> None:
    """As root it becomes an ordinary account by itself."""
    done = subprocess.run([*GRAM, "demo", "--once"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert b"Hello from a job" in done.stdout
    directory = done.stdout.partition(b"credentials in ")[2].split()[0]
    assert not Path(os.fsdecode(directory)).exists()


def test_demo_stays_until_interrupted(alice: User) -> None:
    process = alice.start(*GRAM, "demo")
    with killing(process):
        exports, answer, errors = _use_the_demo(process, alice)
    assert answer.returncode == 0, answer.stderr
    assert process.returncode == 0, errors
    assert not Path(exports["X509_CERT_DIR"]).exists()


def _use_the_demo(
    process: subprocess.Popen[bytes], user: User
) -> tuple[dict[str, str], subprocess.CompletedProcess[bytes], bytes]:
    """Do what the demo says, end it, and return its exports, a ping's result, and its errors."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(b"The service's log"):
            break
    contact = next(line.split()[-1] for line in lines if b"service ready at" in line)
    exports = dict(
        line.strip().removeprefix(b"export ").decode().split("=", 1)
        for line in lines
        if line.strip().startswith(b"export ")
    )
    answer = subprocess.run(
        [*GRAM, "ping", contact.decode()],
        env={"PATH": os.environ["PATH"], "HOME": "/", **exports},
        capture_output=True,
        check=False,
        **({"user": user.account.pw_uid} if user.account else {}),
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    return exports, answer, errors
