"""Account decisions by a site's own program or Python function (gatekeeper.md 9).

Both fail closed: an error, a time-out, an empty or unusable answer, too much of it - each is a
`Denied`.  The rules for accounts (the requested one, never root, ...) are checked by the caller.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import select
import signal
import subprocess
from collections.abc import Awaitable, Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from gatekeeper.config import ConfigError
from gatekeeper.decision import AuthorisationRequest, Denied, Reason
from protocol.aio.threads import Threads

if TYPE_CHECKING:
    from datetime import timedelta

PLUGIN_GROUP = "gram.authorisers"
MAX_ANSWER = 1024
_MAX_COMPLAINT = 4096
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

Plugin: TypeAlias = Callable[[AuthorisationRequest], str | Awaitable[str]]


class CommandMapper:
    """Asks a program.

    It gets one JSON object on standard input: `identity`, `service`, `requested_user` (or null),
    `address`, `chain` (PEM text or null).  It says yes by printing the account on one line and
    exiting with 0 before time is up.  It runs as the service's account in a session of its own, in
    `/`, with a fixed environment; what is left of its process group when it exits is killed.
    Standard error goes to the log.  Both outputs are pipes that are read at its end: who writes
    more than they hold (64 KiB) is stuck until time is up.
    """

    def __init__(self, argv: tuple[str, ...], threads: Threads, *, timeout: timedelta) -> None:
        self._argv = argv
        self._threads = threads
        self._timeout = timeout.total_seconds()

    async def map(self, request: AuthorisationRequest) -> str:
        """Return the account the program prints.  Raises Denied."""
        return await self._threads.run(lambda: self._ask(_encode(request)))

    def _ask(self, question: bytes) -> str:
        with (
            open(os.memfd_create("question"), "w+b") as stdin,
            contextlib.ExitStack() as ours,
            contextlib.ExitStack() as theirs,
        ):
            stdin.write(question)
            stdin.seek(0)
            answer, stdout = _pipe(ours, theirs)
            complaint, stderr = _pipe(ours, theirs)
            try:
                process = subprocess.Popen(
                    self._argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    cwd="/",
                    env=_ENVIRONMENT,
                    start_new_session=True,
                )
            except OSError as error:
                text = f"{self._argv[0]} cannot be started: {error.strerror}"
                raise Denied(Reason.CALLOUT, text) from error
            theirs.close()
            in_time = _finish(process, self._timeout)
            self._log(_take(complaint, _MAX_COMPLAINT))
            if not in_time:
                raise Denied(Reason.TIMEOUT, f"{self._argv[0]} took more than {self._timeout:g} s")
            if process.returncode != 0:
                text = f"{self._argv[0]} ended with {process.returncode}"
                raise Denied(Reason.CALLOUT, text)
            return self._account(_take(answer, MAX_ANSWER + 1))

    def _account(self, answer: bytes) -> str:
        account, line_end, rest = answer.partition(b"\n")
        if not account or not line_end or rest or len(answer) > MAX_ANSWER:
            text = f"{self._argv[0]} did not print exactly one line with an account"
            raise Denied(Reason.CALLOUT, text)
        return account.decode(errors="surrogateescape")

    def _log(self, complaint: bytes) -> None:
        if complaint:
            detail = complaint.decode(errors="replace")
            structlog.get_logger("gatekeeper").info("authorisation.stderr", detail=detail)


def _encode(request: AuthorisationRequest) -> bytes:
    chain = request.chain_pem
    fields = {
        "identity": request.identity,
        "service": request.service,
        "requested_user": request.requested_user,
        "address": request.address,
        "chain": None if chain is None else chain.decode("ascii", "replace"),
    }
    return json.dumps(fields).encode() + b"\n"


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe; our end does not block."""
    reader, writer = os.pipe()
    ours.callback(os.close, reader)
    theirs.callback(os.close, writer)
    os.set_blocking(reader, False)
    return reader, writer


def _finish(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for a program to exit, kill what is left of its group; whether it was in time."""
    try:
        with open(os.pidfd_open(process.pid), "rb", buffering=0) as handle:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the id is still its own
        process.wait()


def _take(descriptor: int, limit: int) -> bytes:
    """Read what a pipe holds, at most `limit` bytes."""
    data = b""
    with contextlib.suppress(BlockingIOError):  # empty, and somebody still has the other end
        while len(data) < limit and (more := os.read(descriptor, limit - len(data))):
            data += more
    return data


class PluginMapper:
    """Asks a Python function.  It is called in a thread; it may return an awaitable."""

    def __init__(self, name: str, function: Plugin, threads: Threads) -> None:
        self._name = name
        self._function = function
        self._threads = threads

    async def map(self, request: AuthorisationRequest) -> str:
        """Return the account the function names.  Raises Denied, whatever the function does."""
        answer: Any = await self._threads.run(lambda: self._call(request))
        if inspect.isawaitable(answer):
            try:
                answer = await answer
            except (Exception, SystemExit) as error:  # a site's code may raise anything
                raise self._failure(error) from error
        if not isinstance(answer, str):
            text = f"plugin {self._name} returned {type(answer).__name__}, not an account"
            raise Denied(Reason.CALLOUT, text)
        return answer

    def _call(self, request: AuthorisationRequest) -> object:
        try:
            return self._function(request)
        except (Exception, SystemExit) as error:  # a site's code may raise anything
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> Denied:
        what = str(error) if isinstance(error, Denied) else f"{type(error).__name__}: {error}"
        return Denied(Reason.CALLOUT, f"plugin {self._name}: {what}")


def load_plugin(name: str) -> Plugin:
    """Find a function by entry point name or "package.module:function".  Raises ConfigError."""
    try:
        function = _import(name) if ":" in name else _entry_point(name)
    except ConfigError:
        raise
    except Exception as error:  # importing runs a site's code, which may raise anything
        text = f"authorisation.plugin: {name}: {type(error).__name__}: {error}"
        raise ConfigError(text) from error
    if not callable(function):
        raise ConfigError(f"authorisation.plugin: {name} is not a function")
    return function


def _import(name: str) -> object:
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _entry_point(name: str) -> object:
    entries = tuple(entry_points(group=PLUGIN_GROUP, name=name))
    if len(entries) != 1:
        known = ", ".join(sorted(entry_points(group=PLUGIN_GROUP).names)) or "none"
        raise ConfigError(
            f"authorisation.plugin: {len(entries)} entry points of group {PLUGIN_GROUP} are "
            f"called {name!r}; there are: {known}"
        )
    return entries[0].load()
