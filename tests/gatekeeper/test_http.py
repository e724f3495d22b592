"""The HTTP side: pages, headers, and what it refuses."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gatekeeper.http import server
from gatekeeper.http.app import make_app
from gatekeeper.http.health import Health
from gatekeeper.http.server import HttpServer, start_http
from gatekeeper.metrics import Metrics
from gatekeeper.units import ListenAddress

ANY_PORT = ListenAddress("127.0.0.1", 0)


@pytest.fixture
def health() -> Health:
    return Health("1.2.3")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["fork"])


@pytest.fixture
async def running(health: Health, metrics: Metrics) -> AsyncIterator[HttpServer]:
    running = await start_http(ANY_PORT, make_app(health, metrics))
    yield running
    await running.aclose()


@pytest.fixture
async def client(running: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.port}") as session:
        yield session


async def raw(port: int, data: bytes) -> bytes:
    """Send bytes, return all that comes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_alive_even_when_not_ready(client: aiohttp.ClientSession) -> None:
    async with client.get("/health") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        body = await response.json()
    assert body["status"] == "alive"
    assert body["version"] == "1.2.3"
    assert isinstance(body["uptime_seconds"], int)


async def test_readiness_says_why_not(client: aiohttp.ClientSession, health: Health) -> None:
    async def ready() -> tuple[int, list[str]]:
        async with client.get("/ready") as response:
            body = await response.json()
            assert body["ready"] is (response.status == 200)
            return response.status, body["reasons"]

    assert await ready() == (503, ["the service is starting"])
    health.ready()
    assert await ready() == (200, [])
    health.trouble("store", "disk full")
    health.trouble("spawner", "gone")
    assert await ready() == (503, ["store: disk full", "spawner: gone"])
    health.trouble("store", None)
    health.trouble("spawner", None)
    health.trouble("spawner", None)
    assert await ready() == (200, [])
    health.stopping()
    assert await ready() == (503, ["the service is stopping"])


async def test_metrics(client: aiohttp.ClientSession, metrics: Metrics) -> None:
    metrics.connection("served")
    metrics.watch_queue("jobs", lambda: 17)
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    assert 'gram_connections_total{outcome="served"} 1.0\n' in text
    assert 'gram_queue_length{queue="jobs"} 17.0\n' in text


async def test_the_index_needs_nothing_from_elsewhere(
    client: aiohttp.ClientSession, health: Health
) -> None:
    health.trouble("store", "<script>alert(1)</script>")
    async with client.get("/") as response:
        assert response.content_type == "text/html"
        text = await response.text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "gram 1.2.3" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/ready", 503),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/health/", 404),
        ("POST", "/health", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "/", 405),
    ],
)
async def test_every_answer_has_the_security_headers(
    client: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "gram"
        assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9119", 200),
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("[::1]:9119", 200),
        ("evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("", 421),
    ],
)
async def test_other_names_are_refused(
    client: aiohttp.ClientSession, host: str, status: int
) -> None:
    async with client.get("/health", headers={"Host": host}) as response:
        assert response.status == status
        assert response.headers["X-Frame-Options"] == "DENY"


async def test_probes_without_host_are_answered(running: HttpServer) -> None:
    assert (await raw(running.port, b"GET /health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")


async def test_any_name_when_remote_access_is_allowed(health: Health, metrics: Metrics) -> None:
    app = make_app(health, metrics, any_host=True)
    running = await start_http(ANY_PORT, app, allow_remote=True)
    request = b"GET /health HTTP/1.1\r\nHost: gram.example.org\r\nConnection: close\r\n\r\n"
    assert (await raw(running.port, request)).startswith(b"HTTP/1.1 200 ")
    await running.aclose()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["tls", "ssh", "long header", "long path", "bad length"],
)
async def test_garbage_is_refused_and_the_service_goes_on(
    running: HttpServer, client: aiohttp.ClientSession, data: bytes
) -> None:
    assert (await raw(running.port, data)).startswith(b"HTTP/1.0 400 ")
    async with client.get("/health") as response:
        assert response.status == 200


@pytest.mark.parametrize("host", ["::", "192.0.2.1", "gram.example.org"])
async def test_reachable_addresses_must_be_allowed(
    health: Health, metrics: Metrics, host: str
) -> None:
    with pytest.raises(ValueError, match="can be reached from other machines"):
        await start_http(ListenAddress(host, 0), make_app(health, metrics))


async def test_a_port_in_use_is_an_error(
    running: HttpServer, health: Health, metrics: Metrics
) -> None:
    with pytest.raises(OSError, match="in use"):
        await start_http(ListenAddress("127.0.0.1", running.port), make_app(health, metrics))


async def test_a_closed_server_frees_its_port(health: Health, metrics: Metrics) -> None:
    running = await start_http(ANY_PORT, make_app(health, metrics))
    port = running.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    await running.aclose()
    await reader.read()  # ends: kept connections are closed too
    writer.close()
    await writer.wait_closed()
    again = await start_http(ListenAddress("127.0.0.1", port), make_app(health, metrics))
    await again.aclose()


async def test_idle_and_slow_connections_do_not_stay(
    health: Health, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_AGE", 0.1)
    running = await start_http(ANY_PORT, make_app(health, metrics))
    idle, other = await asyncio.open_connection("127.0.0.1", running.port)
    slow, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: loc")
    assert await idle.read() == b""
    assert await slow.read() == b""
    for each in (other, writer):
        each.close()
        await each.wait_closed()
    await running.aclose()


async def test_connections_are_capped(
    health: Health, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    running = await start_http(ANY_PORT, make_app(health, metrics))
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    kept = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(3)]
    for reader, writer in kept:
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert await raw(running.port, b"") == b""
    for _, writer in kept:
        writer.close()
        await writer.wait_closed()
    while not (answer := await raw(running.port, b"GET /health HTTP/1.0\r\n\r\n")):
        continue  # the server has not seen them leave yet
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["status"] == "alive"
    await running.aclose()
