"""What the spawner refuses, and that it goes on serving (anchors.md 6c, 25)."""

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobmanager.spawner import frames
from jobmanager.spawner.codec import MAX_FRAME, encode
from jobmanager.spawner_client import LaunchError, SpawnerError
from tests.support.spawner import (
    IS_ROOT,
    RawSpawner,
    descriptors,
    harness,
    job_account,
    policy,
    start_spawner,
)


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[RawSpawner]:
    spawner = RawSpawner(policy(tmp_path / "spool"))
    yield spawner
    assert spawner.close() == 0


def launch(container: str = "c", account: str | None = None, processes: int = 1) -> bytes:
    request = frames.LaunchRequest(
        container, account or job_account(), processes, ("/bin/sleep", "1000"), ()
    )
    return encode(frames.Launch(7, 1 + 3 * processes, request))


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


# Accounts.

NO_ACCOUNTS = ["no-such-account-here", "root", "root ", " root", "0", "", "a:b", "a/b", "a\nb"]


@pytest.mark.parametrize("account", NO_ACCOUNTS)
async def test_accounts_that_nobody_may_have(tmp_path: Path, account: str) -> None:
    async with harness(tmp_path, account=account) as jobs:
        with pytest.raises(LaunchError) as job:
            await jobs.launch("c", "/bin/true")
        with pytest.raises(LaunchError) as agent:
            await jobs.client.start_agent(account)
        assert job.value.stage in ("account", "frame")
        assert agent.value.stage == job.value.stage
        assert list(jobs.spool.iterdir()) == []
        assert children(jobs.client.pid) == ""
        await jobs.client.ping()


async def test_accounts_below_the_minimum_uid(tmp_path: Path) -> None:
    """Privileged: daemon is one of those.  Personal: the account is not ours anyway."""
    async with harness(tmp_path, account="daemon") as jobs:
        with pytest.raises(LaunchError) as caught:
            await jobs.launch("c", "/bin/true")
        assert (caught.value.stage, caught.value.errno) == ("account", errno.EPERM)


async def test_accounts_outside_the_pattern(tmp_path: Path) -> None:
    own = job_account()
    for number, (pattern, served) in enumerate(
        [(own, True), (own[:-1], False), (own[1:], False), (f"x|{own}", True), ("", False)]
    ):
        rules = policy(tmp_path / f"spool{number}", accounts=pattern)
        async with harness(tmp_path, rules=rules) as jobs:
            if served:
                await jobs.run("c", "/bin/true")
                continue
            with pytest.raises(LaunchError) as caught:
                await jobs.launch("c", "/bin/true")
            assert (caught.value.stage, caught.value.errno) == ("account", errno.EPERM)


# The policy.


async def test_the_policy_comes_first_and_once(tmp_path: Path) -> None:
    spawner = RawSpawner(None)
    spawner.send(b'{"kind":"Ping","id":5}')
    assert spawner.answer() | {"text": ""} == {
        "kind": "Refused", "id": 5, "stage": "policy", "errno": errno.EPERM, "text": "",
    }  # fmt: skip
    spawner.send(encode(policy(tmp_path / "spool")))
    assert spawner.answer()["kind"] == "Ready"
    spawner.send(encode(policy(tmp_path / "other", minimum_uid=1)))
    answer = spawner.answer()
    assert (answer["kind"], answer["stage"]) == ("Refused", "policy")
    assert not (tmp_path / "other").exists()
    spawner.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"personal": IS_ROOT},
        {"minimum_uid": 0},
        {"accounts": "("},
        {"spool": "relative"},
        {"spool": "/nonexistent/deeper/spool"},
        {"spool": "/tmp"},
        {"spool": "/etc/passwd"},
    ],
)
async def test_a_wrong_policy_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(SpawnerError):
        await start_spawner(policy(tmp_path / "spool", **changes))


async def test_a_spool_that_others_can_change_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(SpawnerError):
        await start_spawner(policy(tmp_path / "link"))
    for mode in (0o770, 0o707, 0o701, 0o704, 0o777):
        real.chmod(mode)
        with pytest.raises(SpawnerError) as caught:
            await start_spawner(policy(real))
        assert caught.value.stage == "spool"
    real.chmod(0o700)
    await (await start_spawner(policy(real))).aclose()


async def test_the_spool_is_the_spawner_s_alone(tmp_path: Path) -> None:
    group = os.getgid()
    rules = policy(tmp_path / "spool", spool_group=group)
    async with harness(tmp_path, rules=rules) as jobs:
        await jobs.launch("living", "/bin/sleep", "1000")
        await jobs.run("ended", "/bin/true")
        modes = {path.name: path.stat() for path in [jobs.spool, *jobs.spool.iterdir()]}
        assert stat.S_IMODE(modes["spool"].st_mode) == 0o2750
        assert stat.S_IMODE(modes["living.sock"].st_mode) == 0o600
        assert stat.S_IMODE(modes["living.job"].st_mode) == 0o600
        assert stat.S_IMODE(modes["ended.exit"].st_mode) == 0o640
        assert {(status.st_uid, status.st_gid) for status in modes.values()} == {
            (os.geteuid(), group)
        }


# Names.


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a.b", "a b", "a\n", "é", "\0", "x" * 65, "*"]
)
async def test_names_that_are_not_container_names(tmp_path: Path, name: str) -> None:
    async with harness(tmp_path) as jobs:
        (tmp_path / "null").symlink_to(os.devnull)
        null = os.open(os.devnull, os.O_RDWR)
        request = frames.LaunchRequest(name, jobs.account, 1, ("/bin/true",), ())
        with pytest.raises(LaunchError) as caught:
            await jobs.client.launch(request, (null,) * 4)
        os.close(null)
        assert caught.value.stage == "frame"
        for asked in (jobs.client.forget(name), jobs.client.kill(name, 0), jobs.client.thaw(name)):
            with pytest.raises(SpawnerError) as refused:
                await asked
            assert refused.value.stage == "frame"
        assert list(jobs.spool.iterdir()) == []


# Descriptors.


@pytest.mark.parametrize("count", [0, 1, 3, 5, 8])
def test_another_number_of_descriptors_than_announced(raw: RawSpawner, count: int) -> None:
    before = descriptors(raw.process.pid)
    raw.send(launch(), [0] * count)
    (answer,) = raw.answers_before_pong()
    assert (answer["id"], answer["stage"], answer["errno"]) == (7, "descriptors", errno.EBADF)
    assert descriptors(raw.process.pid) == before


def test_an_announcement_that_does_not_fit_the_processes(raw: RawSpawner) -> None:
    document = json.loads(launch())
    document["request"]["processes"] = 2
    raw.send(json.dumps(document).encode(), [0] * 4)
    (answer,) = raw.answers_before_pong()
    assert (answer["stage"], answer["errno"]) == ("descriptors", errno.EINVAL)


def test_descriptors_nobody_asked_for_are_closed(raw: RawSpawner) -> None:
    before = descriptors(raw.process.pid)
    raw.send(b'{"kind":"ListRecords","id":5}', [0] * 200)
    raw.send(b"garbage", [0] * 200)
    assert [answer["kind"] for answer in raw.answers_before_pong()] == ["Refused", "Refused"]
    assert descriptors(raw.process.pid) == before


def test_a_launch_cannot_have_the_descriptors_of_the_frame_before(raw: RawSpawner) -> None:
    raw.send(b'{"kind":"Ping","id":5}', [0] * 4)
    raw.send(launch())
    answers = raw.answers_before_pong()
    assert [(answer["id"], answer["stage"]) for answer in answers] == [
        (5, "descriptors"),
        (7, "descriptors"),
    ]


def test_descriptors_in_endless_numbers_are_not_kept(tmp_path: Path) -> None:
    spawner = RawSpawner(policy(tmp_path / "spool"))
    before = len(descriptors(spawner.process.pid))
    spawner.sock.sendall(struct.pack("!I", 100_000))
    for _ in range(30):
        socket.send_fds(spawner.sock, [b" "], [0] * 250)
    spawner.sock.sendall(b" " * (100_000 - 30))
    (answer,) = spawner.answers_before_pong()
    assert answer["stage"] == "frame"
    assert len(descriptors(spawner.process.pid)) == before
    spawner.close()


def test_descriptors_beyond_the_limit_harm_only_their_own_launch(tmp_path: Path) -> None:
    spawner = RawSpawner(policy(tmp_path / "spool"), prefix=("prlimit", "--nofile=60:60"))
    before = descriptors(spawner.process.pid)
    spawner.send(launch("big", processes=50), [0] * 151)
    (answer,) = spawner.answers_before_pong()
    assert (answer["id"], answer["stage"]) == (7, "descriptors")
    assert descriptors(spawner.process.pid) == before
    spawner.send(launch("small"), [os.open("/", os.O_RDONLY), 0, 1, 2])
    assert spawner.answer()["kind"] == "Launched"
    spawner.send(b'{"kind":"Kill","id":8,"container":"small","grace":0}')
    assert [spawner.answer()["kind"] for _ in range(2)] == ["Done", "Ended"]
    spawner.close()


# Bytes.


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 3 * MAX_FRAME])
def test_a_frame_that_is_too_long_is_skipped(raw: RawSpawner, length: int) -> None:
    raw.sock.sendall(struct.pack("!I", length) + b"x" * length)
    (answer,) = raw.answers_before_pong()
    assert (answer["id"], answer["stage"]) == (0, "frame")


def test_a_length_without_end_costs_no_memory(tmp_path: Path) -> None:
    spawner = RawSpawner(policy(tmp_path / "spool"))
    before = _resident(spawner.process.pid)
    spawner.sock.sendall(b"\xff" * 4)
    for _ in range(64):
        spawner.sock.sendall(b"y" * MAX_FRAME)
    assert _resident(spawner.process.pid) < before + 8192
    assert spawner.close() == 0


def _resident(pid: int) -> int:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_a_connection_cut_in_the_middle_of_a_frame_ends_the_spawner_in_order(
    tmp_path: Path,
) -> None:
    spawner = RawSpawner(policy(tmp_path / "spool"))
    socket.send_fds(spawner.sock, [struct.pack("!I", 100) + b"{"], [0])
    assert spawner.close() == 0


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawSpawner]:
    spool = tmp_path_factory.mktemp("sturdy") / "spool"
    spawner = RawSpawner(policy(spool))
    yield spawner
    assert children(spawner.process.pid) == ""
    assert list(spool.iterdir()) == []
    assert spawner.close() == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
KINDS = st.sampled_from([*frames.REQUESTS, *frames.ANSWERS])
FIELDS = st.sampled_from(
    ["id", "container", "account", "signum", "grace", "descriptors", "request", "pid", "spool"]
)
SHAPED = st.builds(
    lambda kind, fields: {**fields, "kind": kind}, KINDS, st.dictionaries(FIELDS, JSON, max_size=6)
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good launch with some bytes changed; it never gets the descriptors it needs to be one."""
    payload = bytearray(launch())
    for _ in range(draw(st.integers(1, 4))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload)


GARBAGE = st.one_of(
    st.binary(max_size=400),
    JSON.map(lambda value: json.dumps(value).encode()),
    SHAPED.map(lambda value: json.dumps(value).encode()),
    damaged(),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batch=st.lists(st.tuples(GARBAGE, st.integers(0, 4)), min_size=1, max_size=5))
def test_garbage_is_refused_frame_by_frame(
    sturdy: RawSpawner, batch: list[tuple[bytes, int]]
) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for payload, count in batch:
        sturdy.send(payload, [null] * (count if count != 4 else 5))
    os.close(null)
    answers = sturdy.answers_before_pong()
    assert len(answers) >= len(batch)
    assert {answer["kind"] for answer in answers} <= {"Refused", "Done", "Containers", "Records"}
