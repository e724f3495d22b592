"""What every command shares: settings, output as text or JSON, errors and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

if TYPE_CHECKING:
    from gram.client import Client, JobEvent, JobStatus
    from protocol.errors import GramError

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonLines: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Contact: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="CONTACT", help="host:port/service:subject; only the host is necessary."
    ),
]
JobArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="JOB", help="The job contact, https://host:port/...")
]
Value: TypeAlias = "str | float | bool | Mapping[str, Value] | Sequence[Value] | None"

EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the subcommand."""

    proxy: Path | None = None
    certificates: Path | None = None
    callback_host: str | None = None

    def client(self, *, callbacks: bool = True) -> Client:
        """Return a client with these options."""
        from gram.client import Client

        return Client(
            self.proxy,
            trusted_certificates=self.certificates,
            callback_host=self.callback_host,
            callbacks=callbacks,
        )


def settings(context: typer.Context) -> Settings:
    """Return the options before the subcommand."""
    found = context.find_object(Settings)
    return found if isinstance(found, Settings) else Settings()


def show(text: str) -> None:
    """Print a line on standard output at once; bytes that are not UTF-8 survive."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Print a line on standard error."""
    sys.stdout.flush()
    print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def show_json(values: Mapping[str, Value]) -> None:
    """Print a JSON object on one line."""
    show(json.dumps(values, ensure_ascii=True))


def status_values(status: JobStatus) -> dict[str, Value]:
    """Return a job's status as JSON has it; state 0 is `GONE`."""
    return {
        "state": status.name,
        "state_number": 0 if status.state is None else int(status.state),
        "failure_code": int(status.failure_code),
        "exit_code": status.exit_code,
        "reason": status.reason or None,
    }


def event_values(event: JobEvent) -> dict[str, Value]:
    """Return an event as JSON has it; the time is when we heard of it."""
    time = event.received.isoformat(timespec="milliseconds")
    return {"time": time, "contact": event.contact, **status_values(event.status)}


def status_line(status: JobStatus) -> str:
    """Return a job's status in words."""
    if status.gone:
        return "GONE: the server no longer knows the job; whether it succeeded is unknown"
    if status.exit_code is not None:
        return f"{status.name} (exit code {status.exit_code})"
    return f"{status.name}: {status.reason}" if status.reason else status.name


def exit_code_of(status: JobStatus) -> int:
    """Return what a command that waited for the job exits with.

    That is the program's exit code for a job that is DONE (0 if unknown), else the GRAM error.
    """
    if status.succeeded:
        return min(status.exit_code or 0, 255)
    return _byte(status.failure_code or 156)


def _byte(code: int) -> int:
    return code if 0 < code < 256 else 1


@contextmanager
def reporting(*, as_json: bool = False) -> Iterator[None]:
    """Turn errors into a message for the user and an exit code."""
    from protocol.errors import GramError

    try:
        yield
    except GramError as error:
        fail(error, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output has had enough: what is left of it must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        note(f"gram: {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def fail(error: GramError, *, as_json: bool = False) -> NoReturn:
    """Print the code, what failed, on which side, and what to do; exit with the code."""
    side = getattr(error, "side", None)
    advice = str(getattr(error, "advice", ""))
    where = "this program" if side is None else str(side.value)
    if as_json:
        details: dict[str, Value] = {
            "code": int(error.code),
            "symbol": error.code.symbol,
            "message": error.message,
            "side": where,
            "advice": advice or None,
        }
        show_json({"error": details})
    else:
        note(f"gram: error {int(error.code)} ({error.code.name}): {error.message}")
        note(f"  where: {where}")
        if advice:
            note(f"  what to do: {advice}")
    raise typer.Exit(_byte(int(error.code)))
