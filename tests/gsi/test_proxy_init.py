"""Proxies for oneself (wire-protocol.md 2.3)."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from gram.labca import LabCA
from protocol.gsi.credential import Credential, CredentialError
from protocol.gsi.proxies import ProxyInfo, proxy_info
from protocol.gsi.proxy_init import create_proxy
from tests.gsi.forge import DRAFT, FULL, INDEPENDENT, LEGACY, LIMITED, NOW, RFC
from tests.support.keys import rsa_key

KEY = rsa_key("proxy")


def test_the_default_is_what_grid_proxy_init_makes(alice: Credential) -> None:
    proxy = create_proxy(alice, now=NOW)
    assert proxy_info(proxy.certificate) == ProxyInfo(RFC, FULL)
    assert isinstance(proxy.private_key, rsa.RSAPrivateKey)
    assert proxy.private_key.key_size == 2048
    assert proxy.certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert proxy.certificate.not_valid_after_utc == NOW + timedelta(hours=12)
    assert proxy.chain == (alice.certificate,)
    assert proxy.expires == NOW + timedelta(hours=12)


def test_choices(ca: LabCA, alice: Credential) -> None:
    proxy = create_proxy(alice, policy=INDEPENDENT, path_length=4, format=DRAFT, key=KEY, now=NOW)
    assert proxy_info(proxy.certificate) == ProxyInfo(DRAFT, INDEPENDENT, 4)
    assert create_proxy(alice, bits=1024, now=NOW).private_key.key_size == 1024
    bob = ca.user("Bob", key=rsa_key("bob"), extensions=()).credential
    legacy = create_proxy(bob, policy=LIMITED, format=LEGACY, key=KEY, now=NOW)
    assert proxy_info(legacy.certificate) == ProxyInfo(LEGACY, LIMITED)


def test_no_longer_than_the_issuer(alice: Credential) -> None:
    first = create_proxy(alice, lifetime=timedelta(hours=1), key=KEY, now=NOW)
    second = create_proxy(first, lifetime=timedelta(hours=2), key=rsa_key("second"), now=NOW)
    assert second.certificate.not_valid_after_utc == NOW + timedelta(hours=1)
    assert second.chain == first.certificates


def test_far_future(ca: LabCA) -> None:
    """Years from 2050 are written as GeneralizedTime."""
    bob = ca.user("Bob", key=rsa_key("bob"), lifetime=timedelta(days=20000)).credential
    proxy = create_proxy(bob, lifetime=timedelta(days=15000), key=KEY, now=NOW)
    assert proxy.certificate.not_valid_after_utc == NOW + timedelta(days=15000)


def test_what_cannot_be_made(alice: Credential) -> None:
    limited = create_proxy(alice, policy=LIMITED, key=KEY, now=NOW)
    with pytest.raises(CredentialError, match="limited one"):
        create_proxy(limited, key=KEY, now=NOW)
    with pytest.raises(CredentialError, match="mixed"):
        create_proxy(limited, policy=LIMITED, format=DRAFT, key=KEY, now=NOW)
    with pytest.raises(CredentialError, match="keyCertSign"):
        create_proxy(alice, format=LEGACY, key=KEY, now=NOW)
    with pytest.raises(CredentialError, match="expired"):
        create_proxy(alice, key=KEY, now=NOW + timedelta(days=31))
    with pytest.raises(CredentialError, match="expired"):
        create_proxy(alice, lifetime=timedelta(seconds=-1), key=KEY, now=NOW)
    with pytest.raises(ValueError, match="legacy"):
        create_proxy(alice, format=LEGACY, path_length=1, key=KEY, now=NOW)
    with pytest.raises(ValueError, match="legacy"):
        create_proxy(alice, format=LEGACY, policy=INDEPENDENT, key=KEY, now=NOW)
    ed_key = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(CredentialError, match="type of key"):
        create_proxy(Credential(alice.certificate, ed_key), key=KEY, now=NOW)
