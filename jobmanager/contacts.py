"""Where job contacts are answered (design §3.6): one listener per identity, or the shared port.

Per identity, the listener presents that identity's delegated credential, because clients check
that a job manager is "themselves"; its port is stored, so contacts stay valid over restarts. In
shared mode there is no listener here: the gatekeeper hands over connections that begin with a bare
TLS record, and the contact names the host's subject (wire-protocol.md §4.2).

Either way only the owner of a job is answered: anybody else learns nothing about it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from jobmanager.callbacks import extensions
from jobmanager.credentials import CredentialStore
from jobmanager.manager import JobManager
from jobmanager.queries import Queries
from jobmanager.records import JobRecord
from jobmanager.renewal import Renewal
from jobmanager.service import JobService
from jobmanager.states import Phase
from jobmanager.store import Store, StoreError
from protocol.aio.exchange import read_message
from protocol.aio.gsi import Acceptor
from protocol.aio.raw import RawStream
from protocol.aio.server import Server, serve
from protocol.aio.stream import SecureStream
from protocol.connection import Connection, Role
from protocol.errors import GramError, RemoteProtocolError
from protocol.messages import Query, QueryReply, RenewQuery
from protocol.tables import ErrorCode, JobState

log = structlog.get_logger("jobmanager")

HANDSHAKE_TIMEOUT = 30.0
REQUEST_TIMEOUT = 30.0
ANSWER_TIMEOUT = 600.0

Observe = Callable[[str, str], None]
"""Told the kind of query ("status", …) and how it ended ("ok" or an error name)."""


class NoPortError(OSError):
    """Every port that job contacts may use is taken."""


class Doorkeeper(Protocol):
    """Who may have how many connections; the gatekeeper's own limits."""

    def enter(self, address: str) -> bool:
        """Count a connection in; False when the address may not have it."""

    def leave(self, address: str) -> None:
        """Count it out."""

    def failed(self, address: str) -> None:
        """Count a failed handshake."""


class ContactAddresses:
    """Gives every identity the address its job contacts have."""

    def __init__(
        self,
        *,
        host: str,
        bind: str,
        ports: range | None,
        shared: tuple[int, str] | None,
        store: Store,
        credentials: CredentialStore,
    ) -> None:
        """`shared` is (port, subject) of the gatekeeper in shared mode, else None."""
        self._host = f"[{host}]" if ":" in host else host
        self._bind = bind
        self._ports = ports
        self._shared = shared
        self._store = store
        self._credentials = credentials
        self._known: dict[str, int] = {}
        self._servers: dict[str, Server] = {}
        self._lock = asyncio.Lock()
        self.handler: ContactHandler | None = None

    async def contact(self, identity: str, path: str) -> str:
        """The contact of a job of this identity; opens its listener when needed.

        Raises OSError when it cannot be opened, NoPortError when no port is free.
        """
        if self._shared is not None:
            port, subject = self._shared
            return f"https://{self._host}:{port}{path}:{subject}"
        server = self._servers.get(identity) or await self._open(identity)
        return f"https://{self._host}:{server.port}{path}"

    async def restore(self, identities: set[str]) -> None:
        """After a restart: listen again at the stored ports for these identities.

        A port that somebody else has now is reported; the jobs go on, and it is tried again when
        the identity submits one.
        """
        self._known = await self._store.ports()
        if self._shared is None:
            for identity in identities:
                if self._credentials.get(identity) is not None:
                    try:
                        await self._open(identity, anew=False)
                    except OSError as error:
                        port = self._known.get(identity)
                        log.error(
                            "contact.port-lost", identity=identity, port=port, reason=str(error)
                        )

    async def aclose(self) -> None:
        """Close all listeners."""
        for server in self._servers.values():
            await server.aclose()

    async def _open(self, identity: str, *, anew: bool = True) -> Server:
        async with self._lock:
            if identity in self._servers:
                return self._servers[identity]
            server = await self._bind_port(identity, anew=anew)
            if self._known.get(identity) != server.port:
                try:
                    await self._store.set_port(identity, server.port)
                except StoreError:
                    await server.aclose()
                    raise
                self._known[identity] = server.port
            self._servers[identity] = server
            return server

    async def _bind_port(self, identity: str, *, anew: bool) -> Server:
        async def handle(raw: RawStream) -> None:
            held = self._credentials.get(identity)
            if held is not None and self.handler is not None:
                await self.handler.admit(raw, held.acceptor)

        known = self._known.get(identity)
        if known is not None:
            try:
                return await serve(handle, host=self._bind, port=known)
            except OSError as error:
                if not anew:
                    raise
                log.error("contact.port-lost", identity=identity, port=known, reason=str(error))
        if self._ports is None:
            return await serve(handle, host=self._bind, port=0)
        taken = set(self._known.values())
        for port in self._ports:
            if port not in taken:
                try:
                    return await serve(handle, host=self._bind, port=port)
                except OSError:
                    continue  # somebody else's; the next one may be free
        first, last = self._ports[0], self._ports[-1]
        raise NoPortError(f"no free port for job contacts in {first}-{last}")


@dataclass(slots=True)
class ContactHandler:
    """Answers one connection to a job contact."""

    service: JobService
    queries: Queries
    renewal: Renewal
    observe: Observe
    limits: Doorkeeper

    async def admit(self, raw: RawStream, acceptor: Acceptor) -> None:
        """Serve a connection that nobody has counted yet, within the limits."""
        if not self.limits.enter(raw.peer_address):
            self.observe("handshake", "refused-limit")
            raw.abort()  # at once: waiting for the client would go beyond the limit
            return
        try:
            # The listener was opened by some request; its log context is not this connection's.
            with structlog.contextvars.bound_contextvars(
                request=secrets.token_hex(6), peer=raw.peer_address
            ):
                await self.handle(raw, acceptor)
        finally:
            self.limits.leave(raw.peer_address)

    async def handle(self, raw: RawStream, acceptor: Acceptor) -> None:
        """Serve one request on a fresh connection; never raises for what a client did."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                stream = await acceptor.accept(raw, gatekeeper=False)
        except (GramError, OSError, TimeoutError) as error:
            self.limits.failed(raw.peer_address)
            self.observe("handshake", "failed")
            log.info("contact.handshake-failed", reason=str(error))
            return
        try:
            await self._serve(stream)
        except (GramError, OSError, TimeoutError) as error:
            log.info("contact.broken", reason=str(error))
        finally:
            await stream.aclose()

    async def _serve(self, stream: SecureStream) -> None:
        connection = Connection(Role.JOB_MANAGER_SERVER)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                query = await read_message(stream, connection)
        except RemoteProtocolError as error:
            refusal = connection.refusal(error, self.service.version)
            await stream.send(connection.send(refusal))
            return
        if not isinstance(query, Query):
            return
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reply = await self._answer(stream, connection, query)
        await stream.send(connection.send(reply))

    async def _answer(
        self, stream: SecureStream, connection: Connection, query: Query
    ) -> QueryReply:
        kind = type(query).__name__.removesuffix("Query").lower()
        identity = None if stream.peer is None else stream.peer.identity
        job = self.service.find(query.path)
        try:
            if identity is None:
                raise GramError(ErrorCode.AUTHORIZATION_DENIED, str(stream.refusal))
            if job is None or job.record.phase is Phase.FINISHED:
                self.observe(kind, "gone")
                return self._reply_gone()
            if identity != job.record.owner:
                raise GramError(ErrorCode.AUTHORIZATION_DENIED, f"{identity} is not the owner")
            record = await self.queries.answer(job, query)
            if isinstance(query, RenewQuery):
                await self._renew(stream, connection, job)
                record = job.record
        except GramError as error:
            self.observe(kind, error.code.name)
            log.info("contact.refused", query=kind, identity=identity, reason=error.message)
            return self._reply_error(error.code)
        except (OSError, StoreError) as error:
            self.observe(kind, ErrorCode.NO_RESOURCES.name)
            log.error("contact.failed", query=kind, identity=identity, reason=str(error))
            return self._reply_error(ErrorCode.NO_RESOURCES)
        self.observe(kind, "ok")
        return self._reply(record)

    async def _renew(self, stream: SecureStream, connection: Connection, job: JobManager) -> None:
        await stream.send(connection.send(QueryReply(0, 0, 0)))
        await self.renewal.run(stream, connection.pending, job)

    # --- replies ------------------------------------------------------------------------------

    def _reply(self, record: JobRecord) -> QueryReply:
        failed = record.state is JobState.FAILED
        return QueryReply(
            state=int(record.state),
            failure_code=0,
            job_failure_code=record.failure_code if failed else 0,
            extensions=extensions(
                self.service.version,
                record.failure if failed else None,
                record.exit_code if record.state is JobState.DONE else None,
            ),
        )

    def _reply_error(self, code: ErrorCode) -> QueryReply:
        return QueryReply(int(JobState.FAILED), int(code), 0, self.service.version)

    def _reply_gone(self) -> QueryReply:
        return QueryReply(0, int(ErrorCode.JOB_CONTACT_NOT_FOUND), 0, self.service.version)
