"""The GRAM client library: asyncio, with a blocking facade.

from gram.client import Client

async with Client() as client:
    result = await client.run("ce.example.org", ["/bin/echo", "hello"])
    print(result.stdout, result.exit_code)
"""

from gram.client.advice import Side
from gram.client.client import Client
from gram.client.errors import (
    ConnectionFailed,
    CredentialProblem,
    GramClientError,
    InvalidContact,
    JobFailed,
    JobGone,
    JobRequestFailed,
    NotTrusted,
    OutputNotFound,
    OutputTooLarge,
    Refused,
    WaitTimeout,
)
from gram.client.gass import GassServer
from gram.client.job import Job
from gram.client.models import JobEvent, JobStatus, Version
from gram.client.request import Program, with_gass, with_stored_output
from gram.client.run import Running, RunResult
from gram.client.streams import Collected, LocalFiles, bytes_source, file_sink, file_source
from gram.client.sync import SyncClient, SyncJob
from protocol.contacts import GatekeeperContact, JobContact
from protocol.tables import ErrorCode, JobState, Signal

__all__ = [
    "Client",
    "Collected",
    "ConnectionFailed",
    "CredentialProblem",
    "ErrorCode",
    "GassServer",
    "GatekeeperContact",
    "GramClientError",
    "InvalidContact",
    "Job",
    "JobContact",
    "JobEvent",
    "JobFailed",
    "JobGone",
    "JobRequestFailed",
    "JobState",
    "JobStatus",
    "LocalFiles",
    "NotTrusted",
    "OutputNotFound",
    "OutputTooLarge",
    "Program",
    "Refused",
    "RunResult",
    "Running",
    "Side",
    "Signal",
    "SyncClient",
    "SyncJob",
    "Version",
    "WaitTimeout",
    "bytes_source",
    "file_sink",
    "file_source",
    "with_gass",
    "with_stored_output",
]
