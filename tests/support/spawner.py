"""Real spawners for tests: started from this tree, with a spool of their own."""

import asyncio
import contextlib
import json
import os
import pwd
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobmanager.spawner.codec import encode
from jobmanager.spawner_client import (
    ExitRecord,
    Launched,
    LaunchRequest,
    Limits,
    SpawnerClient,
    SpawnerPolicy,
)

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
PATIENCE = 30.0
"""Seconds after which a wait in a test has failed; nothing is expected to come near it."""


def job_account() -> str:
    """An account that jobs of this test run can have: our own, or (root) nobody's."""
    return "nobody" if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name


def policy(spool: Path, /, **changes: object) -> SpawnerPolicy:
    """The policy of most tests."""
    fields: dict[str, object] = {"personal": not IS_ROOT, "minimum_uid": 100, "spool": str(spool)}
    return SpawnerPolicy(**(fields | changes))  # type: ignore[arg-type] # tests try wrong ones too


def state(pid: int) -> str:
    """The state letter of a process; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def alive(pid: int) -> bool:
    """True unless the process is gone (a zombie counts as gone)."""
    return state(pid) not in "ZX"


def running(word: str) -> list[int]:
    """The processes that have this word in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(path.name)] = os.readlink(path)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody tells us about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Harness:
    """A spawner, its client, and everything the client was told."""

    client: SpawnerClient
    spool: Path
    account: str
    directory: Path
    told: list[ExitRecord] = field(default_factory=list)
    lost: bool = False

    def __post_init__(self) -> None:
        self.client.on_ended = self.told.append
        self.client.on_lost = lambda: setattr(self, "lost", True)

    async def launch(
        self,
        container: str,
        *argv: str,
        environment: Sequence[tuple[str, str]] = (("PATH", "/usr/bin:/bin"),),
        processes: int = 1,
        limits: Limits | None = None,
        stdin: Sequence[str | Path] = (os.devnull,),
        cwd: Path | int | None = None,
    ) -> Launched:
        """Launch with stdout and stderr in `directory`, as `<container>.out<n>` and `.err<n>`.

        `stdin`: one file for each process, or for all; `cwd` a directory or its descriptor.
        """
        request = LaunchRequest(
            container, self.account, processes, argv, tuple(environment), limits or Limits()
        )
        place = cwd if isinstance(cwd, int) else cwd or self.directory
        opened = [os.dup(place) if isinstance(place, int) else os.open(place, os.O_RDONLY)]
        try:
            for index in range(processes):
                opened.append(os.open(stdin[index % len(stdin)], os.O_RDONLY))
                for stream in ("out", "err"):
                    path = self.directory / f"{container}.{stream}{index}"
                    opened.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
            return await self.client.launch(request, opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    async def end(self, container: str) -> ExitRecord:
        """The record the client is told when the container has ended."""
        await until(lambda: any(record.container == container for record in self.told))
        return next(record for record in self.told if record.container == container)

    async def run(self, container: str, *argv: str, **options: object) -> ExitRecord:
        """Launch and wait for the end."""
        await self.launch(container, *argv, **options)  # type: ignore[arg-type] # passed on as is
        return await self.end(container)

    def output(self, container: str, index: int = 0, stream: str = "out") -> str:
        """What a process has written so far."""
        return (self.directory / f"{container}.{stream}{index}").read_text()


_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); {extra}\n"
    "from jobmanager.spawner.__main__ import main; main()"
)


async def start_spawner(
    rules: SpawnerPolicy,
    *,
    prefix: Sequence[str] = (),
    interpreter: str = sys.executable,
    extra: str = "",
) -> SpawnerClient:
    """A spawner from this tree, installed or not; `extra` is Python that it runs first."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *prefix, interpreter, "-I", "-c", _BOOT.format(root=str(ROOT), extra=extra),
            str(theirs.fileno()), pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return await SpawnerClient.connect(ours, rules, process)


@contextlib.asynccontextmanager
async def harness(
    directory: Path, *, account: str | None = None, rules: SpawnerPolicy | None = None,
    prefix: Sequence[str] = (), interpreter: str = sys.executable, extra: str = "",
) -> AsyncIterator[Harness]:  # fmt: skip
    """A spawner that lives for one test; containers that are left over are killed."""
    work = directory / "work"
    work.mkdir(exist_ok=True)
    work.chmod(0o755)
    rules = rules or policy(directory / "spool")
    client = await start_spawner(rules, prefix=prefix, interpreter=interpreter, extra=extra)
    running = Harness(
        client, Path(rules.spool), job_account() if account is None else account, work
    )
    try:
        yield running
    finally:
        if not running.lost:
            await kill_all(running.client)
        await running.client.aclose()


async def kill_all(client: SpawnerClient) -> None:
    """End every living container and wait for it."""
    async with asyncio.timeout(PATIENCE):
        while living := await client.list():
            for info in living:
                with contextlib.suppress(Exception):
                    await client.kill(info.container, 0.0)
            await asyncio.sleep(0.01)


class RawSpawner:
    """A spawner at the other end of a plain blocking socket, for bytes no client would send."""

    def __init__(self, rules: SpawnerPolicy | None, prefix: Sequence[str] = ()) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE)
        with theirs:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-I", "-c", _BOOT.format(root=str(ROOT), extra=""),
                 str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._ids = 1 << 40
        if rules is not None:
            self.send(encode(rules))
            assert self.answer()["kind"] == "Ready"
            assert self.answers_before_pong() == []  # it has looked through its spool

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """One frame, whatever is in it."""
        message = struct.pack("!I", len(payload)) + payload
        if descriptors:
            socket.send_fds(self.sock, [message], list(descriptors))
        else:
            self.sock.sendall(message)

    def answer(self) -> dict[str, object]:
        """The next frame from the spawner."""
        (length,) = struct.unpack("!I", self._exactly(4))
        document: dict[str, object] = json.loads(self._exactly(length))
        return document

    def answers_before_pong(self) -> list[dict[str, object]]:
        """Ping; all answers that came before the ping's, which must come."""
        self._ids += 1
        self.send(json.dumps({"kind": "Ping", "id": self._ids}).encode())
        answers = []
        while (answer := self.answer()) != {"kind": "Done", "id": self._ids}:
            answers.append(answer)
        return answers

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> int:
        """Close the socket; the spawner's exit status."""
        self.sock.close()
        return self.process.wait(PATIENCE)
