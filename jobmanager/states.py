"""The life of a job as a table (job-manager.md §2.2, wire-protocol.md §7).

A job is in one *phase*; something that happens is an *event*; the table says which phase follows
and which protocol state the client sees from then on. Everything else in this package either causes
events (LRM, client, timers) or carries out what a phase demands (staging, submitting, cleaning up).

A phase whose effect is `True` in `WORKING` has work to do by itself: the job manager runs it and
turns its result into the next event. In all other phases the job waits and costs nothing.
Because effects can be repeated after a crash, a phase is entered before its effect runs.
"""

from dataclasses import dataclass
from enum import StrEnum

from protocol.tables import JobState


class Phase(StrEnum):
    """Where a job is; stored, so the values must not change."""

    UNCOMMITTED = "uncommitted"
    STAGE_IN = "stage-in"
    QUEUED = "queued"
    SUBMIT = "submit"
    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CANCELLING = "cancelling"
    STAGE_OUT = "stage-out"
    DONE = "done"
    FAILED = "failed"
    CLEAN_UP = "clean-up"
    FINISHED = "finished"


class Event(StrEnum):
    """What can happen to a job."""

    COMMITTED = "committed"
    COMMIT_TIMED_OUT = "commit-timed-out"
    CANCEL = "cancel"
    STAGING = "staging"
    STAGED = "staged"
    MUST_WAIT = "must-wait"
    SLOT = "slot"
    SUBMITTED = "submitted"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    ENDED = "ended"
    CANCELLED = "cancelled"
    CANCEL_REFUSED = "cancel-refused"
    DELIVERED = "delivered"
    ERROR = "error"
    PARKED = "parked"
    COMMIT_ENDED = "commit-ended"
    CLEANED = "cleaned"


@dataclass(frozen=True, slots=True)
class Step:
    """One row: the phase that follows, and the protocol state it shows (None: as before)."""

    phase: Phase
    state: JobState | None = None


_FAIL = Step(Phase.FAILED, JobState.FAILED)
_RUNNING: dict[Event, Step] = {
    Event.STARTED: Step(Phase.ACTIVE, JobState.ACTIVE),
    Event.SUSPENDED: Step(Phase.SUSPENDED, JobState.SUSPENDED),
    Event.RESUMED: Step(Phase.ACTIVE, JobState.ACTIVE),
    Event.ENDED: Step(Phase.STAGE_OUT),
    Event.CANCEL: Step(Phase.CANCELLING),
    Event.ERROR: _FAIL,
}
_ENDED: dict[Event, Step] = {
    Event.COMMIT_ENDED: Step(Phase.CLEAN_UP),
}

TRANSITIONS: dict[Phase, dict[Event, Step]] = {
    Phase.UNCOMMITTED: {
        Event.COMMITTED: Step(Phase.STAGE_IN),
        Event.COMMIT_TIMED_OUT: _FAIL,
        Event.CANCEL: _FAIL,
        Event.ERROR: _FAIL,
    },
    Phase.STAGE_IN: {
        Event.STAGING: Step(Phase.STAGE_IN, JobState.STAGE_IN),
        Event.STAGED: Step(Phase.QUEUED),
        Event.CANCEL: _FAIL,
        Event.ERROR: _FAIL,
    },
    Phase.QUEUED: {
        Event.MUST_WAIT: Step(Phase.QUEUED, JobState.PENDING),
        Event.SLOT: Step(Phase.SUBMIT),
        Event.CANCEL: _FAIL,
        Event.ERROR: _FAIL,
    },
    Phase.SUBMIT: {
        Event.SUBMITTED: Step(Phase.PENDING, JobState.PENDING),
        Event.STARTED: Step(Phase.ACTIVE, JobState.ACTIVE),
        Event.ERROR: _FAIL,
    },
    Phase.PENDING: _RUNNING,
    Phase.ACTIVE: _RUNNING,
    Phase.SUSPENDED: _RUNNING,
    Phase.CANCELLING: {
        Event.CANCELLED: _FAIL,
        Event.CANCEL_REFUSED: Step(Phase.ACTIVE),
        Event.ERROR: _FAIL,
    },
    Phase.STAGE_OUT: {
        Event.STAGING: Step(Phase.STAGE_OUT, JobState.STAGE_OUT),
        Event.DELIVERED: Step(Phase.DONE, JobState.DONE),
        Event.ERROR: _FAIL,
    },
    Phase.DONE: {**_ENDED, Event.PARKED: Step(Phase.DONE)},
    Phase.FAILED: {**_ENDED, Event.PARKED: Step(Phase.FAILED)},
    Phase.CLEAN_UP: {Event.CLEANED: Step(Phase.FINISHED)},
    Phase.FINISHED: {},
}

WORKING = frozenset(
    {
        Phase.STAGE_IN,
        Phase.QUEUED,
        Phase.SUBMIT,
        Phase.CANCELLING,
        Phase.STAGE_OUT,
        Phase.DONE,
        Phase.FAILED,
        Phase.CLEAN_UP,
    }
)
"""Phases with an effect of their own; QUEUED, DONE and FAILED may find that they must wait."""

BEFORE_LRM = frozenset({Phase.UNCOMMITTED, Phase.STAGE_IN, Phase.QUEUED})
IN_LRM = frozenset({Phase.PENDING, Phase.ACTIVE, Phase.SUSPENDED})
QUIET = frozenset({Event.STAGED, Event.SLOT, Event.ENDED, Event.COMMIT_ENDED})
"""Events that only lead on to work: stored together with the next one. A crash in between merely
repeats them (staging is idempotent, the exit record stays until the job is cleaned up)."""
ENDED = frozenset({Phase.DONE, Phase.FAILED})
"""Reported as finished; with two-phase commit waiting for COMMIT_END."""


class TransitionError(Exception):
    """An event that the phase does not know: a bug in this program, never a client's fault."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"a job in phase {phase} cannot take the event {event}")
        self.phase = phase
        self.event = event


def follow(phase: Phase, event: Event) -> Step:
    """The row of the table for this event; raises TransitionError when there is none."""
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise TransitionError(phase, event) from None


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> uncommitted: two_phase", "    [*] --> stage_in"]
    for phase, row in TRANSITIONS.items():
        for event, step in row.items():
            shown = f" / {step.state.name}" if step.state is not None else ""
            source, target = (name.replace("-", "_") for name in (phase, step.phase))
            lines.append(f"    {source} --> {target}: {event}{shown}")
    lines.append("    finished --> [*]")
    return "\n".join(lines) + "\n"
