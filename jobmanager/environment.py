"""Variables for a job's RSL, and the environment the job gets (job-manager.md §1.8, §4.1)."""

import os
import platform
from dataclasses import dataclass

from jobmanager.description import JobDescription
from jobmanager.records import JobPaths


@dataclass(frozen=True, slots=True)
class Site:
    """What every job of this service sees of the machine."""

    gatekeeper_host: str
    gatekeeper_port: int
    gatekeeper_subject: str
    globus_location: str = "/usr"
    certificates: str | None = None
    path: str = os.defpath.lstrip(":") or "/bin:/usr/bin"


def symbols(site: Site, *, identity: str, account: str, home: str) -> dict[str, str]:
    """Predefined RSL variables that do not depend on the job."""
    machine = platform.machine()
    return {
        "HOME": home,
        "LOGNAME": account,
        "GLOBUS_ID": identity,
        "GLOBUS_LOCATION": site.globus_location,
        "GLOBUS_GATEKEEPER_HOST": site.gatekeeper_host,
        "GLOBUS_GATEKEEPER_PORT": str(site.gatekeeper_port),
        "GLOBUS_GATEKEEPER_SUBJECT": site.gatekeeper_subject,
        "GLOBUS_HOST_OSNAME": platform.system(),
        "GLOBUS_HOST_OSVERSION": platform.release(),
        "GLOBUS_HOST_CPUTYPE": machine,
        "GLOBUS_HOST_MANUFACTURER": "pc" if machine == "x86_64" else "unknown",
    }


def job_symbols(
    common: dict[str, str], *, job: str, contact: str, directory: str
) -> dict[str, str]:
    """All predefined RSL variables of one job; `directory` is its job directory."""
    return common | {
        "GLOBUS_GRAM_JOB_CONTACT": contact,
        "GLOBUS_GRAM_JOB_ID": job.replace("/", "."),
        "GLOBUS_CACHED_STDOUT": f"{directory}/stdout",
        "GLOBUS_CACHED_STDERR": f"{directory}/stderr",
    }


def environment(
    site: Site, description: JobDescription, paths: JobPaths, *, contact: str, account: str
) -> tuple[tuple[str, str], ...]:
    """Exactly the variables of job-manager.md §1.8; what the user sets wins."""
    mine = {
        "X509_USER_PROXY": paths.proxy,
        "GLOBUS_GRAM_JOB_CONTACT": contact,
        "GLOBUS_LOCATION": site.globus_location,
        "HOME": paths.home,
        "LOGNAME": account,
        "GLOBUS_GASS_CACHE_DEFAULT": paths.cache,
        "PATH": site.path,
    }
    if site.certificates:
        mine["X509_CERT_DIR"] = site.certificates
    if paths.scratch:
        mine["SCRATCH_DIRECTORY"] = paths.scratch
    result = mine | dict(description.environment)
    libraries = ":".join(description.library_path)
    if libraries:
        given = result.get("LD_LIBRARY_PATH")
        result["LD_LIBRARY_PATH"] = f"{given}:{libraries}" if given else libraries
    return tuple(result.items())
