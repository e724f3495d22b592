"""Getting a job's output to its destinations, GASS servers while it runs (job-manager.md §5.3).

Every URL gets one upload that follows the file as it grows.  A server that goes away disturbs
nothing: it is tried again now and then, and once more when the job is over.  A file is sent again
from its beginning; what goes into a client's own output continues where it stopped.  All other
destinations get their copy at the end.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from jobmanager.agent.delivery import Delivery, Progress
from jobmanager.agent.directories import Directory
from jobmanager.agent.errors import StagingError, reason
from jobmanager.agent.frames import JobWork, OutputSizes, Settings
from jobmanager.agent.merging import merge_parts, parts_size
from jobmanager.agent.places import Kind, Place, place, working_directory
from jobmanager.agent.sinks import Sink, Sinks, Stream, load_sinks, open_sink
from jobmanager.agent.threads import in_thread
from jobmanager.agent.transfers import Transfers
from jobmanager.agent.workspace import Workspace, failing
from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode


@dataclass(frozen=True, slots=True)
class Target:
    """A destination that the job does not write to itself."""

    stream: Stream
    url: str
    tag: str | None
    place: Place

    @property
    def key(self) -> tuple[Stream, str]:
        """What tells it from others."""
        return self.stream, self.url


class Outputs:
    """The output of all jobs of an account that is on its way."""

    def __init__(self, workspace: Workspace, transfers: Transfers, settings: Settings) -> None:
        self._workspace = workspace
        self._transfers = transfers
        self._settings = settings
        self._deliveries: dict[str, dict[tuple[Stream, str], Delivery]] = {}
        self._retired: dict[str, set[Delivery]] = {}

    def stream(self, work: JobWork) -> None:
        """Send to the URLs of the description from now on, and no longer to others.

        Nothing happens for a job that has not been opened.  Raises GramError(NO_RESOURCES).
        """
        with self._open(work) as job:
            if (sinks := load_sinks(job)) is not None:
                self._aim(work, sinks)

    async def redirect(self, work: JobWork) -> None:
        """The description has new destinations; raises GramError 73 or 74 for a local one."""
        await in_thread(self._workspace.test_outputs, work)
        self.stream(work)

    async def finish(self, work: JobWork) -> None:
        """The job is over: merge, send everything that is left, wait until all have it.

        Raises StagingError 73 for the first destination that did not get it; the others do.
        """
        with self._open(work) as job:
            if (sinks := load_sinks(job)) is None:
                return
            for stream in Stream:
                sink = sinks.of(stream)
                with _naming(stream, sink.path):
                    await in_thread(merge_parts, job, stream, sink, sinks.processes)
            self._aim(work, sinks)
            deliveries = self._deliveries[work.id]
            for delivery in deliveries.values():
                delivery.finish(self._settings.delivery_timeout)
            failures = await self._copy_all(work, job, sinks)
            for delivery in deliveries.values():
                if (error := await delivery.outcome()) is not None:
                    failures.append(_failure(error, delivery.sink.path, delivery.url))
        if failures:
            raise failures[0]
        self._deliveries.pop(work.id, None)

    def sizes(self, request: int, work: JobWork) -> OutputSizes:
        """What STDIO_SIZE compares (job-manager.md §2.5); raises GramError(NO_RESOURCES)."""
        with self._open(work) as job:
            if (sinks := load_sinks(job)) is None:
                return OutputSizes(request, 0, 0, streaming=False)
            out, err = (
                parts_size(job, stream, sinks.of(stream), sinks.processes) for stream in Stream
            )
            targets = _targets(work, sinks, self._workspace.home)
            left = any(not _complete(job, target) for target in targets)
            return OutputSizes(request, out, err, streaming=left)

    async def drop(self, job: str) -> None:
        """Give up whatever is on its way for a job."""
        for delivery in self._deliveries.pop(job, {}).values():
            await delivery.aclose()
        for delivery in self._retired.pop(job, set()):
            await delivery.aclose()
        self._transfers.gass.forget(job)

    async def aclose(self) -> None:
        """Give up everything; another agent can go on with it."""
        for job in {*self._deliveries, *self._retired}:
            await self.drop(job)

    # --- inside -------------------------------------------------------------------------------

    def _aim(self, work: JobWork, sinks: Sinks) -> None:
        """Have exactly the deliveries that the description wants."""
        wanted = {
            target.key
            for target in _targets(work, sinks, self._workspace.home)
            if target.place.kind is Kind.GASS
        }
        running = self._deliveries.setdefault(work.id, {})
        for key in set(running) - wanted:
            retired = running.pop(key)
            retired.retire()
            self._retired.setdefault(work.id, set()).add(retired)
        for stream, url in wanted:
            known = running.get((stream, url))
            if known is None or known.done:
                running[stream, url] = self._deliver(work.id, stream, url, sinks.of(stream))

    def _deliver(self, job: str, stream: Stream, url: str, sink: Sink) -> Delivery:
        return Delivery(
            self._transfers.gass, job, lambda: self._workspace.open(job), stream, sink, url
        )

    async def _copy_all(self, work: JobWork, job: Directory, sinks: Sinks) -> list[StagingError]:
        failures = []
        for target in _targets(work, sinks, self._workspace.home):
            if target.place.kind is not Kind.GASS:
                try:
                    await self._copy(work, job, sinks.of(target.stream), target)
                except (OSError, GramError) as error:
                    failures.append(_failure(error, sinks.of(target.stream).path, target.url))
        return failures

    async def _copy(self, work: JobWork, job: Directory, sink: Sink, target: Target) -> None:
        with contextlib.closing(Progress(job, target.stream, target.url)) as progress:
            if progress.complete:
                return
            with open_sink(job, target.stream, sink) as (descriptor, start):
                await self._transfers.store(work, descriptor, start, target.place, target.tag)
            progress.save(0, complete=True)

    @contextlib.contextmanager
    def _open(self, work: JobWork) -> Iterator[Directory]:
        with failing(ErrorCode.NO_RESOURCES, "cannot open the job directory"):
            directory = self._workspace.open(work.id)
        with directory:
            yield directory


def _targets(work: JobWork, sinks: Sinks, home: str) -> list[Target]:
    """Where the output is still to be brought."""
    base = working_directory(work, home)
    targets = (
        Target(stream, output.url, output.tag, place(output.url, base))
        for stream in Stream
        for output in stream.outputs(work)
        if output.url != sinks.of(stream).url
    )
    return [target for target in targets if target.place.kind is not Kind.NOTHING]


def _complete(job: Directory, target: Target) -> bool:
    with contextlib.closing(Progress(job, target.stream, target.url)) as progress:
        return progress.complete


@contextlib.contextmanager
def _naming(stream: Stream, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(error, str(stream), path) from error


def _failure(error: Exception, source: str, destination: str) -> StagingError:
    failure = Failure(reason(error), "filestageout", source, destination)
    return StagingError(ErrorCode.OPENING_STDOUT, failure)
