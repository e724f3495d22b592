"""The TLS side of a job's transfers: its credential, and servers of its own identity only.

Imported when the first https transfer begins, for the sake of an agent that never has one.
"""

import functools
import os
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from jobmanager.agent.errors import RefusedError
from protocol.aio.gsi import Connector, GsiStream
from protocol.aio.raw import RawStream
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory, default_directory


class Identity:
    """A job's credential, ready to connect with.

    Raises GramError when the credential or the directory of trusted CAs cannot be used.
    """

    def __init__(self, pem: bytes, certificates: str | None) -> None:
        credential = _credential(pem)
        self._name = credential.identity
        self._expires = credential.expires
        self._connector = Connector(credential, _trusted(certificates))

    def require_valid(self) -> None:
        """Raise RefusedError when the credential has expired."""
        if self._expires <= datetime.now(UTC):
            text = f"the job's credential expired at {self._expires:%Y-%m-%d %H:%M} UTC"
            raise RefusedError(text)

    async def establish(self, raw: RawStream, server: str) -> GsiStream:
        """Do the handshake with a server, which must have our own identity whatever its host.

        Raises GramError, RefusedError for another identity; the connection is closed then.
        """
        stream = await self._connector.establish(raw, gatekeeper=False)
        if stream.peer is None or stream.peer.identity != self._name:
            stream.abort()
            whose = "nobody" if stream.peer is None else stream.peer.identity
            raise RefusedError(f"{server} belongs to {whose}, not to {self._name}")
        return stream


def _credential(pem: bytes) -> Credential:
    """Read a proxy file without the 50 ms that the search for flaws in an RSA key takes.

    The service that made the key wrote the file; whoever else changes it harms himself alone.
    """
    try:
        leaf, *chain = x509.load_pem_x509_certificates(pem)
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RefusedError("the job's credential cannot be read") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise RefusedError("the job's credential has a key that cannot be used")
    return Credential(leaf, key, tuple(chain))


@functools.cache
def _trusted(path: str | None) -> CADirectory:
    return default_directory(os.environ) if path is None else CADirectory(path)
