"""Credential renewal over a job contact (wire-protocol.md §1.8)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from jobmanager.manager import JobManager
from protocol.aio.delegation import receive_renewal
from protocol.aio.stream import SecureStream, run_crypto
from protocol.errors import GramError
from protocol.gsi.chain import ChainRefused, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import DelegationKey
from protocol.gsi.directory import CADirectory
from protocol.tables import ErrorCode


class KeyForIdentity(Protocol):
    """A private key and the certificate request (DER) made of it."""

    @property
    def key(self) -> DelegationKey:
        """The private key."""

    @property
    def request(self) -> bytes:
        """The DER request."""


class Renewal:
    """Receives a new credential for a job and hands it to whoever uses it."""

    def __init__(
        self,
        keys: Callable[[str], Awaitable[KeyForIdentity]],
        trusted: CADirectory,
        accept: Callable[[JobManager, Credential], Awaitable[None]],
    ) -> None:
        self._keys = keys
        self._trusted = trusted
        self._accept = accept

    async def run(self, stream: SecureStream, initial: bytes, job: JobManager) -> None:
        """Steps 3-5 of the exchange; raises GramError(DELEGATION_FAILED) when they fail.

        The new credential must be of the job owner's identity: the reference does not look.
        """
        key = await self._keys(job.record.owner)
        credential = await receive_renewal(stream, initial, key.key, key.request)
        try:
            peer = await run_crypto(verify_chain, credential.certificates, self._trusted)
        except ChainRefused as error:
            text = f"the renewed credential is refused: {error}"
            raise GramError(ErrorCode.DELEGATION_FAILED, text) from error
        if peer.identity != job.record.owner:
            text = "the renewed credential is not the job owner's"
            raise GramError(ErrorCode.DELEGATION_FAILED, text)
        await self._accept(job, credential)
