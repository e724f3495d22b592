"""The spawner's channel (frames and descriptors over a socket) on an asyncio loop."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from jobmanager.spawner.channel import Channel, Packet
from jobmanager.spawner.codec import Frame


class Link:
    """One end of a connection; must be made and used in the running loop.

    `on_packet` gets every frame (its descriptors become the callee's to close), `on_closed` is
    called once when the peer has gone or `close` was called.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_packet: Callable[[Packet], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_packet = on_packet
        self._on_closed = on_closed
        self._channel = Channel(sock, self._blocked)
        self._loop.add_reader(self._channel.fileno(), self._readable)

    @property
    def closed(self) -> bool:
        """Whether nothing more comes or goes."""
        return self._channel.fileno() < 0

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """Send or queue a frame; duplicates of the descriptors travel with it.

        Raises FrameError when it is too long, OSError when there are too many descriptors.
        """
        if not self.closed:
            self._channel.send(frame, descriptors)

    def close(self) -> None:
        """Close the connection now."""
        if self.closed:
            return
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        self._on_closed()

    def _readable(self) -> None:
        try:
            packets = self._channel.receive()
        except EOFError:
            self.close()
            return
        for packet in packets:
            self._on_packet(packet)

    def _blocked(self, channel: Channel) -> None:
        self._loop.add_writer(channel.fileno(), self._writable)

    def _writable(self) -> None:
        if self._channel.flush():
            self._loop.remove_writer(self._channel.fileno())
