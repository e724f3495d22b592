"""What is remembered of a job, and the small values that travel with it."""

from dataclasses import dataclass, field

from jobmanager.states import Phase
from protocol.tables import JobState


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as the gt3-failure extensions say it (wire-protocol.md §5.10)."""

    message: str = ""
    type: str = ""
    source: str = ""
    destination: str = ""


@dataclass(frozen=True, slots=True)
class CallbackContact:
    """A client's listener: its URL and the mask of states it wants to hear of."""

    url: str
    mask: int


@dataclass(frozen=True, slots=True)
class JobPaths:
    """Where the job's files are, as the agent reported them (absolute paths of the account)."""

    home: str
    directory: str
    proxy: str
    cache: str
    scratch: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as stored. Times are seconds since the epoch.

    `id` is "<u1>/<u2>", the path of the contact without its outer slashes. The description is not
    here: it is read from the store when a phase needs it, so that waiting jobs stay small.
    """

    id: str
    owner: str
    account: str
    service: str
    contact: str
    phase: Phase
    state: JobState
    created: float
    updated: float
    sequence: int = 0
    two_phase: int = 0
    deadline: float | None = None
    extension: int = 0
    parked: bool = False
    stopped: bool = False
    redirected: bool = False
    failure_code: int = 0
    failure: Failure | None = None
    exit_code: int | None = None
    lrm_id: str | None = None
    contacts: tuple[CallbackContact, ...] = field(default=())

    @property
    def container(self) -> str:
        """The name of the job's container at the spawner (a job id may hold a slash)."""
        return self.id.replace("/", "-")

    @property
    def path(self) -> str:
        """The path of the job contact (wire-protocol.md §5.11)."""
        return f"/{self.id}/"
