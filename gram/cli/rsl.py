"""`gram rsl`: check, format and explain specifications; no server is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gram.cli.report import Json, Value, note, reporting, show, show_json
from gram.cli.source import File, Text, exit_with, parse_or_exit, read_rsl, show_place

if TYPE_CHECKING:
    from rsl import RSLError, Specification, schema

app = typer.Typer(help="Check, format and explain RSL.", no_args_is_help=True)

MAX_DEPTH = 20
"""Booleans nested deeper than this are printed on one line."""


@app.command()
def check(
    rsl: Text = None,
    file: File = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take warnings as errors: exit code 48.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check syntax and attributes, as a service with the fork adapter would.

    Services take what the reference takes, some of which is surely a mistake: that gives warnings.
    Whether files exist is not checked, and batch systems may know further attributes.
    """
    from gram.client.advice import Side
    from gram.client.errors import GramClientError
    from protocol.errors import GramError

    data = read_rsl(rsl, file)
    parse_or_exit(data, as_json=as_json)
    warning = _warning(data)
    if warning is not None and strict:
        exit_with(warning, data, as_json=as_json)
    with reporting(as_json=as_json):
        try:
            _describe(data)
        except GramError as error:
            raise GramClientError(error.code, error.message, Side.HERE) from error
    if as_json:
        show_json({"ok": True, "warning": None if warning is None else str(warning)})
        return
    if warning is not None:
        note(f"gram: warning: {warning}")
        show_place(warning, data)
    show("the specification is fine" if warning is None else "accepted, with a warning")


def _describe(data: bytes) -> None:
    """Do what a service does with a request; variables have made-up values.  Raises GramError."""
    from jobmanager.description import describe
    from jobmanager.environment import Site, job_symbols, symbols
    from protocol.errors import GramError

    site = Site("ce.example.org", 2119, "/CN=ce.example.org")
    common = symbols(site, identity="/CN=you", account="you", home="/home/you")
    all_symbols = job_symbols(
        common, job="1/2", contact="https://ce.example.org:7512/1/2/", directory="/home/you/job"
    ) | {"SCRATCH_DIRECTORY": "/home/you/scratch", "GLOBUSRUN_GASS_URL": "https://you:7513"}
    description = describe(data.decode("utf-8", "surrogateescape"), all_symbols)
    for code, message in description.deferred:
        raise GramError(code, message)


def _warning(data: bytes) -> RSLError | None:
    """Return what strict parsing has against a specification that the reference accepts."""
    import rsl as language

    try:
        language.parse(data, mode="strict")
    except language.RSLError as error:
        return error
    return None


@app.command("format")
def format_(
    rsl: Text = None,
    file: File = None,
    one_line: Annotated[
        bool, typer.Option("--one-line", help="The form in which globusrun sends it.")
    ] = False,
) -> None:
    """Print a specification with one relation a line.  Its meaning stays; comments are lost."""
    import rsl as language

    data = read_rsl(rsl, file)
    spec = parse_or_exit(data)
    try:
        show(language.unparse(spec) if one_line else "\n".join(_lines(spec)))
    except language.RSLError as error:
        exit_with(error, data)


def _lines(spec: Specification, depth: int = 0) -> list[str]:
    import rsl as language

    indent = "  " * depth
    if isinstance(spec, language.Relation) or depth > MAX_DEPTH:
        return [indent + language.unparse(spec)]
    lines = [indent + spec.op]
    for operand in spec.operands:
        inner = _lines(operand, depth + 1)
        inner[0] = f"{indent}  ({inner[0].lstrip()}"
        inner[-1] += ")"
        lines += inner
    return lines


@app.command()
def reference(
    attribute: Annotated[
        str | None, typer.Argument(help="Only this attribute; spelling and case do not matter.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the attributes that every service accepts, with values, defaults and error codes."""
    import rsl as language
    from rsl import schema

    rows = list(schema.ROWS)
    if attribute is not None:
        wanted = language.canonical_name(attribute)
        rows = [row for row in rows if row.name == wanted]
        if not rows:
            raise typer.BadParameter(f"{attribute!r} is not in the table", param_hint="ATTRIBUTE")
    if as_json:
        show_json({row.name: _row_values(row) for row in rows})
        return
    for row in rows:
        show(f"{row.spelling}\n    {row.description}; {_takes(row)}{_default(row)}")
        show(f"    errors: {row.type_error} wrong form, {row.value_error} wrong value")


def _takes(row: schema.Attribute) -> str:
    return " or ".join(row.allowed) if row.allowed else row.kind.value


def _default(row: schema.Attribute) -> str:
    if row.default is None:
        return "; required" if row.required else ""
    return f"; default {_printed(row)}"


def _printed(row: schema.Attribute) -> str:
    import rsl as language

    relation = language.Relation(row.spelling, "=", row.default or ())
    return language.unparse(relation).partition(" = ")[2].strip()


def _row_values(row: schema.Attribute) -> dict[str, Value]:
    return {
        "spelling": row.spelling,
        "description": row.description,
        "value": row.kind.value,
        "allowed": list(row.allowed),
        "default": None if row.default is None else _printed(row),
        "required": row.required,
        "phases": sorted(phase.value for phase in row.phases),
        "type_error": row.type_error,
        "value_error": row.value_error,
    }
