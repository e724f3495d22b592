"""Every example of the guide to the client library runs, against our server."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server
from tests.support.site import Site, make_site

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-client.md"
EXAMPLE = re.compile(r"^## (.*?)$(?:(?!^## ).)*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
PRINTS = {
    "Run a program": r"b'hello\\n' 3\n",
    "Submit RSL and wait": r"https://\S+\nACTIVE\nDONE\nexit code 0\n",
    "Come back later": r"(UNSUBMITTED|ACTIVE)\n",
    "Many jobs at once": "".join(rf"b'{number}\\n'\n" for number in range(5)),
    "Without asyncio": r"b'.+\\n'\n",
    "Errors": r"refused: PARAMETER_NOT_SUPPORTED .*\n",
    "RSL from data": r'&\("executable" = "/bin/echo" \)\("arguments" = .*\)\n',
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    started = site.configure("guide").start()
    yield started
    assert started.stop() == 0, started.log


def test_all_examples_are_here() -> None:
    assert [title for title, _ in EXAMPLES] == list(PRINTS)


@pytest.mark.parametrize(("title", "code"), EXAMPLES)
def test_example(title: str, code: str, site: Site, server: Server) -> None:
    result = site.alice.run(sys.executable, "-c", code.replace("gram.example.org", server.contact))
    assert result.returncode == 0, result.stderr.decode()
    assert re.fullmatch(PRINTS[title], result.stdout.decode()), result.stdout
