"""The 26 pitfalls of wire-protocol.md 8, each proved on a running service.

`PITFALLS` says where each of them is tested; what was missing elsewhere is in this module, with the
clients the pitfall is about: Debian's `globusrun` and Python's own `ssl`.
"""

import ast
import asyncio
import ctypes
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gram import Client
from gram.labca import USER_EXTENSIONS, Extensions, LabCA, make_name
from protocol.gsi.credential import Credential, key_pem, write_private
from protocol.gsi.proxies import ProxyFormat
from protocol.tables import JobState
from tests.gsi import forge
from tests.support.keys import rsa_key
from tests.support.raw_client import (
    OK,
    RawClient,
    context,
    error_reply,
    load,
    message,
    query,
    records_of,
)
from tests.support.server import Server
from tests.support.site import Site, User

PITFALLS = {
    1: (
        "tests/aio/test_real_clients.py::test_p1_p2_p3_ping",
        "tests/aio/test_handshake.py::test_p1_without_tickets_the_token_is_the_sync_byte",
        "tests/interop/test_globus_clients.py::test_ping",
    ),
    2: (
        "tests/aio/test_handshake.py::test_p2_nothing_follows_the_finished_message_in_tls12",
        "tests/interop/test_globus_clients.py::test_ping_over_tls_1_2",
    ),
    3: (
        "tests/aio/test_real_clients.py::test_p1_p2_p3_delegation",
        "tests/aio/test_handshake.py::test_p1_p3_one_token_follows_the_last_flight_in_tls13",
        "tests/aio/test_handshake.py::test_p3_other_listeners_send_no_sync_byte",
    ),
    4: (
        "tests/aio/test_stream.py::test_p4_a_message_is_one_record_in_one_write",
        "tests/protocol/test_transcripts.py::test_p4_a_reply_is_one_piece_of_at_most_a_tls_record",
        "tests/interop/test_pitfalls.py::test_p4_every_message_of_the_service_is_one_record",
    ),
    5: (
        "tests/aio/test_handshake.py::test_p5_extended_key_usage_does_not_matter_in_either_role",
        "tests/aio/test_real_clients.py::test_p5_a_client_with_any_extended_key_usage",
        "tests/interop/test_pitfalls.py::test_p5_any_extended_key_usage_through_a_whole_job",
    ),
    6: (
        "tests/aio/test_real_clients.py::test_p6_p12_proxies_of_every_format",
        "tests/interop/test_pitfalls.py::test_p6_proxies_of_every_format_through_a_whole_job",
    ),
    7: (
        "tests/aio/test_handshake.py::test_p7_any_server_name_works",
        "tests/interop/test_pitfalls.py::test_p7_a_name_beyond_ascii_through_a_whole_job",
    ),
    8: ("tests/aio/test_handshake.py::test_p8_the_chain_is_complete_on_both_sides",),
    9: (
        "tests/aio/test_handshake.py::test_p9_p15_a_client_without_certificate_is_refused",
        "tests/security/test_gatekeeper_abuse.py::test_row_20_no_certificate_no_answer",
        "tests/interop/test_pitfalls.py::test_p9_our_callback_listener_hears_nobody_anonymous",
    ),
    10: (
        "tests/protocol/test_tokens.py::test_p10_prefixes_stop_and_framing_is_decided_at_each_token",
        (
            "tests/aio/test_handshake.py::"
            "test_p10_the_client_prefixes_its_tokens_until_the_context_is_complete"
        ),
        "tests/interop/test_pitfalls.py::test_p10_both_framings_on_the_wire",
    ),
    11: (
        "tests/protocol/test_gatekeeper_requests.py::test_p11_ping_has_no_leading_slash",
        "tests/interop/test_globus_clients.py::test_ping",
    ),
    12: (
        "tests/aio/test_real_clients.py::test_p6_p12_proxies_of_every_format",
        "tests/interop/test_pitfalls.py::test_p12_new_connections_show_the_renewed_proxy",
    ),
    13: (
        "tests/gsi/test_chain_refused.py::test_revoked_user_with_and_without_proxy",
        "tests/gsi/test_chain_refused.py::test_bad_revocation_lists",
        "tests/security/test_gatekeeper_abuse.py::test_rows_21_to_27_refused_certificates_get_403",
    ),
    14: (
        "tests/aio/test_handshake.py::test_p14_the_host_name_is_the_callers_business",
        "tests/gsi/test_hostcheck.py::test_dns_names",
        "tests/gsi/test_hostcheck.py::test_service_and_host",
        "tests/gram/test_client.py::test_names_of_gatekeepers",
    ),
    15: (
        "tests/security/test_owner.py::test_a_stranger_learns_and_changes_nothing",
        (
            "tests/security/test_gatekeeper_abuse.py::"
            "test_the_job_managers_port_answers_its_owner_only"
        ),
        "tests/interop/test_pitfalls.py::test_p15_a_client_of_another_make_is_served_like_ours",
    ),
    16: (
        "tests/protocol/test_replies.py::test_p16_no_callback_can_be_made_for_such_a_state",
        "tests/protocol/test_replies.py::test_p16_no_callback_can_be_made_without_its_attributes",
        "tests/interop/test_pitfalls.py::test_p16_callbacks_are_complete_and_of_known_states",
        "tests/security/test_gatekeeper_abuse.py::test_callback_listeners_that_are_not_the_clients",
    ),
    17: (
        "tests/crash/test_restart.py::test_fifty_running_jobs_survive_kill_9",
        "tests/gram/test_job.py::test_unreachable_job_manager_is_not_a_finished_job",
        "tests/interop/test_pitfalls.py::test_p17_the_contact_of_a_finished_job_still_answers",
    ),
    18: (
        (
            "tests/protocol/test_replies.py::"
            "test_p18_contact_with_a_subject_passes_through_a_job_reply_and_a_callback"
        ),
        "tests/interop/test_pitfalls.py::test_p18_contacts_with_a_subject_in_the_real_clients",
    ),
    19: (
        "tests/gsi/test_credential.py::test_order_of_discovery",
        "tests/gsi/test_credential.py::test_explicit_settings_that_fail",
    ),
    20: (
        "tests/aio/test_real_clients.py::test_p20_a_refused_client_gets_a_readable_answer",
        "tests/interop/test_pitfalls.py::test_p20_globusrun_is_told_that_it_is_not_authorised",
        "tests/interop/test_pitfalls.py::test_p20_the_answer_to_an_expired_certificate",
    ),
    21: (
        "tests/interop/test_pitfalls.py::test_p21_nothing_is_readable_on_the_network",
        "tests/interop/test_pitfalls.py::test_p21_suites_without_encryption_are_refused",
    ),
    22: (
        "tests/gsi/test_chain_refused.py::test_signing_policy_missing_and_broken",
        "tests/gsi/test_names.py::test_subject_hash_is_that_of_openssl",
        "tests/interop/test_pitfalls.py::test_p22_flaws_of_a_ca_directory",
    ),
    23: (
        "tests/gsi/test_delegation.py::test_request_for_an_ec_key",
        "tests/interop/test_pitfalls.py::test_p23_elliptic_curves_through_a_whole_job",
    ),
    24: (
        "tests/aio/test_stream.py::test_p24_an_end_without_goodbye_is_an_end",
        "tests/aio/test_stream.py::test_p24_goodbye_is_an_end_too",
        "tests/interop/test_pitfalls.py::test_p24_nobody_needs_a_goodbye",
    ),
    25: (
        "tests/protocol/test_transcripts.py::test_p25_a_client_stops_at_the_announced_length",
        "tests/interop/test_client_against_reference.py::test_ping_and_version",
    ),
    26: (
        "tests/aio/test_raw.py::test_p26_acknowledgements_are_immediate_on_both_sides",
        "tests/interop/test_pitfalls.py::test_p26_socket_options_of_accepted_connections",
    ),
}
ROOT = Path(__file__).parents[2]

STATUS = b'protocol-version: 2\r\n"status"\r\n\0'
CANCEL = b'protocol-version: 2\r\n"cancel"\r\n\0'
PING = message(b"ping/jobmanager")
DAY = timedelta(days=1)
TLS12 = {"GLOBUS_GSSAPI_MAX_TLS_PROTOCOL": "TLS1_2_VERSION"}
REFUSED = b"authentication with the remote server failed"


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(item.name for item in tree.body if isinstance(item, functions))


def test_each_of_the_26_pitfalls_has_a_test() -> None:
    assert list(PITFALLS) == list(range(1, 27))
    missing = []
    for number, nodes in PITFALLS.items():
        assert nodes, f"P{number}"
        for node in nodes:
            path, _, name = node.partition("::")
            if not name.startswith("test_") or name not in names_in(ROOT / path):
                missing.append(node)
    assert missing == []


def test_no_test_here_is_missing_in_the_table() -> None:
    here = {name for name in names_in(Path(__file__)) if re.match(r"test_p\d", name)}
    listed = {node.partition("::")[2] for nodes in PITFALLS.values() for node in nodes}
    assert here - listed == set()


# --- helpers --------------------------------------------------------------------------------------


def port_of(server: Server) -> int:
    return int(server.contact.rpartition(":")[2])


def a_user(site: Site, name: str, credential: Credential) -> User:
    """Another grid user of alice's account, entered into the grid-mapfile."""
    folder = site.directory / name
    folder.mkdir(mode=0o755)
    if site.alice.account is not None:
        os.chown(folder, site.alice.account.pw_uid, site.alice.account.pw_gid)
    user = User(name, credential, site.alice.account, folder, site.certificates)
    with site.gridmap.open("a") as file:
        file.write(f'"{user.identity}" {user.login}\n')
    return user


def job_request(rsl: str, callback: str = "") -> bytes:
    body = (
        "protocol-version: 2\r\njob-state-mask: 1048575\r\n"
        f'callback-url: {callback}\r\nrsl: "{rsl}"\r\n\0'
    )
    return message(b"/jobmanager", body.encode())


def submit(server: Server, site: Site, rsl: str, callback: str = "") -> tuple[int, bytes]:
    """Submit as alice with Python's `ssl`; port and path of the contact."""
    alice = site.alice.credential
    with RawClient(port_of(server)).open(context(site.directory, alice)).delegate(alice) as client:
        client.send(job_request(rsl, callback))
        reply = client.receive_to_end()
    found = re.search(rb"job-manager-url: https://localhost:(\d+)(/\d+/\d+/)\r\n", reply)
    assert found, reply
    return int(found[1]), found[2]


def whole_job(user: User, contact: str) -> None:
    """Delegation, callbacks to the end, output through GASS, a query, a cancel: `globusrun`."""
    run = user.run("globusrun", "-r", contact, "&(executable=/bin/true)")
    assert run.returncode == 0, run.stdout + run.stderr
    assert b"GLOBUS_GRAM_PROTOCOL_JOB_STATE_DONE" in run.stdout
    output = user.run("globus-job-run", contact, "/bin/echo", user.name)
    assert output.stdout == f"{user.name}\n".encode(), output.stderr
    job = user.run("globusrun", "-b", "-r", contact, "&(executable=/bin/sleep)(arguments=500)")
    found = re.search(rb"https://\S+", job.stdout)
    assert found, job.stdout + job.stderr
    where = found[0].decode()
    for command, expected in (("-status", b"ACTIVE"), ("-y", b""), ("-k", b"")):
        asked = user.run("globusrun", command, where)
        assert asked.returncode == 0, (command, asked.stdout, asked.stderr)
        assert expected in asked.stdout


class Listener:
    """A callback listener of Python's `ssl`: no code of ours; keeps each first record."""

    def __init__(self, site: Site, credential: Credential) -> None:
        self._settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._settings.load_verify_locations(capath=str(site.certificates))
        self._settings.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
        self._settings.verify_mode = ssl.CERT_REQUIRED
        load(self._settings, site.directory, credential)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.sock.getsockname()[1]}/some/path"
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self.sock.accept()
            except OSError:
                return  # closed by the test
            plain.settimeout(20)
            with plain, self._settings.wrap_socket(plain, server_side=True) as sock:
                self.heard.append(sock.recv(65536))  # of one record, whatever else has come
                sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n")

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._thread.join(30)


ACTIVE = b"\r\nstatus: 2\r\n"
GONE = b"\r\nfailure-code: 156\r\n"


def until(text: bytes, contact: tuple[int, bytes], settings: ssl.SSLContext) -> bytes:
    """Ask for the status until the answer has this text."""
    reply = b""
    for _ in range(400):
        reply = query(contact[0], settings, message(contact[1], STATUS))
        if text in reply:
            return reply
        time.sleep(0.05)
    pytest.fail(f"{text!r} never comes; the last answer is {reply!r}")


# --- P4, P16: messages ----------------------------------------------------------------------------


def one_record(client: RawClient, request: bytes) -> bytes:
    """Send a request; the reply, which must be in one record."""
    client.wire = b""
    client.send(request)
    reply = client.receive()
    assert client.receive_to_end() == b""
    data = [body for kind, body in records_of(client.wire) if kind == 0x17]
    # In TLS 1.3 the alert at the end looks like data too, but is as short as alerts are.
    assert len([body for body in data if len(body) > 30]) == 1
    return reply


def test_p4_every_message_of_the_service_is_one_record(site: Site, server: Server) -> None:
    settings = context(site.directory, site.alice.credential)
    version = b"protocol-version: 2\r\ncommand: version\r\n\0"
    bad = b"protocol-version: 2\r\n\0"
    for request in (PING, message(b"/jobmanager", version), message(b"/jobmanager", bad)):
        with RawClient(port_of(server)).open(settings) as client:
            client.send(b"0")
            assert one_record(client, request).startswith(b"HTTP/1.1 200 OK\r\n")
    with RawClient(port_of(server)).open(settings) as client:
        client.delegate(site.alice.credential)
        reply = one_record(client, job_request("&(executable=/bin/sleep)(arguments=501)"))
    found = re.search(rb"https://localhost:(\d+)(/\S+/)", reply)
    assert found, reply
    old = context(site.directory, site.alice.credential, ssl.TLSVersion.TLSv1_2)  # no tickets
    for body in (STATUS, CANCEL):
        with RawClient(int(found[1])).handshake(old, prefixes=False) as client:
            assert one_record(client, message(found[2], body)).endswith(b"\0")


def test_p16_callbacks_are_complete_and_of_known_states(site: Site, server: Server) -> None:
    listener = Listener(site, site.alice.credential)
    with closing(listener):
        contact = submit(server, site, "&(executable=/bin/sh)(arguments=-c 'exit 3')", listener.url)
        until(GONE, contact, context(site.directory, site.alice.credential))
        for _ in range(600):
            if listener.heard and b"\r\nstatus: 8\r\n" in listener.heard[-1]:
                break
            time.sleep(0.05)
    states = []
    for text in listener.heard:  # each in one record (P4), though we read only once
        head, _, body = text.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /some/path HTTP/1.1\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        where = f"https://localhost:{contact[0]}{contact[1].decode()}"
        assert f"\r\njob-manager-url: {where}\r\n".encode() in body
        assert re.search(rb"\r\nfailure-code: 0\r\n", body)
        state = re.search(rb"\r\nstatus: (\d+)\r\n", body)
        assert state, body
        states.append(int(state[1]))
    assert states == [JobState.ACTIVE, JobState.DONE]


# --- P5, P6, P7, P12, P23: credentials through a whole job ---------------------------------------


@pytest.mark.parametrize("usage", ["CLIENT_AUTH", "SERVER_AUTH", "EMAIL_PROTECTION"])
def test_p5_any_extended_key_usage_through_a_whole_job(
    site: Site, server: Server, usage: str
) -> None:
    purpose = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, usage)])
    extensions: Extensions = (*USER_EXTENSIONS[:2], (purpose, True))
    issued = site.ca.user(f"eku {usage}", key=rsa_key("eku"), extensions=extensions)
    user = a_user(site, f"eku-{usage}", issued.credential)
    for certificate in Credential.from_pem(user.proxy.read_bytes()).certificates:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert found.value == purpose  # the proxy has it too, and is a TLS server's certificate
    whole_job(user, server.contact)


@pytest.mark.parametrize("kind", [ProxyFormat.DRAFT, ProxyFormat.LEGACY])
def test_p6_proxies_of_every_format_through_a_whole_job(
    site: Site, server: Server, kind: ProxyFormat
) -> None:
    # The issuer of a legacy proxy counts as a CA, so its keyUsage, if any, has to allow that.
    issued = site.ca.user(f"format {kind.name}", key=rsa_key("format"), extensions=())
    user = a_user(site, f"format-{kind.name}", issued.credential)
    user.proxy = user.write_proxy("proxy", format=kind)
    whole_job(user, server.contact)


def test_p7_a_name_beyond_ascii_through_a_whole_job(site: Site, server: Server) -> None:
    # The reference's clients put the user's common name into the server name of TLS.
    issued = site.ca.user("Zoë Müller von Ünten", key=rsa_key("zoe"))
    whole_job(a_user(site, "zoe", issued.credential), server.contact)


def test_p12_new_connections_show_the_renewed_proxy(site: Site, server: Server) -> None:
    user = a_user(site, "renewer", site.ca.user("renewer", key=rsa_key("renewer")).credential)
    short = user.write_proxy("short", lifetime=timedelta(hours=1))
    rsl = "&(executable=/bin/sleep)(arguments=502)"
    job = user.run("globusrun", "-b", "-r", server.contact, rsl, proxy=short)
    found = re.search(rb"https://localhost:(\d+)/\S+", job.stdout)
    assert found, job.stderr
    settings = context(site.directory, Credential.from_pem(short.read_bytes()))

    def shown() -> x509.Certificate:
        with RawClient(int(found[1])).handshake(settings, prefixes=False) as client:
            return x509.load_der_x509_certificate(client.peer_certificate())

    before = shown()
    assert user.run("globusrun", "-y", found[0].decode()).returncode == 0
    after = shown()
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert user.run("globusrun", "-status", found[0].decode()).stdout.strip() == b"ACTIVE"
    assert user.run("globusrun", "-k", found[0].decode()).returncode == 0


@pytest.fixture(scope="module")
def elliptic_server(site: Site) -> Iterator[Server]:
    key = ec.generate_private_key(ec.SECP384R1())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = site.ca.sign(
        make_name("/O=Gram Lab/CN=localhost"), key.public_key(), ((names, False),)
    )
    folder = site.directory / "elliptic"
    folder.mkdir()
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    write_private(folder / "key.pem", key_pem(key))
    made = site.configure("elliptic-server", gatekeeper='delegation_key = "ec-p256"')
    text = made.config.read_text().replace(str(site.host_certificate), str(folder / "cert.pem"))
    made.config.write_text(text.replace(str(site.host_key), str(folder / "key.pem")))
    made.start()
    yield made
    assert made.stop() == 0, made.log


def test_p23_elliptic_curves_through_a_whole_job(site: Site, elliptic_server: Server) -> None:
    whole_job(site.alice, elliptic_server.contact)
    shown = site.alice.run(
        "globus-job-run", elliptic_server.contact, "/bin/sh", "-c", "cat $X509_USER_PROXY"
    )
    assert isinstance(Credential.from_pem(shown.stdout).private_key, ec.EllipticCurvePrivateKey), (
        shown.stderr
    )


# --- P9, P10, P15, P24: other clients -------------------------------------------------------------


async def test_p9_our_callback_listener_hears_nobody_anonymous(site: Site, server: Server) -> None:
    proxy = Credential.from_pem(site.alice.proxy.read_bytes())
    async with Client(
        proxy, trusted_certificates=site.certificates, callback_host="localhost"
    ) as client:
        job = await client.submit(server.contact, "&(executable=/bin/sleep)(arguments=503)")
        (listener,) = client._listeners.values()
        port = int(listener.url.rstrip("/").rpartition(":")[2])
        done = (
            f"protocol-version: 2\r\njob-manager-url: {job.contact}\r\n"
            "status: 8\r\nfailure-code: 0\r\n\0"
        )

        def lie() -> bytes:
            return query(port, context(site.directory, None), message(b"/", done.encode()))

        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(lie)
        assert (await job.status()).state is not JobState.DONE
        await job.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("prefixes", [False, True], ids=["bare", "prefixed"])
def test_p10_both_framings_on_the_wire(
    site: Site, server: Server, version: ssl.TLSVersion, prefixes: bool
) -> None:
    settings = context(site.directory, site.alice.credential, version)
    with RawClient(port_of(server)).handshake(settings, prefixes=prefixes) as client:
        if version is ssl.TLSVersion.TLSv1_3 and not prefixes:
            assert client.receive() == b"\0"  # with prefixes the token of tickets is the sync
        client.send(b"0", prefixes=prefixes)
        client.send(PING)  # never with a length: that is over
        assert client.receive_to_end() == OK % (0, b"")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_p15_a_client_of_another_make_is_served_like_ours(
    site: Site, server: Server, version: ssl.TLSVersion
) -> None:
    settings = context(site.directory, site.alice.credential, version)
    contact = submit(server, site, "&(executable=/bin/sleep)(arguments=504)")
    until(ACTIVE, contact, settings)
    anonymous = context(site.directory, None, version)
    for body in (STATUS, CANCEL):
        with pytest.raises(ssl.SSLError):
            query(contact[0], anonymous, message(contact[1], body))
    stranger = context(site.directory, site.mallory.credential, version)
    for body in (STATUS, CANCEL):
        reply = query(contact[0], stranger, message(contact[1], body))
        assert ACTIVE not in reply
        assert b"\r\nfailure-code: 0\r\n" not in reply
    assert ACTIVE in query(contact[0], settings, message(contact[1], STATUS))
    query(contact[0], settings, message(contact[1], CANCEL))
    until(GONE, contact, settings)


def test_p24_nobody_needs_a_goodbye(site: Site, server: Server) -> None:
    settings = context(site.directory, site.alice.credential)
    before = server.log.count("broken")
    for _ in range(3):
        with RawClient(port_of(server)).open(settings) as client:
            client.send(b"0" + PING)
            client.half_close()  # FIN without close_notify, before the reply
            assert client.receive_to_end() == OK % (0, b"")
    contact = submit(server, site, "&(executable=/bin/sleep)(arguments=505)")
    for body in (STATUS, CANCEL):
        with RawClient(contact[0]).handshake(settings, prefixes=False) as client:
            client.send(message(contact[1], body))
            client.half_close()
            assert client.receive_to_end().startswith(b"HTTP/1.1 200 OK\r\n")
    until(GONE, contact, settings)
    assert server.log.count("broken") == before


# --- P17, P18: contacts ---------------------------------------------------------------------------


def test_p17_the_contact_of_a_finished_job_still_answers(site: Site, server: Server) -> None:
    settings = context(site.directory, site.alice.credential)
    contact = submit(server, site, "&(executable=/bin/true)")
    assert b"\r\nstatus: 0\r\n" in until(GONE, contact, settings)
    where = f"https://localhost:{contact[0]}{contact[1].decode()}"
    assert site.alice.run("globusrun", "-status", where).stdout.strip() == b"DONE"
    # The tool says the same where nobody listens: so there must always be somebody.
    assert query(contact[0], settings, message(contact[1], STATUS)).startswith(b"HTTP/1.1 200 OK")


@pytest.fixture
def shared(site: Site) -> Iterator[Server]:
    made = site.configure("shared-contacts", gatekeeper='job_contacts = "shared"').start()
    yield made
    assert made.stop() == 0, made.log


def test_p18_contacts_with_a_subject_in_the_real_clients(shared: Server, alice: User) -> None:
    rsl = "&(executable=/bin/sleep)(arguments=506)"
    job = alice.run("globusrun", "-b", "-r", shared.contact, rsl)
    found = re.search(r"https://localhost:\d+/\d+/\d+/:/\S.*", job.stdout.decode())
    assert found, job.stdout + job.stderr
    where = found[0].strip()
    assert where.endswith(f":{shared.subject}")
    assert where.startswith(f"https://{shared.contact}/")
    assert alice.run("globusrun", "-status", where).stdout.strip() == b"ACTIVE"
    refreshed = alice.run("globusrun", "-y", where)
    assert refreshed.returncode == 0, refreshed.stdout + refreshed.stderr
    assert alice.run("globusrun", "-k", where).returncode == 0
    assert alice.run("globusrun", "-status", where).stdout.strip() == b"DONE"
    run = alice.run("globusrun", "-r", shared.contact, "&(executable=/bin/true)")  # with callbacks
    assert b"GLOBUS_GRAM_PROTOCOL_JOB_STATE_DONE" in run.stdout, run.stdout + run.stderr
    submitted = alice.run("globus-job-submit", shared.contact, "/bin/echo", "kept")
    contact = submitted.stdout.decode().strip()
    for _ in range(200):
        if alice.run("globus-job-status", contact).stdout.strip() == b"DONE":
            break
    output = alice.run("globus-job-get-output", "-r", shared.contact, contact)
    assert output.stdout == b"kept\n", output.stderr


# --- P20, P22: refusals ---------------------------------------------------------------------------


@contextmanager
def strict_server(site: Site, name: str, certificates: Path) -> Iterator[Server]:
    """A server that trusts what is in another directory."""
    made = site.configure(name)
    text = made.config.read_text().replace(str(site.certificates), str(certificates))
    made.config.write_text(text)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def refusing(site: Site) -> Iterator[tuple[Server, dict[str, User], dict[str, str]]]:
    """A server, users it refuses, and what makes their clients accept the server all the same."""
    strange = LabCA(
        site.directory / "strange-ca", subject="/O=Strange/CN=CA", base="/O=Strange",
        key=rsa_key("strange"),
    )  # fmt: skip
    tolerant = site.directory / "tolerant"
    site.ca.ca_directory(tolerant)
    strange.ca_directory(tolerant)
    revoked = site.ca.user("revoked", key=rsa_key("revoked")).credential
    serials = [revoked.certificate.serial_number]
    strict = site.ca.ca_directory(site.directory / "strict", crl=site.ca.crl(serials))
    users = {
        "untrusted": a_user(site, "eve", strange.user("eve", key=rsa_key("eve")).credential),
        "revoked": a_user(site, "revoked-user", revoked),
        "unmapped": site.mallory,
    }
    with strict_server(site, "refusing", strict) as made:
        yield made, users, {"X509_CERT_DIR": str(tolerant)}


@pytest.mark.parametrize("old", [False, True], ids=["tls1.3", "tls1.2"])
@pytest.mark.parametrize("who", ["untrusted", "revoked", "unmapped"])
def test_p20_globusrun_is_told_that_it_is_not_authorised(
    refusing: tuple[Server, dict[str, User], dict[str, str]], who: str, old: bool
) -> None:
    server, users, trust = refusing
    extra = {**trust, **(TLS12 if old else {})}
    for options in (("-a",), ("-j",)):  # flag 0, flag D
        done = users[who].run("globusrun", *options, "-r", server.contact, extra=extra)
        assert done.returncode != 0
        assert REFUSED in done.stdout + done.stderr, (options, done.stdout, done.stderr)
    rsl = "&(executable=/bin/true)"
    done = users[who].run("globusrun", "-b", "-r", server.contact, rsl, extra=extra)
    assert done.returncode == 7
    assert REFUSED in done.stdout + done.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("flag", [b"0", b"D"])
def test_p20_the_answer_to_an_expired_certificate(
    site: Site, server: Server, version: ssl.TLSVersion, flag: bytes
) -> None:
    # `globusrun` does not even start with such a credential; other clients do.
    now = datetime.now(UTC)
    expired = forge.proxy(site.alice.credential, not_before=now - 2 * DAY, not_after=now - DAY)
    settings = context(site.directory, expired, version)
    with RawClient(port_of(server)).open(settings) as client:
        client.send(flag)
        if flag == b"D":
            assert x509.load_der_x509_csr(client.receive()).is_signature_valid
            client.send(b"\x30\x03\x02\x01\x05")  # whatever it is, nobody wants it
        client.send(job_request("&(executable=/bin/true)"))
        assert client.receive_to_end() == error_reply(403)
    assert '"EXPIRED"' in server.log or "expired" in server.log


def test_p22_flaws_of_a_ca_directory(site: Site) -> None:
    certificates = site.ca.ca_directory(site.directory / "flawed")
    (policy,) = certificates.glob("*.signing_policy")
    (authority,) = certificates.glob("*.0")
    text = policy.read_text()
    settings = context(site.directory, site.alice.credential)
    with strict_server(site, "flawed-trust", certificates) as made:

        def answer() -> bytes:
            with RawClient(port_of(made)).open(settings) as client:
                client.send(b"0" + PING)
                return client.receive_to_end()

        assert answer() == OK % (0, b"")
        policy.write_text(text.rstrip("\n"))
        assert answer() == error_reply(403)
        policy.unlink()
        assert answer() == error_reply(403)
        policy.write_text(text)
        assert answer() == OK % (0, b"")
        policy.rename(certificates / "0a1b2c3d.signing_policy")  # as under the hash of old OpenSSL
        authority.rename(certificates / "0a1b2c3d.0")
        assert answer() == error_reply(403)


# --- P21, P26: the network ------------------------------------------------------------------------


class Tap:
    """Forwards connections and keeps every byte of both directions."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.contact = f"localhost:{self._sock.getsockname()[1]}"
        self.sent = b""
        self.received = b""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._sock.accept()
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(target=self._back, args=(server, client))
            back.start()
            while data := client.recv(65536):
                self.sent += data
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join(30)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(65536):
            self.received += data
            client.sendall(data)

    def close(self) -> None:
        self._thread.join(30)
        self._sock.close()


@pytest.mark.parametrize("tls", [{}, TLS12], ids=["tls1.3", "tls1.2"])
def test_p21_nothing_is_readable_on_the_network(
    site: Site, server: Server, tls: dict[str, str]
) -> None:
    tap = Tap(port_of(server))
    with closing(tap):
        done = site.alice.run("globusrun", "-j", "-r", tap.contact, extra=tls)
    assert done.returncode == 0, done.stderr
    assert len(tap.sent) > 1000
    for text in (b"POST", b"Content-Length", b"protocol-version"):
        assert text not in tap.sent + tap.received


def test_p21_suites_without_encryption_are_refused(site: Site, server: Server) -> None:
    settings = context(site.directory, site.alice.credential, ssl.TLSVersion.TLSv1_2)
    settings.set_ciphers("eNULL:@SECLEVEL=0")
    with RawClient(port_of(server)) as client, pytest.raises(ssl.SSLError, match="HANDSHAKE"):
        client.handshake(settings)


SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438  # the same on every Linux


@contextmanager
def accepted_socket(pid: int, ours: socket.socket) -> Iterator[socket.socket]:
    """A copy of the descriptor that the process has for the other end of our connection."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    process = call(SYS_PIDFD_OPEN, pid, 0)
    assert process >= 0, os.strerror(ctypes.get_errno())
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            copy = call(SYS_PIDFD_GETFD, process, int(name), 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=copy) as sock:
                if sock.family == socket.AF_INET and _peer(sock) == ours.getsockname():
                    yield sock
                    return
    finally:
        os.close(process)
    pytest.fail("the service does not have the connection")


def _peer(sock: socket.socket) -> object:
    try:
        return sock.getpeername()
    except OSError:
        return None  # it listens


DELAYED_ACK = 0.04
"""Seconds after which the kernel acknowledges anyway, and forgets that it had delayed anything."""


def acknowledges_at_once(pid: int, client: RawClient, piece: bytes) -> bool:
    """Whether sending a piece makes the service turn off delayed acknowledgements.

    False also when that could not be seen: they were not on, or the service read too late.
    """
    with accepted_socket(pid, client.sock) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        delayed = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
        end = time.monotonic() + DELAYED_ACK / 2
        client.send(piece)
        while time.monotonic() < end:
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1:
                return delayed
    return False


@pytest.mark.root
def test_p26_socket_options_of_accepted_connections(site: Site, server: Server) -> None:
    if os.geteuid() != 0:
        pytest.skip("looking at another process's sockets needs root")
    settings = context(site.directory, site.alice.credential)
    contact = submit(server, site, "&(executable=/bin/sleep)(arguments=507)")
    # In TLS 1.2 the service has answered everything before the client can send a request.
    old = context(site.directory, site.alice.credential, ssl.TLSVersion.TLSv1_2)

    def flag() -> bool:  # what the reference client sends alone, and waits for its ACK
        with RawClient(port_of(server)).open(settings) as client:
            return acknowledges_at_once(server.pid, client, b"0")

    def query_in_pieces() -> bool:
        with RawClient(contact[0]).handshake(old, prefixes=False) as client:
            return acknowledges_at_once(server.pid, client, b"POST /")

    for attempt in (flag, query_in_pieces):
        assert any(attempt() for _ in range(50)), attempt.__name__
    query(contact[0], settings, message(contact[1], CANCEL))
    until(GONE, contact, settings)
