"""Loading the configuration file, and printing it.

`load_config` reads one TOML file against the models of `gatekeeper.settings`; whatever is wrong is
a `ConfigError` with one readable line per problem.  `reference` prints every key with its meaning,
`effective` what is in force.
"""

from __future__ import annotations

import difflib
import json
import os
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from gatekeeper.settings import Config, ServiceSettings
from gatekeeper.units import format_duration, format_size

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

__all__ = ["DEFAULT_PATH", "Config", "ConfigError", "effective", "load_config", "reference"]

DEFAULT_PATH = Path("/etc/gram/gram.toml")
MAX_FILE_SIZE = 2**20
_SECRET_KEYS = {"database"}


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one line for each thing wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_config(
    path: Path | None = None,
    *,
    uid: int | None = None,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read and check a configuration file; without a path, take the defaults.

    Who is not root (`uid`, the process's own by default) gets defaults of their own for paths that
    the file leaves out.  Nothing is checked on disk but the file itself.  Raises ConfigError.
    """
    uid = os.geteuid() if uid is None else uid
    where = "defaults" if path is None else str(path)
    values = {} if path is None else _read(path)
    if uid != 0:
        environment = os.environ if environment is None else environment
        _fill(values, _personal_defaults(uid, home or Path.home(), environment))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ConfigError(*(f"{where}: {_explain(item)}" for item in details)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
        if len(data) > MAX_FILE_SIZE:
            raise ConfigError(f"{path}: larger than {format_size(MAX_FILE_SIZE)}")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _personal_defaults(
    uid: int, home: Path, environment: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """Return what replaces the system's paths for a gatekeeper that a user runs."""
    own_authorities = home / ".globus/certificates"
    authorities = environment.get("X509_CERT_DIR") or (
        str(own_authorities) if own_authorities.is_dir() else "/etc/grid-security/certificates"
    )
    states = environment.get("XDG_STATE_HOME") or str(home / ".local/state")
    return {
        "gatekeeper": {
            "credential": environment.get("X509_USER_PROXY") or f"/tmp/x509up_u{uid}",  # noqa: S108 - where GSI programs keep the user's proxy; its owner and mode are checked on loading
            "trusted_certificates": authorities,
            "gridmap": str(home / ".gridmap"),
        },
        "state": {"directory": f"{states}/gram"},
        "service": {"minimum_uid": min(uid, 1000)},
    }


def _fill(values: dict[str, Any], defaults: Mapping[str, Mapping[str, object]]) -> None:
    for section, keys in defaults.items():
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            continue  # the models will say so
        if section == "gatekeeper" and {"certificate", "private_key"} & table.keys():
            keys = {name: value for name, value in keys.items() if name != "credential"}
        for name, value in keys.items():
            table.setdefault(name, value)


# --- problems -----------------------------------------------------------------------------------


def _explain(error: ErrorDetails) -> str:
    """Turn one pydantic error into: key, what is wrong, what is allowed."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    key = ".".join(location)
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            keys = tuple(_model_at(location[:-1]).model_fields)
            near = difflib.get_close_matches(location[-1], keys, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"{key}: unknown key{hint}; allowed: {', '.join(keys)}"
        case "missing":
            return f"{key}: must be given"
        case "value_error":
            prefix = f"{key}: " if location else ""
            return f"{prefix}{_shown(location, error['input'])}{context['error']}"
        case "literal_error":
            expected = str(context["expected"]).replace("'", '"')
            return f"{key}: {_shown(location, error['input'])}not known; allowed: {expected}"
        case "model_type" | "mapping_type":
            return f"{key}: must be a table, [{key}]"
        case "too_short":
            return f"{key}: must have at least one table, such as [services.jobmanager-fork]"
        case _:
            allowed = _kind(_model_at(location[:-1]).model_fields[location[-1]])
            return f"{key}: {_shown(location, error['input'])}not allowed; write: {allowed}"


def _shown(location: list[str], value: object) -> str:
    if not location or location[-1] in _SECRET_KEYS or isinstance(value, dict):
        return ""
    text = json.dumps(value, default=str)
    return f"{text if len(text) <= 80 else text[:79] + '…'}: "


def _model_at(location: list[str]) -> type[BaseModel]:
    if not location:
        return Config
    if location[0] == "services":
        return ServiceSettings
    section = Config.model_fields[location[0]].annotation
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        raise TypeError(f"{location[0]} is no section")
    return section


# --- printing -----------------------------------------------------------------------------------


def effective(config: Config) -> str:
    """Print the configuration in force as TOML, a password in the database URL hidden."""
    lines: list[str] = []
    for name in Config.model_fields:
        section = getattr(config, name)
        tables = (
            [(f"services.{service}", settings) for service, settings in section.items()]
            if name == "services"
            else [(name, section)]
        )
        for title, table in tables:
            lines += ["", f"[{title}]", *_effective_keys(table)]
    return "\n".join(lines[1:]) + "\n"


def _effective_keys(table: BaseModel) -> Iterator[str]:
    replaced = {"certificate", "private_key"} if getattr(table, "credential", None) else set()
    for key, field in type(table).model_fields.items():
        if key in replaced:
            continue
        value = getattr(table, key)
        if key in _SECRET_KEYS:
            value = _without_password(value)
        text = _toml(value, field)
        if text is not None:
            yield f"{key} = {text}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is not None:
        netloc = f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"
        parts = parts._replace(netloc=netloc)
    if "password" in parts.query.lower():
        parts = parts._replace(query="***")
    return urlunsplit(parts)


def _toml(value: object, field: FieldInfo) -> str | None:
    """Print a value as TOML; None where the key is left out."""
    match value:
        case None:
            return '"off"' if '"off"' in _kind(field) else None
        case bool():
            return "true" if value else "false"
        case timedelta():
            return json.dumps(format_duration(value))
        case int():
            return json.dumps(format_size(value)) if "size" in field.metadata else str(value)
        case tuple():
            return f"[{', '.join(_quote(str(item)) for item in value)}]"
        case _:
            return _quote(str(value))


def _quote(text: str) -> str:
    """Print a string as TOML; JSON's differ in DEL only."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _kind(field: FieldInfo) -> str:
    """Return what a key's values are, in words."""
    words = [item for item in field.metadata if isinstance(item, str)]
    annotation: object = field.annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = next(arm for arm in typing.get_args(annotation) if arm is not type(None))
        words += [item for item in typing.get_args(inner)[1:] if isinstance(item, str)]
    if words:
        return words[0]
    if typing.get_origin(annotation) is Literal:
        return " or ".join(json.dumps(item) for item in typing.get_args(annotation))
    return "true or false" if annotation is bool else "text"


_HEADER = """\
Configuration of the gram service.  Every key is here with its default; a line that starts with
"#" and a key is a setting that is not set: remove the "#" to set it.  Unknown keys are refused.
Durations have a unit (ms, s, m, h, d, w), sizes too (B, KiB, MiB, GiB), rates are "600/min".
"""


def reference() -> str:
    """Print every key with its type, default and meaning: a TOML file that says the defaults."""
    lines = [f"# {line}" for line in _HEADER.splitlines()]
    for name in Config.model_fields:
        title = "services.jobmanager-fork" if name == "services" else name
        model = _model_at([name])
        lines += ["", "", f"[{title}]", *_comment(model.__doc__ or "")]
        for key, setting in model.model_fields.items():
            lines += ["", *_reference_key(key, setting)]
    return "\n".join(lines) + "\n"


def _reference_key(key: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(field.description or "")
    yield f"# ({_kind(field)})"
    if field.is_required():
        yield f'{key} = "fork"'
        return
    text = _toml(field.default, field)
    if text is None:
        extra = field.json_schema_extra
        text = str(extra["example"]) if isinstance(extra, dict) else '""'
    yield f"#{key} = {text}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 96)]
