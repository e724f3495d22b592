"""A job's description in the terms of the agent, which needs no RSL and only a part of it."""

from jobmanager.agent.frames import Copy, Deferred, JobWork, Output
from jobmanager.description import Destination, JobDescription, JobType, Transfer
from jobmanager.spawner.frames import MAX_PROCESSES
from protocol.tables import ErrorCode

_RUNNABLE = (JobType.SINGLE, JobType.MULTIPLE)
_TEXT = 4096


def work_of(job: str, contact: str, description: JobDescription) -> JobWork:
    """What the agent must know of a job.

    A number of processes or a job type that cannot be started here joins the errors that are due
    when the job is opened.
    """
    return JobWork(
        id=job,
        contact=contact,
        directory=description.directory,
        executable=description.executable,
        stdin=description.stdin,
        stdout=_outputs(description.stdout),
        stderr=_outputs(description.stderr),
        processes=_processes(description),
        stage_in=_copies(description.file_stage_in),
        stage_in_shared=_copies(description.file_stage_in_shared),
        stage_out=_copies(description.file_stage_out),
        clean_up=description.file_clean_up,
        scratch_dir=description.scratch_dir,
        deferred=_deferred(description),
        dry_run=description.dry_run,
    )


def _processes(description: JobDescription) -> int:
    if description.job_type is not JobType.MULTIPLE:
        return 1
    return min(max(description.count, 1), MAX_PROCESSES)


def _deferred(description: JobDescription) -> tuple[Deferred, ...]:
    errors = list(description.deferred)
    if not 1 <= description.count <= MAX_PROCESSES:
        text = f"count is {description.count}, but must be in 1..{MAX_PROCESSES}"
        errors.append((ErrorCode.INVALID_COUNT, text))
    if description.job_type not in _RUNNABLE:
        text = f"jobs of the type {description.job_type} cannot be run here"
        errors.append((ErrorCode.JOBTYPE_NOT_SUPPORTED, text))
    return tuple(Deferred(int(code), text[:_TEXT]) for code, text in errors)


def _outputs(destinations: tuple[Destination, ...]) -> tuple[Output, ...]:
    return tuple(Output(destination.url, destination.tag) for destination in destinations)


def _copies(transfers: tuple[Transfer, ...]) -> tuple[Copy, ...]:
    return tuple(Copy(transfer.source, transfer.destination) for transfer in transfers)
