"""Debian's unmodified GRAM clients against our server."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.server import Server
from tests.support.site import Site, User

CONTACT = re.compile(r"https://localhost:\d+/\d+/\d+/")


def until(check: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait until something is so; False when it never was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.05)
    return False


def status(user: User, contact: str) -> str:
    """What `globusrun -status` prints."""
    return user.run("globusrun", "-status", contact).stdout.decode().split("\n")[0].strip()


def submit(user: User, server: Server, rsl: str) -> str:
    """`globusrun -b`; returns the job contact."""
    result = user.run("globusrun", "-b", "-r", server.contact, rsl)
    assert result.returncode == 0, result.stderr
    found = CONTACT.search(result.stdout.decode())
    assert found, result.stdout
    return found.group()


def processes_of(user: User, command: str) -> list[int]:
    """Pids of the account's processes with this command line."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            owner = folder.stat().st_uid
        except (OSError, ValueError):
            continue
        expected = user.account.pw_uid if user.account else os.geteuid()
        if line == command and owner == expected:
            found.append(int(folder.name))
    return found


def test_ping(alice: User, server: Server) -> None:
    result = alice.run("globusrun", "-a", "-r", server.contact)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"GRAM Authentication test successful" in result.stdout


def test_ping_over_tls_1_2(alice: User, server: Server) -> None:
    old = {"GLOBUS_GSSAPI_MAX_TLS_PROTOCOL": "TLS1_2_VERSION"}
    result = alice.run("globusrun", "-a", "-r", server.contact, extra=old)
    assert result.returncode == 0, result.stderr
    output = alice.run("globus-job-run", server.contact, "/bin/echo", "old", extra=old)
    assert output.stdout == b"old\n", output.stderr


def test_version(alice: User, server: Server) -> None:
    result = alice.run("globusrun", "-j", "-r", server.contact)
    assert result.returncode == 0
    assert b"Toolkit version: 6.2" in result.stdout
    assert b"Job Manager version: gram-gatekeeper" in result.stdout


def test_states_and_exit_code_of_a_plain_job(alice: User, server: Server) -> None:
    rsl = "&(executable=/bin/sh)(arguments=-c 'exit 7')"
    result = alice.run("globusrun", "-r", server.contact, rsl)
    lines = result.stdout.decode().split("\n")
    states = [line for line in lines if line.startswith("GLOBUS_GRAM_PROTOCOL_JOB_STATE_")]
    assert states == [
        "GLOBUS_GRAM_PROTOCOL_JOB_STATE_ACTIVE",
        "GLOBUS_GRAM_PROTOCOL_JOB_STATE_DONE",
    ]
    assert "exit code: 7" in lines
    assert result.returncode == 0


def test_a_job_runs_as_the_mapped_account(alice: User, server: Server) -> None:
    result = alice.run("globus-job-run", server.contact, "/usr/bin/id")
    if alice.account is None:
        assert f"uid={os.geteuid()}" in result.stdout.decode()
        return
    uid, gid = alice.account.pw_uid, alice.account.pw_gid
    name = alice.login
    assert result.stdout.decode() == f"uid={uid}({name}) gid={gid}({name}) groups={gid}({name})\n"


def test_both_streams_arrive_at_the_client(alice: User, server: Server) -> None:
    rsl = '&(executable=/bin/sh)(arguments=-c "echo out; echo err 1>&2; exit 3")'
    result = alice.run("globusrun", "-s", "-r", server.contact, rsl)
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 0)


def test_output_arrives_while_the_job_runs(alice: User, server: Server) -> None:
    gate = alice.home / "gate"
    script = f"echo early; while [ ! -e {gate} ]; do sleep 0.1; done"
    rsl = f'&(executable=/bin/sh)(arguments=-c "{script}")'
    client = alice.start("globusrun", "-s", "-r", server.contact, rsl)
    assert client.stdout is not None
    assert client.stdout.readline() == b"early\n"  # the job is still waiting for its gate
    assert client.poll() is None
    gate.touch()
    assert client.wait(20) == 0
    gate.unlink()
    client.communicate()


def test_standard_input_is_staged(alice: User, server: Server) -> None:
    data = bytes(range(256)) * 40
    path = alice.directory / "input.bin"
    path.write_bytes(data)
    result = alice.run(
        "globus-job-run", server.contact, "-stdin", "-s", str(path), "/bin/cat"
    )  # fmt: skip
    assert result.stdout == data, result.stderr


def test_an_executable_is_staged(alice: User, server: Server) -> None:
    path = alice.directory / "program.sh"
    path.write_text('#!/bin/sh\necho "staged $1"\n')
    result = alice.run("globus-job-run", server.contact, "-s", str(path), "well")
    assert result.stdout == b"staged well\n", result.stderr


def test_arguments_environment_directory_and_count(alice: User, server: Server) -> None:
    result = alice.run(
        "globus-job-run", server.contact, "-np", "3", "-dir", "/usr", "-env", "A=it's $HOME",
        "/bin/sh", "-c", 'echo "$A|$1|$PWD"', "x", 'a "b" c',
    )  # fmt: skip
    assert result.stdout == b'it\'s $HOME|a "b" c|/usr\n' * 3, result.stderr


def test_a_hundred_megabytes_of_binary_output(alice: User, server: Server) -> None:
    rsl = (
        "&(executable=/bin/sh)"
        '(arguments=-c "head -c 104857600 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00")'
    )
    target = alice.directory / "big"
    command = f"globusrun -s -r {server.contact} '{rsl}' > {target} 2> {target}.err"
    result = alice.run("/bin/sh", "-c", command, timeout=120)
    errors = Path(f"{target}.err").read_text()
    assert result.returncode == 0, errors
    expected = alice.run(
        "/bin/sh", "-c",
        "head -c 104857600 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null"
        f" | cmp - {target}",
    )  # fmt: skip
    assert expected.returncode == 0, expected.stdout
    target.unlink()


def test_a_client_that_goes_away_does_not_disturb_its_job(alice: User, server: Server) -> None:
    marker = alice.home / "survived"
    rsl = f'&(executable=/bin/sh)(arguments=-c "echo first; sleep 3; echo second; touch {marker}")'
    client = alice.start("globusrun", "-s", "-r", server.contact, rsl)
    assert client.stdout is not None
    assert client.stdout.readline() == b"first\n"
    client.send_signal(signal.SIGKILL)
    client.communicate()
    assert until(marker.exists)
    marker.unlink()
    assert alice.run("globusrun", "-a", "-r", server.contact).returncode == 0


def test_batch_status_and_kill(alice: User, server: Server) -> None:
    contact = submit(alice, server, "&(executable=/bin/sleep)(arguments=303)")
    assert status(alice, contact) == "ACTIVE"
    assert processes_of(alice, "/bin/sleep 303")
    assert alice.run("globusrun", "-k", contact).returncode == 0
    assert status(alice, contact) == "DONE"  # gone: how the tool reads error 156
    assert processes_of(alice, "/bin/sleep 303") == []


def test_cancel_reaches_children_that_ignore_it(alice: User, server: Server) -> None:
    script = "trap '' TERM; (trap '' TERM; setsid sleep 304) & sleep 305"
    contact = submit(alice, server, f'&(executable=/bin/sh)(arguments=-c "{script}")')
    assert until(lambda: bool(processes_of(alice, "sleep 304")))
    assert alice.run("globusrun", "-k", contact).returncode == 0
    assert processes_of(alice, "sleep 304") == processes_of(alice, "sleep 305") == []


def test_fast_batch(alice: User, server: Server) -> None:
    marker = alice.home / "fast"
    rsl = f"&(executable=/bin/touch)(arguments={marker})"
    result = alice.run("globusrun", "-F", "-r", server.contact, rsl)
    assert result.returncode == 0
    assert CONTACT.search(result.stdout.decode())
    assert until(marker.exists)
    marker.unlink()


def test_interrupting_globusrun_cancels_the_job(alice: User, server: Server) -> None:
    rsl = "&(executable=/bin/sleep)(arguments=306)"
    client = alice.start("globusrun", "-r", server.contact, rsl)
    assert until(lambda: bool(processes_of(alice, "/bin/sleep 306")))
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=20)
    assert client.returncode == 8
    assert until(lambda: not processes_of(alice, "/bin/sleep 306"))


def test_the_globus_job_commands(alice: User, server: Server) -> None:
    submitted = alice.run("globus-job-submit", server.contact, "/bin/echo", "kept")
    assert submitted.returncode == 0, submitted.stderr
    contact = submitted.stdout.decode().strip()
    assert CONTACT.fullmatch(contact)
    assert until(lambda: alice.run("globus-job-status", contact).stdout.strip() == b"DONE")
    output = alice.run("globus-job-get-output", "-r", server.contact, contact)
    assert output.stdout == b"kept\n", output.stderr
    cleaned = alice.run("globus-job-clean", "-f", "-r", server.contact, contact)
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    gone = alice.run("globus-job-get-output", "-r", server.contact, contact)
    assert gone.stdout != b"kept\n"


def test_globus_job_cancel(alice: User, server: Server) -> None:
    submitted = alice.run("globus-job-submit", server.contact, "/bin/sleep", "307")
    contact = submitted.stdout.decode().strip()
    assert until(lambda: alice.run("globus-job-status", contact).stdout.strip() == b"ACTIVE")
    cancelled = alice.run("globus-job-cancel", "-f", contact)
    assert cancelled.returncode == 0, cancelled.stderr
    assert processes_of(alice, "/bin/sleep 307") == []


def test_refresh_replaces_the_proxy_of_a_running_job(alice: User, server: Server) -> None:
    where = alice.home / "where"
    script = f"echo $X509_USER_PROXY > {where}; sleep 308"
    contact = submit(alice, server, f'&(executable=/bin/sh)(arguments=-c "{script}")')
    assert until(lambda: where.exists() and bool(where.read_text().strip()))
    proxy = Path(where.read_text().strip())
    before = proxy.read_bytes()
    fresh = alice.write_proxy("fresh")
    assert alice.run("globusrun", "-y", contact, proxy=fresh).returncode == 0
    after = proxy.read_bytes()
    assert after != before
    assert proxy.stat().st_mode & 0o777 == 0o600
    assert after.count(b"BEGIN CERTIFICATE") >= 3
    alice.run("globusrun", "-k", contact)
    where.unlink()


def test_stop_manager_leaves_the_job_running(alice: User, server: Server) -> None:
    contact = submit(alice, server, "&(executable=/bin/sleep)(arguments=309)")
    assert alice.run("globusrun", "-stop-manager", contact).returncode == 0
    assert status(alice, contact) == "ACTIVE"
    denied = alice.run("globusrun", "-k", contact)
    assert denied.returncode == 94
    for pid in processes_of(alice, "/bin/sleep 309"):
        os.kill(pid, signal.SIGKILL)


def test_two_phase_commit(alice: User, server: Server) -> None:
    rsl = "&(executable=/bin/true)(two_phase=30)"
    result = alice.run("globusrun", "-r", server.contact, rsl)
    assert result.returncode == 0, result.stderr
    assert b"GLOBUS_GRAM_PROTOCOL_JOB_STATE_DONE" in result.stdout


def test_dry_run(alice: User, server: Server) -> None:
    marker = alice.home / "dry"
    rsl = f"&(executable=/bin/touch)(arguments={marker})(stdout=dry.out)"
    result = alice.run("globusrun", "-d", "-r", server.contact, rsl)
    assert (result.returncode, marker.exists()) == (0, False)
    assert b"Dryrun successful" in result.stdout + result.stderr
    assert not (alice.home / "dry.out").exists()


def test_nothing_is_left_behind(alice: User, server: Server) -> None:
    alice.run("globus-job-run", server.contact, "/bin/echo", "tidy")
    jobs = alice.home / ".gram" / "jobs"
    running = len(list(jobs.iterdir()))
    alice.run("globus-job-run", server.contact, "/bin/echo", "tidy")
    assert until(lambda: len(list(jobs.iterdir())) <= running)


def test_a_job_sees_exactly_its_environment(alice: User, server: Server, site: Site) -> None:
    result = alice.run("globus-job-run", server.contact, "-env", "MINE=1", "/usr/bin/env")
    names = {line.split("=")[0] for line in result.stdout.decode().splitlines()}
    assert names == {
        "X509_USER_PROXY", "X509_CERT_DIR", "GLOBUS_GRAM_JOB_CONTACT", "GLOBUS_LOCATION", "HOME",
        "LOGNAME", "GLOBUS_GASS_CACHE_DEFAULT", "PATH", "LD_LIBRARY_PATH", "MINE",
    }  # fmt: skip


def test_a_scratch_directory_is_there_and_goes_away(alice: User, server: Server) -> None:
    rsl = (
        "&(scratch_dir=.)(executable=/bin/sh)(directory=$(SCRATCH_DIRECTORY))"
        '(arguments=-c "pwd; echo $SCRATCH_DIRECTORY; stat -c %a .")'
    )
    result = alice.run("globusrun", "-s", "-r", server.contact, rsl)
    path, variable, mode = result.stdout.decode().split()
    assert path == os.path.normpath(variable)
    assert path.startswith(f"{alice.home}/gram_scratch_")
    assert mode == "700"
    assert until(lambda: not Path(path).exists())


def test_files_are_staged_in_and_out(alice: User, server: Server) -> None:
    source = alice.directory / "staged-in.txt"
    source.write_text("from the client\n")
    rsl = (
        "&(executable=/bin/sh)(directory=/tmp/.)(scratch_dir=.)"
        f"(file_stage_in=($(GLOBUSRUN_GASS_URL){source} $(SCRATCH_DIRECTORY)/in))"
        f"(file_stage_out=($(SCRATCH_DIRECTORY)/out $(GLOBUSRUN_GASS_URL){source}.out))"
        '(arguments=-c "tr a-z A-Z < $SCRATCH_DIRECTORY/in > $SCRATCH_DIRECTORY/out")'
    )
    result = alice.run("globusrun", "-w", "-r", server.contact, rsl)
    assert result.returncode == 0, result.stderr
    assert Path(f"{source}.out").read_text() == "FROM THE CLIENT\n"
