"""One stream of a job on its way to one GASS URL."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable

from jobmanager.agent.directories import Directory
from jobmanager.agent.errors import BrokenError
from jobmanager.agent.gass import GassClient, GassURL
from jobmanager.agent.sinks import Sink, Stream, open_sink
from jobmanager.agent.transfers import CHUNK
from protocol.errors import GramError

_POLL_FIRST = 0.02
_POLL_LAST = 0.25
_RETRY_FIRST = 0.5
_RETRY_LAST = 60.0


class Progress:
    """How far a destination is, kept in the job directory: bytes that were sent, and "all of it".

    Close it.  Raises OSError.
    """

    def __init__(self, job: Directory, stream: Stream, url: str) -> None:
        digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._descriptor = job.open(f"sent-{stream}-{digest}", os.O_RDWR | os.O_CREAT)
        numbers = os.pread(self._descriptor, 64, 0).split()
        self.sent, self.complete = 0, False
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            self.sent, self.complete = int(numbers[0]), int(numbers[1]) == 1

    def save(self, sent: int, *, complete: bool = False) -> None:
        """Note how far it is."""
        self.sent, self.complete = sent, complete
        os.pwrite(self._descriptor, b"%020d %d\n" % (sent, complete), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Delivery:
    """Follows a stream's file and sends it; starts at once, never disturbs the job.

    It ends early when the server refuses; a lost connection is made again.  `open_job` opens the
    job directory.
    """

    def __init__(
        self,
        gass: GassClient,
        job: str,
        open_job: Callable[[], Directory],
        stream: Stream,
        sink: Sink,
        url: str,
    ) -> None:
        self.stream = stream
        self.sink = sink
        self.url = url
        self._gass = gass
        self._job = job
        self._open_job = open_job
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()  # nothing more is written
        self._retired = False
        self._give_up = 0.0  # loop time after which nothing is tried again
        self._poll = _POLL_FIRST
        self.task = self._loop.create_task(self._run())
        self.task.add_done_callback(_seen)

    def finish(self, retry_for: float) -> None:
        """The file is complete: send the rest; after a failure try for so many seconds."""
        self._give_up = self._loop.time() + retry_for
        self._over.set()

    def retire(self) -> None:
        """Somebody else gets the output from now on: send what there is and end."""
        self._retired = True
        self.finish(0.0)

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.task.done()

    async def outcome(self) -> Exception | None:
        """Wait for the end; what went wrong, None when the server has everything.

        Cancelling this does not end the delivery.
        """
        await asyncio.wait([self.task])
        if self.task.cancelled():
            return BrokenError("the delivery was given up")
        error = self.task.exception()
        if error is not None and not isinstance(error, GramError | OSError):
            raise error
        return error

    async def aclose(self) -> None:
        """Give up now."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        with (
            self._open_job() as job,
            contextlib.closing(Progress(job, self.stream, self.url)) as progress,
        ):
            retry = _RETRY_FIRST
            while not progress.complete:
                last_chance = self._over.is_set()
                try:
                    await self._attempt(job, progress)
                    return
                except BrokenError:
                    if last_chance and self._loop.time() > self._give_up:
                        raise
                    retry = await self._pause(retry, at_the_end=last_chance)

    async def _pause(self, seconds: float, *, at_the_end: bool) -> float:
        """Wait before the next try; gives the length of the next pause."""
        if at_the_end:
            await asyncio.sleep(min(seconds, max(0.0, self._give_up - self._loop.time())))
        elif await self._wait_until_over(seconds):
            return _RETRY_FIRST
        return min(2 * seconds, _RETRY_LAST)

    async def _attempt(self, job: Directory, progress: Progress) -> None:
        """Send from where to begin to the end of the stream.

        Raises BrokenError, RefusedError, and OSError when the file cannot be read.
        """
        url = GassURL.parse(self.url)
        if self.sink.split:
            await self._over.wait()  # the processes' files are put together at the end
        position = progress.sent if url.is_stream else 0
        with open_sink(job, self.stream, self.sink) as (descriptor, start):
            await self._first_bytes(descriptor, start + position)
            upload = await self._gass.upload(self._job, url)
            try:
                while True:
                    over = self._over.is_set()
                    data = os.pread(descriptor, CHUNK, start + position)
                    if data:
                        await upload.send(data)
                        position += len(data)
                        progress.save(position)
                        self._poll = _POLL_FIRST
                    elif over:
                        break
                    else:
                        upload.check()
                        await self._breathe()
                await upload.finish()
            finally:
                upload.abort()
        progress.save(position, complete=not self._retired)

    async def _first_bytes(self, descriptor: int, position: int) -> None:
        """A connection is made when there is something to say, or nothing more will come."""
        while not self._over.is_set() and os.fstat(descriptor).st_size <= position:
            await self._breathe()

    async def _breathe(self) -> None:
        """Wait for the file to grow: often at first, less and less when it does not."""
        await self._wait_until_over(self._poll)
        self._poll = min(self._poll * 1.5, _POLL_LAST)

    async def _wait_until_over(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True


def _seen(task: asyncio.Task[None]) -> None:
    """Nobody may ask how a delivery went that has been replaced by another one."""
    if not task.cancelled():
        task.exception()
