"""The transcripts of wire-protocol.md §5 and Appendix A: a message and its bytes, in both roles."""

from dataclasses import dataclass

from protocol.connection import Role
from protocol.messages import (
    Callback,
    CallbackReply,
    CancelQuery,
    Extensions,
    HttpError,
    JobReply,
    JobRequest,
    Ping,
    PingReply,
    QueryReply,
    RegisterQuery,
    RenewQuery,
    Reply,
    Request,
    SignalQuery,
    StatusQuery,
    UnknownQuery,
    UnregisterQuery,
    VersionReply,
    VersionRequest,
)
from protocol.tables import ErrorCode

VERSION = Extensions(version="15.8 (1653033972-1)", toolkit_version="6.2")
VERSION_LINES = b'version: "15.8 (1653033972-1)"\r\ntoolkit-version: "6.2"\r\n'
CONTACT = "https://vm:41821/17370762979862472866/72057598265942927/"
PATH = "/16001/2002/"

PEERS = {
    Role.GATEKEEPER_CLIENT: Role.GATEKEEPER_SERVER,
    Role.JOB_MANAGER_CLIENT: Role.JOB_MANAGER_SERVER,
    Role.CALLBACK_SENDER: Role.CALLBACK_LISTENER,
}


def post(target: bytes, body: bytes, host: bytes = b"localhost") -> bytes:
    return (
        b"POST " + target + b" HTTP/1.1\r\n"
        b"Host: " + host + b"\r\n"
        b"Content-Type: application/x-globus-gram\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )


def ok(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: application/x-globus-gram\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )


@dataclass(frozen=True)
class Sent:
    """A request on the wire; `length` is the body's, where the specification gives it."""

    role: Role
    message: Request
    data: bytes
    length: int | None = None


@dataclass(frozen=True)
class Answered:
    """A reply on the wire, and the request it answers."""

    role: Role
    request: Request
    message: Reply
    data: bytes
    length: int | None = None


def query(text: bytes) -> bytes:
    return post(b"/16001/2002/", b'protocol-version: 2\r\n"' + text + b'"\r\n\0')


GATEKEEPER = Role.GATEKEEPER_CLIENT
JOB_MANAGER = Role.JOB_MANAGER_CLIENT
LISTENER = Role.CALLBACK_SENDER

JOB = JobRequest(
    service="jobmanager",
    user=None,
    rsl='&("executable" = "/bin/date" )',
    callback_url="https://vm:40819/",
    state_mask=1048575,
)
JOB_BODY = (
    b"protocol-version: 2\r\n"
    b"job-state-mask: 1048575\r\n"
    b"callback-url: https://vm:40819/\r\n"
    b'rsl: "&(\\"executable\\" = \\"/bin/date\\" )"\r\n'
    b"\0"
)
CALLBACK = Callback(contact=CONTACT, state=8, failure_code=0, extensions=VERSION)

REQUESTS = {
    "ping": Sent(GATEKEEPER, Ping("jobmanager"), post(b"ping/jobmanager", b""), 0),
    "ping-user": Sent(
        GATEKEEPER, Ping("jobmanager", "root"), post(b"ping/jobmanager@root", b""), 0
    ),
    "version": Sent(
        GATEKEEPER,
        VersionRequest("jobmanager"),
        post(b"/jobmanager", b"command: version\r\n\0"),
        19,
    ),
    "job": Sent(GATEKEEPER, JOB, post(b"/jobmanager", JOB_BODY), 123),
    "job-user-no-callback": Sent(
        GATEKEEPER,
        JobRequest("jobmanager-fork", "alice", "&(executable=/bin/true)", "", 0),
        post(
            b"/jobmanager-fork@alice",
            b'protocol-version: 2\r\njob-state-mask: 0\r\ncallback-url: ""\r\n'
            b'rsl: "&(executable=/bin/true)"\r\n\0',
        ),
    ),
    "status": Sent(JOB_MANAGER, StatusQuery(PATH), query(b"status"), 32),
    "cancel": Sent(JOB_MANAGER, CancelQuery(PATH), query(b"cancel"), 32),
    "renew": Sent(JOB_MANAGER, RenewQuery(PATH), query(b"renew"), 31),
    "signal-9": Sent(JOB_MANAGER, SignalQuery(PATH, 9), query(b"signal 9"), 34),
    "signal-5": Sent(JOB_MANAGER, SignalQuery(PATH, 5, "commit"), query(b"signal 5 commit"), 41),
    "signal-10": Sent(JOB_MANAGER, SignalQuery(PATH, 10, "commit"), query(b"signal 10 commit"), 42),
    "signal-7": Sent(
        JOB_MANAGER,
        SignalQuery(PATH, 7, '&("stdout" = "/tmp/o")'),
        query(b'signal 7 &(\\"stdout\\" = \\"/tmp/o\\")'),
    ),
    "register": Sent(
        JOB_MANAGER,
        RegisterQuery(PATH, 1048575, "https://vm:40819/"),
        query(b"register 1048575 https://vm:40819/"),
    ),
    "unregister": Sent(
        JOB_MANAGER,
        UnregisterQuery(PATH, "https://vm:40819/"),
        query(b"unregister https://vm:40819/"),
    ),
    "unknown": Sent(JOB_MANAGER, UnknownQuery(PATH, "foo"), query(b"foo")),
    "callback": Sent(
        LISTENER,
        CALLBACK,
        post(
            b"/",
            b"protocol-version: 2\r\njob-manager-url: " + CONTACT.encode() + b"\r\n"
            b"status: 8\r\nfailure-code: 0\r\n" + VERSION_LINES + b"\0",
        ),
        181,
    ),
}

REPLIES = {
    "ping": Answered(GATEKEEPER, Ping("jobmanager"), PingReply(), ok(b""), 0),
    "version": Answered(
        GATEKEEPER,
        VersionRequest("jobmanager"),
        VersionReply("15.8 (1653033972-1)", "6.2"),
        ok(b"protocol-version: 2\r\nstatus: 0\r\n" + VERSION_LINES + b"\0"),
        89,
    ),
    "accepted": Answered(
        GATEKEEPER,
        JOB,
        JobReply(ErrorCode.SUCCESS, CONTACT, VERSION),
        ok(
            b"protocol-version: 2\r\nstatus: 0\r\njob-manager-url: " + CONTACT.encode() + b"\r\n"
            b"" + VERSION_LINES + b"\0"
        ),
        164,
    ),
    "two-phase-gram2": Answered(
        GATEKEEPER,
        JOB,
        JobReply(ErrorCode.WAITING_FOR_COMMIT, CONTACT),
        ok(
            b"protocol-version: 2\r\nstatus: 110\r\njob-manager-url: " + CONTACT.encode() + b"\r\n"
            b"\0"
        ),
    ),
    "rejected": Answered(
        GATEKEEPER,
        JOB,
        JobReply(
            ErrorCode.PARAMETER_NOT_SUPPORTED,
            None,
            Extensions(
                version="15.8 (1653033972-1)",
                toolkit_version="6.2",
                failure_message='the RSL attribute "nosuch" is not supported by the LRM adapter',
            ),
        ),
        ok(
            b"protocol-version: 2\r\nstatus: 1\r\n"
            b'gt3-failure-message: "the RSL attribute \\"nosuch\\" is not supported by the LRM '
            b'adapter"\r\n' + VERSION_LINES + b"\0"
        ),
    ),
    "unpack-failed": Answered(
        GATEKEEPER,
        JOB,
        JobReply(ErrorCode.HTTP_UNPACK_FAILED, None, VERSION),
        ok(b"protocol-version: 2\r\nstatus: 91\r\n" + VERSION_LINES + b"\0"),
    ),
    "query": Answered(
        JOB_MANAGER,
        StatusQuery(PATH),
        QueryReply(2, 0, 0, VERSION),
        ok(
            b"protocol-version: 2\r\nstatus: 2\r\nfailure-code: 0\r\njob-failure-code: 0\r\n"
            b"" + VERSION_LINES + b"\0"
        ),
        127,
    ),
    "query-exit-code": Answered(
        JOB_MANAGER,
        StatusQuery(PATH),
        QueryReply(8, 0, 0, Extensions(exit_code=0)),
        ok(
            b"protocol-version: 2\r\nstatus: 8\r\nfailure-code: 0\r\njob-failure-code: 0\r\n"
            b'exit-code: "0"\r\n\0'
        ),
    ),
    "query-unknown": Answered(
        JOB_MANAGER,
        UnknownQuery(PATH, "foo"),
        QueryReply(4, 92, 0),
        ok(b"protocol-version: 2\r\nstatus: 4\r\nfailure-code: 92\r\njob-failure-code: 0\r\n\0"),
    ),
    "query-gone": Answered(
        JOB_MANAGER,
        StatusQuery(PATH),
        QueryReply(0, 156, 0),
        ok(b"protocol-version: 2\r\nstatus: 0\r\nfailure-code: 156\r\njob-failure-code: 0\r\n\0"),
    ),
    "renew-first": Answered(
        JOB_MANAGER,
        RenewQuery(PATH),
        QueryReply(0, 0, 0),
        ok(b"protocol-version: 2\r\nstatus: 0\r\nfailure-code: 0\r\njob-failure-code: 0\r\n\0"),
        71,
    ),
    "gatekeeper-403": Answered(
        GATEKEEPER, JOB, HttpError(403), b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n"
    ),
    "gatekeeper-404": Answered(
        GATEKEEPER,
        Ping("nope"),
        HttpError(404),
        b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n",
    ),
    "gatekeeper-500": Answered(
        GATEKEEPER,
        JOB,
        HttpError(500),
        b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n",
    ),
    "job-manager-400": Answered(
        JOB_MANAGER,
        StatusQuery(PATH),
        HttpError(400),
        b"HTTP/1.1 400 Bad Request\r\nConnection: Close\r\n\r\n",
    ),
    "callback": Answered(
        LISTENER, CALLBACK, CallbackReply(), b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", 0
    ),
}
