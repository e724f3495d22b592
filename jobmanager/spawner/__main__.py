"""`python -I -m jobmanager.spawner DESCRIPTOR`: serve the socket with that number."""

import gc
import os
import resource
import signal
import socket
import sys

from .spawner import Spawner


def main() -> None:
    """Set the process up and serve until the service has gone."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python -I -m jobmanager.spawner DESCRIPTOR")
    service = socket.socket(fileno=int(sys.argv[1]))
    if service.family != socket.AF_UNIX or service.type != socket.SOCK_STREAM:
        sys.exit("the spawner is started by the service, with a Unix stream socket")
    service.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:  # 0-2 have to be taken, whatever the service left open
        null = os.dup(null)
    os.close(null)
    os.close(os.pidfd_open(os.getpid()))  # without it (Linux before 5.3) nothing could be killed
    os.chdir("/")
    os.umask(0o027)
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()  # what is loaded now stays shared with the forks
    Spawner(service).run()


if __name__ == "__main__":
    main()
