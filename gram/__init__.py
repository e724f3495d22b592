"""Gram for users: the client library (`gram.client`) and the command (`gram.cli`).

    from gram import Client, Job, SyncClient

The names are loaded when they are used: `import gram` itself is cheap.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gram.client import Client, Job, SyncClient

__all__ = ["Client", "Job", "SyncClient"]


def __getattr__(name: str) -> object:
    if name in __all__:
        import gram.client

        return getattr(gram.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
