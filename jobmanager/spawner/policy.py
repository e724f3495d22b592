"""Who may be served, and becoming that account: gatekeeper.md 11.

Privileged (effective uid 0): any account but root's, from the policy's minimum uid on.
Personal: the spawner's own account only, and the change of uid is left out.
"""

import ctypes
import errno
import os
import pwd
import re
from dataclasses import dataclass

from .frames import SpawnerPolicy

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class RefusalError(Exception):
    """A well-formed request that is not granted: the step, an errno (0: none) and a text."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__(f"{stage}: {text}")
        self.stage = stage
        self.errno = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Account:
    """What becoming an account needs; `groups` as initgroups would set them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(name: str, policy: SpawnerPolicy) -> Account:
    """The account of that name; raises RefusalError for everyone the policy does not let in."""
    if policy.accounts is not None and not re.fullmatch(policy.accounts, name):
        raise _refused(name, "the policy does not serve this account")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise RefusalError("account", errno.ENOENT, f"{name}: unknown account") from None
    if entry.pw_name != name:  # a case-insensitive directory must not widen the pattern
        raise _refused(name, "not the account's exact name")
    if policy.personal:
        if entry.pw_uid != os.geteuid():
            raise _refused(name, "only the spawner's own account is served without root")
    elif entry.pw_uid == 0 or entry.pw_gid == 0:
        raise _refused(name, "refusing to run as root")
    elif entry.pw_uid < policy.minimum_uid:
        raise _refused(name, f"uid {entry.pw_uid} is below {policy.minimum_uid}")
    groups = os.getgrouplist(name, entry.pw_gid)
    home = policy.personal_home if policy.personal and policy.personal_home else entry.pw_dir
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(groups), home)


def _refused(name: str, why: str) -> RefusalError:
    return RefusalError("account", errno.EPERM, f"{name}: {why}")


def become(account: Account, *, no_new_privs: bool) -> None:
    """Turn this process into the account's for good; raises OSError unless that is certain."""
    if os.geteuid() == 0:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        if set(os.getgroups()) != set(account.groups) or os.getresgid() != (account.gid,) * 3:
            raise PermissionError(errno.EPERM, "the groups are not the account's")
    if os.getresuid() != (account.uid,) * 3 or account.uid == 0:
        raise PermissionError(errno.EPERM, "the uid is not the account's")
    _prove_unprivileged()
    if no_new_privs:
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prove_unprivileged() -> None:
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError(errno.EPERM, "root can be regained")


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; raises OSError."""
    arguments = [ctypes.c_ulong(item) for item in (value, 0, 0, 0)]
    if _libc.prctl(option, *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
