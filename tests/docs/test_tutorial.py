"""The tutorial, typed by an ordinary user: every command runs, and prints what the page says.

A `sh` block must succeed. In a `console` block each line after `$ ` is a command, what follows is
what it prints; `…` stands for anything within a line, alone on a line for any lines. All blocks run
in one shell, in order. The clone has the virtual environment of this test in place of one that
`make demo` would make: that it makes one is what `make test` itself begins with.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.accounts import demoted, temporary_accounts

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "tutorial" / "first-job.md"
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>\S+) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)  # fmt: skip
COMMAND = re.compile(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)
MARK = "--- step"
TIMEOUT = 100


@dataclass(frozen=True)
class Step:
    """A command, what it must print (None: not compared), the program it needs."""

    command: str
    output: str | None
    needs: str | None

    def describes(self, printed: str) -> bool:
        if self.output is None:
            return True
        lines = (_pattern(line) for line in self.output.splitlines(keepends=True))
        return re.fullmatch("".join(lines), printed) is not None


def _pattern(line: str) -> str:
    if line == "…\n":
        return r"(?:.*\n)*"
    return ".*".join(re.escape(piece) for piece in line.split("…"))


def steps() -> Iterator[Step]:
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["language"] == "sh":
            yield Step(block["text"], None, block["needs"])
        elif block["language"] == "console":
            for command, output in COMMAND.findall(block["text"]):
                yield Step(command, output, block["needs"])


def script(parts: list[Step]) -> str:
    """One shell program that prints a marked line before each step; it leaves no service behind."""
    lines = ["set -e", "trap '[ -z \"$SERVICE\" ] || kill $SERVICE 2>/dev/null || true' EXIT"]
    for number, step in enumerate(parts):
        lines += [f"echo '{MARK} {number}'", step.command]
    return "\n".join([*lines, f"echo '{MARK} end'", ""])


def end_processes(uid: int) -> None:
    """Kill what a failed run has left of a throw-away account."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == uid:
                os.kill(int(folder.name), signal.SIGKILL)


def clone(directory: Path) -> None:
    """What `make demo` needs of a clone, with our virtual environment."""
    environment = directory / ".venv"
    environment.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, directory)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / ".installed").touch()


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Step, str]]]:
    """Every step with what it printed, as far as the shell came; run by an ordinary user."""
    assert sys.prefix != sys.base_prefix, "the tests run in a virtual environment"
    with ExitStack() as stack:
        home, identity = tmp_path_factory.mktemp("home"), {}
        if os.geteuid() == 0:
            [account] = stack.enter_context(temporary_accounts("gtutor"))
            stack.callback(end_processes, account.pw_uid)
            home, identity = Path(account.pw_dir), demoted(account)
        clone(home / "gram")
        parts = [step for step in steps() if step.needs is None or shutil.which(step.needs)]
        done = subprocess.run(
            ["bash", "-c", script(parts)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=home / "gram",
            env={"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            timeout=TIMEOUT,
            check=False,
            **identity,  # type: ignore[call-overload]  # user=, group= of subprocess
        )
        printed = re.split(rf"^{MARK} \S+\n", done.stdout.decode(), flags=re.MULTILINE)[1:]
        yield list(zip(parts, printed, strict=False))


def check(transcript: list[tuple[Step, str]], wanted: list[Step]) -> None:
    printed = dict(transcript)
    for step in wanted:
        assert step in printed, f"the shell never came to: {step.command}\n{transcript[-1:]}"
        assert step.describes(printed[step]), f"$ {step.command}{printed[step]}"


def test_every_command_prints_what_the_page_says(transcript: list[tuple[Step, str]]) -> None:
    check(transcript, [step for step in steps() if step.needs is None])


@pytest.mark.peers
@pytest.mark.parametrize("program", ["globusrun", "globus-job-run"])
def test_the_globus_clients(program: str, transcript: list[tuple[Step, str]]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: run `make peers` as root")
    wanted = [step for step in steps() if step.needs == program]
    assert wanted
    check(transcript, wanted)


def test_the_page_needs_nothing_that_is_not_named_here() -> None:
    assert {step.needs for step in steps()} == {None, "globusrun", "globus-job-run"}
