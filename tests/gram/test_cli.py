"""The command without a server: help, usage, RSL, proxies, configuration, errors."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from typer.testing import CliRunner, Result

from gram.cli.app import app
from gram.cli.report import exit_code_of, status_line
from gram.cli.run import Interruptions
from gram.client import ErrorCode, JobState, JobStatus
from protocol.gsi.credential import Credential, write_private
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy, proxy_info
from tests.gram.lab import Lab

FINE = "&(executable=/bin/true)(arguments=a b)"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "proxy"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def gram(*arguments: str, stdin: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


# --- the command itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *((), ("ping",), ("version",), ("submit",), ("run",), ("status",), ("cancel",)),
        *(("watch",), ("signal",), ("renew",), ("output",), ("serve",), ("demo",)),
        *(("rsl",), ("rsl", "check"), ("rsl", "format"), ("rsl", "reference")),
        *(("proxy",), ("proxy", "init"), ("proxy", "info"), ("proxy", "destroy")),
        *(("config",), ("config", "check"), ("config", "show"), ("config", "reference")),
    ],
)
def test_help(command: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = gram(*command, option)
        assert result.exit_code == 0
        assert "Usage" in result.stdout


def test_heavy_modules_are_not_imported_for_help() -> None:
    code = (
        "import sys, runpy; sys.argv = ['gram', '--help']\n"
        "try: runpy.run_module('gram', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'cryptography', 'OpenSSL', 'pydantic', 'aiohttp', 'sqlalchemy', 'lark'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_and_usage() -> None:
    assert gram("--version").stdout.startswith("gram 0.")
    assert gram("nonsense").exit_code == 2
    assert gram("ping").exit_code == 2


# --- exit codes and messages ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus(JobState.DONE), 0),
        (JobStatus(JobState.DONE, exit_code=7), 7),
        (JobStatus(JobState.DONE, exit_code=4711), 255),
        (JobStatus(JobState.FAILED, ErrorCode.BAD_DIRECTORY), 4),
        (JobStatus(JobState.FAILED, 300), 1),
        (JobStatus(None), 156),
    ],
)
def test_exit_code_of_a_job(status: JobStatus, code: int) -> None:
    assert exit_code_of(status) == code


def test_states_in_words() -> None:
    assert status_line(JobStatus(JobState.DONE, exit_code=0)) == "DONE (exit code 0)"
    assert "unknown" in status_line(JobStatus(None))
    assert "working directory" in status_line(JobStatus(JobState.FAILED, 4))


def test_error_says_code_side_and_what_to_do(lab: Lab, home: Path) -> None:
    common = ("--proxy", str(lab.alice_file), "--certificates", str(lab.certificates))
    result = gram(*common, "ping", "localhost:1")
    assert result.exit_code == ErrorCode.CONNECTION_FAILED
    assert result.stdout == ""
    assert "error 12 (CONNECTION_FAILED)" in result.stderr
    assert "where: the network" in result.stderr
    assert "what to do: Check host" in result.stderr
    result = gram(*common, "ping", "localhost:1", "--json")
    assert result.stderr == ""
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["side"]) == (12, "the network")
    assert gram(*common, "status", "nonsense").exit_code == ErrorCode.INVALID_JOB_CONTACT
    assert gram(*common, "status", "https://localhost:1/2/3/").exit_code == 79
    assert gram(*common, "ping", "a:b:c:d").exit_code == ErrorCode.BAD_GATEKEEPER_CONTACT


def test_no_credential(home: Path, lab: Lab) -> None:
    result = gram("--certificates", str(lab.certificates), "ping", "localhost:1")
    assert result.exit_code == ErrorCode.AUTHORIZATION
    assert "gram proxy init" in result.stderr


def test_usage_of_job_commands(home: Path) -> None:
    job = "https://localhost:1/2/3/"
    for wrong in (
        ("signal", job, "nonsense"),
        ("submit", "localhost"),
        ("submit", "localhost", FINE, "--file", "x"),
        ("submit", "localhost", "--file", "/none"),
        ("submit", "localhost", FINE, "--wait", "--batch"),
        ("run", "localhost"),
        ("run", "-e", "x", "localhost", "--", "/bin/true"),
        ("run", "-i", "--stdin", "/dev/null", "localhost", "--", "/bin/true"),
    ):
        result = gram(*wrong)
        assert result.exit_code == 2, (wrong, result.output)


async def test_second_interruption_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    class Job:
        contact = "https://h:1/2/3/"
        cancels = 0

        async def cancel(self) -> None:
            self.cancels += 1
            await asyncio.sleep(60)

    job = Job()
    waiting = asyncio.create_task(asyncio.sleep(60))
    interruptions = Interruptions(job, waiting)  # type: ignore[arg-type]  # doubles
    with interruptions.handled():
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        assert (job.cancels, interruptions.left, waiting.done()) == (1, False, False)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (job.cancels, interruptions.left) == (1, True)
    assert job.contact in capsys.readouterr().err


# --- rsl ------------------------------------------------------------------------------------------


def test_rsl_check(home: Path) -> None:
    assert gram("rsl", "check", FINE).exit_code == 0
    assert gram("rsl", "check", "-", stdin=FINE).exit_code == 0
    (home / "job.rsl").write_text(FINE)
    result = gram("rsl", "check", "--file", str(home / "job.rsl"), "--json")
    assert json.loads(result.stdout) == {"ok": True, "warning": None}


def test_rsl_mistakes_have_a_place(home: Path) -> None:
    result = gram("rsl", "check", "&(executable=/bin/true)\n  (count==1)")
    assert result.exit_code == 48
    lines = result.stderr.splitlines()
    assert "byte 33, line 2" in lines[0]
    assert lines[1] == "    (count==1)"
    assert lines[2].index("^") == lines[1].index("=") + 1
    error = json.loads(gram("rsl", "check", "&(a=1", "--json").stdout)["error"]
    assert (error["code"], error["offset"]) == (48, 5)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("&(arguments=a)", 81),
        ("&(executable=a)(count=0)", 14),
        ("&(executable=a)(nosuch=0)", 1),
        ("&(executable=$(NONE))", 39),
        ("&(executable=a)(arguments=(a b))", 50),
    ],
)
def test_rsl_attributes_are_checked(text: str, code: int) -> None:
    assert gram("rsl", "check", text).exit_code == code


def test_rsl_strict_warnings() -> None:
    accepted = FINE + '(directory="/tmp'
    compatible = FINE + "\0 rubbish"
    assert gram("rsl", "check", accepted).exit_code == 48
    result = gram("rsl", "check", "-", stdin=compatible)
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert gram("rsl", "check", "-", "--strict", stdin=compatible).exit_code == 48


def test_rsl_format_keeps_the_meaning() -> None:
    text = "&(executable=/bin/true)(|(a=1 $(B))(+(c=2)(d=(e 'f')))) (x=y#z)"
    once = gram("rsl", "format", text).stdout
    assert once.count("\n") == 8
    one_line = gram("rsl", "format", "--one-line", text).stdout
    assert gram("rsl", "format", "--one-line", once).stdout == one_line
    assert one_line.count("\n") == 1
    deep = "&(" * 1000 + "a=1" + ")" * 1000
    assert gram("rsl", "format", deep).exit_code == 0


def test_rsl_bytes_survive() -> None:
    data = b'"a" = "\xff\xc3\xa4" '
    assert CliRunner().invoke(
        app, ["rsl", "format", "--one-line", "-"], input=data
    ).stdout_bytes == (b'"a" = "\xff\xc3\xa4" \n')


def test_rsl_reference() -> None:
    assert "working directory" in gram("rsl", "reference").stdout
    only = json.loads(gram("rsl", "reference", "Job_Type", "--json").stdout)
    assert only["jobtype"]["allowed"] == ["single", "multiple", "mpi", "condor"]
    assert gram("rsl", "reference", "nonsense").exit_code == 2


# --- proxy ----------------------------------------------------------------------------------------


@pytest.fixture
def user(lab: Lab, home: Path) -> Path:
    """A home with usercert.pem and userkey.pem."""
    globus = home / ".globus"
    globus.mkdir()
    certificate = globus / "usercert.pem"
    certificate.write_bytes(lab.alice.chain[0].public_bytes(Encoding.PEM))
    certificate.chmod(0o644)
    key = lab.directory / "ca" / "Alice" / "userkey.pem"
    write_private(globus / "userkey.pem", key.read_bytes())
    return home


def test_proxy_life(user: Path) -> None:
    result = gram("proxy", "init", "--hours", "2", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["identity"] == "/O=Gram Lab/CN=Alice"
    assert made["type"] == "full RFC proxy"
    assert 7000 < made["left"] <= 7200
    path = user / "proxy"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert Credential.load(path).identity == made["identity"]
    shown = gram("proxy", "info")
    assert shown.exit_code == 0
    assert "/O=Gram Lab/CN=Alice" in shown.stdout
    assert "PRIVATE" not in shown.stdout + result.stdout
    assert json.loads(gram("proxy", "info", "--json").stdout)["path"] == str(path)
    assert gram("proxy", "destroy").exit_code == 0
    assert not path.exists()
    assert gram("proxy", "destroy").exit_code == 7
    assert gram("proxy", "info").exit_code == 7


def test_proxy_kinds(user: Path) -> None:
    out = user / "other"
    options = {
        ("--limited",): (ProxyFormat.RFC, ProxyPolicy.LIMITED),
        ("--independent",): (ProxyFormat.RFC, ProxyPolicy.INDEPENDENT),
        ("--format", "draft"): (ProxyFormat.DRAFT, ProxyPolicy.FULL),
        ("--path-length", "1", "--bits", "1024"): (ProxyFormat.RFC, ProxyPolicy.FULL),
    }
    for words, expected in options.items():
        result = gram("proxy", "init", *words, "--out", str(out))
        assert result.exit_code == 0, result.output
        info = proxy_info(Credential.load(out).certificate)
        assert info is not None
        assert (info.format, info.policy) == expected
    for wrong in (
        ("--limited", "--independent"),
        ("--format", "legacy", "--path-length", "1"),
        ("--bits", "12"),
    ):
        assert gram("proxy", "init", *wrong, "--out", str(out)).exit_code == 2


def test_proxy_of_an_encrypted_key(user: Path, lab: Lab) -> None:
    key = Credential.load_pair(user / ".globus/usercert.pem", user / ".globus/userkey.pem")
    write_private(
        user / ".globus/userkey.pem",
        key.private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
        ),
    )
    wrong = gram("proxy", "init", stdin="nonsense\n")
    assert wrong.exit_code == 7
    assert not (user / "proxy").exists()
    result = gram("proxy", "init", stdin="open sesame\n")
    assert result.exit_code == 0, result.output
    assert "sesame" not in result.output
    assert (user / "proxy").exists()


def test_expired_proxy_is_told(user: Path) -> None:
    import datetime

    from protocol.gsi.proxy_init import create_proxy

    issuer = Credential.load_pair(user / ".globus/usercert.pem", user / ".globus/userkey.pem")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=4)
    proxy = create_proxy(issuer, lifetime=datetime.timedelta(minutes=1), now=past)
    write_private(user / "proxy", proxy.pem())
    result = gram("proxy", "info")
    assert result.exit_code == 1
    assert "expired" in result.stdout


def test_destroy_touches_only_files_of_ours(home: Path) -> None:
    target = home / "precious"
    target.write_bytes(b"data")
    (home / "proxy").symlink_to(target)
    assert gram("proxy", "destroy").exit_code == 1
    os.mkfifo(home / "pipe")
    assert gram("proxy", "destroy", "--file", str(home / "pipe")).exit_code == 1
    assert target.read_bytes() == b"data"


# --- configuration --------------------------------------------------------------------------------


def test_config(home: Path) -> None:
    path = home / "gram.toml"
    path.write_text('[state]\ndirectory = "/tmp/x"\n')
    assert gram("config", "check", "--config", str(path)).exit_code == 0
    assert 'directory = "/tmp/x"' in gram("config", "show", "-c", str(path)).stdout
    path.write_text("[state]\nnonsense = 1\n")
    result = gram("config", "check", "-c", str(path))
    assert result.exit_code == 78
    assert "nonsense" in result.stderr
    problems = json.loads(gram("config", "check", "-c", str(path), "--json").stdout)["problems"]
    assert len(problems) == 1
    assert gram("serve", "-c", str(path)).exit_code == 78


def test_config_reference_is_a_configuration(home: Path) -> None:
    path = home / "gram.toml"
    path.write_text(gram("config", "reference").stdout)
    assert gram("config", "check", "-c", str(path)).exit_code == 0
