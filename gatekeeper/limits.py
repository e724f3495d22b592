"""How much one client, and all of them, may have at once (gatekeeper.md 17).

Pure: clocks are passed in, in seconds of any steady clock.  Memory is bounded: counters of
open connections by their limit, token buckets by a number of keys of which the least recently used
is forgotten.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatekeeper.units import Rate

MAX_KEYS = 10_000


def address_key(address: str) -> str:
    """Return what counts as one client: an IPv4 address, an IPv6 /64 network, or the text itself.

    An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


class TokenBuckets:
    """One token bucket for each key: `rate.count` at once, `rate.per_second` in the long run.

    Without a rate everything is allowed and nothing is remembered.
    """

    def __init__(self, rate: Rate | None, *, max_keys: int = MAX_KEYS) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> bool:
        """Take a token; False when there is none."""
        return self._withdraw(key, now, needed=1.0)

    def charge(self, key: str, now: float) -> None:
        """Take a token for what already happened, as far as there is one."""
        self._withdraw(key, now, needed=0.0)

    def allows(self, key: str, now: float) -> bool:
        """Whether there is a token; takes none."""
        return self._rate is None or self._tokens(self._rate, key, now) >= 1.0

    def _withdraw(self, key: str, now: float, *, needed: float) -> bool:
        if self._rate is None:
            return True
        tokens = self._tokens(self._rate, key, now)
        if tokens < needed:
            return False
        self._buckets[key] = (max(tokens - 1.0, 0.0), now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return True

    def _tokens(self, rate: Rate, key: str, now: float) -> float:
        """Return the tokens of a key now; a clock that went back fills nothing."""
        tokens, since = self._buckets.get(key, (float(rate.count), now))
        return min(float(rate.count), tokens + max(now - since, 0.0) * rate.per_second)


class ConnectionLimits:
    """Who may connect: caps on open connections, for all and for each address, and rates.

    `connection_rate` bounds how often an address connects, `failure_rate` how often it fails in
    the handshake (report that with `failed`).  None is no limit.
    """

    def __init__(
        self,
        total: int,
        per_address: int,
        *,
        connection_rate: Rate | None = None,
        failure_rate: Rate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._per_address = per_address
        self._connections = TokenBuckets(connection_rate)
        self._failures = TokenBuckets(failure_rate)
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._count = 0

    @property
    def open(self) -> int:
        """Connections open now."""
        return self._count

    def enter(self, address: str) -> bool:
        """Count a connection in; False, and nothing is open, when the address may not have it."""
        key = address_key(address)
        now = self._clock()
        if (
            self._count >= self._total
            or self._open.get(key, 0) >= self._per_address
            or not self._failures.allows(key, now)
            or not self._connections.take(key, now)
        ):
            return False
        self._open[key] += 1
        self._count += 1
        return True

    def leave(self, address: str) -> None:
        """Count out a connection that `enter` counted in.  Raises ValueError if it did not."""
        key = address_key(address)
        if key not in self._open:
            raise ValueError(f"{address} has no connection")
        self._count -= 1
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def failed(self, address: str) -> None:
        """Count a failed handshake."""
        self._failures.charge(address_key(address), self._clock())
