"""Fetching the output that the server keeps for a job (job-manager.md 5.4, 9.2).

globus-job-submit and `gram submit` leave stdout and stderr in the account's GASS cache, under a URL
made of the job contact and an extra tag.  A small job on the same server copies them to us.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal

from gram.client.errors import OutputNotFound
from gram.client.request import CACHE_TAG, Program
from gram.client.run import RunResult, start
from gram.client.streams import Collected, Output
from protocol.contacts import GatekeeperContact, JobContact

if TYPE_CHECKING:
    from gram.client.client import Client

Stream = Literal["stdout", "stderr"]

_MISSING: Final = "gram: no stored output\n"
_SCRIPT: Final = """\
file=${GLOBUS_GASS_CACHE_DEFAULT:-$HOME/.globus/.gass_cache}/$1/data
if test -r "$file"; then exec cat "$file"; fi
echo 'gram: no stored output' >&2
exit 1
"""


def cache_path(contact: str, stream: Stream) -> str:
    """Return the directory of a stored stream, relative to the cache (job-manager.md 5.4)."""
    url = f"x-gass-cache://{contact}{stream}"
    return f"local/md5/{_mangle(CACHE_TAG)}/md5/{_mangle(url)}"


def _mangle(text: str) -> str:
    digest = hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def default_resource(job: JobContact) -> GatekeeperContact:
    """Return the gatekeeper that is asked for a job's output unless the user names one.

    It is the job contact's host on the usual port, as globus-job-get-output has it; a contact with
    a subject is served by the gatekeeper itself, so that its port counts too.
    """
    if job.subject is not None:
        return GatekeeperContact(job.host, job.port, subject=job.subject)
    return GatekeeperContact(job.host)


async def fetch(
    client: Client,
    job: JobContact,
    stream: Stream,
    resource: GatekeeperContact,
    *,
    to: Output,
    timeout: float | None,
) -> bytes | None:
    """See `Client.output`."""
    program = Program(("/bin/sh", "-c", _SCRIPT, "gram-output", cache_path(job.url, stream)))
    errors = Collected()
    async with start(
        client, resource, program, stdin=None, stdout=to, stderr=errors, full_delegation=False
    ) as running:
        result: RunResult = await running.wait(timeout)
    if errors.data.decode(errors="replace") == _MISSING:
        raise OutputNotFound(f"{resource} has no stored {stream} of {job.url}")
    result.check()
    return result.stdout
