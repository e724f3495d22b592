"""The transition table is complete and sound."""

import pytest

from jobmanager.states import (
    BEFORE_LRM,
    ENDED,
    IN_LRM,
    QUIET,
    TRANSITIONS,
    WORKING,
    Event,
    Phase,
    TransitionError,
    follow,
    mermaid,
)
from protocol.tables import JobState


def reachable(start: Phase) -> set[Phase]:
    seen, todo = set(), [start]
    while todo:
        phase = todo.pop()
        if phase not in seen:
            seen.add(phase)
            todo += [step.phase for step in TRANSITIONS[phase].values()]
    return seen


def test_every_phase_has_a_row_and_is_reachable() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert reachable(Phase.UNCOMMITTED) == set(Phase)
    assert reachable(Phase.STAGE_IN) == set(Phase) - {Phase.UNCOMMITTED}


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.FINISHED])
def test_every_phase_can_still_finish(phase: Phase) -> None:
    assert Phase.FINISHED in reachable(phase)


def test_final_states_are_never_left() -> None:
    for phase in ENDED:
        for step in TRANSITIONS[phase].values():
            assert step.state is None
    assert TRANSITIONS[Phase.FINISHED] == {}
    assert {step.state for step in TRANSITIONS[Phase.CLEAN_UP].values()} == {None}


def test_failed_is_shown_exactly_when_the_phase_is_failed() -> None:
    for row in TRANSITIONS.values():
        for step in row.values():
            if step.state is JobState.FAILED:
                assert step.phase is Phase.FAILED
            if step.phase is Phase.FAILED and step.state is not None:
                assert step.state is JobState.FAILED


def test_every_phase_before_the_end_can_be_failed_by_an_error() -> None:
    for phase in BEFORE_LRM | IN_LRM | {Phase.SUBMIT, Phase.CANCELLING, Phase.STAGE_OUT}:
        assert TRANSITIONS[phase][Event.ERROR].phase is Phase.FAILED


def test_quiet_events_show_nothing_to_clients() -> None:
    for row in TRANSITIONS.values():
        for event in QUIET & set(row):
            assert row[event].state is None


def test_phases_without_effect_wait_for_somebody() -> None:
    assert set(Phase) - WORKING == IN_LRM | {Phase.UNCOMMITTED, Phase.FINISHED}


def test_unknown_event_is_refused() -> None:
    with pytest.raises(TransitionError, match=r"finished.*cancel"):
        follow(Phase.FINISHED, Event.CANCEL)


def test_diagram_has_every_row() -> None:
    rows = sum(len(row) for row in TRANSITIONS.values())
    assert mermaid().count(" --> ") == rows + 3
