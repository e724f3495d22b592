"""A small single-threaded event loop: channels, plain descriptors, signals and timers.

Shared by the spawner and its shepherds.  A fork makes its own loop and never touches the inherited
one: an epoll set is shared over fork.
"""

import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType

from .channel import Channel, Packet, close_all

_LONGEST_SLEEP = 86400.0  # epoll cannot count much further


class Loop:
    """Calls back one thing at a time; `run` returns after `stop`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = True

    def run(self) -> None:
        """Serve until `stop`."""
        while self._running:
            for key, mask in self._selector.select(self._delay()):
                current = self._selector.get_map().get(key.fd)
                if current is not None and current.data is key.data:  # not gone in this round
                    current.data(mask)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def _delay(self) -> float:
        if not self._timers:
            return _LONGEST_SLEEP
        return min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_SLEEP)

    def stop(self) -> None:
        """Let `run` return after the current round."""
        self._running = False

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back once, after `delay` seconds; cannot be taken back."""
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), callback))

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call back whenever the descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, lambda _: on_readable())

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; has to come before the descriptor is closed."""
        self._selector.unregister(descriptor)

    def on_signals(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """Call back after these signals (several of one kind may come as one)."""
        reader, self._waker = socket.socketpair()
        reader.setblocking(False)
        self._waker.setblocking(False)
        for signum in handlers:
            signal.signal(signum, _wake_only)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

        def dispatch() -> None:
            for signum in set(reader.recv(4096)):
                handlers[signum]()

        self.watch(reader.fileno(), dispatch)

    def attach(
        self,
        sock: socket.socket,
        on_packet: Callable[[Packet], None],
        on_closed: Callable[[], None],
        *,
        backpressure: bool = False,
    ) -> Channel:
        """Serve a connection; with `backpressure` nothing is read while answers pile up.

        The descriptors of a packet are closed when `on_packet` returns.
        """
        blocked = selectors.EVENT_WRITE | (0 if backpressure else selectors.EVENT_READ)

        def ready(mask: int) -> None:
            if mask & selectors.EVENT_WRITE and channel.flush():
                self._selector.modify(channel, selectors.EVENT_READ, ready)
            if mask & selectors.EVENT_READ:
                try:
                    packets = channel.receive()
                except EOFError:
                    self.detach(channel)
                    on_closed()
                    return
                for packet in packets:
                    on_packet(packet)
                    close_all(packet.descriptors)

        def wait(blocked_channel: Channel) -> None:
            self._selector.modify(blocked_channel, blocked, ready)

        channel = Channel(sock, wait)
        self._selector.register(channel, selectors.EVENT_READ, ready)
        return channel

    def detach(self, channel: Channel) -> None:
        """Stop serving and close; nothing happens when that is done already."""
        if channel.fileno() >= 0:
            self._selector.unregister(channel)
            channel.close()


def _wake_only(_signum: int, _frame: FrameType | None) -> None:
    """The byte on the wake-up descriptor is all that is wanted."""
