"""Puts the service together, runs it, and takes it apart again (design §1, §3.7).

Order matters: the spawner starts while we still have the privileges it needs; then the service
gives them up; then all state is loaded and reconciled; only then is the first connection accepted.
"""

import asyncio
import os
import pwd
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from gatekeeper import systemd
from gatekeeper.assembly import Assembly, assemble, load_host_credential
from gatekeeper.config import Config, ConfigError
from gatekeeper.logs import configure_logging
from gatekeeper.privileges import (
    PrivilegeError,
    check_installation,
    confine,
    drop,
    prepare_state,
    service_account,
)
from jobmanager.lrm.base import LRMError
from jobmanager.spawner_client import SpawnerClient, SpawnerError, SpawnerPolicy
from jobmanager.store import StoreError
from protocol.aio.server import Server, serve
from protocol.errors import GramError

log = structlog.get_logger("gatekeeper")

Announce = Callable[[str], None]
EXIT_CONFIGURATION = 78
"""sysexits.h EX_CONFIG: the service cannot run with this configuration."""
DRAIN = 5.0
"""Seconds that requests under way have when the service stops."""


def run(config: Config, *, announce: Announce | None = None, install_signals: bool = True) -> int:
    """Run the service until it is told to stop; returns the process's exit status.

    `announce` gets the contact when connections are accepted (default: a line on stdout).
    """
    configure_logging(config.log.level, config.log.format)
    try:
        return asyncio.run(_main(config, announce or _print_contact, install_signals))
    except (
        ConfigError,
        PrivilegeError,
        SpawnerError,
        StoreError,
        LRMError,
        GramError,
        OSError,
    ) as error:
        log.error("service.cannot-start", reason=str(error))
        return EXIT_CONFIGURATION


def _print_contact(contact: str) -> None:
    print(f"gram contact: {contact}", flush=True)


async def _main(config: Config, announce: Announce, install_signals: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        account = None
        if os.geteuid() == 0:
            check_installation()
            account = service_account(config.service.account)
        host = load_host_credential(config)
        prepare_state(config.state.directory, account)
        spawner = await SpawnerClient.start(_policy(config, account))
        stack.push_async_callback(spawner.aclose)
        sockets = []
        for address in config.gatekeeper.listen:
            sockets.append(_listen(address.host, address.port))
            stack.callback(sockets[-1].close)
        if account is not None:
            drop(account)
        confine()
        failed: list[str] = []

        def spawner_lost() -> None:
            failed.append("the spawner has gone")
            log.error("service.spawner-lost")
            stop.set()

        spawner.on_lost = spawner_lost
        port = int(sockets[0].getsockname()[1])
        assembly = await assemble(
            config,
            host=host,
            port=port,
            spawner=spawner,
            own_uid=os.geteuid() if account is None else None,
            stack=stack,
        )
        servers = [await _serve(assembly, sock) for sock in sockets]
        if install_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            loop.add_signal_handler(signal.SIGHUP, assembly.reload)
        announce(f"{assembly.host_name}:{port}:{host.identity}")
        assembly.health.ready()
        systemd.notify("READY=1")
        log.info("service.ready", port=port, account=_current_account(), jobs=assembly.jobs.living)
        await stop.wait()
        systemd.notify("STOPPING=1")
        assembly.health.stopping()
        if failed:
            assembly.health.trouble("spawner", failed[0])
        for server in servers:
            await server.aclose(grace=DRAIN)
        log.info("service.stopping", jobs=assembly.jobs.living, reason=failed or ["asked to"])
    return 1 if failed else 0


def _policy(config: Config, account: pwd.struct_passwd | None) -> SpawnerPolicy:
    return SpawnerPolicy(
        personal=account is None,
        personal_home=_personal_home() if account is None else None,
        minimum_uid=config.service.minimum_uid,
        spool=str(config.state.directory / "spool"),
    )


def _personal_home() -> str | None:
    """Running as you, your HOME counts, if it is a directory of yours."""
    home = os.environ.get("HOME", "")
    try:
        mine = Path(home).is_absolute() and Path(home).stat().st_uid == os.geteuid()
    except OSError:
        return None
    return home if mine else None


def _current_account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; an IPv6 wildcard also takes IPv4 (dual stack)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind((host, port))
        sock.listen(256)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno, f"cannot listen on {host} port {port}: {error.strerror}"
        ) from error
    return sock


async def _serve(assembly: Assembly, sock: socket.socket) -> Server:
    return await serve(assembly.gatekeeper.handle, sock=sock)
