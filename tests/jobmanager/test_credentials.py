"""The service's credentials: the longest lasting, private on disk, found again."""

import asyncio
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from gram.labca import LabCA
from jobmanager.credentials import CredentialStore
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxy_init import create_proxy
from tests.support.keys import rsa_key


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCA:
    return LabCA(tmp_path_factory.mktemp("ca"), key=rsa_key("ca"))


@pytest.fixture(scope="module")
def trusted(ca: LabCA) -> CADirectory:
    return CADirectory(ca.ca_directory())


def proxy(ca: LabCA, name: str, hours: float) -> Credential:
    user = ca.user(name, key=rsa_key(name)).credential
    return create_proxy(user, lifetime=timedelta(hours=hours), key=rsa_key("proxy"))


async def test_the_one_that_lasts_longest_is_used(
    tmp_path: Path, ca: LabCA, trusted: CADirectory
) -> None:
    store = CredentialStore(tmp_path / "c", trusted)
    short, middle, long = (proxy(ca, "alice", hours) for hours in (1, 2, 3))
    offers = [await store.offer("/CN=a", item) for item in (middle, short, long, middle, long)]
    assert offers == [True, False, True, False, False]
    held = store.get("/CN=a")
    assert held is not None
    assert held.credential is long
    assert store.get("/CN=b") is None


async def test_files_are_private_and_found_again(
    tmp_path: Path, ca: LabCA, trusted: CADirectory
) -> None:
    store = CredentialStore(tmp_path / "c", trusted)
    await store.offer("/CN=a/../b", proxy(ca, "alice", 1))
    [file] = (tmp_path / "c").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    again = CredentialStore(tmp_path / "c", trusted)
    assert again.load("/CN=a/../b")
    assert not again.load("/CN=c")
    assert again.get("/CN=c") is None


async def test_a_damaged_file_is_no_credential(tmp_path: Path, trusted: CADirectory) -> None:
    store = CredentialStore(tmp_path / "c", trusted)
    store._path("/CN=a").write_bytes(b"not PEM")
    store._path("/CN=a").chmod(0o600)
    assert not store.load("/CN=a")


async def test_offers_at_once_leave_the_longest_in_the_file(
    tmp_path: Path, ca: LabCA, trusted: CADirectory
) -> None:
    store = CredentialStore(tmp_path / "c", trusted)
    offered = [proxy(ca, "alice", hours) for hours in (1, 4, 2, 3)]
    await asyncio.gather(*(store.offer("/CN=a", item) for item in offered))
    held = store.get("/CN=a")
    assert held is not None
    assert held.credential is offered[1]
    assert Credential.load(store._path("/CN=a")).expires == offered[1].expires


async def test_nothing_shows_the_key(tmp_path: Path, ca: LabCA, trusted: CADirectory) -> None:
    store = CredentialStore(tmp_path / "c", trusted)
    await store.offer("/CN=a", proxy(ca, "alice", 1))
    held = store.get("/CN=a")
    assert held is not None
    assert "PRIVATE" not in repr(held)
