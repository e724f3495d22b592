"""Keys and what users hide in their jobs are in no log, no command line and no file of others."""

import asyncio
import os
import pwd
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gram import Client, Job
from gram.client.errors import GramClientError
from protocol.gsi.credential import Credential
from protocol.tables import JobState
from tests.support.server import Server
from tests.support.site import SERVICE_ACCOUNT, Site, User, make_site

CANARY = "canary-7f3a9c51e0"
"""In the environment and the standard input of jobs; never to be seen anywhere else."""

JOBS = 8


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


def client_of(user: User) -> Client:
    proxy = Credential.from_pem(user.proxy.read_bytes())
    return Client(
        proxy, trusted_certificates=user.certificates, callbacks=True, callback_host="localhost"
    )


class Modes:
    """Looks at a directory again and again; keeps every mode and group that anything ever had."""

    def __init__(self, directory: Path) -> None:
        self.seen: dict[Path, set[tuple[int, int]]] = {}
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def look(self) -> None:
        for folder, _, files in os.walk(self._directory):
            self._note(Path(folder))
            for name in files:
                self._note(Path(folder, name))

    def _note(self, path: Path) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return  # gone meanwhile
        self.seen.setdefault(path, set()).add((stat.S_IMODE(status.st_mode), status.st_gid))

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def wrong(self, may: Callable[[Path, int, int], bool]) -> dict[str, set[str]]:
        """What was ever more open than `may` (path, mode, group) allows."""
        return {
            str(path): {f"{mode:o} group {group}" for mode, group in modes}
            for path, modes in self.seen.items()
            if not all(may(path, mode, group) for mode, group in modes)
        }


def private_text(pem: bytes) -> list[bytes]:
    """How the private key of a proxy file could appear somewhere: lines of base64, numbers."""
    key = Credential.from_pem(pem).private_key
    lines = []
    for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
        text = key.private_bytes(Encoding.PEM, form, NoEncryption())
        lines += [line for line in text.splitlines() if len(line) == 64]
    return [line for line in lines if line not in public_text(pem)]


def public_text(pem: bytes) -> set[bytes]:
    return {
        line
        for block in re.findall(
            rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL
        )
        for line in block.splitlines()
    }


def test_the_whole_state_is_private_from_its_creation(site: Site) -> None:
    server = site.configure("private")
    modes = Modes(server.config.parent / "state")
    with ExitStack() as stack:
        stack.callback(server.stop)  # whatever happens; the second time it does nothing
        stack.enter_context(modes.watching())
        server.start()
        rsl = f'&(executable=/bin/sh)(arguments=-c "sleep 0.1")(environment=(SECRET {CANARY}))'
        asyncio.run(run_jobs(site, server, rsl))
        assert server.stop() == 0, server.log
    modes.look()
    assert {".db", ".pem", ".exit"} <= {path.suffix for path in modes.seen}  # it really looked
    state = server.config.parent / "state"
    service_group = pwd.getpwnam(SERVICE_ACCOUNT).pw_gid if os.geteuid() == 0 else os.getegid()

    def may(path: Path, mode: int, group: int) -> bool:
        if path == state:  # only its name can be walked through, nothing in it listed
            return mode & 0o066 == 0
        if state / "spool" in (path, *path.parents):  # root's, and the service may read in it
            return mode & 0o027 == 0 and (mode & 0o070 == 0 or group in (service_group, 0))
        return mode & 0o077 == 0

    assert modes.wrong(may) == {}


async def run_jobs(site: Site, server: Server, rsl: str) -> None:
    async with client_of(site.alice) as client:
        jobs = [await client.submit(server.contact, rsl) for _ in range(JOBS)]
        for job in jobs:
            assert (await job.wait(timeout=60)).state is JobState.DONE


@pytest.fixture(scope="module", params=["info", "debug"])
def server(site: Site, request: pytest.FixtureRequest) -> Iterator[Server]:
    level = str(request.param)
    made = site.configure(f"secrets-{level}", f'[log]\nlevel = "{level}"').start()
    yield made
    assert made.stop() == 0, made.log


@pytest.fixture
async def job(site: Site, server: Server) -> AsyncIterator[tuple[Job, Path]]:
    """A running job with a canary in its environment, and where its proxy is."""
    where = site.alice.home / "where"
    where.unlink(missing_ok=True)
    script = (
        f"echo $X509_USER_PROXY > {where}.new; mv {where}.new {where};"
        " exec tail -f /dev/null $0"  # $0 is the argument behind the script
    )
    async with client_of(site.alice) as client:
        job = await client.submit(
            server.contact,
            f'&(executable=/bin/sh)(arguments=-c "{script}" {CANARY}-argument)'
            f"(environment=(SECRET {CANARY}))",
        )
        while not where.exists():
            await asyncio.sleep(0.05)
        yield job, Path(where.read_text().strip())
        await job.cancel()
    where.unlink()


async def test_the_log_holds_no_key_and_nothing_of_the_job_s_environment(
    site: Site, server: Server, job: tuple[Job, Path]
) -> None:
    running, proxy = job
    secrets = private_text(proxy.read_bytes())
    assert len(secrets) > 10
    await running.renew()
    secrets += private_text(proxy.read_bytes())
    async with client_of(site.alice) as client:  # errors must not quote the request either
        for wrong in (
            f"&(executable=/bin/true)(environment=(SECRET {CANARY})",
            f"&(executable=/nowhere/{site.alice.name})(environment=(SECRET {CANARY}))",
            f"&(executable=/bin/true)(environment=(SECRET {CANARY}))(unknown=1)",
            f"&(executable=/bin/true)(environment=(SECRET {CANARY}))(count=x)",
            f"&(executable=/bin/true)(environment=(SECRET {CANARY} x))",
        ):
            assert await fails(client, server, wrong), wrong
    log = server.log_path.read_bytes()
    assert b"request.authorised" in log
    assert CANARY.encode() not in log
    assert b"PRIVATE KEY" not in log
    assert [line for line in secrets if line in log] == []


async def fails(client: Client, server: Server, rsl: str) -> bool:
    try:
        job = await client.submit(server.contact, rsl)
    except GramClientError:
        return True
    return (await job.wait(timeout=30)).state is JobState.FAILED


@pytest.mark.root
async def test_nobody_sees_secrets_in_the_process_table(
    site: Site, server: Server, job: tuple[Job, Path]
) -> None:
    if site.bob is None or site.alice.account is None:
        pytest.skip("a second account needs root")
    lines = private_text(job[1].read_bytes())
    script = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; exit 0"
    seen = site.bob.run("/bin/sh", "-c", script).stdout
    assert f"{CANARY}-argument".encode() in seen  # arguments are public in Unix; the rest is not
    assert re.search(rb"canary-7f3a9c51e0(?!-argument)", seen) is None
    assert b"PRIVATE KEY" not in seen
    assert [line for line in lines if line in seen] == []
    # Nor in the command line or environment of any process but the job's own, even for root.
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            owner = folder.stat().st_uid
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue  # it has just ended
        if owner != site.alice.account.pw_uid and int(folder.name) not in ours():
            assert CANARY.encode() not in text, folder
            assert b"PRIVATE KEY" not in text, folder


def ours() -> set[int]:
    """This process, and the ones it came from, which know the test's name."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@pytest.mark.root
async def test_other_accounts_cannot_read_the_proxy_or_the_state(
    site: Site, server: Server, job: tuple[Job, Path]
) -> None:
    if site.bob is None or site.alice.account is None:
        pytest.skip("a second account needs root")
    state = server.config.parent / "state"
    found = [str(path) for path in state.rglob("*")]
    assert found
    for path in (str(job[1]), str(state), *found):
        assert site.bob.run("/bin/sh", "-c", 'cat "$0" || ls "$0"', path).returncode != 0, path
    assert stat.S_IMODE(job[1].stat().st_mode) == 0o600
    assert job[1].stat().st_uid == site.alice.account.pw_uid
    # The job's account in turn sees nothing of the service, nor does the service keep files of it.
    for path in (str(state), *found):
        assert site.alice.run("ls", path).returncode != 0, path


async def test_no_copy_of_a_key_stays_in_temporary_directories(
    site: Site, server: Server, job: tuple[Job, Path]
) -> None:
    lines = private_text(job[1].read_bytes())
    assert any(line in job[1].read_bytes() for line in lines)  # that is how it would look
    for folder in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
        for path in folder.iterdir():
            try:
                if not path.is_file() or path.is_symlink() or path.stat().st_size > 100_000:
                    continue
                data = path.read_bytes()
            except OSError:
                continue  # somebody else's, or gone
            assert not any(line in data for line in lines), path
