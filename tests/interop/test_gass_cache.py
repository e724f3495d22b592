"""The GASS cache with the real `globus-gass-cache` (job-manager.md §5.4), in both directions."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jobmanager.agent.cache import GassCache

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        shutil.which("globus-gass-cache") is None,
        reason="globus-gass-cache is not installed: run `make peers` as root",
    ),
]

CONTACT = "https://host.example:4711/1234/5678/"
URL = f"x-gass-cache://{CONTACT}stdout"
EXTRA = "anExtraTag"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def cache(home: Path) -> GassCache:
    return GassCache(f"{home}/.globus/.gass_cache")


def tool(home: Path, *arguments: str, succeeds: bool = True) -> str:
    """What the tool prints."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["globus-gass-cache", *arguments], env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode == 0) is succeeds, done.stderr
    return done.stdout.decode().strip()


def data_files(home: Path) -> list[Path]:
    return [path for path in (home / ".globus").rglob("data*") if path.is_file()]


def put(cache: GassCache, data: bytes, url: str, *tags: str) -> str:
    download = cache.begin()
    os.write(download.descriptor, data)
    path = cache.publish(download, url, tags[0], mode=0o600)
    for tag in tags[1:]:
        assert cache.tag(url, tag)
    return path


def test_the_tool_finds_what_we_wrote(home: Path, cache: GassCache) -> None:
    put(cache, b"output\n", URL, CONTACT, EXTRA)
    path = tool(home, "-query", "-t", EXTRA, URL)
    assert path == cache.find(URL, EXTRA)
    assert Path(path).read_bytes() == b"output\n"
    listed = tool(home, "-list")
    assert f"URL: {URL}" in listed
    assert f"Tag:{EXTRA}" in listed
    assert f"Tag:{CONTACT}" in listed


def test_the_tool_says_that_there_is_nothing(home: Path, cache: GassCache) -> None:
    put(cache, b"output\n", URL, CONTACT)
    assert tool(home, "-query", "-t", EXTRA, URL, succeeds=False) == ""


def test_we_find_what_the_tool_wrote(home: Path, cache: GassCache) -> None:
    (home / "source").write_text("by the tool\n")
    tool(home, "-add", "-t", CONTACT, "-n", URL, f"file://{home}/source")
    path = cache.find(URL, CONTACT)
    assert path == tool(home, "-query", "-t", CONTACT, URL)
    assert path is not None
    assert Path(path).read_text() == "by the tool\n"
    assert cache.tag(URL, EXTRA)
    assert tool(home, "-query", "-t", EXTRA, URL) == cache.find(URL, EXTRA)


def test_the_tool_adds_its_tag_to_our_entry(home: Path, cache: GassCache) -> None:
    put(cache, b"ours\n", URL, CONTACT)
    tool(home, "-add", "-t", EXTRA, "-n", URL, "file:///dev/null")
    cache.remove_tag(CONTACT)
    path = tool(home, "-query", "-t", EXTRA, URL)
    assert Path(path).read_bytes() == b"ours\n"
    assert path == cache.find(URL, EXTRA)


def test_globus_job_clean(home: Path, cache: GassCache) -> None:
    """`-cleanup-url` takes everything, whoever put it there."""
    put(cache, b"output\n", URL, CONTACT, EXTRA)
    tool(home, "-cleanup-url", URL)
    assert cache.find(URL, CONTACT) is None
    assert cache.find(URL, EXTRA) is None
    assert data_files(home) == []
    assert put(cache, b"new\n", URL, CONTACT) == tool(home, "-query", "-t", CONTACT, URL)


def test_the_tool_removes_our_tag(home: Path, cache: GassCache) -> None:
    put(cache, b"output\n", URL, CONTACT, EXTRA)
    tool(home, "-cleanup-tag", "-t", CONTACT)
    assert cache.find(URL, CONTACT) is None
    path = cache.find(URL, EXTRA)
    assert path is not None
    assert Path(path).read_bytes() == b"output\n"
    tool(home, "-cleanup-tag", "-t", EXTRA)
    assert data_files(home) == []


def test_we_remove_the_tools_tag(home: Path, cache: GassCache) -> None:
    for tag in (CONTACT, CONTACT, EXTRA):  # twice the same: two references
        tool(home, "-add", "-t", tag, "-n", URL, "file:///etc/hostname")
    cache.remove_tag(CONTACT)
    assert tool(home, "-query", "-t", CONTACT, URL, succeeds=False) == ""
    assert tool(home, "-query", "-t", EXTRA, URL) == cache.find(URL, EXTRA)
    cache.remove_tag(EXTRA)
    assert data_files(home) == []
    assert tool(home, "-list") == ""


def test_the_names_of_directories_are_the_tools(home: Path, cache: GassCache) -> None:
    put(cache, b"output\n", URL, CONTACT)
    mangled = tool(home, "-mangle", URL).split("'")[1]
    assert (Path(cache.path) / "global" / mangled / "url").read_text() == URL
    assert tool(home, "-type") == "CACHE_TYPE: 'normal'"


def test_the_tool_accepts_a_cache_that_we_made(home: Path, cache: GassCache) -> None:
    cache.add_empty(URL, CONTACT, EXTRA)
    config = (Path(cache.path) / "config").read_bytes()
    tool(home, "-add", "-t", "other", "-n", "x-gass-cache://other", "file:///etc/hostname")
    assert (Path(cache.path) / "config").read_bytes() == config
    assert tool(home, "-list", "-t", EXTRA).splitlines()[0] == f"URL: {URL}"
