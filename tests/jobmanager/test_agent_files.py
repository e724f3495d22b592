"""Job directories, proxies, scratch directories, local output, and their removal."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmanager.agent.client import JobFiles
from jobmanager.description import Destination
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.support.agent_lab import CONTACT, PROXY, AgentLab, agent_lab, job, to, with_paths


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    async with agent_lab(tmp_path / "home") as made:
        yield made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(home: Path) -> set[str]:
    """All files below a home except the two directories that stay."""
    found = {str(path.relative_to(home)) for path in home.rglob("*")}
    return found - {".gram", ".gram/jobs"}


async def test_a_new_job_has_private_directories_and_its_proxy(lab: AgentLab) -> None:
    files = await lab.create()
    directory = lab.jobs() / "1234-5678"
    assert files.paths.directory == str(directory)
    assert files.paths.home == str(lab.home)
    assert files.paths.cache == str(lab.home / ".globus/.gass_cache")
    assert files.paths.scratch is None
    assert [mode(path) for path in (lab.home / ".gram", lab.jobs(), directory)] == [0o700] * 3
    proxy = Path(files.paths.proxy)
    assert proxy == directory / "x509_user_proxy"
    assert proxy.read_bytes() == PROXY
    assert mode(proxy) == 0o600
    assert everything(lab.home) == {
        ".gram/jobs/1234-5678", ".gram/jobs/1234-5678/x509_user_proxy"
    }  # fmt: skip


async def test_creating_twice_is_creating_once(lab: AgentLab) -> None:
    first = await lab.create(scratch_dir=str(lab.home))
    assert await lab.create(scratch_dir=str(lab.home)) == first


async def test_a_lax_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with agent_lab(tmp_path / "home") as lab:
            files = await lab.create(stdout=to(str(lab.home / "out")), scratch_dir=str(lab.home))
            assert files.paths.scratch is not None
            assert mode(Path(files.paths.scratch)) == 0o700
            assert mode(lab.home / "out") == 0o600
            for path in (lab.home / ".gram").rglob("*"):
                assert not mode(path) & 0o077, path
    finally:
        os.umask(before)


async def test_local_output_is_made_empty_and_private(lab: AgentLab) -> None:
    (lab.home / "kept").write_text("kept\n")
    await lab.create(stdout=to(str(lab.home / "out")), stderr=to(str(lab.home / "kept")))
    assert (lab.home / "out").read_bytes() == b""
    assert mode(lab.home / "out") == 0o600
    assert (lab.home / "kept").read_text() == "kept\n"


async def test_a_relative_destination_is_below_the_working_directory(lab: AgentLab) -> None:
    (lab.home / "work").mkdir()
    await lab.create(directory="work", stdout=to("out"))
    assert (lab.home / "work/out").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"stdout": "/nowhere/out"}, ErrorCode.OPENING_STDOUT),
        ({"stderr": "/nowhere/err"}, ErrorCode.OPENING_STDERR),
        ({"stdout": "."}, ErrorCode.OPENING_STDOUT),
        ({"stdout": "out", "stderr": "/nowhere/err"}, ErrorCode.OPENING_STDERR),
        ({"stdout": "file:///nowhere/out"}, ErrorCode.OPENING_STDOUT),
    ],
)
async def test_output_that_cannot_be_written_leaves_nothing(
    lab: AgentLab, changes: dict[str, str], code: ErrorCode
) -> None:
    with pytest.raises(GramError) as caught:
        await lab.create(**{name: to(url) for name, url in changes.items()})
    assert caught.value.code is code
    assert everything(lab.home) == set()


async def test_a_list_of_destinations_is_tested_too(lab: AgentLab) -> None:
    with pytest.raises(GramError) as caught:
        await lab.create(stderr=to("https://host.example:1/x", "/nowhere/err"))
    assert caught.value.code is ErrorCode.OPENING_STDERR


async def test_a_dry_run_leaves_nothing(lab: AgentLab) -> None:
    await lab.create(stdout=to(str(lab.home / "out")), scratch_dir=str(lab.home), dry_run=True)
    assert everything(lab.home) == set()


async def test_a_scratch_directory_is_private_and_its_own(lab: AgentLab) -> None:
    (lab.home / "scratch").mkdir()
    files = await lab.create(scratch_dir="scratch")
    assert files.paths.scratch == str(lab.home / "scratch/gram_scratch_1234-5678")
    assert mode(Path(files.paths.scratch)) == 0o700


async def test_a_scratch_directory_that_cannot_be_made(lab: AgentLab) -> None:
    with pytest.raises(GramError) as caught:
        await lab.create(scratch_dir="/nowhere")
    assert caught.value.code is ErrorCode.INVALID_SCRATCH
    assert everything(lab.home) == set()


# Planted links.


@pytest.mark.parametrize("planted", [".gram", ".gram/jobs", ".gram/jobs/1234-5678"])
async def test_no_link_on_the_way_to_the_job_directory_is_followed(
    lab: AgentLab, tmp_path: Path, planted: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = lab.home / planted
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    link.symlink_to(elsewhere)
    with pytest.raises(GramError) as caught:
        await lab.create()
    assert caught.value.code is ErrorCode.ARG_FILE_CREATION_FAILED
    assert list(elsewhere.iterdir()) == []


async def test_a_job_directory_that_others_may_write_to_is_refused(lab: AgentLab) -> None:
    (lab.home / ".gram").mkdir()
    (lab.home / ".gram").chmod(0o777)
    with pytest.raises(GramError) as caught:
        await lab.create()
    assert caught.value.code is ErrorCode.ARG_FILE_CREATION_FAILED


async def test_a_planted_proxy_link_is_replaced_not_followed(lab: AgentLab, tmp_path: Path) -> None:
    files = await lab.create()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    proxy = Path(files.paths.proxy)
    proxy.unlink()
    proxy.symlink_to(victim)
    await (await lab.agent()).write_proxy(files, b"renewed\n")
    assert victim.read_text() == "precious"
    assert not proxy.is_symlink()
    assert proxy.read_bytes() == b"renewed\n"


# Renewal.


async def test_renewal_replaces_the_proxy_as_a_whole(lab: AgentLab) -> None:
    files = await lab.create()
    proxy = Path(files.paths.proxy)
    with proxy.open("rb") as still_open:
        await (await lab.agent()).write_proxy(files, b"renewed\n")
        assert still_open.read() == PROXY
    assert proxy.read_bytes() == b"renewed\n"
    assert mode(proxy) == 0o600
    assert [path.name for path in proxy.parent.iterdir()] == ["x509_user_proxy"]


async def test_renewal_of_a_job_that_is_gone(lab: AgentLab) -> None:
    files = await lab.create()
    agent = await lab.agent()
    await agent.clean_up(files)
    with pytest.raises(GramError) as caught:
        await agent.write_proxy(files, b"renewed\n")
    assert caught.value.code is ErrorCode.OPENING_CACHE_USER_PROXY


async def test_a_full_disk_is_no_proxy(lab: AgentLab, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await lab.agent()
    real = os.fdopen

    def full(descriptor: int, mode: str) -> object:
        file = real(descriptor, mode)
        file.close()
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr("jobmanager.agent.directories.os.fdopen", full)
    with pytest.raises(GramError) as caught:
        await agent.create_job("1234-5678", CONTACT, job(lab.home), PROXY)
    assert caught.value.code is ErrorCode.OPENING_CACHE_USER_PROXY
    monkeypatch.undo()
    assert everything(lab.home) == set()


# Cleaning up.


async def test_clean_up_removes_what_was_the_jobs(lab: AgentLab) -> None:
    (lab.home / "mine").write_text("x")
    (lab.home / "listed").write_text("x")
    files = await lab.create(
        scratch_dir="",
        stdout=to(str(lab.home / "out")),
        stderr=(Destination("x-gass-cache://1/err"),),
        file_clean_up=("listed", "absent"),
    )
    (Path(files.paths.directory) / "deep/deeper").mkdir(parents=True)
    (Path(files.paths.directory) / "deep/deeper/file").write_text("x")
    assert await (await lab.agent()).clean_up(files) == 0
    left = everything(lab.home)
    assert {"mine", "out"} <= left
    assert not any("1234-5678" in name or "data" in name for name in left)
    assert "listed" not in left


async def test_clean_up_follows_no_link(lab: AgentLab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    files = await lab.create(scratch_dir="", file_clean_up=("link-to-file",))
    assert files.paths.scratch is not None
    for place in (files.paths.directory, files.paths.scratch):
        (Path(place) / "link").symlink_to(outside)
    (lab.home / "link-to-file").symlink_to(outside / "precious")
    assert await (await lab.agent()).clean_up(files) == 0
    assert (outside / "precious").exists()
    assert not Path(files.paths.scratch).exists()
    assert not (lab.home / "link-to-file").is_symlink()


async def test_a_job_directory_replaced_by_a_link_is_not_followed(
    lab: AgentLab, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    files = await lab.create()
    directory = Path(files.paths.directory)
    directory.rename(tmp_path / "moved")
    directory.symlink_to(outside)
    assert await (await lab.agent()).clean_up(files) == 1
    assert (outside / "precious").exists()


async def test_clean_up_counts_what_it_cannot_remove(lab: AgentLab) -> None:
    (lab.home / "directory").mkdir()
    files = await lab.create(file_clean_up=("directory", "absent"))
    assert await (await lab.agent()).clean_up(files) == 1


async def test_clean_up_can_be_repeated(lab: AgentLab) -> None:
    files = await lab.create(scratch_dir="")
    agent = await lab.agent()
    await agent.clean_up(files)
    assert await agent.clean_up(files) == 0


# STDIO_UPDATE before the job runs.


async def test_a_redirection_to_a_local_file_tests_it(lab: AgentLab) -> None:
    files = await lab.create()
    agent = await lab.agent()
    await agent.redirect(with_paths(files.paths, files, stdout=to(str(lab.home / "new"))))
    assert (lab.home / "new").exists()
    for changes, code in (
        ({"stdout": to("/nowhere/x")}, ErrorCode.OPENING_STDOUT),
        ({"stderr": to("/nowhere/x")}, ErrorCode.OPENING_STDERR),
    ):
        with pytest.raises(GramError) as caught:
            await agent.redirect(with_paths(files.paths, files, **changes))
        assert caught.value.code is code


async def test_names_keep_their_bytes(lab: AgentLab) -> None:
    name = os.fsdecode(b"caf\xe9 \xff\n")
    files: JobFiles = await lab.create(stdout=to(str(lab.home / name)), file_clean_up=(name,))
    assert os.path.exists(os.fsencode(lab.home) + b"/caf\xe9 \xff\n")
    await (await lab.agent()).clean_up(files)
    assert not os.path.exists(os.fsencode(lab.home) + b"/caf\xe9 \xff\n")
