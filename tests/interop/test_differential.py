"""The same command against our server and the reference: same words, same exit code.

Where we say more than the reference (docs/reference/compatibility.md) two things may differ: a
job's failure has a `Details:` line, and a refused request names what exactly is wrong in place of
the client's general text for the error number.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from protocol.gsi.proxies import ProxyPolicy
from tests.support.reference import Reference
from tests.support.server import Server
from tests.support.site import Site, User

HERE = re.compile(rb"localhost:\d+|https://\S+")
DETAILS = re.compile(rb"Details: .*\n")
REASON = re.compile(rb"(GRAM Job submission failed because ).*( \(error code \d+\))")


def outcome(
    user: User, contact: str, *command: str, proxy: Path | None = None
) -> tuple[int, bytes]:
    """Exit code and everything printed, with ports and contacts made equal."""
    filled = [word.replace("CONTACT", contact) for word in command]
    result = user.run(*filled, proxy=proxy)
    return result.returncode, HERE.sub(b"<contact>", result.stdout + result.stderr)


def general(result: tuple[int, bytes]) -> tuple[int, bytes]:
    """The result without what we say more."""
    return result[0], REASON.sub(rb"\1...\2", DETAILS.sub(b"", result[1]))


RSL = {
    "unknown attribute": "&(executable=/bin/true)(nosuch=1)",
    "no executable": "&(count=1)",
    "missing executable": "&(executable=/no/such/file)",
    "executable is a directory": "&(executable=/tmp)",
    "executable without x bit": "&(executable=/etc/passwd)",
    "executable empty": '&(executable="")',
    "executable list": "&(executable=/bin/a /bin/b)",
    "missing directory": "&(executable=/bin/true)(directory=/no/such)",
    "missing stdin": "&(executable=/bin/true)(stdin=/no/such)",
    "environment of one word": "&(executable=/bin/true)(environment=(A))",
    "nested arguments": "&(executable=/bin/true)(arguments=(a b))",
    "stdout not creatable": "&(executable=/bin/true)(stdout=/no/such/out)",
    "stderr not creatable": "&(executable=/bin/true)(stderr=/no/such/err)",
    "stdout of two words": "&(executable=/bin/true)(stdout=a b)",
    "count is a word": "&(executable=/bin/true)(count=abc)",
    "count is a list": "&(executable=/bin/true)(count=1 2)",
    "job type": "&(executable=/bin/true)(job_type=foo)",
    "job type mpi": "&(executable=/bin/true)(job_type=mpi)",
    "job type condor": "&(executable=/bin/true)(job_type=condor)",
    "dry run value": "&(executable=/bin/true)(dry_run=maybe)",
    "save state value": "&(executable=/bin/true)(save_state=foo)",
    "two phase value": "&(executable=/bin/true)(two_phase=abc)",
    "gram my job value": "&(executable=/bin/true)(gram_my_job=foo)",
    "proxy timeout value": "&(executable=/bin/true)(proxy_timeout=abc)",
    "undefined variable": "&(executable=$(NOPE))",
    "variable with default": "&(executable=$(HOME /bin/true))",
    "operator": "&(executable=/bin/true)(count>1)",
    "disjunction": "|(executable=/bin/true)(executable=/bin/false)",
    "stage in pair": "&(executable=/bin/true)(file_stage_in=(a))",
    "stage out pair": "&(executable=/bin/true)(file_stage_out=(a))",
    "unbalanced": "&(executable=/bin/true",
    "other account": "&(executable=/bin/true)(username=daemon)",
}


@pytest.mark.parametrize("name", RSL)
def test_job_requests(name: str, site: Site, server: Server, reference_server: Reference) -> None:
    command = ("globusrun", "-r", "CONTACT", RSL[name])
    theirs = outcome(site.alice, reference_server.contact, *command)
    ours = outcome(site.alice, server.contact, *command)
    assert general(ours) == general(theirs)
    assert theirs[1].count(b"\n") <= ours[1].count(b"\n") <= theirs[1].count(b"\n") + 1


@pytest.mark.parametrize("service", ["nosuch", "jobmanager-nosuch", "a/b"])
@pytest.mark.parametrize("flag", ["-a", "-j"])
def test_unknown_services(
    service: str, flag: str, site: Site, server: Server, reference_server: Reference
) -> None:
    command = ("globusrun", flag, "-r", f"CONTACT/{service}")
    theirs = outcome(site.alice, reference_server.contact, *command)
    assert outcome(site.alice, server.contact, *command) == theirs


COMMANDS = {
    "ping": ("globusrun", "-a", "-r", "CONTACT"),
    "job": ("globusrun", "-r", "CONTACT", "&(executable=/bin/true)"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unmapped_name(
    command: str, site: Site, server: Server, reference_server: Reference
) -> None:
    theirs = outcome(site.mallory, reference_server.contact, *COMMANDS[command])
    assert theirs[0] != 0
    assert outcome(site.mallory, server.contact, *COMMANDS[command]) == theirs


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["limited", "expired", "independent", "short"])
def test_proxies(
    kind: str, command: str, site: Site, server: Server, reference_server: Reference
) -> None:
    options: dict[str, object] = {
        "limited": {"policy": ProxyPolicy.LIMITED, "lifetime": timedelta(hours=1)},
        "independent": {"policy": ProxyPolicy.INDEPENDENT, "lifetime": timedelta(hours=1)},
        "expired": {
            "lifetime": timedelta(minutes=3),
            "now": datetime.now(UTC) - timedelta(minutes=4),
        },
        "short": {"lifetime": timedelta(minutes=5)},
    }
    proxy = site.alice.write_proxy(f"{kind}-proxy", **options[kind])  # type: ignore[arg-type]  # by kind
    theirs = outcome(site.alice, reference_server.contact, *COMMANDS[command], proxy=proxy)
    ours = outcome(site.alice, server.contact, *COMMANDS[command], proxy=proxy)
    assert general(ours) == general(theirs)


QUERIES = {
    "status of nothing": ("globusrun", "-status", "https://CONTACT/1/2/"),
    "kill nothing": ("globusrun", "-k", "https://CONTACT/1/2/"),
    "refresh nothing": ("globusrun", "-y", "https://CONTACT/1/2/"),
}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_for_unknown_jobs(
    query: str, site: Site, server: Server, reference_server: Reference
) -> None:
    def port(contact: str) -> str:
        result = site.alice.run(
            "globusrun", "-b", "-r", contact, "&(executable=/bin/sleep)(arguments=5)"
        )
        found = re.search(rb"https://(localhost:\d+)/", result.stdout)
        assert found, result.stderr
        return found.group(1).decode()

    theirs = outcome(site.alice, port(reference_server.contact), *QUERIES[query])
    assert outcome(site.alice, port(server.contact), *QUERIES[query]) == theirs
