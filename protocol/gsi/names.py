"""Distinguished names: the slash form, comparison, and the CA directory's hash.

Functions take a `cryptography` name or its DER (`bytes`).  The DER is what a certificate carries:
the slash form shows encoded octets, so the string types must not be lost (wire-protocol.md 2.4).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from cryptography import x509

from protocol.gsi import der

AnyName: TypeAlias = x509.Name | bytes

COMMON_NAME = "2.5.4.3"

# Two types that differ only in the case of their short names would make comparison_key ambiguous,
# so "uid" (0.9.2342.19200300.100.1.44) is left in dotted form.
SHORT_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.18": "postOfficeBox",
    "2.5.4.19": "physicalDeliveryOfficeName",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.51": "houseIdentifier",
    "2.5.4.54": "dmdName",
    "2.5.4.65": "pseudonym",
    "2.5.4.72": "role",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.3": "mail",
    "0.9.2342.19200300.100.1.9": "host",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.37": "associatedDomain",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.2.840.113549.1.9.8": "unstructuredAddress",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
}

_ENCODINGS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.T61_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.NUMERIC_STRING: "ascii",
    der.VISIBLE_STRING: "ascii",
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
}
_WIDE_STRINGS = (der.BMP_STRING, der.UNIVERSAL_STRING)


class DNError(ValueError):
    """The bytes are not a name, or the name cannot serve as an identity."""


class Attribute(NamedTuple):
    """One attribute of a name: dotted type, string tag, and the encoded octets of the value."""

    type: str
    tag: int
    value: bytes


Relative: TypeAlias = tuple[Attribute, ...]


def name_der(name: AnyName) -> bytes:
    """Return the DER of a name."""
    return name if isinstance(name, bytes) else name.public_bytes()


@lru_cache(maxsize=512)
def _parse(name: bytes) -> tuple[Relative, ...]:
    try:
        return tuple(
            tuple(map(_attribute, der.members(rdn.encoded, der.SET))) for rdn in der.members(name)
        )
    except der.DERError as error:
        raise DNError(f"not a distinguished name: {error}") from error


def _attribute(item: der.Element) -> Attribute:
    pair = der.members(item.encoded)
    if len(pair) != 2:
        raise der.DERError("attribute is not a pair")
    return Attribute(der.decode_oid(pair[0]), pair[1].tag, pair[1].content)


def relative_names(name: AnyName) -> tuple[Relative, ...]:
    """Return the attributes of each relative name, in encoding order.  Raises DNError."""
    return _parse(name_der(name))


def oneline_parts(name: AnyName) -> tuple[str, ...]:
    """Return the slash form of each relative name, without the leading slash."""
    return tuple("+".join(map(_show, rdn)) for rdn in relative_names(name))


def oneline(name: AnyName) -> str:
    r"""Return the slash form of a name, e.g. `/C=SE/O=X/CN=one+UID=two` (wire-protocol.md 2.4).

    Octets outside 0x20..0x7E appear as `\xHH`; a slash or plus inside a value as `\/`, `\+`.
    The result is printable ASCII.  Use `identity` for access decisions.
    """
    return "".join("/" + part for part in oneline_parts(name))


def _show(attribute: Attribute) -> str:
    text = "".join(
        chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in attribute.value
    )
    text = text.replace("/", "\\/").replace("+", "\\+")
    return f"{SHORT_NAMES.get(attribute.type, attribute.type)}={text}"


def identity(name: AnyName) -> str:
    """Return the slash form of a name, provided that no other name has the same one.

    The slash form does not escape backslashes and hides string types, so some pairs of names share
    it.  Refused (DNError): the empty name, and values with a backslash or control character,
    octets that are no text of their string type, non-text types, and wide strings without a zero
    octet.  What remains maps one to one, up to the choice among the single-byte string types.
    """
    rdns = relative_names(name)
    if not rdns or not all(rdns):
        raise DNError("the name is empty")
    for rdn in rdns:
        for attribute in rdn:
            problem = _ambiguity(attribute)
            if problem:
                raise DNError(f"{oneline(name)}: {problem}")
    return oneline(name)


def _ambiguity(attribute: Attribute) -> str | None:
    encoding = _ENCODINGS.get(attribute.tag)
    if encoding is None:
        return f"attribute {attribute.type} is not text"
    try:
        text = attribute.value.decode(encoding)
    except UnicodeDecodeError:
        return f"attribute {attribute.type} is not text of its type"
    if "\\" in text or any(char < " " or char == "\x7f" for char in text):
        return f"attribute {attribute.type} contains a backslash or control character"
    if attribute.tag in _WIDE_STRINGS and 0 not in attribute.value:
        return f"attribute {attribute.type} is a wide string that reads like a narrow one"
    return None


# A slash that is escaped is part of a value, not the start of an attribute.
_ALIASES = re.compile(r"(?<!\\)/(userid|uid|emailaddress|email|e)=")
_FULL_NAMES = {"uid": "userid", "e": "emailaddress", "email": "emailaddress"}


def comparison_key(dn: str) -> str:
    """Return what two slash-form names have in common when policy and grid-mapfile call them equal.

    ASCII case is folded; `/UID=` reads as `/USERID=`, `/E=` and `/Email=` as `/emailAddress=`
    (wire-protocol.md 2.4, gatekeeper.md 8.2).
    """
    folded = "".join(char.lower() if char.isascii() else char for char in dn)
    return _ALIASES.sub(lambda match: f"/{_FULL_NAMES.get(match[1], match[1])}=", folded)


@lru_cache(maxsize=512)
def canonical(name: bytes) -> bytes:
    """Return OpenSSL's canonical encoding of a name given in DER.

    Text becomes UTF-8 with ASCII case folded and white space trimmed and collapsed, sets are
    sorted, and the outer SEQUENCE header is absent.  Raises DNError.
    """
    return b"".join(
        der.encode(der.SET, *sorted(_canonical_attribute(item) for item in rdn))
        for rdn in _parse(name)
    )


def _canonical_attribute(attribute: Attribute) -> bytes:
    tag, value = attribute.tag, attribute.value
    encoding = _ENCODINGS.get(tag)
    if encoding is not None and tag != der.NUMERIC_STRING:  # OpenSSL leaves that one alone
        try:
            text = value.decode(encoding)
        except UnicodeDecodeError as error:
            raise DNError(f"attribute {attribute.type} is not text of its type") from error
        text = re.sub(r"[ \t\n\v\f\r]+", " ", text).strip(" ")
        tag, value = der.UTF8_STRING, text.encode().lower()  # bytes.lower() folds ASCII only
    return der.encode(der.SEQUENCE, der.encode_oid(attribute.type), der.encode(tag, value))


def subject_hash(name: AnyName) -> str:
    """Return the eight hex digits that name a CA's files (OpenSSL 1.0 and later).

    They are the first four octets, little-endian, of SHA-1 over `canonical`.  Raises DNError.
    """
    digest = hashlib.sha1(canonical(name_der(name)), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"
