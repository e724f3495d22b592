"""Values with units in the configuration: durations, sizes, rates, addresses and port ranges.

Every `parse_*` function takes what TOML gives (usually `str`) and raises `ValueError` with a
message that says what is wrong and what is allowed.  Every value prints back as it may be written.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta

_DURATION_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_SIZE_UNITS = {
    "TiB": 2**40,
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "B": 1,
}
_RATE_UNITS = {"s": 1, "min": 60, "h": 3600}
_QUANTITY = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)")
_LONGEST = timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """Read "30s", "1.5h", "7d"; a bare 0 is allowed, other bare numbers are not."""
    if value in (0, "0") and not isinstance(value, bool):
        return timedelta()
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError("not a duration; write a number and a unit (ms, s, m, h, d, w): 30s, 7d")
    try:
        duration = float(match[1]) * _DURATION_UNITS[match[2]]
    except OverflowError:
        duration = timedelta.max
    if duration > _LONGEST:
        raise ValueError("the duration is longer than 100 years")
    return duration


def format_duration(value: timedelta) -> str:
    """Print a duration in the largest unit that leaves a whole number."""
    for name in ("d", "h", "m", "s", "ms"):
        unit = _DURATION_UNITS[name]
        if value and value % unit == timedelta():
            return f"{value // unit}{name}"
    return f"{value.total_seconds():g}s" if value else "0s"


def parse_size(value: object) -> int:
    """Read "10MiB", "4kB" or a whole number of bytes; return bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZE_UNITS:
        units = ", ".join(reversed(_SIZE_UNITS))
        raise ValueError(f"not a size; write bytes, or a number and a unit ({units}): 10MiB")
    return round(float(match[1]) * _SIZE_UNITS[match[2]])


def format_size(value: int) -> str:
    """Print bytes in the largest binary unit that leaves a whole number."""
    for name in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _SIZE_UNITS[name] == 0:
            return f"{value // _SIZE_UNITS[name]}{name}"
    return f"{value}B"


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` events in each `seconds`; `count` is also how many may come at once."""

    count: int
    seconds: int

    @property
    def per_second(self) -> float:
        """The sustained rate, events a second."""
        return self.count / self.seconds

    def __str__(self) -> str:
        unit = next(name for name, seconds in _RATE_UNITS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"


def parse_rate(value: object) -> Rate | None:
    """Read "50/s", "600/min", "1000/h"; "off" is None, no limit."""
    if value == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(s|min|h)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('not a rate; write 50/s, 600/min or 1000/h, or "off" for no limit')
    return Rate(int(match[1]), _RATE_UNITS[match[2]])


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a listener binds: an address or host name, and a port (0 = any free port)."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it: a loopback address, or "localhost"."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def parse_listen(value: object) -> ListenAddress:
    """Read "host:port" or "[address]:port"; port 0 means any free port."""
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65_535:
        raise ValueError('not an address; write "[::]:2119", "127.0.0.1:2119" or "name:2119"')
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise ValueError(f"not an IPv6 address in brackets: {error}") from error
    return ListenAddress(match[1] or match[2], int(match[3]))


def parse_optional_listen(value: object) -> ListenAddress | None:
    """Read an address as `parse_listen` does; "off" is None."""
    return None if value == "off" else parse_listen(value)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def ports(self) -> range:
        """The ports, ascending."""
        return range(self.first, self.last + 1)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_port_range(value: object) -> PortRange:
    """Read "20000-20999"."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= 65_535:
        raise ValueError('not a port range; write "20000-20999", ports from 1 to 65535')
    return PortRange(int(match[1]), int(match[2]))
