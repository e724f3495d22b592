"""The GASS cache (job-manager.md §5.4); tests/interop/test_gass_cache.py has the real tool."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from jobmanager.agent.cache import Download, GassCache

URL = "x-gass-cache://https://host/1/2/stdout"
TAG = "https://host/1/2/"


def mangled(text: str) -> str:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> GassCache:
    return GassCache(str(root))


def fill(cache: GassCache, data: bytes) -> Download:
    download = cache.begin()
    os.write(download.descriptor, data)
    return download


def put(cache: GassCache, data: bytes, url: str = URL, tag: str = TAG) -> Path:
    return Path(cache.publish(fill(cache, data), url, tag, mode=0o600))


def test_the_layout(cache: GassCache, root: Path) -> None:
    path = put(cache, b"data")
    below = f"local/md5/{mangled(TAG)}/md5/{mangled(URL)}"
    assert path == root / below / "data"
    assert (root / "config").read_text() == "type=normal\nlevels=2\n"
    assert (root / f"global/md5/{mangled(URL)}/url").read_text() == URL
    assert (root / f"local/md5/{mangled(TAG)}/tag").read_text() == TAG
    assert (root / f"{below}/tag").samefile(root / f"local/md5/{mangled(TAG)}/tag")
    assert path.samefile(root / f"global/md5/{mangled(URL)}/data")
    assert len(list((root / below).glob("data.*"))) == 1
    assert list((root / "tmp").iterdir()) == []
    assert path.stat().st_nlink == 3


def test_what_is_not_there(cache: GassCache) -> None:
    assert cache.find(URL, TAG) is None
    assert not cache.tag(URL, TAG)
    cache.remove_tag(TAG)
    put(cache, b"data")
    assert cache.find(URL, "other") is None
    assert cache.find("other", TAG) is None


def test_entries_live_as_long_as_their_last_tag(cache: GassCache, root: Path) -> None:
    put(cache, b"data")
    assert cache.tag(URL, "anExtraTag")
    put(cache, b"mine alone", url="https://other", tag=TAG)
    cache.remove_tag(TAG)
    assert cache.find(URL, TAG) is None
    kept = cache.find(URL, "anExtraTag")
    assert kept is not None
    assert Path(kept).read_bytes() == b"data"
    assert not (root / f"global/md5/{mangled('https://other')}").exists()
    assert cache.tag(URL, "another")
    cache.remove_tag("another")
    cache.remove_tag("anExtraTag")
    assert files_of(root) == {"config"}
    assert {path.name for path in root.iterdir()} == {"config", "global", "local", "tmp"}


def test_tagging_twice_is_tagging_once(cache: GassCache, root: Path) -> None:
    put(cache, b"data")
    before = files_of(root)
    assert cache.tag(URL, TAG)
    assert cache.add_empty(URL, TAG) == cache.find(URL, TAG)
    assert files_of(root) == before
    found = cache.find(URL, TAG)
    assert found is not None
    assert Path(found).read_bytes() == b"data"


def test_the_first_data_wins(cache: GassCache) -> None:
    slow = fill(cache, b"slow")
    put(cache, b"fast", tag="other")
    assert Path(cache.publish(slow, URL, TAG, mode=0o600)).read_bytes() == b"fast"


def test_dropped_data_leaves_nothing(cache: GassCache, root: Path) -> None:
    cache.discard(fill(cache, b"half of it"))
    assert files_of(root) == {"config"}


def test_an_entry_that_the_tool_holds_is_waited_for(cache: GassCache, root: Path) -> None:
    put(cache, b"data")
    entry = root / f"global/md5/{mangled(URL)}"
    (entry / "data").rename(entry / "data.host_1_0")
    timer = threading.Timer(0.1, lambda: (entry / "data.host_1_0").rename(entry / "data"))
    timer.start()
    assert cache.tag(URL, "other")
    timer.join()


def test_a_hold_that_was_abandoned_does_not_last(
    cache: GassCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobmanager.agent.cache._BUSY_WAIT", 0.05)
    put(cache, b"old")
    entry = root / f"global/md5/{mangled(URL)}"
    (entry / "data").rename(entry / "data.host_1_0")
    assert not cache.tag(URL, "other")
    assert put(cache, b"new", tag="other").read_bytes() == b"new"


def test_comings_and_goings_at_once(cache: GassCache, root: Path) -> None:
    """Whoever puts a tag on finds the data, whatever others take off meanwhile."""
    errors: list[BaseException] = []
    end = time.monotonic() + 1.5

    def work(tag: str) -> None:
        try:
            while time.monotonic() < end:
                if not cache.tag(URL, tag):
                    put(cache, b"data", tag=tag)
                path = cache.find(URL, tag)
                assert path is not None
                assert Path(path).read_bytes() == b"data"
                cache.remove_tag(tag)
        except BaseException as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"tag{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert "tmp" in {path.name for path in root.iterdir()}
    assert list((root / "tmp").iterdir()) == []


# Planted links and strangers.


@pytest.mark.parametrize("level", ["global", "local", "tmp", "global/md5", "local/md5"])
def test_no_link_in_the_cache_is_followed(cache: GassCache, root: Path, level: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / level).parent.mkdir(parents=True)
    (root / level).symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        put(cache, b"data")
    assert list(outside.iterdir()) == []


def test_linked_data_is_no_data(cache: GassCache, root: Path) -> None:
    path = put(cache, b"data")
    victim = root.parent / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(PermissionError):
        cache.find(URL, TAG)
    entry = root / f"global/md5/{mangled(URL)}/data"
    entry.unlink()
    entry.symlink_to(victim)
    with pytest.raises(PermissionError):
        cache.tag(URL, "other")
    cache.remove_tag(TAG)
    assert victim.read_text() == "precious"


def test_a_directory_for_everybody_is_refused(cache: GassCache, root: Path) -> None:
    root.mkdir()
    (root / "local").mkdir()
    (root / "local").chmod(0o777)
    with pytest.raises(PermissionError):
        put(cache, b"data")


def test_odd_names(cache: GassCache) -> None:
    url = os.fsdecode(b"https://h/\xff?a b\n/../x")
    path = put(cache, b"data", url=url, tag=os.fsdecode(b"\xfe"))
    assert cache.find(url, os.fsdecode(b"\xfe")) == str(path)
