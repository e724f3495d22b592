"""Reads one message of an exchange from a stream."""

from protocol.aio.stream import SecureStream
from protocol.connection import NEED_DATA, Connection, Event


async def read_message(stream: SecureStream, connection: Connection) -> Event | None:
    """The other side's message; None when a client left before it sent one.

    Raises RemoteProtocolError as `Connection.next_event`, and what `receive` raises.
    """
    while (event := connection.next_event()) is NEED_DATA:
        data = await stream.receive()
        connection.receive_data(data)
        if not data:
            event = connection.next_event()
            return None if event is NEED_DATA else event
    return event
