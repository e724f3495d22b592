"""Delegation keys: reuse for one identity, never shared between two, a bounded memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gatekeeper import keypool as module
from gatekeeper.keypool import KeyPool

ALICE, BOB = "/CN=Alice", "/CN=Bob"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pool(clock: Clock) -> AsyncIterator[KeyPool]:
    made = KeyPool(reuse=3600, size=2, elliptic=True, clock=clock)
    await made.start()
    yield made
    await made.aclose()


async def test_a_key_is_used_again_for_its_time(pool: KeyPool, clock: Clock) -> None:
    first = await pool.get(ALICE)
    clock.now = 3599.9
    assert await pool.get(ALICE) is first
    clock.now = 3600
    second = await pool.get(ALICE)
    assert second.request != first.request
    assert await pool.get(ALICE) is second


async def test_two_identities_never_share_a_key(pool: KeyPool) -> None:
    keys = [await pool.get(f"/CN={n % 5}") for n in range(20)]
    assert len({key.request for key in keys}) == 5
    assert keys[0] is keys[5]


async def test_without_reuse_every_key_is_new() -> None:
    pool = KeyPool(reuse=0, size=2, elliptic=True)
    await pool.start()
    requests = {(await pool.get(ALICE)).request for _ in range(8)}
    assert len(requests) == 8
    assert not pool._used
    await pool.aclose()


async def test_the_memory_is_bounded(pool: KeyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDENTITIES", 3)
    first = await pool.get(ALICE)
    for number in range(3):
        await pool.get(f"/CN={number}")
    assert len(pool._used) == 3
    assert await pool.get(ALICE) is not first


async def test_many_at_once_all_get_one(pool: KeyPool) -> None:
    async with asyncio.timeout(20):
        keys = await asyncio.gather(*(pool.get(f"/CN={n}") for n in range(30)))
    assert len({key.request for key in keys}) == 30


async def test_a_waiting_client_that_leaves_loses_no_key(pool: KeyPool) -> None:
    waiting = [asyncio.create_task(pool.get(f"/CN={n}")) for n in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(20):
        await pool.get(BOB)


async def test_kind_and_silence(pool: KeyPool) -> None:
    key = await pool.get(ALICE)
    assert isinstance(key.key, ec.EllipticCurvePrivateKey)
    assert "key=" not in repr(key)
    assert (await pool.get(BOB)).request != pool.refused_request
