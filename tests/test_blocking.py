"""The guard of conftest.py works: ours may not block a loop, test code may."""

import time
from pathlib import Path

import pytest
from blockbuster import BlockingError

from protocol.gsi.credential import write_private
from tests.support import core


def of_ours(filename: str) -> object:
    """A function that sleeps, as if it stood in that file."""
    root = Path(__file__).parent.parent
    code = compile("def nap():\n    time.sleep(0)\n", str(root / filename), "exec")
    names: dict[str, object] = {"time": time}
    exec(code, names)  # noqa: S102  # that is how it gets another file name
    return names["nap"]


@pytest.mark.parametrize("package", ["rsl", "protocol", "jobmanager", "gatekeeper", "gram"])
async def test_ours_may_not_block_the_loop(package: str) -> None:
    nap = of_ours(f"{package}/somewhere.py")
    assert callable(nap)
    with pytest.raises(BlockingError):
        nap()


def test_outside_a_loop_everything_may_block() -> None:
    nap = of_ours("protocol/somewhere.py")
    assert callable(nap)
    nap()


async def test_test_code_may_block(tmp_path: Path) -> None:
    time.sleep(0)
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert core.credential().pem()
