"""The pages: `/` for people, `/health` and `/ready` for probes, `/metrics` for Prometheus."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import ipaddress
import time
from typing import TYPE_CHECKING

from aiohttp import web

from gatekeeper.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gatekeeper.http.health import HealthSource

MAX_BODY = 1024
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STYLE = "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gram</title>
<style>{style}</style>
</head>
<body>
<h1>gram {version}</h1>
<p>{state}</p>
<ul>
<li><a href="/health">health</a>: the process answers</li>
<li><a href="/ready">ready</a>: clients are welcome</li>
<li><a href="/metrics">metrics</a>: for Prometheus</li>
</ul>
</body>
</html>
"""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "gram",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make_app(health: HealthSource, metrics: Metrics, *, any_host: bool = False) -> web.Application:
    """Return the application.

    Unless `any_host`, requests must name an address or "localhost" as host: a web page elsewhere
    cannot then reach us under a name of its own (DNS rebinding).
    """
    pages = _Pages(health, metrics)
    app = web.Application(middlewares=[] if any_host else [_own_host], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/", pages.index)
    app.router.add_get("/health", pages.health)
    app.router.add_get("/ready", pages.ready)
    app.router.add_get("/metrics", pages.metrics)
    return app


class _Pages:
    def __init__(self, health: HealthSource, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics
        self._started = time.monotonic()

    async def index(self, _request: web.Request) -> web.Response:
        reasons = self._health.not_ready()
        text = _PAGE.format(
            style=_STYLE,
            version=html.escape(self._health.version),
            state=html.escape("; ".join(reasons) or "The service is ready."),
        )
        return web.Response(text=text, content_type="text/html")

    async def health(self, _request: web.Request) -> web.Response:
        uptime = int(time.monotonic() - self._started)
        return web.json_response(
            {"status": "alive", "version": self._health.version, "uptime_seconds": uptime}
        )

    async def ready(self, _request: web.Request) -> web.Response:
        reasons = self._health.not_ready()
        return web.json_response(
            {"ready": not reasons, "reasons": list(reasons)}, status=503 if reasons else 200
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        self._metrics.sample_queues()
        body = await asyncio.to_thread(self._metrics.exposition)
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value


@web.middleware
async def _own_host(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    host = request.headers.get("Host")
    if host is not None and not _is_address(host):
        raise web.HTTPMisdirectedRequest(text="ask for this service by address or as localhost\n")
    return await handler(request)


def _is_address(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
