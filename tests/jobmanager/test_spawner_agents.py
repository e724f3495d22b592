"""User agents: forks of the spawner that become an account (design.md 4, gatekeeper.md 11)."""

import asyncio
import errno
import json
import os
import pwd
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import LaunchError, SpawnerError
from tests.support.spawner import Harness, alive, descriptors, harness, job_account, until

# Stands in for the real agent: says what it is, then echoes until its socket closes.
AGENT = """
import json, os, signal, sys, types
module = types.ModuleType("jobmanager.agent.main")
def run(sock):
    sock.sendall(json.dumps({
        "pid": os.getpid(), "uid": os.getresuid(), "gid": os.getresgid(),
        "groups": sorted(os.getgroups()), "cwd": os.getcwd(), "environment": dict(os.environ),
        "umask": os.umask(0o022), "session": os.getsid(0),
        "open": sorted(int(n) for n in os.listdir("/proc/self/fd")
                       if os.path.exists("/proc/self/fd/" + n)),
        "socket": sock.fileno(),
    }).encode() + b"\\n")
    while data := sock.recv(4096):
        if data == b"stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sock.sendall(data)
module.run = run
sys.modules["jobmanager.agent.main"] = module
"""


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, extra=f"exec({AGENT!r})") as started:
        yield started


def _home_or_root(home: str) -> str:
    return home if Path(home).is_dir() else "/"


async def say(sock: socket.socket, data: bytes) -> bytes:
    """Send to the agent and give its answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    return await loop.sock_recv(sock, 65536)


async def test_an_agent_is_the_account_in_clean_surroundings(jobs: Harness) -> None:
    pid, sock = await jobs.client.start_agent(jobs.account)
    with sock:
        assert sock.getblocking() is False
        assert not sock.get_inheritable()
        said = json.loads(await asyncio.get_running_loop().sock_recv(sock, 65536))
        entry = pwd.getpwnam(jobs.account)
        assert said["pid"] == said["session"] == pid
        assert (said["uid"], said["gid"]) == ([entry.pw_uid] * 3, [entry.pw_gid] * 3)
        assert said["groups"] == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
        assert said["cwd"] == _home_or_root(entry.pw_dir)
        assert said["environment"] == {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": entry.pw_dir, "LANG": "C.UTF-8",
            "LOGNAME": entry.pw_name, "USER": entry.pw_name,
        }  # fmt: skip
        assert said["umask"] == 0o022
        assert said["open"] == [0, 1, 2, said["socket"]]
        assert await say(sock, b"echo") == b"echo"
    await until(lambda: not alive(pid))  # it leaves when its socket closes


async def test_agents_of_one_account_are_independent(jobs: Harness) -> None:
    first, second = [await jobs.client.start_agent(jobs.account) for _ in range(2)]
    assert first[0] != second[0]
    first[1].close()
    await until(lambda: not alive(first[0]))
    with second[1]:
        await asyncio.get_running_loop().sock_recv(second[1], 65536)
        assert await say(second[1], b"still here") == b"still here"


async def test_stop_ends_an_agent_even_a_stubborn_one(jobs: Harness) -> None:
    for word in (b"good", b"stubborn"):
        pid, sock = await jobs.client.start_agent(jobs.account)
        with sock:
            await asyncio.get_running_loop().sock_recv(sock, 65536)
            assert await say(sock, word) == word
            await jobs.client.stop_agent(pid)
            await until(lambda: not _exists(pid))  # noqa: B023 - awaited in the same round
    with pytest.raises(SpawnerError) as caught:
        await jobs.client.stop_agent(pid)
    assert caught.value.errno == errno.ESRCH


async def test_only_agents_can_be_stopped(jobs: Harness) -> None:
    launched = await jobs.launch("job", "/bin/sleep", "1000")
    for pid in (launched.shepherd, launched.pids[0], jobs.client.pid, 1, os.getpid()):
        with pytest.raises(SpawnerError) as caught:
            await jobs.client.stop_agent(pid)
        assert caught.value.errno == errno.ESRCH
    assert alive(launched.shepherd)


async def test_agents_end_with_the_service_jobs_do_not(tmp_path: Path) -> None:
    async with harness(tmp_path, extra=f"exec({AGENT!r})") as old:
        pid, sock = await old.client.start_agent(old.account)
        launched = await old.launch("job", "/bin/sleep", "1000")
        await old.client.aclose()
        old.lost = True
    assert not alive(pid)
    assert alive(launched.pids[0])
    sock.close()
    async with harness(tmp_path):
        pass  # ends the job


async def test_the_spawner_keeps_nothing_of_an_agent(jobs: Harness) -> None:
    before = descriptors(jobs.client.pid)
    agents = [await jobs.client.start_agent(jobs.account) for _ in range(5)]
    await until(lambda: descriptors(jobs.client.pid) == before)
    for _, sock in agents:
        sock.close()


@pytest.mark.parametrize(
    ("extra", "stage"),
    [
        ("sys.modules['jobmanager.agent.main'] = None", "agent"),
        ("import jobmanager.spawner.agents as a; a.become = lambda *_, **__: 1 / 0", "account"),
    ],
)
async def test_an_agent_that_cannot_start_is_told(tmp_path: Path, extra: str, stage: str) -> None:
    async with harness(tmp_path, extra=extra) as jobs:
        with pytest.raises(LaunchError) as caught:
            await jobs.client.start_agent(job_account())
        assert caught.value.stage == stage
        await jobs.client.ping()


async def test_a_cancelled_start_leaves_no_agent(jobs: Harness) -> None:
    starting = asyncio.create_task(jobs.client.start_agent(jobs.account))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await jobs.client.ping()
    await until(lambda: not _children(jobs.client.pid))


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
