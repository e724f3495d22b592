"""Giving up root: for good, completely, and checked."""

import os
import pwd
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from gatekeeper import privileges
from gatekeeper.privileges import (
    OWN_STATE,
    PrivilegeError,
    confine,
    drop,
    prepare_state,
    service_account,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root")


def in_child(work: Callable[[], bool]) -> int:
    """Run in a forked child; 0 when it returned true."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = 0 if work() else 1
        except BaseException:  # noqa: BLE001  # nothing may leave the child
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def can(operation: Callable[[], object]) -> bool:
    try:
        operation()
    except PermissionError:
        return False
    return True


@needs_root
@pytest.mark.root
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_account_is_all_that_is_left() -> None:
    account = pwd.getpwnam("nobody")

    def child() -> bool:
        drop(account)
        status = dict(
            line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines()
            if ":\t" in line
        )  # fmt: skip
        return (
            set(os.getresuid()) == {account.pw_uid}
            and set(os.getresgid()) == {account.pw_gid}
            and os.getgroups() == []
            and status["CapEff"] == status["CapPrm"] == "0" * 16
            and not can(lambda: os.setuid(0))
            and not can(lambda: os.setgid(0))
            and not can(lambda: Path("/etc/shadow").read_bytes())
            and os.environ["HOME"] == account.pw_dir
        )

    assert in_child(child) == 0


@needs_root
@pytest.mark.root
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_drop_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setresuid", lambda *_ids: None)

    def child() -> bool:
        try:
            drop(pwd.getpwnam("nobody"))
        except PrivilegeError:
            return True
        return False

    assert in_child(child) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_confined() -> None:
    def child() -> bool:
        confine()
        status = Path("/proc/self/status").read_text()
        owner = Path("/proc/self/mem").stat().st_uid
        return "NoNewPrivs:\t1" in status and owner == 0

    assert in_child(child) == 0


def test_an_account_that_is_not_there() -> None:
    with pytest.raises(PrivilegeError, match="useradd --system gram-nobody-here"):
        service_account("gram-nobody-here")


def test_root_is_no_service_account() -> None:
    with pytest.raises(PrivilegeError, match="must not be root"):
        service_account("root")


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    prepare_state(state, None)
    prepare_state(state, None)
    for path in (state, state / OWN_STATE):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@needs_root
@pytest.mark.root
def test_only_its_own_part_belongs_to_the_service(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    state = tmp_path / "state"
    prepare_state(state, account)
    assert (state.stat().st_uid, (state / OWN_STATE).stat().st_uid) == (0, account.pw_uid)
    assert stat.S_IMODE(state.stat().st_mode) == 0o711
    assert stat.S_IMODE((state / OWN_STATE).stat().st_mode) == 0o700


@needs_root
@pytest.mark.root
def test_a_state_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(tmp_path, account.pw_uid, account.pw_gid)
    with pytest.raises(PrivilegeError, match="belongs to somebody else"):
        prepare_state(tmp_path, account)


def test_the_limits_are_what_linux_calls_them() -> None:
    assert (privileges.PR_SET_NO_NEW_PRIVS, privileges.PR_SET_DUMPABLE) == (38, 4)
