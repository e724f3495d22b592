"""The embedded GASS server: our own requests and the real globus-url-copy."""

import asyncio
import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from gram.client.errors import OutputTooLarge
from gram.client.gass import GassServer
from gram.client.listening import Listening
from gram.client.streams import (
    Collected,
    LocalFiles,
    Sink,
    bytes_source,
    file_sink,
    file_source,
    path_source,
)
from protocol.aio.gsi import Connector, GsiStream
from protocol.connection import NEED_DATA
from protocol.gass import (
    LAST_CHUNK,
    GassResponse,
    GassResponseReader,
    append_request,
    chunk,
    get_request,
    put_request,
)
from protocol.gass_body import BodyData, EndOfBody
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from tests.gram.lab import Lab


@asynccontextmanager
async def serving(lab: Lab, **what: object) -> AsyncIterator[GassServer]:
    server = GassServer(lab.own(), **what)  # type: ignore[arg-type]  # test helper
    await server.start(Listening(), "127.0.0.1")
    try:
        yield server
    finally:
        await server.aclose()


async def connect(lab: Lab, server: GassServer, credential: Credential | None = None) -> GsiStream:
    port = int(server.url.rpartition(":")[2])
    connector = Connector(credential or lab.alice, CADirectory(lab.certificates))
    return await connector.connect("127.0.0.1", port, gatekeeper=False)


async def answer(stream: GsiStream) -> tuple[int, bytes]:
    reader = GassResponseReader()
    status, body = 0, b""
    while True:
        match reader.next_event():
            case event if event is NEED_DATA:
                reader.receive_data(await stream.receive())
            case GassResponse(status=status):
                pass
            case BodyData(data=data):
                body += data
            case EndOfBody():
                await stream.aclose()
                return status, body


async def get(lab: Lab, server: GassServer, path: str) -> tuple[int, bytes]:
    stream = await connect(lab, server)
    await stream.send(get_request(quote(path), "127.0.0.1"))
    return await answer(stream)


async def put(lab: Lab, server: GassServer, path: str, *pieces: bytes, append: bool = False) -> int:
    stream = await connect(lab, server)
    request = append_request if append else put_request
    await stream.send(request(path, "127.0.0.1"))
    for piece in pieces:
        await stream.send(chunk(piece))
    await stream.send(LAST_CHUNK)
    return (await answer(stream))[0]


async def interrupted(lab: Lab, server: GassServer, path: str, piece: bytes) -> None:
    """Begin an upload, have the piece arrive, and go away."""
    stream = await connect(lab, server)
    await stream.send(put_request(path, "127.0.0.1") + chunk(piece))
    await asyncio.sleep(0.2)
    stream.abort()
    await asyncio.sleep(0.2)


async def test_streams_are_binary_safe(lab: Lab) -> None:
    out, err = Collected(), Collected()
    async with serving(lab, streams={"/dev/stdout": out, "/dev/stderr": err}) as server:
        assert await put(lab, server, "/dev/stdout", b"\0\xff", b"\r\n") == 200
        assert await put(lab, server, "/dev/stdout", b"more", append=True) == 200
        assert await put(lab, server, "/dev/stderr") == 200
    assert (out.data, err.data) == (b"\0\xff\r\nmore", b"")


async def test_interrupted_stream_is_not_repeated(lab: Lab) -> None:
    out = Collected()
    async with serving(lab, streams={"/dev/stdout": out}) as server:
        await interrupted(lab, server, "/dev/stdout", b"01234")
        await interrupted(lab, server, "/dev/stdout", b"0123456")
        assert out.data == b"0123456"
        assert await put(lab, server, "/dev/stdout", b"012", b"345678", b"9") == 200
        assert await put(lab, server, "/dev/stdout", b"0") == 200
    assert out.data == b"01234567890"


async def test_sources(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"from a path")
    sources = {
        "/dev/stdin": bytes_source(b"x" * 600_000),
        "/file": file_source(io.BytesIO(b"from a file")),
        "/path": path_source(path),
        "/empty": bytes_source(b""),
    }
    async with serving(lab, sources=sources) as server:
        assert await get(lab, server, "/dev/stdin") == (200, b"x" * 600_000)
        for _ in range(2):  # a source can be read again
            assert await get(lab, server, "/file") == (200, b"from a file")
            assert await get(lab, server, "/path") == (200, b"from a path")
        assert await get(lab, server, "/empty") == (200, b"")
        assert (await get(lab, server, "/dev/stdout"))[0] == 400


async def test_files_need_permission(lab: Lab, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in side", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").write_bytes(b"A" * 100_000)
    (outside / "b").write_bytes(b"B")
    (inside / "link").symlink_to(outside / "b")
    os.mkfifo(inside / "pipe")
    files = LocalFiles(readable=(inside,))
    async with serving(lab, files=files) as server:
        assert await get(lab, server, f"{inside}/a") == (200, b"A" * 100_000)
        assert (await get(lab, server, f"{inside}/none"))[0] == 404
        for forbidden in ("link", "../out/b", "pipe", "."):
            assert (await get(lab, server, f"{inside}/{forbidden}"))[0] == 400
        assert (await get(lab, server, f"{outside}/b"))[0] == 400
        assert await put(lab, server, quote(f"{inside}/new"), b"x") == 400
    assert not (inside / "new").exists()


async def test_writing_files(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "result"
    async with serving(lab, files=LocalFiles(writable=(tmp_path,))) as server:
        assert await put(lab, server, str(target), b"one", b"two") == 200
        assert target.read_bytes() == b"onetwo"
        assert await put(lab, server, "/./result", b"three") == 200
        assert target.read_bytes() == b"three"
        assert await put(lab, server, "/~/result", b"+", append=True) == 200
        assert target.read_bytes() == b"three+"
        await interrupted(lab, server, str(target), b"partial")
        assert target.read_bytes() == b"three+"  # not replaced by half a file
        assert (await get(lab, server, str(target)))[0] == 400
        assert await put(lab, server, f"{tmp_path}/none/x", b"x") == 404
    assert os.listdir(tmp_path) == ["result"]


async def test_other_identities_get_400(lab: Lab) -> None:
    out = Collected()
    async with serving(lab, streams={"/dev/stdout": out}) as server:
        for credential in (lab.mallory, lab.host):
            stream = await connect(lab, server, credential)
            await stream.send(put_request("/dev/stdout", "127.0.0.1"))
            assert (await answer(stream))[0] == 400
    assert out.data == b""


@pytest.mark.parametrize(
    "request_head",
    [
        b"DELETE /dev/stdout HTTP/1.1\r\n\r\n",
        b"PUT /dev/stdout HTTP/1.1\r\n\r\n",
        b"GET dev HTTP/1.1\r\n\r\n",
        b"rubbish\r\n\r\n",
        b"PUT /dev/stdout HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_bad_requests(lab: Lab, request_head: bytes) -> None:
    async with serving(lab, streams={"/dev/stdout": Collected()}) as server:
        stream = await connect(lab, server)
        await stream.send(request_head)
        assert (await answer(stream))[0] == 400


async def test_limit_of_collected_output(lab: Lab) -> None:
    out = Collected(limit=10)
    async with serving(lab, streams={"/dev/stdout": out}) as server:
        assert await put(lab, server, "/dev/stdout", b"0123456789") == 200
        assert server.failure is None
        assert await put(lab, server, "/dev/stdout", b"!") == 400
        assert isinstance(server.failure, OutputTooLarge)


async def test_failing_sink_is_reported(lab: Lab) -> None:
    closed = io.BytesIO()
    closed.close()
    async with serving(lab, streams={"/dev/stdout": file_sink(closed)}) as server:
        assert await put(lab, server, "/dev/stdout", b"x") == 400
        assert isinstance(server.failure, ValueError)


async def test_slow_sink_holds_the_sender_back(lab: Lab) -> None:
    """No more than the buffers of the way is taken from a sender while the sink is busy."""
    taken = 0
    go_on = asyncio.Event()

    async def slow(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        await go_on.wait()

    async with serving(lab, streams={"/dev/stdout": slow}) as server:
        stream = await connect(lab, server)
        await stream.send(put_request("/dev/stdout", "127.0.0.1"))
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(64):
                await stream.send(chunk(bytes(1 << 20)))
                sent += 1 << 20
            await stream.send(LAST_CHUNK)

        sending = asyncio.create_task(send())
        await asyncio.sleep(1.0)
        assert taken <= 1 << 16
        assert sent < 32 << 20
        go_on.set()
        await sending
        assert (await answer(stream))[0] == 200
    assert taken == 64 << 20


# --- the real transfer tool ---------------------------------------------------------------------


@pytest.fixture
def url_copy(lab: Lab, tmp_path: Path) -> "UrlCopy":
    tool = shutil.which("globus-url-copy")
    if tool is None:
        pytest.skip("globus-url-copy is not installed: run `make peers` as root")
    return UrlCopy(tool, lab, tmp_path)


class UrlCopy:
    """globus-url-copy as Alice."""

    def __init__(self, tool: str, lab: Lab, directory: Path) -> None:
        self._tool = tool
        self._lab = lab
        self._directory = directory

    async def __call__(
        self, source: str, target: str, *options: str
    ) -> subprocess.CompletedProcess[bytes]:
        return await asyncio.to_thread(
            subprocess.run,
            [self._tool, *options, "-s", self._lab.alice.identity, source, target],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._directory),
                # A pair would win over the proxy, and root has a host certificate in places.
                "X509_USER_CERT": str(self._lab.alice_file),
                "X509_USER_KEY": str(self._lab.alice_file),
                "X509_CERT_DIR": str(self._lab.certificates),
            },
            capture_output=True,
            timeout=60,
            check=False,
        )


@pytest.mark.peers
async def test_real_uploads(lab: Lab, url_copy: UrlCopy, tmp_path: Path) -> None:
    blob = os.urandom(20_000_000)
    digest = hashlib.sha256()
    source = tmp_path / "blob"
    source.write_bytes(blob)
    empty = tmp_path / "empty"
    empty.touch()

    async def sink(data: bytes) -> None:
        digest.update(data)

    err = Collected()
    streams: dict[str, Sink] = {"/dev/stdout": sink, "/dev/stderr": err}
    files = LocalFiles(writable=(tmp_path,))
    async with serving(lab, streams=streams, files=files) as server:
        for file, path in (
            (source, "/dev/stdout"),
            (empty, "/dev/stderr"),
            (source, f"{tmp_path}/copy"),
        ):
            done = await url_copy(f"file://{file}", f"{server.url}{path}")
            assert done.returncode == 0, done.stderr
        refused = await url_copy(f"file://{source}", f"{server.url}/etc/motd")
        assert refused.returncode != 0
    assert digest.digest() == hashlib.sha256(blob).digest()
    assert (tmp_path / "copy").read_bytes() == blob
    assert err.data == b""


@pytest.mark.peers
async def test_real_downloads(lab: Lab, url_copy: UrlCopy, tmp_path: Path) -> None:
    blob = os.urandom(5_000_000)
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "empty").touch()
    sources = {"/dev/stdin": bytes_source(blob)}
    target = tmp_path / "target"
    files = LocalFiles(readable=(tmp_path,))
    async with serving(lab, sources=sources, files=files) as server:
        for path, expected in (
            ("/dev/stdin", blob),
            (f"{tmp_path}/blob", blob),
            (f"{tmp_path}/empty", b""),
        ):
            done = await url_copy(f"{server.url}{path}", f"file://{target}")
            assert done.returncode == 0, done.stderr
            assert target.read_bytes() == expected
        missing = await url_copy(f"{server.url}{tmp_path}/none", f"file://{target}")
        assert missing.returncode != 0
