"""The durable store: jobs, their event logs, callback contacts, the callback outbox."""

from jobmanager.store.store import Audit, Change, OutboxEntry, Store
from jobmanager.store.writer import StoreError

__all__ = ["Audit", "Change", "OutboxEntry", "Store", "StoreError"]
