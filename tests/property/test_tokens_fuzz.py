"""Properties of token framing: cuts do not matter, any bytes end in an error or wait."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.gsi.tokens import MAX_RECORD, MAX_TOKEN, TokenError, TokenReader, wrap_token

records = st.builds(
    lambda kind, minor, body: bytes([kind, 3, minor]) + len(body).to_bytes(2, "big") + body,
    st.integers(20, 23),
    st.integers(0, 4),
    st.binary(min_size=1, max_size=200),
)
tokens = st.lists(st.tuples(st.lists(records, min_size=1, max_size=4), st.booleans()), max_size=6)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(tokens, st.lists(st.integers(min_value=0), max_size=12))
def test_every_segmentation_of_every_framing_gives_the_records(
    sequence: list[tuple[list[bytes], bool]], cuts: list[int]
) -> None:
    plain = b"".join(b"".join(parts) for parts, _ in sequence)
    stream = b"".join(
        wrap_token(b"".join(parts)) if prefixed else b"".join(parts) for parts, prefixed in sequence
    )
    reader = TokenReader()
    assert b"".join(reader.feed(piece) for piece in cut(stream, cuts)) == plain


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=64) | records | records.map(wrap_token), max_size=8))
def test_any_bytes_give_records_an_error_or_nothing(pieces: list[bytes]) -> None:
    reader, output = TokenReader(), bytearray()
    try:
        for piece in pieces:
            output += reader.feed(piece)
    except TokenError:
        return
    while output:
        assert output[0] in range(20, 24)
        assert output[1] == 3
        length = int.from_bytes(output[3:5], "big")
        assert 0 < length <= MAX_RECORD
        assert len(output) >= 5 + length
        del output[: 5 + length]


@given(st.binary(min_size=1, max_size=40), st.lists(st.integers(min_value=0), max_size=5))
def test_the_verdict_does_not_depend_on_segmentation(data: bytes, cuts: list[int]) -> None:
    def verdict(pieces: list[bytes]) -> bytes | None:
        reader = TokenReader()
        try:
            return b"".join([reader.feed(piece) for piece in pieces])
        except TokenError:
            return None

    assert verdict([data]) == verdict(cut(data, cuts))


@given(st.integers(0, 2**32 - 1))
def test_token_lengths(length: int) -> None:
    first = length >> 24
    try:
        TokenReader().feed(length.to_bytes(4, "big"))
    except TokenError:
        assert not (first == 0 and 5 < length <= MAX_TOKEN)
    else:
        assert first == 0 or (20 <= first <= 23 and (length >> 16) & 0xFF == 3)
