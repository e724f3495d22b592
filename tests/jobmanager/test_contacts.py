"""Where job contacts live: ports that are kept, listeners within limits, broken input."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobmanager.contacts import ContactAddresses, NoPortError
from jobmanager.states import Phase
from jobmanager.store import Store, StoreError
from protocol.aio.doubles import ScriptedStream
from protocol.aio.raw import ConnectionLost, RawStream
from protocol.errors import GramError
from protocol.tables import ErrorCode, JobState
from tests.support.core import ALICE, BOB, FakeAcceptor, Limits, World, peer, until


class Handler:
    def __init__(self) -> None:
        self.acceptors: list[object] = []

    async def admit(self, _raw: RawStream, acceptor: object) -> None:
        self.acceptors.append(acceptor)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/gram.db")
    yield opened
    opened.close()


def addresses(store: Store, **changes: Any) -> ContactAddresses:  # noqa: ANN401  # constructor's
    held = {name: SimpleNamespace(acceptor=name) for name in (ALICE, BOB)}
    plain: dict[str, Any] = {
        "host": "localhost",
        "bind": "127.0.0.1",
        "ports": None,
        "shared": None,
        "store": store,
        "credentials": SimpleNamespace(get=held.get),
    }
    made = ContactAddresses(**(plain | changes))
    made.handler = cast("Any", Handler())
    return made


def port_of(contact: str) -> int:
    return int(contact.split(":")[2].split("/")[0])


async def test_an_identity_keeps_its_port(store: Store) -> None:
    first = addresses(store)
    contact = await first.contact(ALICE, "/1/2/")
    assert await first.contact(ALICE, "/1/2/") == contact
    assert port_of(await first.contact(BOB, "/1/2/")) != port_of(contact)
    await first.aclose()
    second = addresses(store)
    await second.restore({ALICE})
    assert await second.contact(ALICE, "/1/2/") == contact
    assert list(second._servers) == [ALICE]
    await second.aclose()


async def test_each_listener_presents_its_identity(store: Store) -> None:
    made = addresses(store)
    for identity in (ALICE, BOB, ALICE):
        port = port_of(await made.contact(identity, "/1/2/"))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
    handler = cast("Handler", made.handler)
    await until(lambda: len(handler.acceptors) == 3)
    assert handler.acceptors == [ALICE, BOB, ALICE]
    await made.aclose()


async def test_ports_come_from_the_range_and_run_out(store: Store) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        taken = busy.getsockname()[1]
        free = other.getsockname()[1]
        other.close()
        made = addresses(store, ports=[taken, free])
        assert port_of(await made.contact(ALICE, "/1/2/")) == free
        with pytest.raises(NoPortError):
            await made.contact(BOB, "/1/2/")
        await made.aclose()


async def test_a_lost_port_stops_neither_the_service_nor_new_jobs(store: Store) -> None:
    first = addresses(store)
    old = port_of(await first.contact(ALICE, "/1/2/"))
    await first.aclose()
    with socket.create_server(("127.0.0.1", old)):
        second = addresses(store)
        await second.restore({ALICE, BOB})
        assert ALICE not in second._servers
        assert BOB in second._servers
        fresh = port_of(await second.contact(ALICE, "/3/4/"))
        assert fresh != old
        await second.aclose()
    assert (await store.ports())[ALICE] == fresh


async def test_a_port_that_cannot_be_remembered_is_not_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def set_port(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "set_port", set_port)
    made = addresses(store)
    with pytest.raises(StoreError):
        await made.contact(ALICE, "/1/2/")
    assert made._servers == {}


async def test_at_once_there_is_one_listener(store: Store) -> None:
    made = addresses(store)
    contacts = await asyncio.gather(*(made.contact(ALICE, "/1/2/") for _ in range(10)))
    assert len(set(contacts)) == 1
    await made.aclose()


async def test_shared_contacts_name_the_hosts_subject(store: Store) -> None:
    made = addresses(store, shared=(2119, "/CN=host"), host="::1")
    assert await made.contact(ALICE, "/1/2/") == "https://[::1]:2119/1/2/:/CN=host"
    await made.restore({ALICE})
    assert made._servers == {}


# --- one connection -------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def send(world: World, *script: bytes, ends: bool = True) -> ScriptedStream:
    stream = ScriptedStream(*script, ends=ends, peer=peer())
    await world.handler.handle(cast("Any", stream), cast("Any", FakeAcceptor()))
    assert stream.closed
    return stream


@pytest.mark.parametrize(
    "data",
    [
        b"GET /1/2/ HTTP/1.1\r\n\r\n",
        b"POST /1/7/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nnonsense\0",
        b"POST /1/7/ HTTP/1.1\r\n\r\n",
        b"POST /1/7/ HTTP/1.1\r\nContent-Length: 64000\r\n\r\n",
        b"\x16\x03\x01",
        b"A" * 100_000,
    ],
)
async def test_malformed_queries_get_a_400(world: World, data: bytes) -> None:
    await world.place(Phase.ACTIVE, JobState.ACTIVE)
    stream = await send(world, data)
    assert stream.output.startswith(b"HTTP/1.1 400") or (
        stream.output == b"" and not data.startswith((b"GET", b"POST", b"A"))
    )


async def test_leaving_without_a_query(world: World) -> None:
    assert (await send(world)).output == b""


async def test_silence_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.contacts.REQUEST_TIMEOUT", 0.01)
    async with asyncio.timeout(10):
        assert (await send(world, b"POST /1", ends=False)).output == b""


@pytest.mark.parametrize("error", [GramError(ErrorCode.AUTHORIZATION), ConnectionLost("reset")])
async def test_failed_handshakes_are_counted(world: World, error: Exception) -> None:
    class Refusing:
        async def accept(self, _raw: object, *, gatekeeper: bool) -> object:
            assert not gatekeeper
            raise error

    limits = cast("Limits", world.handler.limits)
    stream = ScriptedStream()
    await world.handler.handle(cast("Any", stream), cast("Any", Refusing()))
    assert limits.failures == ["127.0.0.1"]
    assert stream.sent == []


async def test_connections_over_the_limit_are_not_served(world: World) -> None:
    class Full(Limits):
        def enter(self, _address: str) -> bool:
            return False

        def leave(self, _address: str) -> None:
            raise AssertionError("it was never in")

    world.handler.limits = Full()
    stream = ScriptedStream(b"POST", peer=peer())
    await world.handler.admit(cast("Any", stream), cast("Any", FakeAcceptor()))
    assert stream.sent == []
    assert stream._script == [b"POST"]
