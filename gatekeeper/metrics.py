"""What the service counts, for Prometheus.

Label values come from fixed sets, created at the start so that every series exists from the first
scrape; a value outside its set counts as "other".  No names of people, accounts or jobs are labels.
Methods may be called from any thread, but for `sample_queues`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from itertools import product
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from gatekeeper.decision import Reason
from protocol.gsi.refusal import Refusal
from protocol.tables import ErrorCode, JobState

OTHER = "other"


def _label(value: str) -> str:
    """Return how an enum member's name or value is written as a label: `stage-in`."""
    return value.lower().replace("_", "-")


def _names(members: type[Enum]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_label(member.name) for member in members))


CONNECTION_OUTCOMES = ("served", "no-request", "broken", "refused-limit")
HANDSHAKE_FAILURES = ("timeout", "protocol", *_names(Refusal))
GATEKEEPER_REQUESTS = ("ping", "version", "job", "malformed")
CONTACT_REQUESTS = ("status", "cancel", "signal", "register", "unregister", "renew", "unknown")
REQUEST_RESULTS = ("ok", "400", "403", "404", "500", "gram-error", "gone")
JOB_STATES = _names(JobState)
CALLBACK_OUTCOMES = ("delivered", "retried", "dropped")
LRM_OPERATIONS = ("submit", "find", "cancel", "suspend", "resume", "forget")

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_REMOTE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IN_STATE = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


class _Family(Generic[_Metric]):
    """A metric with labels whose values are fixed."""

    def __init__(self, metric: _Metric, *values: Iterable[str]) -> None:
        self._metric = metric
        self._values: tuple[tuple[str, ...], ...] = tuple((*each, OTHER) for each in values)
        for labels in product(*self._values):
            metric.labels(*labels)

    def of(self, *labels: str) -> _Metric:
        """Return the series of these labels; a value nobody declared is "other"."""
        known = (
            label if label in values else OTHER
            for label, values in zip(map(_label, labels), self._values, strict=True)
        )
        return self._metric.labels(*known)


class Metrics:
    """All metrics of one service, in a registry of their own.

    `lrms` are the names of the configured resource managers, `queues` those of `watch_queue`.
    """

    def __init__(
        self, lrms: Iterable[str] = (), queues: Iterable[str] = ("callbacks", "jobs")
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped there; drops series that nobody reads
        self.registry = CollectorRegistry()
        self._queues: dict[str, Callable[[], int]] = {}
        self._declare_front_door()
        self._declare_jobs()
        self._declare_effects(tuple(lrms), tuple(queues))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # --- the front door ---------------------------------------------------------------------------

    def _declare_front_door(self) -> None:
        self._open = Gauge("gram_open_connections", "Connections open now", registry=self.registry)
        self._connections = _Family(
            self._counter("connections", "Connections that ended, by outcome", "outcome"),
            CONNECTION_OUTCOMES,
        )
        self._handshakes = _Family(
            self._counter("handshake_failures", "Failed handshakes and refused chains", "reason"),
            HANDSHAKE_FAILURES,
        )
        self._requests = _Family(
            self._counter("requests", "Requests, by kind and result", "kind", "result"),
            (*GATEKEEPER_REQUESTS, *CONTACT_REQUESTS, "handshake"),
            REQUEST_RESULTS,
        )
        self._errors = _Family(
            self._counter("request_errors", "Requests answered with a GRAM error", "code"),
            _names(ErrorCode),
        )
        self._denials = _Family(
            self._counter("authorisation_denials", "Requests denied an account", "reason"),
            (reason.value for reason in Reason),
        )

    def connection_opened(self) -> None:
        """A connection was accepted and may go on."""
        self._open.inc()

    def connection_closed(self) -> None:
        """A connection that was opened is over."""
        self._open.dec()

    def connection(self, outcome: str) -> None:
        """A connection ended, or was refused: one of CONNECTION_OUTCOMES."""
        self._connections.of(outcome).inc()

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed, or the chain it brought was refused: one of HANDSHAKE_FAILURES."""
        self._handshakes.of(reason).inc()

    def request(self, kind: str, result: str) -> None:
        """A request was answered.

        `result` is one of REQUEST_RESULTS, `gram-N` with an error number or an ErrorCode's name.
        """
        code = _error_code(result)
        if code is not None:
            self._errors.of(code.name).inc()
            result = "gram-error"
        self._requests.of(kind, result).inc()

    def denied(self, reason: Reason) -> None:
        """A request was denied an account."""
        self._denials.of(reason.value).inc()

    # --- jobs -------------------------------------------------------------------------------------

    def _declare_jobs(self) -> None:
        gauge = Gauge("gram_jobs", "Jobs known, by state", ["state"], registry=self.registry)
        self._job_states = _Family(gauge, JOB_STATES)
        self._transitions = _Family(
            self._counter("job_transitions", "State changes, by the state entered", "state"),
            JOB_STATES,
        )
        self._in_state = _Family(
            self._histogram("job_state_seconds", "Time jobs spent in a state", _IN_STATE, "state"),
            JOB_STATES,
        )

    def job_added(self, state: str) -> None:
        """A job came into being, or was found at the start, in that state."""
        self._job_states.of(state).inc()

    def job_removed(self, state: str) -> None:
        """A job was forgotten in that state."""
        self._job_states.of(state).dec()

    def transition(self, before: str, after: str, seconds: float) -> None:
        """A job left a state after so many seconds."""
        if _label(before) == _label(after):
            return
        self._job_states.of(before).dec()
        self._job_states.of(after).inc()
        self._transitions.of(after).inc()
        self._in_state.of(before).observe(max(seconds, 0.0))

    # --- what jobs cause --------------------------------------------------------------------------

    def _declare_effects(self, lrms: tuple[str, ...], queues: tuple[str, ...]) -> None:
        self._operations = _Family(
            self._histogram(
                "lrm_operation_seconds", "Resource manager calls", _REMOTE, "lrm", "operation"
            ),
            lrms,
            LRM_OPERATIONS,
        )
        self._operation_failures = _Family(
            self._counter("lrm_failures", "Failed resource manager calls", "lrm", "operation"),
            lrms,
            LRM_OPERATIONS,
        )
        self._callbacks = _Family(
            self._histogram("callback_seconds", "Attempts to call back", _REMOTE, "outcome"),
            CALLBACK_OUTCOMES,
        )
        self._commits = self._histogram("store_commit_seconds", "Database commits", _FAST)
        self._batches = self._histogram("store_batch_size", "Changes in one commit", _BATCH)
        gauge = Gauge(
            "gram_queue_length", "What waits, by queue", ["queue"], registry=self.registry
        )
        self._lengths = _Family(gauge, queues)

    def lrm_operation(self, lrm: str, operation: str, seconds: float, *, failed: bool) -> None:
        """A resource manager was called: one of LRM_OPERATIONS."""
        self._operations.of(lrm, operation).observe(seconds)
        if failed:
            self._operation_failures.of(lrm, operation).inc()

    def callback(self, outcome: str, seconds: float) -> None:
        """A callback was tried: one of CALLBACK_OUTCOMES."""
        self._callbacks.of(outcome).observe(seconds)

    def commit(self, changes: int, seconds: float) -> None:
        """The store committed so many changes in one transaction."""
        self._batches.observe(changes)
        self._commits.observe(seconds)

    def watch_queue(self, name: str, length: Callable[[], int]) -> None:
        """Ask `length` how long a queue is whenever metrics are read."""
        self._queues[name] = length

    # --- reading ----------------------------------------------------------------------------------

    def sample_queues(self) -> None:
        """Take the lengths of the watched queues.  Call it where the queues live."""
        for name, length in self._queues.items():
            self._lengths.of(name).set(length())

    def exposition(self) -> bytes:
        """Return everything in Prometheus's text format.  Blocks for a few milliseconds."""
        return generate_latest(self.registry)

    # --- declaring --------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gram_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"gram_{name}", text, labels, buckets=buckets, registry=self.registry)


def _error_code(result: str) -> ErrorCode | None:
    with suppress(ValueError):  # a number nobody defined
        if result.startswith("gram-"):
            return ErrorCode(int(result.removeprefix("gram-")))
    return ErrorCode.__members__.get(result)
