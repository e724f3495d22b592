"""The configuration file: what is accepted, what is said when it is not, and its printing."""

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.config import Config, ConfigError, effective, load_config, reference
from gatekeeper.units import (
    ListenAddress,
    PortRange,
    Rate,
    format_duration,
    format_size,
    parse_duration,
    parse_listen,
    parse_port_range,
    parse_rate,
    parse_size,
)

EXAMPLE = Path(__file__).parents[2] / "conf/gram.toml.example"
DESIGN = """
[gatekeeper]
listen = ["[::]:2119"]
certificate = "/etc/grid-security/hostcert.pem"
private_key = "/etc/grid-security/hostkey.pem"
trusted_certificates = "/etc/grid-security/certificates"
gridmap = "/etc/grid-security/grid-mapfile"
default_service = "jobmanager-fork"      # what "jobmanager" means
job_contacts = "per-identity"            # or "shared": all on the gatekeeper's port
job_contact_ports = "20000-20999"        # per-identity only; absent: any free port
[state]
directory = "/var/lib/gram"
database = "sqlite"                      # or postgresql+psycopg://…
[http]
listen = "127.0.0.1:9119"
[services.jobmanager-fork]
lrm = "fork"
max_running = 64
[services.jobmanager-slurm]
lrm = "slurm"
"""


def load(tmp_path: Path, text: str | bytes, *, uid: int = 0, **environment: str) -> Config:
    path = tmp_path / "gram.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, uid=uid, home=tmp_path, environment=environment)


def problems(tmp_path: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    prefix = f"{tmp_path}/gram.toml: "
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    return tuple(problem.removeprefix(prefix) for problem in caught.value.problems)


def test_the_documented_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, DESIGN)
    assert config.gatekeeper.listen == (ListenAddress("::", 2119),)
    assert config.gatekeeper.job_contact_ports == PortRange(20000, 20999)
    assert config.gatekeeper.handshake_timeout == timedelta(seconds=30)
    assert config.gatekeeper.credential is None
    assert config.state.directory == Path("/var/lib/gram")
    assert config.http.listen == ListenAddress("127.0.0.1", 9119)
    assert config.services["jobmanager-fork"].max_running == 64
    assert config.services["jobmanager-slurm"].lrm == "slurm"


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load_config(uid=0) == Config()


def test_a_user_gets_paths_of_their_own(tmp_path: Path) -> None:
    config = load(tmp_path, "", uid=1234)
    assert config.gatekeeper.credential == Path("/tmp/x509up_u1234")
    assert config.gatekeeper.gridmap == tmp_path / ".gridmap"
    assert config.gatekeeper.trusted_certificates == Path("/etc/grid-security/certificates")
    assert config.state.directory == tmp_path / ".local/state/gram"
    assert config.service.minimum_uid == 1000
    assert load(tmp_path, "", uid=500).service.minimum_uid == 500


def test_a_users_environment_and_directories_count(tmp_path: Path) -> None:
    (tmp_path / ".globus/certificates").mkdir(parents=True)
    config = load(tmp_path, "", uid=1234)
    assert config.gatekeeper.trusted_certificates == tmp_path / ".globus/certificates"
    environment = {
        "X509_CERT_DIR": "/certs",
        "X509_USER_PROXY": "/proxy",
        "XDG_STATE_HOME": "/states",
    }
    config = load(tmp_path, "", uid=1234, **environment)
    assert config.gatekeeper.trusted_certificates == Path("/certs")
    assert config.gatekeeper.credential == Path("/proxy")
    assert config.state.directory == Path("/states/gram")
    assert load(tmp_path, "", uid=0, **environment) == Config()


def test_what_a_user_writes_wins_over_their_defaults(tmp_path: Path) -> None:
    text = '[gatekeeper]\ncertificate="/c"\nprivate_key="~/k"\n[state]\ndirectory="/s"\n'
    config = load(tmp_path, text, uid=1234)
    assert config.gatekeeper.credential is None
    assert config.gatekeeper.certificate == Path("/c")
    assert config.gatekeeper.private_key == Path("~/k").expanduser()
    assert config.state.directory == Path("/s")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[gatekeeper]\njob_contact="x"', "gatekeeper.job_contact: unknown key (did you mean"),
        ("[servicse]", "servicse: unknown key (did you mean service?); allowed: gatekeeper,"),
        (
            '[services.x]\nlrm="fork"\nqueue="q"',
            "services.x.queue: unknown key; allowed: lrm, max_running",
        ),
        (
            '[gatekeeper]\njob_contacts="x"',
            'gatekeeper.job_contacts: "x": not known; allowed: "per-identity" or "shared"',
        ),
        ("gatekeeper=3", "gatekeeper: must be a table, [gatekeeper]"),
        ("[services]\nx=3", "services.x: must be a table, [services.x]"),
        ("[services]", "services: must have at least one table"),
        ("[services.x]\nmax_running=1", "services.x.lrm: must be given"),
        ('[services."a b"]\nlrm="fork"', 'services.a b: "a b": not a service name; allowed:'),
        ('[services."../x"]\nlrm="fork"', 'services.../x: "../x": not a service name; allowed:'),
        ('[services.x]\nlrm="Fork!"', 'services.x.lrm: "Fork!": not a name of an adapter; write'),
        ('[services.jobmanager]\nlrm="fork"', 'services.jobmanager: "jobmanager" is what'),
        ('[services.x]\nlrm="fork"', "gatekeeper.default_service = 'jobmanager-fork' is no"),
        ('[gatekeeper]\nlisten=["::"]', 'gatekeeper.listen: ["::"]: not an address; write'),
        ("[gatekeeper]\nlisten=[]", "gatekeeper.listen: []: not a list of addresses; write"),
        ("[gatekeeper]\nhandshake_timeout=30", "gatekeeper.handshake_timeout: 30: not a duration"),
        (
            '[gatekeeper]\nmax_connections="5"',
            'gatekeeper.max_connections: "5": not allowed; write: whole number from 1',
        ),
        ("[gatekeeper]\nmax_connections=0", "gatekeeper.max_connections: 0: not allowed; write:"),
        ("[gatekeeper]\nmax_connections=true", "gatekeeper.max_connections: true: not allowed;"),
        ('[gatekeeper]\nhost_name="a b"', 'gatekeeper.host_name: "a b": not a host name; write'),
        ('[gatekeeper]\ngridmap="map"', 'gatekeeper.gridmap: "map": not a path; write an absolute'),
        ('[gatekeeper]\ngridmap="~nobodyhere/m"', "gatekeeper.gridmap:"),
        (
            '[gatekeeper]\ncredential="/p"\ncertificate="/c"',
            "gatekeeper: credential replaces certificate and private_key",
        ),
        (
            '[gatekeeper]\njob_contacts="shared"\njob_contact_ports="1-2"',
            'gatekeeper: job_contact_ports is for job_contacts = "per-identity" only',
        ),
        ('[http]\nlisten="0.0.0.0:1"', "http: listen = '0.0.0.0:1' can be reached from other"),
        ('[http]\nallow_remote="yes"', 'http.allow_remote: "yes": not allowed; write: true or fa'),
        ('[authorisation]\nmethod="command"', 'authorisation: command and method = "command" go'),
        ('[authorisation]\nmethod="plugin"', 'authorisation: plugin and method = "plugin" go'),
        ('[authorisation]\ncommand=["/x"]', 'authorisation: command and method = "command" go'),
        ("[authorisation]\ntimeout=0", "authorisation: timeout = 0 would refuse everybody"),
        ("[service]\nminimum_uid=0", "service.minimum_uid: 0: not allowed; write: whole number"),
        ('[service]\naccount="a b"', 'service.account: "a b": not an account name; write'),
        ("[log]\nlevel=3", 'log.level: 3: not known; allowed: "debug", "info", "warning" or'),
        ("[a", "not TOML: "),
        ("[log]\n[log]", "not TOML: "),
        (b'a="\xff"', "not UTF-8 text, at byte 3"),
        (b"#" * (2**20 + 1), "larger than 1MiB"),
    ],
)
def test_each_problem_is_one_readable_line(tmp_path: Path, text: str | bytes, problem: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(problem)
    assert "\n" not in found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, '[gatekeeper]\nlisten=3\nx=1\n[log]\nlevel="loud"')
    assert len(found) == 3


def test_the_database_is_never_shown_with_its_password(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, '[state]\ndatabase="mysql://gram:canary@x/y"')
    assert found.startswith("state.database: not a database; write")
    assert "canary" not in found
    for url in (
        "postgresql+psycopg://gram:canary@db.example.org:5432/gram",
        "postgresql+psycopg://gram@db/gram?sslmode=require&password=canary",
    ):
        config = load(tmp_path, f'[state]\ndatabase="{url}"')
        assert config.state.database == url
        assert "canary" not in effective(config) + repr(config)
        assert "db" in effective(config)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_switching_off(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[http]\nlisten="off"\n'
        '[gatekeeper]\nfailed_handshake_rate_per_address="off"\ndelegation_key_reuse=0\n',
    )
    assert config.http.listen is None
    assert config.gatekeeper.failed_handshake_rate_per_address is None
    assert config.gatekeeper.delegation_key_reuse == timedelta()


def test_remote_http_must_be_asked_for(tmp_path: Path) -> None:
    config = load(tmp_path, '[http]\nlisten="0.0.0.0:80"\nallow_remote=true')
    assert config.http.listen == ListenAddress("0.0.0.0", 80)  # noqa: S104 - nothing binds it
    for loopback in ("127.0.0.9:1", "[::1]:1", "localhost:1"):
        assert load(tmp_path, f'[http]\nlisten="{loopback}"').http.listen is not None


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().gatekeeper.max_connections = 5  # type: ignore[misc]


# --- printing -----------------------------------------------------------------------------------


def test_the_example_file_is_the_reference() -> None:
    assert EXAMPLE.read_text() == reference()


def test_the_reference_says_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, reference()) == Config()


def test_every_setting_of_the_reference_may_be_set(tmp_path: Path) -> None:
    text = reference()
    every = re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    tables = tomllib.loads(every)
    documented = {(section, key) for section, table in tables.items() for key in table}
    expected = {
        (section, key)
        for section, field in Config.model_fields.items()
        if section != "services"
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }
    assert {pair for pair in documented if pair[0] != "services"} == expected
    for exclusive in ("credential", "command", "plugin"):
        every = re.sub(rf"^{exclusive} = .*$", "", every, flags=re.MULTILINE)
    assert load(tmp_path, every).gatekeeper.host_name == "gram.example.org"
    assert max(map(len, text.splitlines())) <= 100


def test_every_key_has_a_description() -> None:
    for section in Config.model_fields.values():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, name
            assert field.description.endswith((".", "..."))


@pytest.mark.parametrize(
    "text",
    [
        "",
        DESIGN,
        '[http]\nlisten="off"\n[gatekeeper]\nconnection_rate_per_address="5/s"',
        '[gatekeeper]\ncredential="/p"\nhost_name="h"\nrequest_rate_per_identity="9/h"',
        '[authorisation]\nmethod="command"\ncommand=["/bin/x", "a \\"b\\" \\u007f ö"]',
    ],
)
def test_what_is_in_force_can_be_loaded_again(tmp_path: Path, text: str) -> None:
    config = load(tmp_path, text)
    printed = effective(config)
    again = load(tmp_path, printed)
    assert again == config
    assert effective(again) == printed


# --- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("250ms", 0.25), ("1.5h", 5400), ("7d", 604800), ("2 m", 120), ("1w", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        *("", "s", "30", "-1s", "1e3s", "30 S", "1h30m", " 1s", "١s", "9" * 17 + "s"),
        *("999999999999999w", "36501d", 30, 1.5, None, True, False),
    ],
)
def test_no_durations(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


@given(st.integers(0, 36_500 * 86_400_000))
def test_durations_print_as_they_are_read(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("value", "size"),
    [("10MiB", 10 * 2**20), ("4kB", 4000), (512, 512), ("1.5KiB", 1536), ("7B", 7), (0, 0)],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["10", "10mb", "10 mib", "-1B", "KiB", -1, 1.5, True, None, ""])
def test_no_sizes(value: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(value)


@given(st.integers(0, 2**50))
def test_sizes_print_as_they_are_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_rates() -> None:
    assert parse_rate("600/min") == Rate(600, 60)
    assert Rate(600, 60).per_second == 10
    assert str(parse_rate("5/h")) == "5/h"
    assert parse_rate("off") is None
    for value in ("0/s", "5", "5/d", "-5/s", 5, None, "1.5/s"):
        with pytest.raises(ValueError, match="not a rate"):
            parse_rate(value)


def test_addresses() -> None:
    assert parse_listen("[::1]:0") == ListenAddress("::1", 0)
    assert str(ListenAddress("::", 2119)) == "[::]:2119"
    assert str(ListenAddress("host.example.org", 1)) == "host.example.org:1"
    for value in (
        "host",
        ":1",
        "::1:5",
        "[host]:1",
        "[:::]:1",
        "h:65536",
        "h:-1",
        "h:1\n",
        1,
        None,
    ):
        with pytest.raises(ValueError, match="not an"):
            parse_listen(value)


def test_port_ranges() -> None:
    assert list(parse_port_range("5-7").ports) == [5, 6, 7]
    for value in ("7-5", "0-5", "5", "1-65536", "a-b", 5, None):
        with pytest.raises(ValueError, match="not a port range"):
            parse_port_range(value)


def test_the_process_decides_whose_defaults_hold(tmp_path: Path) -> None:
    config = load_config(environment={}, home=tmp_path)
    assert (config.gatekeeper.gridmap == tmp_path / ".gridmap") == (os.geteuid() != 0)
