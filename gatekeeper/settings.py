"""The configuration's models: every key with its type, default and meaning.

The field descriptions are the documentation: `gatekeeper.config.reference` prints them.  Models are
frozen, refuse unknown keys and convert nothing silently (`"yes"` is not true, `"5"` is not 5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from gatekeeper.units import (
    ListenAddress,
    PortRange,
    Rate,
    parse_duration,
    parse_listen,
    parse_optional_listen,
    parse_port_range,
    parse_rate,
    parse_size,
)


def _path(value: object) -> Path:
    if isinstance(value, str) and value and "\0" not in value:
        try:
            path = Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if path.is_absolute():
            return path
    raise ValueError('not a path; write an absolute path, or one that starts with "~/"')


def _host(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}", value):
        return value
    raise ValueError("not a host name; write a fully qualified name or an address")


def _name(pattern: str, allowed: str) -> Callable[[object], str]:
    """Make a validator for names; `allowed` completes "not"."""

    def validate(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise ValueError(f"not {allowed}")

    return validate


_service_name = _name(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    'a service name; allowed: up to 64 letters, digits, ".", "_", "-", a letter or digit first',
)
_account = _name(
    r"[A-Za-z_][A-Za-z0-9._-]{0,31}", 'an account name; write one of the account database, "gram"'
)
_adapter = _name(
    r"[a-z][a-z0-9_-]{0,31}", 'a name of an adapter; write one in lower case: "fork", "slurm"'
)


def _database(value: object) -> str:
    if isinstance(value, str) and (
        value == "sqlite" or re.fullmatch(r"postgresql\+psycopg://[^\s\x00-\x1f]+", value)
    ):
        return value
    raise ValueError('not a database; write "sqlite" or "postgresql+psycopg://user@host/name"')


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError('not a list of words; write ["/path/to/program", "argument"]')


def _addresses(value: object) -> tuple[ListenAddress, ...]:
    if isinstance(value, list) and value:
        return tuple(parse_listen(item) for item in value)
    raise ValueError('not a list of addresses; write ["[::]:2119"]')


def _plugin(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?", value):
        return value
    raise ValueError('not a plugin; write an entry point name or "package.module:function"')


FilePath: TypeAlias = Annotated[Path, "path", PlainValidator(_path)]
Duration: TypeAlias = Annotated[timedelta, "duration", PlainValidator(parse_duration)]
Size: TypeAlias = Annotated[int, "size", PlainValidator(parse_size)]
OptionalRate: TypeAlias = Annotated[Rate | None, 'rate or "off"', PlainValidator(parse_rate)]
Listen: TypeAlias = Annotated[
    tuple[ListenAddress, ...], 'list of "host:port"', PlainValidator(_addresses)
]
OptionalListen: TypeAlias = Annotated[
    ListenAddress | None, '"host:port" or "off"', PlainValidator(parse_optional_listen)
]
Ports: TypeAlias = Annotated[PortRange, 'range "first-last"', PlainValidator(parse_port_range)]
HostName: TypeAlias = Annotated[str, "host name", PlainValidator(_host)]
Database: TypeAlias = Annotated[str, '"sqlite" or a PostgreSQL URL', PlainValidator(_database)]
Words: TypeAlias = Annotated[tuple[str, ...], "list of words", PlainValidator(_strings)]
Plugin: TypeAlias = Annotated[str, "entry point or dotted path", PlainValidator(_plugin)]
Positive: TypeAlias = Annotated[int, Field(ge=1), "whole number from 1"]
Account: TypeAlias = Annotated[str, "account name", PlainValidator(_account)]
ServiceName: TypeAlias = Annotated[str, "service name", PlainValidator(_service_name)]
Adapter: TypeAlias = Annotated[str, "name of an adapter", PlainValidator(_adapter)]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _key(default: object, description: str, *, example: str | None = None) -> Any:  # noqa: ANN401 - as pydantic.Field
    """Declare a key; `example` (TOML) is shown where the default is to leave the key out."""
    if example is None:
        return Field(default, description=description)
    return Field(default, description=description, json_schema_extra={"example": example})


class Gatekeeper(Section):
    """The front door: listeners, credentials, who may come in and how much."""

    listen: Listen = _key(
        (ListenAddress("::", 2119),),
        'Where clients connect. "[::]:2119" takes IPv6 and IPv4; port 0 takes any free port.',
    )
    host_name: HostName | None = _key(
        None,
        "The name put into contacts; clients check it against the certificate. "
        "Absent: the machine's fully qualified name.",
        example='"gram.example.org"',
    )
    certificate: FilePath = _key(
        Path("/etc/grid-security/hostcert.pem"), "The service's certificate (PEM)."
    )
    private_key: FilePath = _key(
        Path("/etc/grid-security/hostkey.pem"),
        "Its private key (PEM, readable by its owner only).",
    )
    credential: FilePath | None = _key(
        None,
        "One file with certificate, key and chain, as grid-proxy-init writes, for personal use. "
        "It replaces certificate and private_key; a gatekeeper that is not started by root uses "
        "its user's proxy when none of the three is given.",
        example='"/tmp/x509up_u1000"',
    )
    trusted_certificates: FilePath = _key(
        Path("/etc/grid-security/certificates"),
        "Directory of trusted certification authorities: HASH.0, HASH.signing_policy, HASH.r0. "
        "Not started by root: $X509_CERT_DIR or ~/.globus/certificates if there is one.",
    )
    gridmap: FilePath = _key(
        Path("/etc/grid-security/grid-mapfile"),
        "Which names may use which accounts; read again when it changes. "
        "Not started by root: ~/.gridmap.",
    )
    gridmap_max_size: Size = _key(
        64 * 2**20, "A larger grid-mapfile is taken as unreadable: nobody is mapped."
    )
    default_service: ServiceName = _key(
        "jobmanager-fork", 'The service that "jobmanager" means, the one of contacts without name.'
    )
    job_contacts: Literal["per-identity", "shared"] = _key(
        "per-identity",
        '"per-identity": each identity\'s jobs have a port of their own. "shared": all jobs are '
        "reached on the gatekeeper's port, for firewalls and containers.",
    )
    job_contact_ports: Ports | None = _key(
        None,
        'Ports for job contacts, with "per-identity" only. Absent: any free port.',
        example='"20000-20999"',
    )
    max_connections: Positive = _key(
        1024, "Connections open at once; one more is closed unanswered."
    )
    max_connections_per_address: Positive = _key(
        256, "The same for each client address (IPv6: for each /64 network)."
    )
    connection_rate_per_address: OptionalRate = _key(
        None,
        "New connections from one address; more are closed unanswered. The number is also how "
        "many may come at once.",
    )
    failed_handshake_rate_per_address: OptionalRate = _key(
        Rate(600, 60),
        "Failed handshakes from one address; while it has more, its connections are closed "
        "unanswered.",
    )
    request_rate_per_identity: OptionalRate = _key(
        None, "Requests of one authenticated identity; more are refused."
    )
    handshake_timeout: Duration = _key(
        timedelta(seconds=30), "Time for a client to finish the TLS handshake."
    )
    request_timeout: Duration = _key(
        timedelta(seconds=60),
        "Time for a client to delegate and to send its whole request after the handshake.",
    )
    delegation_key: Literal["rsa2048", "ec-p256"] = _key(
        "rsa2048",
        'Keys for delegated credentials. "ec-p256" is much cheaper, but jobs cannot delegate '
        "further with older tools.",
    )
    delegation_key_reuse: Duration = _key(
        timedelta(hours=1),
        "How long a delegation key serves further delegations of the same identity; 0: never.",
    )
    minimum_proxy_lifetime: Duration = _key(
        timedelta(seconds=600), "A delegated credential that ends sooner is refused."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self.model_fields_set
        if "credential" in given and given & {"certificate", "private_key"}:
            raise ValueError("credential replaces certificate and private_key; give one or the two")
        if self.job_contacts == "shared" and "job_contact_ports" in given:
            raise ValueError('job_contact_ports is for job_contacts = "per-identity" only')
        return self


class State(Section):
    """Where the service keeps its jobs."""

    directory: FilePath = _key(
        Path("/var/lib/gram"),
        "Private directory of the service. Not started by root: ~/.local/state/gram.",
    )
    database: Database = Field(
        default="sqlite",
        description='"sqlite": a file in the directory; or postgresql+psycopg://user@host/name.',
        repr=False,
    )
    retention: Duration = _key(
        timedelta(days=7),
        "How long finished jobs stay in the database, for the operator; their contacts are gone.",
    )


class Service(Section):
    """Who the service is on this machine. Without root it is you, and so is every job."""

    account: Account = _key(
        "gram", "The unprivileged account that the service becomes when root starts it."
    )
    minimum_uid: Positive = _key(
        1000,
        "Accounts with a smaller user id are never used. Root is refused whatever is written here.",
    )


class Http(Section):
    """Metrics and health over plain HTTP."""

    listen: OptionalListen = _key(ListenAddress("127.0.0.1", 9119), "Address of the HTTP side.")
    allow_remote: bool = _key(
        False, "Allow an address that other machines can reach; there is no authentication."
    )

    @model_validator(mode="after")
    def _loopback(self) -> Self:
        if self.listen is not None and not self.listen.loopback and not self.allow_remote:
            raise ValueError(
                f"listen = {str(self.listen)!r} can be reached from other machines; "
                "write a loopback address (127.0.0.1, [::1]) or set allow_remote = true"
            )
        return self


class Log(Section):
    """Log records, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = _key("info", "The least level shown.")
    format: Literal["json", "console"] = _key(
        "json", '"json": one object a line, for machines. "console": for reading at a terminal.'
    )


class Authorisation(Section):
    """Who decides the account of a request. Every answer is checked: see minimum_uid, root."""

    method: Literal["gridmap", "command", "plugin"] = _key(
        "gridmap", "The grid-mapfile, a program, or a Python function."
    )
    command: Words | None = _key(
        None,
        'For "command": program and arguments. The request is one JSON object on its standard '
        "input; it prints the account on one line and exits 0. Anything else refuses.",
        example='["/usr/local/libexec/gram-authorise"]',
    )
    plugin: Plugin | None = _key(
        None,
        'For "plugin": an entry point of group gram.authorisers, or "package.module:function". '
        "The function takes an AuthorisationRequest and returns the account.",
        example='"site_gram.accounts:authorise"',
    )
    timeout: Duration = _key(timedelta(seconds=10), "A decision that takes longer refuses.")
    refuse_nologin_shells: bool = _key(
        False, "Refuse accounts whose login shell is nologin or false."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("command", "plugin"):
            if (self.method == name) != (getattr(self, name) is not None):
                raise ValueError(f'{name} and method = "{name}" go together; give both or none')
        if not self.timeout:
            raise ValueError("timeout = 0 would refuse everybody; write a time such as 10s")
        return self


class ServiceSettings(Section):
    """One service that clients can name, e.g. host/jobmanager-slurm."""

    lrm: Adapter = Field(
        description="The local resource manager that runs the jobs: fork, slurm, ..."
    )
    max_running: Positive | None = _key(
        None,
        "Jobs given to the resource manager at once; more wait. Absent: no limit.",
        example="64",
    )
    max_jobs_per_account: Positive | None = _key(
        None, "Unfinished jobs of one account; more are refused. Absent: no limit.", example="1000"
    )
    accept_limited: bool = _key(
        False, "Accept clients that come with a limited proxy, as jobs have."
    )


class Config(Section):
    """The whole file."""

    gatekeeper: Gatekeeper = Gatekeeper()
    state: State = State()
    service: Service = Service()
    http: Http = Http()
    log: Log = Log()
    authorisation: Authorisation = Authorisation()
    services: Mapping[ServiceName, ServiceSettings] = Field(
        {"jobmanager-fork": ServiceSettings(lrm="fork")}, min_length=1
    )

    @model_validator(mode="after")
    def _services(self) -> Self:
        if "jobmanager" in self.services:
            raise ValueError(
                'services.jobmanager: "jobmanager" is what gatekeeper.default_service names; '
                "give the service another name"
            )
        if self.gatekeeper.default_service not in self.services:
            raise ValueError(
                f"gatekeeper.default_service = {self.gatekeeper.default_service!r} is no service; "
                f"allowed: {', '.join(self.services)}"
            )
        return self
