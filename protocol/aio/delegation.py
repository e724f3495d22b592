"""Delegation over an established stream (wire-protocol.md 1.6 to 1.8), both roles.

Each function does one exchange within a time limit and reads not a byte more than belongs to it.
Errors: RemoteProtocolError for bytes out of place, DelegationError (in the peer's role too) for
certificates that do not fit, ConnectionLost for a peer that goes away or stalls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from protocol.aio.raw import ConnectionLost
from protocol.aio.stream import SecureStream, misbehaved, run_crypto
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import (
    DelegationKey,
    accept_renewal,
    accept_reply,
    renewal_reply,
    sign_request,
)

NO_DELEGATION: Final = b"0"
DELEGATION: Final = b"D"

DELEGATION_TIMEOUT: Final = 60.0
"""Seconds for one exchange."""

MAX_DELEGATION: Final = 65536
"""Bytes of the longest certificate request, certificate or chain accepted."""

_RENEWAL_FLAG: Final = b"\0\0\0\1D"
_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80


async def send_flag(stream: SecureStream, flag: bytes) -> None:
    """Gatekeeper's client: say whether a credential will be delegated (1.6)."""
    await stream.send_token(flag)


async def read_flag(stream: SecureStream, *, timeout: float = DELEGATION_TIMEOUT) -> bytes:
    """Gatekeeper: return NO_DELEGATION or DELEGATION; RemoteProtocolError for anything else."""
    async with _limited(timeout):
        flag = await stream.receive(1)
    if flag not in (NO_DELEGATION, DELEGATION):
        raise misbehaved("the client did not say whether it wants to delegate a credential")
    return flag


async def receive_delegation(
    stream: SecureStream,
    key: DelegationKey,
    request: bytes,
    *,
    timeout: float = DELEGATION_TIMEOUT,
) -> Credential:
    """Gatekeeper: ask for a proxy certificate for key, return the delegated credential (1.7).

    For a peer whose chain was refused use `discard_delegation`; here it is a RemoteProtocolError.
    """
    if stream.peer is None:
        raise misbehaved("a client that was refused cannot delegate")
    certificate = await discard_delegation(stream, request, timeout=timeout)
    return await run_crypto(accept_reply, certificate, key, stream.peer.chain)


async def discard_delegation(
    stream: SecureStream, request: bytes, *, timeout: float = DELEGATION_TIMEOUT
) -> bytes:
    """Gatekeeper: the exchange of 1.7 without its use; return the DER certificate unchecked.

    It lets a client that will be refused go on to its request and read the answer (P20).
    """
    async with _limited(timeout):
        await stream.send(request)
        return await _receive_der(stream)


async def delegate(
    stream: SecureStream,
    credential: Credential,
    *,
    limited: bool = True,
    timeout: float = DELEGATION_TIMEOUT,
) -> None:
    """Gatekeeper's client: sign the certificate request that follows the flag `D` (1.7)."""
    async with _limited(timeout):
        request = await _receive_der(stream)
        certificate = await run_crypto(sign_request, request, credential, limited=limited)
        await stream.send_token(certificate.public_bytes(Encoding.DER))


async def receive_renewal(
    stream: SecureStream,
    initial: bytes,
    key: DelegationKey,
    request: bytes,
    *,
    timeout: float = DELEGATION_TIMEOUT,
) -> Credential:
    """Job manager: steps 3 to 5 of the renew exchange; return the new credential (1.8).

    initial: bytes read already with the request.  The caller compares the identity with the job
    owner's.
    """
    async with _limited(timeout):
        source = _Rest(stream, initial)
        if await source.exactly(len(_RENEWAL_FLAG)) != _RENEWAL_FLAG:
            raise misbehaved("the renewal does not begin with its flag")
        await stream.send(_counted(request))
        data = await source.counted()
    if source.rest:
        raise misbehaved("there is something behind the renewed credential")
    return await run_crypto(accept_renewal, data, key)


async def renew(
    stream: SecureStream,
    credential: Credential,
    *,
    limited: bool = True,
    timeout: float = DELEGATION_TIMEOUT,
) -> None:
    """Job manager's client: steps 3 to 5 of the renew exchange, after the first reply (1.8)."""
    async with _limited(timeout):
        await stream.send(_RENEWAL_FLAG)
        request = await _Rest(stream, b"").counted()
        reply = await run_crypto(renewal_reply, request, credential, limited=limited)
        await stream.send(_counted(reply))


class _Rest:
    """Reads exact amounts, first from bytes that came too early."""

    def __init__(self, stream: SecureStream, rest: bytes) -> None:
        self._stream = stream
        self.rest = rest

    async def exactly(self, size: int) -> bytes:
        data = bytearray(self.rest[:size])
        self.rest = self.rest[size:]
        while len(data) < size:
            piece = await self._stream.receive(size - len(data))
            if not piece:
                raise ConnectionLost("the peer closed the connection during delegation")
            data += piece
        return bytes(data)

    async def counted(self) -> bytes:
        """Read a four-byte length and that many bytes."""
        size = int.from_bytes(await self.exactly(4), "big")
        if not 0 < size <= MAX_DELEGATION:
            raise misbehaved(f"{size} bytes of delegation data are not acceptable")
        return await self.exactly(size)


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _receive_der(stream: SecureStream) -> bytes:
    """Read one DER SEQUENCE, to its own length."""
    source = _Rest(stream, b"")
    header = await source.exactly(2)
    size = header[1]
    if header[0] != _SEQUENCE or size == _LONG_FORM or size > _LONG_FORM + 3:
        raise misbehaved("the delegation data is not DER")
    if size > _LONG_FORM:
        octets = await source.exactly(size - _LONG_FORM)
        header += octets
        size = int.from_bytes(octets, "big")
    if size > MAX_DELEGATION:
        raise misbehaved(f"{size} bytes of delegation data are not acceptable")
    return header + await source.exactly(size)


@asynccontextmanager
async def _limited(timeout: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise ConnectionLost(f"no progress with the delegation in {timeout:g} seconds") from None
