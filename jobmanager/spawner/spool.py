"""The spool: what is on disk about every container, so that its end outlives everybody.

`<container>.job` is made at launch and stays locked while the shepherd lives (the kernel gives the
lock back whatever way it dies), `<container>.sock` is the shepherd's socket, `<container>.exit` the
exit record.  The directory is the process's working directory: nobody can put another one in its
place later, and socket names stay short.  Everything here raises OSError.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from .codec import FrameError, many, parse_object, record
from .frames import MAX_PROCESSES, Account, ExitRecord, Pid, ProcessExit, SpawnerPolicy, Time
from .policy import Refusal

_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class JobNote:
    """The content of a `.job` file; `pids` is empty until the main processes exist."""

    account: Account
    started: Time
    pids: Annotated[tuple[int, ...], many(Pid.__metadata__[0], 0, MAX_PROCESSES)]
...
