"""ProxyCertInfo and the recognition of proxies (wire-protocol.md 2.1)."""

import pytest

from gram.labca import LabCA
from protocol.gsi.certificate import (
    KeyUsage,
    decode_key_usage,
    encode_key_usage,
)
from protocol.gsi.credential import Credential
from protocol.gsi.der import DERError
from protocol.gsi.proxies import (
    ProxyError,
    ProxyFormat,
    ProxyInfo,
    ProxyPolicy,
    decode_proxy_info,
    encode_proxy_info,
    proxy_info,
)
from tests.gsi.forge import DRAFT, FULL, INDEPENDENT, LEGACY, LIMITED, RFC, proxy, proxy_extension


@pytest.mark.parametrize(
    ("info", "encoded"),
    [
        (ProxyInfo(RFC, FULL), "300c300a06082b06010505071501"),
        (ProxyInfo(RFC, LIMITED), "300f300d060b2b060104019b5001010109"),
        (ProxyInfo(RFC, INDEPENDENT), "300c300a06082b06010505071502"),
        (ProxyInfo(RFC, FULL, 0), "300f020100300a06082b06010505071501"),
        (ProxyInfo(RFC, FULL, 300), "30100202012c300a06082b06010505071501"),
        (ProxyInfo(DRAFT, FULL), "300c300a06082b06010505071501"),
        (ProxyInfo(DRAFT, LIMITED, 2), "3014300d060b2b060104019b5001010109a103020102"),
    ],
)
def test_known_octets(info: ProxyInfo, encoded: str) -> None:
    assert encode_proxy_info(info).hex() == encoded
    assert decode_proxy_info(bytes.fromhex(encoded), info.format) == info


def test_restricted_policy() -> None:
    value = bytes.fromhex("300d300b06032a0304") + b"\x04\x04only"
    assert decode_proxy_info(value, RFC) == ProxyInfo(RFC, ProxyPolicy.RESTRICTED, None, b"only")
    with pytest.raises(ValueError, match="known policy"):
        encode_proxy_info(ProxyInfo(RFC, ProxyPolicy.RESTRICTED))
    with pytest.raises(ValueError, match="RFC and draft"):
        encode_proxy_info(ProxyInfo(LEGACY, FULL))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "3000",
        "3080300a06082b060105050715010000",  # indefinite length
        "300c300a06082b0601050507150100",  # octets behind
        "300d300a06082b060105050715010500",  # a field too many (and a wrong length)
        "300e300a06082b060105050715010500",
        "300f0201ff300a06082b06010505071501",  # negative path length
        "301002020001300a06082b06010505071501",  # path length not minimal
        "300c300a06082b06010505071581",  # unfinished object identifier
        "300f300a06082b06010505071501020100",  # path length behind the policy
        "300e300c06082b060105050715010500",  # NULL as policy octets
    ],
)
@pytest.mark.parametrize("kind", [RFC, DRAFT])
def test_bad_octets(value: str, kind: ProxyFormat) -> None:
    with pytest.raises(ProxyError):
        decode_proxy_info(bytes.fromhex(value), kind)


def test_recognition(ca: LabCA, alice: Credential) -> None:
    def kind(credential: Credential) -> ProxyInfo | None:
        return proxy_info(credential.certificate)

    assert kind(alice) is None
    assert proxy_info(ca.certificate) is None
    assert kind(proxy(alice)) == ProxyInfo(RFC, FULL)
    assert kind(proxy(alice, extensions=(proxy_extension(DRAFT, LIMITED, 3),))) == ProxyInfo(
        DRAFT, LIMITED, 3
    )
    assert kind(proxy(alice, cn="proxy", extensions=())) == ProxyInfo(LEGACY, FULL)
    assert kind(proxy(alice, cn="limited proxy", extensions=())) == ProxyInfo(LEGACY, LIMITED)
    for other in ("Proxy", "proxy ", "limited  proxy", "proxies"):
        assert kind(proxy(alice, cn=other, extensions=())) is None
    # With the extension the CN has no meaning.
    assert kind(proxy(alice, cn="limited proxy")) == ProxyInfo(RFC, FULL)


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ("03020780", KeyUsage.DIGITAL_SIGNATURE),
        ("030205a0", KeyUsage.DIGITAL_SIGNATURE | KeyUsage.KEY_ENCIPHERMENT),
        ("03020106", KeyUsage.KEY_CERT_SIGN | KeyUsage.CRL_SIGN),
        ("030307800080", None),
        ("03020880", None),
        ("0304000000" + "01", None),
        ("0300", None),
        ("04020780", None),
        ("0303070080", KeyUsage.DECIPHER_ONLY),
        ("030100", KeyUsage(0)),
    ],
)
def test_key_usage(value: str, usage: KeyUsage | None) -> None:
    if usage is None:
        with pytest.raises(DERError):
            decode_key_usage(bytes.fromhex(value))
    else:
        assert decode_key_usage(bytes.fromhex(value)) == usage
        assert encode_key_usage(usage).hex() == value
