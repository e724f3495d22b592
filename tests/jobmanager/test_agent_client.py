"""The service's side: agents that die, idle, misbehave; and how light an agent is."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobmanager.agent import frames
from jobmanager.agent.client import AgentPool, JobFiles, Settings
from jobmanager.agent.work import work_of
from jobmanager.records import JobPaths
from jobmanager.spawner.codec import encode
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import CONTACT, PATIENCE, PROXY, AgentLab, agent_lab, copies, job, to


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    async with agent_lab(tmp_path / "home", processes=True) as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


# Real processes.


async def test_an_agent_leaves_when_the_service_has_gone(lab: AgentLab) -> None:
    await lab.create()
    (process,) = lab.processes
    await lab.pool.aclose()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0


async def test_an_agent_that_transfers_nothing_stays_light(lab: AgentLab) -> None:
    files = await lab.create(stdout=to(str(lab.home / "out")))
    agent = await lab.agent()
    for descriptor in (await agent.open_job(files)).descriptors:
        os.close(descriptor)
    await agent.finish_output(files)
    (process,) = lab.processes
    mapped = Path(f"/proc/{process.pid}/maps").read_text()
    assert "/libc" in mapped
    assert "cryptography" not in mapped
    assert "_openssl" not in mapped


async def test_one_agent_serves_an_account(lab: AgentLab) -> None:
    agent = await lab.agent()
    assert await lab.agent() is agent
    assert agent.home == str(lab.home)
    await asyncio.gather(*(lab.create(f"job-{n}") for n in range(50)))
    assert len(lab.processes) == 1
    assert len(list(lab.jobs().iterdir())) == 50


async def test_a_dead_agent_is_replaced(lab: AgentLab) -> None:
    files = await lab.create()
    lab.processes[0].kill()
    await lab.processes[0].wait()
    await (await lab.agent()).write_proxy(files, b"renewed\n")
    assert Path(files.paths.proxy).read_bytes() == b"renewed\n"
    assert len(lab.processes) == 2


async def test_work_under_way_is_done_by_the_next_agent(lab: AgentLab) -> None:
    os.mkfifo(lab.home / "slow")
    files = await lab.create()
    agent = await lab.agent()
    lab.processes[0].send_signal(19)  # SIGSTOP: the request cannot be answered
    waiting = asyncio.create_task(agent.write_proxy(files, b"renewed\n"))
    await asyncio.sleep(0.05)
    lab.processes[0].kill()
    await waiting
    assert Path(files.paths.proxy).read_bytes() == b"renewed\n"


# Idling.


async def test_an_idle_agent_leaves_and_comes_back(tmp_path: Path) -> None:
    settings = Settings(idle_timeout=0.1)
    async with agent_lab(tmp_path / "home", processes=True, settings=settings) as lab:
        await lab.create("first")
        async with asyncio.timeout(PATIENCE):
            assert await lab.processes[0].wait() == 0
        await lab.create("second")
        assert len(lab.processes) == 2


async def test_an_agent_with_output_to_send_is_not_idle(tmp_path: Path) -> None:
    settings = Settings(idle_timeout=0.05)
    async with agent_lab(tmp_path / "home", settings=settings) as lab:
        files = await lab.create(stdout=to("http://127.0.0.1:1/x"))
        agent = await lab.agent()
        opened = await agent.open_job(files)
        await agent.stream(files)
        await asyncio.sleep(0.3)
        assert not lab.tasks[0].done()
        await agent.clean_up(files)
        for descriptor in opened.descriptors:
            os.close(descriptor)
        await until(lab.tasks[0].done)


# Agents that cannot be started.


async def test_an_agent_that_cannot_be_started() -> None:
    async def start(_account: str) -> tuple[int, socket.socket]:
        raise OSError(11, "no more processes")

    pool = AgentPool(start)
    with pytest.raises(GramError, match="no more processes") as caught:
        await pool.get("lab")
    assert caught.value.code is ErrorCode.NO_RESOURCES
    await pool.aclose()


async def test_an_agent_that_dies_at_once() -> None:
    async def start(_account: str) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        theirs.close()
        return 1, ours

    pool = AgentPool(start)
    with pytest.raises(GramError) as caught:
        await pool.get("lab")
    assert caught.value.code is ErrorCode.NO_RESOURCES
    await pool.aclose()


# Agents in the hands of somebody else.


class Impostor:
    """Answers Configure as an agent would, and every other request with what the test says."""

    def __init__(self, answer: Callable[["Impostor", int], None]) -> None:
        self.answer = answer
        self.started = 0
        self.asked: list[str] = []
        self.sock: socket.socket

    async def start(self, _account: str) -> tuple[int, socket.socket]:
        self.started += 1
        ours, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self.sock, self._read, self.sock, bytearray())
        return 1, ours

    def _read(self, sock: socket.socket, buffer: bytearray) -> None:
        data = sock.recv(65536)
        if not data:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
            return
        buffer += data
        while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack_from("!I", buffer)[0]:
            end = 4 + struct.unpack_from("!I", buffer)[0]
            request = json.loads(buffer[4:end])
            del buffer[:end]
            self.asked.append(request["kind"])
            if request["kind"] == "Configure":
                self.send(encode(frames.Ready(request["id"], "/home/lab")))
            elif request["kind"] != "Cancel":
                self.answer(self, request["id"])

    def send(self, payload: bytes, *descriptors: int) -> None:
        frame = struct.pack("!I", len(payload)) + payload
        socket.send_fds(self.sock, [frame], list(descriptors))


async def with_impostor(
    answer: Callable[[Impostor, int], None], *, operation: str = "create"
) -> GramError:
    """What an operation says whose agent answers so; no descriptor stays open."""
    impostor = Impostor(answer)
    pool = AgentPool(impostor.start)
    agent = await pool.get("lab")
    before = len(os.listdir("/proc/self/fd"))
    description = job(Path("/home/lab"))
    files = JobFiles("1-2", CONTACT, description, JobPaths("/home/lab", "/d", "/p", "/c"))
    work = {
        "create": lambda: agent.create_job("1-2", CONTACT, description, PROXY),
        "open": lambda: agent.open_job(files),
    }
    with pytest.raises(GramError) as caught:
        await work[operation]()
    await pool.aclose()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    return caught.value


def text(**fields: object) -> bytes:
    return json.dumps(fields).encode()


CREATED = {"kind": "Created", "directory": "/d", "proxy": "/p", "cache": "/c", "scratch": None}


@pytest.mark.parametrize(
    "make",
    [
        lambda number: b"not JSON",
        lambda number: b"[]",
        lambda number: text(kind="Nothing", id=number),
        lambda number: text(kind="CreateJob", id=number),
        lambda number: text(kind="Done", id=number),
        lambda number: text(**CREATED, id=number + 1),
        lambda number: text(**CREATED, id=str(number)),
        lambda number: text(**CREATED, id=number, more=1),
        lambda number: text(**(CREATED | {"directory": "relative"}), id=number),
        lambda number: text(**(CREATED | {"directory": "/" + "x" * 5000}), id=number),
        lambda number: text(**(CREATED | {"directory": "/\0"}), id=number),
        lambda number: text(**(CREATED | {"directory": 1}), id=number),
        lambda number: text(kind="Failed", id=number, code=0, message="", type="", source="",
                            destination=""),
    ],
)  # fmt: skip
async def test_a_wrong_answer_costs_the_agent_its_connection(
    make: Callable[[int], bytes],
) -> None:
    impostors: list[Impostor] = []

    def answer(impostor: Impostor, number: int) -> None:
        impostors.append(impostor)
        impostor.send(make(number))

    error = await with_impostor(answer)
    assert error.code is ErrorCode.NO_RESOURCES
    assert impostors[0].started == 2  # asked once more, then given up


async def test_a_frame_without_end_is_cut_off() -> None:
    error = await with_impostor(lambda impostor, _: impostor.sock.sendall(b"\x7f\xff\xff\xff" * 9))
    assert error.code is ErrorCode.NO_RESOURCES


async def test_descriptors_nobody_announced_are_closed() -> None:
    def answer(impostor: Impostor, number: int) -> None:
        impostor.send(text(**CREATED, id=number), 0, 1, 2)

    assert (await with_impostor(answer)).code is ErrorCode.NO_RESOURCES


@pytest.mark.parametrize("sent", [0, 3, 5])
async def test_descriptors_must_be_as_many_as_announced(sent: int) -> None:
    def answer(impostor: Impostor, number: int) -> None:
        opened = frames.Opened(number, 4, "/e", "/d", "/i", "/o", "/r")
        impostor.send(encode(opened), *([0] * sent))

    error = await with_impostor(answer, operation="open")
    assert error.code is ErrorCode.NO_RESOURCES


async def test_an_unknown_error_number_is_some_error() -> None:
    def answer(impostor: Impostor, number: int) -> None:
        impostor.send(encode(frames.Failed(number, 999, "odd", "", "", "")))

    error = await with_impostor(answer)
    assert (error.code, error.message) == (ErrorCode.NO_RESOURCES, "odd")


async def test_an_agent_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.agent.client.QUICK", 0.2)
    error = await with_impostor(lambda _impostor, _number: None)
    assert "does not answer" in error.message


async def test_an_answer_that_comes_too_late_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.agent.client.QUICK", 0.1)
    impostor = Impostor(lambda _impostor, _number: None)
    pool = AgentPool(impostor.start)
    agent = await pool.get("lab")
    with pytest.raises(GramError):
        await agent.create_job("1-2", CONTACT, job(Path("/home/lab")), PROXY)
    await until(lambda: impostor.asked[-1] == "Cancel")
    before = len(os.listdir("/proc/self/fd"))
    impostor.send(encode(frames.Opened(2, 4, "/e", "/d", "/i", "/o", "/r")), 0, 0, 0, 0)
    impostor.answer = lambda self, number: self.send(text(**CREATED, id=number))
    paths = await agent.create_job("1-2", CONTACT, job(Path("/home/lab")), PROXY)
    assert paths.directory == "/d"
    assert impostor.started == 1
    assert len(os.listdir("/proc/self/fd")) == before
    await pool.aclose()


# The agent does not trust its input either.


async def test_a_job_that_is_too_large_is_an_error_of_the_request(lab: AgentLab) -> None:
    pairs = copies(*((f"https://host.example:1/{n}", "x" * 200) for n in range(9_000)))
    with pytest.raises(GramError) as caught:
        await lab.create(file_stage_in=pairs)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("name", ["../up", ".", "", "a/b", "x" * 65])
async def test_a_job_name_is_one_harmless_word(lab: AgentLab, name: str) -> None:
    with pytest.raises(GramError) as caught:
        await lab.create(name)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    await lab.create("harmless")
    assert [path.name for path in lab.jobs().iterdir()] == ["harmless"]


async def test_nothing_of_the_proxy_is_shown(lab: AgentLab) -> None:
    """Not in what a process listing shows, and not in an error."""
    secret = b"-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\n"
    agent = await lab.agent()
    files = await lab.create()
    await agent.write_proxy(files, secret)
    for name in ("cmdline", "environ"):
        assert b"CANARY" not in Path(f"/proc/{lab.processes[0].pid}/{name}").read_bytes()
    with pytest.raises(GramError) as caught:
        await agent.create_job("../x", CONTACT, job(lab.home), secret)
    assert "CANARY" not in repr(caught.value)
    request = frames.WriteProxy(1, frames_work(lab), secret.decode())
    assert "CANARY" not in repr(request)


def frames_work(lab: AgentLab) -> frames.JobWork:
    return work_of("1-2", CONTACT, job(lab.home))
