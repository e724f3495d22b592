"""Throw-away local accounts for tests that run as root."""

import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_accounts(*names: str) -> Iterator[list[pwd.struct_passwd]]:
    """Create accounts with homes, called NAME plus a random ending; remove them afterwards."""
    ending = secrets.token_hex(3)
    made: list[str] = []
    try:
        for name in names:
            account = f"{name}{ending}"
            subprocess.run(["useradd", "--create-home", account], check=True, capture_output=True)
            made.append(account)
        yield [pwd.getpwnam(account) for account in made]
    finally:
        for account in made:
            subprocess.run(["userdel", "--remove", account], check=False, capture_output=True)


def demoted(account: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments for subprocess that make a command run as the account (none: as we are)."""
    if account is None or os.geteuid() != 0:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def home_of(account: pwd.struct_passwd | None) -> Path:
    """The account's home, or ours."""
    return Path(account.pw_dir if account is not None else os.environ["HOME"])
