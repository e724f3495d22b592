"""What a user can do about a GRAM error code.

The meaning of a code is in `protocol.tables`; here is the next step, for the codes that a user can
do something about.  Everything else gets the advice for the side on which it failed.
"""

from __future__ import annotations

from enum import Enum

from protocol.tables import ErrorCode


class Side(Enum):
    """Where an operation failed; the value is fit for a message."""

    HERE = "this program"
    NETWORK = "the network"
    GATEKEEPER = "the gatekeeper"
    JOB_MANAGER = "the job manager"
    JOB = "the job"


_BY_SIDE = {
    Side.HERE: "Correct the request and try again.",
    Side.NETWORK: "Check host, port and firewall; `gram ping` tests the connection.",
    Side.GATEKEEPER: "Ask the site's administrators, with the time and your identity.",
    Side.JOB_MANAGER: "Ask the site's administrators, with the job contact.",
    Side.JOB: "Look at the job's output and at the request, then submit again.",
}

_ATTRIBUTES = (
    "`gram rsl reference` lists what an attribute takes; `gram rsl check` tests a request."
)
_RENEW = "Make a new proxy (`gram proxy init`); `gram renew JOB` hands it to a running job."

_BY_CODE = {
    ErrorCode.PARAMETER_NOT_SUPPORTED: "Remove the attribute, or take a service that knows it.",
    ErrorCode.BAD_DIRECTORY: "Name a directory on the server that the account may enter.",
    ErrorCode.EXECUTABLE_NOT_FOUND: (
        "Give the program's path on the server, e.g. /bin/echo: PATH is not searched, and a "
        "relative path starts at the job's directory."
    ),
    ErrorCode.AUTHORIZATION: (
        "Check that your identity (`gram proxy info`) is in the site's grid-mapfile, the proxy "
        "is not limited, and the contact names the host as its certificate does."
    ),
    ErrorCode.STDIN_NOT_FOUND: "Name an input file that exists on the server, or a URL.",
    ErrorCode.PROTOCOL_FAILED: "Check that a GRAM service listens on that port.",
    ErrorCode.CONNECTION_FAILED: "Check host, port and firewall, and that the gatekeeper runs.",
    ErrorCode.RSL_EVALUATION_FAILED: "Define the variable with rsl_substitution, left of its use.",
    ErrorCode.BAD_RSL: "`gram rsl check` shows the place of the mistake.",
    ErrorCode.UNDEFINED_EXE: "Add (executable=/path/of/the/program).",
    ErrorCode.STAGING_EXECUTABLE: "Check the executable's URL and that its server trusts you.",
    ErrorCode.STAGING_STDIN: "Check the URL of stdin and that its server trusts you.",
    ErrorCode.STAGE_IN_FAILED: "Check the URLs in file_stage_in and that their servers trust you.",
    ErrorCode.STAGE_OUT_FAILED: "Check the URLs in file_stage_out and that the servers trust you.",
    ErrorCode.EXECUTABLE_PERMISSIONS: "Make the program executable on the server (chmod +x).",
    ErrorCode.OPENING_STDOUT: "Name a file for stdout which the account may create on the server.",
    ErrorCode.OPENING_STDERR: "Name a file for stderr which the account may create on the server.",
    ErrorCode.CONTACTING_JOB_MANAGER: (
        "The job may still be running: try again when its server is reachable."
    ),
    ErrorCode.INVALID_JOB_CONTACT: "A job contact looks like https://host:port/number/number/.",
    ErrorCode.SERVICE_NOT_FOUND: "Ask the site for its services; the contact is host:port/service.",
    ErrorCode.BAD_GATEKEEPER_CONTACT: "A contact looks like host[:port][/service][:subject].",
    ErrorCode.COMMIT_TIMED_OUT: "Submit again and commit within the time that two_phase gives.",
    ErrorCode.USER_PROXY_NOT_FOUND: _RENEW,
    ErrorCode.USER_PROXY_EXPIRED: f"The job goes on without its manager. {_RENEW}",
    ErrorCode.JM_STOPPED: "The job goes on without callbacks; `gram status` still tells its state.",
    ErrorCode.JOB_CONTACT_NOT_FOUND: (
        "The job ended and was forgotten, or the contact is wrong: the server cannot tell which."
    ),
    ErrorCode.UNIMPLEMENTED: "This service's batch system cannot do that.",
    ErrorCode.USER_CANCELLED: "",
    ErrorCode.DRYRUN: "The request is fine; without dryrun it would have run.",
    ErrorCode.DELEGATION_FAILED: "Check `gram proxy info`: a limited proxy cannot delegate fully.",
}


def advice_for(code: int, side: Side) -> str:
    """Return what to do about a failure; empty when there is nothing to be done."""
    if code in _BY_CODE:
        return _BY_CODE[ErrorCode(code)]
    if code in _BAD_ATTRIBUTES:
        return _ATTRIBUTES
    return _BY_SIDE[side]


_BAD_ATTRIBUTES = frozenset(
    code
    for code in ErrorCode
    if code.name.startswith(("RSL_", "INVALID_")) and code not in _BY_CODE
) - {ErrorCode.INVALID_SCRIPT_REPLY, ErrorCode.INVALID_SCRIPT_STATUS, ErrorCode.INVALID_JOBSTATE}
