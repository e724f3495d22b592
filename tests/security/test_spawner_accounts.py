"""Jobs and agents are exactly their account, whoever the spawner is (gatekeeper.md 11)."""

import errno
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.spawner_client import LaunchError, SpawnerError
from tests.support.accounts import temporary_accounts
from tests.support.spawner import IS_ROOT, Harness, harness, policy, state, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="makes accounts and changes to them: needs root"),
]


@pytest.fixture(scope="module")
def accounts() -> Iterator[list[pwd.struct_passwd]]:
    """Two accounts; the first one is also in the group of the second."""
    with temporary_accounts("spawna", "spawnb") as made:
        subprocess.run(["usermod", "-a", "-G", made[1].pw_name, made[0].pw_name], check=True)
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other accounts can reach, as pytest's own cannot."""
    directory = Path(tempfile.mkdtemp(prefix="spawner-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def status_of_job(jobs: Harness, container: str) -> dict[str, list[str]]:
    await jobs.run(container, "/bin/cat", "/proc/self/status")
    lines = jobs.output(container).splitlines()
    return {line.split(":")[0]: line.split(":")[1].split() for line in lines}


async def test_a_job_has_exactly_the_account_s_ids(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    first, second = accounts
    for account, groups in (
        (first, {first.pw_gid, second.pw_gid}),
        (second, {second.pw_gid}),
    ):
        async with harness(place, account=account.pw_name) as jobs:
            status = await status_of_job(jobs, f"ids-{account.pw_uid}")
            assert status["Uid"] == [str(account.pw_uid)] * 4
            assert status["Gid"] == [str(account.pw_gid)] * 4
            assert set(map(int, status["Groups"])) == groups
            for capabilities in ("CapPrm", "CapEff", "CapAmb"):
                assert int(status[capabilities][0], 16) == 0
            assert status["NoNewPrivs"] == ["0"]


async def test_no_new_privs_is_a_setting(place: Path, accounts: list[pwd.struct_passwd]) -> None:
    rules = policy(place / "spool", job_no_new_privs=True)
    async with harness(place, account=accounts[0].pw_name, rules=rules) as jobs:
        assert (await status_of_job(jobs, "bound"))["NoNewPrivs"] == ["1"]


async def test_shepherds_stay_privileged_and_out_of_the_job_s_reach(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    async with harness(place, account=accounts[0].pw_name) as jobs:
        victim = await jobs.launch("victim", "/bin/sleep", "1000")
        script = f"kill -KILL {victim.shepherd} {jobs.client.pid} || echo refused"
        await jobs.run("attacker", "/bin/sh", "-c", script)
        assert jobs.output("attacker") == "refused\n"
        assert state(victim.shepherd) != "X"
        assert os.stat(f"/proc/{victim.shepherd}").st_uid == 0


async def test_jobs_of_two_accounts_cannot_touch_each_other(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    async with harness(place, account=accounts[0].pw_name) as jobs:
        victim = await jobs.launch("victim", "/bin/sleep", "1000")
        jobs.account = accounts[1].pw_name
        script = f"kill -KILL {victim.pids[0]} || echo refused"
        await jobs.run("attacker", "/bin/sh", "-c", script)
        assert jobs.output("attacker") == "refused\n"
        assert [info.container for info in await jobs.client.list()] == ["victim"]


async def test_programs_and_directories_are_reached_as_the_account(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    first, second = accounts
    private = place / "private"
    private.mkdir(0o700)
    os.chown(private, first.pw_uid, first.pw_gid)
    program = place / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    os.chown(program, first.pw_uid, first.pw_gid)
    async with harness(place, account=first.pw_name) as jobs:
        record = await jobs.run("may", str(program), cwd=private)
        assert record.processes[0].exit_code == 3
        jobs.account = second.pw_name
        with pytest.raises(LaunchError) as directory:
            await jobs.launch("chdir", "/bin/true", cwd=private)
        assert (directory.value.stage, directory.value.errno) == ("chdir", errno.EACCES)
        with pytest.raises(LaunchError) as executable:
            await jobs.launch("exec", str(program))
        assert (executable.value.stage, executable.value.errno) == ("exec", errno.EACCES)


async def test_set_uid_members_are_ended_with_the_job(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    """A job cannot hide in a program with another uid: the shepherd keeps its privilege."""
    setuid = place / "sleep"
    shutil.copy("/bin/sleep", setuid)
    os.chown(setuid, accounts[1].pw_uid, accounts[1].pw_gid)
    setuid.chmod(0o4755)
    async with harness(place, account=accounts[0].pw_name) as jobs:
        launched = await jobs.launch("setuid", str(setuid), "1000")
        assert os.stat(f"/proc/{launched.pids[0]}").st_uid in (0, accounts[1].pw_uid)
        await jobs.client.freeze("setuid")
        await jobs.client.thaw("setuid")
        await jobs.client.kill("setuid", 5.0)
        assert (await jobs.end("setuid")).processes[0].signal == signal.SIGTERM


@pytest.fixture
def aliases() -> Iterator[list[str]]:
    """Another name of uid 0, and an account whose group is root's."""
    ending = os.urandom(3).hex()
    options = {f"spawnz{ending}": ["-o", "-u", "0"], f"spawng{ending}": ["-g", "0"]}
    try:
        for name, more in options.items():
            subprocess.run(["useradd", "-M", *more, name], check=True, capture_output=True)
        yield list(options)
    finally:
        for name in options:
            subprocess.run(["userdel", "-f", name], check=False, capture_output=True)


async def test_aliases_of_root_and_members_of_its_group_are_refused(
    place: Path, aliases: list[str]
) -> None:
    for name in aliases:
        async with harness(place, account=name, rules=policy(place / name)) as jobs:
            with pytest.raises(LaunchError) as job:
                await jobs.launch("c", "/bin/true")
            with pytest.raises(LaunchError) as agent:
                await jobs.client.start_agent(name)
            for caught in (job, agent):
                assert caught.value.stage == "account"
                assert "refusing to run as root" in caught.value.text


LEAKY_ROOT = """
import jobmanager.spawner.policy as policy, os
real = os.setresuid
os.setgroups([4])
{change}
"""


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("os.setresuid = lambda *ids: None", "account"),
        ("os.setresuid = lambda r, e, s: real(r, e, 0)", "account"),
        ("os.setresgid = lambda *ids: None", "account"),
        ("os.setgroups = lambda groups: None", "account"),
    ],
)
async def test_a_change_of_account_that_did_not_happen_is_noticed(
    place: Path, accounts: list[pwd.struct_passwd], change: str, stage: str
) -> None:
    extra = (
        f"os_groups = __import__('os').setgroups([4]); exec({LEAKY_ROOT.format(change=change)!r})"
    )
    async with harness(place, account=accounts[0].pw_name, extra=extra) as jobs:
        with pytest.raises(LaunchError) as caught:
            await jobs.launch("c", "/bin/true")
        assert (caught.value.stage, caught.value.errno) == (stage, errno.EPERM)


AGENT = """
import json, os, sys, types
module = types.ModuleType("jobmanager.agent.main")
def run(sock):
    status = dict(line.split(":") for line in open("/proc/self/status"))
    sock.sendall(json.dumps([status[key].split() for key in
                             ("Uid", "Gid", "Groups", "NoNewPrivs")]).encode())
    sock.recv(1)
module.run = run
sys.modules["jobmanager.agent.main"] = module
"""


@pytest.mark.parametrize("bound", [False, True])
async def test_an_agent_has_exactly_the_account_s_ids(
    place: Path, accounts: list[pwd.struct_passwd], bound: bool
) -> None:
    first, second = accounts
    rules = policy(place / "spool", agent_no_new_privs=bound)
    async with harness(place, account=first.pw_name, rules=rules, extra=f"exec({AGENT!r})") as jobs:
        _, sock = await jobs.client.start_agent(first.pw_name)
        with sock:
            sock.setblocking(True)
            uid, gid, groups, no_new_privs = json.loads(sock.recv(65536))
        assert uid == [str(first.pw_uid)] * 4
        assert gid == [str(first.pw_gid)] * 4
        assert set(map(int, groups)) == {first.pw_gid, second.pw_gid}
        assert no_new_privs == [str(int(bound))]


# Personal mode: the same spawner, started as an ordinary account.

SYSTEM_PYTHON = "/usr/bin/python3"
"""One that every account can execute and read, as the test's own need not be."""


async def test_personal_mode_serves_its_own_account_only(
    place: Path, accounts: list[pwd.struct_passwd]
) -> None:
    first, second = accounts
    work = place / "work"
    work.mkdir()
    for directory in (place, work):
        os.chown(directory, first.pw_uid, first.pw_gid)
    prefix = (
        "setpriv", f"--reuid={first.pw_uid}", f"--regid={first.pw_gid}", "--init-groups", "--",
    )  # fmt: skip
    rules = policy(place / "spool", personal=True)
    async with harness(
        place, account=first.pw_name, rules=rules, prefix=prefix, interpreter=SYSTEM_PYTHON
    ) as jobs:
        status = await status_of_job(jobs, "own")
        assert status["Uid"] == [str(first.pw_uid)] * 4
        assert os.stat(f"/proc/{jobs.client.pid}").st_uid == first.pw_uid
        launched = await jobs.launch("kill", "/bin/sh", "-c", "setsid sleep 1000 & sleep 1000")
        await jobs.client.kill("kill", 0.0)
        assert (await jobs.end("kill")).reason == "killed"
        await until(lambda: state(launched.pids[0]) == "X")
        for other in (second.pw_name, "root", "nobody"):
            jobs.account = other
            with pytest.raises(LaunchError) as caught:
                await jobs.launch("other", "/bin/true")
            assert (caught.value.stage, caught.value.errno) == ("account", errno.EPERM)


async def test_personal_mode_has_to_be_said(place: Path, accounts: list[pwd.struct_passwd]) -> None:
    os.chown(place, accounts[0].pw_uid, accounts[0].pw_gid)
    prefix = ("runuser", "-u", accounts[0].pw_name, "--")
    with pytest.raises(SpawnerError) as caught:
        async with harness(
            place, rules=policy(place / "spool"), prefix=prefix, interpreter=SYSTEM_PYTHON
        ):
            pass
    assert caught.value.stage == "policy"
