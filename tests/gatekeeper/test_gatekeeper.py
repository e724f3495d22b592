"""The front door over in-memory streams: every verdict, every limit, nothing left behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from gatekeeper import gatekeeper as module
from gatekeeper.decision import AuthorisationRequest, Denied, Reason
from gatekeeper.gatekeeper import Deadlines, Gatekeeper, GatekeeperService
from gatekeeper.limits import ConnectionLimits, TokenBuckets
from gatekeeper.metrics import Metrics
from gatekeeper.units import Rate
from jobmanager.states import Phase
from protocol.aio.doubles import ScriptedStream
from protocol.aio.raw import ConnectionLost
from protocol.connection import NEED_DATA, Connection, Role
from protocol.errors import GramError
from protocol.gsi.chain import ChainRefused, Peer
from protocol.gsi.refusal import Refusal
from protocol.messages import (
    GatekeeperRequest,
    HttpError,
    JobReply,
    JobRequest,
    Ping,
    PingReply,
    VersionReply,
    VersionRequest,
)
from protocol.tables import ErrorCode
from tests.support.core import ALICE, ALL, LISTENER, RSL, SERVICE, World, peer, reach

REFUSED = ChainRefused(Refusal.UNTRUSTED, "nobody trusts its issuer")
DER = b"\x30\x03\x02\x01\x07"
JOB = JobRequest("jobmanager", None, RSL, LISTENER, ALL)


class Key:
    key = None
    request = b"a certificate request"


class Keys:
    refused_request = b"a request whose key nobody keeps"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get(self, identity: str) -> Key:
        self.asked.append(identity)
        return Key()


class Authoriser:
    reads_chain = False

    def __init__(self) -> None:
        self.denial: Reason | None = None
        self.asked: list[AuthorisationRequest] = []

    async def authorise(self, request: AuthorisationRequest) -> str:
        self.asked.append(request)
        if self.denial is not None:
            raise Denied(self.denial, "no")
        return request.requested_user or "alice"


class Acceptor:
    """The stream is already what the handshake would make of it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False

    async def accept(self, raw: ScriptedStream, *, gatekeeper: bool) -> ScriptedStream:
        assert gatekeeper
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return raw


class Contacts:
    def __init__(self) -> None:
        self.handled: list[object] = []

    async def handle(self, raw: object, _acceptor: object) -> None:
        self.handled.append(raw)


class Door:
    def __init__(self, world: World, **changes: Any) -> None:  # noqa: ANN401  # constructor's
        self.world = world
        self.acceptor, self.authoriser, self.keys = Acceptor(), Authoriser(), Keys()
        self.metrics, self.limits = Metrics(), changes.pop("limits", ConnectionLimits(10, 10))
        self.gatekeeper = Gatekeeper(
            **{
                "acceptor": self.acceptor,
                "authoriser": self.authoriser,
                "jobs": world.service,
                "keys": self.keys,
                "services": {
                    SERVICE: GatekeeperService(SERVICE, accept_limited=False),
                    "lenient": GatekeeperService("lenient", accept_limited=True),
                },
                "default_service": SERVICE,
                "limits": self.limits,
                "metrics": self.metrics,
                "deadlines": Deadlines(20, 20, 20),
                "shared_contacts": None,
                "requests": TokenBuckets(None),
            }
            | changes
        )

    async def send(
        self, data: bytes, *, flag: bytes = b"0", who: Peer | None = None, refused: bool = False
    ) -> ScriptedStream:
        """Serve one connection that sends these bytes and waits."""
        someone = None if refused else who or peer()
        stream = ScriptedStream(
            flag, data, ends=False, peer=someone, refusal=REFUSED if refused else None
        )
        await self.gatekeeper.handle(cast("Any", stream))
        assert stream.closed
        assert self.limits.open == 0
        return stream

    async def ask(self, request: GatekeeperRequest, **options: Any) -> object:  # noqa: ANN401
        """A whole exchange; the answer."""
        client = Connection(Role.GATEKEEPER_CLIENT, host="localhost")
        data = client.send(request)
        if options.get("flag") == b"D":
            data = DER + data
        stream = await self.send(data, **options)
        client.receive_data(stream.sent[-1])
        reply = client.next_event()
        assert reply is not NEED_DATA
        return reply

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gram_{name}", labels) or 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def door(world: World) -> Door:
    return Door(world)


@pytest.fixture
def delegated(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """The delegated certificate is taken as it is: its rules have tests of their own."""

    async def receive(stream: ScriptedStream, _key: object, request: bytes) -> object:
        await stream.send(request)
        await stream.receive(len(DER))
        return world.request().credential

    monkeypatch.setattr(module, "receive_delegation", receive)


async def test_ping_and_version(door: Door) -> None:
    assert await door.ask(Ping("jobmanager")) == PingReply()
    assert await door.ask(VersionRequest(SERVICE, None)) == VersionReply("test", "6.2")
    assert door.count("connections_total", outcome="served") == 2


@pytest.mark.usefixtures("delegated")
async def test_a_job_begins_after_its_reply(door: Door, world: World) -> None:
    reply = await door.ask(JOB, flag=b"D")
    assert isinstance(reply, JobReply)
    assert reply.status == 0
    [job] = world.service.jobs()
    assert reply.contact == job.record.contact
    await reach(job, Phase.ACTIVE)
    assert door.keys.asked == [ALICE]


async def test_a_job_without_delegation_is_refused_with_the_code(door: Door, world: World) -> None:
    reply = await door.ask(JOB)
    assert isinstance(reply, JobReply)
    assert reply.status == ErrorCode.USER_PROXY_NOT_FOUND
    assert world.service.living == 0


@pytest.mark.usefixtures("delegated")
async def test_a_job_whose_contact_cannot_be_sent_fails(
    door: Door, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = ScriptedStream.send

    async def broken(self: ScriptedStream, data: bytes) -> None:
        if data.startswith(b"HTTP"):
            raise ConnectionLost("the client has gone")
        await send(self, data)

    monkeypatch.setattr(ScriptedStream, "send", broken)
    client = Connection(Role.GATEKEEPER_CLIENT, host="localhost")
    await door.send(DER + client.send(JOB), flag=b"D")
    async with asyncio.timeout(20):
        while world.service.living:
            await asyncio.sleep(0.001)
    assert not world.lrm.submissions
    assert door.count("connections_total", outcome="broken") == 1


@pytest.mark.parametrize("flag", [b"0", b"D"])
@pytest.mark.parametrize("request_", [Ping("jobmanager"), VersionRequest("x", None), JOB])
async def test_a_refused_peer_gets_a_readable_403(
    door: Door, flag: bytes, request_: GatekeeperRequest, world: World
) -> None:
    assert await door.ask(request_, flag=flag, refused=True) == HttpError(403)
    assert door.keys.asked == []
    assert door.authoriser.asked == []
    assert world.credentials.offered == []
    assert door.count("handshake_failures_total", reason="untrusted") == 1


@pytest.mark.parametrize("reason", Reason)
async def test_a_denied_peer(door: Door, reason: Reason) -> None:
    door.authoriser.denial = reason
    assert await door.ask(Ping("jobmanager")) == HttpError(reason.http_status)
    assert door.count("authorisation_denials_total", reason=reason.value) == 1


async def test_the_requested_account_is_passed_on(door: Door) -> None:
    await door.ask(Ping("jobmanager", "bob"))
    [asked] = door.authoriser.asked
    assert (asked.identity, asked.requested_user, asked.service) == (ALICE, "bob", "jobmanager")


@pytest.mark.parametrize("service", ["jobmanager-none", "lenien", "jobmanager-fake/"])
async def test_an_unknown_service(door: Door, service: str) -> None:
    assert await door.ask(Ping(service)) == HttpError(404)


async def test_a_limited_proxy_only_where_it_is_welcome(door: Door) -> None:
    limited = peer(limited=True)
    assert await door.ask(Ping("jobmanager"), who=limited) == HttpError(403)
    assert await door.ask(Ping("lenient"), who=limited) == PingReply()


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /jobmanager HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 500"),
        (b"POST /jobmanager HTTP/1.1\r\nContent-Length: 64000\r\n\r\n", b"HTTP/1.1 200"),
        (b"A" * 100_000, b"HTTP/1.1 4"),
    ],
)
async def test_malformed_requests(door: Door, data: bytes, answer: bytes) -> None:
    stream = await door.send(data)
    assert stream.output.startswith(answer)
    assert len(stream.sent) == 1
    assert door.authoriser.asked == []


@pytest.mark.parametrize("flag", [b"X", b"\0"])
async def test_a_wrong_flag_ends_the_connection(door: Door, flag: bytes) -> None:
    assert (await door.send(b"", flag=flag)).output == b""
    assert door.count("connections_total", outcome="broken") == 1


async def test_a_client_that_leaves_without_a_request(door: Door) -> None:
    stream = ScriptedStream(b"0", peer=peer())
    await door.gatekeeper.handle(cast("Any", stream))
    assert stream.closed
    assert stream.sent == []
    assert door.count("connections_total", outcome="no-request") == 1


@pytest.mark.parametrize(
    ("script", "who"), [((), peer()), ((b"0",), peer()), ((b"0", b"POST "), None), ((b"D",), None)]
)
async def test_silence_is_cut_off(
    world: World, script: tuple[bytes, ...], who: Peer | None
) -> None:
    door = Door(world, deadlines=Deadlines(20, 0.02, 20))
    stream = ScriptedStream(*script, ends=False, peer=who, refusal=None if who else REFUSED)
    async with asyncio.timeout(10):
        await door.gatekeeper.handle(cast("Any", stream))
    assert stream.closed
    assert door.limits.open == 0
    assert door.count("connections_total", outcome="broken") == 1


async def test_a_handshake_has_a_time_limit_and_failures_are_counted(world: World) -> None:
    limits = ConnectionLimits(10, 10, failure_rate=Rate(2, 3600))
    door = Door(world, limits=limits, deadlines=Deadlines(0.02, 20, 20))
    door.acceptor.hangs = True
    await door.send(b"")
    assert door.count("handshake_failures_total", reason="timeout") == 1
    door.acceptor.hangs, door.acceptor.error = False, GramError(ErrorCode.AUTHORIZATION, "bad")
    await door.send(b"")
    assert door.count("handshake_failures_total", reason="protocol") == 1
    await door.send(b"")  # the third is not even tried
    assert door.count("handshake_failures_total", reason="protocol") == 1
    assert door.count("connections_total", outcome="refused-limit") == 1


async def test_connections_are_capped_and_refusals_do_not_flood_the_log(world: World) -> None:
    door = Door(world, limits=ConnectionLimits(1, 1))
    door.acceptor.hangs = True
    first = asyncio.create_task(
        door.gatekeeper.handle(cast("Any", ScriptedStream(b"0", ends=False)))
    )
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            refused = ScriptedStream(b"0", ends=False)
            await door.gatekeeper.handle(cast("Any", refused))
            assert refused.closed
            assert refused.sent == []
    assert len([line for line in logs if line["event"] == "connection.refused"]) == 1
    assert door.count("connections_total", outcome="refused-limit") == 50
    assert door.limits.open == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert door.limits.open == 0
    assert door.count("open_connections") == 0


async def test_requests_of_one_identity_are_limited(world: World) -> None:
    door = Door(world, requests=TokenBuckets(Rate(2, 3600)))
    replies = [await door.ask(Ping("jobmanager")) for _ in range(3)]
    assert replies == [PingReply(), PingReply(), HttpError(403)]
    assert await door.ask(Ping("jobmanager"), who=peer("/CN=Bob")) == PingReply()
    assert len(door.authoriser.asked) == 3


@pytest.mark.parametrize(("first", "contact"), [(b"\x16", True), (b"\x1a", False)])
async def test_the_first_byte_tells_job_contacts_apart(
    world: World, first: bytes, contact: bool
) -> None:
    contacts = Contacts()
    door = Door(world, shared_contacts=contacts)
    await door.send(b"", flag=first)
    assert bool(contacts.handled) is contact


async def test_an_unexpected_end_leaves_nothing_behind(door: Door) -> None:
    stream = ScriptedStream(b"0", ConnectionLost("reset"), peer=peer())
    await door.gatekeeper.handle(cast("Any", stream))
    assert stream.closed
    assert door.limits.open == 0
