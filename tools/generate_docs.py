"""Writes the generated parts of docs/ from the program: `python -m tools.generate_docs [--check]`.

A page says where a part goes:

    <!-- generated: NAME -->
    <!-- end -->

Whatever stands between the two lines is replaced by what `PARTS[NAME]` returns.  A page that is
generated as a whole is in `PAGES`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gatekeeper.config import reference
from gatekeeper.metrics import Metrics
from gram.client.advice import Side, advice_for
from jobmanager import environment, states
from jobmanager.description import JobDescription, describe
from jobmanager.records import JobPaths
from protocol import tables
from protocol.tables import ErrorCode
from rsl import Relation, unparse
from rsl.schema import ROWS, Attribute, Phase
from tools.command_pages import commands

DOCS = Path(__file__).resolve().parents[1] / "docs"

_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)

VARIABLES: Mapping[str, str] = {
    "HOME": "the account's home directory",
    "LOGNAME": "the account",
    "GLOBUS_ID": "your distinguished name",
    "GLOBUS_LOCATION": "always `/usr`",
    "GLOBUS_GATEKEEPER_HOST": "the host name in the service's contact",
    "GLOBUS_GATEKEEPER_PORT": "the gatekeeper's port",
    "GLOBUS_GATEKEEPER_SUBJECT": "the service's distinguished name",
    "GLOBUS_HOST_OSNAME": "as `uname -s` prints it",
    "GLOBUS_HOST_OSVERSION": "as `uname -r` prints it",
    "GLOBUS_HOST_CPUTYPE": "as `uname -m` prints it",
    "GLOBUS_HOST_MANUFACTURER": "`pc` on x86_64, else `unknown`",
    "GLOBUS_GRAM_JOB_CONTACT": "the job contact",
    "GLOBUS_GRAM_JOB_ID": "the two numbers of the job contact, joined by a dot",
    "GLOBUS_CACHED_STDOUT": "where the job directory keeps standard output",
    "GLOBUS_CACHED_STDERR": "where the job directory keeps standard error",
}
"""What the predefined RSL variables stand for; a variable without a text is an error."""

ENVIRONMENT: Mapping[str, str] = {
    "X509_USER_PROXY": "file with the delegated credential",
    "X509_CERT_DIR": "the service's `trusted_certificates`",
    "GLOBUS_GRAM_JOB_CONTACT": "the job contact",
    "GLOBUS_LOCATION": "always `/usr`",
    "GLOBUS_GASS_CACHE_DEFAULT": "the account's GASS cache",
    "HOME": "the account's home directory",
    "LOGNAME": "the account",
    "PATH": "`/bin:/usr/bin`",
    "SCRATCH_DIRECTORY": "the scratch directory; only with `scratch_dir`",
    "LD_LIBRARY_PATH": "`library_path`, after what `environment` sets",
}
"""What a job finds in its environment; a variable without a text is an error."""


# --- configuration, metrics, errors ---------------------------------------------------------------


def configuration() -> str:
    """The annotated configuration file."""
    return f"```toml\n{reference()}```\n"


def metrics() -> str:
    """Every metric of ours with its labels and their values."""
    rows = []
    for family in Metrics(lrms=("fork",)).registry.collect():
        if not family.name.startswith("gram_"):
            continue
        labels: dict[str, dict[str, None]] = {}
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name != "le":
                    labels.setdefault(name, {})[value] = None
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = "; ".join(f"`{label}`: {_values(values)}" for label, values in labels.items())
        rows.append((f"`{name}`", family.type, family.documentation, shown))
    return _table(("metric", "type", "what", "labels"), rows)


def _values(values: Iterable[str]) -> str:
    found = list(values)
    if len(found) > len(ErrorCode):
        return "the name of the [error](errors.md), `other`"
    return ", ".join(f"`{value}`" for value in found)


def errors() -> str:
    """Every error code with its meaning, and what to do where there is something special."""
    rows = []
    for code in ErrorCode:
        advice = {advice_for(code, side) for side in Side}
        rows.append(
            (str(code.value), code.name, code.text, advice.pop() if len(advice) == 1 else "")
        )
    return _table(("code", "name", "meaning", "what to do"), rows)


# --- RSL ------------------------------------------------------------------------------------------


def attributes() -> str:
    """The attributes of a job request."""
    rows = []
    for row in ROWS:
        if Phase.SUBMIT in row.phases:
            default = "required" if row.required else f"`{_default(row)}`" if row.default else ""
            form = f"{row.type_error}{' (job)' if row.late else ''}"
            name, value = f"`{row.spelling}`", str(row.value_error)
            rows.append((name, row.description, _takes(row), default, form, value))
    head = ("attribute", "what", "value", "default", "wrong form", "wrong value")
    return _table(head, rows)


def _takes(row: Attribute) -> str:
    return ", ".join(f"`{word}`" for word in row.allowed) if row.allowed else row.kind.value


def _default(row: Attribute) -> str:
    relation = Relation(row.spelling, "=", row.default or ())
    return unparse(relation).partition(" = ")[2].strip()


def _symbols() -> dict[str, str]:
    site = environment.Site("gram.example.org", 2119, "/CN=gram.example.org")
    common = environment.symbols(site, identity="/CN=you", account="you", home="/home/you")
    return environment.job_symbols(
        common, job="1/2", contact="https://gram.example.org:20000/1/2/", directory="/home/you/job"
    )


def variables() -> str:
    """The RSL variables that the service defines."""
    return _table(("variable", "value"), [(f"`$({name})`", VARIABLES[name]) for name in _symbols()])


def job_environment() -> str:
    """The variables a job finds in its environment."""
    site = environment.Site("gram.example.org", 2119, "/CN=gram.example.org", certificates="/ca")
    description: JobDescription = describe("&(executable=/bin/true)", _symbols())
    paths = JobPaths("/home/you", "/home/you/job", "/home/you/job/proxy", "/cache", "/scratch")
    names = dict(
        environment.environment(site, description, paths, contact="https://…", account="you")
    )
    return _table(("variable", "value"), [(f"`{name}`", ENVIRONMENT[name]) for name in names])


# --- states ---------------------------------------------------------------------------------------


def state_diagram() -> str:
    """The table of transitions as a diagram."""
    return f"```mermaid\n{states.mermaid()}```\n"


def state_table() -> str:
    """The table of transitions as a table."""
    rows = []
    for phase, row in states.TRANSITIONS.items():
        for event, step in row.items():
            shown = "" if step.state is None else step.state.name
            rows.append((f"{phase}", f"{event}", f"{step.phase}", shown))
    return _table(("phase", "event", "next phase", "state shown from then on"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = (head, tuple("---" for _ in head), *rows)
    cells = ([cell.replace("|", "&#124;") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


# --- pages ----------------------------------------------------------------------------------------

PARTS: Mapping[str, Callable[[], str]] = {
    "configuration": configuration,
    "commands": commands,
    "metrics": metrics,
    "errors": errors,
    "attributes": attributes,
    "variables": variables,
    "environment": job_environment,
    "state-diagram": state_diagram,
    "state-table": state_table,
}

PAGES: Mapping[str, Callable[[], str]] = {"reference/protocol-tables.md": tables.markdown}


def filled(text: str) -> str:
    """A page with its parts as they must be.  Raises KeyError for a part that is not known."""
    return _PART.sub(
        lambda match: f"{match['begin']}\n{PARTS[match['name']]()}\n{match['end']}", text
    )


def wanted() -> Iterator[tuple[Path, str]]:
    """Every page of docs/ with the text that it must have."""
    for page in sorted(DOCS.rglob("*.md")):
        whole = PAGES.get(page.relative_to(DOCS).as_posix())
        yield page, whole() if whole else filled(page.read_text(encoding="utf-8"))


def stale() -> dict[Path, str]:
    """The pages that are not what they must be, with the text that they must have."""
    return {page: text for page, text in wanted() if page.read_text(encoding="utf-8") != text}


def main() -> int:
    """Write what is stale; with --check only name it and return 1."""
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if stale")
    check = parser.parse_args().check
    pages = stale()
    for page, text in pages.items():
        print(f"{'stale' if check else 'written'}: {page.relative_to(DOCS.parent)}")
        if not check:
            page.write_text(text, encoding="utf-8")
    return int(check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
