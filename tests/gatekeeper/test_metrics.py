"""Metrics: what is counted, under which labels."""

import re

import pytest

from gatekeeper.decision import Reason
from gatekeeper.metrics import HANDSHAKE_FAILURES, Metrics
from protocol.gsi.refusal import Refusal
from protocol.tables import ErrorCode, JobState


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"gram_{name}", labels)


def series(metrics: Metrics) -> set[str]:
    text = metrics.exposition().decode()
    names = {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    return {name for name in names if name.startswith("gram_")}


def test_everything_exists_from_the_start() -> None:
    metrics = Metrics(["fork", "slurm"])
    assert value(metrics, "connections_total", outcome="served") == 0
    assert value(metrics, "requests_total", kind="job", result="ok") == 0
    assert value(metrics, "jobs", state="stage-in") == 0
    assert value(metrics, "lrm_failures_total", lrm="slurm", operation="submit") == 0
    assert value(metrics, "store_commit_seconds_count") == 0


def test_connections() -> None:
    metrics = Metrics()
    metrics.connection_opened()
    metrics.connection_opened()
    metrics.connection_closed()
    metrics.connection("served")
    metrics.connection("refused-limit")
    assert value(metrics, "open_connections") == 1
    assert value(metrics, "connections_total", outcome="served") == 1
    assert value(metrics, "connections_total", outcome="refused-limit") == 1


@pytest.mark.parametrize("refusal", Refusal)
def test_refusals_count_by_name_or_value(refusal: Refusal) -> None:
    metrics = Metrics()
    metrics.handshake_failed(refusal.name)
    metrics.handshake_failed(refusal.value)
    assert value(metrics, "handshake_failures_total", reason=refusal.value) == 2
    assert refusal.value in HANDSHAKE_FAILURES


def test_requests() -> None:
    metrics = Metrics()
    metrics.request("ping", "ok")
    metrics.request("job", "403")
    metrics.request("job", "gram-10")
    metrics.request("status", ErrorCode(10).name)
    metrics.request("status", "gram-99999")
    metrics.request("renew", "gram-x")
    metrics.denied(Reason.ROOT)
    assert value(metrics, "requests_total", kind="ping", result="ok") == 1
    assert value(metrics, "requests_total", kind="job", result="403") == 1
    assert value(metrics, "requests_total", kind="job", result="gram-error") == 1
    assert value(metrics, "requests_total", kind="status", result="gram-error") == 1
    assert value(metrics, "requests_total", kind="status", result="other") == 1
    code = ErrorCode(10).name.lower().replace("_", "-")
    assert value(metrics, "request_errors_total", code=code) == 2
    assert value(metrics, "authorisation_denials_total", reason="root") == 1


def test_jobs() -> None:
    metrics = Metrics()
    for state in JobState:
        metrics.job_added(state.name)
    metrics.transition("PENDING", "ACTIVE", 12.0)
    metrics.transition("ACTIVE", "ACTIVE", 5.0)
    metrics.transition("UNSUBMITTED", "STAGE_IN", -1.0)
    metrics.job_removed("DONE")
    assert value(metrics, "jobs", state="pending") == 0
    assert value(metrics, "jobs", state="active") == 2
    assert value(metrics, "jobs", state="stage-in") == 2
    assert value(metrics, "jobs", state="done") == 0
    assert value(metrics, "job_transitions_total", state="active") == 1
    assert value(metrics, "job_state_seconds_sum", state="pending") == 12
    assert value(metrics, "job_state_seconds_sum", state="unsubmitted") == 0


def test_effects() -> None:
    metrics = Metrics(["fork"])
    metrics.lrm_operation("fork", "submit", 0.5, failed=False)
    metrics.lrm_operation("fork", "cancel", 0.5, failed=True)
    metrics.callback("delivered", 0.25)
    metrics.commit(7, 0.125)
    operation = {"lrm": "fork", "operation": "submit"}
    assert value(metrics, "lrm_operation_seconds_count", **operation) == 1
    assert value(metrics, "lrm_failures_total", lrm="fork", operation="cancel") == 1
    assert value(metrics, "callback_seconds_sum", outcome="delivered") == 0.25
    assert value(metrics, "store_batch_size_sum") == 7
    assert value(metrics, "store_commit_seconds_sum") == 0.125


def test_queues_are_looked_at_when_asked() -> None:
    metrics = Metrics()
    waiting = [1, 2, 3]
    metrics.watch_queue("callbacks", lambda: len(waiting))
    assert value(metrics, "queue_length", queue="callbacks") == 0
    metrics.sample_queues()
    assert value(metrics, "queue_length", queue="callbacks") == 3


def test_no_value_makes_a_new_series() -> None:
    """Clients cannot fill the memory, and names of people do not get out."""
    metrics = Metrics(["fork"])
    before = series(metrics)
    for number in range(50):
        text = f"/O=Grid/CN=Canary {number}"
        metrics.connection(text)
        metrics.handshake_failed(text)
        metrics.request(text, text)
        metrics.job_added(text)
        metrics.transition(text, f"{text}x", 1.0)
        metrics.lrm_operation(text, text, 1.0, failed=True)
        metrics.callback(text, 1.0)
        metrics.watch_queue(text, lambda: 1)
    metrics.sample_queues()
    assert series(metrics) == before
    assert value(metrics, "requests_total", kind="other", result="other") == 50


def test_services_do_not_share_counts() -> None:
    first, second = Metrics(), Metrics()
    first.connection("served")
    assert value(second, "connections_total", outcome="served") == 0


def test_the_exposition_is_wellformed() -> None:
    metrics = Metrics(["fork"])
    text = metrics.exposition().decode()
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="[^"\\\n]*",?)+\})? [0-9.e+-]+(Inf)?')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line), line
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text
