"""RSL from the command line or a file, and its mistakes shown to the user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

from gram.cli.report import note, show_json

if TYPE_CHECKING:
    from rsl import RSLError, Specification

Text: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="RSL", help="The specification; - reads standard input.")
]
File: TypeAlias = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the RSL from a file.")
]

BAD_RSL = 48
MAX_SHOWN = 100
"""Bytes of an erroneous line that are printed."""


def read_rsl(text: str | None, file: Path | None) -> bytes:
    """Return the specification's bytes.  Exits with a usage error unless one source is given."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give either an RSL or --file", param_hint="RSL")
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--file") from error
    if text == "-":
        return sys.stdin.buffer.read()
    return (text or "").encode("utf-8", "surrogateescape")


def parse_or_exit(data: bytes, *, as_json: bool = False) -> Specification:
    """Parse as the reference does; mistakes are shown with their place, exit code 48."""
    import rsl

    try:
        return rsl.parse(data)
    except rsl.RSLError as error:
        exit_with(error, data, as_json=as_json)


def exit_with(error: RSLError, data: bytes, *, as_json: bool = False) -> NoReturn:
    """Show a mistake with its place and exit with its code (48 unless it has one)."""
    code = getattr(error, "code", BAD_RSL)
    if as_json:
        show_json(
            {
                "error": {
                    "code": code,
                    "message": str(error),
                    "offset": getattr(error, "offset", None),
                    "line": getattr(error, "line", None),
                    "column": getattr(error, "column", None),
                }
            }
        )
    else:
        note(f"gram: error {code}: {error}")
        show_place(error, data)
    raise typer.Exit(code)


def show_place(error: RSLError, data: bytes) -> None:
    """Print the line in question with a caret below the byte, if the error has a place."""
    line, column = getattr(error, "line", None), getattr(error, "column", None)
    if line is None or column is None:
        return
    lines = data.split(b"\n")
    text = lines[line - 1] if line <= len(lines) else b""
    first = max(0, column - MAX_SHOWN // 2)
    before = _printable(text[first : column - 1])
    rest = _printable(text[column - 1 : first + MAX_SHOWN])
    note(f"  {before}{rest}")
    note(f"  {' ' * len(before)}^")


def _printable(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else " " for char in text)
