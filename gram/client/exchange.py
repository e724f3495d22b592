"""One request and its reply with a gatekeeper or a job manager (wire-protocol.md 1, 5, B.4).

Whatever goes wrong below is turned into a `GramClientError` here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

from gram.client.advice import Side
from gram.client.errors import ConnectionFailed, GramClientError, JobGone, NotTrusted, Refused
from gram.client.models import describe_code
from gram.client.own import Own
from protocol.aio.delegation import DELEGATION, NO_DELEGATION, delegate, renew, send_flag
from protocol.aio.exchange import read_message
from protocol.aio.gsi import GsiStream
from protocol.aio.raw import ConnectionLost
from protocol.connection import Connection, Role
from protocol.contacts import GatekeeperContact, JobContact
from protocol.errors import GramError, LocalProtocolError, RemoteProtocolError
from protocol.gsi.hostcheck import check_host
from protocol.gsi.refusal import ChainRefused
from protocol.messages import (
    GatekeeperRequest,
    HttpError,
    Query,
    QueryReply,
    RenewQuery,
    Reply,
)
from protocol.tables import ErrorCode

CONNECT_TIMEOUT = 30.0
REPLY_TIMEOUT = 120.0
"""Seconds for a whole exchange: the reference needs some to start a job manager."""


class Delegation(Enum):
    """What is handed to the gatekeeper with a request (wire-protocol.md 1.6)."""

    NONE = "none"
    LIMITED = "limited"
    FULL = "full"


class Exchange:
    """Asks questions with our credential; each has a connection and a time limit of its own."""

    def __init__(
        self,
        own: Own,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        reply_timeout: float = REPLY_TIMEOUT,
    ) -> None:
        self._own = own
        self._connect_timeout = connect_timeout
        self._reply_timeout = reply_timeout

    async def gatekeeper(
        self, contact: GatekeeperContact, request: GatekeeperRequest, delegation: Delegation
    ) -> Reply:
        """Send one request to a gatekeeper; HTTP errors are raised as Refused."""
        where = f"the gatekeeper {contact.host}:{contact.port}"
        async with self._exchange(where, Side.GATEKEEPER):
            stream = await self._connect(contact.host, contact.port, gatekeeper=True)
            try:
                if stream.peer is not None:
                    check_host(stream.peer, contact.host, contact.subject)
                await self._delegate(stream, delegation)
                connection = Connection(Role.GATEKEEPER_CLIENT, host=contact.host)
                await stream.send(connection.send(request))
                reply = await _read(stream, connection)
            finally:
                await stream.aclose()
        return _checked(reply, where, Side.GATEKEEPER)

    async def job_manager(self, contact: JobContact, query: Query) -> QueryReply:
        """Send a query to a job contact; raises JobGone (156) or Refused for its failure code."""
        where = f"the job manager {contact.host}:{contact.port}"
        async with self._exchange(where, Side.JOB_MANAGER):
            stream, connection = await self._open(contact)
            try:
                await stream.send(connection.send(query))
                reply = await _read(stream, connection)
            finally:
                await stream.aclose()
        return _answered(_checked(reply, where, Side.JOB_MANAGER), contact, where)

    async def renew(self, contact: JobContact, *, limited: bool) -> QueryReply:
        """Hand our credential to the job (wire-protocol.md 1.8); raises as `job_manager` does."""
        where = f"the job manager {contact.host}:{contact.port}"
        async with self._exchange(where, Side.JOB_MANAGER):
            stream, connection = await self._open(contact)
            try:
                await stream.send(connection.send(RenewQuery(contact.path)))
                reply = await _read(stream, connection)
                _answered(_checked(reply, where, Side.JOB_MANAGER), contact, where)
                await renew(stream, self._own.credential, limited=limited)
                reply = await _read(stream, connection)
            finally:
                await stream.aclose()
        return _answered(_checked(reply, where, Side.JOB_MANAGER), contact, where)

    async def _open(self, contact: JobContact) -> tuple[GsiStream, Connection]:
        """Connect to a job manager, which must be us or the contact's subject (4.2)."""
        stream = await self._connect(contact.host, contact.port, gatekeeper=False)
        peer = stream.peer
        try:
            if contact.subject is not None and peer is not None:
                check_host(peer, contact.host, contact.subject)
            elif peer is None or peer.identity != self._own.identity:
                found = "unknown" if peer is None else peer.identity
                raise GramError(
                    ErrorCode.AUTHORIZATION,
                    f"the job manager is {found}, not {self._own.identity}: the job is another's",
                )
        except GramError:
            stream.abort()
            raise
        return stream, Connection(Role.JOB_MANAGER_CLIENT, host=contact.host)

    async def _connect(self, host: str, port: int, *, gatekeeper: bool) -> GsiStream:
        self._own.check_lifetime()
        return await self._own.connector.connect(
            host, port, gatekeeper=gatekeeper, timeout=self._connect_timeout
        )

    async def _delegate(self, stream: GsiStream, delegation: Delegation) -> None:
        if delegation is Delegation.NONE:
            await send_flag(stream, NO_DELEGATION)
            return
        await send_flag(stream, DELEGATION)
        limited = delegation is Delegation.LIMITED
        await delegate(stream, self._own.credential, limited=limited)

    @asynccontextmanager
    async def _exchange(self, where: str, side: Side) -> AsyncIterator[None]:
        """Limit the time, and turn what the layers below raise into what ours raises."""
        try:
            async with asyncio.timeout(self._reply_timeout):
                yield
        except TimeoutError:
            raise ConnectionFailed(
                _unreachable_code(side),
                f"{where} did not answer within {self._reply_timeout:g} seconds",
                side,
            ) from None
        except GramClientError:
            raise
        except ChainRefused as error:
            raise NotTrusted(
                error.code,
                f"the certificate of {where} is refused: {error.message}",
                Side.HERE,
                advice="Check that X509_CERT_DIR holds the service's CA, with a current CRL.",
            ) from error
        except GramError as error:
            raise _translated(error, where, side) from error


def _translated(error: GramError, where: str, side: Side) -> GramClientError:
    text = f"{error.message} ({where})" if where not in error.message else error.message
    if isinstance(error, LocalProtocolError):
        return GramClientError(error.code, text, Side.HERE)
    if isinstance(error, RemoteProtocolError | ConnectionLost):
        return ConnectionFailed(error.code, text, side)
    if error.code == ErrorCode.CONNECTION_FAILED:
        return ConnectionFailed(_unreachable_code(side), text, Side.NETWORK)
    if error.code == ErrorCode.AUTHORIZATION:
        return NotTrusted(error.code, text, side)
    return GramClientError(error.code, text, side)


def _unreachable_code(side: Side) -> ErrorCode:
    if side is Side.JOB_MANAGER:
        return ErrorCode.CONTACTING_JOB_MANAGER
    return ErrorCode.CONNECTION_FAILED


async def _read(stream: GsiStream, connection: Connection) -> Reply:
    event = await read_message(stream, connection)
    if not isinstance(event, Reply):
        raise RemoteProtocolError(ErrorCode.HTTP_UNPACK_FAILED, "the answer is not a reply")
    return event


def _checked(reply: Reply, where: str, side: Side) -> Reply:
    if isinstance(reply, HttpError):
        raise Refused(
            reply.code,
            f"{where} refused the request (HTTP {reply.status}): {describe_code(reply.code)}",
            side,
        )
    return reply


def _answered(reply: Reply, contact: JobContact, where: str) -> QueryReply:
    if not isinstance(reply, QueryReply):
        raise ConnectionFailed(
            ErrorCode.HTTP_UNPACK_FAILED,
            f"{where} sent an answer of another kind",
            Side.JOB_MANAGER,
        )
    code = reply.failure_code
    if code == ErrorCode.JOB_CONTACT_NOT_FOUND:
        raise JobGone(f"{where} does not know the job {contact.url}")
    if code:
        details = reply.extensions.failure_message
        text = f"{where} declined: {describe_code(code)}"
        raise Refused(code, f"{text}: {details}" if details else text, Side.JOB_MANAGER)
    return reply
