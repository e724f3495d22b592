"""For all tests: a blocked event loop in our own packages is an error.

Test code may block, and so may what runs outside an event loop; what ours may do in a running loop
is listed here with its reason.
"""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

PACKAGES = ["rsl", "protocol", "jobmanager", "gatekeeper", "gram"]

DOES_NOT_COUNT = [
    "gram.labca",  # for tests and demonstrations
    "protocol.gsi.credential",  # files of credentials: whoever calls it from a loop is to blame
    "jobmanager.agent",  # a process of its own, for the files of one account
]

MAY_BLOCK: dict[str, set[str]] = {
    "logging/__init__.py": {"emit", "handle"},  # the log goes to standard error
    "jobmanager/store/store.py": {"_private_file"},  # before anything is served
    "jobmanager/store/writer.py": {"open_engine", "close"},  # the same, and after everything
    "jobmanager/credentials.py": {"__init__", "load"},  # at the start
    "gatekeeper/keypool.py": {"aclose"},  # at the end: one key at most is still being made
    "protocol/gsi/directory.py": {"get"},  # a stat, and small files that have changed
    "gram/client/own.py": {"load_own"},  # a client's start
    "gram/client/listening.py": {"local_address"},  # connects a datagram socket: sends nothing
    "gram/client/streams.py": {"_allowed", "replacing"},  # a file of the user, opened and renamed
}


@pytest.fixture(autouse=True)
def _the_loop_never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx(PACKAGES, excluded_modules=DOES_NOT_COUNT) as guard:
        for function in guard.functions.values():
            for filename, names in MAY_BLOCK.items():
                function.can_block_in(filename, names)
        yield guard
