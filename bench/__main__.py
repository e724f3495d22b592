"""`python -m bench`: measure our server and the reference in one run and print a table.

As root, with the Debian peers installed, both servers are measured with the reference's own C
client library on the same machine, one after the other. Options: `--quick` for a short run,
`--only gram|reference`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support import reference
from tests.support.accounts import demoted
from tests.support.site import Site, make_site

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One measurement: `clients` processes, `each` operations one after the other in each."""

    name: str
    kind: str
    clients: int
    each: int
    unit: str


ROWS = (
    Row("pings, 1 client", "ping", 1, 200, "rate"),
    Row("pings, 8 clients", "ping", 8, 100, "rate"),
    Row("jobs accepted, 8 clients", "submit-waiting", 8, 40, "rate"),
    Row("request to DONE callback, 1 client", "job", 1, 30, "latency"),
    Row("jobs to DONE callback, 8 clients", "job", 8, 20, "rate"),
    Row("jobs to DONE callback, 32 clients", "job", 32, 10, "rate"),
    Row("status queries, 8 clients", "status", 8, 100, "rate"),
    Row("memory of a waiting job", "memory", 8, 250, "memory"),
)


@dataclass
class Target:
    """A server under measurement."""

    name: str
    contact: str
    site: Site
    pids: "PidSource"
    slow: bool

    def run(self, kind: str, clients: int, each: int, contact: str | None = None) -> list[dict]:
        """Start the client processes together; returns what each reported."""
        user = self.site.alice
        command = [sys.executable, "-m", "bench.c_client", kind, contact or self.contact, str(each)]
        environment = user.environment() | {"PYTHONPATH": str(REPOSITORY)}
        processes = [
            subprocess.Popen(
                command,
                env=environment,
                cwd=user.directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                **demoted(user.account),  # type: ignore[call-overload]
            )
            for _ in range(clients)
        ]
        for process in processes:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{kind}: a client did not start")
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(b"go\n")
                process.stdin.flush()
        reports = []
        for process in processes:
            output, _ = process.communicate(timeout=900)
            if process.returncode:
                raise RuntimeError(f"{kind}: a client failed against {self.name}")
            reports.append(json.loads(output))
        return reports


class PidSource:
    """The processes whose memory is the server's."""

    def __init__(self, pattern: Path | None = None, pid: int = 0) -> None:
        self._pattern = pattern
        self._pid = pid

    def resident(self) -> int:
        """Private bytes in memory (RSS of the processes), now."""
        pids = [self._pid] if self._pid else []
        if self._pattern is not None:
            pids += [int(path.read_text()) for path in self._pattern.glob("state/*/*/*.pid")]
        return sum(_rss(pid) for pid in pids)


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def gram(site: Site) -> Iterator[Target]:
    """Our service on the site."""
    server = site.configure("bench", gatekeeper='delegation_key_reuse = "1h"').start()
    try:
        yield Target("Gram", server.contact, site, PidSource(pid=server.pid), slow=False)
    finally:
        server.stop()


@contextmanager
def reference_server(site: Site) -> Iterator[Target]:
    """The reference on the site."""
    directory = site.directory / "bench-reference"
    server = reference.start(
        directory,
        certificates=site.certificates,
        host_certificate=site.host_certificate,
        host_key=site.host_key,
        gridmap=site.gridmap,
    )
    try:
        yield Target("reference", server.contact, site, PidSource(directory), slow=True)
    finally:
        server.stop()


def measure(target: Target, row: Row, share: float) -> str:
    """One cell of the table."""
    each = max(3, int(row.each * share * (0.2 if target.slow else 1)))
    if row.kind == "memory":
        target.run("submit-waiting", 1, 20)
        before = target.pids.resident()
        target.run("submit-waiting", row.clients, each)
        grown = (target.pids.resident() - before) / (row.clients * each)
        return f"{grown / 1024:.1f} KiB"
    contact = None
    if row.kind == "status":
        contact = target.run("submit-waiting", 1, 1)[0]["contacts"][0]
    reports = target.run(row.kind, row.clients, each, contact)
    if row.unit == "latency":
        seconds = [value for report in reports for value in report["seconds"]]
        ordered = sorted(seconds)
        p95 = ordered[int(len(ordered) * 0.95)]
        return f"{statistics.median(seconds) * 1e3:.0f} ms (p95 {p95 * 1e3:.0f})"
    span = max(r["ended"] for r in reports) - min(r["started"] for r in reports)
    return f"{row.clients * each / span:.1f}/s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the operations")
    parser.add_argument("--only", choices=("gram", "reference"))
    parser.add_argument("--rows", help="only rows whose name contains this")
    options = parser.parse_args()
    servers = {"gram": gram, "reference": reference_server}
    if not reference.installed():
        sys.stderr.write("the reference is not installed (root, make peers): measuring Gram only\n")
        del servers["reference"]
    if options.only:
        servers = {options.only: servers[options.only]}
    rows = [row for row in ROWS if not options.rows or options.rows in row.name]
    columns: dict[str, list[str]] = {}
    with make_site() as site:
        for name, make in servers.items():
            with make(site) as target:
                columns[target.name] = []
                for row in rows:
                    cell = measure(target, row, 0.1 if options.quick else 1.0)
                    sys.stderr.write(f"{name}: {row.name}: {cell}\n")
                    columns[target.name].append(cell)
    table = Table("measurement", *columns, title=_machine())
    for index, row in enumerate(rows):
        table.add_row(row.name, *(cells[index] for cells in columns.values()))
    Console(width=100).print(table)


def _machine() -> str:
    cpus = len(os.sched_getaffinity(0))
    return f"{time.strftime('%Y-%m-%d')}, {cpus} cores, clients on the same machine"


if __name__ == "__main__":
    main()
