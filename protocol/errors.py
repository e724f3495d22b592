"""What this package raises: every error has a GRAM error code and a text for people."""

from protocol.tables import ErrorCode


class GramError(Exception):
    """A failure with the code that the other side or the user is told.

    `code` is the ErrorCode, `message` the text (by default the code's own).
    """

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        self.code = code
        self.message = code.text if message is None else message
        super().__init__(code, self.message)

    def __str__(self) -> str:
        return self.message


class ProtocolError(GramError):
    """The rules of the protocol were broken."""


class LocalProtocolError(ProtocolError):
    """We tried to send something that the protocol does not allow: a bug or a bad argument here."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that the protocol does not allow.

    `http_status` is what a server answers: an HTTP status, where 200 means that `code` goes into
    the body of a reply (wire-protocol.md §5.2, §5.8).
    """

    def __init__(
        self, code: ErrorCode, message: str | None = None, *, http_status: int = 400
    ) -> None:
        super().__init__(code, message)
        self.http_status = http_status
