"""The program and the function of the guide to authorisers decide as the guide says."""

import re
import sys
import types
from datetime import timedelta
from pathlib import Path

import pytest

from gatekeeper.callouts import CommandMapper, PluginMapper
from gatekeeper.decision import AuthorisationRequest, Denied
from protocol.aio.threads import Threads

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-an-authoriser.md"
PROGRAM, FUNCTION = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
STAFF, STUDENT, NOBODY = "/O=Site/OU=Staff/CN=Alice", "/O=Site/OU=Students/CN=Bob", "/O=Site/CN=Eve"


def asked(identity: str) -> AuthorisationRequest:
    return AuthorisationRequest(identity, "jobmanager", None, "192.0.2.1")


async def test_the_program(tmp_path: Path) -> None:
    path = tmp_path / "gram-authorise"
    path.write_text(PROGRAM.replace("/usr/bin/python3", sys.executable))
    path.chmod(0o755)
    threads = Threads(1, "authorise")
    mapper = CommandMapper((str(path),), threads, timeout=timedelta(seconds=30))
    assert await mapper.map(asked(STAFF)) == "alice"
    assert await mapper.map(asked(STUDENT)) == "guest"
    with pytest.raises(Denied):
        await mapper.map(asked(NOBODY))
    threads.close()


async def test_the_function() -> None:
    module = types.ModuleType("accounts")
    exec(FUNCTION, module.__dict__)  # noqa: S102 - it is the guide's own text
    threads = Threads(1, "authorise")
    mapper = PluginMapper("accounts:authorise", module.authorise, threads)
    assert await mapper.map(asked(STAFF)) == "alice"
    with pytest.raises(Denied):
        await mapper.map(asked(NOBODY))
    threads.close()


def test_the_table_lists_what_a_program_gets() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == ["identity", "service", "requested_user", "address", "chain"]
