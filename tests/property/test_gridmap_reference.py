"""Our grid-mapfile reader beside the reference's own library, on the same random maps."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gatekeeper.gridmap import GridMap, Mapped, Refusal, parse

CASES = 3000
PIECES = (
    *(b'"', b'"', b"\\", b"\\x41", b"\\x0a", b" ", b"\t", b"\n", b"\n", b",", b"#", b"\0", b"\r"),
    *(b"/O=X", b"/E=a", b"/Email=a", b"/emailAddress=a", b"/UID=", b"A", b"a", b"b", b"\xc3", b"x"),
    *(b'\\"', b".p", b"/CN=A", b'\n"/CN=A" q\n', b'"/CN=A" ', b"/CN=A ", b"\x0b", b"4"),
)

# Runs in a process of its own, as the library may crash.  One JSON line for each case:
# the first account of the name (null: refused), or whether the name may use the account.
REFERENCE = """
import ctypes, json, os, sys
assist = ctypes.CDLL("libglobus_gss_assist.so.3")
common = ctypes.CDLL("libglobus_common.so.0")
module = ctypes.c_char.in_dll(assist, "globus_i_gsi_gss_assist_module")
assert common.globus_module_activate(ctypes.byref(module)) == 0
path = os.environ["GRIDMAP"]
raw = lambda text: None if text is None else text.encode("latin-1")
for line in sys.stdin:
    data, name, account = map(raw, json.loads(line))
    with open(path, "wb") as file:
        file.write(data)
    if account is None:
        found = ctypes.c_char_p()
        status = assist.globus_gss_assist_gridmap(name, ctypes.byref(found))
        answer = found.value.decode("latin-1") if status == 0 else None
    else:
        answer = assist.globus_gss_assist_userok(name, account) == 0
    print(json.dumps(answer), flush=True)
"""


def cases() -> list[tuple[bytes, GridMap, str, str | None]]:
    """Make maps with a name to look up, and an account to ask for or None."""
    source = random.Random(20261121)
    made = []
    while len(made) < CASES:
        data = b"".join(source.choices(PIECES, k=source.randint(1, 14)))
        found = parse(data)
        dn = source.choice(["/CN=A", "/O=X/CN=A", *(entry.dn for entry in found.entries)])
        listed = [a for entry in found.entries for a in entry.accounts if a.strip(".")]
        requested = source.choice([None, source.choice(listed)]) if listed else None
        if dn and "\\/" not in dn:
            made.append((data, found, dn, requested))
    return made


@pytest.mark.peers
def test_the_same_verdicts_as_the_reference(tmp_path: Path) -> None:
    made = cases()
    questions = [
        [
            data.decode("latin-1"),
            dn,
            None if asked is None else asked.encode(errors="surrogateescape").decode("latin-1"),
        ]
        for data, _, dn, asked in made
    ]
    result = subprocess.run(
        [sys.executable, "-c", REFERENCE],
        input="\n".join(map(json.dumps, questions)),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={"GRIDMAP": str(tmp_path / "map")},
        timeout=100,
    )
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(verdicts) == CASES
    mapped = 0
    for (data, found, dn, requested), theirs in zip(made, verdicts, strict=True):
        ours = found.lookup(dn, requested)
        if isinstance(ours, Mapped):
            mapped += 1
            name = ours.account.encode(errors="surrogateescape").decode("latin-1")
            assert theirs == (name if requested is None else True), (data, dn, requested)
        elif ours.reason is Refusal.POOL:
            continue  # we refuse pools; the reference needs a directory of leases
        elif ours.reason is Refusal.BAD_ACCOUNT:
            assert theirs in ("", True), (data, dn, requested)  # an empty account name
        else:
            assert theirs in (None, False), (data, dn, requested)
    assert mapped > CASES / 10
