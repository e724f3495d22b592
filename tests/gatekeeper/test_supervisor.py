"""A service that cannot start says why in one line, exits with 78 and leaves nothing running."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatekeeper.supervisor import EXIT_CONFIGURATION
from tests.support.site import Site, make_site

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with make_site() as made:
        yield made


def start(path: Path) -> tuple[int, list[str]]:
    """Run the service until it gives up; its status and what it logged as errors."""
    done = subprocess.run(
        [sys.executable, "-m", "gram", "serve", "--config", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert "gram contact" not in done.stdout
    lines = [line for line in done.stderr.splitlines() if "cannot-start" in line]
    return done.returncode, lines


def refusal(site: Site, name: str, old: str, new: str) -> str:
    server = site.configure(name)
    text = server.config.read_text()
    assert old in text
    server.config.write_text(text.replace(old, new, 1))
    status, lines = start(server.config)
    assert status == EXIT_CONFIGURATION
    assert len(lines) == 1, lines
    return lines[0]


@needs_root
@pytest.mark.root
def test_a_service_account_that_is_not_there(site: Site) -> None:
    said = refusal(site, "account", 'account = "nobody"', 'account = "gram-is-not-here"')
    assert "useradd" in said


@needs_root
@pytest.mark.root
def test_root_as_service_account(site: Site) -> None:
    assert "must not be root" in refusal(site, "root", 'account = "nobody"', 'account = "root"')


def test_a_key_that_is_not_there(site: Site) -> None:
    said = refusal(site, "nokey", f'private_key = "{site.host_key}"', 'private_key = "/no/key"')
    assert "/no/key" in said


def test_a_key_that_others_can_read(site: Site) -> None:
    open_key = site.directory / "open.key"
    open_key.write_bytes(site.host_key.read_bytes())
    open_key.chmod(0o644)
    said = refusal(
        site, "openkey", f'private_key = "{site.host_key}"', f'private_key = "{open_key}"'
    )
    assert str(open_key) in said
    assert "PRIVATE KEY" not in said


def test_a_port_that_is_taken(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        said = refusal(site, "busy", '"127.0.0.1:0"', f'"127.0.0.1:{port}"')
    assert f"cannot listen on 127.0.0.1 port {port}" in said


def test_an_lrm_that_nobody_knows(site: Site) -> None:
    said = refusal(site, "lrm", 'lrm = "fork"', 'lrm = "abacus"')
    assert "abacus" in said


def test_a_database_that_cannot_be_opened(site: Site) -> None:
    server = site.configure("database")
    text = server.config.read_text()
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    server.config.write_text(text.replace("[state]", f'[state]\ndatabase = "{url}"'))
    status, lines = start(server.config)
    assert (status, len(lines)) == (EXIT_CONFIGURATION, 1)
    assert "database" in lines[0]


def test_it_starts_and_stops(site: Site) -> None:
    server = site.configure("good").start()
    assert server.stop() == 0, server.log
    assert "service.ready" in server.log
    assert "Traceback" not in server.log
