from pathlib import Path

import pytest

from gram.labca import Issued, LabCA
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from tests.gsi.forge import NOW
from tests.support.keys import rsa_key


@pytest.fixture
def ca(tmp_path: Path) -> LabCA:
    return LabCA(tmp_path, key=rsa_key("ca"), now=NOW)


@pytest.fixture
def issued(ca: LabCA) -> Issued:
    return ca.user("Alice", key=rsa_key("alice"))


@pytest.fixture
def alice(issued: Issued) -> Credential:
    return issued.credential


@pytest.fixture
def directory(ca: LabCA) -> CADirectory:
    return CADirectory(ca.ca_directory())
