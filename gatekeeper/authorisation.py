"""Who may use which account: one decision for each request (gatekeeper.md 8, 9, 11).

A `Mapper` names an account: the grid-mapfile here, a program or a Python function in `callouts`.
`CheckedAuthoriser` puts the rules around it that no mapper can switch off: one time limit for
everything, the account must be the requested one if one was requested, it must exist, and it must
be neither root nor a system account.  Whatever is not a clear yes is a `Denied`.
"""

from __future__ import annotations

import asyncio
import pwd
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gatekeeper.callouts import CommandMapper, PluginMapper, load_plugin
from gatekeeper.decision import AuthorisationRequest, Denied, Mapper, Reason
from gatekeeper.gridmap import MAX_ACCOUNT_LENGTH, GridMapError, GridMapFile, Mapped
from protocol.aio.threads import Threads

if TYPE_CHECKING:
    from datetime import timedelta

    from gatekeeper.config import Config

__all__ = [
    "AccountPolicy",
    "AuthorisationRequest",
    "Authoriser",
    "CheckedAuthoriser",
    "Denied",
    "GridMapMapper",
    "Reason",
    "make_authoriser",
]

REMEMBER = 1.0
"""Seconds: clients ask several times in a row, and a map that changed counts after one second."""
MAX_REMEMBERED = 1000
MAX_THREADS = 4
_NO_LOGIN = ("nologin", "false")


class Authoriser(Protocol):
    """Decides requests.

    `reads_chain`: whether decisions may depend on the client's certificates (`chain_pem`).
    """

    reads_chain: bool

    async def authorise(self, request: AuthorisationRequest) -> str:
        """Return the account that the request may use.  Raises Denied."""

    async def aclose(self) -> None:
        """Release threads and programs."""


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """Which accounts exist for us.

    `only_uid` is the service's own uid when it cannot become other accounts, None when it can.
    """

    minimum_uid: int = 1000
    only_uid: int | None = None
    refuse_nologin_shells: bool = False

    def check(self, name: str) -> None:
        """Check an account.  Blocks (name services).  Raises Denied."""
        try:
            account = pwd.getpwnam(name)
        except (KeyError, ValueError, UnicodeError):  # not there, or no possible name
            raise Denied(Reason.UNKNOWN_ACCOUNT, f"there is no account {name!r}") from None
        if account.pw_uid == 0 or account.pw_gid == 0:
            raise Denied(Reason.ROOT, f"refusing to run as root: account {name!r}")
        if self.only_uid is not None and account.pw_uid != self.only_uid:
            text = f"without root the service cannot become account {name!r}"
            raise Denied(Reason.FOREIGN_ACCOUNT, text)
        if account.pw_uid < self.minimum_uid:
            text = f"account {name!r} has user id {account.pw_uid}, below {self.minimum_uid}"
            raise Denied(Reason.SYSTEM_ACCOUNT, text)
        if self.refuse_nologin_shells and account.pw_shell.rpartition("/")[2] in _NO_LOGIN:
            raise Denied(Reason.NO_LOGIN, f"account {name!r} has no login shell")


class GridMapMapper:
    """Maps by the grid-mapfile (8.3)."""

    def __init__(self, file: GridMapFile, threads: Threads) -> None:
        self._file = file
        self._threads = threads

    async def map(self, request: AuthorisationRequest) -> str:
        """Return the account the map gives.  Raises Denied."""
        return await self._threads.run(lambda: self._lookup(request))

    def _lookup(self, request: AuthorisationRequest) -> str:
        try:
            found = self._file.current().lookup(request.identity, request.requested_user)
        except GridMapError as error:
            raise Denied(Reason.MAP_UNREADABLE, str(error)) from error
        if isinstance(found, Mapped):
            return found.account
        raise Denied(Reason.NOT_MAPPED, found.text)


class CheckedAuthoriser:
    """A mapper with the rules that always hold."""

    def __init__(
        self,
        mapper: Mapper,
        policy: AccountPolicy,
        threads: Threads,
        *,
        timeout: timedelta,
        memory: float = 0.0,
    ) -> None:
        """`memory`: seconds for which a yes is given again without asking; a no never is."""
        self._mapper = mapper
        self._policy = policy
        self._threads = threads
        self._timeout = timeout.total_seconds()
        self._memory = memory
        self.reads_chain = not isinstance(mapper, GridMapMapper)
        self._recent: OrderedDict[AuthorisationRequest, tuple[str, float]] = OrderedDict()

    async def authorise(self, request: AuthorisationRequest) -> str:
        """Return the account that the request may use.  Raises Denied."""
        account, until = self._recent.get(request, ("", 0.0))
        if time.monotonic() < until:
            return account
        account = await self._decide(request)
        if self._memory:
            self._recent[request] = account, time.monotonic() + self._memory
            if len(self._recent) > MAX_REMEMBERED:
                self._recent.popitem(last=False)
        return account

    async def _decide(self, request: AuthorisationRequest) -> str:
        requested = request.requested_user
        if requested is not None and not _plausible(requested):
            raise Denied(Reason.BAD_REQUEST, "the requested account cannot be a name")
        try:
            async with asyncio.timeout(self._timeout):
                account = await self._mapper.map(request)
                if not _plausible(account):
                    raise Denied(Reason.CALLOUT, "the account that was named cannot be a name")
                if requested is not None and account != requested:
                    text = f"{account!r} was named where {requested!r} was requested"
                    raise Denied(Reason.OTHER_ACCOUNT, text)
                await self._threads.run(lambda: self._policy.check(account))
                return account
        except TimeoutError:
            text = f"no decision within {self._timeout:g} s"
            raise Denied(Reason.TIMEOUT, text) from None
        except OSError as error:  # out of descriptors, processes, ...
            raise Denied(Reason.MALFUNCTION, f"no decision: {error}") from error

    async def aclose(self) -> None:
        """Release the threads."""
        self._threads.close()


def _plausible(name: str) -> bool:
    return 0 < len(name.encode(errors="surrogateescape")) <= MAX_ACCOUNT_LENGTH and "\0" not in name


def make_authoriser(config: Config, *, own_uid: int | None) -> CheckedAuthoriser:
    """Return what the configuration says decides.  Raises ConfigError for an unusable plugin.

    `own_uid` is the uid of a service that was not started by root and so has one account to offer,
    its own; None for a service that can use every account.
    """
    settings = config.authorisation
    plugin = None if settings.plugin is None else load_plugin(settings.plugin)
    threads = Threads(MAX_THREADS, "authorise")
    mapper: Mapper
    if settings.command is not None:
        mapper = CommandMapper(settings.command, threads, timeout=settings.timeout)
    elif plugin is not None:
        mapper = PluginMapper(settings.plugin or "", plugin, threads)
    else:
        front = config.gatekeeper
        mapper = GridMapMapper(GridMapFile(front.gridmap, max_size=front.gridmap_max_size), threads)
    policy = AccountPolicy(
        minimum_uid=config.service.minimum_uid,
        only_uid=own_uid,
        refuse_nologin_shells=settings.refuse_nologin_shells,
    )
    return CheckedAuthoriser(mapper, policy, threads, timeout=settings.timeout, memory=REMEMBER)
