"""Log records: one line each, no control bytes, no secrets (gatekeeper.md 15, 21).

Everything goes to standard error, ours (structlog) and that of libraries (`logging`, warnings).
What clients send may be logged as it is: here it is cut, escaped and searched for private keys.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, TextIO

import structlog

MAX_TEXT = 4096
REDACTED = "[redacted]"
_MAX_DEPTH = 4
_MAX_ITEMS = 100

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:proxy|key|pem|credential|password|passphrase|passwd|secret|token|cookie)$"
    r"|^authorization$",
    re.IGNORECASE,
)
# Up to the end mark, or all the rest: a cut key is a key too.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
# Bounded parts: what a client makes us log must not cost quadratic time.
_PASSWORD_IN_URL = re.compile(r"(://[^\s/:@]{0,64}):[^\s/@]{1,256}@")
# C0, DEL, C1, line and paragraph separators, bidirectional controls, lone surrogates.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_BYTES = (bytes, bytearray, memoryview)

Record = MutableMapping[str, Any]


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    format: Literal["json", "console"],  # noqa: A002 - named as the configuration's key
    stream: TextIO | None = None,
) -> None:
    """Send all records of this process to a stream (standard error); may be called again."""
    minimum = logging.getLevelNamesMapping()[level.upper()]
    lines = LineWriter(sys.stderr if stream is None else stream)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        clean,
    ]
    render = _render_json if format == "json" else _render_console
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        ),
        lines,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(minimum, logging.INFO))  # libraries' debug records may hold anything
    logging.captureWarnings(capture=True)


class LineWriter:
    """A structlog logger: writes each record as one line in one call.

    A stream that cannot be written (full disk, closed pipe) loses records, never the service.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        """Write a line."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


class _Handler(logging.Handler):
    def __init__(self, formatter: logging.Formatter, lines: LineWriter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):  # the arguments do not fit the text
            about = {"level": "warning", "event": "log.unformattable", "logger": record.name}
            line = _render_json(None, "", about)
        self._lines.msg(line)


# --- processors -----------------------------------------------------------------------------------


def clean(_logger: object, _method: str, record: Record) -> Record:
    """Replace every value by what may be seen: cut, escaped, without secrets."""
    return {
        _text(name): value if name in ("_record", "_from_structlog") else _clean(name, value, 0)
        for name, value in record.items()
    }


def _clean(name: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS] if depth < _MAX_DEPTH else []
        return {_text(str(key)): _clean(str(key), item, depth + 1) for key, item in items}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, (str, *_BYTES)):
        some = list(value)[:_MAX_ITEMS] if depth < _MAX_DEPTH else []
        return [_clean("", item, depth + 1) for item in some]
    if isinstance(value, _BYTES):
        value = bytes(value[: 2 * MAX_TEXT]).decode("latin-1")
    return _text(str(value), keep_lines=name in ("exception", "stack"))


def _text(text: str, *, keep_lines: bool = False) -> str:
    if "PRIVATE KEY-----" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    if "://" in text:
        text = _PASSWORD_IN_URL.sub(r"\1:***@", text)
    if len(text) > MAX_TEXT:
        cut = len(text) - MAX_TEXT
        # Of a traceback the end says most.
        text = (
            f"…{cut} more… {text[-MAX_TEXT:]}" if keep_lines else f"{text[:MAX_TEXT]} …{cut} more"
        )
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(_escape_but_lines if keep_lines else _escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def _escape_but_lines(match: re.Match[str]) -> str:
    return "\n" if match[0] == "\n" else _escape(match)


def _render_json(_logger: object, _method: str, record: Record) -> str:
    first = {name: record.pop(name) for name in ("time", "level", "event") if name in record}
    return json.dumps({**first, **record})


def _render_console(_logger: object, _method: str, record: Record) -> str:
    time = record.pop("time", "")
    level = record.pop("level", "")
    event = record.pop("event", "")
    trace = record.pop("exception", None)
    pairs = "".join(f" {name}={_quoted(value)}" for name, value in record.items())
    line = f"{time} {level:<8}{event}{pairs}"
    return line if trace is None else "\n    | ".join([line, *trace.split("\n")])


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if text and " " not in text and "=" not in text else json.dumps(text)
