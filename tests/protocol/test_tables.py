"""The tables of wire-protocol.md §6."""

from pathlib import Path

import pytest

from protocol import tables
from protocol.tables import ErrorCode, JobState, Signal

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol-tables.md"


def test_error_codes_are_0_to_168_without_a_gap() -> None:
    assert [code.value for code in ErrorCode] == list(range(169))


@pytest.mark.parametrize(
    ("number", "symbol"),
    [
        (0, "GLOBUS_SUCCESS"),
        (1, "GLOBUS_GRAM_PROTOCOL_ERROR_PARAMETER_NOT_SUPPORTED"),
        (7, "GLOBUS_GRAM_PROTOCOL_ERROR_AUTHORIZATION"),
        (29, "GLOBUS_GRAM_PROTOCOL_ERROR_USER_PROXY_NOT_FOUND"),
        (49, "GLOBUS_GRAM_PROTOCOL_ERROR_VERSION_MISMATCH"),
        (81, "GLOBUS_GRAM_PROTOCOL_ERROR_UNDEFINED_EXE"),
        (110, "GLOBUS_GRAM_PROTOCOL_ERROR_WAITING_FOR_COMMIT"),
        (135, "GLOBUS_GRAM_PROTOCOL_ERROR_STAGE_IN_FAILED"),
        (156, "GLOBUS_GRAM_PROTOCOL_ERROR_JOB_CONTACT_NOT_FOUND"),
        (167, "GLOBUS_GRAM_PROTOCOL_ERROR_INVALID_USER_NAME"),
        (168, "GLOBUS_GRAM_PROTOCOL_ERROR_LAST"),
    ],
)
def test_error_symbols(number: int, symbol: str) -> None:
    assert ErrorCode(number).symbol == symbol


def test_every_error_has_a_text_of_its_own() -> None:
    texts = [code.text for code in ErrorCode]
    assert all(texts)
    assert len(set(texts)) == len(texts)


def test_states() -> None:
    assert {state.name: state.value for state in JobState} == {
        "PENDING": 1,
        "ACTIVE": 2,
        "FAILED": 4,
        "DONE": 8,
        "SUSPENDED": 16,
        "UNSUBMITTED": 32,
        "STAGE_IN": 64,
        "STAGE_OUT": 128,
    }
    assert JobState.ACTIVE.symbol == "GLOBUS_GRAM_PROTOCOL_JOB_STATE_ACTIVE"
    assert [state for state in JobState if state.final] == [JobState.FAILED, JobState.DONE]
    assert tables.ALL_STATES == 1048575
    assert all(state & tables.ALL_STATES for state in JobState)


def test_state_names_are_those_of_globusrun() -> None:
    assert tables.state_name(64) == "STAGE_IN"
    assert tables.state_name(tables.NO_STATE) == "UNKNOWN JOB STATE 0"
    assert tables.state_name(3) == "UNKNOWN JOB STATE 3"


def test_signals() -> None:
    assert [signal.name for signal in Signal] == [
        "CANCEL",
        "SUSPEND",
        "RESUME",
        "PRIORITY",
        "COMMIT_REQUEST",
        "COMMIT_EXTEND",
        "STDIO_UPDATE",
        "STDIO_SIZE",
        "STOP_MANAGER",
        "COMMIT_END",
    ]
    assert [signal.value for signal in Signal] == list(range(1, 11))
    assert Signal.COMMIT_END.symbol == "GLOBUS_GRAM_PROTOCOL_JOB_SIGNAL_COMMIT_END"


def test_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == tables.markdown()
