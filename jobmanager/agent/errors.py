"""What the agent's operations raise, on both sides of the socket."""

from jobmanager.records import Failure
from protocol.errors import GramError
from protocol.tables import ErrorCode


class StagingError(GramError):
    """Something could not be copied; `failure` is what the gt3-failure extensions say (§5.2)."""

    def __init__(self, code: ErrorCode, failure: Failure) -> None:
        super().__init__(code, failure.message)
        self.failure = failure


def reason(error: Exception) -> str:
    """The text of an error for people: an OSError without its number."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__


class RefusedError(GramError):
    """A transfer that would fail again: refused, impossible or not supported."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_FAILED, message)


class BrokenError(GramError):
    """A transfer that failed on its way and may be tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_FAILED, message)
