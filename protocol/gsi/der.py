"""Strict DER: just enough to read names and extensions, and to write proxies and requests.

The reader accepts definite, minimal lengths and tags below 31, which is all that X.509 uses.
"""

from __future__ import annotations

from typing import NamedTuple

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
NUMERIC_STRING = 0x12
PRINTABLE_STRING = 0x13
T61_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
VISIBLE_STRING = 0x1A
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

_HIGH_TAG = 0x1F


class DERError(ValueError):
    """The bytes are not the DER structure that was expected."""


class Element(NamedTuple):
    """One tag-length-value: its tag byte, its content, and the whole encoding."""

    tag: int
    content: bytes
    encoded: bytes


def read(data: bytes, offset: int = 0) -> tuple[Element, int]:
    """Read the element that starts at `offset`; return it with the offset behind it.

    Raises DERError.
    """
    if offset + 2 > len(data):
        raise DERError("truncated element")
    tag, length = data[offset], data[offset + 1]
    if tag & _HIGH_TAG == _HIGH_TAG:
        raise DERError("multi-byte tag")
    start = offset + 2
    if length >= 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        if length < 0x80 or data[start] == 0:
            raise DERError("length is indefinite or not minimal")
        start += count
    end = start + length
    if end > len(data):
        raise DERError("truncated content")
    return Element(tag, data[start:end], data[offset:end]), end


def elements(data: bytes) -> list[Element]:
    """Read the elements that follow one another in `data`, up to its end.  Raises DERError."""
    found = []
    offset = 0
    while offset < len(data):
        item, offset = read(data, offset)
        found.append(item)
    return found


def element(data: bytes, tag: int) -> bytes:
    """Return the content of the one element that `data` consists of.

    Raises DERError when the tag differs or bytes follow.
    """
    item, end = read(data)
    if item.tag != tag or end != len(data):
        raise DERError(f"expected one element with tag 0x{tag:02x}")
    return item.content


def members(data: bytes, tag: int = SEQUENCE) -> list[Element]:
    """Return the members of the one constructed element that `data` consists of."""
    return elements(element(data, tag))


def decode_integer(item: Element) -> int:
    """Return the value of an INTEGER element.  Raises DERError."""
    if item.tag != INTEGER or not item.content:
        raise DERError("expected an INTEGER")
    if len(item.content) > 1 and (item.content[0], item.content[1] >> 7) in ((0, 0), (0xFF, 1)):
        raise DERError("integer is not minimal")
    return int.from_bytes(item.content, "big", signed=True)


def decode_oid(item: Element) -> str:
    """Return the dotted decimal form of an OBJECT IDENTIFIER element.  Raises DERError."""
    content = item.content
    if item.tag != OBJECT_IDENTIFIER or not content or content[-1] & 0x80:
        raise DERError("expected an OBJECT IDENTIFIER")
    arcs = []
    value = 0
    start = True
    for byte in content:
        if start and byte == 0x80:
            raise DERError("object identifier is not minimal")
        value = value << 7 | byte & 0x7F
        start = not byte & 0x80
        if start:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))


def encode(tag: int, *parts: bytes) -> bytes:
    """Encode an element whose content is the concatenation of `parts`."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def encode_integer(value: int) -> bytes:
    """Encode an INTEGER."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return encode(INTEGER, value.to_bytes(size, "big", signed=True))


def encode_oid(dotted: str) -> bytes:
    """Encode an OBJECT IDENTIFIER given in dotted decimal form."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return encode(OBJECT_IDENTIFIER, bytes(content))
