"""A throw-away CA with two users, and a site with our own service."""

import os
from collections.abc import Iterator

import pytest

from gram.labca import LabCA
from tests.gram.lab import Lab
from tests.support.keys import rsa_key
from tests.support.server import Server
from tests.support.site import Site, make_site


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    directory = tmp_path_factory.mktemp("lab")
    ca = LabCA(directory / "ca", key=rsa_key("ca"))
    certificates = ca.ca_directory(directory / "certificates")
    host = ca.host(["localhost", "127.0.0.1"], key=rsa_key("host")).credential
    alice = ca.user("Alice", key=rsa_key("alice")).credential
    mallory = ca.user("Mallory", key=rsa_key("mallory")).credential
    return Lab(
        directory,
        certificates,
        host,
        ca.proxy(alice, directory / "proxy", key=rsa_key("alice proxy")),
        directory / "proxy",
        ca.proxy(mallory, directory / "mallory", key=rsa_key("mallory proxy")),
    )


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the account that runs the tests has an influence."""
    for name in list(os.environ):
        if name.startswith(("X509_", "GLOBUS_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(scope="session")
def server(site: Site) -> Iterator[Server]:
    started = site.configure("server").start()
    yield started
    assert started.stop() == 0, started.log
