"""A job's directories: made before the reply, removed at the end (job-manager.md §1.5, §2.8)."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator

from jobmanager.agent.cache import GassCache
from jobmanager.agent.directories import Directory
from jobmanager.agent.errors import reason
from jobmanager.agent.frames import JobWork, Output
from jobmanager.agent.places import Kind, place, scratch_directory, working_directory
from protocol.errors import GramError
from protocol.tables import ErrorCode

PROXY = "x509_user_proxy"
_JOBS = (".gram", "jobs")


class Workspace:
    """The part of an account's home that job managers use."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.cache = GassCache(f"{home}/.globus/.gass_cache")

    def path(self, job: str) -> str:
        """The path of a job's directory."""
        return "/".join((self.home, *_JOBS, job))

    def open(self, job: str, *, create: bool = False) -> Directory:
        """Open a job's directory; it belongs to the caller.  Raises OSError."""
        with Directory.at(self.home) as home:
            return home.descend(*_JOBS, job, create=create)

    def scratch(self, work: JobWork) -> str | None:
        """The path of the job's scratch directory, None when it asks for none."""
        if work.scratch_dir is None:
            return None
        return scratch_directory(self.home, work.scratch_dir, work.id)

    def create(self, work: JobWork, proxy: str) -> None:
        """Everything on disk that must be there before the client gets the job's contact.

        Raises GramError 22, 136, 73, 74, 75 (job-manager.md §2.1); then, and for a dry run,
        nothing that was made is left.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove_own, work)
            with failing(ErrorCode.ARG_FILE_CREATION_FAILED, "cannot make the job directory"):
                directory = self.open(work.id, create=True)
            with directory:
                if (scratch := self.scratch(work)) is not None:
                    with failing(ErrorCode.INVALID_SCRATCH, "cannot make the scratch directory"):
                        _make_scratch(scratch)
                undo.push(self.test_outputs(work))
                self.write_proxy(directory, proxy)
            if not work.dry_run:
                undo.pop_all()

    def write_proxy(self, directory: Directory, proxy: str) -> None:
        """Put the job's credential in place as a whole, readable for the account only; else 75."""
        with failing(ErrorCode.OPENING_CACHE_USER_PROXY, "cannot store the delegated credential"):
            directory.write(PROXY, proxy.encode("ascii"))

    def test_outputs(self, work: JobWork) -> contextlib.ExitStack:
        """Open every local destination as the job will (job-manager.md §5.3).

        What is returned removes the files that were made.  Raises GramError 73 or 74; then they
        are removed already.
        """
        base = working_directory(work, self.home) or self.home
        streams = (
            (work.stdout, ErrorCode.OPENING_STDOUT, "stdout"),
            (work.stderr, ErrorCode.OPENING_STDERR, "stderr"),
        )
        with contextlib.ExitStack() as undo:
            for outputs, code, name in streams:
                for output in outputs:
                    with failing(code, f"cannot write {name}"):
                        self._test_output(work, output, base, undo)
            return undo.pop_all()

    def _test_output(
        self, work: JobWork, output: Output, base: str, undo: contextlib.ExitStack
    ) -> None:
        target = place(output.url, base)
        if target.kind is Kind.LOCAL:
            _test_append(target.name, undo)
        elif target.kind is Kind.CACHE:
            tags = (work.contact,) if output.tag is None else (work.contact, output.tag)
            self.cache.add_empty(target.name, *tags)

    def clean_up(self, work: JobWork) -> int:
        """Remove what `file_clean_up` names and what is the job's own; how much could not be.

        Files that are not there are no failures.
        """
        base = working_directory(work, self.home) or self.home
        failures = 0
        for name in work.clean_up:
            try:
                os.unlink(os.path.join(base, name))
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                failures += 1
        return failures + self._remove_own(work)

    def _remove_own(self, work: JobWork) -> int:
        failures = 0
        try:
            self.cache.remove_tag(work.contact)
        except OSError:
            failures += 1
        if (scratch := self.scratch(work)) is not None:
            parent, name = os.path.split(scratch)
            failures += _remove_tree(lambda: Directory.at(parent), name)
        return failures + _remove_tree(self._jobs, work.id)

    def _jobs(self) -> Directory:
        with Directory.at(self.home) as home:
            return home.descend(*_JOBS)


@contextlib.contextmanager
def failing(code: ErrorCode, what: str) -> Iterator[None]:
    """Turn an OSError into a GramError with the code and what could not be done."""
    try:
        yield
    except OSError as error:
        raise GramError(code, f"{what}: {reason(error)}") from error


def _make_scratch(path: str) -> None:
    parent, name = os.path.split(path)
    with Directory.at(parent) as above:
        above.enter(name, create=True).close()


def _test_append(path: str, undo: contextlib.ExitStack) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags | os.O_EXCL, 0o600))
        undo.callback(os.unlink, path)
    except FileExistsError:
        os.close(os.open(path, flags, 0o600))


def _remove_tree(open_parent: Callable[[], Directory], name: str) -> int:
    """Remove a tree without following links; 1 when something of it is left."""
    try:
        with open_parent() as parent:
            shutil.rmtree(name, ignore_errors=True, dir_fd=parent.descriptor)
            return int(parent.status(name) is not None)
    except FileNotFoundError:
        return 0
    except OSError:
        return 1
