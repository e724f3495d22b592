"""Fixtures with real clients: a site, our server and (as root) the reference server on it."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support import reference
from tests.support.reference import Reference
from tests.support.server import Server
from tests.support.site import Site, User, make_site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if shutil.which("globusrun") is None:
        pytest.skip("globusrun is not installed: run `make peers` as root")
    with make_site() as made:
        yield made


@pytest.fixture(scope="session")
def server(site: Site) -> Iterator[Server]:
    started = site.configure("server").start()
    yield started
    assert started.stop() == 0, started.log


@pytest.fixture(scope="session")
def reference_server(site: Site) -> Iterator[Reference]:
    if not reference.installed():
        pytest.skip("the reference server needs root and `make peers`")
    started = reference.start(
        site.directory / "reference",
        certificates=site.certificates,
        host_certificate=site.host_certificate,
        host_key=site.host_key,
        gridmap=site.gridmap,
    )
    yield started
    started.stop()


@pytest.fixture
def alice(site: Site) -> User:
    return site.alice


@pytest.fixture
def bob(site: Site) -> User:
    if site.bob is None:
        pytest.skip("a second account needs root")
    return site.bob
