"""The service gives up root before it talks to anybody (design §1, §4)."""

import ctypes
import os
import pwd
import sys
from pathlib import Path

OWN_STATE = "service"
PR_SET_NO_NEW_PRIVS = 38
PR_SET_DUMPABLE = 4


class PrivilegeError(Exception):
    """The service cannot run with the privileges it has; the text says what to do."""


def service_account(name: str) -> pwd.struct_passwd:
    """The account the service becomes when root started it; raises PrivilegeError."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(
            f"the account {name!r} that the service runs as does not exist: create it "
            f"(useradd --system {name}) or set [service] account"
        ) from None
    if account.pw_uid == 0 or account.pw_gid == 0:
        raise PrivilegeError(f"the service account {name!r} must not be root or in group root")
    return account


def check_installation() -> None:
    """Other accounts must be able to run this program: user agents are forks that become them.

    Raises PrivilegeError for an installation below a directory that only root can enter.
    """
    for place in (sys.base_prefix, sys.prefix, __file__):
        path = Path(place).resolve()
        for folder in (path, *path.parents):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                raise PrivilegeError(
                    f"jobs run as their accounts, but only some users can enter {folder}, where "
                    "this program is installed: install Python and Gram elsewhere"
                )


def prepare_state(directory: Path, account: pwd.struct_passwd | None) -> None:
    """Create the state directory: the spawner's spool in it is not the service's to touch.

    The directory itself belongs to whoever starts the service (root), so that a service that was
    taken over cannot put something else in the place of the spool; its own part is `service`.
    """
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise PrivilegeError(f"the state directory {directory} belongs to somebody else")
    directory.chmod(0o711 if account is not None else 0o700)
    own = directory / OWN_STATE
    own.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(own, account.pw_uid, account.pw_gid)
    own.chmod(0o700)


def drop(account: pwd.struct_passwd) -> None:
    """Become the account for good; raises PrivilegeError unless every check holds."""
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if os.getresuid() != (account.pw_uid,) * 3 or os.getresgid() != (account.pw_gid,) * 3:
        raise PrivilegeError(f"could not become the account {account.pw_name}")
    try:
        os.setuid(0)
    except PermissionError:
        os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
        return
    raise PrivilegeError("the service could become root again")


def confine() -> None:
    """No new privileges through set-uid programs, and no core files with keys in them."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise PrivilegeError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
