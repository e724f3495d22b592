"""Builds the service from its configuration, in the order that keeps promises (design §3.7).

Everything opened here is closed by the caller's exit stack, in reverse.
"""

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import structlog

from gatekeeper.authorisation import make_authoriser
from gatekeeper.config import Config, ConfigError
from gatekeeper.gatekeeper import Deadlines, Gatekeeper, GatekeeperService
from gatekeeper.http.app import make_app
from gatekeeper.http.health import Health
from gatekeeper.http.server import start_http
from gatekeeper.keypool import KeyPool
from gatekeeper.limits import ConnectionLimits, TokenBuckets
from gatekeeper.metrics import Metrics
from gatekeeper.privileges import OWN_STATE
from jobmanager.agent.client import AgentPool, Settings
from jobmanager.callbacks import CallbackSender
from jobmanager.contacts import ContactAddresses, ContactHandler
from jobmanager.credentials import CredentialStore
from jobmanager.environment import Site
from jobmanager.lrm.base import LRM
from jobmanager.lrm.fork import ForkLRM
from jobmanager.lrm.measured import MeasuredLRM
from jobmanager.queries import Queries
from jobmanager.renewal import Renewal
from jobmanager.service import JobService, Service
from jobmanager.spawner_client import SpawnerClient
from jobmanager.store import Store
from protocol.aio.gsi import Acceptor
from protocol.errors import GramError
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.messages import Extensions

log = structlog.get_logger("gatekeeper")

DISTRIBUTION = "gram-gatekeeper"
TOOLKIT_VERSION = "6.2"
"""What clients take the server for: GRAM5 of the Grid Community Toolkit."""


@dataclass
class Assembly:
    """The parts of a running service that its supervisor needs."""

    gatekeeper: Gatekeeper
    jobs: JobService
    health: Health
    host_name: str
    http_port: int | None
    config: Config
    trusted: CADirectory

    def reload(self) -> None:
        """SIGHUP: present the host certificate as it is on disk now.

        The grid-mapfile and the CA directory are read again by themselves whenever they change.
        """
        try:
            credential = load_host_credential(self.config)
        except GramError as error:
            log.warning("service.not-reloaded", reason=str(error), advice="restart the service")
        else:
            self.gatekeeper.present(Acceptor(credential, self.trusted))
            log.info("service.reloaded", expires=credential.expires.isoformat())


def load_host_credential(config: Config) -> Credential:
    """The credential the gatekeeper presents; raises GramError when it cannot be used."""
    settings = config.gatekeeper
    if settings.credential is not None:
        return Credential.load(settings.credential)
    return Credential.load_pair(settings.certificate, settings.private_key)


async def assemble(
    config: Config,
    *,
    host: Credential,
    port: int,
    spawner: SpawnerClient,
    own_uid: int | None,
    stack: AsyncExitStack,
) -> Assembly:
    """Build everything and load the stored jobs; `port` is the gatekeeper's.

    `own_uid` is set when the service was not started by root: then it has one account to offer.
    """
    settings = config.gatekeeper
    host_name = settings.host_name
    if host_name is None:
        host_name = await asyncio.to_thread(socket.getfqdn)
    metrics = Metrics(lrms={service.lrm for service in config.services.values()})
    health = Health(package_version(DISTRIBUTION))
    http_port = await _http(config, metrics, health, stack)
    trusted = CADirectory(settings.trusted_certificates)
    store = await Store.open(
        _database_url(config),
        observe=metrics.commit,
        trouble=lambda text: health.trouble("database", text),
    )
    stack.callback(store.close)
    credentials = CredentialStore(own_state(config) / "credentials", trusted)
    version = _version()
    callbacks = CallbackSender(store, credentials, version, metrics.callback)
    agents = AgentPool(
        spawner.start_agent, Settings(certificates=str(settings.trusted_certificates))
    )
    stack.push_async_callback(agents.aclose)
    shared = settings.job_contacts == "shared"
    contact_ports = settings.job_contact_ports
    addresses = ContactAddresses(
        host=host_name,
        bind=settings.listen[0].host,
        ports=None if contact_ports is None else contact_ports.ports,
        shared=(port, host.identity) if shared else None,
        store=store,
        credentials=credentials,
    )
    jobs = JobService(
        store=store,
        credentials=credentials,
        agents=agents,
        callbacks=callbacks,
        addresses=addresses,
        services=_services(config, spawner, agents, metrics),
        site=Site(
            gatekeeper_host=host_name,
            gatekeeper_port=port,
            gatekeeper_subject=host.identity,
            certificates=str(settings.trusted_certificates),
        ),
        version=version,
        observer=metrics,
        minimum_proxy_lifetime=settings.minimum_proxy_lifetime.total_seconds(),
        retention=config.state.retention.total_seconds(),
    )
    stack.push_async_callback(jobs.aclose)
    stack.push_async_callback(addresses.aclose)  # first: no more queries to jobs that rest
    keys = KeyPool(
        reuse=settings.delegation_key_reuse.total_seconds(),
        elliptic=settings.delegation_key == "ec-p256",
    )
    stack.push_async_callback(keys.aclose)
    await keys.start()
    limits = _limits(config)
    handler = ContactHandler(
        jobs, Queries(jobs), Renewal(keys.get, trusted, jobs.renewed), metrics.request, limits
    )
    addresses.handler = handler
    metrics.watch_queue("callbacks", lambda: jobs.callbacks.waiting)
    metrics.watch_queue("jobs", lambda: jobs.queued)
    await addresses.restore(await jobs.restore())
    await jobs.resume()
    authoriser = make_authoriser(config, own_uid=own_uid)
    stack.push_async_callback(authoriser.aclose)
    gatekeeper = Gatekeeper(
        acceptor=Acceptor(host, trusted),
        authoriser=authoriser,
        jobs=jobs,
        keys=keys,
        services={
            name: GatekeeperService(name, service.accept_limited)
            for name, service in config.services.items()
        },
        default_service=settings.default_service,
        limits=limits,
        requests=TokenBuckets(settings.request_rate_per_identity),
        metrics=metrics,
        deadlines=Deadlines(
            settings.handshake_timeout.total_seconds(), settings.request_timeout.total_seconds()
        ),
        shared_contacts=handler if shared else None,
    )
    return Assembly(gatekeeper, jobs, health, host_name, http_port, config, trusted)


def _services(
    config: Config, spawner: SpawnerClient, agents: AgentPool, metrics: Metrics
) -> dict[str, Service]:
    fork = MeasuredLRM(ForkLRM(spawner, agents), metrics.lrm_operation)
    adapters: dict[str, LRM] = {"fork": fork}
    services = {}
    for name, settings in config.services.items():
        lrm = adapters.get(settings.lrm)
        if lrm is None:
            known = ", ".join(sorted(adapters))
            raise ConfigError(f"services.{name}.lrm: {settings.lrm!r} is not known; known: {known}")
        services[name] = Service(name, lrm, settings.max_running, settings.max_jobs_per_account)
    return services


def _limits(config: Config) -> ConnectionLimits:
    settings = config.gatekeeper
    return ConnectionLimits(
        settings.max_connections,
        settings.max_connections_per_address,
        connection_rate=settings.connection_rate_per_address,
        failure_rate=settings.failed_handshake_rate_per_address,
    )


async def _http(
    config: Config, metrics: Metrics, health: Health, stack: AsyncExitStack
) -> int | None:
    settings = config.http
    if settings.listen is None:
        return None
    app = make_app(health, metrics, any_host=settings.allow_remote)
    server = await start_http(settings.listen, app, allow_remote=settings.allow_remote)
    stack.push_async_callback(server.aclose)
    log.info("http.ready", port=server.port)
    return server.port


def own_state(config: Config) -> Path:
    """The part of the state directory that belongs to the service's account."""
    return config.state.directory / OWN_STATE


def _database_url(config: Config) -> str:
    if config.state.database == "sqlite":
        return f"sqlite:///{own_state(config) / 'gram.db'}"
    return config.state.database


def _version() -> Extensions:
    return Extensions(
        version=f"{DISTRIBUTION} {package_version(DISTRIBUTION)}",
        toolkit_version=TOOLKIT_VERSION,
    )
