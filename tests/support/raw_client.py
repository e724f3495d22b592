"""A GSI client that can misbehave: bytes, tokens, records and requests, each when a test says so.

It is built on Python's own `ssl` over memory buffers, so it shares no code with the service, and it
blocks: one thread, one connection, a deadline for every read.
"""

import socket
import ssl
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding

from protocol.gsi.credential import Credential, key_pem, write_private
from protocol.gsi.delegation import sign_request

TIMEOUT = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-globus-gram\r\nContent-Length: %d\r\n\r\n%b"
TOO_LARGE = OK % (33, b"protocol-version: 2\r\nstatus: 10\r\n")


def error_reply(status: int) -> bytes:
    """What the gatekeeper answers instead of a reply (gatekeeper.md 6, without the extra NUL)."""
    reasons = {403: b"Forbidden", 404: b"Not Found", 500: b"Internal Server Error"}
    return b"HTTP/1.1 %d %b\r\nConnection: close\r\n\r\n" % (status, reasons[status])


def context(
    directory: Path,
    credential: Credential | None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """TLS settings of a client that trusts everybody and shows this credential, or none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    if credential is not None:
        load(made, directory, credential)
    return made


def load(made: ssl.SSLContext, directory: Path, credential: Credential) -> None:
    """Let a context of `ssl`, of either role, present a credential."""
    path = directory / "raw-client.pem"
    path.unlink(missing_ok=True)
    pem = [item.public_bytes(Encoding.PEM) for item in credential.certificates]
    write_private(path, b"".join(pem) + key_pem(credential.private_key))
    made.load_cert_chain(path)
    path.unlink()


def message(target: bytes, body: bytes = b"", *, length: bytes | None = None) -> bytes:
    """A request as clients write it; `length` replaces the announced one."""
    announced = str(len(body)).encode() if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\n\r\n%b" % (
        target, announced, body,
    )  # fmt: skip


def records_of(data: bytes) -> list[tuple[int, bytes]]:
    """Type and body of the TLS records in data; lengths in front of tokens are left out."""
    found = []
    while data:
        start = 4 if data[0] == 0 else 0
        end = start + 5 + int.from_bytes(data[start + 3 : start + 5], "big")
        assert len(data) >= end, "the data ends inside a record"
        found.append((data[start], data[start + 5 : end]))
        data = data[end:]
    return found


class RawClient:
    """One TCP connection; `source` is the local address it comes from."""

    def __init__(self, port: int, *, source: str = "127.0.0.1", timeout: float = TIMEOUT) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout, (source, 0))
        self.wire = b""
        """Everything received since the handshake, encrypted."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._partial = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    # --- bytes --------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send bytes as they are; False when the server has closed already."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def read(self) -> bytes:
        """Some bytes as they are; b"" after an end or a reset.  Raises TimeoutError."""
        try:
            return self.sock.recv(65536)
        except ConnectionResetError:
            return b""

    def read_to_end(self) -> bytes:
        """All bytes until the server closes.  Raises TimeoutError."""
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def half_close(self) -> None:
        """Send our end (FIN), go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # --- TLS ----------------------------------------------------------------------------------

    def handshake(self, settings: ssl.SSLContext, *, prefixes: bool = True) -> Self:
        """Do the handshake, with or without token lengths.  Raises ssl.SSLError."""
        self._tls = settings.wrap_bio(self._incoming, self._outgoing)
        try:
            while not self._step(self._tls, prefixes):
                self._feed()
        except BaseException:  # nobody else has this client yet
            self.sock.close()
            raise
        return self

    def open(self, settings: ssl.SSLContext) -> Self:
        """Do the handshake with a gatekeeper and take the sync byte of TLS 1.3.

        Bare records: the service then sends tickets, which `ssl` swallows, and a zero byte.
        """
        self.handshake(settings, prefixes=False)
        if self._session.version() == "TLSv1.3":
            assert self.receive() == b"\0"
        self.wire = b""
        return self

    def flush(self, *, prefixes: bool = False) -> bool:
        """Send what TLS has to send."""
        data = self._outgoing.read()
        if not data:
            return True
        return self.write(len(data).to_bytes(4, "big") + data if prefixes else data)

    def send(self, data: bytes, *, prefixes: bool = False) -> bool:
        """Send application data; False when the server has closed already."""
        for start in range(0, len(data), 16384):
            self._session.write(data[start : start + 16384])
        return self.flush(prefixes=prefixes)

    def receive(self) -> bytes:
        """Some application data; b"" at the end, however it comes.  Raises TimeoutError."""
        while True:
            try:
                return self._session.read(65536)
            except ssl.SSLWantReadError:
                self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def receive_to_end(self) -> bytes:
        """All application data until the server closes.  Raises TimeoutError, ssl.SSLError."""
        pieces = []
        while piece := self.receive():
            pieces.append(piece)
        return b"".join(pieces)

    def delegate(self, credential: Credential, *, flag: bytes = b"D") -> Self:
        """Ask for the delegation and do our part of it (wire-protocol.md 1.7)."""
        self.send(flag)
        self.send(sign_request(self.receive(), credential).public_bytes(Encoding.DER))
        return self

    def peer_certificate(self) -> bytes:
        """The DER certificate the server showed."""
        found = self._session.getpeercert(binary_form=True)
        assert found is not None
        return found

    def _step(self, tls: ssl.SSLObject, prefixes: bool) -> bool:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        self.flush(prefixes=prefixes)
        return done

    @property
    def _session(self) -> ssl.SSLObject:
        assert self._tls is not None, "there was no handshake"
        return self._tls

    def _feed(self) -> None:
        """Give TLS what arrives, without token lengths (a record's type is never 0)."""
        data = self.read()
        if not data:
            self._incoming.write_eof()
            return
        self.wire += data
        self._partial += data
        while self._partial:
            start = 4 if self._partial[0] == 0 else 0
            if len(self._partial) < start + 5:
                return
            end = start + 5 + int.from_bytes(self._partial[start + 3 : start + 5], "big")
            if len(self._partial) < end:
                return
            self._incoming.write(self._partial[start:end])
            self._partial = self._partial[end:]


def ask(port: int, settings: ssl.SSLContext, request: bytes, *, flag: bytes = b"0") -> bytes:
    """One request to a gatekeeper without delegation; the whole answer."""
    with RawClient(port).open(settings) as client:
        client.send(flag)
        client.send(request)
        return client.receive_to_end()


def query(port: int, settings: ssl.SSLContext, request: bytes) -> bytes:
    """One request to a job contact or callback listener; the whole answer."""
    with RawClient(port).handshake(settings, prefixes=False) as client:
        client.send(request)
        return client.receive_to_end()
