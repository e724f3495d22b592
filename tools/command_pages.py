"""The `gram` command as Markdown, from the functions and annotations that typer is given."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from gram.cli.app import app


def commands() -> str:
    """Every command with its arguments and options."""
    root = app.registered_callback
    options = root.callback if root is not None else None
    lines = ["## gram", "", _text(app.info.help), ""]
    lines += _table(list(_parameters(options)) if options is not None else [])
    return "\n".join([*lines, *_children(app, "gram", 2)])


def _children(group: typer.Typer, path: str, level: int) -> Iterator[str]:
    for command in group.registered_commands:
        yield from _command(command, path, level)
    for child in group.registered_groups:
        if child.typer_instance is not None:
            name = f"{path} {child.name}"
            yield from (f"{'#' * level} {name}", "", _text(child.typer_instance.info.help), "")
            yield from _children(child.typer_instance, name, level + 1)


def _command(command: CommandInfo, path: str, level: int) -> Iterator[str]:
    function = command.callback
    if function is None or command.hidden:
        return
    name = command.name or function.__name__.rstrip("_").replace("_", "-")
    parameters = list(_parameters(function))
    usage = [path, name, *(["[OPTIONS]"] if any(not item.usage for item in parameters) else [])]
    usage += [item.usage for item in parameters if item.usage]
    yield from (f"{'#' * level} {path} {name}", "", "```", " ".join(usage), "```", "")
    yield from (_text(inspect.getdoc(function)), "", *_table(parameters))


@dataclass(frozen=True)
class Parameter:
    """A row: how it is written, what it does; `usage` is empty for an option."""

    written: str
    help: str
    usage: str = ""


def _table(rows: list[Parameter]) -> list[str]:
    if not rows:
        return []
    return ["| | |", "|---|---|", *(f"| {row.written} | {row.help} |" for row in rows), ""]


def _parameters(function: Callable[..., object]) -> Iterator[Parameter]:
    """Arguments first, then options, each in the order of the function's signature."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *notes = typing.get_args(hints[name]) or (hints[name],)
        for note in notes:
            if isinstance(note, ArgumentInfo):
                found.append(_argument(name, note, parameter))
            elif isinstance(note, OptionInfo) and not note.hidden:
                found.append(_option(name, note, kind, parameter.default))
    yield from sorted(found, key=lambda row: not row.usage)


def _argument(name: str, note: ArgumentInfo, parameter: inspect.Parameter) -> Parameter:
    shown = (note.metavar or name.upper()).strip("[]")
    optional = parameter.default is not inspect.Parameter.empty
    return Parameter(f"`{shown}`", _text(note.help), f"[{shown}]" if optional else shown)


def _option(name: str, note: OptionInfo, kind: object, default: object) -> Parameter:
    plain = f"--{name.replace('_', '-')}"
    # In an annotation the first name is passed where a default would stand.
    given = [item for item in (note.default, *(note.param_decls or ())) if isinstance(item, str)]
    if not given:
        given = [plain, plain.replace("--", "--no-")] if kind is bool else [plain]
    names = ", ".join(f"`{item}`" for item in sorted(given, key=lambda item: item.startswith("--")))
    value = "" if kind is bool else f" `{note.metavar or _metavar(name, kind)}`"
    text = _text(note.help)
    if isinstance(kind, type) and issubclass(kind, Enum):
        text += f" One of {', '.join(f'`{item.value}`' for item in kind)}."
    shown = default.value if isinstance(default, Enum) else default
    text += "" if shown in (None, False) else f" Default: `{shown}`."
    return Parameter(names + value, text)


def _metavar(name: str, kind: object) -> str:
    inner = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return "NUMBER" if {int, float} & set(inner) else name.strip("_").upper()


def _text(text: object) -> str:
    words = " ".join(str(text or "").split())
    return words.replace("<", "&lt;").replace("|", "&#124;")
