"""Flag, delegation and renewal over streams (wire-protocol.md 1.6 to 1.8; abuse 36 to 38)."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.aio import delegation
from protocol.aio.delegation import MAX_DELEGATION
from protocol.aio.doubles import ScriptedStream, memory_pair
from protocol.aio.raw import ConnectionLost
from protocol.errors import GramError, RemoteProtocolError
from protocol.gsi.chain import Peer, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.delegation import DelegationError, make_request, sign_request
from protocol.gsi.proxies import ProxyPolicy, proxy_info
from tests.aio.lab import Lab, establish
from tests.support.keys import rsa_key


@pytest.fixture(scope="module")
def request_der() -> bytes:
    return make_request(rsa_key("delegation"))


@pytest.fixture
def peer(lab: Lab) -> Peer:
    return verify_chain(lab.proxy.certificates, lab.directory)


def signed(lab: Lab, request_der: bytes, issuer: Credential | None = None) -> bytes:
    return sign_request(request_der, issuer or lab.proxy).public_bytes(Encoding.DER)


@pytest.mark.parametrize("limited", [True, False])
async def test_delegation_between_both_ends(lab: Lab, request_der: bytes, limited: bool) -> None:
    pair = await establish(lab.acceptor(), lab.connector(), gatekeeper=True)
    await delegation.send_flag(pair.client, delegation.DELEGATION)
    assert await delegation.read_flag(pair.server) == delegation.DELEGATION
    credential, _ = await asyncio.gather(
        delegation.receive_delegation(pair.server, rsa_key("delegation"), request_der),
        delegation.delegate(pair.client, lab.proxy, limited=limited),
    )
    await pair.client.send(b"request")
    assert await pair.server.receive() == b"request"
    assert credential.identity == lab.alice.identity
    assert verify_chain(credential.certificates, lab.directory).limited is limited
    info = proxy_info(credential.certificate)
    assert info is not None
    assert info.policy is (ProxyPolicy.LIMITED if limited else ProxyPolicy.FULL)


async def test_everything_in_one_record_is_cut_at_the_right_places(
    lab: Lab, request_der: bytes, peer: Peer
) -> None:
    stream = ScriptedStream(b"D" + signed(lab, request_der) + b"POST /", peer=peer)
    assert await delegation.read_flag(stream) == b"D"
    key = rsa_key("delegation")
    credential = await delegation.receive_delegation(stream, key, request_der)
    assert credential.identity == lab.alice.identity
    assert stream.sent == [request_der]
    assert await stream.receive() == b"POST /"


async def test_a_trickle_gives_the_same(lab: Lab, request_der: bytes, peer: Peer) -> None:
    stream = ScriptedStream.trickling(signed(lab, request_der))
    stream.peer = peer
    key = rsa_key("delegation")
    credential = await delegation.receive_delegation(stream, key, request_der)
    assert credential.identity == lab.alice.identity


@pytest.mark.parametrize("flag", [b"", b"1", b"\0", b"d", b"P", b"\xff"])
async def test_row_36_any_other_flag_is_refused(flag: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        await delegation.read_flag(ScriptedStream(flag))


async def test_row_36_of_two_bytes_the_second_belongs_to_what_follows() -> None:
    stream = ScriptedStream(b"00")
    assert await delegation.read_flag(stream) == b"0"
    assert await stream.receive() == b"0"


async def test_row_16_a_client_that_never_sends_the_flag() -> None:
    with pytest.raises(ConnectionLost, match="seconds"):
        await delegation.read_flag(ScriptedStream(ends=False), timeout=0.02)


async def test_row_38_a_client_that_stalls_in_the_delegation(
    lab: Lab, request_der: bytes, peer: Peer
) -> None:
    stream = ScriptedStream(signed(lab, request_der)[:-1], ends=False, peer=peer)
    with pytest.raises(ConnectionLost, match="seconds"):
        await delegation.receive_delegation(
            stream, rsa_key("delegation"), request_der, timeout=0.05
        )


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage that is no certificate",
        b"\x30\x80" + bytes(20),
        b"\x30\x84\x00\x00\x00\x05hello",
        b"\x30\x83\x98\x96\x80" + bytes(1000),  # 10 MB announced
        b"\x30\x82\xff\xff" + bytes(20),  # and then the end
        b"\x30",
        b"",
        b"\x30\x03abc",
        b"\x30\x00",
    ],
)
async def test_row_37_useless_answers(request_der: bytes, peer: Peer, reply: bytes) -> None:
    stream = ScriptedStream(reply, peer=peer)
    with pytest.raises(GramError):
        await delegation.receive_delegation(stream, rsa_key("delegation"), request_der)


async def test_row_37_a_long_answer_is_refused_before_it_is_read(
    request_der: bytes, peer: Peer
) -> None:
    stream = ScriptedStream(b"\x30\x83\x98\x96\x80", bytes(1000), peer=peer)
    with pytest.raises(RemoteProtocolError, match="10000000"):
        await delegation.receive_delegation(stream, rsa_key("delegation"), request_der)
    assert await stream.receive() == bytes(1000)


async def test_row_37_a_certificate_that_does_not_fit(
    lab: Lab, request_der: bytes, peer: Peer
) -> None:
    other_key = signed(lab, make_request(rsa_key("other")))
    other_issuer = signed(lab, request_der, lab.host)
    whole = signed(lab, request_der)
    for reply in (other_key, other_issuer, whole[:-1] + b"\0"):
        with pytest.raises(DelegationError):
            await delegation.receive_delegation(
                ScriptedStream(reply, peer=peer), rsa_key("delegation"), request_der
            )


async def test_p20_a_refused_client_is_led_to_its_request(lab: Lab, request_der: bytes) -> None:
    answer = signed(lab, request_der)
    stream = ScriptedStream(answer, b"POST /", peer=None)
    assert await delegation.discard_delegation(stream, request_der) == answer
    assert await stream.receive() == b"POST /"
    with pytest.raises(RemoteProtocolError):
        await delegation.receive_delegation(
            ScriptedStream(answer), rsa_key("delegation"), request_der
        )


@pytest.mark.parametrize(
    "request_", [b"\x30\x03abc", b"HTTP/1.1 403 Forbidden\r\n", b"\x30\x83\x10\0\0" + bytes(100)]
)
async def test_a_client_does_not_sign_nonsense(lab: Lab, request_: bytes) -> None:
    stream = ScriptedStream(request_)
    with pytest.raises(GramError):
        await delegation.delegate(stream, lab.proxy)
    assert stream.sent == []


async def test_a_limited_proxy_cannot_delegate_fully(lab: Lab, request_der: bytes) -> None:
    stream = ScriptedStream(request_der)
    with pytest.raises(DelegationError):
        await delegation.delegate(stream, lab.limited, limited=False)


@pytest.mark.parametrize("early", [0, 3, 5])
@pytest.mark.parametrize("kind", ["proxy", "alice"])
async def test_renewal_between_both_ends(
    lab: Lab, request_der: bytes, early: int, kind: str
) -> None:
    """Bytes of the exchange may have come together with the request before it."""
    issuer: Credential = getattr(lab, kind)
    client, server = memory_pair()

    async def serve() -> Credential:
        initial = await server.receive(early) if early else b""
        return await delegation.receive_renewal(server, initial, rsa_key("delegation"), request_der)

    credential, _ = await asyncio.gather(serve(), delegation.renew(client, issuer))
    peer = verify_chain(credential.certificates, lab.directory)
    assert peer.identity == lab.alice.identity
    assert peer.limited
    assert len(credential.certificates) == len(issuer.certificates) + 1


async def test_renewal_bytes_on_the_wire(lab: Lab, request_der: bytes) -> None:
    stream = ScriptedStream(len(request_der).to_bytes(4, "big") + request_der)
    await delegation.renew(stream, lab.proxy)
    flag, reply = stream.sent
    assert flag == b"\0\0\0\1D"
    assert int.from_bytes(reply[:4], "big") == len(reply) - 4
    assert x509.load_der_x509_certificate(reply[4 : 4 + _der_size(reply[4:])])


def _der_size(data: bytes) -> int:
    assert data[:2] == b"\x30\x82"
    return 4 + int.from_bytes(data[2:4], "big")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\1d",
        b"D",
        b"POST / HTTP/1.1\r\n",
        b"\0\0\0\1D",
        b"\0\0\0\1D\0\0\0\0",
        b"\0\0\0\1D" + (MAX_DELEGATION + 1).to_bytes(4, "big"),
        b"\0\0\0\1D\xff\xff\xff\xff" + bytes(50),
        b"\0\0\0\1D\0\0\0\5hello",
    ],
)
async def test_renewals_that_make_no_sense(request_der: bytes, data: bytes) -> None:
    for stream, initial in ((ScriptedStream(data), b""), (ScriptedStream(), data)):
        with pytest.raises(GramError):
            await delegation.receive_renewal(stream, initial, rsa_key("delegation"), request_der)


async def test_nothing_may_follow_a_renewal(lab: Lab, request_der: bytes) -> None:
    client = ScriptedStream(len(request_der).to_bytes(4, "big") + request_der)
    await delegation.renew(client, lab.proxy)
    with pytest.raises(RemoteProtocolError, match="behind"):
        await delegation.receive_renewal(
            ScriptedStream(), client.output + b"x", rsa_key("delegation"), request_der
        )
