"""Tells the service manager how we are (sd_notify)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send e.g. "READY=1" to the socket in $NOTIFY_SOCKET; whether it was sent.

    Without that variable, or without somebody at the other end, nothing happens: a service does
    not depend on who watches it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
    ):
        sock.sendto(state.encode(), address.replace("@", "\0", 1))
        return True
    return False
