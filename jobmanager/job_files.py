"""The agent's view of a job."""

from jobmanager.agent.client import JobFiles
from jobmanager.description import JobDescription
from jobmanager.records import JobPaths, JobRecord


def job_files(record: JobRecord, description: JobDescription, paths: JobPaths) -> JobFiles:
    """What the agent must know of a job to work on its files."""
    return JobFiles(
        id=record.container, contact=record.contact, description=description, paths=paths
    )
