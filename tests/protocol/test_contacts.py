"""Contact strings: wire-protocol.md §4.1, §4.2, §5.11."""

import pytest

from protocol.contacts import GatekeeperContact, JobContact
from protocol.errors import GramError
from protocol.tables import ErrorCode


@pytest.mark.parametrize(
    ("text", "contact"),
    [
        ("h", GatekeeperContact("h", 2119, "jobmanager", None)),
        ("h:1", GatekeeperContact("h", 1)),
        ("h:", GatekeeperContact("h")),
        ("h:1:", GatekeeperContact("h", 1)),
        ("h:1/s", GatekeeperContact("h", 1, "s")),
        ("h/s", GatekeeperContact("h", 2119, "s")),
        ("h:/s", GatekeeperContact("h", 2119, "s")),
        ("h/a/b", GatekeeperContact("h", 2119, "a/b")),
        ("h:1:/CN=x", GatekeeperContact("h", 1, subject="/CN=x")),
        ("h::/CN=x", GatekeeperContact("h", subject="/CN=x")),
        ("h/s:/CN=x", GatekeeperContact("h", 2119, "s", "/CN=x")),
        ("h:1/s:/CN=x", GatekeeperContact("h", 1, "s", "/CN=x")),
        ("h:1/s:", GatekeeperContact("h", 1, "s")),
        ("h:1/", GatekeeperContact("h", 1, "")),
        ("h:1/s:/O=a b/CN=host/x:y", GatekeeperContact("h", 1, "s", "/O=a b/CN=host/x:y")),
        ("h:1:host@ce.example.org", GatekeeperContact("h", 1, subject="host@ce.example.org")),
        ("ce.EXAMPLE.org:65535", GatekeeperContact("ce.EXAMPLE.org", 65535)),
        ("127.0.0.1:2119", GatekeeperContact("127.0.0.1", 2119)),
    ],
)
def test_gatekeeper_contact(text: str, contact: GatekeeperContact) -> None:
    assert GatekeeperContact.parse(text) == contact
    assert GatekeeperContact.parse(str(contact)) == contact


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "/s",
        "https://h",
        "https://h:1/s",
        "[::1]",
        "[::1]:2119",
        "::1",
        "h:0",
        "h:65536",
        "h:99999999",
        "h:-1",
        "h:abc",
        "h:1x",
        "h:1 /s",
        "h h",
        "u@h",
        "h//s",
        "h/a b",
        "h/a@b",
        "h/a\r\nb",
        "h:1:/CN=a\nb",
        "h\0",
        "h:\u0661",
    ],
)
def test_bad_gatekeeper_contact_is_error_96(text: str) -> None:
    with pytest.raises(GramError) as raised:
        GatekeeperContact.parse(text)
    assert raised.value.code is ErrorCode.BAD_GATEKEEPER_CONTACT


def test_gatekeeper_contact_is_written_as_users_paste_it() -> None:
    assert str(GatekeeperContact("h", 1, subject="/CN=x")) == "h:1:/CN=x"
    assert str(GatekeeperContact("h")) == "h:2119"


@pytest.mark.parametrize(
    ("url", "contact"),
    [
        ("https://vm:41821/17/72/", JobContact("vm", 41821, "/17/72/")),
        (
            "https://ce.example.org:7512/16001/2002/:/C=SE/O=Wire Test/CN=ce.example.org",
            JobContact(
                "ce.example.org", 7512, "/16001/2002/", "/C=SE/O=Wire Test/CN=ce.example.org"
            ),
        ),
        ("https://[::1]:7512/1/2/", JobContact("::1", 7512, "/1/2/")),
        ("https://vm:1/1/2/:/CN=x", JobContact("vm", 1, "/1/2/", "/CN=x")),
        ("https://vm:1/", JobContact("vm", 1, "/")),
    ],
)
def test_job_contact(url: str, contact: JobContact) -> None:
    assert JobContact.parse(url) == contact
    assert contact.url == str(contact) == url


def test_job_contact_with_nothing_behind_the_colon_has_no_subject() -> None:
    assert JobContact.parse("https://vm:1/1/2/:") == JobContact("vm", 1, "/1/2/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vm:1/1/2/",
        "http://vm:1/1/2/",
        "https://vm/1/2/",
        "https://vm:0/1/2/",
        "https://vm:65536/1/2/",
        "https://vm:x/1/2/",
        "https://vm:1",
        "https://:1/1/2/",
        "https://u@vm:1/1/2/",
        "https://::1:7512/1/2/",
        "https://[vm]:1/1/2/",
        "https://vm:1/1 2/",
        "https://vm:1/1/2/\r\nX: y",
        "https://vm:1/a:b/:/CN=x",
        "https://vm:1/1/2/:/CN=a\nb",
        " https://vm:1/1/2/",
    ],
)
def test_bad_job_contact_is_error_80(url: str) -> None:
    with pytest.raises(GramError) as raised:
        JobContact.parse(url)
    assert raised.value.code is ErrorCode.INVALID_JOB_CONTACT


@pytest.mark.parametrize(
    ("host", "port", "path", "subject"),
    [
        ("", 1, "/", None),
        ("a b", 1, "/", None),
        ("vm", 0, "/", None),
        ("vm", 1, "", None),
        ("vm", 1, "1/2", None),
        ("vm", 1, "/a:b", None),
        ("vm", 1, "/", ""),
        ("vm", 1, "/", "/CN=a:b"),
    ],
)
def test_job_contact_that_could_not_be_read_again_cannot_be_made(
    host: str, port: int, path: str, subject: str | None
) -> None:
    with pytest.raises(GramError):
        JobContact(host, port, path, subject)


def test_error_text_is_short() -> None:
    with pytest.raises(GramError) as raised:
        GatekeeperContact.parse(":" + "x" * 10_000)
    assert len(str(raised.value)) < 300
