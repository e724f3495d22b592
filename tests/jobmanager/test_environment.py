"""What a job finds in its environment, its RSL among the variables (job-manager.md §1.8, 4.1)."""

from dataclasses import replace

import pytest

from jobmanager.description import JobDescription, describe
from jobmanager.environment import Site, environment, job_symbols, symbols
from tests.support.core import PATHS, SITE

CONTACT = "https://h:1/1/2/"


def names() -> dict[str, str]:
    common = symbols(SITE, identity="/CN=Alice", account="alice", home=PATHS.home)
    return job_symbols(common, job="1/2", contact=CONTACT, directory=PATHS.directory)


def description(text: str = "") -> JobDescription:
    return describe(f"&(executable=/bin/true){text}", names())


def variables(text: str = "", site: Site = SITE, scratch: str | None = None) -> dict[str, str]:
    paths = replace(PATHS, scratch=scratch)
    made = environment(site, description(text), paths, contact=CONTACT, account="alice")
    assert len(dict(made)) == len(made)
    return dict(made)


def test_exactly_these() -> None:
    assert variables() == {
        "X509_USER_PROXY": PATHS.proxy,
        "GLOBUS_GRAM_JOB_CONTACT": CONTACT,
        "GLOBUS_LOCATION": "/usr",
        "HOME": PATHS.home,
        "LOGNAME": "alice",
        "GLOBUS_GASS_CACHE_DEFAULT": PATHS.cache,
        "PATH": SITE.path,
        "LD_LIBRARY_PATH": "/usr/lib",
    }


def test_nothing_of_the_service_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "x")
    assert "SERVICE_SECRET" not in variables()


def test_certificates_and_scratch_where_there_are_some() -> None:
    made = variables(site=replace(SITE, certificates="/etc/ca"), scratch="/scratch/1")
    assert (made["X509_CERT_DIR"], made["SCRATCH_DIRECTORY"]) == ("/etc/ca", "/scratch/1")


def test_what_the_user_sets_wins() -> None:
    made = variables("(environment=(PATH /mine)(A b)(A c))")
    assert (made["PATH"], made["A"]) == ("/mine", "c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(library_path=/a /b)", "/a:/b"),
        ("(library_path=/a)(environment=(LD_LIBRARY_PATH /x))", "/x:/a"),
    ],
)
def test_library_paths(text: str, expected: str) -> None:
    assert variables(text)["LD_LIBRARY_PATH"] == expected


def test_variables_of_the_request() -> None:
    given = names()
    assert given["GLOBUS_GRAM_JOB_CONTACT"] == CONTACT
    assert (given["HOME"], given["LOGNAME"], given["GLOBUS_ID"]) == (
        PATHS.home,
        "alice",
        "/CN=Alice",
    )
    assert given["GLOBUS_CACHED_STDOUT"] == f"{PATHS.directory}/stdout"
    assert given["GLOBUS_GATEKEEPER_PORT"] == "2119"
    assert all(given.values())
