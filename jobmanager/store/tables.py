"""The database schema (SQLAlchemy Core), the same for SQLite and PostgreSQL."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect

SCHEMA_VERSION = 1

metadata = MetaData()


class ClientText(TypeDecorator[str]):
    """Text that clients chose: what a database cannot hold (bytes that are no UTF-8, NUL) is
    written as an escape, so that no request can make a change fail."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The value as it is stored."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        data = value.replace("\0", "\\x00").encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "backslashreplace")


meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("identity", Text, primary_key=True),
    Column("port", Integer, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("state", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("two_phase", BigInteger, nullable=False),
    Column("deadline", Float),
    Column("extension", Integer, nullable=False),
    Column("parked", Boolean, nullable=False),
    Column("stopped", Boolean, nullable=False),
    Column("redirected", Boolean, nullable=False),
    Column("failure_code", Integer, nullable=False),
    Column("failure", Text),
    Column("exit_code", Integer),
    Column("lrm_id", Text),
    Column("description", Text, nullable=False),
    Column("paths", Text, nullable=False),
    Column("rsl", ClientText, nullable=False),
    Column("client_address", ClientText, nullable=False),
    Column("usage", Text),
)
Index("jobs_phase", jobs.c.phase)
Index("jobs_updated", jobs.c.updated)

contacts = Table(
    "contacts",
    metadata,
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("url", ClientText, primary_key=True),
    Column("mask", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("event", String(24), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("state", Integer, nullable=False),
    Column("detail", ClientText),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("url", ClientText, nullable=False),
    Column("owner", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("failure_code", Integer, nullable=False),
    Column("failure", Text),
    Column("exit_code", Integer),
    Column("created", Float, nullable=False),
)
Index("outbox_job", outbox.c.job)
