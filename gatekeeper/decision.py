"""What an authorisation decision is made of: the request, the refusal, and threads to decide in."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 4

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class AuthorisationRequest:
    """What a decision may depend on.

    `identity` is the client's name in slash form, `requested_user` the account it asks for (bytes
    that are not UTF-8 are surrogate escapes), `address` the client's, `chain_pem` its certificates.
    """

    identity: str
    service: str
    requested_user: str | None
    address: str
    chain_pem: bytes | None = field(default=None, repr=False)


class Reason(Enum):
    """Why a request is denied; the value is stable and fit for logs and metrics."""

    NOT_MAPPED = "not-mapped"
    MAP_UNREADABLE = "map-unreadable"
    BAD_REQUEST = "bad-requested-account"
    CALLOUT = "callout"
    OTHER_ACCOUNT = "other-account"
    TIMEOUT = "timeout"
    UNKNOWN_ACCOUNT = "unknown-account"
    ROOT = "root"
    SYSTEM_ACCOUNT = "system-account"
    FOREIGN_ACCOUNT = "foreign-account"
    NO_LOGIN = "no-login"
    MALFUNCTION = "malfunction"

    @property
    def http_status(self) -> int:
        """What the client is answered (14): 500 when not the client is at fault."""
        return 500 if self in _OUR_TROUBLE else 403


_OUR_TROUBLE = {
    Reason.UNKNOWN_ACCOUNT,
    Reason.ROOT,
    Reason.SYSTEM_ACCOUNT,
    Reason.FOREIGN_ACCOUNT,
    Reason.NO_LOGIN,
    Reason.MALFUNCTION,
}


class Denied(Exception):  # noqa: N818 - a verdict, not a malfunction
    """The request may not use an account; `text` is for the log, never for the client."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    @property
    def http_status(self) -> int:
        """What the client is answered: 403 or 500."""
        return self.reason.http_status

    def __str__(self) -> str:
        return self.text


class Mapper(Protocol):
    """Names an account; the answer is checked by who asked."""

    async def map(self, request: AuthorisationRequest) -> str:
        """Return the account, the requested one if there is one.  Raises Denied."""


class Threads:
    """A few threads for what blocks: name services, files, functions of a site.

    A function that hangs occupies its thread for good; when all hang, decisions time out.  The
    threads are daemons, unlike an executor's: what hangs must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        for number in range(MAX_THREADS):
            name = f"authorise-{number}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in a thread and return its result, or raise what it raises."""
        future: Future[Result] = Future()
        self._work.put((future, function))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads that are idle, and the others when they are done."""
        for _ in range(MAX_THREADS):
            self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            future, function = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # noqa: BLE001 - it is raised where run() is awaited
                    future.set_exception(error)
