"""User agents: forks of the spawner that become an account and act for it.

What an agent runs is fixed: `jobmanager.agent.main.run(socket)`, imported after the change of
account.  It lives until its socket closes or it is stopped.
"""

import importlib
import os
import resource
import socket
from typing import NoReturn

from .child import INHERITED_FILE_LIMIT, start_anew, take_steps
from .policy import Account, become

_MODULE = "jobmanager.agent.main"
_PATH = "/usr/local/bin:/usr/bin:/bin"


def run_agent(
    account: Account, sock: socket.socket, report: int, *, no_new_privs: bool
) -> NoReturn:
    """Become an agent; the report pipe closes when it is ready to serve."""

    def run() -> None:
        main = importlib.import_module(_MODULE)
        os.close(report)
        status = 1
        try:
            main.run(sock)
            status = 0
        finally:
            os._exit(status)

    take_steps(
        report,
        (
            ("session", lambda: start_anew((sock.fileno(), report))),
            ("account", lambda: become(account, no_new_privs=no_new_privs)),
            ("environment", lambda: _settle_in(account)),
            ("agent", run),
        ),
    )


def _settle_in(account: Account) -> None:
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_NOFILE, INHERITED_FILE_LIMIT)
    try:
        os.chdir(account.home)
    except OSError:  # gatekeeper.md 11: a home that cannot be entered is no reason to refuse
        os.chdir("/")
    os.environ.clear()
    os.environ.update(
        PATH=_PATH, HOME=account.home, LOGNAME=account.name, USER=account.name, LANG="C.UTF-8"
    )
