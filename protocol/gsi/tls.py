"""TLS as GSI uses it: contexts and one sans-IO session (wire-protocol.md 1.2, 2.2 and 8).

TLS 1.2 and 1.3 over memory buffers, mutual authentication, no resumption, no renegotiation.  A
certificate chain is judged twice: by OpenSSL, whose complaints about what GSI never enforces
(`TOLERATED`) are ignored, and by `verify_chain`, which knows every rule.  Both must be content.

The client role refuses a bad chain inside the handshake.  The server role completes the handshake
all the same, so that the client can be told why (P20); `peer` is then None and `refusal` says why.
What such a peer gained is an encrypted channel to an error message: it holds the private key of
the certificate it showed, nothing else about it is known, and whoever serves it must answer with
an error and do nothing more.  A client that shows no certificate at all is cut off by OpenSSL.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from protocol.errors import GramError
from protocol.gsi.certificate import PARSING_ERRORS
from protocol.gsi.chain import ChainRefused, Peer, Refusal, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.tables import ErrorCode

RECORD: Final = 16384
"""Most plain text one TLS record holds, in bytes."""

TOLERATED: Final = frozenset({26, 32, 34, 79})
"""OpenSSL's X509_V_ERR_ INVALID_PURPOSE, KEYUSAGE_NO_CERTSIGN, UNHANDLED_CRITICAL_EXTENSION and
INVALID_CA: extended key usage is never enforced in GSI (P5), and OpenSSL takes the issuer of a
draft or legacy proxy for a CA (P6).  `verify_chain` has its own rules for all four."""

_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL"
_NO_AUTO_CHAIN: Final = 0x8  # SSL_MODE_NO_AUTO_CHAIN: OpenSSL would search our issuers each time
_OVERHEAD: Final = 128  # more than any cipher adds to a record
_FLIGHT: Final = 32768  # read size for what is not bulk data
_MAX_NOTES: Final = 8
_MAX_SERVER_NAME: Final = 255

_REASONS: Final = {
    7: Refusal.SIGNATURE,
    9: Refusal.NOT_YET_VALID,
    10: Refusal.EXPIRED,
    23: Refusal.REVOKED,
    38: Refusal.PROXY_RULE,
    40: Refusal.PROXY_RULE,
    66: Refusal.KEY_STRENGTH,
    67: Refusal.KEY_STRENGTH,
    68: Refusal.KEY_STRENGTH,
}
_TEXTS: Final = {
    2: "the issuer of a certificate was not found",
    7: "the signature of a certificate does not verify",
    9: "a certificate is not yet valid",
    10: "a certificate has expired",
    18: "the certificate is self-signed and not trusted",
    19: "the chain ends in a self-signed certificate that is not trusted",
    20: "the issuer of a certificate is not among the trusted ones",
    21: "the first certificate cannot be verified",
    25: "the chain is longer than a certificate in it allows",
    38: "a proxy's path length is exceeded",
    40: "proxy certificates are not allowed",
    66: "the key of the certificate is too short",
    67: "the key of a CA certificate is too short",
    68: "a certificate is signed with a weak digest",
}


class TLSError(GramError):
    """The TLS exchange failed; the session's `output` may hold an alert for the peer.

    Code 7 in the handshake, and after it when the peer says that it refuses us; otherwise 10.
    """


class TLSContext:
    """Configuration of one side: a role, a credential and the trusted CAs.

    A context is good for many sessions.  OpenSSL keeps the CA certificates it has read for as long
    as the context lives, so make a new one from time to time to notice replaced ones; a new
    credential needs a new context (P12).  Raises TLSError when OpenSSL cannot use the credential.
    """

    def __init__(self, credential: Credential, directory: CADirectory, *, server: bool) -> None:
        self.server = server
        self.directory = directory
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(_CIPHERS)
        context.set_options(
            SSL.OP_NO_TICKET
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_NO_COMPRESSION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept if server else _insist
        )
        context.load_verify_locations(None, str(directory.path))
        store = context.get_cert_store()
        if store is not None:
            store.set_flags(X509StoreFlags.ALLOW_PROXY_CERTS)
        _use(context, credential)
        self.openssl: Final = context


def _use(context: SSL.Context, credential: Credential) -> None:
    try:
        context.use_certificate(credential.certificate)
        context.use_privatekey(credential.private_key)
        context.check_privatekey()
        for certificate in credential.chain:
            if certificate.subject != certificate.issuer:  # a root would be sent for nothing
                context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise _failure("the credential cannot be used in TLS", error) from None


def _accept(connection: SSL.Connection, _certificate: X509, code: int, depth: int, ok: int) -> bool:
    """Verify callback of the server role: note what is wrong, let the handshake go on (P20)."""
    _note(connection, code, depth, ok)
    return True


def _insist(connection: SSL.Connection, _certificate: X509, code: int, depth: int, ok: int) -> bool:
    """Verify callback of the client role: note what is wrong and refuse the server."""
    return _note(connection, code, depth, ok)


def _note(connection: SSL.Connection, code: int, depth: int, ok: int) -> bool:
    if ok or code in TOLERATED:
        return True
    notes: list[tuple[int, int]] = connection.get_app_data()
    if len(notes) < _MAX_NOTES:
        notes.append((code, depth))
    return False


class TLSSession:
    """One TLS connection without a socket: bytes in, bytes out.

    `advance` until `established`, then `feed` and `decrypt`, `encrypt`.  Only one thread at a time.
    After the handshake `peer` is the verified peer, or, in the server role, `refusal` is set.
    """

    def __init__(self, context: TLSContext, *, server_name: str | None = None) -> None:
        self.established = False
        self.peer: Peer | None = None
        self.refusal: ChainRefused | None = None
        self._context = context
        self._notes: list[tuple[int, int]] = []
        self._connection = SSL.Connection(context.openssl)
        self._connection.set_app_data(self._notes)
        if context.server:
            self._connection.set_accept_state()
            return
        self._connection.set_connect_state()
        name = (server_name or "").encode("utf-8", "surrogateescape")
        if 0 < len(name) <= _MAX_SERVER_NAME and b"\0" not in name:
            self._connection.set_tlsext_host_name(name)

    @property
    def is_tls13(self) -> bool:
        """Whether TLS 1.3 was negotiated (which asks for the sync byte on the gatekeeper port)."""
        return self._connection.get_protocol_version() == SSL.TLS1_3_VERSION

    @property
    def description(self) -> str:
        """Protocol version and cipher suite, for logs."""
        version = self._connection.get_protocol_version_name()
        return f"{version} {self._connection.get_cipher_name()}"

    def advance(self, records: bytes = b"") -> bytes:
        """Do one step of the handshake; return what has to be sent.

        Slow (public-key operations, files of the CA directory): not for an event loop.  Raises
        TLSError, and in the client role ChainRefused.
        """
        self.feed(records)
        try:
            self._connection.do_handshake()
            done = True
        except SSL.WantReadError:
            done = False
        except SSL.Error as error:
            if self._notes and not self._context.server:
                verdict = self._judge()
                if isinstance(verdict, ChainRefused):
                    raise verdict from None
            raise _failure("TLS handshake failed", error) from None
        if done or not self._context.server:
            self._settle()
        self.established = done
        return self.output()

    def feed(self, records: bytes) -> None:
        """Add received TLS records."""
        if records:
            self._connection.bio_write(records)

    def decrypt(self, limit: int = RECORD) -> bytes | None:
        """Return 1..limit bytes of plain text, b"" when the peer said goodbye, None for no data.

        Look at `output` afterwards.  Raises TLSError.
        """
        try:
            return self._connection.recv(min(limit, RECORD))
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise _failure("TLS failed", error, self.established) from None

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Return data as TLS records of at most 16 KiB each; raises TLSError."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), RECORD):
                self._connection.send(view[start : start + RECORD])
        except SSL.Error as error:
            raise _failure("TLS failed", error, self.established) from None
        return self.output(len(view) + (len(view) // RECORD + 1) * _OVERHEAD)

    def goodbye(self) -> bytes:
        """Return the records that announce our end of the connection (close_notify)."""
        try:
            self._connection.shutdown()
        except SSL.Error:  # the session has failed: an alert may be waiting instead
            return self.output()
        return self.output()

    def output(self, expected: int = _FLIGHT) -> bytes:
        """Return and forget what OpenSSL wants sent; expected: a guess of its size in bytes."""
        pieces = []
        while True:
            try:
                pieces.append(self._connection.bio_read(expected))
            except SSL.WantReadError:
                break
            if len(pieces[-1]) < expected:
                break
        return b"".join(pieces)

    def _settle(self) -> None:
        """Fix the verdict as soon as the peer's chain is here; a client acts on it at once."""
        if self.peer is not None or self._connection.get_peer_certificate() is None:
            return
        verdict = self._judge()
        if isinstance(verdict, Peer):
            self.peer = verdict
        elif self._context.server:
            self.refusal = verdict
        else:
            self.output()  # our certificate: not for this server
            raise verdict

    def _judge(self) -> Peer | ChainRefused:
        """Apply both verdicts to the peer's chain; our own gives the better explanation."""
        try:
            chain = self._peer_chain()
        except PARSING_ERRORS as error:  # what OpenSSL reads and `cryptography` does not
            return ChainRefused(Refusal.MALFORMED, f"a certificate cannot be read: {error}")
        try:
            peer = verify_chain(chain, self._context.directory)
        except ChainRefused as refusal:
            return refusal
        return self._openssl_refusal() if self._notes else peer

    def _openssl_refusal(self) -> ChainRefused:
        code, depth = self._notes[0]
        text = _TEXTS.get(code, "the certificate chain does not verify")
        reason = _REASONS.get(code, Refusal.UNTRUSTED)
        return ChainRefused(reason, f"{text} (OpenSSL error {code} at depth {depth})")

    def _peer_chain(self) -> list[x509.Certificate]:
        """The peer's certificates, leaf first; OpenSSL leaves the leaf out in a server (P8)."""
        leaf = self._connection.get_peer_certificate(as_cryptography=True)
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        if leaf is None:
            return chain
        return [leaf, *itertools.islice(chain, 0 if self._context.server else 1, None)]


def _failure(what: str, error: SSL.Error, established: bool = False) -> TLSError:
    """Tell what failed in OpenSSL's own words, without its numbers."""
    queue: Any = error.args[0] if error.args else ()
    if isinstance(queue, list | tuple) and queue:
        text = "; ".join(str(entry[-1]) for entry in queue)
    else:
        text = str(error) or type(error).__name__
    refused = not established or "alert" in text
    code = ErrorCode.AUTHORIZATION if refused else ErrorCode.PROTOCOL_FAILED
    return TLSError(code, f"{what}: {text}")
