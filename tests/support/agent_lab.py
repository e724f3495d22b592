"""A user agent at work in a home directory of its own, as a task of the test or as a process."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from jobmanager.agent.client import Agent, AgentPool, JobFiles, OpenedJob, Settings
from jobmanager.agent.main import UserAgent
from jobmanager.description import (
    Destination,
    JobDescription,
    JobType,
    Transfer,
)
from jobmanager.records import JobPaths

PROXY = b"-----BEGIN CERTIFICATE-----\nnot read by these tests\n-----END CERTIFICATE-----\n"
CONTACT = "https://host.example:4711/1234/5678/"
PATIENCE = 30.0

_PROGRAM = (
    "import socket, sys; from jobmanager.agent.main import run;"
    "run(socket.socket(fileno=int(sys.argv[1])))"
)


def job(home: Path, **changes: object) -> JobDescription:
    """The description of a job that runs /bin/true in `home`, with changes."""
    fields: dict[str, object] = {
        "executable": "/bin/true",
        "arguments": (),
        "directory": str(home),
        "environment": (),
        "stdin": "/dev/null",
        "stdout": (Destination("/dev/null"),),
        "stderr": (Destination("/dev/null"),),
        "count": 1,
        "job_type": JobType.MULTIPLE,
        "two_phase": 0,
        "dry_run": False,
        "library_path": (),
        "file_stage_in": (),
        "file_stage_in_shared": (),
        "file_stage_out": (),
        "file_clean_up": (),
    }
    absent = (
        "host_count", "queue", "project", "max_time", "max_wall_time", "max_cpu_time",
        "max_memory", "min_memory", "save_state", "user_name", "scratch_dir", "proxy_timeout",
    )  # fmt: skip
    return JobDescription(**(fields | dict.fromkeys(absent) | changes))  # type: ignore[arg-type]


def to(*urls: str) -> tuple[Destination, ...]:
    """Destinations without tags."""
    return tuple(Destination(url) for url in urls)


def copies(*pairs: tuple[str, str]) -> tuple[Transfer, ...]:
    """A staging list."""
    return tuple(Transfer(source, destination) for source, destination in pairs)


class AgentLab:
    """An account's home and its agent; agents are tasks of this loop unless `processes`."""

    def __init__(self, home: Path, settings: Settings, *, processes: bool = False) -> None:
        self.home = home
        self.proxy = PROXY
        self.pool = AgentPool(self._start_process if processes else self._start_task, settings)
        self.tasks: list[asyncio.Task[None]] = []
        self.processes: list[asyncio.subprocess.Process] = []

    async def agent(self) -> Agent:
        """The running agent."""
        return await self.pool.get("lab")

    async def create(self, name: str = "1234-5678", **changes: object) -> JobFiles:
        """A job made by the agent."""
        description = job(self.home, **changes)
        agent = await self.agent()
        paths = await agent.create_job(name, CONTACT, description, self.proxy)
        return JobFiles(name, CONTACT, description, paths)

    def jobs(self) -> Path:
        """Where the job directories are."""
        return self.home / ".gram/jobs"

    async def _start_task(self, _account: str) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        self.tasks.append(asyncio.create_task(UserAgent(str(self.home)).serve(theirs)))
        return os.getpid(), ours

    async def _start_process(self, _account: str) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROGRAM, str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), env={"HOME": str(self.home), "LANG": "C.UTF-8"},
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self.processes.append(process)
        return process.pid, ours

    async def aclose(self) -> None:
        """Send the agents away and wait until they are gone."""
        await self.pool.aclose()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.tasks)
            for process in self.processes:
                await process.wait()


@contextlib.asynccontextmanager
async def agent_lab(
    home: Path, *, processes: bool = False, settings: Settings | None = None
) -> AsyncIterator[AgentLab]:
    """An AgentLab that is closed at the end."""
    home.mkdir(exist_ok=True)
    lab = AgentLab(home, settings or Settings(), processes=processes)
    try:
        yield lab
    finally:
        await lab.aclose()


def with_paths(paths: JobPaths, files: JobFiles, **changes: object) -> JobFiles:
    """The same job with a changed description."""
    return JobFiles(files.id, files.contact, job(Path(paths.home), **changes), paths)


class Running:
    """A job's processes in the hands of the test: `say` is what they write."""

    def __init__(self, opened: OpenedJob) -> None:
        self.opened = opened

    def say(self, data: bytes, *, error: bool = False, process: int = 0) -> None:
        """Write to the standard output (or error) of one of the processes."""
        os.write(self.opened.descriptors[1 + 3 * process + (2 if error else 1)], data)

    def end(self) -> None:
        """Close everything, as processes that end do."""
        for descriptor in self.opened.descriptors:
            os.close(descriptor)


async def start(lab: AgentLab, files: JobFiles) -> Running:
    """Open a job and stream its output."""
    agent = await lab.agent()
    running = Running(await agent.open_job(files))
    await agent.stream(files)
    return running


def run_opened(descriptors: Sequence[int], *argv: str) -> None:
    """Run a program as each process of an opened job, and close the descriptors."""
    directory, *streams = descriptors
    for index in range(0, len(streams), 3):
        stdin, stdout, stderr = streams[index : index + 3]
        subprocess.run(
            [*argv, str(index // 3)], stdin=stdin, stdout=stdout, stderr=stderr,
            cwd=f"/proc/self/fd/{directory}", check=True, pass_fds=(directory,),
        )  # fmt: skip
    for descriptor in descriptors:
        os.close(descriptor)
