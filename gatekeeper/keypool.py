"""Keys for delegation, made in idle time (design §3.2).

An RSA key costs tens of milliseconds of a core, which would be most of the cost of a job request.
So a few are kept ready, made by one thread of low priority, and a key is used again for later
delegations of the same identity for a bounded time: the key never leaves the account that already
has it, so reuse tells nobody anything new (threat model: "delegation keys").
"""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from protocol.gsi.delegation import DelegationKey as PrivateKey
from protocol.gsi.delegation import generate_ec_key, generate_key, make_request

MAX_IDENTITIES = 10_000


@dataclass(frozen=True, slots=True, repr=False)
class DelegationKey:
    """A key with its certificate request (DER), and when it was first handed out."""

    key: PrivateKey
    request: bytes
    since: float


def _make(elliptic: bool) -> tuple[PrivateKey, bytes]:
    key: PrivateKey = generate_ec_key() if elliptic else generate_key()
    return key, make_request(key)


def _low_priority() -> None:
    """Linux lets a thread have its own nice value: key making must not delay requests."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class KeyPool:
    """Ready keys, and the key of each identity while it may be used again.

    `reuse`: seconds a key serves one identity, 0 for a new key each time. `size`: spare keys.
    """

    def __init__(
        self,
        *,
        reuse: float,
        size: int = 8,
        elliptic: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reuse = reuse
        self._size = size
        self._elliptic = elliptic
        self._clock = clock
        self._ready: asyncio.Queue[tuple[PrivateKey, bytes]] = asyncio.Queue(maxsize=size)
        self._used: OrderedDict[str, DelegationKey] = OrderedDict()
        self._executor = ThreadPoolExecutor(1, "delegation-keys", initializer=_low_priority)
        self._filler: asyncio.Task[None] | None = None
        self.refused_request = make_request(generate_ec_key())
        """What clients get that will be refused anyway: nobody keeps the key."""

    async def start(self) -> None:
        """Begin to fill the pool; returns when one key is ready."""
        self._filler = asyncio.create_task(self._fill(), name="delegation-keys")
        first = await self._ready.get()
        self._ready.put_nowait(first)

    async def get(self, identity: str) -> DelegationKey:
        """A key for a delegation by this identity."""
        now = self._clock()
        held = self._used.get(identity)
        if held is not None and now - held.since < self._reuse:
            return held
        key, request = await self._ready.get()
        fresh = DelegationKey(key, request, now)
        if self._reuse:
            self._used[identity] = fresh
            self._used.move_to_end(identity)
            if len(self._used) > MAX_IDENTITIES:
                self._used.popitem(last=False)
        return fresh

    async def aclose(self) -> None:
        """Stop making keys."""
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.gather(self._filler, return_exceptions=True)
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            made = await loop.run_in_executor(self._executor, _make, self._elliptic)
            await self._ready.put(made)
