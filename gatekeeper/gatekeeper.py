"""The front door: authenticate → read one request → map → authorise → route (gatekeeper.md §4).

One method serves one connection. Until a client is authenticated and mapped it can cost us one
handshake, one bounded message and nothing else; a client whose certificate is refused still gets a
readable answer (wire-protocol.md P20), from a request for delegation whose key nobody keeps.
"""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from gatekeeper.authorisation import AuthorisationRequest, Authoriser, Denied
from gatekeeper.keypool import KeyPool
from gatekeeper.limits import ConnectionLimits, TokenBuckets
from gatekeeper.metrics import Metrics
from jobmanager.contacts import ContactHandler
from jobmanager.intake import SubmitRequest, Submitted
from jobmanager.service import JobService
from protocol.aio.delegation import DELEGATION, discard_delegation, read_flag, receive_delegation
from protocol.aio.exchange import read_message
from protocol.aio.gsi import Acceptor
from protocol.aio.raw import RawStream
from protocol.aio.stream import SecureStream
from protocol.connection import Connection, Role
from protocol.errors import GramError, RemoteProtocolError
from protocol.gsi.chain import Peer
from protocol.gsi.credential import Credential
from protocol.messages import (
    HttpError,
    JobReply,
    JobRequest,
    Ping,
    PingReply,
    VersionReply,
    VersionRequest,
)
from protocol.tables import ErrorCode

log = structlog.get_logger("gatekeeper")

TLS_HANDSHAKE_RECORD = 0x16
REFUSALS_LOGGED_EVERY = 10.0
"""Seconds between log lines about refused connections."""

Request = Ping | VersionRequest | JobRequest
Reply = PingReply | VersionReply | JobReply | HttpError


@dataclass(frozen=True, slots=True)
class GatekeeperService:
    """One entry of the configuration's `services` as the front door needs it."""

    name: str
    accept_limited: bool


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds a client has for the handshake and for its whole request."""

    handshake: float = 30.0
    request: float = 60.0
    answer: float = 600.0


class RequestRefusedError(Exception):
    """The request ends with an HTTP status; the reason is for our log only."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Gatekeeper:
    """Serves connections to the gatekeeper port."""

    def __init__(
        self,
        *,
        acceptor: Acceptor,
        authoriser: Authoriser,
        jobs: JobService,
        keys: KeyPool,
        services: dict[str, GatekeeperService],
        default_service: str,
        limits: ConnectionLimits,
        metrics: Metrics,
        deadlines: Deadlines,
        shared_contacts: ContactHandler | None,
        requests: TokenBuckets,
    ) -> None:
        self._acceptor = acceptor
        self._authoriser = authoriser
        self._jobs = jobs
        self._keys = keys
        self._services = services
        self._default_service = default_service
        self._limits = limits
        self._metrics = metrics
        self._deadlines = deadlines
        self._shared = shared_contacts
        self._requests = requests
        self._refusals = 0
        self._refusals_logged: float | None = None

    def present(self, acceptor: Acceptor) -> None:
        """Use another host credential for connections from now on."""
        self._acceptor = acceptor

    async def handle(self, raw: RawStream) -> None:
        """Serve one connection; never raises for what a client did."""
        with (
            structlog.contextvars.bound_contextvars(
                request=secrets.token_hex(6), peer=raw.peer_address
            ),
            self._admitted(raw.peer_address) as admitted,
        ):
            if admitted:
                await self._connection(raw)
                await raw.aclose()  # it counts until it is closed
            else:
                raw.abort()  # at once: waiting for the client would go beyond the limit

    @contextmanager
    def _admitted(self, address: str) -> Iterator[bool]:
        if not self._limits.enter(address):
            self._metrics.connection("refused-limit")
            self._refused()
            yield False
            return
        self._metrics.connection_opened()
        try:
            yield True
        finally:
            self._limits.leave(address)
            self._metrics.connection_closed()

    def _refused(self) -> None:
        """Log refused connections: one line in a while, or clients could fill the disk."""
        self._refusals += 1
        now = time.monotonic()
        if self._refusals_logged is None or now - self._refusals_logged >= REFUSALS_LOGGED_EVERY:
            log.warning("connection.refused", reason="over a limit", count=self._refusals)
            self._refusals, self._refusals_logged = 0, now

    async def _connection(self, raw: RawStream) -> None:
        try:
            async with asyncio.timeout(self._deadlines.handshake):
                shared = self._shared is not None and await raw.first_byte() == TLS_HANDSHAKE_RECORD
                stream = None if shared else await self._acceptor.accept(raw, gatekeeper=True)
        except TimeoutError:
            self._failed(raw.peer_address, "timeout", "no complete handshake in time")
            return
        except (GramError, OSError) as error:
            self._failed(raw.peer_address, "protocol", str(error))
            return
        if stream is not None:
            await self._serve(stream)
        elif self._shared is not None:
            await self._shared.handle(raw, self._acceptor)

    async def _serve(self, stream: SecureStream) -> None:
        try:
            await self._request(stream)
        except (GramError, OSError, TimeoutError) as error:
            self._metrics.connection("broken")
            log.info("connection.broken", reason=str(error) or type(error).__name__)
        finally:
            await stream.aclose()

    def _failed(self, address: str, reason: str, text: str) -> None:
        self._limits.failed(address)
        self._metrics.handshake_failed(reason)
        log.info("handshake.failed", reason=reason, detail=text)

    async def _request(self, stream: SecureStream) -> None:
        connection = Connection(Role.GATEKEEPER_SERVER)
        async with asyncio.timeout(self._deadlines.request):
            credential = await self._delegation(stream)
            try:
                request = await read_message(stream, connection)
            except RemoteProtocolError as error:
                self._metrics.request("malformed", str(error.http_status))
                log.info("request.malformed", reason=error.message)
                await stream.send(connection.send(connection.refusal(error)))
                return
        if not isinstance(request, Request):
            self._metrics.connection("no-request")
            return
        async with asyncio.timeout(self._deadlines.answer):
            await self._respond(stream, connection, request, credential)
        self._metrics.connection("served")

    async def _delegation(self, stream: SecureStream) -> Credential | None:
        if await read_flag(stream) != DELEGATION:
            return None
        if stream.peer is None:
            await discard_delegation(stream, self._keys.refused_request)
            return None
        key = await self._keys.get(stream.peer.identity)
        return await receive_delegation(stream, key.key, key.request)

    async def _respond(
        self,
        stream: SecureStream,
        connection: Connection,
        request: Request,
        credential: Credential | None,
    ) -> None:
        kind = type(request).__name__.removesuffix("Request").lower()
        submitted = None
        reply: Reply
        try:
            account = await self._admit(stream, request)
            match request:
                case Ping():
                    reply = PingReply()
                case VersionRequest():
                    version = self._jobs.version
                    reply = VersionReply(version.version, version.toolkit_version)
                case JobRequest():
                    submitted = await self._submit(stream, request, account, credential)
                    reply = submitted.reply
        except RequestRefusedError as error:
            reply = HttpError(error.status)
            log.info("request.refused", kind=kind, status=error.status, reason=error.reason)
        self._metrics.request(kind, _result(reply))
        delivered = False
        try:
            await stream.send(connection.send(reply))
            delivered = True
        finally:
            if submitted is not None:
                submitted.replied(delivered=delivered)

    async def _admit(self, stream: SecureStream, request: Request) -> str:
        """The checks of gatekeeper.md §4 in order; returns the account."""
        if stream.peer is None:
            refusal = stream.refusal
            self._metrics.handshake_failed("untrusted" if refusal is None else refusal.reason.name)
            raise RequestRefusedError(403, f"the client's certificate is refused: {refusal}")
        if not self._requests.take(stream.peer.identity, time.monotonic()):
            raise RequestRefusedError(403, f"too many requests of {stream.peer.identity}")
        asked = AuthorisationRequest(
            identity=stream.peer.identity,
            service=request.service,
            requested_user=request.user,
            address=stream.address,
            chain_pem=_pem(stream.peer) if self._authoriser.reads_chain else None,
        )
        try:
            account = await self._authoriser.authorise(asked)
        except Denied as error:
            self._metrics.denied(error.reason)
            raise RequestRefusedError(error.reason.http_status, error.text) from error
        service = self._services.get(self._service_name(request.service))
        if service is None:
            raise RequestRefusedError(404, f"there is no service {request.service!r}")
        if stream.peer.limited and not service.accept_limited:
            raise RequestRefusedError(
                403, f"a limited proxy may not use the service {service.name}"
            )
        log.info(
            "request.authorised",
            identity=stream.peer.identity,
            account=account,
            service=service.name,
            kind=type(request).__name__,
        )
        return account

    def _service_name(self, asked: str) -> str:
        return self._default_service if asked == "jobmanager" else asked

    async def _submit(
        self, stream: SecureStream, request: JobRequest, account: str, credential: Credential | None
    ) -> Submitted:
        if stream.peer is None:
            raise RequestRefusedError(403, "not authenticated")
        return await self._jobs.intake.submit(
            SubmitRequest(
                identity=stream.peer.identity,
                account=account,
                service=self._service_name(request.service),
                rsl=request.rsl,
                callback_url=request.callback_url,
                state_mask=request.state_mask,
                credential=credential,
                client_address=stream.address,
            )
        )


def _pem(peer: Peer) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in peer.chain)


def _result(reply: Reply) -> str:
    match reply:
        case HttpError(status=status):
            return str(status)
        case JobReply(status=status):
            return "ok" if status in (0, ErrorCode.WAITING_FOR_COMMIT) else f"gram-{int(status)}"
        case _:
            return "ok"
