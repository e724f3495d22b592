"""The protocol's numbers: versions, limits, job states, signals and error codes.

Values are those of wire-protocol.md §6; the texts say in our own words what a code tells a user.
"""

from enum import IntEnum
from typing import Final, Self

PROTOCOL_VERSION: Final = 2
DEFAULT_PORT: Final = 2119
DEFAULT_SERVICE: Final = "jobmanager"
CONTENT_TYPE: Final = "application/x-globus-gram"
MAX_MESSAGE: Final = 64_000
"""Bytes; a body of this size or more is refused (wire-protocol.md §5.12)."""

ALL_STATES: Final = 0xFFFFF
"""The callback mask clients use to hear of every state."""
NO_STATE: Final = 0
"""The state in replies about jobs that are not known."""

_PREFIX: Final = "GLOBUS_GRAM_PROTOCOL_"


class JobState(IntEnum):
    """Job states; each is one bit of a callback mask (wire-protocol.md §6.1)."""

    PENDING = 1
    ACTIVE = 2
    FAILED = 4
    DONE = 8
    SUSPENDED = 16
    UNSUBMITTED = 32
    STAGE_IN = 64
    STAGE_OUT = 128

    @property
    def symbol(self) -> str:
        """The full name, as `globusrun` prints it while it waits."""
        return f"{_PREFIX}JOB_STATE_{self.name}"

    @property
    def final(self) -> bool:
        """Whether no other state follows."""
        return self in (JobState.FAILED, JobState.DONE)


POSTED_STATES: Final = frozenset(JobState) - {JobState.UNSUBMITTED}
"""The states that callbacks are posted for (wire-protocol.md §7.1)."""


def state_name(value: int) -> str:
    """The short name of a state, in the words of `globusrun -status` for numbers nobody defined."""
    try:
        return JobState(value).name
    except ValueError:
        return f"UNKNOWN JOB STATE {value}"


class Signal(IntEnum):
    """Numbers of the `signal` query (wire-protocol.md §6.2)."""

    CANCEL = 1
    SUSPEND = 2
    RESUME = 3
    PRIORITY = 4
    COMMIT_REQUEST = 5
    COMMIT_EXTEND = 6
    STDIO_UPDATE = 7
    STDIO_SIZE = 8
    STOP_MANAGER = 9
    COMMIT_END = 10

    @property
    def symbol(self) -> str:
        """The full name."""
        return f"{_PREFIX}JOB_SIGNAL_{self.name}"


class ErrorCode(IntEnum):
    """Error codes (wire-protocol.md §6.4); 110 and 41 are answers rather than failures."""

    text: str
    """What the code means, for people."""

    def __new__(cls, value: int, text: str = "") -> Self:
        """Make the number an enum member that carries its text."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    @property
    def symbol(self) -> str:
        """The full name."""
        return f"{_PREFIX}ERROR_{self.name}" if self else "GLOBUS_SUCCESS"

    SUCCESS = 0, "no error"
    PARAMETER_NOT_SUPPORTED = 1, "this job manager does not support an attribute of the RSL"
    INVALID_REQUEST = 2, "the request is malformed or too long"
    NO_RESOURCES = 3, "a resource ran out, or reading or writing failed"
    BAD_DIRECTORY = 4, "the working directory of the job cannot be entered"
    EXECUTABLE_NOT_FOUND = 5, "the executable does not exist"
    INSUFFICIENT_FUNDS = 6, "the account has no funds left"
    AUTHORIZATION = 7, "authentication or the check of a name failed"
    USER_CANCELLED = 8, "the user cancelled the job"
    SYSTEM_CANCELLED = 9, "the system or its scheduler cancelled the job"
    PROTOCOL_FAILED = 10, "data could not be sent to or read from the other side"
    STDIN_NOT_FOUND = 11, "the file for standard input does not exist"
    CONNECTION_FAILED = 12, "no connection to this host and port"
    INVALID_MAXTIME = 13, "maxtime is not an integer"
    INVALID_COUNT = 14, "count is not a positive integer"
    NULL_SPECIFICATION_TREE = 15, "the RSL is empty or not valid"
    JM_FAILED_ALLOW_ATTACH = 16, "the job manager could not open a listener for clients"
    JOB_EXECUTION_FAILED = 17, "the job could not be started"
    INVALID_PARADYN = 18, "the value of paradyn is wrong (historic)"
    INVALID_JOBTYPE = 19, "the value of jobtype is wrong"
    INVALID_GRAM_MYJOB = 20, "the value of myjob is wrong (historic)"
    BAD_SCRIPT_ARG_FILE = 21, "an argument file of an internal script is missing"
    ARG_FILE_CREATION_FAILED = 22, "a file the job manager needs for the job cannot be created"
    INVALID_JOBSTATE = 23, "a job state came up that does not exist"
    INVALID_SCRIPT_REPLY = 24, "the scheduler script answered something unusable"
    INVALID_SCRIPT_STATUS = 25, "the scheduler script gave an unusable status"
    JOBTYPE_NOT_SUPPORTED = 26, "this scheduler does not support the job type"
    UNIMPLEMENTED = 27, "the operation is not implemented here"
    TEMP_SCRIPT_FILE_FAILED = 28, "the temporary submit file could not be created"
    USER_PROXY_NOT_FOUND = 29, "there is no user proxy: nothing was delegated"
    OPENING_USER_PROXY = 30, "the user proxy cannot be opened"
    JOB_CANCEL_FAILED = 31, "the job could not be cancelled"
    MALLOC_FAILED = 32, "memory ran out"
    DUCT_INIT_FAILED = 33, "initialising DUCT failed (historic)"
    DUCT_LSP_FAILED = 34, "setting up DUCT failed (historic)"
    INVALID_HOST_COUNT = 35, "the value of host_count is wrong"
    UNSUPPORTED_PARAMETER = 36, "a parameter of the RSL is not supported"
    INVALID_QUEUE = 37, "the value of queue is wrong"
    INVALID_PROJECT = 38, "the value of project is wrong"
    RSL_EVALUATION_FAILED = 39, "a variable of the RSL is not defined"
    BAD_RSL_ENVIRONMENT = 40, "the value of environment is wrong"
    DRYRUN = 41, "a dry run: the request is fine and nothing was started"
    ZERO_LENGTH_RSL = 42, "the RSL is empty"
    STAGING_EXECUTABLE = 43, "the executable could not be staged in"
    STAGING_STDIN = 44, "standard input could not be staged in"
    INVALID_JOB_MANAGER_TYPE = 45, "there is no job manager of this type"
    BAD_ARGUMENTS = 46, "the value of arguments is wrong"
    GATEKEEPER_MISCONFIGURED = 47, "the gatekeeper could not start the job manager"
    BAD_RSL = 48, "the RSL has a syntax error"
    VERSION_MISMATCH = 49, "the two sides speak different protocol versions"
    RSL_ARGUMENTS = 50, "the RSL relation arguments is malformed"
    RSL_COUNT = 51, "the RSL relation count is malformed"
    RSL_DIRECTORY = 52, "the RSL relation directory is malformed"
    RSL_DRYRUN = 53, "the RSL relation dryrun is malformed"
    RSL_ENVIRONMENT = 54, "the RSL relation environment is malformed"
    RSL_EXECUTABLE = 55, "the RSL relation executable is malformed"
    RSL_HOST_COUNT = 56, "the RSL relation host_count is malformed"
    RSL_JOBTYPE = 57, "the RSL relation jobtype is malformed"
    RSL_MAXTIME = 58, "the RSL relation maxtime is malformed"
    RSL_MYJOB = 59, "the RSL relation myjob is malformed"
    RSL_PARADYN = 60, "the RSL relation paradyn is malformed"
    RSL_PROJECT = 61, "the RSL relation project is malformed"
    RSL_QUEUE = 62, "the RSL relation queue is malformed"
    RSL_STDERR = 63, "the RSL relation stderr is malformed"
    RSL_STDIN = 64, "the RSL relation stdin is malformed"
    RSL_STDOUT = 65, "the RSL relation stdout is malformed"
    OPENING_JOBMANAGER_SCRIPT = 66, "the job manager's script cannot be found or read"
    CREATING_PIPE = 67, "a pipe could not be created"
    FCNTL_FAILED = 68, "the flags of a descriptor could not be set"
    STDOUT_FILENAME_FAILED = 69, "no temporary name for standard output could be made"
    STDERR_FILENAME_FAILED = 70, "no temporary name for standard error could be made"
    FORKING_EXECUTABLE = 71, "a process for the job could not be created"
    EXECUTABLE_PERMISSIONS = 72, "the executable has no execute permission"
    OPENING_STDOUT = 73, "standard output cannot be opened"
    OPENING_STDERR = 74, "standard error cannot be opened"
    OPENING_CACHE_USER_PROXY = 75, "the stored user proxy cannot be opened"
    OPENING_CACHE = 76, "the GASS cache is not accessible (permissions, quota, space)"
    INSERTING_CLIENT_CONTACT = 77, "the callback contact could not be added"
    CLIENT_CONTACT_NOT_FOUND = 78, "this callback contact is not registered"
    CONTACTING_JOB_MANAGER = 79, "the job manager cannot be reached"
    INVALID_JOB_CONTACT = 80, "the job contact cannot be understood"
    UNDEFINED_EXE = 81, "the RSL names no executable"
    CONDOR_ARCH = 82, "the service's configuration lacks the condor architecture"
    CONDOR_OS = 83, "the service's configuration lacks the condor operating system"
    RSL_MIN_MEMORY = 84, "the RSL relation min_memory is malformed"
    RSL_MAX_MEMORY = 85, "the RSL relation max_memory is malformed"
    INVALID_MIN_MEMORY = 86, "min_memory is not a number of zero or more"
    INVALID_MAX_MEMORY = 87, "max_memory is not a number of zero or more"
    HTTP_FRAME_FAILED = 88, "the HTTP message could not be built"
    HTTP_UNFRAME_FAILED = 89, "the HTTP message could not be parsed"
    HTTP_PACK_FAILED = 90, "the message body could not be built"
    HTTP_UNPACK_FAILED = 91, "the message body lacks attributes or could not be parsed"
    INVALID_JOB_QUERY = 92, "the job manager does not know this query"
    SERVICE_NOT_FOUND = 93, "the gatekeeper does not know this service"
    JOB_QUERY_DENIAL = 94, "the job manager takes no such request in this phase of the job"
    CALLBACK_NOT_FOUND = 95, "no callback listener has this contact"
    BAD_GATEKEEPER_CONTACT = 96, "the gatekeeper contact cannot be understood"
    POE_NOT_FOUND = 97, "the command poe was not found"
    MPIRUN_NOT_FOUND = 98, "the command mpirun was not found"
    RSL_START_TIME = 99, "the RSL relation start_time is malformed"
    RSL_RESERVATION_HANDLE = 100, "the RSL relation reservation_handle is malformed"
    RSL_MAX_WALL_TIME = 101, "the RSL relation max_wall_time is malformed"
    INVALID_MAX_WALL_TIME = 102, "max_wall_time is not a number of zero or more"
    RSL_MAX_CPU_TIME = 103, "the RSL relation max_cpu_time is malformed"
    INVALID_MAX_CPU_TIME = 104, "max_cpu_time is not a number of zero or more"
    JM_SCRIPT_NOT_FOUND = 105, "the scheduler script is missing"
    JM_SCRIPT_PERMISSIONS = 106, "the scheduler script has the wrong permissions"
    SIGNALING_JOB = 107, "the job could not be signalled"
    UNKNOWN_SIGNAL_TYPE = 108, "there is no signal of this number"
    GETTING_JOBID = 109, "the scheduler did not return a job id"
    WAITING_FOR_COMMIT = 110, "accepted: the job waits for the client's commit"
    COMMIT_TIMED_OUT = 111, "the client did not commit in time"
    RSL_SAVE_STATE = 112, "the RSL relation save_state is malformed"
    RSL_RESTART = 113, "the RSL relation restart is malformed"
    RSL_TWO_PHASE_COMMIT = 114, "the RSL relation two_phase is malformed"
    INVALID_TWO_PHASE_COMMIT = 115, "two_phase is not a number of zero or more"
    RSL_STDOUT_POSITION = 116, "the RSL relation stdout_position is malformed"
    INVALID_STDOUT_POSITION = 117, "stdout_position is not a number of zero or more"
    RSL_STDERR_POSITION = 118, "the RSL relation stderr_position is malformed"
    INVALID_STDERR_POSITION = 119, "stderr_position is not a number of zero or more"
    RESTART_FAILED = 120, "the job could not be taken over again"
    NO_STATE_FILE = 121, "restart: no job with this contact is stored"
    READING_STATE_FILE = 122, "the stored state of the job cannot be read"
    WRITING_STATE_FILE = 123, "the state of the job cannot be stored"
    OLD_JM_ALIVE = 124, "restart: the job's manager is still alive"
    TTL_EXPIRED = 125, "the stored state of the job is too old"
    SUBMIT_UNKNOWN = 126, "it is not known whether the job was submitted"
    RSL_REMOTE_IO_URL = 127, "the RSL relation remote_io_url is malformed"
    WRITING_REMOTE_IO_URL = 128, "the file with the remote I/O URL could not be written"
    STDIO_SIZE = 129, "the sizes of the output differ from what the client has"
    JM_STOPPED = 130, "the job manager stopped on request; the job goes on"
    USER_PROXY_EXPIRED = 131, "the delegated proxy expired or soon will; the job goes on"
    JOB_UNSUBMITTED = 132, "restart: the job was never submitted"
    INVALID_COMMIT = 133, "no commit of this kind is awaited"
    RSL_SCHEDULER_SPECIFIC = 134, "an RSL relation special to the scheduler is malformed"
    STAGE_IN_FAILED = 135, "a file could not be staged in"
    INVALID_SCRATCH = 136, "the scratch directory could not be created"
    RSL_CACHE = 137, "the value of gass_cache is wrong"
    INVALID_SUBMIT_ATTRIBUTE = 138, "an attribute is not allowed in a submission"
    INVALID_STDIO_UPDATE_ATTRIBUTE = 139, "an attribute is not allowed when output is redirected"
    INVALID_RESTART_ATTRIBUTE = 140, "an attribute is not allowed in a restart"
    RSL_FILE_STAGE_IN = 141, "the RSL relation file_stage_in is malformed"
    RSL_FILE_STAGE_IN_SHARED = 142, "the RSL relation file_stage_in_shared is malformed"
    RSL_FILE_STAGE_OUT = 143, "the RSL relation file_stage_out is malformed"
    RSL_GASS_CACHE = 144, "the RSL relation gass_cache is malformed"
    RSL_FILE_CLEANUP = 145, "the RSL relation file_clean_up is malformed"
    RSL_SCRATCH = 146, "the RSL relation scratch_dir is malformed"
    INVALID_SCHEDULER_SPECIFIC = 147, "a value special to the scheduler is wrong"
    UNDEFINED_ATTRIBUTE = 148, "a required attribute is missing"
    INVALID_CACHE = 149, "the given cache directory cannot be used"
    INVALID_SAVE_STATE = 150, "the value of save_state is wrong"
    OPENING_VALIDATION_FILE = 151, "the attribute validation file cannot be opened"
    READING_VALIDATION_FILE = 152, "the attribute validation file cannot be read"
    RSL_PROXY_TIMEOUT = 153, "the RSL relation proxy_timeout is malformed"
    INVALID_PROXY_TIMEOUT = 154, "proxy_timeout is not a positive number"
    STAGE_OUT_FAILED = 155, "a file could not be staged out"
    JOB_CONTACT_NOT_FOUND = 156, "no job has this contact: it is finished or never existed"
    DELEGATION_FAILED = 157, "the delegation of a credential failed"
    LOCKING_STATE_LOCK_FILE = 158, "the lock of the job's state could not be had"
    INVALID_ATTR = 159, "an attribute object given to the client library is not valid"
    NULL_PARAMETER = 160, "an argument given to the client library is missing"
    STILL_STREAMING = 161, "output is still being delivered"
    AUTHORIZATION_DENIED = 162, "authorization denied the request"
    AUTHORIZATION_SYSTEM_FAILURE = 163, "the authorization system itself failed"
    AUTHORIZATION_DENIED_JOB_ID = 164, "authorization denied the request for this job"
    AUTHORIZATION_DENIED_EXECUTABLE = 165, "authorization denied this executable"
    RSL_USER_NAME = 166, "the RSL relation username is malformed"
    INVALID_USER_NAME = 167, "the requested account is not the one the job would run in"
    LAST = 168, "not an error: the first number without a meaning"


def markdown() -> str:
    """These tables as the reference page `docs/reference/protocol-tables.md`."""
    lines = ["# Protocol tables", "", "Generated from `protocol/tables.py`.", ""]
    lines += ["## Job states", "", "| bit | name |", "|---|---|"]
    lines += [f"| {state.value} | {state.name} |" for state in JobState]
    lines += ["", "## Signals", "", "| number | name |", "|---|---|"]
    lines += [f"| {signal.value} | {signal.name} |" for signal in Signal]
    lines += ["", "## Error codes", "", "| number | name | meaning |", "|---|---|---|"]
    lines += [f"| {code.value} | {code.name} | {code.text} |" for code in ErrorCode]
    return "\n".join(lines) + "\n"
