"""Statuses, events and errors as values."""

import pytest

from gram.client import ErrorCode, GramClientError, JobState, JobStatus, RunResult, Side
from gram.client.advice import advice_for
from gram.client.errors import JobFailed, JobGone, JobRequestFailed
from protocol.messages import Extensions


def test_status_from_the_wire() -> None:
    extensions = Extensions(
        version="1", exit_code=3, failure_message="no route", failure_source="https://x/a"
    )
    status = JobStatus.from_wire(8, 0, extensions)
    assert (status.state, status.exit_code) == (JobState.DONE, 3)
    assert (status.ended, status.succeeded, status.gone) == (True, True, False)
    with pytest.raises(ValueError, match="5"):
        JobStatus.from_wire(5, 0, extensions)


def test_a_job_that_is_gone_did_not_succeed() -> None:
    status = JobStatus(None)
    assert (status.name, status.gone, status.ended, status.succeeded) == ("GONE", True, True, False)


def test_reason_names_what_was_handled() -> None:
    status = JobStatus(
        JobState.FAILED,
        ErrorCode.STAGE_IN_FAILED,
        failure_message="no route",
        failure_type="filestagein",
        failure_source="https://x/a",
        failure_destination="/home/a",
    )
    assert status.reason.endswith(
        "while handling filestagein from https://x/a to /home/a: no route"
    )
    assert JobStatus(JobState.FAILED, 999).reason == "error 999, unknown to this program"
    assert JobStatus(JobState.DONE).reason == ""


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        (JobState.FAILED, ErrorCode.JM_STOPPED, True),
        (JobState.FAILED, ErrorCode.USER_PROXY_EXPIRED, True),
        (JobState.FAILED, ErrorCode.USER_CANCELLED, False),
        (JobState.ACTIVE, ErrorCode.SUCCESS, False),
    ],
)
def test_unsupervised_jobs_go_on(state: JobState, code: ErrorCode, expected: bool) -> None:
    assert JobStatus(state, code).unsupervised is expected


def test_every_code_has_advice_or_needs_none() -> None:
    silent = {code for code in ErrorCode if not advice_for(code, Side.JOB)}
    assert silent == {ErrorCode.USER_CANCELLED}


def test_errors_carry_code_side_and_advice() -> None:
    error = JobRequestFailed(ErrorCode.BAD_RSL, "bad")
    assert (error.code, error.side, str(error)) == (48, Side.GATEKEEPER, "bad")
    assert "rsl check" in error.advice
    assert JobGone("x").code is ErrorCode.JOB_CONTACT_NOT_FOUND
    unknown = GramClientError(4711, "odd", Side.JOB_MANAGER)
    assert unknown.code is ErrorCode.PROTOCOL_FAILED


def test_check_of_a_result() -> None:
    def result(status: JobStatus) -> RunResult:
        return RunResult("https://h:1/2/", status, b"", b"")

    result(JobStatus(JobState.DONE, exit_code=0)).check()
    result(JobStatus(JobState.DONE)).check()
    for bad in (
        JobStatus(JobState.DONE, exit_code=1),
        JobStatus(JobState.FAILED, ErrorCode.BAD_DIRECTORY),
        JobStatus(None),
    ):
        with pytest.raises(JobFailed):
            result(bad).check()
