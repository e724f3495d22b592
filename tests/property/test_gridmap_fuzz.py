"""Any bytes are a grid-mapfile: nothing raises, and nobody is mapped whom no line maps."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from gatekeeper.gridmap import GridMap, Mapped, display_form, parse
from protocol.gsi.names import comparison_key

PIECES = (
    *(
        b'"',
        b"\\",
        b"\\x41",
        b"\\x0a",
        b"\\xZ",
        b" ",
        b"\t",
        b"\n",
        b",",
        b"#",
        b"\0",
        b"\r",
        b"\x0b",
    ),
    *(
        b"/O=X",
        b"/CN=A",
        b"/E=a",
        b"/Email=a",
        b"/UID=a",
        b"a",
        b"b",
        b"\xc3\xb6",
        b'\\"',
        b".pool",
    ),
    *(b'"/CN=A" ', b"/CN=A ", b'\n"/CN=B" bob\n', b"<anonymous>", b"\xef\xbb\xbf"),
)
maps = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=25).map(b"".join)
names = st.sampled_from(("/CN=A", "/O=X/CN=A", "/CN=B", "", "<anonymous>", "/CN=\\xC3\\xB6"))
accounts = st.none() | st.sampled_from(("a", "b", "bob", "", ".pool", "root", '"a'))


def check(found: GridMap, dn: str, requested: str | None) -> None:
    answer = found.lookup(dn, requested)
    if not isinstance(answer, Mapped):
        return
    assert answer.account
    assert requested is None or answer.account == requested
    first = next(e for e in found.entries if comparison_key(e.dn) == comparison_key(dn))
    assert answer.account in first.accounts
    assert not first.accounts[0].startswith(".")
    assert dn not in ("", "<anonymous>")
    if requested is None:
        assert answer.account == first.accounts[0]


@given(maps, names, accounts)
@example(b'"<anonymous>" a\n', "<anonymous>", "a")
@example(b'"" a\n', "", None)
@example(b'"/CN=A" ,a\n', "/CN=A", "")
def test_look_ups_obey_the_rules(data: bytes, dn: str, requested: str | None) -> None:
    found = parse(data)
    check(found, dn, requested)
    for entry in found.entries:
        check(found, entry.dn, requested)
        for account in entry.accounts:
            check(found, entry.dn, account)


@given(maps)
def test_entries_are_well_formed(data: bytes) -> None:
    found = parse(data)
    numbers = [entry.line for entry in found.entries]
    assert numbers == sorted(set(numbers))
    for entry in found.entries:
        assert re.fullmatch(r"[ -~]*", entry.dn)
        for account in entry.accounts:
            assert not set(account) & set(" \t\n,\0")


@given(maps, maps)
def test_lines_are_independent(first: bytes, second: bytes) -> None:
    """What a line means does not depend on the lines before it."""
    together = parse(first + b"\n" + second)
    shift = first.count(b"\n") + 1
    alone = [
        *((entry.line, entry.dn, entry.accounts) for entry in parse(first + b"\n").entries),
        *((entry.line + shift, entry.dn, entry.accounts) for entry in parse(second).entries),
    ]
    assert [(entry.line, entry.dn, entry.accounts) for entry in together.entries] == alone


@given(st.binary(max_size=40).filter(lambda raw: b"\0" not in raw and b"\n" not in raw))
def test_a_name_written_with_escapes_is_found(raw: bytes) -> None:
    """Every name can be written: quoted, with each byte as an escape."""
    written = b"".join(b"\\x%02x" % byte for byte in b"/CN=" + raw)
    shown = "".join(chr(b) if 0x20 <= b <= 0x7E else f"\\x{b:02X}" for b in b"/CN=" + raw)
    assert display_form(written) == shown
    assert parse(b'"' + written + b'" alice\n').lookup(shown) == Mapped("alice")
