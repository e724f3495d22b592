"""What the examples do not cover: bytes, positions of errors, the two modes."""

import pytest

import rsl


def test_text_and_bytes_are_the_same() -> None:
    assert rsl.parse("x=é") == rsl.parse("x=é".encode()) == rsl.parse(b"x=\xc3\xa9")


def test_every_byte_survives() -> None:
    data = bytes(set(range(1, 256)) - {ord('"')})
    spec = rsl.parse(b'x="' + data + b'" ')
    assert rsl.get_single(spec, "x") == data.decode("utf-8", "surrogateescape")
    assert rsl.unparse(spec).encode("utf-8", "surrogateescape") == b'"x" = "' + data + b'" '


def test_delimiter_is_one_byte() -> None:
    spec = rsl.parse("x=^éaé ")
    assert rsl.get_multi(spec, "x") == ("\udca9a", "\udca9")


def test_byte_order_mark_belongs_to_the_name() -> None:
    assert rsl.find(rsl.parse("\ufeffx=1"), "\ufeffx") is not None


def test_nul_ends_the_text() -> None:
    assert rsl.parse("x=1\0)))") == rsl.parse("x=1")
    with pytest.raises(rsl.RSLSyntaxError) as caught:
        rsl.parse("x=1\0)))", mode="strict")
    assert caught.value.offset == 3


def test_surrogate_that_stands_for_no_byte() -> None:
    with pytest.raises(rsl.RSLSyntaxError) as caught:
        rsl.parse("é=\ud800")
    assert caught.value.offset == 3


@pytest.mark.parametrize(
    ("text", "offset", "line", "column"),
    [
        ("", 0, 1, 1),
        ("&(x=1)\n(y)", 9, 2, 3),
        ("&(x=é)\n\n  )", 11, 3, 3),
        ("&(x=1)\n(y=\n", 11, 3, 1),
        ("&(x=1)\n(y=~", 10, 2, 4),
    ],
)
def test_errors_say_where(text: str, offset: int, line: int, column: int) -> None:
    with pytest.raises(rsl.RSLSyntaxError) as caught:
        rsl.parse(text)
    error = caught.value
    assert (error.offset, error.line, error.column) == (offset, line, column)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=1)", "unexpected ')' at byte 3 (expected end of input)"),
        ("&(x=(a)#b)", "unexpected '#' at byte 7 (expected value or ')')"),
        ("&(x=1)y", "unexpected string at byte 6 (expected '(' or end of input)"),
        ("&(x=1)\n)", "unexpected ')' at byte 7, line 2 (expected end of input)"),
    ],
)
def test_errors_say_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(rsl.RSLSyntaxError) as caught:
        rsl.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["x=1 'a", "x=1 ^", "x=1 (* c", "x=1 ?", "x=^\na"])
def test_strict_mode_refuses_what_was_not_read(text: str) -> None:
    with pytest.raises(rsl.RSLSyntaxError):
        rsl.parse(text, mode="strict")


@pytest.mark.parametrize("text", ["x='a'", 'x=1 "a"', "&(x=1) (* c *)", "x=^*a*"])
def test_strict_mode_reads_to_the_end(text: str) -> None:
    assert rsl.parse(text, mode="strict") == rsl.parse(text + " ")


def test_syntax_errors_do_not_quote_the_text() -> None:
    """They end up in logs, and an RSL may hold secrets."""
    with pytest.raises(rsl.RSLSyntaxError) as caught:
        rsl.parse("&(environment=(PASSWORD secret)) secret")
    assert "secret" not in str(caught.value)
