"""Slots are given in order and never overbooked."""

from hypothesis import given
from hypothesis import strategies as st

from jobmanager.queue import SlotQueue


def test_without_limit_everybody_runs() -> None:
    queue = SlotQueue()
    assert all(queue.take(str(n)) for n in range(100))


def test_the_longest_waiting_job_inherits_the_slot() -> None:
    queue = SlotQueue(1)
    assert queue.take("a")
    assert not queue.take("b")
    assert not queue.take("c")
    assert queue.release("a") == "b"
    assert not queue.take("d")
    assert queue.take("b")
    assert queue.release("b") == "c"


def test_a_cancelled_waiting_job_leaves_the_queue() -> None:
    queue = SlotQueue(1)
    queue.take("a")
    queue.take("b")
    assert queue.release("b") is None
    assert queue.release("a") is None
    assert (queue.running, queue.waiting) == (0, 0)


def test_recovered_jobs_may_exceed_a_lowered_limit() -> None:
    queue = SlotQueue(1)
    queue.hold("a")
    queue.hold("b")
    assert not queue.take("c")
    assert queue.release("a") is None
    assert queue.release("b") == "c"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))), st.integers(1, 3))
def test_never_more_than_the_limit(steps: list[tuple[bool, int]], limit: int) -> None:
    queue = SlotQueue(limit)
    for take, job in steps:
        if take:
            queue.take(str(job))
        else:
            queue.release(str(job))
        assert queue.running <= limit
        assert not queue.waiting or queue.running == limit
