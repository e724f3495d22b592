"""The grid-mapfile: grammar, comparison, look-up, and keeping in step with the file."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatekeeper.gridmap import (
    ANONYMOUS,
    Entry,
    GridMapError,
    GridMapFile,
    Mapped,
    NotMapped,
    Refusal,
    display_form,
    parse,
)

ALICE = "/O=Spec/CN=Alice"


def account(data: bytes, dn: str = ALICE, requested: str | None = None) -> str | Refusal:
    found = parse(data).lookup(dn, requested)
    return found.account if isinstance(found, Mapped) else found.reason


@pytest.mark.parametrize(
    ("line", "dn", "accounts"),
    [
        (b'"/O=X/CN=A" alice', "/O=X/CN=A", ("alice",)),
        (b"/O=X/CN=A alice\n", "/O=X/CN=A", ("alice",)),
        (b' \t"/O=X/CN=A b"alice\n', "/O=X/CN=A b", ("alice",)),
        (b'"/CN=A" alice,bob\n', "/CN=A", ("alice", "bob")),
        (b'"/CN=A" alice , bob\n', "/CN=A", ("alice", "bob")),
        (b'"/CN=A" alice\tbob,,carol,\n', "/CN=A", ("alice", "bob", "carol")),
        (b'"/CN=A" ,alice\n', "/CN=A", ("", "alice")),
        (b'"/CN=A",,alice\n', "/CN=A", ("", "alice")),
        (b'"/CN=A" ,\n', "/CN=A", ("",)),
        (b'"/CN=A"\n', "/CN=A", ()),
        (b'"/CN=A"', "/CN=A", ()),
        (b"/CN=A\n", "/CN=A", ()),
        (b'"/CN=A" alice # x\n', "/CN=A", ("alice", "#", "x")),
        (b'"/CN=A" "al ice"\n', "/CN=A", ('"al', 'ice"')),
        (b'"/CN=A" alice\r\n', "/CN=A", ("alice\r",)),
        (b'"/CN=A" alice\x0bbob\x0c\n', "/CN=A", ("alice\x0bbob\x0c",)),
        (b'\r"/CN=A" alice\n', '\\x0D"/CN=A"', ("alice",)),
        (b'\xef\xbb\xbf"/CN=A" alice\n', '\\xEF\\xBB\\xBF"/CN=A"', ("alice",)),
        (b'"/CN=A" al\0ice\n', "/CN=A", ("al",)),
        (b'"/CN=A"\0 alice\n', "/CN=A", ()),
        (b'"/CN=A\\"B" alice\n', '/CN=A"B', ("alice",)),
        (b'/CN="A" alice\n', '/CN="A"', ("alice",)),
        (b'"/CN=\\x41\\x0a\\xfF" q\n', "/CN=A\\x0A\\xFF", ("q",)),
        (b'"/CN=\xc3\xb6" q\n', "/CN=\\xC3\\xB6", ("q",)),
        (b'"/CN=\\xC3\\xB6" q\n', "/CN=\\xC3\\xB6", ("q",)),
        (b'"/O=Spec/CN=host\\\\/foo.org" q\n', "/O=Spec/CN=host\\/foo.org", ("q",)),
        (b"/CN=A\\xZZ\\x4 q\n", "/CN=AxZZx4", ("q",)),
        (b"/CN=A\\ q\n", "/CN=A", ("q",)),
        (b'""  alice\n', "", ("alice",)),
        (b'"/CN=A" \xff\n', "/CN=A", ("\udcff",)),
        (b'"/CN=A" .pool\n', "/CN=A", (".pool",)),
    ],
)
def test_entries(line: bytes, dn: str, accounts: tuple[str, ...]) -> None:
    assert parse(line).entries == (Entry(1, dn, accounts),)


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"\n",
            b" \t\n",
            b"#",
            b'  # "/CN=A" alice\n',
            b"#" * 300_000,
            b"\0",
            b"\0/CN=A a\n",
        ),
        *(b"/CN=A", b"/CN=A\0 alice\n", b'"/CN=A alice\n', b'"/CN=A\\" alice\n', b'"', b'"\\"'),
        *(b'"/CN=A\\\\" q\n', b'"/CN=A\0" alice\n'),
    ],
)
def test_lines_without_entry_do_not_disturb_the_next(line: bytes) -> None:
    assert parse(line).entries == ()
    separator = b"" if line.endswith(b"\n") else b"\n"
    following = parse(line + separator + b'"/O=Spec/CN=Alice" alice\n')
    if line == b"/CN=A":  # the line end that now follows makes it an entry without accounts
        assert [entry.dn for entry in following.entries] == ["/CN=A", ALICE]
    else:
        assert [entry.dn for entry in following.entries] == [ALICE]
    assert following.lookup(ALICE) == Mapped("alice")


def test_names_of_any_length() -> None:
    name = b"/O=Spec/CN=" + b"x" * 100_000
    assert account(b'"' + name + b'" alice\n', name.decode()) == "alice"
    quotes = b'\\"' * 100_000
    assert account(b'"/CN=' + quotes + b'" alice\n', "/CN=" + '"' * 100_000) == "alice"
    assert parse(b'"/CN=' + quotes + b"\n").entries == ()


@pytest.mark.parametrize(
    ("written", "dn", "same"),
    [
        ("/O=Spec/CN=A", "/o=sPEC/cn=a", True),
        ("/O=Spec/UID=a", "/O=Spec/USERID=a", True),
        ("/O=Spec/uid=a", "/O=Spec/UserID=a", True),
        ("/O=Spec/E=a@b", "/O=Spec/emailAddress=a@b", True),
        ("/O=Spec/Email=a@b", "/O=Spec/e=A@B", True),
        ("/O=Spec/CN=A", "/O=Spec/CN=A ", False),
        ("/O=Spec/CN=A", "/O=Spec/CN=A/CN=proxy", False),
        ("/O=Spec/CN=A/CN=proxy", "/O=Spec/CN=A", False),
        ("/O=Spec/*", "/O=Spec/CN=A", False),
        ("/O=Spec/CN=A  B", "/O=Spec/CN=A B", False),
        ("CN=A,O=Spec", "/O=Spec/CN=A", False),
        ("/O=Spec/CN=\\xC3\\xA9", "/O=Spec/CN=\\xC3\\x89", False),
    ],
)
def test_comparison(written: str, dn: str, same: bool) -> None:
    line = f'"{written}" alice\n'.encode()
    assert account(line, dn) == ("alice" if same else Refusal.NO_ENTRY)


def test_the_first_entry_decides() -> None:
    twice = b'"/O=Spec/CN=Alice" alice\n"/O=Spec/CN=Alice" bob\n'
    assert account(twice) == "alice"
    assert account(twice, requested="alice") == "alice"
    assert account(twice, requested="bob") is Refusal.NOT_GRANTED
    without = b'"/O=Spec/CN=Alice"\n"/O=Spec/CN=Alice" bob\n'
    assert account(without) is Refusal.NO_ACCOUNTS
    assert account(without, requested="bob") is Refusal.NO_ACCOUNTS


def test_requested_accounts_must_be_listed_letter_for_letter() -> None:
    line = b'"/O=Spec/CN=Alice" alice,bob\n'
    assert account(line, requested="bob") == "bob"
    for requested in (
        "BOB",
        "bo",
        "bobb",
        "root",
        "alice,bob",
        "alice bob",
        ".",
        "-",
        "@a",
        "",
        "#",
    ):
        assert account(line, requested=requested) is Refusal.NOT_GRANTED


@pytest.mark.parametrize("size", [256, 300, 5000])
def test_names_that_are_too_long_are_refused(size: int) -> None:
    assert account(b'"/O=Spec/CN=Alice" ' + b"a" * 255) == "a" * 255
    long = b'"/O=Spec/CN=Alice" alice ' + b"a" * size + b"\n"
    assert account(long, requested="a" * size) is Refusal.BAD_ACCOUNT
    assert account(b'"/O=Spec/CN=Alice" ' + b"a" * size) is Refusal.BAD_ACCOUNT
    assert account(b'"/O=Spec/CN=Alice" alice', requested="a" * size) is Refusal.NOT_GRANTED


def test_names_count_in_bytes() -> None:
    line = '"/O=Spec/CN=Alice" ' + "ä" * 128
    assert account(line.encode()) is Refusal.BAD_ACCOUNT


def test_an_empty_account_name_is_no_account() -> None:
    line = b'"/O=Spec/CN=Alice" ,alice\n'
    assert account(line) is Refusal.BAD_ACCOUNT
    assert account(line, requested="") is Refusal.BAD_ACCOUNT
    assert account(line, requested="alice") == "alice"


def test_pools_are_refused_and_dots_elsewhere_are_text() -> None:
    assert account(b'"/O=Spec/CN=Alice" .pool alice\n') is Refusal.POOL
    assert account(b'"/O=Spec/CN=Alice" .pool alice\n', requested="alice") is Refusal.POOL
    assert account(b'"/O=Spec/CN=Alice" .pool\n', requested=".pool") is Refusal.POOL
    assert account(b'"/O=Spec/CN=Alice" alice .x\n', requested=".x") == ".x"


def test_anonymous_is_never_mapped() -> None:
    for written in (b'"<anonymous>" alice\n', b'"" alice\n', b"<anonymous> alice\n"):
        assert account(written, ANONYMOUS) is Refusal.ANONYMOUS
        assert account(written, "") is Refusal.ANONYMOUS


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (b'"/CN=A" a\n"/cn=a" b\n', "line 2: never reached: its name is the same but for the spe"),
        (b'"/CN=A" a\n"/CN=A" a b\n', "line 2: never reached: its name is the same as in line 1"),
        (b'"/E=A" a\n"/Email=a" b\n', "line 2: never reached: its name is the same but for the"),
        (b'"/CN=A a\n', "line 1: skipped: unclosed quote"),
        (b"\n/CN=A", "line 2: skipped: unclosed quote, or nothing after the name"),
        (b'"/CN=A" a\0\n', "line 1: the rest after a NUL byte is ignored"),
        (b'\xef\xbb\xbf"/CN=A" a\n', "line 1: the file begins with a byte order mark"),
        (b'"<anonymous>" a\n', "line 1: anonymous clients are never mapped"),
        (b'"/CN=A"\n', "line 1: no account"),
        (b'"/CN=A" .a\n', "line 1: pools of accounts are not supported"),
        (b'"/CN=A" ,a\n', "line 1: a comma before the first account"),
        (b'"/CN=A" a # b\n', "line 1: a comment cannot follow an entry"),
        (b'"/CN=A" a\r\n', "line 1: DOS line end"),
        (b'"/CN=A" "a"\n', "line 1: a quote is part of an account name"),
    ],
)
def test_warnings(data: bytes, warning: str) -> None:
    (found,) = parse(data).warnings
    assert found.startswith(warning)


def test_nothing_to_warn_of() -> None:
    clean = b'# map\n\n"/CN=A" alice,bob\n/CN=B carol\n"/CN=A" alice,bob\n'
    assert parse(clean).warnings == ()


def test_warnings_are_bounded() -> None:
    warnings = parse(b'"x\n' * 250).warnings
    assert len(warnings) == 101
    assert warnings[-1] == "and 150 more"


def test_display_form_is_printable_ascii() -> None:
    assert display_form(bytes(range(256)).replace(b"\\", b"\\\\")) == "".join(
        chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in range(256)
    )


# --- the file -----------------------------------------------------------------------------------


def settle(path: Path) -> None:
    """Wait until a file's last change is long enough ago to be remembered."""
    while time.time_ns() - path.stat().st_ctime_ns <= 110_000_000:
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "grid-mapfile"
    path.write_bytes(b'"/O=Spec/CN=Alice" alice\n')
    return path


def looked_up(file: GridMapFile, dn: str = ALICE) -> Mapped | NotMapped:
    return file.current().lookup(dn)


def test_a_map_is_parsed_once(path: Path) -> None:
    file = GridMapFile(path)
    settle(path)
    assert file.current() is file.current()
    assert looked_up(file) == Mapped("alice")


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("how", ["replaced", "rewritten", "same size and time"])
def test_changes_count_at_once(path: Path, how: str, remembered: bool) -> None:
    file = GridMapFile(path)
    if remembered:
        settle(path)
    assert looked_up(file) == Mapped("alice")
    changed = b'"/O=Spec/CN=Alice" carol\n'
    before = path.stat()
    if how == "replaced":
        (path.parent / "new").write_bytes(changed)
        (path.parent / "new").rename(path)
    else:
        path.write_bytes(changed)
    if how == "same size and time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert looked_up(file) == Mapped("carol")


def test_an_unterminated_last_line_counts_once_the_file_is_quiet(path: Path) -> None:
    path.write_bytes(b'"/CN=B" bob\n"/O=Spec/CN=Alice" ali')
    file = GridMapFile(path)
    assert isinstance(looked_up(file), NotMapped)
    assert looked_up(file, "/CN=B") == Mapped("bob")
    settle(path)
    assert looked_up(file) == Mapped("ali")


def test_a_clock_set_back_hides_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b'"/O=Spec/CN=Alice" alice')
    then = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: then)
    assert looked_up(GridMapFile(path)) == Mapped("alice")


def unreadable(path: Path, kind: str) -> None:
    path.unlink()
    match kind:
        case "missing":
            return
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "too large":
            path.write_bytes(b'"/O=Spec/CN=Alice" alice\n' + b"#" * 1000)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "loop", "dangling", "too large"])
@pytest.mark.parametrize("seen_before", [False, True])
def test_an_unreadable_map_maps_nobody(path: Path, kind: str, seen_before: bool) -> None:
    file = GridMapFile(path, max_size=1000)
    if seen_before:
        settle(path)
        assert looked_up(file) == Mapped("alice")
    unreadable(path, kind)
    with pytest.raises(GridMapError, match="grid-mapfile: "):
        file.current()
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(b'"/O=Spec/CN=Alice" alice\n')
    assert looked_up(file) == Mapped("alice")


def test_a_map_without_read_permission_maps_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod does not stop root, who runs tests too
    with pytest.raises(GridMapError, match="Permission denied"):
        GridMapFile(path).current()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n" * 10_000,
        b"\0" * 10_000,
        os.urandom(100_000),
        b"\xff\xfe" + '"/O=Spec/CN=Alice" alice\n'.encode("utf-16-le"),
    ],
    ids=["empty", "blank", "zeros", "random", "utf-16"],
)
def test_junk_maps_nobody(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = looked_up(GridMapFile(path, warn=lambda _: None))
    assert isinstance(found, NotMapped)
    assert found.reason is Refusal.NO_ENTRY


def test_warnings_are_given_once_for_each_version(path: Path) -> None:
    warnings: list[str] = []
    path.write_bytes(b'"/CN=A" .pool\n')
    path.chmod(0o664)
    settle(path)
    file = GridMapFile(path, warn=warnings.append)
    file.current()
    file.current()
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "writable by others than its owner",
        "line 1: pools of accounts are not supported; the name is refused",
    ]
    path.chmod(0o644)
    path.write_bytes(b'"/CN=A" alice\n')
    settle(path)
    file.current()
    assert len(warnings) == 2


def test_a_large_map_is_read(path: Path) -> None:
    line = b'"/C=XX/O=Spec/OU=people/CN=person %07d" person%d\n'
    lines = [line % (number, number) for number in range(60_000)]
    path.write_bytes(b"".join(lines))
    settle(path)
    file = GridMapFile(path)
    assert looked_up(file, "/C=XX/O=Spec/OU=people/CN=person 0059999") == Mapped("person59999")
    assert file.current() is file.current()


@pytest.fixture(params=["atomically", "in place"])
def writer(request: pytest.FixtureRequest, path: Path) -> Iterator[None]:
    """Replace the map over and over, by rename or by rewriting it in small pieces."""
    stop = threading.Event()
    versions = [
        b"".join(b'"/O=Spec/CN=Alice" %s\n"/CN=%d" x\n' % (name, i) for i in range(40))
        for name in (b"alice", b"alicecooper")
    ]

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            data = versions[number % 2]
            target = path if request.param == "in place" else path.parent / "new"
            with target.open("wb", buffering=0) as file:
                for start in range(0, len(data), 23):
                    file.write(data[start : start + 23])
            if request.param == "atomically":
                target.rename(path)

    thread = threading.Thread(target=write)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("writer")
def test_a_map_that_changes_during_look_ups_never_gives_a_wrong_account(path: Path) -> None:
    file = GridMapFile(path)
    seen: set[str | Refusal] = set()
    for _ in range(1000):
        found = looked_up(file)
        seen.add(found.account if isinstance(found, Mapped) else found.reason)
    assert seen <= {"alice", "alicecooper", Refusal.NO_ENTRY}
    assert seen & {"alice", "alicecooper"}
