"""Whether the service is ready for clients."""

from __future__ import annotations

from typing import Protocol


class HealthSource(Protocol):
    """What the HTTP side asks."""

    @property
    def version(self) -> str:
        """The version of the service."""

    def not_ready(self) -> tuple[str, ...]:
        """Return why clients should not come now, for people; empty when they should."""


class Health:
    """A health source that is told: starting at first, then ready, then stopping.

    A part in trouble (`trouble`) makes the service not ready until it is cleared.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self._phase: str | None = "the service is starting"
        self._troubles: dict[str, str] = {}

    def ready(self) -> None:
        """Connections are accepted."""
        self._phase = None

    def stopping(self) -> None:
        """The service ends."""
        self._phase = "the service is stopping"

    def trouble(self, part: str, text: str | None) -> None:
        """Say what is wrong with a part of the service; None clears it."""
        if text is None:
            self._troubles.pop(part, None)
        else:
            self._troubles[part] = text

    def not_ready(self) -> tuple[str, ...]:
        """Return why clients should not come now; empty when they should."""
        phase = () if self._phase is None else (self._phase,)
        return (*phase, *(f"{part}: {text}" for part, text in self._troubles.items()))
