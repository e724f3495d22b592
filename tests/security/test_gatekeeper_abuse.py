"""Misuse of a running service (gatekeeper.md 22): after each case it is well and nothing is left.

The rows are those of that section. What the transport alone decides has further cases in
tests/aio/test_abuse.py, what the parser alone decides in
tests/protocol/test_gatekeeper_requests.py. The fixture `gate` checks the service after every test:
a ping succeeds, no descriptor and no process is left over, no control character is in the log.
"""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from gram.labca import USER_EXTENSIONS, LabCA, make_name
from protocol.gsi import der
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import make_request, sign_request
from protocol.gsi.names import subject_hash
from protocol.gsi.proxies import ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from tests.gsi import forge
from tests.support.keys import rsa_key
from tests.support.raw_client import (
    OK,
    TOO_LARGE,
    RawClient,
    ask,
    context,
    error_reply,
    load,
    message,
    query,
)
from tests.support.server import Server
from tests.support.site import Site, make_site

PING = message(b"ping/jobmanager")
PONG = OK % (0, b"")
FORBIDDEN, NOT_FOUND, ERROR = error_reply(403), error_reply(404), error_reply(500)
HANDSHAKE = "4s"
FLOOD_CAP = 200

DAY = timedelta(days=1)


def descendants(pid: int) -> set[int]:
    """The processes below pid, without the ones that have ended and wait for their parent."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


def until(check: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait until something is so; False when it never was."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Gate:
    """The running service and what it occupied when it was idle."""

    site: Site
    server: Server
    alice: ssl.SSLContext
    descriptors: int = 0
    processes: int = 0

    @property
    def port(self) -> int:
        return int(self.server.contact.rpartition(":")[2])

    def settings(self, credential: Credential | None) -> ssl.SSLContext:
        return context(self.site.directory, credential)

    def ask(self, request: bytes, credential: Credential | None = None) -> bytes:
        settings = self.alice if credential is None else self.settings(credential)
        return ask(self.port, settings, request)

    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))

    def measure(self) -> None:
        """Take what is occupied now as the idle state."""
        time.sleep(0.5)
        self.descriptors = self.open_descriptors()
        self.processes = len(descendants(self.server.pid))

    def check(self) -> None:
        """Nothing is left and the service is well."""
        settled = until(
            lambda: (
                self.open_descriptors() <= self.descriptors
                and len(descendants(self.server.pid)) <= self.processes
            )
        )
        now = self.open_descriptors(), len(descendants(self.server.pid))
        assert settled, f"{now} descriptors and processes, {self.descriptors, self.processes} idle"
        assert self.ask(PING) == PONG
        log = self.server.log_path.read_bytes()
        assert not re.search(rb"[\0-\x09\x0b-\x1f\x7f]", log)
        assert b"Traceback" not in log


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Gate]:
    server = site.configure(
        "abused",
        gatekeeper=(
            f'handshake_timeout = "{HANDSHAKE}"\n'
            'request_timeout = "4s"\n'
            f"max_connections_per_address = {FLOOD_CAP}\n"
            'failed_handshake_rate_per_address = "off"'
        ),
    ).start()
    made = Gate(site, server, context(site.directory, site.alice.credential))
    submit(made, "&(executable=/bin/true)")  # starts what alice's first job starts
    for _ in range(3):
        assert made.ask(PING) == PONG
    made.measure()
    yield made
    assert server.stop() == 0, server.log


@pytest.fixture
def gate(running: Gate) -> Iterator[Gate]:
    yield running
    running.check()


# --- rows 1 to 18: transport ----------------------------------------------------------------------

NOT_TLS = {
    "row 1: nothing": b"",
    "row 4: POST": b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n",
    "row 5: GET": b"GET / HTTP/1.1\r\n\r\n",
    "row 5: SSH": b"SSH-2.0-x\r\n",
    "row 5: SMTP": b"EHLO example.org\r\n",
    "row 6: token of 0": b"\0\0\0\0",
    "row 6: token of 5": b"\0\0\0\5xxxxx",
    "row 6: token of 2^24": b"\1\0\0\0",
    "row 6: token of 2^24+1": b"\1\0\0\1",
    "row 6: token of 0xfffffff0": b"\xff\xff\xff\xf0",
    "row 7: record of 0": b"\x16\x03\x01\0\0",
    "row 7: record of 65535": b"\x16\x03\x01\xff\xffshort",
    "row 8: type 26, 31 bits": b"\x1a\x03\x7f\xff\xff\xff" + bytes(2_000_000),
    "row 8: type 26, 32 bits": b"\x1a\x03\xff\xff\xff\xff" + bytes(2_000_000),
    "row 9: SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
}


def knock(port: int, data: bytes) -> bytes:
    """Send bytes and our end, return the answer."""
    with RawClient(port) as client:
        if client.write(data):
            client.half_close()
        return client.read_to_end()


def test_what_is_not_tls_is_closed_unanswered(gate: Gate) -> None:
    assert {name: knock(gate.port, data) for name, data in NOT_TLS.items()} == dict.fromkeys(
        NOT_TLS, b""
    )


def test_rows_13_and_14_records_out_of_place_get_an_alert(gate: Gate) -> None:
    for record in (b"\x17\x03\x03\0\4data", b"\x15\x03\x03\0\2\2\x28", b"\x14\x03\x03\0\1\1"):
        answer = knock(gate.port, record)
        assert answer == b"" or answer[0] == 0x15


STALLS: dict[str, Callable[[Gate, RawClient], object]] = {
    "row 2: nothing": lambda gate, client: None,
    "row 2: one byte": lambda gate, client: client.write(b"\0"),
    "row 7: half a record": lambda gate, client: client.write(b"\x16\x03\x01\x01\x00x"),
    "row 6: half a token": lambda gate, client: client.write(b"\0\0\1\x45\x16\x03"),
    "row 16: handshake": lambda gate, client: client.open(gate.alice),
    "row 38: delegation": lambda gate, client: client.open(gate.alice).send(b"D"),
    "row 38: half a certificate": lambda gate, client: (
        client.open(gate.alice).send(b"D"),
        client.send(b"\x30\x82\x03\x00abc"),
    ),
    "no request": lambda gate, client: client.open(gate.alice).send(b"0"),
    "half a header": lambda gate, client: client.open(gate.alice).send(b"0POST ping/"),
    "half a body": lambda gate, client: client.open(gate.alice).send(
        b"0" + message(b"/jobmanager", b"protocol", length=b"100")
    ),
}


def test_rows_2_16_38_whoever_stalls_is_cut_off(gate: Gate) -> None:
    with ExitStack() as stack:
        clients = {}
        for name, stall in STALLS.items():
            clients[name] = stack.enter_context(RawClient(gate.port))
            stall(gate, clients[name])
        for name, client in clients.items():
            rest = client.read_to_end()  # at most an alert (close_notify), in a record
            assert b"HTTP" not in rest, name


def test_row_11_a_trickle_does_not_win_time(gate: Gate) -> None:
    trickle = b"\0\0\x01\x45\x16\x03\x01\x01\x40".ljust(200, b"\1")
    with RawClient(gate.port) as client:
        for i in range(len(trickle)):
            if not (client.write(trickle[i : i + 1]) and gate_open(client)):
                break
            time.sleep(0.1)
        else:
            pytest.fail("a client that sends a byte now and then is never cut off")


def gate_open(client: RawClient) -> bool:
    """Whether the server has not closed the connection."""
    client.sock.setblocking(False)
    try:
        return client.sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.sock.settimeout(20)


def test_row_17_half_closed_everywhere(gate: Gate) -> None:
    for sent in (b"", b"0", b"0POST ping/jobmanager HT"):
        with RawClient(gate.port).open(gate.alice) as client:
            client.send(sent)
            client.half_close()
            assert client.receive_to_end() in (b"", NOT_FOUND)
    with RawClient(gate.port).open(gate.alice) as client:  # P24: a request, then just FIN
        client.send(b"0" + PING)
        client.half_close()
        assert client.receive_to_end() == PONG


def test_row_18_resets_in_every_phase(gate: Gate) -> None:
    phases: list[Callable[[RawClient], object]] = [
        lambda client: None,
        lambda client: client.write(b"\0\0\1\x45\x16\x03"),
        lambda client: client.open(gate.alice),
        lambda client: client.open(gate.alice).send(b"D"),
        lambda client: client.open(gate.alice).send(b"0POST"),
        lambda client: client.open(gate.alice).send(b"0" + PING),
        lambda client: (
            client.open(gate.alice)
            .delegate(gate.site.alice.credential)
            .send(job_request("&(executable=/bin/true)"))
        ),
    ]
    for phase in phases:
        client = RawClient(gate.port)
        phase(client)
        client.reset()


def test_a_client_that_never_reads_its_reply(gate: Gate) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(RawClient(gate.port).open(gate.alice))
            client.send(b"0" + PING)
        assert gate.ask(PING) == PONG


def test_row_3_half_open_connections_have_a_cap_for_each_address(gate: Gate) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(RawClient(gate.port)) for _ in range(FLOOD_CAP + 100)]
        for client in idle[FLOOD_CAP + 10 :]:
            assert client.read_to_end() == b""  # closed unanswered at once
        # Really closed, although none of these clients has closed its end.
        assert gate.open_descriptors() <= gate.descriptors + FLOOD_CAP
        assert all(gate_open(client) for client in idle[:10])
        with RawClient(gate.port, source="127.0.0.2").open(gate.alice) as other:
            other.send(b"0" + PING)
            assert other.receive_to_end() == PONG


def test_a_port_scan_leaves_nothing(gate: Gate) -> None:
    for number in range(500):
        client = RawClient(gate.port)
        if number % 2:
            client.reset()
        else:
            client.sock.close()


@pytest.fixture
def rated(site: Site) -> Iterator[int]:
    """The port of a service that lets an address fail twenty times."""
    server = site.configure("rated", gatekeeper='failed_handshake_rate_per_address = "20/h"')
    server.start()
    yield int(server.contact.rpartition(":")[2])
    assert server.stop() == 0, server.log


def test_failed_handshakes_shut_out_their_address_only(site: Site, rated: int) -> None:
    settings = context(site.directory, site.alice.credential)
    for _ in range(30):
        assert knock(rated, b"GET / HTTP/1.1\r\n\r\n") == b""
    with RawClient(rated) as client, pytest.raises(ssl.SSLError):
        client.handshake(settings)
    with RawClient(rated, source="127.0.0.2").open(settings) as other:
        other.send(b"0" + PING)
        assert other.receive_to_end() == PONG


# --- rows 20 to 31: certificates ------------------------------------------------------------------


def issue(ca: LabCA, subject: str, start: datetime, *, serial: int = 77) -> Credential:
    key = rsa_key("someone")
    certificate = ca.sign(
        make_name(subject), key.public_key(), USER_EXTENSIONS,
        not_before=start, lifetime=DAY, serial=serial,
    )  # fmt: skip
    return Credential(certificate, key)


def named(ca: LabCA, subject: bytes) -> Credential:
    """A certificate of the trusted CA with any DER name."""
    key = rsa_key("someone")
    assert isinstance(ca.key, rsa.RSAPrivateKey)
    now = datetime.now(UTC)
    certificate = forge.certificate(
        subject=subject, issuer=ca.name.public_bytes(), signer=ca.key, key=key,
        not_before=now - DAY, not_after=now + DAY,
    )  # fmt: skip
    return Credential(certificate, key)


def other_ca(site: Site, name: str, *, now: datetime, crl: bytes | None = None) -> LabCA:
    """Another CA that the service trusts."""
    ca = LabCA(
        site.directory / name, subject=f"/O={name}/CN=CA", base=f"/O={name}",
        key=rsa_key("other ca"), now=now,
    )  # fmt: skip
    ca.ca_directory(site.certificates, crl=crl)
    return ca


def refused_credentials(site: Site) -> Iterator[tuple[str, Credential]]:
    """What rows 21 to 26 describe: each would be alice, but for one thing."""
    now = datetime.now(UTC)
    alice = site.alice.credential
    yield "row 21: expired user", issue(site.ca, "/O=Gram Lab/CN=alice", now - 9 * DAY)
    yield (
        "row 21: expired proxy",
        forge.proxy(alice, not_before=now - 2 * DAY, not_after=now - DAY),
    )
    old = other_ca(site, "Old", now=now - 90 * DAY)
    yield "row 21: expired CA", issue(old, "/O=Old/CN=alice", now - DAY / 2)
    yield "row 22: not yet valid", issue(site.ca, "/O=Gram Lab/CN=alice", now + DAY)
    stranger = LabCA(site.directory / "unknown", subject="/O=Unknown/CN=CA", key=rsa_key("far ca"))
    yield "row 23: unknown CA", issue(stranger, "/O=Gram Lab/CN=alice", now - DAY / 2)
    double = LabCA(site.directory / "double", key=rsa_key("far ca"))
    yield "row 23: a CA of the same name", issue(double, "/O=Gram Lab/CN=alice", now - DAY / 2)
    itself = LabCA(site.directory / "self", subject="/O=Gram Lab/CN=alice", key=rsa_key("someone"))
    yield "row 23: self-signed", Credential(itself.certificate, rsa_key("someone"))
    yield "row 24: signing policy", issue(site.ca, "/O=Elsewhere/CN=alice", now - DAY / 2)
    maker = LabCA(site.directory / "maker", subject="/O=Revoking/CN=CA", key=rsa_key("other ca"))
    revoking = other_ca(site, "Revoking", now=now, crl=maker.crl([77]))
    revoked = issue(revoking, "/O=Revoking/CN=alice", now - DAY / 2)
    yield "row 25: revoked", revoked
    yield "row 25: proxy of a revoked user", create_proxy(revoked, key=rsa_key("proxy"))
    maker = LabCA(site.directory / "maker", subject="/O=Stale/CN=CA", key=rsa_key("other ca"))
    stale = other_ca(site, "Stale", now=now, crl=maker.crl(last_update=now - 9 * DAY, lifetime=DAY))
    yield "row 25: expired CRL", issue(stale, "/O=Stale/CN=alice", now - DAY / 2)
    corrupt = other_ca(site, "Corrupt", now=now)
    (site.certificates / f"{subject_hash(corrupt.name)}.r0").write_bytes(b"garbage")
    yield "row 25: corrupt CRL", issue(corrupt, "/O=Corrupt/CN=alice", now - DAY / 2)
    limited = create_proxy(alice, key=rsa_key("proxy"), policy=ProxyPolicy.LIMITED)
    yield "row 26: limited", limited
    yield (
        "row 26: full below limited",
        forge.proxy(limited, not_before=now - DAY / 24, not_after=now + DAY / 24),
    )
    last = create_proxy(alice, key=rsa_key("proxy"), path_length=0)
    yield (
        "row 27: path length",
        forge.proxy(last, not_before=now - DAY / 24, not_after=now + DAY / 24),
    )


def test_rows_21_to_27_refused_certificates_get_403(gate: Gate) -> None:
    site = gate.site
    allowed = {
        f"/O={name}/CN=alice" for name in ("Old", "Elsewhere", "Revoking", "Stale", "Corrupt")
    }
    before = site.gridmap.read_text()
    login = site.alice.login
    site.gridmap.write_text(before + "".join(f'"{name}" {login}\n' for name in sorted(allowed)))
    try:
        answers = {name: gate.ask(PING, cred) for name, cred in refused_credentials(site)}
    finally:
        site.gridmap.write_text(before)
    assert answers == dict.fromkeys(answers, FORBIDDEN)


def test_row_25_a_current_revocation_list_without_the_user_harms_nobody(gate: Gate) -> None:
    # So that the refusals above are for what they say: the same CA and name, and the answer is yes.
    site, now = gate.site, datetime.now(UTC)
    maker = LabCA(site.directory / "maker", subject="/O=Good/CN=CA", key=rsa_key("other ca"))
    good = other_ca(site, "Good", now=now, crl=maker.crl([78]))
    before = site.gridmap.read_text()
    site.gridmap.write_text(f'{before}"/O=Good/CN=alice" {site.alice.login}\n')
    try:
        assert gate.ask(PING, issue(good, "/O=Good/CN=alice", now - DAY / 2)) == PONG
    finally:
        site.gridmap.write_text(before)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_row_20_no_certificate_no_answer(gate: Gate, version: ssl.TLSVersion) -> None:
    anonymous = context(gate.site.directory, None, version)
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
        query(gate.port, anonymous, b"0" + PING)


def odd_names(site: Site) -> dict[str, bytes]:
    """Names that are not alice's, however they are written into logs and maps."""
    lab = forge.attribute("2.5.4.10", b"Gram Lab")
    name = site.alice.name

    def user(value: bytes, tag: int = der.UTF8_STRING) -> bytes:
        return forge.name(lab, forge.attribute("2.5.4.3", value, tag))

    return {
        "row 29: long": user(b"a" * 2500),
        "row 29: 200 parts": forge.name(lab, *([forge.common_name(name)] * 200)),
        "row 30: LF": user(f"{name}\n".encode()),
        "row 30: NUL": user(f"{name}\0x".encode()),
        "row 30: quote": user(f'{name}" root'.encode()),
        "row 30: backslash": user(f"{name}\\".encode()),
        "row 30: %n": user(f"{name}%n%s%x".encode()),
        "row 30: UTF-8": user(f"{name}é".encode()),
        "row 30: escape sequence": user(f"\x1b[2J{name}".encode()),
        "row 30: embedded name": forge.name(
            forge.attribute("2.5.4.10", f"Gram Lab/CN={name}".encode())
        ),
        "row 30: embedded name below": forge.name(lab, forge.common_name(f"x/CN={name}")),
        "row 31: empty": forge.name(),
        "row 35: anonymous": forge.name(forge.common_name("<anonymous>")),
    }


def test_rows_29_to_35_odd_names_are_nobody(gate: Gate) -> None:
    site = gate.site
    answers = {
        name: gate.ask(PING, named(site.ca, subject)) for name, subject in odd_names(site).items()
    }
    assert answers == dict.fromkeys(answers, FORBIDDEN)
    same = forge.name(forge.attribute("2.5.4.10", b"Gram Lab"), forge.common_name(site.alice.name))
    assert gate.ask(PING, named(site.ca, same)) == PONG  # the forge makes certificates that work


# --- rows 36 to 39: delegation --------------------------------------------------------------------


@pytest.mark.parametrize("flag", [b"1", b"\0", b"d", b"DD", b"\xff" * 100])
def test_row_36_other_flags_end_the_connection(gate: Gate, flag: bytes) -> None:
    with RawClient(gate.port).open(gate.alice) as client:
        client.send(flag)
        client.send(PING)
        client.half_close()
        answer = client.receive_to_end()
    assert b"HTTP" not in answer


def test_row_36_what_follows_the_flag_in_its_record_is_the_request(gate: Gate) -> None:
    with RawClient(gate.port).open(gate.alice) as client:
        client.send(b"0" + PING)
        assert client.receive_to_end() == PONG


def expired_reply(request: bytes, issuer: Credential) -> bytes:
    public = x509.load_der_x509_csr(request).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    assert isinstance(issuer.private_key, rsa.RSAPrivateKey)
    now = datetime.now(UTC)
    owner = issuer.certificate.subject.public_bytes()
    made = forge.certificate(
        subject=forge.below(owner, forge.common_name("7")), issuer=owner,
        signer=issuer.private_key, key=public, extensions=(forge.proxy_extension(),),
        not_before=now - 2 * DAY, not_after=now - DAY,
    )  # fmt: skip
    return made.public_bytes(Encoding.DER)


REPLIES: dict[str, Callable[[bytes, Credential, Site], bytes]] = {
    "row 37: garbage": lambda request, alice, site: b"garbage",
    "row 37: DER, but no certificate": lambda request, alice, site: b"\x30\x03\x02\x01\x05",
    "row 37: truncated": lambda request, alice, site: sign_request(request, alice).public_bytes(
        Encoding.DER
    )[:-50],
    "row 37: another key": lambda request, alice, site: sign_request(
        make_request(rsa_key("someone")), alice
    ).public_bytes(Encoding.DER),
    "row 37: another issuer": lambda request, alice, site: sign_request(
        request, site.mallory.credential
    ).public_bytes(Encoding.DER),
    "row 37: not a proxy": lambda request, alice, site: alice.certificate.public_bytes(
        Encoding.DER
    ),
    "row 37: 10 MB": lambda request, alice, site: b"\x30\x83\x98\x96\x80" + bytes(10_000_000),
    "row 39: expired": lambda request, alice, site: expired_reply(request, alice),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_rows_37_and_39_useless_delegations_end_the_connection(gate: Gate, reply: str) -> None:
    alice = gate.site.alice.credential
    with RawClient(gate.port).open(gate.alice) as client:
        client.send(b"D")
        sent = client.send(REPLIES[reply](client.receive(), alice, gate.site))
        if sent and client.send(job_request("&(executable=/bin/true)")):
            client.half_close()
        assert b"200 OK" not in client.receive_to_end()


# --- rows 40 to 54: requests ----------------------------------------------------------------------

JOB = b"/jobmanager"
BODY = b"protocol-version: 2\r\nnothing: 1\r\n\0"
UNPACK = b"status: 91\r\n"


def post(line: bytes) -> bytes:
    return line + b"\r\nHost: h\r\nContent-Length: 0\r\n\r\n"


def with_headers(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST ping/jobmanager HTTP/1.1\r\n" + headers + b"\r\n\r\n" + body


REQUESTS: dict[str, tuple[bytes, bytes]] = {
    "row 40: endless header": (b"POST ping/jobmanager HTTP/1.1\r\nX: " + b"A" * 10**6, NOT_FOUND),
    "row 41: NUL first": (b"\0" + PING, NOT_FOUND),
    "row 41: NUL inside": (PING.replace(b"ping/", b"ping/\0"), NOT_FOUND),
    "row 42: LF only": (PING.replace(b"\r\n", b"\n"), NOT_FOUND),
    "row 43: GET": (post(b"GET ping/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 43: PUT": (post(b"PUT ping/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 43: lower case": (post(b"post ping/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 43: leading blank": (b" " + PING, NOT_FOUND),
    "row 43: leading CRLF": (b"\r\n" + PING, NOT_FOUND),
    "row 43: two blanks": (post(b"POST  ping/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 44: empty service": (post(b"POST / HTTP/1.1"), NOT_FOUND),
    "row 44: empty service, user": (post(b"POST /@u HTTP/1.1"), NOT_FOUND),
    "row 44: no slash": (post(b"POST ping HTTP/1.1"), NOT_FOUND),
    "row 44: pingx": (post(b"POST pingx/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 44: slash ping": (post(b"POST /ping/jobmanager HTTP/1.1"), NOT_FOUND),
    "row 44: two slashes": (post(b"POST ping//jobmanager HTTP/1.1"), NOT_FOUND),
    "row 44: URL": (post(b"POST https://h/jobmanager HTTP/1.1"), NOT_FOUND),
    **{
        f"row 45: {name[:12]!r} {len(name)}": (message(b"ping/" + name), NOT_FOUND)
        for name in (
            *(b".", b"..", b"../x", b"%2e%2e", b"available/x", b"a\tb", b"a\rb", b"a\xff"),
            *(b"%n%s%x", b"s" * 255, b"s" * 256, b"s" * 257, b"s" * 5000, b"s" * 60000),
        )
    },
    **{
        f"row 47: @{name[:12]!r} {len(name)}": (message(b"ping/jobmanager@" + name), FORBIDDEN)
        for name in (b"root", b"nobody", b"a@b", b"a/b", b"u" * 300, b"u" * 5000, b"-", b".pool")
    },
    "row 47: @ empty": (message(b"ping/jobmanager@"), PONG),
    "row 47: @ with CR": (message(b"ping/jobmanager@a\rb"), NOT_FOUND),
    "row 47: @ of format text": (message(b"ping/jobmanager@%n%s%x"), FORBIDDEN),
    **{
        f"row 48: {headers[:40]!r}": (with_headers(headers), ERROR)
        for headers in (
            *(b"X: y", b"Content-Length:", b"Content-Length: abc", b"Content-Length: -1"),
            *(b"Content-Length: +5", b"Content-Length: 0x10", b"Content-Length: 5junk"),
            b"Content-Length: 0\r\nContent-Length: 1",
        )
    },
    "row 48: in the body only": (with_headers(b"X: y", b"\r\nContent-Length: 0\r\n\r\n"), ERROR),
    "row 48: lower case": (with_headers(b"content-length: 0"), PONG),
    **{
        f"row 48: {length[:12]!r}": (message(JOB, BODY, length=length), TOO_LARGE)
        for length in (b"2147483648", b"9223372036854775808", b"1" + b"0" * 30)
    },
    "row 49: body too short": (message(JOB, BODY, length=b"5000"), NOT_FOUND),
    "row 50: surplus": (PING + b"surplus" * 100, PONG),
    "row 51: 63999": (message(JOB, BODY.ljust(63_999)), UNPACK),
    "row 51: 64000": (message(JOB, BODY.ljust(64_000)), TOO_LARGE),
    "row 51: 64001": (message(JOB, BODY.ljust(64_001)), TOO_LARGE),
    "row 51: 10^6": (message(JOB, BODY.ljust(10**6)), TOO_LARGE),
    "row 52: chunked": (with_headers(b"Transfer-Encoding: chunked", b"0\r\n\r\n"), ERROR),
    "row 52: expect": (with_headers(b"Expect: 100-continue\r\nContent-Length: 0"), PONG),
    "row 52: 1000 headers": (with_headers(b"\r\n".join([b"X-Long: yyyy"] * 1000)), NOT_FOUND),
    "row 52: 300 headers": (with_headers(b"X: y\r\n" * 300 + b"Content-Length: 0"), PONG),
    "row 53: pipelined": (PING + PING, PONG),
    "row 54: header": (with_headers(b"%n%s: %n%s%x\r\nContent-Length: 0"), PONG),
    "row 54: body": (message(JOB, b"%n%s%x: %n\r\n\0"), UNPACK),
}


def test_rows_40_to_54_requests(gate: Gate) -> None:
    wrong = {}
    for name, (request, expected) in REQUESTS.items():
        with RawClient(gate.port).open(gate.alice) as client:
            if client.send(b"0" + request):
                client.half_close()
            answer = client.receive_to_end()
        if answer != expected and not (expected is UNPACK and UNPACK in answer):
            wrong[name] = answer
    assert wrong == {}


def test_a_stranger_learns_nothing_about_services(gate: Gate) -> None:
    mallory = gate.site.mallory.credential
    for service in (b"jobmanager", b"jobmanager-fork", b"nothing"):
        assert gate.ask(message(b"ping/" + service), mallory) == FORBIDDEN


def test_row_51_one_byte_in_a_record(gate: Gate) -> None:
    body = BODY.ljust(3000)
    with RawClient(gate.port).open(gate.alice) as client:
        for byte in b"0" + message(JOB, body):
            client.send(bytes([byte]))
        assert UNPACK in client.receive_to_end()


# --- the job manager's port -----------------------------------------------------------------------


def job_request(rsl: str, callback: str = "") -> bytes:
    body = (
        "protocol-version: 2\r\njob-state-mask: 1048575\r\n"
        f'callback-url: {callback}\r\nrsl: "{rsl}"\r\n\0'
    )
    return message(b"/jobmanager", body.encode())


def submit(gate: Gate, rsl: str, callback: str = "") -> tuple[int, bytes]:
    """Submit as alice; the port and the path of the contact."""
    with RawClient(gate.port).open(gate.alice).delegate(gate.site.alice.credential) as client:
        client.send(job_request(rsl, callback))
        reply = client.receive_to_end()
    found = re.search(rb"job-manager-url: https://localhost:(\d+)(/\d+/\d+/)\r\n", reply)
    assert found, reply
    return int(found[1]), found[2]


STATUS = b'protocol-version: 2\r\n"status"\r\n\0'


def status(gate: Gate, contact: tuple[int, bytes], credential: Credential | None = None) -> bytes:
    settings = gate.alice if credential is None else gate.settings(credential)
    return query(contact[0], settings, message(contact[1], STATUS))


def failure(reply: bytes) -> int:
    found = re.search(rb"\r\nfailure-code: (\d+)\r\n", reply)
    assert found, reply
    return int(found[1])


ACTIVE = b"\r\nstatus: 2\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: Close\r\n\r\n"


def bad_queries(path: bytes) -> dict[str, bytes]:
    good = message(path, STATUS)
    return {
        "GET": good.replace(b"POST", b"GET"),
        "no length": b"POST %b HTTP/1.1\r\nHost: h\r\n\r\n" % path + STATUS,
        "bad length": message(path, STATUS, length=b"-1"),
        "too large": message(path, length=b"64000"),
        "short body": message(path, STATUS, length=b"500"),
        "endless header": good[:-50].replace(b"Host: h", b"Host: " + b"h" * 10**5),
        "NUL": good.replace(b"Host", b"Ho\0st"),
        "LF only": good.replace(b"\r\n", b"\n"),
        "garbage": message(path, b"garbage"),
        "sync byte first": b"\0" + good,
    }


def test_the_job_managers_port(gate: Gate) -> None:
    port, path = submit(gate, "&(executable=/bin/sleep)(arguments=611)")
    try:
        answers = {name: knock(port, data) for name, data in NOT_TLS.items()}
        assert answers == dict.fromkeys(NOT_TLS, b"")
        answers = {}
        for name, request in bad_queries(path).items():
            with RawClient(port).handshake(gate.alice, prefixes=False) as client:
                if client.send(request):
                    client.half_close()
                answers[name] = client.receive_to_end()
        assert answers == dict.fromkeys(answers, BAD_REQUEST)
        for other in (b"/1/2/", b"/", path + b"x", b"/../..%2f", b"/" + b"x" * 5000):
            assert failure(status(gate, (port, other))) == 156
        for phase in range(3):
            client = RawClient(port)
            if phase:
                client.handshake(gate.alice, prefixes=phase == 1)
            client.reset()
        with RawClient(port) as client:
            client.handshake(gate.alice, prefixes=False)
            client.half_close()
            assert client.receive_to_end() == b""
        assert until(lambda: ACTIVE in status(gate, (port, path)))
    finally:
        query(port, gate.alice, message(path, b'protocol-version: 2\r\n"cancel"\r\n\0'))
    assert until(lambda: failure(status(gate, (port, path))) == 156)


def test_half_open_connections_to_the_job_managers_port_count_as_well(gate: Gate) -> None:
    port, path = submit(gate, "&(executable=/bin/sleep)(arguments=613)")
    with ExitStack() as stack:
        idle = [stack.enter_context(RawClient(port)) for _ in range(FLOOD_CAP + 100)]
        for client in idle[FLOOD_CAP + 10 :]:
            assert client.read_to_end() == b""
        request = message(path, b'protocol-version: 2\r\n"cancel"\r\n\0')
        with RawClient(port, source="127.0.0.2").handshake(gate.alice, prefixes=False) as other:
            other.send(request)
            assert failure(other.receive_to_end()) == 0
        with RawClient(gate.port, source="127.0.0.2").open(gate.alice) as other:
            other.send(b"0" + PING)
            assert other.receive_to_end() == PONG
    assert until(lambda: failure(status(gate, (port, path))) == 156)


def test_the_job_managers_port_answers_its_owner_only(gate: Gate) -> None:
    site = gate.site
    port, path = submit(gate, "&(executable=/bin/sleep)(arguments=612)")
    try:
        for somebody in filter(None, (site.mallory, site.bob)):
            for asked in (path, b"/1/2/"):
                reply = query(port, gate.settings(somebody.credential), message(asked, STATUS))
                assert ACTIVE not in reply
                assert failure(reply) != 0
        expired = issue(site.ca, "/O=Gram Lab/CN=alice", datetime.now(UTC) - 9 * DAY)
        assert failure(status(gate, (port, path), expired)) == 162
        anonymous = context(site.directory, None)
        with pytest.raises(ssl.SSLError):
            query(port, anonymous, message(path, STATUS))
        assert until(lambda: ACTIVE in status(gate, (port, path)))
    finally:
        query(port, gate.alice, message(path, b'protocol-version: 2\r\n"cancel"\r\n\0'))


# --- callbacks ------------------------------------------------------------------------------------


class Listener:
    """Somebody's callback listener that keeps all it is told, in clear or over TLS."""

    def __init__(self, settings: ssl.SSLContext | None, *, silent: bool = False) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.sock.getsockname()[1])
        self.heard: list[bytes] = []
        self.connections = 0
        self._settings = settings
        self._silent = silent
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return  # closed by the test
            self.connections += 1
            if self._silent:
                self._kept.append(sock)
                continue
            self._hear(sock)

    def _hear(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        try:
            if self._settings is not None:
                sock = self._settings.wrap_socket(sock, server_side=True)
            self.heard.append(sock.recv(65536))
        except OSError:
            self.heard.append(b"")
        finally:
            sock.close()

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._thread.join(20)
        for sock in self._kept:
            sock.close()


def listener_settings(site: Site, credential: Credential) -> ssl.SSLContext:
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.verify_mode = ssl.CERT_NONE
    load(settings, site.directory, credential)
    return settings


def test_callback_listeners_that_are_not_the_clients(gate: Gate) -> None:
    site = gate.site
    foreign = Listener(listener_settings(site, site.mallory.credential))
    clear = Listener(None)
    silent = Listener(None, silent=True)
    own = Listener(listener_settings(site, site.alice.credential))
    urls = {
        "another identity": f"https://127.0.0.1:{foreign.port}/",
        "plain HTTP": f"https://127.0.0.1:{clear.port}/",
        "the scheme http": f"http://127.0.0.1:{clear.port}/",
        "silent": f"https://127.0.0.1:{silent.port}/",
        "nobody": "https://127.0.0.1:1/",
        "the gatekeeper": f"https://127.0.0.1:{gate.port}/",
        "no host": "https://",
        "a bad port": "https://127.0.0.1:99999/",
        "a file": "file:///etc/passwd",
        "own": f"https://127.0.0.1:{own.port}/",
    }
    marker = site.alice.home / "called-back"
    try:
        contacts = {
            name: submit(gate, f"&(executable=/bin/touch)(arguments={marker}-{number})", url)
            for number, (name, url) in enumerate(urls.items())
        }
        for number, (name, contact) in enumerate(contacts.items()):
            assert until(Path(f"{marker}-{number}").exists), name
            assert until(lambda where=contact: failure(status(gate, where)) == 156), name  # type: ignore[misc]  # bound now
        assert until(lambda: len(own.heard) >= 2)  # alice's own hears it: the others could have
        assert until(lambda: min(foreign.connections, clear.connections, silent.connections) > 0)
    finally:
        for listener in (foreign, clear, silent, own):
            listener.close()
    assert all(b"\r\nstatus: " in text for text in own.heard)
    assert b"".join(foreign.heard) == b""
    assert all(not text or text[:1] == b"\x16" for text in clear.heard)  # a TLS hello, no secret


def test_the_real_client_is_still_served(gate: Gate) -> None:
    result = gate.site.alice.run("globusrun", "-a", "-r", gate.server.contact)
    assert result.returncode == 0, result.stdout + result.stderr
