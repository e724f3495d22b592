"""The frames between the service and a user agent; coding and transport are the spawner's.

Request identifiers are chosen by the service; an answer carries that of its request.  A job comes
with every request, so an agent that was started again needs nothing it was told before.
"""

from dataclasses import dataclass, field
from typing import Annotated

from jobmanager.spawner.codec import (
    Frame,
    boolean,
    integer,
    kinds,
    many,
    number,
    optional,
    record,
    text,
)
from jobmanager.spawner.frames import MAX_DESCRIPTORS, MAX_PROCESSES

MAX_ITEMS = 10_000
"""The longest list of a job: the RSL that holds it has at most 64000 bytes."""

_INT64 = (1 << 63) - 1
_STRING = text(131_071)

Id = Annotated[int, integer(1, _INT64)]
JobId = Annotated[str, text(64, r"[A-Za-z0-9_-]+")]
String = Annotated[str, _STRING]
OptionalString = Annotated[str | None, optional(_STRING)]
Strings = Annotated[tuple[str, ...], many(_STRING, 0, MAX_ITEMS)]
Path = Annotated[str, text(4096, r"/[^\0]*")]
OptionalPath = Annotated[str | None, optional(text(4096, r"/[^\0]*"))]
Pem = Annotated[str, text(262_144, r"[\t\n\r -~]+")]
Message = Annotated[str, text(4096)]
Code = Annotated[int, integer(1, 1000)]
Size = Annotated[int, integer(0, _INT64)]
Flag = Annotated[bool, boolean]
Seconds = Annotated[float, number(0, 1e9)]


# Values.


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is told once.  Times are seconds, sizes bytes.

    `certificates`: the directory of trusted CAs (None: the usual places).  `stall_timeout` is how
    long a transfer may make no progress; `delivery_timeout` how long a finished job's output is
    tried again after a connection broke; `idle_timeout` how long an agent without work stays.
    """

    certificates: OptionalPath = None
    idle_timeout: Seconds = 600.0
    connect_timeout: Seconds = 30.0
    stall_timeout: Seconds = 300.0
    delivery_timeout: Seconds = 30.0
    max_download: Size = 10 << 30


@dataclass(frozen=True, slots=True)
class Output:
    """One destination of a stream: a path or URL, and the extra tag of a cache URL."""

    url: String
    tag: OptionalString


@dataclass(frozen=True, slots=True)
class Copy:
    """One element of a staging list, in RSL order: what is read and what is written."""

    source: String
    destination: String


@dataclass(frozen=True, slots=True)
class Deferred:
    """An error in the description that is due when the job is opened (job-manager.md §3.4)."""

    code: Code
    message: Message


Outputs = Annotated[tuple[Output, ...], many(record(Output), 1, MAX_ITEMS)]
Copies = Annotated[tuple[Copy, ...], many(record(Copy), 0, MAX_ITEMS)]


@dataclass(frozen=True, slots=True)
class JobWork:
    """What an agent must know of a job; names and rules are those of job-manager.md §3.4, §4.3.

    `contact` is the job's tag in the GASS cache.  `processes` is how many are started.
    """

    id: JobId
    contact: String
    directory: String
    executable: String
    stdin: String
    stdout: Outputs
    stderr: Outputs
    processes: Annotated[int, integer(1, MAX_PROCESSES)]
    stage_in: Copies
    stage_in_shared: Copies
    stage_out: Copies
    clean_up: Strings
    scratch_dir: OptionalString
    deferred: Annotated[tuple[Deferred, ...], many(record(Deferred), 0, 1000)]
    dry_run: Flag


# Service → agent.


@dataclass(frozen=True, slots=True)
class Configure(Frame):
    """The first frame; answered by Ready."""

    id: Id
    settings: Settings


@dataclass(frozen=True, slots=True)
class CreateJob(Frame):
    """Make the job's directories and test its local output; answered by Created."""

    id: Id
    job: JobWork
    proxy: Pem = field(repr=False)


@dataclass(frozen=True, slots=True)
class WriteProxy(Frame):
    """Replace the job's proxy."""

    id: Id
    job: JobWork
    proxy: Pem = field(repr=False)


@dataclass(frozen=True, slots=True)
class StageIn(Frame):
    """Fetch what the job needs; answered by StagedIn."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class OpenJob(Frame):
    """Check and open what the job starts with; answered by Opened and its descriptors."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class StreamOutput(Frame):
    """Send output to its URLs from now on, as it grows."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class FinishOutput(Frame):
    """The job is over: send the rest of its output and wait until everybody has it."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class Redirect(Frame):
    """The destinations of the output are other ones now (STDIO_UPDATE)."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class StageOut(Frame):
    """Copy `file_stage_out`."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class MeasureOutput(Frame):
    """Ask for the sizes of the output (STDIO_SIZE); answered by OutputSizes."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class CleanUp(Frame):
    """Remove everything that only this job needed; answered by CleanedUp."""

    id: Id
    job: JobWork


@dataclass(frozen=True, slots=True)
class Cancel(Frame):
    """Nobody waits for the request `id` any more; never answered."""

    id: Id


# Agent → service.


@dataclass(frozen=True, slots=True)
class Ready(Frame):
    """The agent's account: its home directory."""

    id: Id
    home: Path


@dataclass(frozen=True, slots=True)
class Created(Frame):
    """The paths of a new job."""

    id: Id
    directory: Path
    proxy: Path
    cache: Path
    scratch: OptionalPath


@dataclass(frozen=True, slots=True)
class StagedIn(Frame):
    """Local paths of an executable and of a standard input that were URLs."""

    id: Id
    executable: OptionalPath
    stdin: OptionalPath


@dataclass(frozen=True, slots=True)
class Opened(Frame):
    """Comes with the working directory, then stdin, stdout and stderr of each process."""

    id: Id
    descriptors: Annotated[int, integer(4, MAX_DESCRIPTORS)]
    executable: Path
    directory: Path
    stdin: Path
    stdout: Path
    stderr: Path


@dataclass(frozen=True, slots=True)
class OutputSizes(Frame):
    """Bytes of each stream that the job manager holds, and whether some are still on their way."""

    id: Id
    stdout: Size
    stderr: Size
    streaming: Flag


@dataclass(frozen=True, slots=True)
class CleanedUp(Frame):
    """How many things could not be removed."""

    id: Id
    failures: Size


@dataclass(frozen=True, slots=True)
class Done(Frame):
    """The request was carried out."""

    id: Id


@dataclass(frozen=True, slots=True)
class Failed(Frame):
    """The request was not carried out; the last three are the gt3-failure extensions."""

    id: Id
    code: Code
    message: Message
    type: Message
    source: String
    destination: String


@dataclass(frozen=True, slots=True)
class Idle(Frame):
    """Nothing was asked for a while; a service with nothing under way closes the connection."""


REQUESTS = kinds(
    Configure,
    CreateJob,
    WriteProxy,
    StageIn,
    OpenJob,
    StreamOutput,
    FinishOutput,
    Redirect,
    StageOut,
    MeasureOutput,
    CleanUp,
    Cancel,
)
ANSWERS = kinds(
    Ready,
    Created,
    StagedIn,
    Opened,
    OutputSizes,
    CleanedUp,
    Done,
    Failed,
    Idle,
)

Request = (
    CreateJob
    | WriteProxy
    | StageIn
    | OpenJob
    | StreamOutput
    | FinishOutput
    | Redirect
    | StageOut
    | MeasureOutput
    | CleanUp
)
Answer = Ready | Created | StagedIn | Opened | OutputSizes | CleanedUp | Done | Failed
