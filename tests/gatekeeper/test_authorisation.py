"""Account decisions: the rules that always hold, and mappers that misbehave in every way."""

import asyncio
import json
import os
import pwd
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from gatekeeper import callouts
from gatekeeper.authorisation import (
    MAX_THREADS,
    AccountPolicy,
    AuthorisationRequest,
    CheckedAuthoriser,
    Denied,
    GridMapMapper,
    Reason,
    make_authoriser,
)
from gatekeeper.callouts import CommandMapper, PluginMapper, load_plugin
from gatekeeper.config import Config, ConfigError
from gatekeeper.decision import Mapper
from gatekeeper.gridmap import GridMapFile
from gatekeeper.settings import Authorisation, Gatekeeper
from protocol.aio.threads import Threads

ACCOUNTS = {
    name: pwd.struct_passwd((name, "x", uid, gid, "", "/home", shell))
    for name, uid, gid, shell in (
        ("alice", 2001, 2001, "/bin/sh"),
        ("bob", 2002, 2002, "/usr/sbin/nologin"),
        ("root", 0, 0, "/bin/sh"),
        ("toor", 0, 5, "/bin/sh"),
        ("wheel", 2003, 0, "/bin/sh"),
        ("daemon", 1, 1, "/bin/sh"),
    )
}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", ACCOUNTS.__getitem__)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads(MAX_THREADS, "authorise")
    yield threads
    threads.close()


class Answer:
    """A mapper that always gives the same answer."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.asked = 0

    async def map(self, request: AuthorisationRequest) -> str:
        self.asked += 1
        return self.account


def request(requested: str | None = None, *, identity: str = "/CN=Alice") -> AuthorisationRequest:
    return AuthorisationRequest(identity, "jobmanager", requested, "192.0.2.1", b"-----BEGIN")


def checked(
    mapper: Mapper,
    threads: Threads,
    *,
    policy: AccountPolicy | None = None,
    timeout: float = 60,
) -> CheckedAuthoriser:
    return CheckedAuthoriser(
        mapper, policy or AccountPolicy(), threads, timeout=timedelta(seconds=timeout)
    )


async def denial(authoriser: CheckedAuthoriser, asked: AuthorisationRequest) -> Denied:
    with pytest.raises(Denied) as caught:
        await authoriser.authorise(asked)
    return caught.value


# --- accounts -----------------------------------------------------------------------------------


async def test_an_account_that_may_be_used(threads: Threads) -> None:
    assert await checked(Answer("alice"), threads).authorise(request()) == "alice"
    assert await checked(Answer("alice"), threads).authorise(request("alice")) == "alice"


@pytest.mark.parametrize(
    ("account", "reason"),
    [
        ("root", Reason.ROOT),
        ("toor", Reason.ROOT),
        ("wheel", Reason.ROOT),
        ("daemon", Reason.SYSTEM_ACCOUNT),
        ("nobodyhere", Reason.UNKNOWN_ACCOUNT),
        ("bob\r", Reason.UNKNOWN_ACCOUNT),
        ("-", Reason.UNKNOWN_ACCOUNT),
        (".pool", Reason.UNKNOWN_ACCOUNT),
        ("ali\udcffce", Reason.UNKNOWN_ACCOUNT),
    ],
)
@pytest.mark.parametrize("requested", [False, True])
async def test_accounts_that_are_never_used(
    threads: Threads, account: str, reason: Reason, requested: bool
) -> None:
    denied = await denial(
        checked(Answer(account), threads), request(account if requested else None)
    )
    assert denied.reason is reason
    assert denied.http_status == 500


async def test_names_the_system_itself_cannot_take(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real account database
    for account in ("nobody here", "ali\udcffce", "x" * 200):
        denied = await denial(checked(Answer(account), threads), request())
        assert denied.reason is Reason.UNKNOWN_ACCOUNT
    root = pwd.getpwuid(0).pw_name
    assert (await denial(checked(Answer(root), threads), request())).reason is Reason.ROOT


async def test_root_is_refused_whatever_the_policy(threads: Threads) -> None:
    policy = AccountPolicy(minimum_uid=0, only_uid=0)
    denied = await denial(checked(Answer("root"), threads, policy=policy), request())
    assert denied.reason is Reason.ROOT


async def test_without_root_there_is_one_account(threads: Threads) -> None:
    policy = AccountPolicy(only_uid=2001)
    assert await checked(Answer("alice"), threads, policy=policy).authorise(request()) == "alice"
    denied = await denial(checked(Answer("bob"), threads, policy=policy), request())
    assert (denied.reason, denied.http_status) == (Reason.FOREIGN_ACCOUNT, 500)


async def test_shells_count_when_asked_to(threads: Threads) -> None:
    assert await checked(Answer("bob"), threads).authorise(request()) == "bob"
    strict = AccountPolicy(refuse_nologin_shells=True)
    denied = await denial(checked(Answer("bob"), threads, policy=strict), request())
    assert denied.reason is Reason.NO_LOGIN
    assert await checked(Answer("alice"), threads, policy=strict).authorise(request()) == "alice"


@pytest.mark.parametrize("answer", ["", "a" * 256, "ali\0ce", "ä" * 128])
async def test_answers_that_are_no_names(threads: Threads, answer: str) -> None:
    denied = await denial(checked(Answer(answer), threads), request())
    assert (denied.reason, denied.http_status) == (Reason.CALLOUT, 403)


@pytest.mark.parametrize("requested", ["", "a" * 256, "a" * 5000, "ali\0ce"])
async def test_requested_accounts_that_are_no_names(threads: Threads, requested: str) -> None:
    mapper = Answer(requested)
    denied = await denial(checked(mapper, threads), request(requested))
    assert (denied.reason, denied.http_status) == (Reason.BAD_REQUEST, 403)
    assert mapper.asked == 0


async def test_another_account_than_the_requested_one(threads: Threads) -> None:
    for requested in ("bob", "ALICE", "alice ", "root"):
        denied = await denial(checked(Answer("alice"), threads), request(requested))
        assert (denied.reason, denied.http_status) == (Reason.OTHER_ACCOUNT, 403)


async def test_a_name_service_that_hangs_denies(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(_name: str) -> None:
        release.wait()

    monkeypatch.setattr(pwd, "getpwnam", hang)
    try:
        denied = await denial(checked(Answer("alice"), threads, timeout=0.05), request())
        assert (denied.reason, denied.http_status) == (Reason.TIMEOUT, 403)
        hanging = [
            denial(checked(Answer("alice"), threads, timeout=0.05), request())
            for _ in range(MAX_THREADS + 3)
        ]
        assert {each.reason for each in await asyncio.gather(*hanging)} == {Reason.TIMEOUT}
    finally:
        release.set()


async def test_a_machine_without_resources_denies(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", exhausted)
    denied = await denial(checked(command(threads, "echo alice"), threads), request())
    assert (denied.reason, denied.http_status) == (Reason.MALFUNCTION, 500)


# --- the grid-mapfile ---------------------------------------------------------------------------


async def test_the_grid_mapfile_decides(threads: Threads, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text('"/CN=Alice" alice,bob\n"/CN=Eve" root\n')
    authoriser = checked(GridMapMapper(GridMapFile(path), threads), threads)
    assert await authoriser.authorise(request()) == "alice"
    assert await authoriser.authorise(request("bob")) == "bob"
    assert (await denial(authoriser, request("root"))).reason is Reason.NOT_MAPPED
    assert (await denial(authoriser, request(identity="/CN=Bob"))).reason is Reason.NOT_MAPPED
    assert (await denial(authoriser, request(identity="/CN=Eve"))).reason is Reason.ROOT
    path.unlink()
    denied = await denial(authoriser, request())
    assert (denied.reason, denied.http_status) == (Reason.MAP_UNREADABLE, 403)


@pytest.mark.parametrize("where", ["missing", "directory"])
async def test_a_missing_map_denies_everybody(threads: Threads, tmp_path: Path, where: str) -> None:
    path = tmp_path if where == "directory" else tmp_path / "map"
    authoriser = checked(GridMapMapper(GridMapFile(path), threads), threads)
    assert (await denial(authoriser, request())).reason is Reason.MAP_UNREADABLE


# --- a program ----------------------------------------------------------------------------------


def command(threads: Threads, script: str, *, timeout: float = 60) -> CommandMapper:
    return CommandMapper(("/bin/sh", "-c", script), threads, timeout=timedelta(seconds=timeout))


async def test_a_program_decides(threads: Threads) -> None:
    assert await checked(command(threads, "echo alice"), threads).authorise(request()) == "alice"


async def test_what_a_program_gets(threads: Threads, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"cat > {seen}; pwd >> {seen}; env | sort >> {seen}; echo alice"
    asked = AuthorisationRequest("/CN=A\\x0A", "jobmanager", "alice", "::1", b"PEM")
    assert await checked(command(threads, script), threads).authorise(asked) == "alice"
    question, directory, *environment = seen.read_text().splitlines()
    assert json.loads(question) == {
        "identity": "/CN=A\\x0A",
        "service": "jobmanager",
        "requested_user": "alice",
        "address": "::1",
        "chain": "PEM",
    }
    assert directory == "/"
    names = {line.partition("=")[0] for line in environment}
    assert names - {"_", "SHLVL", "OLDPWD"} == {"PATH", "LANG", "PWD"}


@pytest.mark.parametrize(
    "script",
    [
        "true",
        "exit 1",
        "echo alice; exit 1",
        "echo",
        "printf alice",
        "echo alice; echo bob",
        "echo alice; echo",
        "printf 'alice\\nbob'",
        "printf '\\nalice\\n'",
        "head -c 10000 /dev/zero | tr '\\0' a; echo",
        "printf 'ali\\0ce\\n'",
        "kill -9 $$",
        "echo alice >&2",
    ],
)
async def test_programs_that_fail_to_decide(threads: Threads, script: str) -> None:
    denied = await denial(checked(command(threads, script), threads), request())
    assert (denied.reason, denied.http_status) == (Reason.CALLOUT, 403)


@pytest.mark.parametrize("argv", [("/nonexistent",), ("/",), ("/etc/passwd",)])
async def test_programs_that_cannot_be_started(threads: Threads, argv: tuple[str, ...]) -> None:
    mapper = CommandMapper(argv, threads, timeout=timedelta(seconds=60))
    denied = await denial(checked(mapper, threads), request())
    assert denied.reason is Reason.CALLOUT
    assert "cannot be started" in denied.text


async def test_a_program_may_not_choose_another_account(threads: Threads) -> None:
    denied = await denial(checked(command(threads, "echo alice"), threads), request("bob"))
    assert denied.reason is Reason.OTHER_ACCOUNT
    denied = await denial(checked(command(threads, "echo root"), threads), request())
    assert denied.reason is Reason.ROOT


def running(path: Path) -> bool:
    """Whether the process whose id is in the file runs."""
    try:
        state = Path(f"/proc/{path.read_text().strip()}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] not in "ZX"


def wait_for_end(path: Path) -> None:
    while running(path):
        time.sleep(0.01)


@pytest.mark.parametrize(
    "script",
    ["sleep 60", "yes", "yes >&2", "trap '' TERM INT HUP; while :; do sleep 1; done"],
    ids=["sleeps", "prints for ever", "complains for ever", "ignores signals"],
)
async def test_a_program_that_hangs_is_killed(
    threads: Threads, tmp_path: Path, script: str
) -> None:
    pid = tmp_path / "pid"
    mapper = command(threads, f"echo $$ > {pid}; {script}", timeout=0.3)
    denied = await denial(checked(mapper, threads, timeout=60), request())
    assert denied.reason is Reason.TIMEOUT
    assert not running(pid)


async def test_what_a_program_leaves_behind_is_killed(threads: Threads, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; echo alice"
    assert await checked(command(threads, script), threads).authorise(request()) == "alice"
    await asyncio.to_thread(wait_for_end, pid)


async def test_a_daemon_that_keeps_the_output_open_does_not_delay(
    threads: Threads, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = f"import os,time; os.setsid(); open({str(pid)!r}, 'w').write(str(os.getpid()))"
    script = f"""
        {sys.executable} -c "{code}; time.sleep(60)" &
        until test -s {pid}; do sleep 0.01; done
        echo alice
    """
    answer = await checked(command(threads, script), threads, timeout=30).authorise(request())
    assert answer == "alice"
    assert running(pid)
    os.kill(int(pid.read_text()), 9)


async def test_many_programs_at_once(threads: Threads) -> None:
    authoriser = checked(command(threads, "read question; echo alice"), threads)
    answers = await asyncio.gather(*(authoriser.authorise(request()) for _ in range(20)))
    assert answers == ["alice"] * 20


def possessions() -> tuple[int, str]:
    """How many descriptors are open, and the processes we started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return len(os.listdir("/proc/self/fd")), children


async def test_no_descriptors_or_children_are_left(threads: Threads) -> None:
    authoriser = checked(command(threads, "echo alice"), threads)
    await authoriser.authorise(request())
    before = possessions()
    for script in ("echo alice", "exit 1", "sleep 60"):
        failing = checked(command(threads, script, timeout=0.2), threads)
        await asyncio.gather(failing.authorise(request()), return_exceptions=True)
    assert possessions() == before


# --- a Python function --------------------------------------------------------------------------


def sync_hook(asked: AuthorisationRequest) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return asked.requested_user or "alice"


async def async_hook(asked: AuthorisationRequest) -> str:
    await asyncio.sleep(0)
    return asked.requested_user or "alice"


@pytest.mark.parametrize("hook", [sync_hook, async_hook])
async def test_a_function_decides(
    threads: Threads, hook: Callable[[AuthorisationRequest], str | Awaitable[str]]
) -> None:
    authoriser = checked(PluginMapper("hook", hook, threads), threads)
    assert await authoriser.authorise(request()) == "alice"
    assert (await denial(authoriser, request("root"))).reason is Reason.ROOT


def raising(error: BaseException) -> Callable[[AuthorisationRequest], str]:
    def hook(_asked: AuthorisationRequest) -> str:
        raise error

    return hook


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("boom"), KeyError("x"), SystemExit(0), TimeoutError(), RecursionError()),
        *(StopIteration(), MemoryError(), Denied(Reason.NOT_MAPPED, "not on the list")),
    ],
    ids=repr,
)
async def test_a_function_that_raises_denies(threads: Threads, error: BaseException) -> None:
    authoriser = checked(PluginMapper("hook", raising(error), threads), threads)
    denied = await denial(authoriser, request())
    assert (denied.reason, denied.http_status) == (Reason.CALLOUT, 403)
    assert denied.text.startswith("plugin hook")

    async def hook(asked: AuthorisationRequest) -> str:
        return raising(error)(asked)

    authoriser = checked(PluginMapper("hook", hook, threads), threads)
    assert (await denial(authoriser, request())).reason is Reason.CALLOUT


@pytest.mark.parametrize("answer", [None, True, 0, b"alice", ["alice"], "", "a" * 10_240])
async def test_a_function_with_a_useless_answer_denies(threads: Threads, answer: object) -> None:
    def hook(_asked: AuthorisationRequest) -> str:
        return answer  # type: ignore[return-value]

    denied = await denial(checked(PluginMapper("hook", hook, threads), threads), request())
    assert denied.reason is Reason.CALLOUT


async def test_a_function_that_ignores_the_requested_account_denies(threads: Threads) -> None:
    authoriser = checked(PluginMapper("hook", lambda _: "alice", threads), threads)
    assert (await denial(authoriser, request("bob"))).reason is Reason.OTHER_ACCOUNT


async def test_functions_that_hang_deny(threads: Threads) -> None:
    release = threading.Event()

    def hook(_asked: AuthorisationRequest) -> str:
        release.wait()
        return "alice"

    async def forever(_asked: AuthorisationRequest) -> str:
        await asyncio.Event().wait()
        return "alice"

    try:
        for function in (hook, forever):
            mapper = PluginMapper("hook", function, threads)
            denied = await denial(checked(mapper, threads, timeout=0.05), request())
            assert denied.reason is Reason.TIMEOUT
    finally:
        release.set()


def test_functions_are_found_by_path() -> None:
    assert load_plugin(f"{__name__}:sync_hook") is sync_hook
    assert load_plugin(f"{__name__}:Answer.map") is Answer.map  # type: ignore[comparison-overlap]


def test_functions_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str, name: str | None = None) -> EntryPoints:
        assert group == "gram.authorisers"
        known = [
            EntryPoint("site", f"{__name__}:sync_hook", group),
            EntryPoint("twice", "a:b", group),
            EntryPoint("twice", "c:d", group),
            EntryPoint("gone", "no_such_module:hook", group),
        ]
        return EntryPoints(entry for entry in known if name in (None, entry.name))

    monkeypatch.setattr(callouts, "entry_points", entry_points)
    assert load_plugin("site") is sync_hook
    with pytest.raises(ConfigError, match=r"0 entry points .* 'other'; there are: gone, site, twi"):
        load_plugin("other")
    with pytest.raises(ConfigError, match="2 entry points"):
        load_plugin("twice")
    with pytest.raises(ConfigError, match="gone: ModuleNotFoundError"):
        load_plugin("gone")


@pytest.mark.parametrize(
    "name", ["no_such_module:hook", f"{__name__}:no_such_name", f"{__name__}:ACCOUNTS", "json:"]
)
def test_functions_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ConfigError, match=r"authorisation\.plugin: "):
        load_plugin(name)


def test_modules_that_raise_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_site_module.py").write_text("1/0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_plugin("broken_site_module:hook")


# --- put together -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gridmap", "command", "plugin"])
async def test_the_configuration_chooses(tmp_path: Path, method: str) -> None:
    (tmp_path / "map").write_text('"/CN=Alice" alice\n"/CN=Bob" bob\n')
    settings = {
        "gridmap": Authorisation(refuse_nologin_shells=True),
        "command": Authorisation(
            method="command", command=["/bin/echo", "alice"], refuse_nologin_shells=True
        ),
        "plugin": Authorisation(
            method="plugin", plugin=f"{__name__}:async_hook", refuse_nologin_shells=True
        ),
    }
    config = Config(
        gatekeeper=Gatekeeper(gridmap=str(tmp_path / "map")), authorisation=settings[method]
    )
    authoriser = make_authoriser(config, own_uid=None)
    assert await authoriser.authorise(request()) == "alice"
    if method != "command":
        bob = request("bob", identity="/CN=Bob")
        assert (await denial(authoriser, bob)).reason is Reason.NO_LOGIN
    await authoriser.aclose()
    personal = make_authoriser(config, own_uid=2002)
    assert (await denial(personal, request())).reason is Reason.FOREIGN_ACCOUNT
    await personal.aclose()


def test_requests_do_not_show_certificates() -> None:
    assert "BEGIN" not in repr(request())
