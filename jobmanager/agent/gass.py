"""Transfers with GASS servers over https and http, as a job's client side (job-manager.md §5.5).

What needs TLS is imported when the first https connection is made: most jobs transfer nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

from jobmanager.agent.errors import BrokenError, RefusedError
from jobmanager.agent.frames import Settings
from jobmanager.agent.threads import in_thread
from jobmanager.agent.workspace import PROXY, Workspace
from protocol.aio.raw import RawStream
from protocol.errors import GramError, LocalProtocolError
from protocol.gass import (
    LAST_CHUNK,
    GassResponse,
    GassResponseReader,
    chunk,
    get_request,
    put_request,
)
from protocol.gass_body import BodyData, EndOfBody
from protocol.tables import ErrorCode

if TYPE_CHECKING:
    from jobmanager.agent.tls import Identity

_READ = 65536
_MAX_PROXY = 1 << 18
_KEPT = 32
"""Credentials kept ready; each costs some hundred KiB."""
_STREAMS = ("/dev/stdout", "/dev/stderr")


class ByteStream(Protocol):
    """What a transfer needs of a connection."""

    async def receive(self, limit: int = ...) -> bytes:
        """Some bytes, b"" at the end."""

    async def send(self, data: bytes) -> None:
        """Send, waiting while the peer is slow."""

    async def aclose(self) -> None:
        """Let what was sent leave, and close."""

    def abort(self) -> None:
        """Close now."""


@dataclass(frozen=True, slots=True)
class GassURL:
    """An https or http URL; `target` is the path with its query, as in the URL."""

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises RefusedError for what is no such URL."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise RefusedError(f"{url} is not a URL: {error}") from error
        secure = parts.scheme.lower() == "https"
        if not host or parts.username is not None:
            raise RefusedError(f"{url} does not name a server")
        query = f"?{parts.query}" if parts.query else ""
        return cls(secure, host, port or (443 if secure else 80), (parts.path or "/") + query)

    @property
    def is_stream(self) -> bool:
        """Whether what is sent twice is seen twice: the client's own output, no file."""
        return self.target.endswith(_STREAMS)

    @property
    def server(self) -> str:
        """The server, for messages."""
        return f"{self.host}:{self.port}"


class GassClient:
    """Opens connections with the credentials of jobs."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace = workspace
        self.settings = settings
        self._identities: dict[str, tuple[tuple[int, int], Identity]] = {}

    def forget(self, job: str) -> None:
        """Drop what is kept for a job."""
        self._identities.pop(job, None)

    async def connect(self, job: str, url: GassURL) -> ByteStream:
        """Connect for a job; raises RefusedError or BrokenError."""
        timeout = self.settings.connect_timeout
        try:
            identity = await self._identity(job) if url.secure else None
            async with asyncio.timeout(timeout):
                loop = asyncio.get_running_loop()
                _, raw = await loop.create_connection(
                    lambda: RawStream(write_timeout=self.settings.stall_timeout), url.host, url.port
                )
                return raw if identity is None else await identity.establish(raw, url.server)
        except TimeoutError:
            raise BrokenError(f"no connection to {url.server} in {timeout:g} seconds") from None
        except (OSError, OverflowError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise BrokenError(f"cannot connect to {url.server}: {text}") from error
        except GramError as error:
            raise _judged(error, url) from error

    async def _identity(self, job: str) -> "Identity":
        """What the job's proxy file holds now; it is read again when it was replaced."""
        from jobmanager.agent.tls import Identity  # late: see above

        with self._workspace.open(job) as directory:
            status = directory.status(PROXY)
            pem = directory.read(PROXY, _MAX_PROXY)
        if status is None or pem is None:
            raise RefusedError("the job has no delegated credential")
        version = status.st_ino, status.st_mtime_ns
        known = self._identities.get(job)
        if known is not None and known[0] == version:
            identity = known[1]
        else:
            identity = await in_thread(Identity, pem, self.settings.certificates)
            self._identities.pop(job, None)
            self._identities[job] = version, identity
            if len(self._identities) > _KEPT:
                del self._identities[next(iter(self._identities))]
        identity.require_valid()
        return identity

    async def download(self, job: str, url: str, write: Callable[[bytes], object]) -> None:
        """Get a file; `write` gets every piece.  Raises RefusedError or BrokenError."""
        target = GassURL.parse(url)
        left = self.settings.max_download
        stream = await self.connect(job, target)
        try:
            async with _translated(target):
                await stream.send(get_request(target.target, target.host))
                async for piece in self._body(stream, target):
                    left -= len(piece)
                    if left < 0:
                        limit = self.settings.max_download
                        raise RefusedError(f"{url} has more than the {limit} bytes allowed here")
                    write(piece)
        finally:
            stream.abort()

    async def _body(self, stream: ByteStream, url: GassURL) -> AsyncIterator[bytes]:
        reader = GassResponseReader()
        while True:
            match reader.next_event():
                case GassResponse() as response:
                    _require_success(response, url)
                case BodyData(data):
                    yield data
                case EndOfBody():
                    return
                case _:
                    async with asyncio.timeout(self.settings.stall_timeout):
                        reader.receive_data(await stream.receive(_READ))

    async def upload(self, job: str, url: GassURL) -> "Upload":
        """Begin to replace a file, or to go on with a stream.

        Raises RefusedError or BrokenError.
        """
        stream = await self.connect(job, url)
        upload = Upload(stream, url, self.settings.stall_timeout)
        await upload.begin()
        return upload


class Upload:
    """One PUT on its connection: `send` pieces, then `finish`, or `abort` at any time."""

    def __init__(self, stream: ByteStream, url: GassURL, stall_timeout: float) -> None:
        self._stream = stream
        self._url = url
        self._stall_timeout = stall_timeout
        self._answer = asyncio.create_task(self._read_answer())

    async def begin(self) -> None:
        """Send the head; raises RefusedError or BrokenError."""
        await self._send(put_request(self._url.target, self._url.host))

    async def send(self, data: bytes) -> None:
        """Send a piece of at most 1 MiB; raises RefusedError or BrokenError."""
        await self._send(chunk(data))

    async def finish(self) -> None:
        """End the file and wait until the server has it all; raises RefusedError or BrokenError."""
        await self._send(LAST_CHUNK)
        try:
            async with _translated(self._url), asyncio.timeout(self._stall_timeout):
                await self._answer
        except GramError:
            self.abort()
            raise
        await self._stream.aclose()

    def check(self) -> None:
        """Raise RefusedError or BrokenError if the server has answered or gone before the end."""
        if self._answer.done():
            self._raise_answer()

    def abort(self) -> None:
        """Give up: the server keeps what it has."""
        self._answer.cancel()
        self._stream.abort()

    async def _send(self, data: bytes) -> None:
        try:
            self.check()
            async with _translated(self._url):
                await self._stream.send(data)
        except BrokenError:
            await self._late_answer()
            self.abort()
            raise
        except RefusedError:
            self.abort()
            raise

    async def _late_answer(self) -> None:
        """A server that refuses closes; its reason may have come just before."""
        with contextlib.suppress(TimeoutError, BrokenError):
            async with asyncio.timeout(1.0):
                await self._answer

    def _raise_answer(self) -> None:
        self._answer.result()
        raise BrokenError(f"{self._url.server} answered before it had the whole file")

    async def _read_answer(self) -> None:
        reader = GassResponseReader()
        async with _translated(self._url):
            while not isinstance(event := reader.next_event(), GassResponse):
                reader.receive_data(await self._stream.receive(_READ))
            _require_success(event, self._url)


@contextlib.asynccontextmanager
async def _translated(url: GassURL) -> AsyncIterator[None]:
    """Make every way in which a connection fails a RefusedError or BrokenError."""
    try:
        yield
    except TimeoutError as error:
        raise BrokenError(f"{url.server} does not answer") from error
    except GramError as error:
        raise _judged(error, url) from error


def _judged(error: GramError, url: GassURL) -> GramError:
    if isinstance(error, RefusedError | BrokenError):
        return error
    text = f"{url.server}: {error.message}"
    definite = isinstance(error, LocalProtocolError) or error.code in (
        ErrorCode.AUTHORIZATION,
        ErrorCode.USER_PROXY_EXPIRED,
    )
    return RefusedError(text) if definite else BrokenError(text)


def _require_success(response: GassResponse, url: GassURL) -> None:
    if response.status != 200:
        text = f"{response.status} {response.reason}".strip()
        raise RefusedError(f"{url.server} answered {text} for {url.target}")
