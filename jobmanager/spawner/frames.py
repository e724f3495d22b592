"""The kinds of frames between service, spawner and shepherds, and the values inside them.

Times are seconds since the epoch.  Request identifiers are chosen by the service; an answer
carries that of its request.
"""

import re
import signal
from dataclasses import dataclass
from typing import Annotated

from .codec import Frame, boolean, integer, kinds, many, number, optional, pair, record, text

CONTAINER_PATTERN = re.compile("[A-Za-z0-9_-]{1,64}")
MAX_PROCESSES = 1000
MAX_DESCRIPTORS = 1 + 3 * MAX_PROCESSES
MAX_MEMBERS = 50_000
# With these the longest part of a listing fits into a frame.
CONTAINER_BATCH = 64
RECORD_BATCH = 4

_CENTURY = 100 * 366 * 86400
_INT64 = (1 << 63) - 1
_MAX_UID = (1 << 32) - 2

_STRING = text(131071)
_PID = integer(1, 1 << 30)

Id = Annotated[int, integer(1, _INT64)]
IdOrZero = Annotated[int, integer(0, _INT64)]
ContainerName = Annotated[str, text(64, CONTAINER_PATTERN.pattern)]
AccountName = Annotated[str, text(256, r"[^\0-\x20\x7f:/]+")]
Word = Annotated[str, text(32, r"[a-z-]+")]
Pid = Annotated[int, _PID]
Pids = Annotated[tuple[int, ...], many(_PID, 0, MAX_PROCESSES)]
Time = Annotated[float, number(0, 1e11)]
Seconds = Annotated[float, number(0, 1e12)]
Grace = Annotated[float, number(0, 3600)]
Count = Annotated[int, integer(0, _INT64)]
Flag = Annotated[bool, boolean]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a job: wall-clock seconds of the whole, CPU seconds and bytes of each process.

    `grace_seconds` passes between SIGTERM and SIGKILL when the wall-clock limit is reached.
    """

    wall_seconds: Annotated[float | None, optional(number(0.001, _CENTURY))] = None
    cpu_seconds: Annotated[int | None, optional(integer(1, _CENTURY))] = None
    memory_bytes: Annotated[int | None, optional(integer(1, _INT64))] = None
    grace_seconds: Grace = 5.0


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What to run: `processes` copies of `argv` with exactly `environment`, as `account`.

    `argv[0]` is the path that is executed, relative to the working directory unless absolute.
    Of an environment name given twice the last value counts.
    """

    container: ContainerName
    account: AccountName
    processes: Annotated[int, integer(1, MAX_PROCESSES)]
    argv: Annotated[tuple[str, ...], many(_STRING, 1, 65536)]
    environment: Annotated[
        tuple[tuple[str, str], ...], many(pair(text(131071, r"[^\0=]+"), _STRING), 0, 65536)
    ]
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A living container: its shepherd's pid and the main processes' pids, in launch order.

    While it is only being started, or its shepherd is being looked for, the pid is 0.
    """

    container: ContainerName
    account: AccountName
    shepherd: Annotated[int, integer(0, 1 << 30)]
    pids: Pids
    started: Time
    frozen: Flag


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How one main process ended: exit code or signal; both None when nobody could see it.

    CPU seconds and the largest resident set (KiB) include the children it waited for.  The kernel
    counts from the fork on, so the resident set is never below the spawner's own, some 12 MiB.
    """

    exit_code: Annotated[int | None, optional(integer(0, 255))]
    signal: Annotated[int | None, optional(integer(1, 127))]
    cpu_user: Seconds = 0.0
    cpu_system: Seconds = 0.0
    max_rss_kb: Count = 0


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The end of a container, written once by its shepherd.

    `reason`: "exited", "killed", "wall-limit", "cpu-limit", "shutdown" (the shepherd was told to
    terminate), "lost" (the shepherd vanished: nothing is known of the processes' ends), or
    "launch-failed" (told of a launch whose asker had gone: nothing ran, no record is kept).
    CPU seconds are sums over all `members` ever reaped, `max_rss_kb` is the largest one's;
    `last_status` is the wait status word of the member that left last (job-containers.md 4.3, 10).
    """

    container: ContainerName
    account: AccountName
    processes: Annotated[tuple[ProcessExit, ...], many(record(ProcessExit), 0, MAX_PROCESSES)]
    started: Time
    ended: Time
    cpu_user: Seconds
    cpu_system: Seconds
    max_rss_kb: Count
    members: Count
    last_status: Annotated[int | None, optional(integer(0, 65535))]
    reason: Word


# Service → spawner.


@dataclass(frozen=True, slots=True)
class SpawnerPolicy(Frame):
    """The first frame, once: what the spawner may be asked at all.

    `personal` must say truly whether the spawner runs without root.  `accounts` is a regular
    expression that a whole account name must match.  `spool` is an absolute path, made when
    missing; with `spool_group` (a gid) its files are readable by that group.  `personal_home` takes
    the place of the account's home directory; only without root, who would be led astray by it.
    """

    personal: Flag
    minimum_uid: Annotated[int, integer(1, _MAX_UID)]
    spool: Annotated[str, text(4000, r"/[^\0]*")]
    accounts: Annotated[str | None, optional(text(1000))] = None
    spool_group: Annotated[int | None, optional(integer(0, _MAX_UID))] = None
    personal_home: Annotated[str | None, optional(text(4000, r"/[^\0]*"))] = None
    agent_no_new_privs: Flag = False
    job_no_new_privs: Flag = False


@dataclass(frozen=True, slots=True)
class StartAgent(Frame):
    """Fork a user agent; answered by AgentStarted with its socket."""

    id: Id
    account: AccountName


@dataclass(frozen=True, slots=True)
class StopAgent(Frame):
    """End an agent and its process group: SIGTERM, soon SIGKILL."""

    id: Id
    pid: Pid


@dataclass(frozen=True, slots=True)
class Launch(Frame):
    """Start a job; its descriptors: the working directory, then stdin, stdout, stderr of each."""

    id: Id
    descriptors: Annotated[int, integer(4, MAX_DESCRIPTORS)]
    request: LaunchRequest


@dataclass(frozen=True, slots=True)
class Signal(Frame):
    """Send a signal to every member of a container; 0 only checks."""

    id: Id
    container: ContainerName
    signum: Annotated[int, integer(0, signal.SIGRTMAX)]


@dataclass(frozen=True, slots=True)
class Freeze(Frame):
    """Stop every member of a container."""

    id: Id
    container: ContainerName


@dataclass(frozen=True, slots=True)
class Thaw(Frame):
    """Continue every member of a container."""

    id: Id
    container: ContainerName


@dataclass(frozen=True, slots=True)
class Kill(Frame):
    """End a container: SIGTERM to every member, SIGKILL after `grace` seconds."""

    id: Id
    container: ContainerName
    grace: Grace


@dataclass(frozen=True, slots=True)
class ListMembers(Frame):
    """Ask for the pids of all living members of a container."""

    id: Id
    container: ContainerName


@dataclass(frozen=True, slots=True)
class ListContainers(Frame):
    """Ask for all living containers."""

    id: Id


@dataclass(frozen=True, slots=True)
class ListRecords(Frame):
    """Ask for all exit records of the spool."""

    id: Id


@dataclass(frozen=True, slots=True)
class Forget(Frame):
    """Remove an ended container's record; nothing to remove is fine."""

    id: Id
    container: ContainerName


@dataclass(frozen=True, slots=True)
class Ping(Frame):
    """Answered by Done."""

    id: Id


# Answers and news.


@dataclass(frozen=True, slots=True)
class Ready(Frame):
    """The policy is in force."""

    pid: Pid
    uid: Count


@dataclass(frozen=True, slots=True)
class AgentStarted(Frame):
    """Comes with one descriptor: the service's end of the agent's socket."""

    id: Id
    pid: Pid


@dataclass(frozen=True, slots=True)
class Launched(Frame):
    """The job runs; with identifier 0 a shepherd's news about a job that was running before."""

    id: IdOrZero
    info: ContainerInfo


@dataclass(frozen=True, slots=True)
class Done(Frame):
    """The request was carried out."""

    id: Id


@dataclass(frozen=True, slots=True)
class Members(Frame):
    """Pids of living members, parents before their children, cut at `MAX_MEMBERS`."""

    id: Id
    pids: Annotated[tuple[int, ...], many(_PID, 0, MAX_MEMBERS)]


@dataclass(frozen=True, slots=True)
class Containers(Frame):
    """A part of the answer to ListContainers; the last one has `more` false."""

    id: Id
    containers: Annotated[
        tuple[ContainerInfo, ...], many(record(ContainerInfo), 0, CONTAINER_BATCH)
    ]
    more: Flag


@dataclass(frozen=True, slots=True)
class Records(Frame):
    """A part of the answer to ListRecords; the last one has `more` false."""

    id: Id
    records: Annotated[tuple[ExitRecord, ...], many(record(ExitRecord), 0, RECORD_BATCH)]
    more: Flag


@dataclass(frozen=True, slots=True)
class Refused(Frame):
    """The request failed at `stage`; `errno` is 0 where no system call was the reason.

    Identifier 0: that of the request could not be read.
    """

    id: IdOrZero
    stage: Word
    errno: Annotated[int, integer(0, 4095)]
    text: Annotated[str, text(4000)]


@dataclass(frozen=True, slots=True)
class Ended(Frame):
    """A container has ended (unasked; may come more than once for one container)."""

    record: ExitRecord


REQUESTS = kinds(
    SpawnerPolicy, StartAgent, StopAgent, Launch, Signal, Freeze, Thaw, Kill, ListMembers,
    ListContainers, ListRecords, Forget, Ping,
)  # fmt: skip
ANSWERS = kinds(
    Ready, AgentStarted, Launched, Done, Members, Containers, Records, Refused, Ended
)  # fmt: skip
SHEPHERD_REQUESTS = kinds(Signal, Freeze, Thaw, Kill, ListMembers)
SHEPHERD_ANSWERS = kinds(Launched, Done, Members, Refused, Ended)
