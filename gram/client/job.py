"""A job at a job contact: ask, wait, follow, signal, cancel, renew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from gram.client.advice import Side
from gram.client.errors import ConnectionFailed, GramClientError, JobGone, Refused, WaitTimeout
from gram.client.feed import JobFeed
from gram.client.models import JobEvent, JobStatus
from protocol.contacts import JobContact
from protocol.errors import GramError
from protocol.messages import (
    CancelQuery,
    Query,
    QueryReply,
    RegisterQuery,
    SignalQuery,
    StatusQuery,
    UnregisterQuery,
)
from protocol.tables import ALL_STATES, ErrorCode, Signal

if TYPE_CHECKING:
    from gram.client.client import Client

FIRST_POLL: Final = 5.0
FIRST_POLL_WITHOUT_CALLBACKS: Final = 0.5
"""Seconds until the first status query while waiting; then twice that, and so on."""

GRACE: Final = 3.0
"""Seconds a final callback may still need after the server says that it does not know the job."""

_COMMIT: Final = "commit"
_NO_COMMIT_AWAITED: Final = frozenset({ErrorCode.INVALID_COMMIT, ErrorCode.JOB_QUERY_DENIAL})
_log = logging.getLogger(__name__)


class Job:
    """One job.  Made by `Client.submit` and `Client.job`; usable while the client is open.

    All queries raise ConnectionFailed (79: the job may still be running), NotTrusted, JobGone
    (156), or Refused with the job manager's code.
    """

    def __init__(self, client: Client, contact: JobContact, *, commits: bool = False) -> None:
        self._client = client
        self._target = contact
        self._commits = commits
        self._feed = JobFeed()
        self._callback_url = ""
        self._following = False

    def __repr__(self) -> str:
        return f"<Job {self.contact}>"

    @property
    def contact(self) -> str:
        """The job contact: with it any program of yours can reach the job.

        Host and port change when callbacks say that the job manager moved; the path never does.
        """
        return self._target.url

    @property
    def path(self) -> str:
        """The path of the contact: it identifies the job for ever."""
        return self._target.path

    # --- queries (wire-protocol.md 5.8) -------------------------------------------------------

    async def status(self) -> JobStatus:
        """Ask for the state.

        When the server has forgotten the job: the final state if it was reported to us, otherwise
        a status with state None, since nobody can say how the job ended.
        """
        try:
            return await self._query(StatusQuery(self.path))
        except JobGone:
            return self._feed.final or JobStatus(None)

    async def cancel(self) -> JobStatus:
        """Cancel the job; returns its state at that moment.  The end is reported by an event."""
        return await self._query(CancelQuery(self.path))

    async def signal(self, signal: Signal | int, argument: str = "") -> JobStatus:
        """Send a signal (wire-protocol.md 6.2); what the argument means depends on the signal."""
        return await self._query(SignalQuery(self.path, int(signal), argument))

    async def register(self, url: str, mask: int = ALL_STATES) -> JobStatus:
        """Have callbacks for the states in `mask` posted to `url`."""
        return await self._query(RegisterQuery(self.path, mask, url))

    async def unregister(self, url: str) -> JobStatus:
        """Have no more callbacks posted to `url`.

        With two-phase commit, removing the last contact of an ended job counts as `commit_end`.
        """
        return await self._query(UnregisterQuery(self.path, url))

    async def renew(self, *, full: bool = False) -> JobStatus:
        """Hand the client's credential to the job, e.g. because the job's expires soon."""
        reply = await self._client.exchange.renew(self._target, limited=not full)
        return _status(reply)

    async def commit(self) -> JobStatus:
        """Two-phase commit: let the job start."""
        return await self.signal(Signal.COMMIT_REQUEST, _COMMIT)

    async def commit_end(self) -> JobStatus:
        """Two-phase commit: let the server clean up the ended job."""
        return await self.signal(Signal.COMMIT_END, _COMMIT)

    async def _query(self, query: Query) -> JobStatus:
        return _status(await self._client.exchange.job_manager(self._target, query))

    # --- following ----------------------------------------------------------------------------

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait for the end and return the final status; WaitTimeout after `timeout` seconds.

        State changes come by callback.  In case they do not, the status is asked for from time to
        time; a job that is then gone has state None: it may have succeeded or failed.  FAILED with
        `unsupervised` set means that the server stopped watching a job that goes on.  Commits the
        end of a two-phase job that was committed by `Client.submit`.
        """
        try:
            async with asyncio.timeout(timeout):
                async for _ in self.events():
                    pass
        except TimeoutError:
            raise WaitTimeout(f"the job {self.contact} did not end within {timeout} s") from None
        final = self._feed.final
        if final is None:
            raise GramClientError(
                ErrorCode.INVALID_JOBSTATE, f"{self.contact}: no final state", Side.HERE
            )
        if self._commits and not final.gone:
            await self._commit_end_once()
        return final

    async def events(self) -> AsyncIterator[JobEvent]:
        """Yield every known change of state, those of the past first, up to the final one."""
        await self.follow()
        position = 0
        first = FIRST_POLL if self._callback_url else FIRST_POLL_WITHOUT_CALLBACKS
        delay = min(first, self._client.poll_interval)
        while True:
            news = self._feed.since(position)
            position = self._feed.count
            for event in news:
                yield event
            if self._feed.final is not None and position == self._feed.count:
                self._client.ended(self)
                return
            if not await self._feed.beyond(position, delay):
                await self._poll()
                delay = min(2 * delay, self._client.poll_interval)

    async def follow(self) -> None:
        """Begin to follow the job: register for callbacks unless the job request did.

        `wait` and `events` do it by themselves.
        """
        if self._following:
            return
        self._following = True
        listener = await self._client.listener_for(self._target.host, self._target.port)
        if listener is not None:
            self._feed = listener.feed(self.path)
            self._client.following(self)
            try:
                await self.register(listener.url)
                self._callback_url = listener.url
            except (ConnectionFailed, Refused) as error:
                _log.info("no callbacks for %s: %s", self.contact, error.message)
        await self._poll()

    def followed(self, feed: JobFeed, url: str) -> None:
        """Note that the job request registered `url`, whose events come to `feed`."""
        self._feed, self._callback_url, self._following = feed, url, True

    async def unfollow(self) -> None:
        """Have no more callbacks sent here; does nothing for a job that ended."""
        url, self._callback_url = self._callback_url, ""
        self._following = False
        if url and self._feed.final is None:
            try:
                await self.unregister(url)
            except GramError as error:
                _log.info("cannot unregister from %s: %s", self.contact, error.message)

    async def _poll(self) -> None:
        """Ask for the state and treat the answer as an event."""
        self._move()
        known = self._feed.count
        try:
            status = await self._query(StatusQuery(self.path))
        except JobGone:
            # The final callback may be on its way.
            while self._feed.final is None and await self._feed.beyond(known, GRACE):
                known = self._feed.count
            status = JobStatus(None)
        except ConnectionFailed as error:
            _log.warning("%s: %s", self.contact, error.message)
            return
        if self._feed.count == known:
            self._feed.post(JobEvent(self.contact, status))

    def _move(self) -> None:
        """Adopt the contact of the last callback, if host or port changed (5.9)."""
        for event in self._feed.since(self._feed.count - 1):
            moved = JobContact.parse(event.contact)
            if moved.path == self.path:
                self._target = moved

    async def _commit_end_once(self) -> None:
        self._commits = False
        self._move()
        try:
            await self.commit_end()
        except JobGone:
            return
        except Refused as error:
            if error.code not in _NO_COMMIT_AWAITED:
                raise


def _status(reply: QueryReply) -> JobStatus:
    try:
        return JobStatus.from_wire(reply.state, reply.job_failure_code, reply.extensions)
    except ValueError:
        raise GramClientError(
            ErrorCode.INVALID_JOBSTATE,
            f"the job manager reports the state {reply.state}, which does not exist",
            Side.JOB_MANAGER,
        ) from None
