"""The DER reader is strict."""

import pytest

from protocol.gsi import der
from protocol.gsi.der import DERError


@pytest.mark.parametrize(
    "data",
    [
        "30",
        "3001",
        "300200",
        "30810105",  # length below 0x80 in the long form
        "30820005" + "00" * 5,  # leading zero in the length
        "3083000080" + "00" * 128,
        "3080" + "0000",  # indefinite length
        "30850000000001" + "00",  # five octets of length
        "3084ffffffff",
        "3082",
        "308201",
        "1f0100",  # multi-byte tag
        "bf8101" + "00",
    ],
)
def test_bad_elements(data: str) -> None:
    with pytest.raises(DERError):
        der.elements(bytes.fromhex(data))


def test_long_lengths() -> None:
    for size in (0, 127, 128, 255, 256, 65535, 65536):
        encoded = der.encode(der.OCTET_STRING, b"x" * size)
        assert der.element(encoded, der.OCTET_STRING) == b"x" * size
        with pytest.raises(DERError):
            der.element(encoded + b"\0", der.OCTET_STRING)
        with pytest.raises(DERError):
            der.element(encoded, der.UTF8_STRING)


@pytest.mark.parametrize("data", ["0200", "040100", "02020001", "0202ff80", "02020000"])
def test_bad_integers(data: str) -> None:
    with pytest.raises(DERError):
        der.decode_integer(der.read(bytes.fromhex(data))[0])


@pytest.mark.parametrize(
    ("data", "value"),
    [("020100", 0), ("02017f", 127), ("02020080", 128), ("0201ff", -1), ("020180", -128)],
)
def test_integers(data: str, value: int) -> None:
    assert der.decode_integer(der.read(bytes.fromhex(data))[0]) == value
    assert der.encode_integer(value).hex() == data


@pytest.mark.parametrize("data", ["0600", "04012a", "06022a80", "0603802a01", "06042a800101"])
def test_bad_object_identifiers(data: str) -> None:
    with pytest.raises(DERError):
        der.decode_oid(der.read(bytes.fromhex(data))[0])


@pytest.mark.parametrize(
    ("data", "dotted"),
    [("06032a0304", "1.2.3.4"), ("0603883701", "2.999.1"), ("060100", "0.0"), ("06014f", "1.39")],
)
def test_object_identifiers(data: str, dotted: str) -> None:
    assert der.decode_oid(der.read(bytes.fromhex(data))[0]) == dotted
    assert der.encode_oid(dotted).hex() == data
