"""Log records: one line each, no control bytes, no secrets."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.logs import MAX_TEXT, REDACTED, clean, configure_logging

KEY = """-----BEGIN RSA PRIVATE KEY-----
MIIEcanaryQIBAAKCAQEA
-----END RSA PRIVATE KEY-----"""
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def start(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["json", "console"] = "json",
) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, form, stream)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_a_json_object_on_a_line() -> None:
    stream = start()
    structlog.get_logger("gatekeeper").info("request.authorised", identity="/CN=A", count=3)
    (record,) = records(stream)
    assert list(record)[:3] == ["time", "level", "event"]
    assert record["time"].endswith("Z")
    del record["time"]
    assert record == {
        "level": "info",
        "event": "request.authorised",
        "identity": "/CN=A",
        "count": 3,
    }


def test_the_context_of_a_request_is_in_its_records() -> None:
    stream = start()
    log = structlog.get_logger("gatekeeper")
    with structlog.contextvars.bound_contextvars(request="ab12", peer="192.0.2.1"):
        log.info("one")
    log.info("two")
    one, two = records(stream)
    assert (one["request"], one["peer"]) == ("ab12", "192.0.2.1")
    assert "request" not in two


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels(level: Literal["debug", "info", "warning", "error"]) -> None:
    stream = start(level)
    log = structlog.get_logger("gatekeeper")
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(log, name)(name)
    assert [record["level"] for record in records(stream)] == names[names.index(level) :]


def test_a_level_can_be_changed_for_loggers_that_exist() -> None:
    log = structlog.get_logger("gatekeeper")
    first = start("error")
    log.info("hidden")
    second = start("debug")
    log.info("shown")
    assert records(first) == []
    assert [record["event"] for record in records(second)] == ["shown"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "text",
    [
        "x\n2026-11-21T00:00:00Z info forged",
        "x\r\nforged",
        "\x1b[2J\x1b]0;title\x07",
        "nul\0byte",
        "\x7f\x80\x9b31m",
        "line\u2028separator\u2029",
        "\u202egnp.exe\u2066",
        "surrogate \udcff \ud800",
    ],
)
def test_nothing_in_a_record_acts_on_a_terminal_or_forges_a_line(
    form: Literal["json", "console"], text: str
) -> None:
    stream = start(form=form)
    log = structlog.get_logger("gatekeeper")
    log.info(
        text, identity=text, nested={text: [text, {"a": text}]}, raw=text.encode("utf-8", "replace")
    )
    logging.getLogger("library").warning("%s", text)
    written = stream.getvalue()
    assert written.count("\n") == 2
    assert not set(written) & set("\r\0\x07\x1b\x7f\x80\x9b\u2028\u2029\u202e\u2066\udcff\ud800")
    if form == "json":
        for record in records(stream):
            shown = json.dumps(record, ensure_ascii=False)
            assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in shown)
            assert not set(shown) & set("\u2028\u2029\u202e\u2066\udcff\ud800")


@given(st.text(alphabet=st.characters()), st.binary())
def test_cleaning_leaves_no_control_character(text: str, data: bytes) -> None:
    record = clean(None, "", {"event": text, "data": data, "list": [text, data]})
    for value in (record["event"], record["data"], *record["list"]):
        assert value.isprintable() or not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value)
        value.encode()


def test_escapes_are_readable() -> None:
    record = clean(None, "", {"a": "x\ny\x1b\udcff\u2028é"})
    assert record["a"] == "x\\x0ay\\x1b\\xff\\u2028é"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"detail": KEY},
        {"detail": KEY.encode()},
        {"detail": f"{CERTIFICATE}\n{KEY}\n{CERTIFICATE}"},
        {"detail": KEY[: KEY.index("-----END")]},
        {"detail": "x" * 4000 + KEY},
        {"nested": {"a": [KEY, {"b": KEY}]}},
        {"deep": {"a": {"b": {"c": {"d": {"e": {"f": {"proxy": "canary", "g": KEY}}}}}}}},
        {"proxy": "canary"},
        {"key": "canary"},
        {"private_key": b"canary"},
        {"Password": "canary"},
        {"db_password": ["canary"]},
        {"credential": {"pem": "canary"}},
        {"inner": {"token": "canary"}},
        {"chain_pem": "canary"},
        {"Authorization": "Bearer canary"},
        {"database": "postgresql+psycopg://gram:canary@db/gram"},
    ],
)
def test_secrets_do_not_come_out(
    form: Literal["json", "console"], fields: dict[str, object]
) -> None:
    stream = start(form=form)
    structlog.get_logger("gatekeeper").info("something", **fields)
    assert "canary" not in stream.getvalue().replace("\n", "").replace("\\x0a", "")
    assert "something" in stream.getvalue()


def test_redaction_says_so_and_leaves_the_rest() -> None:
    stream = start()
    structlog.get_logger("x").info(
        "e", detail=f"before {KEY} after", key="k", monkey="m", keys=3, proxy=None
    )
    (record,) = records(stream)
    assert record["detail"] == f"before {REDACTED} after"
    assert (record["key"], record["monkey"], record["keys"]) == (REDACTED, "m", 3)
    assert record["proxy"] is None


@pytest.mark.parametrize("form", ["json", "console"])
def test_exceptions_keep_their_lines_and_lose_their_secrets(
    form: Literal["json", "console"],
) -> None:
    stream = start(form=form)
    try:
        raise ValueError(f"bad\n2026-11-21T00:00:00Z info forged\x1b[2J {KEY}")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    written = stream.getvalue()
    assert "canary" not in written
    assert "\x1b" not in written
    if form == "json":
        (record,) = records(stream)
        assert record["exception"].startswith("Traceback (most recent call last):\n")
        assert record["level"] == "error"
    else:
        first, *others = written.splitlines()
        assert "failed" in first
        assert all(line.startswith("    | ") for line in others)


def test_long_values_are_cut() -> None:
    stream = start()
    structlog.get_logger("x").info("e", identity="a" * 100_000, many=list(range(10_000)))
    (record,) = records(stream)
    assert record["identity"] == "a" * MAX_TEXT + f" …{100_000 - MAX_TEXT} more"
    assert len(record["many"]) == 100


@pytest.mark.parametrize(
    "piece", ["a.", "a://", "://a:", "-----BEGIN ", "-----BEGIN A PRIVATE KEY-----", "-", "\x1b"]
)
def test_long_values_take_no_long_time(piece: str) -> None:
    """A quadratic pattern would run into the time limit of the tests."""
    stream = start()
    structlog.get_logger("x").info("e", text="://" + "PRIVATE KEY-----" + piece * 500_000)
    assert len(stream.getvalue()) < 10 * MAX_TEXT


def test_values_of_any_kind() -> None:
    stream = start()
    structlog.get_logger("x").info(
        "e", none=None, yes=True, number=1.5, names={"a"}, error=OSError(2, "gone"), pair=(1, "b")
    )
    (record,) = records(stream)
    assert record["none"] is None
    assert record["yes"] is True
    assert record["number"] == 1.5
    assert record["names"] == ["a"]
    assert record["error"] == "[Errno 2] gone"
    assert record["pair"] == [1, "b"]


def test_libraries_log_in_the_same_form() -> None:
    stream = start("debug")
    logging.getLogger("aiohttp.server").error("handler %s\nfailed", KEY)
    logging.getLogger("aiohttp.server").debug("not shown: debug records may hold anything")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    error, warning = records(stream)
    assert error["logger"] == "aiohttp.server"
    assert error["event"] == f"handler {REDACTED}\\x0afailed"
    assert error["level"] == "error"
    assert "careful" in warning["event"]
    assert warning["level"] == "warning"


def test_a_library_record_that_cannot_be_formatted_is_reported() -> None:
    stream = start()
    logging.getLogger("library").warning("%d", "x")
    (record,) = records(stream)
    assert record["event"] == "log.unformattable"
    assert record["logger"] == "library"


class Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_log_that_cannot_be_written_does_not_stop_the_service(how: str) -> None:
    stream = Full() if how == "full" else io.StringIO()
    configure_logging("info", "json", stream)
    if how == "closed":
        stream.close()
    structlog.get_logger("x").info("e")
    logging.getLogger("library").warning("e")


def test_console_records_are_for_reading() -> None:
    stream = start(form="console")
    structlog.get_logger("x").warning("job.failed", job="a b", code=12, reason="é=1", empty="")
    line = stream.getvalue()
    assert line.endswith(' warning job.failed job="a b" code=12 reason="\\u00e9=1" empty=""\n')
