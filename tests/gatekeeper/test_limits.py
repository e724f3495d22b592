"""Caps and rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.limits import ConnectionLimits, TokenBuckets, address_key
from gatekeeper.units import Rate

A, B = "192.0.2.1", "192.0.2.2"


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
)
def test_what_counts_as_one_client(address: str, key: str) -> None:
    assert address_key(address) == key


def test_connections_of_one_address_are_capped() -> None:
    limits = ConnectionLimits(10, 2)
    assert [limits.enter(A), limits.enter(f"::ffff:{A}"), limits.enter(A)] == [True, True, False]
    assert limits.enter(B)
    limits.leave(A)
    assert limits.enter(A)
    assert not limits.enter(A)


def test_a_full_house_admits_nobody_until_somebody_leaves() -> None:
    limits = ConnectionLimits(3, 2)
    assert all(limits.enter(address) for address in (A, A, B))
    assert limits.open == 3
    assert not limits.enter("192.0.2.3")
    limits.leave(B)
    assert limits.enter("192.0.2.3")


def test_an_attacker_leaves_room_for_others() -> None:
    limits = ConnectionLimits(1024, 256)
    assert sum(limits.enter(A) for _ in range(500)) == 256
    assert limits.enter(B)


def test_only_who_entered_can_leave() -> None:
    limits = ConnectionLimits(3, 2)
    with pytest.raises(ValueError, match="no connection"):
        limits.leave(A)
    limits.enter(A)
    limits.leave(A)
    with pytest.raises(ValueError, match="no connection"):
        limits.leave(A)
    assert limits.open == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from((A, B, "::1", "x"))), max_size=60))
def test_caps_hold_whatever_happens(steps: list[tuple[bool, str]]) -> None:
    limits = ConnectionLimits(5, 3)
    there: dict[str, int] = {}
    for enters, address in steps:
        if enters:
            admitted = limits.enter(address)
            full = sum(there.values()) == 5 or there.get(address, 0) == 3
            assert admitted is not full
            there[address] = there.get(address, 0) + admitted
        elif there.get(address):
            limits.leave(address)
            there[address] -= 1
        assert limits.open == sum(there.values())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_connects_only_so_often() -> None:
    clock = Clock()
    limits = ConnectionLimits(100, 100, connection_rate=Rate(60, 60), clock=clock)
    assert sum(limits.enter(A) for _ in range(70)) == 60
    assert limits.enter(B)
    clock.now = 1.5
    assert [limits.enter(A), limits.enter(A)] == [True, False]


def test_an_address_that_fails_too_often_is_shut_out_for_a_while() -> None:
    clock = Clock()
    limits = ConnectionLimits(100, 100, failure_rate=Rate(3, 60), clock=clock)
    for _ in range(5):
        limits.failed(A)
    assert not limits.enter(A)
    assert limits.enter(B)
    clock.now = 20.5
    assert limits.enter(A)
    limits.failed(A)
    assert not limits.enter(A)


def test_refused_connections_cost_nothing() -> None:
    """Who is refused for a cap spends no token, who is refused for a rate holds no place."""
    clock = Clock()
    limits = ConnectionLimits(1, 1, connection_rate=Rate(2, 3600), clock=clock)
    assert limits.enter(A)
    assert not any(limits.enter(A) for _ in range(5))
    limits.leave(A)
    assert limits.enter(A)
    limits.leave(A)
    assert not limits.enter(A)
    assert limits.open == 0


def test_buckets_fill_at_their_rate() -> None:
    buckets = TokenBuckets(Rate(2, 1))
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert not buckets.take("a", 0.4)
    assert buckets.take("a", 0.5)
    assert not buckets.take("a", 0.6)
    assert [buckets.take("a", 100.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 0.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = TokenBuckets(Rate(1, 1))
    assert buckets.take("a", 1000.0)
    assert not buckets.take("a", 0.0)
    assert not buckets.take("a", 999.5)


def test_without_a_rate_nothing_is_limited_or_remembered() -> None:
    buckets = TokenBuckets(None)
    assert all(buckets.take(str(number), 0.0) for number in range(1000))
    buckets.charge("a", 0.0)
    assert buckets.allows("a", 0.0)
    assert len(buckets) == 0


def test_memory_is_bounded_and_the_least_recent_is_forgotten() -> None:
    buckets = TokenBuckets(Rate(1, 3600), max_keys=3)
    for key in ("a", "b", "c"):
        assert buckets.take(key, 0.0)
    buckets.charge("a", 1.0)  # a is now the most recent
    assert buckets.take("d", 2.0)
    assert len(buckets) == 3
    assert not buckets.allows("a", 3.0)
    assert buckets.allows("b", 3.0)
    for number in range(1000):
        buckets.take(str(number), 4.0)
    assert len(buckets) == 3


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_never_more_than_the_rate_allows(gaps: list[float]) -> None:
    buckets = TokenBuckets(Rate(5, 1))
    now, taken = 0.0, 0
    for gap in gaps:
        now += gap
        taken += buckets.take("a", now)
    assert taken <= 5 + 5 * (now - gaps[0]) + 1e-6
