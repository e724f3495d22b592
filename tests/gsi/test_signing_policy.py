"""The signing policy language.  Verdicts marked "as measured" are those of grid-proxy-init."""

import pytest

from protocol.gsi.signing_policy import PolicyError, SigningPolicy

CA = "/O=Spec/CN=Spec CA"
BOB = "/O=Spec/CN=Bob"

ACCESS = b"access_id_CA X509 '/O=Spec/CN=Spec CA'\n"
RIGHT = b"pos_rights globus CA:sign\n"
GOOD = b"cond_subjects globus '/O=Spec/*'\n"
BAD = b"cond_subjects globus '/O=No/*'\n"
USUAL = ACCESS + RIGHT + GOOD


def cond(pattern: bytes) -> bytes:
    return ACCESS + RIGHT + b"cond_subjects globus " + pattern + b"\n"


def allows(policy: bytes, subject: str = BOB, ca: str = CA) -> bool:
    try:
        SigningPolicy.parse(policy).check(ca, subject)
    except PolicyError:
        return False
    return True


AS_MEASURED = {
    "usual": (USUAL, True),
    "inner double quotes": (cond(b"'\"/O=Spec/*\"'"), True),
    "pattern as a bare word": (cond(b"/O=Spec/*"), True),
    "double quotes only": (cond(b'"/O=Spec/*"'), True),
    "double quotes only, with a blank": (cond(b'"/O=Spec X/*"'), False),
    "second of two patterns": (cond(b'\'"/O=No/*" "/O=Spec/*"\''), True),
    "patterns without a blank between": (cond(b'\'"/O=Spec/*""/O=No/*"\''), True),
    "patterns on two lines": (cond(b'\'"/O=No/*"\n"/O=Spec/*"\''), True),
    "two bare patterns are one": (cond(b"'/O=Spec/* /O=No/*'"), False),
    "leading blanks of a pattern": (cond(b"'  /O=Spec/*'"), True),
    "two conditions, one denies": (ACCESS + RIGHT + BAD + GOOD, False),
    "two conditions, the other denies": (ACCESS + RIGHT + GOOD + BAD, False),
    "other right": (ACCESS + b"pos_rights globus CA:other\n" + GOOD, False),
    "other right first": (ACCESS + b"pos_rights globus CA:other\n" + RIGHT + GOOD, False),
    "other authority of the right": (ACCESS + b"pos_rights other CA:sign\n" + GOOD, False),
    "other authority of the condition": (ACCESS + RIGHT + b"cond_subjects x '/O=Spec/*'\n", False),
    "authority in lower case": (USUAL.replace(b"X509", b"x509"), False),
    "keyword in upper case": (USUAL.replace(b"access_id_CA", b"ACCESS_ID_CA"), False),
    "banned subjects": (USUAL + b"cond_banned_subjects globus '/O=No/*'\n", False),
    "unknown condition": (USUAL + b"cond_time globus '/O=No/*'\n", False),
    "unknown keyword": (USUAL + b"foo bar baz\n", False),
    "an argument too many": (cond(b"'/O=Spec/*' '/O=x'"), False),
    "anybody": (b"access_id_ANYBODY\n" + RIGHT + GOOD, True),
    "anybody first decides": (b"access_id_ANYBODY\n" + RIGHT + BAD + USUAL, False),
    "another CA first": (ACCESS.replace(b"Spec CA", b"X") + RIGHT + BAD + USUAL, True),
    "another CA denied first": (
        ACCESS.replace(b"Spec CA", b"X") + b"neg_rights globus CA:sign\n" + USUAL,
        True,
    ),
    "another CA without rights first": (ACCESS.replace(b"Spec CA", b"X") + USUAL, True),
    "this CA without rights": (ACCESS + ACCESS.replace(b"Spec CA", b"X") + RIGHT + GOOD, False),
    "second entry of this CA allows": (ACCESS + RIGHT + BAD + USUAL, True),
    "second entry of this CA does not": (USUAL + ACCESS + RIGHT + BAD, True),
    "a right before any entry": (RIGHT + USUAL, False),
    "an entry cut off": (USUAL + b"access_id_CA X509\n", False),
    "an unknown condition that would match": (
        ACCESS + RIGHT + b"cond_time globus '/O=Spec/*'\n",
        False,
    ),
    "negative right": (ACCESS + b"neg_rights globus CA:sign\n" + GOOD, False),
    "junk behind": (USUAL + b"junk\n", False),
    "no condition": (ACCESS + RIGHT, True),
    "no right": (ACCESS + GOOD, False),
    "no line feed at the end": (USUAL[:-1], False),
    "blank at the end": (USUAL[:-1] + b" ", True),
    "comment without line feed": (USUAL + b"# the end", True),
    "DOS line ends": (USUAL.replace(b"\n", b"\r\n"), True),
    "one line": (USUAL.replace(b"\n", b" ") + b"\n", True),
    "form feeds": (USUAL.replace(b" globus ", b"\fglobus\v"), True),
    "comment behind a word": (ACCESS + b"pos_rights globus CA:sign # yes\n" + GOOD, True),
    "hash inside a word": (ACCESS + b"pos_rights globus CA:sign#yes\n" + GOOD, False),
    "backslash before a letter": (cond(b"'/O=Sp\\ec/*'"), True),
    "escaped quote": (cond(b"'/O=Sp\\'ec/*'"), False),
    "quote inside a word": (cond(b"/O='Spec'/*"), False),
    "quote not closed": (cond(b"'/O=Spec/*"), False),
    "two stars": (cond(b"'/O=*/CN=*'"), False),
    "two stars together": (cond(b"'/O=Spec/**'"), False),
    "star alone": (cond(b"'*'"), True),
    "star for nothing": (cond(b"'/O=Spec/CN=Bob*'"), False),
    "star in the middle": (cond(b"'/O=Spec/*=Bob'"), True),
    "star that would overlap": (cond(b"'/O=Spec/CN=Bo*ob'"), False),
    "exact": (cond(b"'/O=Spec/CN=Bob'"), True),
    "exact in double quotes": (cond(b"'\"/O=Spec/CN=Bob\"'"), True),
    "empty pattern": (cond(b"''"), False),
    "empty pattern in double quotes": (cond(b"'\"\"'"), False),
    "other case": (cond(b"'/o=sPEC/cN=*'"), True),
    "question mark": (cond(b"'/O=Spec/CN=Bo?'"), False),
    "empty file": (b"", False),
    "comment only": (b"# x\n", False),
    "empty lines and indentation": (b"\n\n  " + ACCESS + b"\n\t" + RIGHT + b"\n" + GOOD, True),
    "wild card in the CA": (USUAL.replace(b"/CN=Spec CA", b"/*"), False),
    "double quotes in the CA": (USUAL.replace(b"'/O=Spec/CN=Spec CA'", b"'\"/O=Spec\"'"), False),
}


@pytest.mark.parametrize("case", AS_MEASURED)
def test_as_measured(case: str) -> None:
    policy, verdict = AS_MEASURED[case]
    assert allows(policy) is verdict


@pytest.mark.parametrize(
    ("subject", "pattern", "verdict"),
    [
        (r"/O=Spec/CN=\xC3\x85sa", rb"""'"/O=Spec/CN=\\\\xC3\\\\x85sa"'""", True),
        (r"/O=Spec/CN=\xC3\x85sa", rb"""'"/O=Spec/CN=\\xC3\\x85sa"'""", False),
        (r"/O=Spec/CN=\xC3\x85sa", "'/O=Spec/CN=Åsa'".encode(), False),
        (r"/O=Spec/CN=host\/a.b", rb"'/O=Spec/CN=host/a.b'", False),
        (r"/O=Spec/CN=host\/a.b", rb"'/O=Spec/CN=host\/a.b'", False),
        (r"/O=Spec/CN=host\/a.b", rb"'/O=Spec/CN=host*'", True),
        ("/O=Spec/emailAddress=a@b", b"'/O=Spec/E=a@b'", True),
        ("/O=Spec/emailAddress=a@b", b"'/O=Spec/e*'", True),
        ("/O=Spec/UID=u1/CN=x", b"'/O=Spec/UID=*'", True),
        ("/O=Spec/UID=u1/CN=x", b"'/O=Spec/UID*'", True),
    ],
)
def test_spelling_as_measured(subject: str, pattern: bytes, verdict: bool) -> None:
    assert allows(cond(pattern), subject) is verdict


def test_attribute_types_have_several_names() -> None:
    """The reference maps them in exact patterns only; the rule is the same for all here."""
    assert allows(cond(b"'/O=Spec/Email=*'"), "/O=Spec/emailAddress=a@b")
    assert allows(cond(b"'/O=Spec/USERID=*'"), "/O=Spec/UID=u1/CN=x")
    assert allows(ACCESS.replace(b"/CN=", b"/E=") + RIGHT, BOB, "/O=Spec/emailAddress=spec ca")


@pytest.mark.parametrize(
    "policy",
    [
        ACCESS + RIGHT + RIGHT.replace(b"pos", b"neg") + GOOD,
        ACCESS + RIGHT + b"pos_rights globus CA:other\n" + GOOD,
        cond(b"'\"/O=No/*\" /O=Spec/*'"),
        cond(b"'\"/O=Spec/*'"),
        cond(b"'/O=Spec/*'x"),
        cond(b"'\"/O=Spec/*\" /O=No/*'"),
        USUAL + b"\0\n",
    ],
    ids=["positive and negative", "other right", "mixed", "unclosed", "joined", "mixed 2", "NUL"],
)
def test_stricter_than_the_reference(policy: bytes) -> None:
    assert not allows(policy)


def test_banned_subjects_are_explained() -> None:
    policy = SigningPolicy.parse(USUAL + b"cond_banned_subjects globus '/O=No/*'\n")
    with pytest.raises(PolicyError, match="cond_banned_subjects is not supported: remove it"):
        policy.check(CA, BOB)


def test_no_entry_is_explained() -> None:
    with pytest.raises(PolicyError, match="no entry for the CA /O=Other"):
        SigningPolicy.parse(USUAL).check("/O=Other", BOB)


def test_size_limit() -> None:
    with pytest.raises(PolicyError, match="too large"):
        SigningPolicy.parse(b"#" * (1 << 20) + b"\n")
