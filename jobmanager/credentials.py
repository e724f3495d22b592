"""The delegated credentials the service itself uses: one per identity.

It presents them on the identity's job contact and to callback listeners (job-manager.md §1.7: of
several, the one that lasts longest). Each is one file, 0600 from creation, in a 0700 directory of
the service; the job's own copy lives with the job, in the account's files.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from protocol.aio.gsi import Acceptor, Connector
from protocol.errors import GramError
from protocol.gsi.credential import Credential, write_private
from protocol.gsi.directory import CADirectory

log = structlog.get_logger("jobmanager")


@dataclass(frozen=True, slots=True)
class IdentityCredential:
    """A credential with the TLS settings made of it, for both roles."""

    credential: Credential
    acceptor: Acceptor
    connector: Connector


class CredentialStore:
    """Credentials by identity (slash form), in memory and on disk."""

    def __init__(self, directory: Path, trusted: CADirectory) -> None:
        self._directory = directory
        self._trusted = trusted
        self._held: dict[str, IdentityCredential] = {}
        self._writing = asyncio.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, identity: str) -> bool:
        """Read the stored credential of an identity, if there is a usable one."""
        path = self._path(identity)
        try:
            credential = Credential.load(path)
        except (OSError, GramError) as error:
            log.warning("credential.unusable", identity=identity, reason=str(error))
            return False
        self._hold(identity, credential)
        return True

    def get(self, identity: str) -> IdentityCredential | None:
        """The credential in use for an identity."""
        return self._held.get(identity)

    async def offer(self, identity: str, credential: Credential) -> bool:
        """Use this credential from now on if it lasts longer than the present one."""
        if not self._lasts_longer(identity, credential):
            return False
        async with self._writing:  # one after the other: the file is what is held at the end
            if not self._lasts_longer(identity, credential):
                return False
            await asyncio.to_thread(write_private, self._path(identity), credential.pem())
            self._hold(identity, credential)
            return True

    def _lasts_longer(self, identity: str, credential: Credential) -> bool:
        held = self._held.get(identity)
        return held is None or held.credential.expires < credential.expires

    def _hold(self, identity: str, credential: Credential) -> None:
        self._held[identity] = IdentityCredential(
            credential, Acceptor(credential, self._trusted), Connector(credential, self._trusted)
        )

    def _path(self, identity: str) -> Path:
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        return self._directory / f"{name}.pem"
